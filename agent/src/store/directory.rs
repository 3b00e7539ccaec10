//! One store: its folder, its index in memory and on disk, its open files, its threads.
//!
//! Reads have four threads of their own, writes two, the index one: a disk that hangs fills only these. Who finds
//! them taken waits in line, to a deadline. The store is `Open` until a failed sync or a failed index fences it
//! (reads go on, checked; nothing is written any more) or it is closed.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use larder_proto::checksum::Checksummed;
use larder_proto::ids::{ObjectId, StoreId};
use larder_proto::limits::BLOCK_BYTES;
use larder_proto::object::{Chunk, ChunkId, ChunkIndex};
use larder_proto::range::ByteRange;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use super::catalog::{Catalog, Change, Promise, Row};
use super::committer::Put;
use super::files::Files;
use super::index::Index;
use super::label::Claimed;
use super::status::{Counters, Health, StoreDebug, StoreStatus};
use super::{NotPassed, OpenError, Passed, StoreConfig, StoreError, Watermarks};
use crate::runtime::disk::{AlignedBuf, Disk, Open, PAGE_BYTES};
use crate::runtime::tasks::{Pool, PoolError};
use crate::runtime::{Clock, Runtime};

/// Past this a read goes to another copy. Above what a busy but sane disk takes; the origin would answer sooner.
const READ_DEADLINE_MS: u64 = 5_000;

/// Opening a file for the kernel may take so long, then the door reads through the agent.
const PASS_DEADLINE_MS: u64 = 250;

/// Calls in line for the reading threads, at most.
const READS_WAITING_MAX: usize = 256;

/// Pieces in line for the writing threads, at most; their memory is in the buffer pool's bound.
const WRITES_WAITING_MAX: usize = 64;

/// Finished chunks in line for the committer, at most; who finds it full waits.
const PUTS_WAITING_MAX: usize = 1024;

/// What stays free on the disk, so that the index can always be written: 64 MiB, or a 32nd of a small disk.
const SPARE_BYTES_MAX: u64 = 64 << 20;

const OPEN: u8 = 0;
const FENCED: u8 = 1;
const CLOSED: u8 = 2;

pub(super) struct Directory {
    pub name: String,
    pub id: StoreId,
    pub capacity_bytes: u64,
    pub index: Mutex<Index>,
    pub catalog: Catalog,
    pub files: Files,
    pub counters: Counters,
    pub reads: Lane,
    pub writes: Lane,
    pub index_pool: Pool,
    pub puts: mpsc::Sender<Put>,
    /// Something for the committer to do.
    pub wake: Notify,
    /// The committer has settled something: room may be free.
    pub settled: Notify,
    /// Who wants to hear that the store is closed.
    pub closing: Mutex<Option<oneshot::Sender<()>>>,
    state: AtomicU8,
    /// The disk has less than its spare bytes free: nothing is taken in until it has.
    low_space: AtomicBool,
    opened_clean: bool,
    pub clock: Arc<dyn Clock>,
    disk: Arc<dyn Disk>,
    root: PathBuf,
}

/// Shares of what all stores of a node use together.
#[derive(Clone, Copy)]
pub(super) struct Share {
    pub index_cache_bytes: usize,
    pub open_files_max: usize,
}

impl Directory {
    /// Opens a claimed folder: loads the index, unlinks files it doesn't know, drops rows without a file. Blocks.
    pub fn open(
        runtime: &Runtime,
        config: &StoreConfig,
        claimed: Claimed,
        id: StoreId,
        watermarks: Watermarks,
        share: Share,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Put>), OpenError> {
        let failed = |source: io::Error| OpenError::Io { name: config.name.clone(), path: config.path.clone(), source };
        let disk = runtime.disk.clone();
        let counters = Counters::default();
        let mut index = Index::new(config.capacity_bytes, watermarks);
        let mut receive = |row: Option<Row>| match row {
            Some(Row::Object(row)) => index.load_object(row),
            Some(Row::Chunk { id, blocks }) => index.load_chunk(id, blocks),
            None => {
                index = Index::new(config.capacity_bytes, watermarks);
                true
            }
        };
        let (cache_bytes, now_ms) = (share.index_cache_bytes, runtime.clock.wall_ms());
        let opened = Catalog::open(disk.as_ref(), &config.path, claimed.lock, cache_bytes, now_ms, &mut receive)
            .map_err(|error| failed(error.into_io()))?;
        if opened.set_aside {
            counters.indexes_set_aside.one();
            tracing::warn!(store = config.name, "the index was damaged: set aside into lost/, the store begins empty");
        }
        let files = Files::new(disk, &config.path, share.open_files_max);
        let mut orphans = 0;
        files
            .sweep(|object| {
                let known = index.found_file(object);
                orphans += u64::from(!known);
                known
            })
            .map_err(failed)?;
        counters.orphans.add(orphans);
        files.sweep_passed(|object| index.was_passed(object)).map_err(failed)?;
        let (dropped, missing) = index.drop_unseen();
        counters.missing_files.add(missing);
        let dropped: Vec<Change> = dropped.into_iter().map(Change::RemoveObject).collect();
        opened.catalog.apply(&dropped, Promise::Visible).map_err(|error| failed(error.into_io()))?;
        let (puts, waiting) = mpsc::channel(PUTS_WAITING_MAX);
        let tasks = &runtime.tasks;
        let pool = |kind: &str, threads, waiting| tasks.pool(&format!("{kind}-{}", config.name), threads, waiting);
        let directory = Self {
            name: config.name.clone(),
            id,
            capacity_bytes: config.capacity_bytes,
            index: Mutex::new(index),
            catalog: opened.catalog,
            files,
            counters,
            reads: Lane::new(pool("read", 4, READS_WAITING_MAX), READS_WAITING_MAX),
            writes: Lane::new(pool("write", 2, WRITES_WAITING_MAX), WRITES_WAITING_MAX),
            index_pool: pool("index", 1, 4),
            puts,
            wake: Notify::new(),
            settled: Notify::new(),
            closing: Mutex::new(None),
            state: AtomicU8::new(OPEN),
            low_space: AtomicBool::new(false),
            opened_clean: opened.clean,
            clock: runtime.clock.clone(),
            disk: runtime.disk.clone(),
            root: config.path.clone(),
        };
        Ok((Arc::new(directory), waiting))
    }

    /// Whether chunks can be taken in.
    pub fn takes_writes(&self) -> bool {
        self.state.load(Ordering::Acquire) == OPEN
    }

    /// Why not, as an error.
    pub fn check_writable(&self) -> Result<(), StoreError> {
        match self.state.load(Ordering::Acquire) {
            OPEN => Ok(()),
            FENCED => Err(StoreError::Fenced),
            _ => Err(StoreError::Closed),
        }
    }

    /// No write reaches the disk any more: what a failed sync left behind is unknown.
    pub fn fence(&self, why: &dyn std::fmt::Display) {
        self.catalog.fence();
        if self.state.swap(FENCED, Ordering::AcqRel) != FENCED {
            self.counters.fences.one();
            tracing::error!(store = self.name, %why, "the disk failed: the store takes nothing in until it is replaced");
        }
    }

    /// Whether the disk itself has no room, whatever the capacity says.
    pub fn is_low_on_space(&self) -> bool {
        self.low_space.load(Ordering::Acquire)
    }

    /// A write found the disk full: clean bytes leave, and fills go past the store until there is room.
    pub fn found_full(&self) {
        self.counters.disk_full.one();
        self.check_space();
        self.wake.notify_one();
    }

    /// Compares the disk's free bytes with the spare ones. Blocks.
    pub fn check_space(&self) {
        // A disk that can't be asked will say so at the next write.
        let Ok(space) = self.disk.space(&self.root) else { return };
        let spare = SPARE_BYTES_MAX.min(space.total_bytes / 32);
        let lacking = spare.saturating_sub(space.free_bytes);
        if lacking > 0 {
            self.index.lock().squeeze(lacking);
        }
        if self.low_space.swap(lacking > 0, Ordering::AcqRel) != (lacking > 0) {
            let free_bytes = space.free_bytes;
            tracing::warn!(
                store = self.name,
                free_bytes,
                spare,
                low = lacking > 0,
                "the disk's free space changed sides"
            );
        }
    }

    /// Takes nothing in any more; a fenced store stays fenced.
    pub fn stop_writes(&self) {
        let _was_fenced = self.state.compare_exchange(OPEN, CLOSED, Ordering::AcqRel, Ordering::Acquire);
    }

    pub fn is_fenced(&self) -> bool {
        self.state.load(Ordering::Acquire) == FENCED
    }

    /// See [`Stores::read`](super::Stores::read); `buffer` holds at least the range.
    pub async fn read(
        self: &Arc<Self>,
        chunk: &Chunk,
        range: ByteRange,
        buffer: AlignedBuf,
    ) -> Result<Option<Checksummed>, StoreError> {
        let (directory, chunk) = (self.clone(), chunk.clone());
        let result = self.reads.run(READ_DEADLINE_MS, move || directory.read_now(&chunk, range, buffer)).await;
        match &result {
            Ok(Ok(Some(bytes))) => {
                self.counters.reads.one();
                self.counters.read_bytes.add(bytes.len() as u64);
            }
            Err(StoreError::Deadline { .. }) => self.counters.deadlines.one(),
            Ok(_) | Err(_) => {}
        }
        result?
    }

    fn read_now(
        &self,
        chunk: &Chunk,
        range: ByteRange,
        mut buffer: AlignedBuf,
    ) -> Result<Option<Checksummed>, StoreError> {
        let id = chunk.id();
        let len = usize::try_from(range.len()).expect("a chunk is at most 64 MiB");
        let first = range.start() / u64::from(BLOCK_BYTES);
        let blocks = len.div_ceil(BLOCK_BYTES as usize);
        let within = usize::try_from(first).expect("a chunk has at most 1,024 blocks");
        let crcs = self.catalog.crcs(id, within, blocks).map_err(|error| self.unreadable(id, error.into_io()))?;
        let Some(crcs) = crcs else { return Ok(None) };
        let file = match self.files.get(id.object, Open::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.gone(id, error),
            other => other?,
        };
        let direct = &mut buffer.whole_mut()[..len.next_multiple_of(PAGE_BYTES)];
        let count = match file.read_at(direct, chunk.range().start() + range.start()) {
            Err(error) => return self.gone(id, error),
            Ok(count) => count,
        };
        if count < len {
            return self.gone(id, io::ErrorKind::UnexpectedEof.into());
        }
        buffer.set_len(len);
        if !self.index.lock().has(&id) {
            return Ok(None);
        }
        Ok(Checksummed::new(id.object, chunk.first_block() + first, buffer.freeze(), crcs))
    }

    /// See [`Stores::pass`](super::Stores::pass).
    pub async fn pass(self: &Arc<Self>, object: ObjectId) -> Result<Passed, NotPassed> {
        let directory = self.clone();
        let opened = self.reads.run(PASS_DEADLINE_MS, move || directory.pass_now(object)).await;
        match opened {
            Ok(passed) => passed,
            Err(error) => Err(NotPassed::Disk(error)),
        }
    }

    fn pass_now(&self, object: ObjectId) -> Result<Passed, NotPassed> {
        let (passed, unmarked) = self.index.lock().pass(&object);
        if !passed {
            let complete = self.index.lock().complete(&object);
            return Err(if complete { NotPassed::Unverified } else { NotPassed::NotHere });
        }
        if unmarked {
            self.files.mark_passed(object)?;
            self.index.lock().marked(&object);
        }
        let file = self.files.open_for_kernel(object)?;
        if file.len()? < self.index.lock().size(&object).ok_or(NotPassed::NotHere)? {
            // Somebody cut it behind our back; mapped, its end would be SIGBUS.
            self.drop_corrupt(&ChunkId { object, index: ChunkIndex(0) });
            return Err(NotPassed::NotHere);
        }
        self.counters.passed.one();
        Ok(Passed { file })
    }

    /// The chunk can't be read: an error if it should have been here, nothing if it was evicted meanwhile.
    fn gone<T>(&self, id: ChunkId, error: io::Error) -> Result<Option<T>, StoreError> {
        if self.index.lock().has(&id) { Err(self.unreadable(id, error)) } else { Ok(None) }
    }

    fn unreadable(&self, id: ChunkId, error: io::Error) -> StoreError {
        if self.index.lock().doom(id) > 0 {
            self.counters.unreadable.one();
            tracing::warn!(store = self.name, object = %id.object, chunk = id.index.0, %error, "a chunk was unreadable: dropped");
            self.wake.notify_one();
        }
        error.into()
    }

    /// See [`Stores::drop_chunk`](super::Stores::drop_chunk).
    pub fn drop_corrupt(&self, id: &ChunkId) {
        if self.index.lock().doom(*id) > 0 {
            self.counters.corrupt.one();
            tracing::warn!(store = self.name, object = %id.object, chunk = id.index.0, "a chunk failed its check: dropped");
            self.wake.notify_one();
        }
    }

    pub fn status(&self) -> StoreStatus {
        let index = self.index.lock();
        StoreStatus {
            name: self.name.clone(),
            id: self.id,
            capacity_bytes: self.capacity_bytes,
            used_bytes: index.taken_bytes(),
            objects: index.objects(),
            chunks: index.chunks(),
            health: if self.is_fenced() { Health::Failing } else { Health::Healthy },
        }
    }

    pub fn debug(&self) -> StoreDebug {
        StoreDebug {
            status: self.status(),
            leaving_bytes: self.index.lock().leaving_bytes(),
            open_files: self.files.open_count() as u64,
            opened_clean: self.opened_clean,
            counters: self.counters.snapshot(),
        }
    }
}

/// A pool with a line before it: who finds all threads taken waits in order.
pub(super) struct Lane {
    pool: Pool,
    turns: Arc<Semaphore>,
}

impl Lane {
    fn new(pool: Pool, waiting_max: usize) -> Self {
        Self { pool, turns: Arc::new(Semaphore::new(waiting_max)) }
    }

    /// Runs a blocking call. Past the deadline the caller goes on; the call, once begun, runs to its end.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline_ms: u64,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = self.turns.clone();
        let work = async move {
            let turn = turn.acquire_owned().await.expect("the line is never closed");
            let call = move || {
                let result = call();
                drop(turn);
                result
            };
            self.pool.run(call).await
        };
        match tokio::time::timeout(Duration::from_millis(deadline_ms), work).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(PoolError::Full { .. })) => Err(StoreError::Busy),
            Ok(Err(error @ PoolError::Panicked)) => Err(StoreError::Io(io::Error::other(error))),
            Err(_) => Err(StoreError::Deadline { deadline_ms }),
        }
    }
}
