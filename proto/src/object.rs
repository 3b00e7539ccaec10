//! Objects, their keys and versions, and the chunks they are cut into.

use std::fmt;
use std::sync::Arc;

use crate::ids::{ObjectId, Slot, VolumeId};
use crate::limits::{
    BLOCK_BYTES, CHUNK_BYTES_MAX, CHUNKS_PER_RUN, COMPONENT_BYTES_MAX, KEY_BYTES_MAX, OBJECT_BYTES_MAX,
    VERSION_BYTES_MAX,
};
use crate::placement;
use crate::range::ByteRange;

/// Why a key can't be a path; such keys are left out of listings and counted under this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum OddKey {
    /// The key is empty.
    #[error("the key is empty")]
    Empty,
    /// Longer than 1,024 bytes.
    #[error("the key is longer than 1,024 bytes")]
    TooLong,
    /// A component is empty (`a//b`, `/a`).
    #[error("the key has an empty component")]
    EmptyComponent,
    /// A component is `.` or `..`.
    #[error("the key has a component `.` or `..`")]
    DotComponent,
    /// A component is longer than 255 bytes.
    #[error("a component of the key is longer than 255 bytes")]
    ComponentTooLong,
    /// The key holds a NUL byte.
    #[error("the key holds a NUL byte")]
    Nul,
}

/// The key of a file: non-empty components joined by `/`, none of them `.` or `..`, no NUL, no trailing `/`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(Arc<str>);

impl ObjectKey {
    /// The key, or why it can't be the path of a file.
    pub fn parse(text: &str) -> Result<Self, OddKey> {
        if text.is_empty() {
            return Err(OddKey::Empty);
        }
        if text.len() > KEY_BYTES_MAX {
            return Err(OddKey::TooLong);
        }
        for component in text.split('/') {
            EntryName::check(component)?;
        }
        Ok(Self(text.into()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory that holds the file, and its name there.
    pub fn split(&self) -> (DirPath, EntryName) {
        match self.0.rsplit_once('/') {
            Some((dir, name)) => (DirPath(dir.into()), EntryName(name.into())),
            None => (DirPath::root(), EntryName(self.0.clone())),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// One component of a path: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryName(Arc<str>);

impl EntryName {
    /// The name, or why it can't be one.
    pub fn parse(text: &str) -> Result<Self, OddKey> {
        if text.contains('/') {
            return Err(OddKey::EmptyComponent);
        }
        Self::check(text)?;
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn check(text: &str) -> Result<(), OddKey> {
        match text {
            "" => Err(OddKey::EmptyComponent),
            "." | ".." => Err(OddKey::DotComponent),
            _ if text.len() > COMPONENT_BYTES_MAX => Err(OddKey::ComponentTooLong),
            _ if text.contains('\0') => Err(OddKey::Nul),
            _ => Ok(()),
        }
    }
}

/// A directory's path within a volume: empty for the root, else like a key, without a trailing `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirPath(Arc<str>);

impl DirPath {
    /// The volume's root.
    pub fn root() -> Self {
        Self("".into())
    }

    /// The directory of this path (without a trailing `/`; empty = the root).
    pub fn parse(text: &str) -> Result<Self, OddKey> {
        if text.is_empty() {
            return Ok(Self::root());
        }
        ObjectKey::parse(text).map(|key| Self(key.0))
    }

    /// Whether this is the volume's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What keys below this directory begin with: empty, or the path and `/`.
    pub fn prefix(&self) -> String {
        if self.is_root() { String::new() } else { format!("{}/", self.0) }
    }

    /// The key of the file `name` in this directory; fails when it grows past 1,024 bytes.
    pub fn file(&self, name: &EntryName) -> Result<ObjectKey, OddKey> {
        self.child(name).map(|dir| ObjectKey(dir.0))
    }

    /// The directory `name` in this one; fails when the path grows past 1,024 bytes.
    pub fn child(&self, name: &EntryName) -> Result<DirPath, OddKey> {
        let path = format!("{}{}", self.prefix(), name.0);
        if path.len() > KEY_BYTES_MAX { Err(OddKey::TooLong) } else { Ok(Self(path.into())) }
    }

    /// The slot whose lead is this directory's home.
    pub fn slot(&self, volume: VolumeId) -> Slot {
        placement::slot_of_directory(volume, self)
    }
}

/// A version of an object: its ETag without quotes, or the origin's equivalent. 1 to 256 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(Arc<str>);

impl Version {
    /// The version of an ETag, quotes removed; nothing when it is empty, too long or not visible ASCII.
    pub fn of_etag(etag: &str) -> Option<Self> {
        let bare = etag.trim_matches('"');
        let valid = !bare.is_empty() && bare.len() <= VERSION_BYTES_MAX && bare.bytes().all(|b| b.is_ascii_graphic());
        valid.then(|| Self(bare.into()))
    }

    /// The version as text, without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The size of a volume's chunks in bytes: 64 KiB x a power of two, at most 64 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkSize(u32);

impl ChunkSize {
    /// The size, if it is 64 KiB x a power of two and at most 64 MiB.
    pub fn new(bytes: u32) -> Option<Self> {
        let valid = bytes.is_power_of_two() && (BLOCK_BYTES..=CHUNK_BYTES_MAX).contains(&bytes);
        valid.then_some(Self(bytes))
    }

    /// The size in bytes.
    pub fn bytes(self) -> u32 {
        self.0
    }
}

/// The position of a chunk in its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkIndex(pub u32);

/// An object at a version; its bytes never change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    volume: VolumeId,
    id: ObjectId,
    key: ObjectKey,
    version: Version,
    size: u64,
    chunk_size: ChunkSize,
}

impl Object {
    /// The object; nothing when `size` is above 5 TiB or needs more than 2^32 chunks.
    pub fn new(
        volume: VolumeId,
        key: ObjectKey,
        version: Version,
        size: u64,
        chunk_size: ChunkSize,
    ) -> Option<Arc<Self>> {
        if size > OBJECT_BYTES_MAX || u32::try_from(size.div_ceil(u64::from(chunk_size.0))).is_err() {
            return None;
        }
        let id = ObjectId::of(volume, key.as_str(), version.as_str());
        Some(Arc::new(Self { volume, id, key, version, size, chunk_size }))
    }

    /// Its volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Its id: volume, key and version in one.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Its key in the origin.
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// Its version.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The size of its chunks.
    pub fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    /// Number of chunks; an empty object has none.
    pub fn chunks(&self) -> u32 {
        u32::try_from(self.size.div_ceil(u64::from(self.chunk_size.0))).expect("checked by the constructor")
    }

    /// The chunk that holds byte `offset`; nothing at or past the end.
    pub fn chunk_at(self: &Arc<Self>, offset: u64) -> Option<Chunk> {
        (offset < self.size).then(|| {
            let index = u32::try_from(offset / u64::from(self.chunk_size.0)).expect("checked by the constructor");
            Chunk { object: self.clone(), index: ChunkIndex(index) }
        })
    }

    /// The chunk of this index; nothing past the end.
    pub fn chunk(self: &Arc<Self>, index: ChunkIndex) -> Option<Chunk> {
        (index.0 < self.chunks()).then(|| Chunk { object: self.clone(), index })
    }
}

/// What names a chunk everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId {
    /// The object.
    pub object: ObjectId,
    /// The position in it.
    pub index: ChunkIndex,
}

/// An aligned piece of an object; immutable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    object: Arc<Object>,
    index: ChunkIndex,
}

impl Chunk {
    /// The object it is a piece of.
    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// Its position.
    pub fn index(&self) -> ChunkIndex {
        self.index
    }

    /// Its name.
    pub fn id(&self) -> ChunkId {
        ChunkId { object: self.object.id, index: self.index }
    }

    /// Where it lies in the object.
    pub fn range(&self) -> ByteRange {
        let size = u64::from(self.object.chunk_size.0);
        ByteRange::at(u64::from(self.index.0) * size, size).clamp(self.object.size)
    }

    /// Its length in bytes; only an object's last chunk is shorter than the chunk size.
    pub fn len(&self) -> u32 {
        u32::try_from(self.range().len()).expect("a chunk is at most 64 MiB")
    }

    /// Never true: an empty object has no chunks.
    pub fn is_empty(&self) -> bool {
        self.range().is_empty()
    }

    /// The number of its first block, counted from the start of the object.
    pub fn first_block(&self) -> u64 {
        self.range().start() / u64::from(BLOCK_BYTES)
    }

    /// The slot that places it; `CHUNKS_PER_RUN` consecutive chunks share one.
    pub fn slot(&self) -> Slot {
        placement::slot_of_chunk(
            self.object.volume,
            &self.object.key,
            &self.object.version,
            self.index.0 / CHUNKS_PER_RUN,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_no_path_say_why() {
        let long = "x".repeat(256);
        for (key, why) in [
            ("", OddKey::Empty),
            ("a//b", OddKey::EmptyComponent),
            ("/a", OddKey::EmptyComponent),
            ("dir/", OddKey::EmptyComponent),
            ("../x", OddKey::DotComponent),
            ("a/./b", OddKey::DotComponent),
            ("a\0b", OddKey::Nul),
            (long.as_str(), OddKey::ComponentTooLong),
        ] {
            assert_eq!(ObjectKey::parse(key), Err(why), "{key:?}");
        }
        assert_eq!(ObjectKey::parse(&"abc/".repeat(300)), Err(OddKey::TooLong));
        let longest = format!("{}a", "abc/".repeat(255));
        assert!(ObjectKey::parse(&longest).is_ok(), "{} bytes", longest.len());
    }

    #[test]
    fn chunks_cover_the_object() {
        let size = ChunkSize::new(1 << 16).expect("64 KiB");
        let key = ObjectKey::parse("a/b").expect("plain");
        let version = Version::of_etag("\"v1\"").expect("plain");
        let object = Object::new(VolumeId::from_bytes([0; 16]), key, version, 200_000, size).expect("small");
        assert_eq!(object.version().as_str(), "v1");
        assert_eq!(object.chunks(), 4);
        let last = object.chunk(ChunkIndex(3)).expect("four chunks");
        assert_eq!((last.range().start(), last.len(), last.first_block()), (196_608, 3_392, 3));
        assert_eq!(object.chunk(ChunkIndex(4)), None);
        assert_eq!(object.chunk_at(199_999).map(|c| c.index()), Some(ChunkIndex(3)));
        assert_eq!(object.chunk_at(200_000), None);
    }

    #[test]
    fn directories_make_prefixes_and_children() {
        let name = EntryName::parse("x").expect("plain");
        assert_eq!(DirPath::root().prefix(), "");
        let dir = DirPath::root().child(&name).expect("short");
        assert_eq!(dir.prefix(), "x/");
        assert_eq!(dir.file(&name).expect("short").as_str(), "x/x");
        assert_eq!(dir.file(&name).expect("short").split(), (dir, name));
    }
}
