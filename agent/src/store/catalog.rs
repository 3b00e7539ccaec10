//! `index.redb`: which chunks a store holds, and the checksums of their blocks.
//!
//! ```text
//! meta     name                                 -> u64    "format", "commit", "clean", "scrub", "scrub_chunk"
//! objects  object id (16)                       -> volume id (16), size u64 LE, chunk size u32 LE, filled u32 LE,
//!                                                  key length u16 LE, key, version
//! chunks   object id (16), chunk index u32 BE   -> commit u64 LE, then one CRC32C u32 LE per 64 KiB block
//! ```
//!
//! Big-endian indexes keep an object's chunks in order. `filled` is the wall clock's second in which the first chunk
//! came; key and version give the slots, and tell what is pinned. `scrub` is the beginning (u64 BE) of the object id
//! that is scrubbed next, from `scrub_chunk` on. A newer `format` is refused, an older one set aside. Each chunk carries the number of the durable commit that first
//! held it; `clean` is the number at the last clean close, so what lies above it was not closed cleanly. Most commits
//! are not durable: a lost tail is a miss. A durable one may only follow the sync of every file it names, which is the
//! committer's duty. The file may be deleted or damaged: it is then set aside into `lost/` and begun anew.

mod backend;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use larder_proto::ids::{ObjectId, VolumeId};
use larder_proto::object::{ChunkId, ChunkIndex, ChunkSize, Object, ObjectKey, Version};
use parking_lot::Mutex;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use self::backend::{Backend, Gate};
use crate::runtime::disk::{Caching, Disk, Lock, Open};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const OBJECTS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("objects");
const CHUNKS: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("chunks");

/// The layout above.
const FORMAT: u64 = 2;

/// Bytes before the key in an object's value.
const OBJECT_FIXED_BYTES: usize = 34;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObjectRow {
    pub object: Arc<Object>,
    /// Wall clock, in seconds: when the first chunk came.
    pub filled_s: u32,
}

impl ObjectRow {
    fn to_bytes(&self) -> Vec<u8> {
        let object = &self.object;
        let (key, version) = (object.key().as_str().as_bytes(), object.version().as_str().as_bytes());
        let mut bytes = Vec::with_capacity(OBJECT_FIXED_BYTES + key.len() + version.len());
        bytes.extend_from_slice(object.volume().as_bytes());
        bytes.extend_from_slice(&object.size().to_le_bytes());
        bytes.extend_from_slice(&object.chunk_size().bytes().to_le_bytes());
        bytes.extend_from_slice(&self.filled_s.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(key.len()).expect("a key is at most 1,024 bytes").to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(version);
        bytes
    }

    /// Nothing when the row makes no sense, or isn't the object's of this id.
    fn from_bytes(id: &[u8; 16], bytes: &[u8]) -> Option<Self> {
        let (fixed, rest) = bytes.split_at_checked(OBJECT_FIXED_BYTES)?;
        let key_len = usize::from(u16::from_le_bytes(fixed[32..].try_into().ok()?));
        let (key, version) = rest.split_at_checked(key_len)?;
        let volume = VolumeId::from_slice(&fixed[..16])?;
        let size = u64::from_le_bytes(fixed[16..24].try_into().ok()?);
        let chunk_size = ChunkSize::new(u32::from_le_bytes(fixed[24..28].try_into().ok()?))?;
        let filled_s = u32::from_le_bytes(fixed[28..32].try_into().ok()?);
        let key = ObjectKey::parse(std::str::from_utf8(key).ok()?).ok()?;
        let version = Version::of_etag(std::str::from_utf8(version).ok()?)?;
        let object = Object::new(volume, key, version, size, chunk_size)?;
        (object.id().as_bytes() == id).then_some(Self { object, filled_s })
    }
}

/// One step of a batch.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Put { row: ObjectRow, index: ChunkIndex, crcs: Vec<u32> },
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
    /// A chunk of the object before it, with the number of its checksums; `sure`: the last close was clean, or this chunk
    /// was here at the last one that was. False from the receiver means: remove it.
    Chunk {
        id: ChunkId,
        blocks: usize,
        sure: bool,
    },
}

/// Why the index can't be used as it is.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("it has the older layout {0}")]
    Older(u64),
    #[error("it has layout {0}, this version knows up to {FORMAT}")]
    Newer(u64),
}

impl<E: Into<redb::Error>> From<E> for LoadError {
    fn from(error: E) -> Self {
        Self::Catalog(CatalogError(Box::new(error.into())))
    }
}

/// Why the index was not opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum CatalogOpenError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A newer Larder wrote it.
    #[error("format {found}, known up to {FORMAT}")]
    Newer { found: u64 },
}

/// The open index. Field order matters: the database is closed before the folder's lock is released.
pub(super) struct Catalog {
    db: Database,
    gate: Gate,
    /// The number of the last durable commit.
    commit: AtomicU64,
    /// Whether the last commit carried the clean mark.
    closed: AtomicBool,
    scrub: Mutex<ScrubAt>,
    _lock: Box<dyn Lock>,
}

/// Where scrubbing goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ScrubAt {
    /// The beginning of the object's id.
    pub object: u64,
    /// The chunk.
    pub chunk: u32,
}

impl Drop for Catalog {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::Acquire) {
            self.gate.shut();
        }
    }
}

impl Catalog {
    /// Opens or makes the index below `root` and gives every row to `receive`, each object before its chunks; `receive`
    /// answers whether the row makes sense. Rows that don't are removed. Starts over, once, when the index is damaged or
    /// has an older layout: `receive` is given nothing before rows are given again. A newer layout is left alone.
    pub fn open(
        disk: &dyn Disk,
        root: &Path,
        lock: Box<dyn Lock>,
        cache_bytes: usize,
        now_ms: u64,
        receive: &mut dyn FnMut(Option<Row>) -> bool,
    ) -> Result<Opened, CatalogOpenError> {
        let path = root.join("index.redb");
        let attempt = |receive: &mut dyn FnMut(Option<Row>) -> bool| {
            // redb may panic on pages that no checksum covers; that is damage too.
            catch_unwind(AssertUnwindSafe(|| open_and_load(disk, &path, cache_bytes, receive)))
        };
        let (opened, set_aside) = match attempt(receive) {
            Ok(Ok(opened)) => (opened, false),
            Ok(Err(LoadError::Newer(found))) => return Err(CatalogOpenError::Newer { found }),
            Ok(Err(LoadError::Catalog(error))) if error.is_disk() => return Err(error.into_io().into()),
            Ok(Err(_)) | Err(_) => {
                let lost = root.join("lost");
                disk.create_dir_all(&lost)?;
                disk.rename(&path, &lost.join(format!("index-{now_ms}.redb")))?;
                receive(None);
                let again = open_and_load(disk, &path, cache_bytes, receive);
                (again.map_err(|error| io::Error::other(error.to_string()))?, true)
            }
        };
        let LoadedIndex { db, gate, commit, clean, scrub } = opened;
        let (commit, closed) = (AtomicU64::new(commit), AtomicBool::new(false));
        let scrub = Mutex::new(scrub);
        Ok(Opened { catalog: Self { db, gate, commit, closed, scrub, _lock: lock }, set_aside, clean })
    }

    /// What is scrubbed next; kept with the next durable commit.
    pub fn scrub_at(&self) -> ScrubAt {
        *self.scrub.lock()
    }

    pub fn set_scrub_at(&self, at: ScrubAt) {
        *self.scrub.lock() = at;
    }

    /// At most `count` objects whose ids are not below `from`, in order.
    pub fn objects_from(&self, from: &[u8; 16], count: usize) -> Result<Vec<ObjectRow>, CatalogError> {
        let read = self.db.begin_read()?;
        let objects = match read.open_table(OBJECTS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            other => other?,
        };
        let mut rows = Vec::with_capacity(count.min(1024));
        for row in objects.range::<&[u8; 16]>(from..)?.take(count) {
            let (id, value) = row?;
            rows.extend(ObjectRow::from_bytes(id.value(), value.value()));
        }
        Ok(rows)
    }

    /// One object.
    pub fn object(&self, id: ObjectId) -> Result<Option<Arc<Object>>, CatalogError> {
        let objects = self.db.begin_read()?.open_table(OBJECTS)?;
        let row = objects.get(id.as_bytes())?;
        Ok(row.and_then(|row| ObjectRow::from_bytes(id.as_bytes(), row.value())).map(|row| row.object))
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
                    Change::Put { row, index, crcs } => {
                        let object = row.object.id();
                        objects.insert(object.as_bytes(), row.to_bytes().as_slice())?;
                        let id = ChunkId { object, index: *index };
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
                meta.insert("format", FORMAT)?;
                meta.insert("commit", commit)?;
                let scrub = self.scrub_at();
                meta.insert("scrub", scrub.object)?;
                meta.insert("scrub_chunk", u64::from(scrub.chunk))?;
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

struct LoadedIndex {
    db: Database,
    gate: Gate,
    commit: u64,
    clean: bool,
    scrub: ScrubAt,
}

fn open_and_load(
    disk: &dyn Disk,
    path: &Path,
    cache_bytes: usize,
    receive: &mut dyn FnMut(Option<Row>) -> bool,
) -> Result<LoadedIndex, LoadError> {
    let gate = Gate::default();
    let file = disk.open(path, Open::Create, Caching::Buffered).map_err(redb::Error::Io)?;
    let backend = Backend { file, gate: gate.clone() };
    let db = Database::builder().set_cache_size(cache_bytes).create_with_backend(backend)?;
    let (format, commit, clean, scrub) = {
        let read = db.begin_read()?;
        let meta = |name, absent: u64| -> Result<u64, CatalogError> {
            match read.open_table(META) {
                Ok(table) => Ok(table.get(name)?.map_or(absent, |value| value.value())),
                Err(TableError::TableDoesNotExist(_)) => Ok(if name == "format" { FORMAT } else { 0 }),
                Err(error) => Err(error.into()),
            }
        };
        // The first layout had no number.
        let chunk = u32::try_from(meta("scrub_chunk", 0)?).unwrap_or(0);
        let scrub = ScrubAt { object: meta("scrub", 0)?, chunk };
        (meta("format", 1)?, meta("commit", 0)?, meta("clean", 0)?, scrub)
    };
    match format {
        FORMAT => {}
        newer if newer > FORMAT => return Err(LoadError::Newer(newer)),
        older => return Err(LoadError::Older(older)),
    }
    let sure_to = if commit == clean { u64::MAX } else { clean };
    let bad = load(&db, sure_to, receive)?;
    if !bad.objects.is_empty() || !bad.chunks.is_empty() {
        let write = db.begin_write()?;
        {
            let (mut objects, mut chunks) = (write.open_table(OBJECTS)?, write.open_table(CHUNKS)?);
            for key in &bad.objects {
                objects.remove(key)?;
            }
            for key in &bad.chunks {
                chunks.remove(key)?;
            }
        }
        write.commit()?;
    }
    Ok(LoadedIndex { db, gate, commit, clean: commit == clean, scrub })
}

/// Rows that made no sense.
#[derive(Default)]
struct Bad {
    objects: Vec<[u8; 16]>,
    chunks: Vec<[u8; 20]>,
}

/// Gives every row away. Both tables are in the order of object ids: they are read side by side.
fn load(db: &Database, sure_to: u64, receive: &mut dyn FnMut(Option<Row>) -> bool) -> Result<Bad, CatalogError> {
    let read = db.begin_read()?;
    let mut bad = Bad::default();
    let objects = match read.open_table(OBJECTS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(bad),
        other => other?,
    };
    let chunks = read.open_table(CHUNKS)?;
    let mut chunks = chunks.iter()?.peekable();
    for row in objects.iter()? {
        let (id, value) = row?;
        let id = *id.value();
        let object = ObjectRow::from_bytes(&id, value.value());
        let known = object.is_some_and(|object| receive(Some(Row::Object(object))));
        if !known {
            bad.objects.push(id);
        }
        while let Some(row) = chunks.next_if(|row| row.as_ref().map_or(true, |(key, _)| key.value()[..16] <= id[..])) {
            let (key, value) = row?;
            let key = *key.value();
            if !known || key[..16] != id || !give(&key, value.value(), sure_to, receive) {
                bad.chunks.push(key);
            }
        }
    }
    for row in chunks {
        bad.chunks.push(*row?.0.value());
    }
    Ok(bad)
}

fn give(key: &[u8; 20], value: &[u8], sure_to: u64, receive: &mut dyn FnMut(Option<Row>) -> bool) -> bool {
    let (object, index) = key.split_at(16);
    let object = ObjectId::from_slice(object).expect("split at 16");
    let index = u32::from_be_bytes(index.try_into().expect("20 - 16 bytes"));
    let Some((commit, crcs)) = value.split_at_checked(COMMIT_BYTES) else { return false };
    let sure = u64::from_le_bytes(commit.try_into().expect("split at 8")) <= sure_to;
    let id = ChunkId { object, index: ChunkIndex(index) };
    crcs.len().is_multiple_of(CRC_BYTES) && receive(Some(Row::Chunk { id, blocks: crcs.len() / CRC_BYTES, sure }))
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
        let key = ObjectKey::parse("a/b").expect("plain");
        let version = Version::of_etag("v1").expect("plain");
        let object = Object::new(VolumeId::from_bytes([0xcd; 16]), key, version, 300, chunk_size).expect("small");
        let row = ObjectRow { object: object.clone(), filled_s: 0x0a0b_0c0d };
        let bytes = row.to_bytes();
        assert_eq!(
            hex::encode(&bytes),
            "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd2c01000000000000000040000d0c0b0a0300612f627631"
        );
        assert_eq!(ObjectRow::from_bytes(object.id().as_bytes(), &bytes), Some(row));
        assert_eq!(ObjectRow::from_bytes(&[0; 16], &bytes), None, "another object's row");
        for cut in 0..bytes.len() {
            assert_eq!(ObjectRow::from_bytes(object.id().as_bytes(), &bytes[..cut]), None);
        }
        for (place, byte) in (0..bytes.len()).flat_map(|place| (0..=u8::MAX).map(move |byte| (place, byte))) {
            let mut bent = bytes.clone();
            bent[place] = byte;
            let row = ObjectRow::from_bytes(object.id().as_bytes(), &bent);
            assert!(row.is_none_or(|row| row.object.id() == object.id()), "byte {place} is {byte}");
        }
    }
}
