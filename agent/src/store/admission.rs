//! What is taken in at all, as each volume says: size, patterns, and how often a chunk was read before.
//!
//! Reads are counted where they cost something: each time the origin had to give the chunk and nobody kept it. The
//! counts are bounded; what was read longest ago is forgotten first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arc_swap::ArcSwap;
use larder_proto::ids::VolumeId;
use larder_proto::object::{Chunk, ChunkId};
use larder_proto::volume::Volume;
use parking_lot::Mutex;

use crate::runtime::HashMap;

/// Chunks whose reads are remembered: 512 GiB of 4 MiB chunks in about 8 MiB.
const REMEMBERED_MAX: usize = 128 << 10;

/// The volumes of this cluster, as the operator last said.
pub type Volumes = Arc<BTreeMap<VolumeId, Arc<Volume>>>;

/// Where the bytes of a chunk come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Giver {
    /// The origin: somebody read what nobody had kept.
    Origin,
    /// A node that keeps it.
    Node,
}

#[derive(Default)]
pub(super) struct Admission {
    volumes: ArcSwap<BTreeMap<VolumeId, Arc<Volume>>>,
    reads: Mutex<Reads>,
}

#[derive(Default)]
struct Reads {
    /// How often each was read, and which entry of `order` counts.
    counts: HashMap<ChunkId, (u32, u64)>,
    /// In the order of their first reads; of a chunk that was admitted and came again, the last entry counts.
    order: VecDeque<(ChunkId, u64)>,
    begun: u64,
}

impl Admission {
    pub fn set(&self, volumes: Volumes) {
        self.volumes.store(volumes);
    }

    pub fn volumes(&self) -> Volumes {
        self.volumes.load_full()
    }

    /// Whether the chunk may be stored. A volume that isn't known says nothing against it.
    pub fn admits(&self, chunk: &Chunk, giver: Giver) -> bool {
        let volumes = self.volumes.load();
        let Some(volume) = volumes.get(&chunk.object().volume()) else { return true };
        let keeping = &volume.keeping;
        if !keeping.admits(chunk.object().key(), chunk.object().size()) {
            return false;
        }
        giver == Giver::Node || keeping.after_reads == 0 || self.reads.lock().read(chunk.id(), keeping.after_reads)
    }

    /// Whether the object stays whatever room is wanted.
    pub fn pins(&self, chunk: &Chunk) -> bool {
        let volumes = self.volumes.load();
        volumes.get(&chunk.object().volume()).is_some_and(|volume| volume.keeping.pins(chunk.object().key()))
    }
}

impl Reads {
    /// One more read; true when there were more than `after`.
    fn read(&mut self, id: ChunkId, after: u32) -> bool {
        let (count, _) = self.counts.entry(id).or_insert_with(|| {
            self.begun += 1;
            self.order.push_back((id, self.begun));
            (0, self.begun)
        });
        *count += 1;
        let enough = *count > after;
        if enough {
            self.counts.remove(&id);
        }
        if self.order.len() > REMEMBERED_MAX
            && let Some((oldest, begun)) = self.order.pop_front()
            && self.counts.get(&oldest).is_some_and(|(_, counts)| *counts == begun)
        {
            self.counts.remove(&oldest);
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use larder_proto::ids::ObjectId;
    use larder_proto::object::ChunkIndex;

    use super::*;

    #[test]
    fn what_was_admitted_and_comes_again_is_counted_anew_however_much_is_read_in_between() {
        let mut reads = Reads::default();
        let object = ObjectId::from_bytes([0; 16]);
        let id = |index: usize| ChunkId { object, index: ChunkIndex(u32::try_from(index).expect("few")) };
        assert!(!reads.read(id(0), 1) && reads.read(id(0), 1), "the second read is one more than one");
        assert!((1..REMEMBERED_MAX).all(|number| !reads.read(id(number), 1)));
        assert!(!reads.read(id(0), 1), "it was evicted, and is new");
        assert_eq!(reads.order.len(), REMEMBERED_MAX);
        assert!(reads.read(id(0), 1), "its first entry is forgotten, not its count");
    }
}
