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

use bytes::Bytes;
use larder_proto::checksum::Checksummed;
use larder_proto::ids::{ObjectId, StoreId, VolumeId};
use larder_proto::object::{Chunk, ChunkId};
use larder_proto::range::ByteRange;
use serde::Serialize;

use crate::runtime::Runtime;
use crate::runtime::disk::BufferPool;

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

/// Why a store was not opened. Nothing was changed on its disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The path is a file, or something else that is no folder.
    #[error("store {name}: {path} is not a directory")]
    NotADirectory {
        /// The store.
        name: String,
        /// Its folder.
        path: PathBuf,
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
    /// A sync failed before: the store takes no writes until it is opened again.
    #[error("the store is fenced after a failed sync")]
    Fenced,
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
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
    /// The store doesn't take writes: it is fenced, closing, or there is none.
    #[error("no store takes writes")]
    Unavailable,
}

/// How well a store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Health {
    /// As it should.
    Healthy,
    /// A sync failed: it serves what it has, checked, and takes nothing in.
    Failing,
}

/// A store as reports and `/debug/stores` show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreStatus {
    /// Its name on this node.
    pub name: String,
    /// Its id: a random UUID written on the disk (hex).
    #[serde(serialize_with = "as_text")]
    pub id: StoreId,
    /// Bytes of chunks it may hold.
    pub capacity_bytes: u64,
    /// Bytes of chunks it holds or has reserved, in whole pages.
    pub used_bytes: u64,
    /// Object versions with at least one chunk here.
    pub objects: u64,
    /// Chunks here.
    pub chunks: u64,
    /// How well it does.
    pub health: Health,
}

fn as_text<T: std::fmt::Display, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// What one volume has on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Object versions with at least one chunk here.
    pub objects: u64,
    /// Chunks here.
    pub chunks: u64,
    /// Bytes here, in whole pages.
    pub bytes: u64,
}

/// This node's stores. Cheap to clone.
#[derive(Clone)]
pub struct Stores {
    stores: Arc<Vec<StoreStatus>>,
}

impl Stores {
    /// Opens every store or none: makes new ones, refuses what isn't ours.
    pub async fn open(
        _runtime: &Runtime,
        _buffers: BufferPool,
        _cache_id: &str,
        _configs: &[StoreConfig],
        _watermarks: Watermarks,
    ) -> Result<Self, OpenError> {
        Ok(Self { stores: Arc::default() })
    }

    /// Bytes of a part of a chunk (`range` counts from the chunk's start, widened to 64 KiB blocks, at most the whole
    /// chunk), with their checksums unverified. `None` when the chunk isn't here. On an error the caller takes another
    /// place; a chunk that could not be read is gone afterwards.
    pub async fn read(&self, _chunk: &Chunk, _range: ByteRange) -> Result<Option<Checksummed>, StoreError> {
        Ok(None)
    }

    /// Whether the chunk is here. From memory.
    pub fn has(&self, _chunk: &ChunkId) -> bool {
        false
    }

    /// Whether every chunk of the object is here. From memory.
    pub fn object_complete(&self, _object: &ObjectId) -> bool {
        false
    }

    /// Room for a chunk that is about to be written. Evicts when the store is above its high watermark; waits for that
    /// at most a quarter of a second, and only when there is no room at all. Cancel safe.
    pub async fn reserve(&self, _chunk: &Chunk) -> Result<Reservation, Bypass> {
        Err(Bypass::Unavailable)
    }

    /// Forgets a chunk whose bytes failed their check; counted. It can be filled again at once.
    pub fn drop_corrupt(&self, _chunk: &ChunkId) {}

    /// What each volume has here.
    pub fn usage(&self) -> BTreeMap<VolumeId, Usage> {
        BTreeMap::new()
    }

    /// Each store, in the order of the configuration.
    pub fn status(&self) -> Vec<StoreStatus> {
        self.stores.to_vec()
    }

    /// Takes no more writes, makes everything durable and marks the stores clean.
    pub async fn close(&self) {}
}

/// Room for one chunk, and the only right to write it. Dropped without [`commit`](Self::commit), the room is free
/// again and nothing of the chunk is here.
#[must_use = "a reservation holds room until it is committed or dropped"]
pub struct Reservation {
    chunk: Chunk,
}

impl Reservation {
    /// The chunk.
    pub fn chunk(&self) -> &Chunk {
        &self.chunk
    }

    /// Writes a piece at `offset` bytes from the chunk's start, a multiple of 64 KiB; its length is one too, unless it
    /// ends with the chunk. Pieces come in any order, each at most once; they may be written at the same time. Bytes in
    /// page-aligned memory ([`AlignedBuf`](crate::runtime::disk::AlignedBuf)) go to the disk as they are, others are
    /// copied. Keeps a clone of `bytes` until the disk has them, even if the caller stops waiting.
    pub async fn write(&self, offset: u64, _bytes: Bytes) -> Result<(), StoreError> {
        Err(StoreError::Misaligned { offset, len: 0 })
    }

    /// Says that all bytes were written, with one checksum per block. The chunk is here when this returns, and durable
    /// some seconds later. Fails when pieces are missing, or the checksums are not one per block.
    pub async fn commit(self, _crcs: Vec<u32>) -> Result<(), StoreError> {
        Err(StoreError::Closed)
    }
}
