//! What a store had, found damaged and dropped, for who brings it again.

use std::sync::Arc;

use larder_proto::object::{Chunk, ChunkIndex, Object};

use super::index::Bits;

/// Chunks of one object that were here until one of them was found damaged: that one, or the whole object if the kernel
/// had its file. Gives them away one after the other.
#[derive(Clone, Debug)]
pub struct Damaged {
    pub(super) object: Arc<Object>,
    pub(super) chunks: Bits,
}

impl Iterator for Damaged {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        let index = self.chunks.first_from(0)?;
        self.chunks.clear(index);
        self.object.chunk(ChunkIndex(index))
    }
}
