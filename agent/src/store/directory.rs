//! One store: its folder, its index in memory and on disk, its open files, its threads.
//!
//! Reads have four threads of their own, writes two, the index one: a disk that hangs fills only these. Who finds
//! them taken waits in line, to a deadline. The store is `Open` until a failed sync or a failed index fences it
//! (reads go on, checked; nothing is written any more) or it is closed.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use larder_proto::checksum::Checksummed;
use larder_proto::ids::{ObjectId, Slot, StoreId};
use larder_proto::limits::{BLOCK_BYTES, CHUNKS_PER_RUN};
use larder_proto::object::{Chunk, ChunkId, ChunkIndex, Object};
use larder_proto::range::ByteRange;
use parking_lot::Mutex;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::catalog::{Catalog, CatalogOpenError, Change, ObjectRow, Opened, Promise, Row};
use super::committer::Put;
use super::damaged::Damaged;
use super::files::Files;
use super::index::{Bits, Found, Index, Loaded, Pass};
use super::label::Claimed;
use super::linger::{Linger, Moment, Rebase};
use super::pace::{Call, Kind, Pace};
use super::status::{Counters, Health, StoreDebug, StoreStatus};
use super::{NotPassed, OpenError, Passed, StoreConfig, StoreError, Watermarks};
use crate::runtime::disk::{AlignedBuf, BufferPool, Disk, FileSystem, Open, PAGE_BYTES};
use crate::runtime::tasks::{Pool, PoolError};
use crate::runtime::{Clock, Runtime};

/// Past this a read goes to another copy. Above what a busy but sane disk takes; the origin would answer sooner.
const READ_DEADLINE_MS: u64 = 2_000;

/// Opening a file for the kernel may take so long, then the door reads through the agent.
const PASS_DEADLINE_MS: u64 = 250;

/// Reads that hold memory for this disk, at most: those on its threads and the next ones. Others wait without.
const READS_WAITING_MAX: usize = 8;

/// Pieces in line for the writing threads, at most; their memory is in the buffer pool's bound.
const WRITES_WAITING_MAX: usize = 16;

/// Finished chunks in line for the committer, at most; who finds it full waits.
const PUTS_WAITING_MAX: usize = 1024;

/// What stays free on the disk, so that the index can always be written: 64 MiB, or a 32nd of a small disk.
const SPARE_BYTES_MAX: u64 = 64 << 20;

/// Names that can still be made stay so many.
const SPARE_FILES: u64 = 8;

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
    /// What was dropped because it was damaged.
    damaged: mpsc::Sender<Damaged>,
    /// Something for the committer to do.
    pub wake: Notify,
    /// The committer has settled something: room may be free.
    pub settled: Notify,
    /// Who wants to hear that the store is closed.
    pub closing: Mutex<Option<oneshot::Sender<()>>>,
    state: AtomicU8,
    /// The disk has less than its spare bytes free: nothing is taken in until it has.
    low_space: AtomicBool,
    pub opened_clean: bool,
    /// How long opening took.
    opening: Duration,
    pace: Mutex<Pace>,
    slow: AtomicBool,
    /// Rung when a call begins: its pace is to be judged.
    pub called: Notify,
    hangs: AtomicBool,
    /// Rung when the disk is found to hang.
    found_hanging: Notify,
    /// Something for the keeper to do.
    pub chores: Notify,
    /// Files that the kernel reads by itself now.
    pub lent: Arc<AtomicU64>,
    pub linger: Mutex<Linger>,
    /// Bytes that were written to and freed from object files, for what lingers.
    pub written_bytes: AtomicU64,
    pub freed_bytes: AtomicU64,
    began: Instant,
    pub clock: Arc<dyn Clock>,
    pub disk: Arc<dyn Disk>,
    pub file_system: Arc<dyn FileSystem>,
    pub root: PathBuf,
}

/// Shares of what all stores of a node use together.
#[derive(Clone)]
pub(super) struct Share {
    pub index_cache_bytes: usize,
    pub open_files_max: usize,
    pub damaged: mpsc::Sender<Damaged>,
}

/// Whether the name is no file of ours any more: removed, made unreadable, or put in place of it.
fn is_tampered(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | PermissionDenied | IsADirectory | NotADirectory)
        || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

impl Directory {
    /// Opens a claimed folder: loads the index, drops objects without a chunk from it, and unlinks passed files that it
    /// doesn't know. All other files are looked at later, by the keeper. Blocks.
    pub fn open(
        runtime: &Runtime,
        config: &StoreConfig,
        claimed: Claimed,
        id: StoreId,
        watermarks: Watermarks,
        share: Share,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Put>), OpenError> {
        let failed = |source: io::Error| OpenError::Io { name: config.name.clone(), path: config.path.clone(), source };
        let (disk, begun) = (runtime.disk.clone(), runtime.clock.now());
        let counters = Counters::default();
        let mut index = Index::new(config.capacity_bytes, watermarks);
        let opened = load(runtime, config, claimed, share.index_cache_bytes, &mut index)?;
        if opened.set_aside {
            counters.indexes_set_aside.one();
            tracing::warn!(store = config.name, "the index was damaged: set aside into lost/, the store begins empty");
        }
        let file_system = disk.file_system(&config.path).map_err(failed)?;
        let files = Files::new(disk, &config.path, share.open_files_max);
        let marked = files.marked_passed().map_err(failed)?;
        let forgotten: Vec<ObjectId> = marked.into_iter().filter(|object| !index.was_passed(*object)).collect();
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
            damaged: share.damaged,
            wake: Notify::new(),
            settled: Notify::new(),
            closing: Mutex::new(None),
            state: AtomicU8::new(OPEN),
            low_space: AtomicBool::new(false),
            opened_clean: opened.clean,
            opening: runtime.clock.now() - begun,
            pace: Mutex::default(),
            slow: AtomicBool::new(false),
            called: Notify::new(),
            hangs: AtomicBool::new(false),
            found_hanging: Notify::new(),
            chores: Notify::new(),
            lent: Arc::default(),
            linger: Mutex::default(),
            written_bytes: AtomicU64::new(0),
            freed_bytes: AtomicU64::new(0),
            began: runtime.clock.now(),
            clock: runtime.clock.clone(),
            disk: runtime.disk.clone(),
            file_system,
            root: config.path.clone(),
        };
        for object in forgotten {
            directory.unlink_forgotten(object).map_err(failed)?;
        }
        Ok((Arc::new(directory), waiting))
    }

    /// Removes a passed file that the index doesn't know. Now, before anything is taken in: somebody may have it mapped,
    /// so nobody may ever write it again.
    fn unlink_forgotten(&self, object: ObjectId) -> io::Result<()> {
        let bytes = self.files.allocated_bytes(object).unwrap_or(0);
        self.unlink_passed(object, bytes)?;
        self.counters.orphans.one();
        Ok(())
    }

    /// Seconds since the store was opened.
    pub fn now_s(&self) -> u32 {
        u32::try_from((self.clock.now() - self.began).as_secs()).unwrap_or(u32::MAX)
    }

    /// The wall clock's second.
    pub fn wall_s(&self) -> u32 {
        u32::try_from(self.clock.wall_ms() / 1000).unwrap_or(u32::MAX)
    }

    /// Whether the chunk is here; then it is used now.
    pub fn touch(&self, id: &ChunkId) -> bool {
        self.index.lock().touch(id, self.now_s())
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
        let files = space.free_files.map_or(0, |free| SPARE_FILES.saturating_sub(free));
        let low = lacking > 0 || files > 0;
        if low {
            self.index.lock().squeeze(lacking, files);
        }
        if self.low_space.swap(low, Ordering::AcqRel) != low {
            let (free_bytes, free_files) = (space.free_bytes, space.free_files);
            tracing::warn!(
                store = self.name,
                free_bytes,
                spare,
                free_files,
                low,
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

    /// Removes the file of a passed object; its bytes stay used until the disk has them back.
    pub fn unlink_passed(&self, object: ObjectId, bytes: u64) -> io::Result<()> {
        let before = self.moment();
        self.files.unlink_passed(object)?;
        let mut linger = self.linger.lock();
        if let (Ok(before), Ok(after)) = (before, self.moment()) {
            linger.unlinked(bytes, before, after);
            self.index.lock().linger(linger.held_at(after));
        }
        Ok(())
    }

    /// Asks the disk whether it has the bytes of unlinked files back; with `rebase`, what others did to the disk until now
    /// no longer counts. Blocks.
    pub fn look_what_lingers(&self, rebase: Rebase) {
        if let Ok(now) = self.moment() {
            let mut linger = self.linger.lock();
            if rebase == Rebase::Now {
                linger.rebase(now);
            }
            let held_bytes = linger.held_at(now);
            self.index.lock().linger(held_bytes);
        }
    }

    fn moment(&self) -> io::Result<Moment> {
        let (written_bytes, freed_bytes) =
            (self.written_bytes.load(Ordering::Relaxed), self.freed_bytes.load(Ordering::Relaxed));
        Ok(Moment { free_bytes: self.disk.space(&self.root)?.free_bytes, written_bytes, freed_bytes })
    }

    /// See [`Stores::read`](super::Stores::read). Memory is taken from `buffers` only when it is this read's turn: who
    /// waits for a disk that hangs holds nothing that others need.
    pub async fn read(
        self: &Arc<Self>,
        chunk: &Chunk,
        range: ByteRange,
        buffers: &BufferPool,
    ) -> Result<Option<Checksummed>, StoreError> {
        if self.hangs() {
            self.counters.avoided.one();
            return Err(StoreError::Slow);
        }
        let mut hangs = std::pin::pin!(self.begins_to_hang());
        hangs.as_mut().enable();
        let (directory, chunk) = (self.clone(), chunk.clone());
        let read = async {
            let turn = self.reads.turn().await;
            let bytes = usize::try_from(range.len()).expect("a chunk is at most 64 MiB");
            let buffer = buffers.acquire(bytes).await;
            self.reads.call(turn, move || directory.read_timed(&chunk, range, buffer)).await
        };
        let read = tokio::time::timeout(Duration::from_millis(READ_DEADLINE_MS), read);
        let result = tokio::select! { biased;
            result = read => result.unwrap_or(Err(StoreError::Deadline { deadline_ms: READ_DEADLINE_MS })),
            () = hangs => {
                self.counters.avoided.one();
                Err(StoreError::Slow)
            }
        };
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

    /// The disk is found to hang after this was called: whoever waits for it goes elsewhere.
    pub fn begins_to_hang(&self) -> Notified<'_> {
        self.found_hanging.notified()
    }

    fn read_timed(
        &self,
        chunk: &Chunk,
        range: ByteRange,
        buffer: AlignedBuf,
    ) -> Result<Option<Checksummed>, StoreError> {
        let call = self.begin_call(Kind::Bytes);
        let read = self.read_now(chunk, range, buffer);
        let bytes = read.as_ref().ok().and_then(|read| read.as_ref()).map(|bytes| bytes.len() as u64);
        self.end_call(call, bytes);
        read
    }

    /// A call to the disk begins, for what is known of its pace.
    pub fn begin_call(&self, kind: Kind) -> Call {
        let call = self.pace.lock().begin(kind, self.clock.now());
        self.called.notify_one();
        call
    }

    /// Syncs a file, or changes the index or names, in sight of who judges the disk's pace.
    pub fn syncing<T>(&self, call: impl FnOnce() -> T) -> T {
        self.timing(Kind::Sync, call)
    }

    /// Syncs every file of the store at once, in sight of who judges the disk's pace.
    pub fn sync_all(&self) -> io::Result<()> {
        self.timing(Kind::SyncAll, || self.file_system.sync())
    }

    fn timing<T>(&self, kind: Kind, call: impl FnOnce() -> T) -> T {
        let began = self.begin_call(kind);
        let result = call();
        self.end_call(began, None);
        result
    }

    /// It ended; with how many bytes it read, if it was a read.
    pub fn end_call(&self, call: Call, bytes: Option<u64>) {
        self.pace.lock().end(call, self.clock.now(), bytes);
    }

    /// Whether the disk is suspected to be slow: other places are asked first, and it takes nothing in.
    pub fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Acquire)
    }

    /// Whether the disk is slow because a call of it hangs: nobody waits for it. A slow one that answers is still nearer
    /// than the origin.
    fn hangs(&self) -> bool {
        self.hangs.load(Ordering::Acquire)
    }

    /// A call hangs from now on, and the disk is slow, until it [ends](Self::end_call).
    #[cfg(test)]
    pub fn stall(&self) -> Call {
        let call = self.pace.lock().begin(Kind::Bytes, self.clock.now() - Duration::from_secs(1));
        self.called.notify_one();
        assert!(self.judge(), "a call that lasts a second is one that hangs");
        call
    }

    /// Whether calls run now.
    pub fn is_called(&self) -> bool {
        self.pace.lock().running() > 0
    }

    /// Judges the disk's pace; true while it is suspected.
    pub fn judge(&self) -> bool {
        let now = self.clock.now();
        let (slow, hangs, median_us, running) = {
            let mut pace = self.pace.lock();
            (pace.look(now), pace.hangs(now), pace.median_us(), pace.running())
        };
        if self.slow.swap(slow, Ordering::AcqRel) != slow {
            if slow {
                self.counters.suspicions.one();
            }
            tracing::warn!(store = self.name, slow, hangs, median_us, running, "the disk's pace has changed");
        }
        if !self.hangs.swap(hangs, Ordering::AcqRel) && hangs {
            self.found_hanging.notify_waiters();
        }
        slow
    }

    pub fn read_now(
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
        let crcs = self.catalog.crcs(id, within, blocks).map_err(|error| self.unreadable(chunk, error.into_io()))?;
        let Some(crcs) = crcs else { return self.gone(chunk, io::ErrorKind::InvalidData.into()) };
        let file = match self.files.get(id.object, Open::Write) {
            Err(error) if is_tampered(&error) => return self.gone(chunk, error),
            other => other?,
        };
        let direct = &mut buffer.whole_mut()[..len.next_multiple_of(PAGE_BYTES)];
        let count = match file.read_at(direct, chunk.range().start() + range.start()) {
            Err(error) => return self.gone(chunk, error),
            Ok(count) => count,
        };
        if count < len {
            return self.gone(chunk, io::ErrorKind::UnexpectedEof.into());
        }
        buffer.set_len(len);
        if !self.index.lock().has(&id) {
            return Ok(None);
        }
        Ok(Checksummed::new(id.object, chunk.first_block() + first, buffer.freeze(), crcs))
    }

    /// See [`Stores::pass`](super::Stores::pass).
    pub async fn pass(self: &Arc<Self>, object: ObjectId) -> Result<Passed, NotPassed> {
        if self.is_slow() {
            return Err(NotPassed::Disk(StoreError::Slow));
        }
        let directory = self.clone();
        let opened = self.reads.run(PASS_DEADLINE_MS, move || directory.pass_now(object)).await;
        match opened {
            Ok(passed) => passed,
            Err(error) => Err(NotPassed::Disk(error)),
        }
    }

    pub fn pass_now(&self, object: ObjectId) -> Result<Passed, NotPassed> {
        let (unmarked, born) = match self.index.lock().pass(&object, self.now_s()) {
            Pass::NotHere => return Err(NotPassed::NotHere),
            Pass::Unverified => return Err(NotPassed::Unverified),
            Pass::Ready { unmarked, born } => (unmarked, born),
        };
        if unmarked {
            self.files.mark_passed(object)?;
        }
        let file = self.files.open_for_kernel(object)?;
        let stamp = file.stamp()?;
        let found = self.index.lock().is_passed(&object, born, stamp);
        match found {
            Found::Right => {}
            // What bears its name now may be half filled.
            Found::Gone => return Err(NotPassed::NotHere),
            Found::Touched => {
                // Cut behind our back and mapped, its end would be SIGBUS; what else it holds no checksum would tell.
                self.drop_by_id(ChunkId { object, index: ChunkIndex(0) });
                return Err(NotPassed::NotHere);
            }
        }
        self.counters.passed.one();
        Ok(Passed { file, lent: self.lent.clone() })
    }

    /// [`stamp_now`](Self::stamp_now), in line with everybody's reads.
    pub async fn stamp(self: &Arc<Self>, object: ObjectId) -> Result<u32, StoreError> {
        let directory = self.clone();
        Ok(self.reads.run(PASS_DEADLINE_MS, move || directory.stamp_now(object)).await??)
    }

    /// The stamp of the object's file, as its bytes are read.
    pub fn stamp_now(&self, object: ObjectId) -> io::Result<u32> {
        self.files.get(object, Open::Write)?.stamp()
    }

    /// The chunk can't be read: an error if it should have been here, nothing if it was evicted meanwhile.
    fn gone<T>(&self, chunk: &Chunk, error: io::Error) -> Result<Option<T>, StoreError> {
        if self.index.lock().has(&chunk.id()) { Err(self.unreadable(chunk, error)) } else { Ok(None) }
    }

    fn unreadable(&self, chunk: &Chunk, error: io::Error) -> StoreError {
        let id = chunk.id();
        // What is no file of ours any more goes whole: only an unlinked name can be made anew.
        let doomed = match is_tampered(&error) {
            true => self.index.lock().doom_object(&id.object),
            false => self.index.lock().doom(id),
        };
        if !doomed.is_empty() {
            self.counters.unreadable.one();
            tracing::warn!(store = self.name, object = %id.object, chunk = id.index.0, %error, "a chunk was unreadable: dropped");
            self.wanted_again(chunk, doomed);
        }
        error.into()
    }

    /// See [`Stores::drop_chunk`](super::Stores::drop_chunk).
    pub fn drop_corrupt(&self, chunk: &Chunk) {
        let dropped = self.drop_by_id(chunk.id());
        if !dropped.is_empty() {
            self.wanted_again(chunk, dropped);
        }
    }

    /// The same for a chunk of which only the id is known: what is dropped comes again when it is read.
    pub fn drop_by_id(&self, id: ChunkId) -> Bits {
        let dropped = self.index.lock().doom(id);
        if !dropped.is_empty() {
            self.counters.corrupt.one();
            tracing::warn!(store = self.name, object = %id.object, chunk = id.index.0, "a chunk failed its check: dropped");
            self.wake.notify_one();
        }
        dropped
    }

    /// Tells who repairs what left with a damaged chunk: all of an object, if the kernel had its file. Who finds the line
    /// full leaves it to the next reader.
    fn wanted_again(&self, chunk: &Chunk, dropped: Bits) {
        self.wake.notify_one();
        let damaged = Damaged { object: chunk.object().clone(), chunks: dropped };
        if self.damaged.try_send(damaged).is_err() {
            self.counters.not_repaired.one();
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
            health: match (self.is_fenced(), self.is_slow()) {
                (true, _) => Health::Failing,
                (false, true) => Health::Slow,
                (false, false) => Health::Healthy,
            },
        }
    }

    pub fn debug(&self) -> StoreDebug {
        let (leaving_bytes, lingering_bytes) = {
            let index = self.index.lock();
            (index.leaving_bytes(), index.lingering_bytes())
        };
        StoreDebug {
            status: self.status(),
            leaving_bytes,
            lingering_bytes,
            open_files: self.files.open_count() as u64,
            opened_clean: self.opened_clean,
            opening_ms: u64::try_from(self.opening.as_millis()).unwrap_or(u64::MAX),
            counters: self.counters.snapshot(),
        }
    }
}

/// Loads the index into memory, and drops objects without a chunk from it.
fn load(
    runtime: &Runtime,
    config: &StoreConfig,
    claimed: Claimed,
    cache_bytes: usize,
    index: &mut Index,
) -> Result<Opened, OpenError> {
    let (name, path) = (config.name.clone(), config.path.clone());
    let mut last: Option<(Arc<Object>, u32, Slot)> = None;
    let mut empty: Vec<ObjectId> = Vec::new();
    let mut receive = |row: Option<Row>| match row {
        Some(Row::Object(ObjectRow { object, filled_s })) => {
            let (id, volume) = (object.id(), object.volume());
            let loaded = Loaded { id, volume, size: object.size(), chunk_size: object.chunk_size(), filled_s };
            empty.push(id);
            last = object.chunk(ChunkIndex(0)).map(|chunk| (object, 0, chunk.slot()));
            index.load_object(&loaded)
        }
        Some(Row::Chunk { id, blocks, sure }) => {
            let Some((object, run, slot)) = &mut last else { return false };
            let Some(chunk) = object.chunk(id.index) else { return false };
            if id.index.0 / CHUNKS_PER_RUN != *run {
                (*run, *slot) = (id.index.0 / CHUNKS_PER_RUN, chunk.slot());
            }
            let sane = index.load_chunk(id, blocks, *slot, sure);
            if sane && empty.last() == Some(&id.object) {
                empty.pop();
            }
            sane
        }
        None => {
            *index = Index::new(config.capacity_bytes, index.watermarks());
            empty.clear();
            true
        }
    };
    let now_ms = runtime.clock.wall_ms();
    let opened = Catalog::open(runtime.disk.as_ref(), &config.path, claimed.lock, cache_bytes, now_ms, &mut receive);
    let opened = opened.map_err(|error| match error {
        CatalogOpenError::Io(source) => OpenError::Io { name: name.clone(), path: path.clone(), source },
        CatalogOpenError::Newer { found } => OpenError::NewerIndex { name: name.clone(), path: path.clone(), found },
    })?;
    let dropped: Vec<Change> =
        empty.into_iter().filter(|id| index.forget_empty(*id)).map(Change::RemoveObject).collect();
    if !dropped.is_empty() {
        let applied = opened.catalog.apply(&dropped, Promise::Visible);
        applied.map_err(|error| OpenError::Io { name, path, source: error.into_io() })?;
    }
    Ok(opened)
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

    /// This caller's turn, in order.
    pub async fn turn(&self) -> OwnedSemaphorePermit {
        self.turns.clone().acquire_owned().await.expect("the line is never closed")
    }

    /// Runs a blocking call whose turn it is. Once begun it runs to its end, whoever waits.
    pub async fn call<T: Send + 'static>(
        &self,
        turn: OwnedSemaphorePermit,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let call = move || {
            let result = call();
            drop(turn);
            result
        };
        match self.pool.run(call).await {
            Ok(result) => Ok(result),
            Err(PoolError::Full { .. }) => Err(StoreError::Busy),
            Err(error @ PoolError::Panicked) => Err(StoreError::Io(io::Error::other(error))),
        }
    }

    /// Waits for its turn and runs a blocking call. Past the deadline the caller goes on.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline_ms: u64,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let work = async { self.call(self.turn().await, call).await };
        let done = tokio::time::timeout(Duration::from_millis(deadline_ms), work).await;
        done.unwrap_or(Err(StoreError::Deadline { deadline_ms }))
    }
}
