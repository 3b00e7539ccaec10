//! This node's disks: which chunks are here, their bytes with their checksums, and room for new ones.
//!
//! A store is one folder on one disk: a label, a catalog, and one sparse file per object version. An object lives
//! wholly on one store. What is here may vanish at any time (evicted, corrupt, a failing disk): the answer is then
//! "not here", and the caller takes another place. Bytes leave as [`Checksummed`]: whoever hands them to a door checks
//! them, and says [`Stores::drop_chunk`] when they fail.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use larder_proto::checksum::Checksummed;
use larder_proto::ids::{ObjectId, VolumeId};
use larder_proto::object::{Chunk, ChunkId};
use larder_proto::range::ByteRange;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use self::admission::Admission;
use self::committer::Committer;
use self::directory::{Directory, Share};
use self::index::Reserve;
use self::keeper::Keeper;
use crate::runtime::Runtime;
use crate::runtime::disk::BufferPool;
use crate::runtime::tasks::Tasks;

mod admission;
mod catalog;
mod choose;
mod committer;
mod damaged;
mod directory;
mod files;
mod index;
mod keeper;
mod label;
mod linger;
mod listing;
mod pace;
mod passing;
mod policies;
mod rank;
mod reservation;
mod status;
#[cfg(test)]
mod tests;
mod watch;

pub use self::admission::{Giver, Volumes};
pub use self::damaged::Damaged;
pub use self::listing::Listed;
pub use self::passing::{ByKernel, Held, Lent, NotPassed, Passed};
pub use self::rank::{Alone, Rank, Standing};
pub use self::reservation::Reservation;
pub use self::status::{Health, StoreCounters, StoreDebug, StoreStatus, Usage};

/// One folder that the node may use, as its configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The store's name on this node.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
    /// Bytes of chunks that the store may hold.
    pub capacity_bytes: u64,
}

/// What a store says to a copy of a chunk that it doesn't have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It has room for it.
    Now,
    /// It has room, and its disk is slow now.
    Later,
    /// No room without something leaving for it, or its volume doesn't want it kept.
    No,
}

/// When eviction begins and where it ends, in percent of a store's capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    high_percent: u8,
    low_percent: u8,
}

impl Watermarks {
    /// Both marks; nothing unless `0 < low < high <= 100`.
    pub fn new(high_percent: u8, low_percent: u8) -> Option<Self> {
        (0 < low_percent && low_percent < high_percent && high_percent <= 100)
            .then_some(Self { high_percent, low_percent })
    }
}

impl Default for Watermarks {
    fn default() -> Self {
        Self { high_percent: 90, low_percent: 80 }
    }
}

/// Why a store was not opened. What lay on its disk is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The path is a file, or something else that is no folder.
    #[error("store {name}: {path:?} is not a directory")]
    NotADirectory {
        /// The store.
        name: String,
        /// Its folder.
        path: PathBuf,
    },
    /// The folder has no label and isn't empty: it may be somebody else's.
    #[error("store {name}: {path:?} is not a store and not empty (it holds {found:?}): give it an empty directory")]
    NotEmpty {
        /// The store.
        name: String,
        /// Its folder.
        path: PathBuf,
        /// Something in it.
        found: String,
    },
    /// The label can't be read.
    #[error("store {name}: {path:?} is damaged: restore it, or empty the directory to begin a new store")]
    BadLabel {
        /// The store.
        name: String,
        /// The label.
        path: PathBuf,
    },
    /// The store belongs to another cache.
    #[error("store {name}: {path:?} belongs to cache {found:?}, not {ours:?}: give this cache another directory")]
    AnotherCache {
        /// The store.
        name: String,
        /// Its folder.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who we are.
        ours: String,
    },
    /// The store was written by a newer Larder.
    #[error("store {name}: {path:?} has format {found}, this version knows up to {known}: run the newer version")]
    NewerFormat {
        /// The store.
        name: String,
        /// The label.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this program knows.
        known: u32,
    },
    /// The index was written by a newer Larder.
    #[error(
        "store {name}: the index of {path:?} has format {found}, newer than this version knows: run the newer version, or delete index.redb to begin anew"
    )]
    NewerIndex {
        /// The store.
        name: String,
        /// Its folder.
        path: PathBuf,
        /// The index's format.
        found: u64,
    },
    /// Another process, or another store of this one, has the folder open.
    #[error("store {name}: {path:?} is in use by another agent: stop it first")]
    Locked {
        /// The store.
        name: String,
        /// Its folder.
        path: PathBuf,
    },
    /// The capacity is more than the whole file system has.
    #[error("store {name}: capacity {capacity_bytes} is more than the {disk_bytes} bytes of the disk of {path:?}")]
    TooLarge {
        /// The store.
        name: String,
        /// Its folder.
        path: PathBuf,
        /// What was asked for.
        capacity_bytes: u64,
        /// What the file system has in all.
        disk_bytes: u64,
    },
    /// The disk failed.
    #[error("store {name}: {path:?}: {source}")]
    Io {
        /// The store.
        name: String,
        /// Its folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a store gave no bytes, or took none. Each means: use another place.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk failed the call; a chunk that could not be read was dropped.
    #[error("the disk failed: {0}")]
    Io(#[from] io::Error),
    /// No answer within the deadline: the disk is slow or hangs.
    #[error("no answer from the disk within {deadline_ms} ms")]
    Deadline {
        /// The deadline.
        deadline_ms: u64,
    },
    /// Too many calls wait for this disk already.
    #[error("too many calls wait for this disk")]
    Busy,
    /// The disk is suspected to be slow.
    #[error("the disk is slow")]
    Slow,
    /// A sync failed before: the store takes no writes until it is opened again.
    #[error("the store is fenced after a failed sync")]
    Fenced,
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
    /// A commit without all of the chunk's pieces, or with another number of checksums than it has blocks.
    #[error("the chunk isn't written whole")]
    Incomplete,
    /// Offset or length break the rules of the call: a bug of the caller.
    #[error("{offset} + {len} is not a block aligned part of the chunk")]
    Misaligned {
        /// Where, counted from the chunk's start.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
}

/// Why a chunk can't be taken in now. The reader is served all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bypass {
    /// It is here, or somebody else is writing it.
    #[error("the chunk is here, or being written")]
    Already,
    /// No room, and nothing could be evicted in time.
    #[error("the store is full")]
    Full,
    /// As many chunks as may be are being written.
    #[error("too many chunks are being written")]
    Busy,
    /// The volume doesn't want it kept.
    #[error("the volume doesn't want it kept")]
    NotAdmitted,
    /// The disk is slow: it takes nothing in until it is as it was.
    #[error("the disk is slow")]
    Slow,
    /// The store doesn't take writes: it is fenced, closing, or there is none.
    #[error("no store takes writes")]
    Unavailable,
}

/// What each store of a node gets of what all share: 64 MiB of index cache and 256 open files per node.
const INDEX_CACHE_BYTES: usize = 64 << 20;
const OPEN_FILES_MAX: usize = 256;

/// A fill waits so long for eviction when there is no room at all, then bypasses the store.
const ROOM_DEADLINE: Duration = Duration::from_millis(250);

/// Damaged chunks, or whole objects, that wait for repair, at most; others come again when they are read.
const DAMAGED_MAX: usize = 1_024;

/// Syncing what is left takes seconds on a sane disk; past this the next start finds an unclean store.
const CLOSE_DEADLINE: Duration = Duration::from_secs(30);

/// This node's stores. Cheap to clone.
#[derive(Clone)]
pub struct Stores {
    directories: Arc<Vec<Arc<Directory>>>,
    admission: Arc<Admission>,
    buffers: BufferPool,
    repairs: Arc<Mutex<Option<mpsc::Receiver<Damaged>>>>,
    tasks: Tasks,
}

impl Stores {
    /// Opens every store: makes new ones, refuses what isn't ours. All folders are checked before anything is written.
    pub async fn open(
        runtime: &Runtime,
        buffers: BufferPool,
        cache_id: &str,
        configs: &[StoreConfig],
        watermarks: Watermarks,
    ) -> Result<Self, OpenError> {
        let count = configs.len().max(1);
        let (damaged, repairs) = mpsc::channel(DAMAGED_MAX);
        let share = Share {
            index_cache_bytes: INDEX_CACHE_BYTES / count,
            open_files_max: (OPEN_FILES_MAX / count).max(8),
            damaged,
        };
        let mut claimed = Vec::new();
        for config in configs {
            claimed.push(label::claim(runtime, config, cache_id)?);
        }
        let mut opened = Vec::new();
        for (config, claimed) in configs.iter().zip(claimed) {
            let id = claimed.label(runtime, config, cache_id)?;
            // Loading blocks; nothing else runs before the stores are open.
            opened.push(Directory::open(runtime, config, claimed, id, watermarks, share.clone())?);
        }
        let mut directories = Vec::new();
        for (directory, puts) in opened {
            runtime.tasks.spawn(Committer::new(directory.clone()).run(puts));
            let pool = runtime.tasks.pool(&format!("keep-{}", directory.name), 1, 4);
            runtime.tasks.spawn(Keeper::new(directory.clone(), pool).run());
            let probes = runtime.tasks.pool(&format!("probe-{}", directory.name), 1, 1);
            runtime.tasks.spawn(watch::watch(directory.clone(), probes));
            directories.push(directory);
        }
        Ok(Self {
            directories: Arc::new(directories),
            admission: Arc::default(),
            buffers,
            repairs: Arc::new(Mutex::new(Some(repairs))),
            tasks: runtime.tasks.clone(),
        })
    }

    /// Bytes of a part of a chunk (`range` counts from the chunk's start, widened to 64 KiB blocks, at most the whole
    /// chunk), with their checksums unverified. `None` when the chunk isn't here. On an error the caller takes another
    /// place; a chunk that could not be read is gone afterwards.
    pub async fn read(&self, chunk: &Chunk, range: ByteRange) -> Result<Option<Checksummed>, StoreError> {
        let len = u64::from(chunk.len());
        if range.is_empty() || range.widen_to_blocks(len) != range {
            return Err(StoreError::Misaligned { offset: range.start(), len: range.len() });
        }
        let id = chunk.id();
        let Some(directory) = self.directories.iter().find(|directory| directory.touch(&id)) else {
            return Ok(None);
        };
        directory.read(chunk, range, &self.buffers).await
    }

    /// Whether the chunk is here. Giver memory.
    pub fn has(&self, chunk: &ChunkId) -> bool {
        self.directories.iter().any(|directory| directory.index.lock().has(chunk))
    }

    /// Whether the store that has the chunk is suspected to be slow: other places should be asked first. From memory.
    pub fn is_slow(&self, chunk: &ChunkId) -> bool {
        self.directories.iter().any(|directory| directory.is_slow() && directory.index.lock().has(chunk))
    }

    /// Whether every chunk of the object is here. Giver memory.
    pub fn object_complete(&self, object: &ObjectId) -> bool {
        self.directories.iter().any(|directory| directory.index.lock().complete(object))
    }

    /// Room for a chunk that is about to be written, if its volume wants it kept. Evicts when the store is above its
    /// high watermark; waits for that at most a quarter of a second, and only when there is no room at all. Cancel safe.
    pub async fn reserve(&self, chunk: &Chunk, giver: Giver) -> Result<Reservation, Bypass> {
        if !self.admission.admits(chunk, giver) {
            if let Some(directory) = self.directories.first() {
                directory.counters.not_admitted.one();
            }
            return Err(Bypass::NotAdmitted);
        }
        let pinned = self.admission.pins(chunk);
        let Some(directory) = self.place(&chunk.object().id()) else { return Err(self.why_nowhere()) };
        let result = match tokio::time::timeout(ROOM_DEADLINE, reserve_in(directory, chunk, pinned)).await {
            Ok(result) => result,
            Err(_) => Err(Bypass::Full),
        };
        match result {
            Err(Bypass::Full) => directory.counters.bypassed_full.one(),
            Err(Bypass::Busy) => directory.counters.bypassed_busy.one(),
            Err(Bypass::Slow | Bypass::Unavailable) => directory.counters.bypassed_unavailable.one(),
            Err(Bypass::Already | Bypass::NotAdmitted) | Ok(_) => {}
        }
        result
    }

    /// Bytes that the object's store can take without coming above its low watermark; nothing leaves for those.
    pub fn room_below_low(&self, object: &ObjectId) -> u64 {
        self.place(object).map_or(0, |directory| directory.index.lock().room_below_low_bytes())
    }

    /// Whether a copy of the chunk would be taken without anything leaving for it. From memory.
    pub fn wants(&self, chunk: &Chunk) -> Wanted {
        if !self.admission.admits(chunk, Giver::Node) {
            return Wanted::No;
        }
        let Some(directory) = self.place(&chunk.object().id()) else {
            return if self.why_nowhere() == Bypass::Slow { Wanted::Later } else { Wanted::No };
        };
        if directory.index.lock().room_below_low_bytes() < u64::from(chunk.len()) {
            return Wanted::No;
        }
        if directory.is_slow() { Wanted::Later } else { Wanted::Now }
    }

    /// Why an object of which nothing is here has no place.
    fn why_nowhere(&self) -> Bypass {
        let waits = self.directories.iter().any(|directory| directory.takes_writes() && directory.is_slow());
        if waits { Bypass::Slow } else { Bypass::Unavailable }
    }

    /// The store that has something of the object, else the one its id chooses among those that take writes.
    fn place(&self, object: &ObjectId) -> Option<&Arc<Directory>> {
        let knows = self.directories.iter().find(|directory| directory.index.lock().knows(object));
        knows.or_else(|| {
            let takes = |directory: &Directory| directory.takes_writes() && !directory.is_slow();
            let open = self.directories.iter().enumerate().filter(|(_, directory)| takes(directory));
            let chosen = choose::choose(*object, open.map(|(at, store)| (at, store.id, store.capacity_bytes)));
            chosen.map(|at| &self.directories[at])
        })
    }

    /// Forgets a chunk whose bytes failed their check; counted. It can be filled again some milliseconds later
    /// ([`reserve`](Self::reserve) waits for that).
    pub fn drop_chunk(&self, chunk: &Chunk) {
        for directory in self.directories.iter() {
            directory.drop_corrupt(chunk);
        }
    }

    /// What was here, was damaged and dropped, for who brings it again. Given once.
    pub fn damaged(&self) -> Option<mpsc::Receiver<Damaged>> {
        self.repairs.lock().take()
    }

    /// What each volume has here.
    pub fn usage(&self) -> BTreeMap<VolumeId, Usage> {
        let mut all: BTreeMap<VolumeId, Usage> = BTreeMap::new();
        for directory in self.directories.iter() {
            for (volume, usage) in directory.index.lock().usage() {
                let sum = all.entry(volume).or_default();
                sum.objects += usage.objects;
                sum.chunks += usage.chunks;
                sum.bytes += usage.bytes;
            }
        }
        all
    }

    /// Each store, in the order of the configuration.
    pub fn status(&self) -> Vec<StoreStatus> {
        self.directories.iter().map(|directory| directory.status()).collect()
    }

    /// Each store with its counters, for metrics and `/debug/stores`.
    pub fn debug(&self) -> Vec<StoreDebug> {
        self.directories.iter().map(|directory| directory.debug()).collect()
    }

    /// Takes no more writes, makes everything durable and marks the stores clean. To be called before the runtime's
    /// tasks are shut down; after that, or past half a minute, it only returns.
    pub async fn close(&self) {
        let mut waiting = Vec::new();
        for directory in self.directories.iter() {
            directory.stop_writes();
            let (closed, wait) = oneshot::channel();
            *directory.closing.lock() = Some(closed);
            directory.wake.notify_one();
            waiting.push(wait);
        }
        let all = futures::future::join_all(waiting);
        tokio::select! { biased;
            _closed = all => {}
            () = self.tasks.stopping().cancelled() => {}
            () = tokio::time::sleep(CLOSE_DEADLINE) => tracing::warn!("the stores could not be closed cleanly in time"),
        }
    }
}

async fn reserve_in(directory: &Arc<Directory>, chunk: &Chunk, pinned: bool) -> Result<Reservation, Bypass> {
    loop {
        let mut settled = std::pin::pin!(directory.settled.notified());
        settled.as_mut().enable();
        if !directory.takes_writes() {
            return Err(Bypass::Unavailable);
        }
        if directory.is_slow() {
            return Err(Bypass::Slow);
        }
        if directory.is_low_on_space() {
            return Err(Bypass::Full);
        }
        let answer = directory.index.lock().reserve(chunk, pinned);
        match answer {
            Reserve::Granted { evict } => {
                if evict {
                    directory.wake.notify_one();
                }
                return Ok(Reservation::new(directory.clone(), chunk.clone()));
            }
            Reserve::Refused(why) => return Err(why),
            Reserve::Wait => {
                directory.wake.notify_one();
                settled.await;
            }
        }
    }
}
