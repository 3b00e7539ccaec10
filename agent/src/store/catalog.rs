//! `index.redb`: which chunks a store holds, and the checksums of their blocks.
//!
//! ```text
//! meta     name                                        -> u64           "commit", "clean"
//! objects  object id (16)                              -> volume id (16), size u64 LE, chunk size u32 LE
//! chunks   object id (16), chunk index u32 BE          -> commit u64 LE, then one CRC32C u32 LE per 64 KiB block
//! ```
//!
//! Big-endian indexes keep an object's chunks in order. Each chunk carries the number of the durable commit that first
//! held it; `clean` is the number at the last clean close, so what lies above it was not closed cleanly. Most commits
//! are not durable: a lost tail is a miss. A durable one may only follow the sync of every file it names, which is the
//! committer's duty. The file may be deleted or damaged: it is then set aside into `lost/` and begun anew.

mod backend;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use larder_proto::ids::{ObjectId, VolumeId};
use larder_proto::object::{ChunkId, ChunkIndex, ChunkSize};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use self::backend::{Backend, Gate};
use crate::runtime::disk::{Caching, Disk, Lock, Open};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const OBJECTS: TableDefinition<'_, &[u8; 16], &[u8; 28]> = TableDefinition::new("objects");
const CHUNKS: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("chunks");

/// Bytes before the checksums in a chunk's value.
const COMMIT_BYTES: usize = 8;
const CRC_BYTES: usize = 4;

/// The index can't be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the index failed: {0}")]
pub(super) struct CatalogError(Box<redb::Error>);

impl<E: Into<redb::Error>> From<E> for CatalogError {
    fn from(error: E) -> Self {
        Self(Box::new(error.into()))
    }
}

impl CatalogError {
    /// Whether the disk failed, rather than what is on it.
    fn is_disk(&self) -> bool {
        matches!(self.0.as_ref(), redb::Error::Io(error) if error.raw_os_error().is_some())
    }

    /// As an I/O error, for callers that only go on to another place.
    pub fn into_io(self) -> io::Error {
        match *self.0 {
            redb::Error::Io(error) => error,
            other => io::Error::other(other),
        }
    }
}

/// What the catalog keeps of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ObjectRow {
    pub id: ObjectId,
    pub volume: VolumeId,
    pub size: u64,
    pub chunk_size: ChunkSize,
}

impl ObjectRow {
    fn to_bytes(self) -> [u8; 28] {
        let mut bytes = [0; 28];
        bytes[..16].copy_from_slice(self.volume.as_bytes());
        bytes[16..24].copy_from_slice(&self.size.to_le_bytes());
        bytes[24..].copy_from_slice(&self.chunk_size.bytes().to_le_bytes());
        bytes
    }

    fn from_bytes(id: &[u8; 16], bytes: &[u8; 28]) -> Option<Self> {
        Some(Self {
            id: ObjectId::from_bytes(*id),
            volume: VolumeId::from_slice(&bytes[..16])?,
            size: u64::from_le_bytes(bytes[16..24].try_into().ok()?),
            chunk_size: ChunkSize::new(u32::from_le_bytes(bytes[24..].try_into().ok()?))?,
        })
    }
}

/// One step of a batch.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Put { object: ObjectRow, index: ChunkIndex, crcs: Vec<u32> },
    RemoveChunk(ChunkId),
    RemoveObject(ObjectId),
}

/// What a commit promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// Visible; lost with the power.
    Visible,
    /// On disk.
    Durable,
    /// On disk, and nothing follows: the clean mark.
    Clean,
}

/// What [`Catalog::open`] found.
pub(super) struct Opened {
    pub catalog: Catalog,
    /// The index was damaged and lies in `lost/` now.
    pub set_aside: bool,
    /// Whether the last close was clean.
    pub clean: bool,
}

/// One row of a load.
pub(super) enum Row {
    Object(ObjectRow),
    /// A chunk with the number of its checksums; false from the receiver means: remove it.
    Chunk {
        id: ChunkId,
        blocks: usize,
    },
}

/// The open index. Field order matters: the database is closed before the folder's lock is released.
pub(super) struct Catalog {
    db: Database,
    gate: Gate,
    /// The number of the last durable commit.
    commit: AtomicU64,
    /// Whether the last commit carried the clean mark.
    closed: AtomicBool,
    _lock: Box<dyn Lock>,
}

impl Drop for Catalog {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::Acquire) {
            self.gate.shut();
        }
    }
}

impl Catalog {
    /// Opens or makes the index below `root` and gives every row to `receive`, objects first; `receive` answers
    /// whether the row makes sense. Rows that don't are removed. Starts over, once, when the index is damaged:
    /// `restart` is called before rows are given again.
    pub fn open(
        disk: &dyn Disk,
        root: &Path,
        lock: Box<dyn Lock>,
        cache_bytes: usize,
        now_ms: u64,
        receive: &mut dyn FnMut(Option<Row>) -> bool,
    ) -> Result<Opened, CatalogError> {
        let path = root.join("index.redb");
        let attempt = |receive: &mut dyn FnMut(Option<Row>) -> bool| {
            // redb may panic on pages that no checksum covers; that is damage too.
            catch_unwind(AssertUnwindSafe(|| open_and_load(disk, &path, cache_bytes, receive)))
        };
        let (opened, set_aside) = match attempt(receive) {
            Ok(Ok(opened)) => (opened, false),
            Ok(Err(error)) if error.is_disk() => return Err(error),
            Ok(Err(_)) | Err(_) => {
                let lost = root.join("lost");
                disk.create_dir_all(&lost)?;
                disk.rename(&path, &lost.join(format!("index-{now_ms}.redb")))?;
                receive(None);
                (open_and_load(disk, &path, cache_bytes, receive)?, true)
            }
        };
        let (db, gate, commit, clean) = opened;
        let (commit, closed) = (AtomicU64::new(commit), AtomicBool::new(false));
        Ok(Opened { catalog: Self { db, gate, commit, closed, _lock: lock }, set_aside, clean })
    }

    /// Applies a batch in one transaction.
    pub fn apply(&self, changes: &[Change], promise: Promise) -> Result<(), CatalogError> {
        let mut write = self.db.begin_write()?;
        match promise {
            Promise::Visible => write.set_durability(Durability::None)?,
            // The allocator's state is saved too, so that opening after a crash takes milliseconds.
            Promise::Durable | Promise::Clean => write.set_quick_repair(true),
        }
        let commit = self.commit.load(Ordering::Relaxed) + 1;
        {
            let mut objects = write.open_table(OBJECTS)?;
            let mut chunks = write.open_table(CHUNKS)?;
            for change in changes {
                match change {
                    Change::Put { object, index, crcs } => {
                        objects.insert(object.id.as_bytes(), &object.to_bytes())?;
                        let id = ChunkId { object: object.id, index: *index };
                        chunks.insert(&chunk_key(id), chunk_value(commit, crcs).as_slice())?;
                    }
                    Change::RemoveChunk(id) => {
                        chunks.remove(&chunk_key(*id))?;
                    }
                    Change::RemoveObject(id) => {
                        objects.remove(id.as_bytes())?;
                        let (first, last) = (key(*id, 0), key(*id, u32::MAX));
                        chunks.retain_in::<&[u8; 20], _>(&first..=&last, |_, _| false)?;
                    }
                }
            }
            if promise != Promise::Visible {
                let mut meta = write.open_table(META)?;
                meta.insert("commit", commit)?;
                if promise == Promise::Clean {
                    meta.insert("clean", commit)?;
                }
            }
        }
        write.commit()?;
        if promise != Promise::Visible {
            self.commit.store(commit, Ordering::Relaxed);
        }
        self.closed.store(promise == Promise::Clean, Ordering::Release);
        Ok(())
    }

    /// The checksums of `count` blocks from block `first` of a chunk; nothing when it isn't in the catalog with them.
    pub fn crcs(&self, id: ChunkId, first: usize, count: usize) -> Result<Option<Vec<u32>>, CatalogError> {
        let chunks = self.db.begin_read()?.open_table(CHUNKS)?;
        let Some(value) = chunks.get(&chunk_key(id))? else { return Ok(None) };
        let start = COMMIT_BYTES + first * CRC_BYTES;
        let part = value.value().get(start..start + count * CRC_BYTES);
        let crc = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok(part.map(|part| part.chunks_exact(CRC_BYTES).map(crc).collect()))
    }

    /// Stops every write for good.
    pub fn fence(&self) {
        self.gate.shut();
    }
}

type Loaded = (Database, Gate, u64, bool);

fn open_and_load(
    disk: &dyn Disk,
    path: &Path,
    cache_bytes: usize,
    receive: &mut dyn FnMut(Option<Row>) -> bool,
) -> Result<Loaded, CatalogError> {
    let gate = Gate::default();
    let file = disk.open(path, Open::Create, Caching::Buffered)?;
    let backend = Backend { file, gate: gate.clone() };
    let db = Database::builder().set_cache_size(cache_bytes).create_with_backend(backend)?;
    let (commit, clean) = {
        let read = db.begin_read()?;
        let meta = |name| -> Result<u64, CatalogError> {
            match read.open_table(META) {
                Ok(table) => Ok(table.get(name)?.map_or(0, |value| value.value())),
                Err(TableError::TableDoesNotExist(_)) => Ok(0),
                Err(error) => Err(error.into()),
            }
        };
        (meta("commit")?, meta("clean")?)
    };
    let bad = load(&db, receive)?;
    if !bad.is_empty() {
        let write = db.begin_write()?;
        {
            let mut chunks = write.open_table(CHUNKS)?;
            for key in &bad {
                chunks.remove(key)?;
            }
        }
        write.commit()?;
    }
    Ok((db, gate, commit, commit == clean))
}

/// Gives every row away; returns the keys of chunks that made no sense.
fn load(db: &Database, receive: &mut dyn FnMut(Option<Row>) -> bool) -> Result<Vec<[u8; 20]>, CatalogError> {
    let read = db.begin_read()?;
    let mut bad = Vec::new();
    match read.open_table(OBJECTS) {
        Ok(objects) => {
            for row in objects.iter()? {
                let (id, value) = row?;
                if let Some(object) = ObjectRow::from_bytes(id.value(), value.value()) {
                    receive(Some(Row::Object(object)));
                }
            }
        }
        Err(TableError::TableDoesNotExist(_)) => return Ok(bad),
        Err(error) => return Err(error.into()),
    }
    for row in read.open_table(CHUNKS)?.iter()? {
        let (key, value) = row?;
        let key = key.value();
        let (object, index) = key.split_at(16);
        let object = ObjectId::from_slice(object).expect("split at 16");
        let index = u32::from_be_bytes(index.try_into().expect("20 - 16 bytes"));
        let crcs = value.value().len().saturating_sub(COMMIT_BYTES);
        let id = ChunkId { object, index: ChunkIndex(index) };
        let whole = crcs.is_multiple_of(CRC_BYTES);
        if !whole || !receive(Some(Row::Chunk { id, blocks: crcs / CRC_BYTES })) {
            bad.push(*key);
        }
    }
    Ok(bad)
}

fn chunk_key(id: ChunkId) -> [u8; 20] {
    key(id.object, id.index.0)
}

fn key(object: ObjectId, index: u32) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(object.as_bytes());
    key[16..].copy_from_slice(&index.to_be_bytes());
    key
}

fn chunk_value(commit: u64, crcs: &[u32]) -> Vec<u8> {
    let mut value = Vec::with_capacity(COMMIT_BYTES + crcs.len() * CRC_BYTES);
    value.extend_from_slice(&commit.to_le_bytes());
    value.extend(crcs.iter().flat_map(|crc| crc.to_le_bytes()));
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_pinned() {
        let id = ChunkId { object: ObjectId::from_bytes([0xab; 16]), index: ChunkIndex(0x0102_0304) };
        assert_eq!(hex::encode(chunk_key(id)), "abababababababababababababababab01020304");
        assert_eq!(hex::encode(chunk_value(7, &[1, 0x0a0b_0c0d])), "0700000000000000010000000d0c0b0a");
        let chunk_size = ChunkSize::new(4 << 20).expect("4 MiB");
        let row = ObjectRow { id: id.object, volume: VolumeId::from_bytes([0xcd; 16]), size: 300, chunk_size };
        assert_eq!(hex::encode(row.to_bytes()), "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd2c0100000000000000004000");
        assert_eq!(ObjectRow::from_bytes(id.object.as_bytes(), &row.to_bytes()), Some(row));
    }
}
