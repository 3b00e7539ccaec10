//! Taking one chunk in: room first, then its pieces in any order, then its checksums.
//!
//! What is being written is held by [`Pending`], which every write on a disk thread shares: a caller that goes away
//! leaves the chunk in place until the last of its writes has ended, and only then is the room free again. A write that
//! has not begun when its caller goes away never begins, and holds neither bytes nor room: a disk that hangs keeps no
//! more memory than its two writing threads have in hand.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use larder_proto::limits::{BLOCK_BYTES, SEGMENT_BYTES};
use larder_proto::object::Chunk;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::StoreError;
use super::committer::Put;
use super::directory::Directory;
use super::pace::Kind;
use crate::runtime::disk::{AlignedBuf, File, Open, PAGE_BYTES};

/// Past this a piece isn't taken in, if the disk isn't found slow before. A fill that nobody can store is served all the
/// same.
const WRITE_DEADLINE_MS: u64 = 10_000;

/// The committer syncs up to ten thousand files at once.
const COMMIT_DEADLINE_MS: u64 = 30_000;

/// Room for one chunk, and the only right to write it. Dropped without [`commit`](Self::commit), the room is free
/// again and nothing of the chunk is here.
#[must_use = "a reservation holds room until it is committed or dropped"]
pub struct Reservation {
    pending: Arc<Pending>,
}

/// A chunk that is being written.
pub(super) struct Pending {
    directory: Arc<Directory>,
    pub chunk: Chunk,
    /// Which blocks the disk has.
    written: Mutex<Vec<bool>>,
    /// Bytes that the disk was given, in whole pages.
    written_bytes: AtomicU64,
    settled: AtomicBool,
}

impl Reservation {
    /// `directory`'s index has granted the room.
    pub(super) fn new(directory: Arc<Directory>, chunk: Chunk) -> Self {
        let blocks = (chunk.len().div_ceil(BLOCK_BYTES)) as usize;
        let written = Mutex::new(vec![false; blocks]);
        let (written_bytes, settled) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { pending: Arc::new(Pending { directory, chunk, written, written_bytes, settled }) }
    }

    /// The chunk.
    pub fn chunk(&self) -> &Chunk {
        &self.pending.chunk
    }

    /// Writes a piece at `offset` bytes from the chunk's start, a multiple of 64 KiB; its length is one too, unless it
    /// ends with the chunk. Pieces come in any order and may be written at the same time. Bytes in page-aligned memory
    /// ([`AlignedBuf`]) go to the disk as they are, others are copied. Fails at once when the disk is found slow. Once
    /// the disk has begun with `bytes` they are held until it has them, even if the caller stops waiting.
    pub async fn write(&self, offset: u64, bytes: Bytes) -> Result<(), StoreError> {
        self.pending.check(offset, bytes.len() as u64)?;
        let directory = &self.pending.directory;
        let mut hangs = std::pin::pin!(directory.begins_to_hang());
        hangs.as_mut().enable();
        if directory.is_slow() {
            return Err(StoreError::Slow);
        }
        let piece = Waiting::new(Piece { pending: self.pending.clone(), offset, bytes });
        let taken = piece.0.clone();
        let write = directory.writes.run(WRITE_DEADLINE_MS, move || {
            let piece = taken.lock().take();
            // Nobody waits for a piece that was taken back.
            piece.map_or(Ok(()), |piece| piece.pending.write_now(piece.offset, &piece.bytes))
        });
        let result = tokio::select! { biased;
            result = write => result,
            () = hangs => Err(StoreError::Slow),
        };
        if let Err(StoreError::Deadline { .. }) = &result {
            directory.counters.deadlines.one();
        }
        result?
    }

    /// Says that all bytes were written, with one checksum per block. The chunk is here when this returns, and durable
    /// some seconds later. Fails when pieces are missing, or the checksums are not one per block.
    pub async fn commit(self, crcs: Vec<u32>) -> Result<(), StoreError> {
        let pending = self.pending;
        pending.directory.check_writable()?;
        if pending.written.lock().iter().any(|written| !written) || crcs.len() != pending.written.lock().len() {
            return Err(StoreError::Incomplete);
        }
        let directory = pending.directory.clone();
        let cut = pending.clone();
        directory.writes.run(WRITE_DEADLINE_MS, move || cut.cut_now()).await??;
        let (done, answer) = oneshot::channel();
        let put = Put { pending, crcs, done };
        let commit = async {
            directory.puts.send(put).await.map_err(|_| StoreError::Closed)?;
            answer.await.map_err(|_| StoreError::Closed)?
        };
        match tokio::time::timeout(Duration::from_millis(COMMIT_DEADLINE_MS), commit).await {
            Ok(result) => result,
            Err(_) => {
                directory.counters.deadlines.one();
                Err(StoreError::Deadline { deadline_ms: COMMIT_DEADLINE_MS })
            }
        }
    }
}

/// Bytes on their way to the disk.
struct Piece {
    pending: Arc<Pending>,
    offset: u64,
    bytes: Bytes,
}

/// A piece until the disk begins with it; taken back on drop.
struct Waiting(Arc<Mutex<Option<Piece>>>);

impl Waiting {
    fn new(piece: Piece) -> Self {
        Self(Arc::new(Mutex::new(Some(piece))))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let taken_back = self.0.lock().take();
        drop(taken_back);
    }
}

impl Pending {
    fn check(&self, offset: u64, len: u64) -> Result<(), StoreError> {
        let block = u64::from(BLOCK_BYTES);
        let chunk = u64::from(self.chunk.len());
        let inside = len > 0 && offset.checked_add(len).is_some_and(|end| end <= chunk);
        let aligned = offset.is_multiple_of(block) && (len.is_multiple_of(block) || offset + len == chunk);
        if inside && aligned { Ok(()) } else { Err(StoreError::Misaligned { offset, len }) }
    }

    fn write_now(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.directory.check_writable()?;
        let call = self.directory.begin_call(Kind::Bytes);
        let result = self.write_pages(self.chunk.range().start() + offset, bytes);
        self.directory.end_call(call, None);
        if let Err(error) = result {
            if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                self.directory.found_full();
            }
            return Err(error.into());
        }
        let block = BLOCK_BYTES as usize;
        let first = usize::try_from(offset).expect("inside the chunk") / block;
        self.written.lock()[first..first + bytes.len().div_ceil(block)].fill(true);
        Ok(())
    }

    /// Whole pages as they are, the rest of the last one padded with zeros: the file is cut when the chunk is committed.
    fn write_pages(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.directory.files.get(self.chunk.object().id(), Open::Create)?;
        let (pages, rest) = bytes.split_at(bytes.len() / PAGE_BYTES * PAGE_BYTES);
        let whole_bytes = bytes.len().next_multiple_of(PAGE_BYTES) as u64;
        for written in [&self.written_bytes, &self.directory.written_bytes] {
            written.fetch_add(whole_bytes, Ordering::Relaxed);
        }
        if (pages.as_ptr() as usize).is_multiple_of(PAGE_BYTES) {
            file.write_at(pages, at)?;
        } else {
            self.directory.counters.copied_pieces.one();
            copy_pages(file.as_ref(), at, pages)?;
        }
        if !rest.is_empty() {
            let mut last = AlignedBuf::unpooled(PAGE_BYTES);
            last.put(rest);
            file.write_at(last.whole_mut(), at + pages.len() as u64)?;
        }
        Ok(())
    }

    /// After the object's last chunk the file ends where the object ends.
    fn cut_now(&self) -> Result<(), StoreError> {
        let size = self.chunk.object().size();
        if self.chunk.range().end() == size && !size.is_multiple_of(PAGE_BYTES as u64) {
            let cut = || self.directory.files.get(self.chunk.object().id(), Open::Write)?.set_len(size);
            self.directory.syncing(cut)?;
        }
        Ok(())
    }

    /// The committer has made the chunk visible.
    pub fn settle(&self) {
        let (now_s, wall_s) = (self.directory.now_s(), self.directory.wall_s());
        self.directory.index.lock().commit(self.chunk.id(), now_s, wall_s);
        self.settled.store(true, Ordering::Release);
        self.directory.counters.fills.one();
        self.directory.counters.fill_bytes.add(u64::from(self.chunk.len()));
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.settled.load(Ordering::Acquire) {
            let written_bytes = self.written_bytes.load(Ordering::Relaxed);
            self.directory.index.lock().abort(self.chunk.id(), written_bytes);
            self.directory.counters.aborted.one();
            self.directory.wake.notify_one();
        }
    }
}

/// Through memory that O_DIRECT takes, a segment at a time: at most one segment per writing thread.
fn copy_pages(file: &dyn File, at: u64, pages: &[u8]) -> io::Result<()> {
    let mut aligned = AlignedBuf::unpooled(pages.len().min(SEGMENT_BYTES as usize));
    let mut done = 0;
    while done < pages.len() {
        aligned.set_len(0);
        let count = aligned.put(&pages[done..]);
        file.write_at(&aligned, at + done as u64)?;
        done += count;
    }
    Ok(())
}
