//! Reading an open file: the version that was opened, exactly the bytes that lie before its end.
//!
//! A read may span chunks; they are brought at the same time. Bytes that are in memory are answered on the caller's
//! thread, as they are. A version that is gone is ESTALE here and is looked up anew by the next open.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::future::try_join_all;
use larder_proto::error::ErrorKind;
use larder_proto::object::Chunk;
use larder_proto::range::ByteRange;
use larder_proto::wire::RequestId;

use super::handles::FileHandle;
use super::inodes::{File, Node};
use super::{Fh, Fs, FsError};

/// Bytes of one read, in order; empty at the end of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts(Vec<Bytes>);

impl Parts {
    /// The bytes in one piece; copied only when they come from several chunks.
    pub fn into_bytes(self) -> Bytes {
        let mut parts = self.0;
        match parts.len() {
            0 => Bytes::new(),
            1 => parts.swap_remove(0),
            _ => parts.concat().into(),
        }
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Whether this is the end of the file.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Fs {
    /// Up to `len` bytes at `offset` if they are in memory. Also sees how the file is read, and begins what comes next:
    /// call it once for each read, before [`read`](Self::read).
    pub fn read_now(&self, request: RequestId, fh: Fh, offset: u64, len: u32) -> Result<Option<Parts>, FsError> {
        let handle = self.handles.file(fh).ok_or(FsError::BadHandle)?;
        let file = file_of(&handle)?;
        let range = ByteRange::at(offset, u64::from(len)).clamp(file.object().size());
        if range.is_empty() {
            return Ok(Some(Parts::default()));
        }
        let chunks = self.below.chunks.as_ref();
        if file.object().chunks() > 1 {
            handle.ahead.lock().read(request, file.object(), range.start(), range.len(), chunks);
        } else if range.start() == 0 {
            self.swept_by(request, file);
        }
        let read: Option<Vec<Bytes>> =
            pieces(file, range).map(|(chunk, range)| chunks.read_now(&chunk, range)).collect();
        Ok(read.map(|parts| self.counted(Parts(parts))))
    }

    /// Up to `len` bytes at `offset`, fewer only at the end of the file.
    pub async fn read(&self, request: RequestId, fh: Fh, offset: u64, len: u32) -> Result<Parts, FsError> {
        let handle = self.handles.file(fh).ok_or(FsError::BadHandle)?;
        let file = file_of(&handle)?;
        let range = ByteRange::at(offset, u64::from(len)).clamp(file.object().size());
        let deadline = self.runtime.clock.now() + self.volume.load().read_deadline;
        let (chunks, pattern) = (&self.below.chunks, handle.ahead.lock().pattern());
        let pieces = pieces(file, range)
            .map(|(chunk, range)| async move { chunks.read(request, &chunk, range, pattern, deadline).await });
        let read = self.until(deadline, try_join_all(pieces)).await;
        if let Err(FsError::Failed(ErrorKind::Changed | ErrorKind::NotFound)) = read {
            self.version_is_gone(file);
        }
        read.map(|parts| self.counted(Parts(parts)))
    }

    fn counted(&self, parts: Parts) -> Parts {
        self.read_bytes.fetch_add(parts.len() as u64, Ordering::Relaxed);
        parts
    }

    /// The next open of this name must not be given the old version again.
    fn version_is_gone(&self, file: &File) {
        file.set_gone();
        let (dir, name) = file.object().key().split();
        self.known.distrust(&dir, &name, self.runtime.clock.now());
    }
}

fn file_of(handle: &FileHandle) -> Result<&File, FsError> {
    match handle.inode.node() {
        Node::File(file) => Ok(file),
        Node::Dir(_) => Err(FsError::IsADirectory),
    }
}

/// The chunks that hold `range` (within the file), each with its part, counted from the chunk's start.
fn pieces(file: &File, range: ByteRange) -> impl Iterator<Item = (Chunk, ByteRange)> + '_ {
    let mut at = range.start();
    std::iter::from_fn(move || {
        if at >= range.end() {
            return None;
        }
        let chunk = file.object().chunk_at(at)?;
        let whole = chunk.range();
        let end = range.end().min(whole.end());
        let part = ByteRange::at(at - whole.start(), end - at);
        at = end;
        Some((chunk, part))
    })
}
