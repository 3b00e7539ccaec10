//! One volume as a tree of files: names, attributes, handles and reads, free of any protocol.
//!
//! A door asks twice: first a call that ends in `_now`, answered from memory or not at all; then the one that waits,
//! never longer than the volume's `readDeadline`. What a handle reads is the version it opened, to the end. Names come
//! from [`Names`] with their age and are used only while they are fresh enough; bytes come from [`Chunks`].
//! Nothing here writes: volumes are read-only.

use std::any::Any;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use larder_proto::error::ErrorKind;
use larder_proto::ids::VolumeId;
use larder_proto::object::{Chunk, DirPath, EntryName, Object, ObjectKey, OddKey};
use larder_proto::range::ByteRange;
use larder_proto::volume::{Freshness, Volume};
use larder_proto::wire::RequestId;
use tokio::time::Instant;

use crate::runtime::Runtime;

mod backings;
mod handles;
mod inodes;
mod known;
mod listings;
pub mod names;
mod numbers;
mod readahead;
mod reads;
mod room;
mod sweep;

pub use backings::{Backing, Backings, CachedOnly, Mode};
pub use known::{Looked, Part};
pub use listings::PartAt;
pub use numbers::{Numbers, NumbersError};
pub use reads::Parts;
pub use room::NameRoom;
pub use sweep::Swept;

use handles::Handles;
use inodes::{Begun, File, Inode, Inodes, Node};
use known::Known;
use readahead::Waste;
use sweep::Sweeps;

/// The number of a file or directory, as the kernel knows it: 24 bits of the agent's start counter, 40 bits of sequence.
/// Each (path, version) has its own, never reused. Spelled `Ino`, for a node is a member of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The volume's root, FUSE's constant.
    pub const ROOT: Self = Self(1);
}

/// The number of an open file or directory. The door chooses it (from the request that opens).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fh(pub u64);

/// Why a call has no result. A door turns each into its protocol's error by an exhaustive table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// No such name.
    #[error("no such file or directory")]
    NotFound,
    /// A name was looked up in a file.
    #[error("not a directory")]
    NotADirectory,
    /// A directory was opened as a file.
    #[error("is a directory")]
    IsADirectory,
    /// A component above 255 bytes, or a key above 1,024.
    #[error("the name is too long")]
    NameTooLong,
    /// The number isn't known (any more), or the version is gone: look the name up again.
    #[error("the file's version is gone")]
    Stale,
    /// Something that would write.
    #[error("the volume is read-only")]
    ReadOnly,
    /// No such open file.
    #[error("no such handle")]
    BadHandle,
    /// The bound on open files, or the last number, was reached.
    #[error("too many open files")]
    TooMany,
    /// An object larger than objects may be.
    #[error("the object is too large")]
    TooLarge,
    /// No answer within the volume's `readDeadline`.
    #[error("no answer within the deadline")]
    Deadline,
    /// A place that had to answer said this.
    #[error("{0}")]
    Failed(ErrorKind),
}

/// What a door shows of a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Its number.
    pub ino: Ino,
    /// File or directory.
    pub kind: Kind,
    /// Length in bytes; 0 for directories.
    pub size: u64,
    /// Last change, milliseconds since the epoch.
    pub mtime_ms: u64,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// File or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Dir,
}

/// Attributes, and how long the kernel may believe them (and the name that led here).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The attributes.
    pub attr: Attr,
    /// For this long.
    pub ttl: Duration,
}

/// Something said by a place, and when it was true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dated<T> {
    /// What was said.
    pub value: T,
    /// The moment of which it is true.
    pub as_of: Instant,
}

/// Who knows names: the directory's home, asked over whatever lies between.
#[async_trait]
pub trait Names: Send + Sync + 'static {
    /// What `name` in `dir` is, not older than `max_age` unless the origin can't be asked.
    async fn lookup(
        &self,
        volume: VolumeId,
        dir: &DirPath,
        name: &EntryName,
        max_age: Duration,
        deadline: Instant,
    ) -> Result<Dated<Looked>, ErrorKind>;

    /// Names in `dir` from the beginning or from where an earlier part said.
    async fn list(
        &self,
        volume: VolumeId,
        dir: &DirPath,
        from: Option<&Arc<str>>,
        max_age: Duration,
        deadline: Instant,
    ) -> Result<Dated<Part>, ErrorKind>;
}

/// How a handle is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPattern {
    /// From one end to the other: what lies beside these bytes is wanted too.
    Sequential,
    /// Here and there: only these bytes are wanted.
    Random,
}

/// Who brings bytes: the cache.
#[async_trait]
pub trait Chunks: Send + Sync + 'static {
    /// Bytes (`range` counts from the chunk's start) if they are in memory. Never blocks.
    fn read_now(&self, chunk: &Chunk, range: ByteRange) -> Option<Bytes>;

    /// Exactly the bytes of `range`, from the nearest place that has them.
    async fn read(
        &self,
        request: RequestId,
        chunk: &Chunk,
        range: ByteRange,
        pattern: ReadPattern,
        deadline: Instant,
    ) -> Result<Bytes, ErrorKind>;

    /// Begins to bring a chunk into memory. It stays wanted until what is returned is dropped; nothing is returned
    /// when there is no memory for it now. Never blocks.
    fn prefetch(&self, request: RequestId, chunk: &Chunk) -> Option<Prefetched>;

    /// What this node has of the object stays while the answer lives.
    fn hold(&self, object: &Object) -> Held;

    /// Has whole chunks brought to their owners, far ahead of their readers. Returns when they have come, or `deadline` has
    /// passed: how many of them are with an owner now. What isn't is brought by who reads it.
    async fn keep(&self, request: RequestId, chunks: Vec<Chunk>, deadline: Instant) -> usize;

    /// Bytes that the node's stores may hold, and hold.
    fn space(&self) -> Space;
}

/// Holds a prefetched chunk; dropping it says that nobody wants it any more.
pub type Prefetched = Box<dyn PrefetchGuard>;

/// What is asked of a prefetched chunk.
pub trait PrefetchGuard: Send {
    /// Whether it was brought for this guard's sake, and nobody has had bytes of it.
    fn is_wasted(&self) -> bool;
}

/// Keeps an object's chunks on this node; dropping it lets them go.
pub type Held = Box<dyn Any + Send>;

/// Room in the node's stores, for statfs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may be held.
    pub capacity_bytes: u64,
    /// Bytes that are held.
    pub used_bytes: u64,
}

/// What a volume's tree stands on.
pub struct Below {
    /// Names.
    pub names: Arc<dyn Names>,
    /// Bytes.
    pub chunks: Arc<dyn Chunks>,
    /// Numbers for files and directories, shared by all volumes of the agent.
    pub numbers: Arc<Numbers>,
    /// How files are opened.
    pub backings: Arc<dyn Backings>,
    /// Memory for names, shared by all volumes and the home of the agent.
    pub room: Arc<NameRoom>,
}

/// The longest the kernel believes anything ("for ever").
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// A volume's tree.
pub struct Fs {
    runtime: Runtime,
    volume: ArcSwap<Volume>,
    born_ms: u64,
    below: Below,
    inodes: Inodes,
    known: Arc<Known>,
    handles: Handles,
    sweeps: Arc<Sweeps>,
    waste: Arc<Waste>,
    read_bytes: AtomicU64,
    stale_names: AtomicU64,
}

impl Fs {
    /// The tree of `volume`. Directories show the time of this call, because the origin knows none.
    pub fn new(runtime: Runtime, volume: Arc<Volume>, below: Below) -> Self {
        Self {
            born_ms: runtime.clock.wall_ms(),
            inodes: Inodes::new(below.numbers.clone(), &below.room),
            known: Known::new(&below.room),
            handles: Handles::default(),
            sweeps: Arc::default(),
            waste: Arc::default(),
            read_bytes: AtomicU64::new(0),
            stale_names: AtomicU64::new(0),
            volume: ArcSwap::new(volume),
            runtime,
            below,
        }
    }

    /// The volume as it is now.
    pub fn volume(&self) -> Arc<Volume> {
        self.volume.load_full()
    }

    /// Takes over what may change in a volume: freshness, deadline, attributes, credentials.
    pub fn set_volume(&self, volume: Arc<Volume>) {
        self.volume.store(volume);
    }

    /// Room in this node's stores.
    pub fn space(&self) -> Space {
        self.below.chunks.space()
    }

    /// What `name` in `parent` is, if memory holds a fresh answer. One reference to the result is counted.
    pub fn lookup_now(&self, parent: Ino, name: &OsStr) -> Option<Result<Entry, FsError>> {
        let (dir, name) = match self.place(parent, name) {
            Ok(place) => place,
            Err(error) => return Some(Err(error)),
        };
        let known = self.known.find(&dir, &name)?;
        self.is_fresh(known.as_of).then(|| self.entry(&dir, &name, &known))
    }

    /// What `name` in `parent` is. One reference to the result is counted.
    pub async fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Entry, FsError> {
        let (dir, name) = self.place(parent, name)?;
        let volume = self.volume();
        let asked = self.runtime.clock.now();
        let max_age = self.known.max_age(&dir, &name, asked, max_age(volume.freshness));
        let deadline = asked + volume.read_deadline;
        let ask = self.below.names.lookup(volume.id, &dir, &name, max_age, deadline);
        let answer = match self.until(deadline, ask).await {
            Ok(answer) => {
                self.known.learn(&dir, &name, answer.clone());
                answer
            }
            Err(error) => self.stale(&volume, error, || self.known.find(&dir, &name))?,
        };
        self.entry(&dir, &name, &answer)
    }

    /// The attributes behind a number; they never change, for a new version has a new number.
    pub fn getattr(&self, ino: Ino) -> Result<Entry, FsError> {
        let inode = self.inodes.get(ino).ok_or(FsError::Stale)?;
        let ttl = match self.volume.load().freshness {
            Freshness::Within(freshness) => freshness.min(FOREVER),
            Freshness::OnOpen => Duration::ZERO,
            Freshness::Forever => FOREVER,
        };
        Ok(Entry { attr: self.attr(&inode), ttl })
    }

    /// Gives back `count` references to a number.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.inodes.forget(ino, count);
    }

    /// Opens a file for reading under the number `fh`, if memory knows how it is to be read; the handle reads the version
    /// behind `ino` until it is released. Nothing happens on `None`: [`open`](Self::open) must be asked.
    pub fn open_now(&self, ino: Ino, fh: Fh) -> Option<Result<Mode, FsError>> {
        self.try_open_now(ino, fh).transpose()
    }

    fn try_open_now(&self, ino: Ino, fh: Fh) -> Result<Option<Mode>, FsError> {
        let inode = self.inodes.get(ino).ok_or(FsError::Stale)?;
        let file = openable(&inode)?;
        let now = || self.below.backings.choose_now(file.object());
        let mode = self.inodes.open_now(ino, now, || self.hold(file)).map_err(|_unknown| FsError::Stale)?;
        mode.map(|mode| self.opened(&inode, fh, mode)).transpose()
    }

    /// Opens a file for reading under the number `fh`, as [`open_now`](Self::open_now) does, waiting for the disk if the
    /// file may be read past the agent.
    pub async fn open(&self, ino: Ino, fh: Fh) -> Result<Mode, FsError> {
        let inode = self.inodes.get(ino).ok_or(FsError::Stale)?;
        let file = openable(&inode)?;
        let mode = match self.inodes.begin_open(ino, || self.hold(file)).ok_or(FsError::Stale)? {
            Begun::Made(mode) => mode,
            Begun::Chooses(tell) => {
                let mode = self.below.backings.choose(file.object()).await;
                self.inodes.chosen(ino, mode.clone());
                let _nobody_waits = tell.send(Some(mode.clone()));
                mode
            }
            Begun::Waits(mut made) => {
                let made = made.wait_for(Option::is_some).await.ok().and_then(|made| made.clone());
                let Some(mode) = made else {
                    // Whoever was to choose is gone: the agent is stopping.
                    self.inodes.closed(ino);
                    return Err(FsError::Deadline);
                };
                mode
            }
        };
        self.opened(&inode, fh, mode)
    }

    /// A counted handle gets its number.
    fn opened(&self, inode: &Arc<Inode>, fh: Fh, mode: Mode) -> Result<Mode, FsError> {
        if !self.handles.open_file(fh, inode.clone(), &self.waste) {
            self.inodes.closed(inode.ino());
            return Err(FsError::TooMany);
        }
        if let (Mode::Passthrough(_), Node::File(file)) = (&mode, inode.node()) {
            // The kernel's own reads can't be seen: an open stands for the whole file.
            self.read_bytes.fetch_add(file.object().size(), Ordering::Relaxed);
        }
        Ok(mode)
    }

    fn hold(&self, file: &File) -> Option<Held> {
        Some(self.below.chunks.hold(file.object()))
    }

    /// Closes a file or directory.
    pub fn release(&self, fh: Fh) {
        if let Some(ino) = self.handles.close(fh) {
            self.inodes.closed(ino);
        }
    }

    /// Opens a directory for listing under the number `fh`.
    pub fn opendir(&self, ino: Ino, fh: Fh) -> Result<(), FsError> {
        let inode = self.inodes.get(ino).ok_or(FsError::Stale)?;
        let Node::Dir(_) = inode.node() else { return Err(FsError::NotADirectory) };
        let cached = || Some(Mode::Cached);
        self.inodes.open_now(ino, cached, || None).map_err(|_unknown| FsError::Stale)?;
        if self.handles.open_dir(fh, inode, &self.below.room) {
            Ok(())
        } else {
            self.inodes.closed(ino);
            Err(FsError::TooMany)
        }
    }

    /// Whether the kernel should be told to forget names of this volume.
    pub fn is_crowded(&self) -> bool {
        self.below.room.numbers_above(self.inodes.len()) > 0
    }

    /// Names (directory, name) that the kernel should be told to forget, oldest first, so that numbers take no more than
    /// their part of the room that all mounts share. Numbers with open handles stay.
    pub fn to_forget(&self) -> Vec<(Ino, EntryName)> {
        let above = self.below.room.numbers_above(self.inodes.len());
        if above == 0 {
            return Vec::new();
        }
        let places = self.inodes.oldest(above).into_iter().filter_map(|inode| {
            let (dir, name) = match inode.node() {
                Node::File(file) => file.object().key().split(),
                Node::Dir(path) => ObjectKey::parse(path.as_str()).ok()?.split(),
            };
            let dir = if dir.is_root() { Ino::ROOT } else { self.inodes.number_of_dir(&dir)? };
            Some((dir, name))
        });
        places.collect()
    }

    /// Numbers that are in use, and open handles.
    pub fn counts(&self) -> (usize, usize) {
        (self.inodes.len(), self.handles.len())
    }

    /// Bytes that readers got, since the tree was made.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Names and listings served older than they should be, because nobody could be asked.
    pub fn stale_names(&self) -> u64 {
        self.stale_names.load(Ordering::Relaxed)
    }

    fn place(&self, parent: Ino, name: &OsStr) -> Result<(DirPath, EntryName), FsError> {
        let inode = self.inodes.get(parent).ok_or(FsError::Stale)?;
        let Node::Dir(dir) = inode.node() else { return Err(FsError::NotADirectory) };
        // Keys are UTF-8: another name can't exist.
        let name = name.to_str().ok_or(FsError::NotFound)?;
        let name = EntryName::parse(name).map_err(name_error)?;
        dir.child(&name).map_err(name_error)?;
        Ok((dir.clone(), name))
    }

    /// The entry for an answer about `name`; counts a reference.
    fn entry(&self, dir: &DirPath, name: &EntryName, answer: &Dated<Looked>) -> Result<Entry, FsError> {
        let inode = match &answer.value {
            Looked::Absent => return Err(FsError::NotFound),
            Looked::Dir => self.inodes.refer_dir(&dir.child(name).map_err(name_error)?),
            Looked::File(info) => {
                let key = dir.file(name).map_err(name_error)?;
                let volume = self.volume.load();
                let object = Object::new(volume.id, key, info.version.clone(), info.size, volume.chunk_size)
                    .ok_or(FsError::TooLarge)?;
                self.inodes.refer_file(object, info.mtime_ms)
            }
        };
        let inode = inode.ok_or(FsError::TooMany)?;
        Ok(Entry { attr: self.attr(&inode), ttl: self.ttl(answer.as_of) })
    }

    fn attr(&self, inode: &Inode) -> Attr {
        let shown = self.volume.load().attributes;
        let (kind, size, mtime_ms, mode) = match inode.node() {
            Node::Dir(_) => (Kind::Dir, 0, self.born_ms, shown.dir_mode),
            Node::File(file) => (Kind::File, file.object().size(), file.mtime_ms(), shown.file_mode),
        };
        Attr { ino: inode.ino(), kind, size, mtime_ms, mode, uid: shown.uid, gid: shown.gid }
    }

    fn is_fresh(&self, as_of: Instant) -> bool {
        match self.volume.load().freshness {
            Freshness::Within(freshness) => self.age(as_of) < freshness,
            Freshness::OnOpen => false,
            Freshness::Forever => true,
        }
    }

    /// What is left of the volume's freshness.
    fn ttl(&self, as_of: Instant) -> Duration {
        match self.volume.load().freshness {
            Freshness::Within(freshness) => freshness.saturating_sub(self.age(as_of)).min(FOREVER),
            Freshness::OnOpen => Duration::ZERO,
            Freshness::Forever => FOREVER,
        }
    }

    fn age(&self, as_of: Instant) -> Duration {
        self.runtime.clock.now().saturating_duration_since(as_of)
    }

    /// With the origin down, what is known is served, as old as it is; each use asks anew. Not where each open must ask,
    /// and not after a refusal.
    fn stale<T>(&self, volume: &Volume, error: FsError, known: impl FnOnce() -> Option<T>) -> Result<T, FsError> {
        let known = match volume.freshness {
            Freshness::OnOpen => None,
            Freshness::Within(_) | Freshness::Forever => may_pass(error).then(known).flatten(),
        };
        let known = known.ok_or(error)?;
        self.stale_names.fetch_add(1, Ordering::Relaxed);
        Ok(known)
    }

    /// Waits for a place, at most until `deadline`: whatever lies below, no request of a door waits for ever.
    async fn until<T>(
        &self,
        deadline: Instant,
        answer: impl Future<Output = Result<T, ErrorKind>>,
    ) -> Result<T, FsError> {
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(answer) => answer.map_err(FsError::Failed),
            Err(_) => Err(FsError::Deadline),
        }
    }
}

fn openable(inode: &Inode) -> Result<&File, FsError> {
    match inode.node() {
        Node::Dir(_) => Err(FsError::IsADirectory),
        Node::File(file) if file.is_gone() => Err(FsError::Stale),
        Node::File(file) => Ok(file),
    }
}

fn max_age(freshness: Freshness) -> Duration {
    match freshness {
        Freshness::Within(freshness) => freshness,
        Freshness::OnOpen => Duration::ZERO,
        Freshness::Forever => Duration::MAX,
    }
}

/// Whether an error about names says nothing of the name: nobody could be asked in time.
fn may_pass(error: FsError) -> bool {
    match error {
        FsError::Deadline => true,
        FsError::Failed(kind) => match kind {
            ErrorKind::OriginUnreachable
            | ErrorKind::Throttled
            | ErrorKind::Busy
            | ErrorKind::DeadlineExceeded
            | ErrorKind::OriginProtocol
            | ErrorKind::StaleEpoch
            | ErrorKind::Internal => true,
            ErrorKind::AccessDenied
            | ErrorKind::BadCredentials
            | ErrorKind::NoSuchBucket
            | ErrorKind::Changed
            | ErrorKind::NotFound
            | ErrorKind::NotHere
            | ErrorKind::NoSpace
            | ErrorKind::UnknownVolume
            | ErrorKind::BadRequest => false,
        },
        FsError::NotFound
        | FsError::NotADirectory
        | FsError::IsADirectory
        | FsError::NameTooLong
        | FsError::Stale
        | FsError::ReadOnly
        | FsError::BadHandle
        | FsError::TooMany
        | FsError::TooLarge => false,
    }
}

/// A name that can't be a key's component can't exist; only its length is told apart, as POSIX does.
fn name_error(odd: OddKey) -> FsError {
    match odd {
        OddKey::TooLong | OddKey::ComponentTooLong => FsError::NameTooLong,
        OddKey::Empty | OddKey::EmptyComponent | OddKey::DotComponent | OddKey::Nul => FsError::NotFound,
    }
}

#[cfg(test)]
mod tests;
