//! The numbers that the kernel refers to, and what each one is.
//!
//! A file's number belongs to one version of one key, a directory's to its path. A number lives while the kernel holds
//! references (counted by lookups, given back by forget) or handles are open; then it is dropped and never used again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use larder_proto::ids::ObjectId;
use larder_proto::object::{DirPath, Object};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::backings::Mode;
use super::room::{NAME_BYTES, NameRoom, NumberChange, Share};
use super::{Held, Ino, Numbers};
use crate::runtime::HashMap;

/// What a number stands for.
#[derive(Debug)]
pub(super) struct Inode {
    ino: Ino,
    node: Node,
}

/// A directory, or a file at a version.
#[derive(Debug)]
pub(super) enum Node {
    Dir(DirPath),
    File(File),
}

/// A version of a file.
#[derive(Debug)]
pub(super) struct File {
    object: Arc<Object>,
    mtime_ms: AtomicU64,
    gone: AtomicBool,
}

impl Inode {
    pub(super) fn ino(&self) -> Ino {
        self.ino
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }
}

impl File {
    pub(super) fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// The latest answer's: an origin may touch an object without changing its version.
    pub(super) fn mtime_ms(&self) -> u64 {
        self.mtime_ms.load(Ordering::Relaxed)
    }

    /// Whether a read has found that the origin doesn't have this version any more.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

/// The number isn't known (any more).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownIno;

/// All numbers of one volume.
pub(super) struct Inodes {
    root: Arc<Inode>,
    numbers: Arc<Numbers>,
    table: Mutex<Table>,
}

struct Table {
    slots: HashMap<Ino, Slot>,
    files: HashMap<ObjectId, Ino>,
    dirs: HashMap<DirPath, Ino>,
    share: Share,
}

struct Slot {
    inode: Arc<Inode>,
    references: u64,
    handles: u32,
    choice: Choice,
    /// What keeps the object's chunks here while handles are open.
    held: Option<Held>,
}

/// The mode of an inode: chosen by the first handle, shared by all, gone with the last.
///
/// ```text
///             first handle, from memory
///   Unopened ----------------------------> Made
///      | \                                 ^  |
///      |  +--> Choosing -- chosen ---------+  |   last handle closed
///      +<-------------------------------------+
/// ```
enum Choice {
    Unopened,
    Choosing(watch::Receiver<Option<Mode>>),
    Made(Mode),
}

/// How a handle that was counted gets its mode.
pub(super) enum Begun {
    /// It is known.
    Made(Mode),
    /// An earlier handle is choosing it.
    Waits(watch::Receiver<Option<Mode>>),
    /// This handle is the first: it chooses, says so by [`Inodes::chosen`], then tells those who wait.
    Chooses(watch::Sender<Option<Mode>>),
}

impl Inodes {
    pub(super) fn new(numbers: Arc<Numbers>, room: &Arc<NameRoom>) -> Self {
        let root = Arc::new(Inode { ino: Ino::ROOT, node: Node::Dir(DirPath::root()) });
        let (slots, files, dirs) = Default::default();
        Self { root, numbers, table: Mutex::new(Table { slots, files, dirs, share: room.share() }) }
    }

    pub(super) fn get(&self, ino: Ino) -> Option<Arc<Inode>> {
        if ino == Ino::ROOT {
            return Some(self.root.clone());
        }
        self.table.lock().slots.get(&ino).map(|slot| slot.inode.clone())
    }

    /// The directory's inode with one more reference; nothing when there are no numbers left.
    pub(super) fn refer_dir(&self, path: &DirPath) -> Option<Arc<Inode>> {
        let mut table = self.table.lock();
        if let Some(slot) = table.dirs.get(path).copied().and_then(|ino| table.slots.get_mut(&ino)) {
            slot.references += 1;
            return Some(slot.inode.clone());
        }
        let ino = self.numbers.next()?;
        table.dirs.insert(path.clone(), ino);
        Some(table.insert(ino, Node::Dir(path.clone())))
    }

    /// The inode of this version of the file with one more reference; nothing when there are no numbers left.
    pub(super) fn refer_file(&self, object: Arc<Object>, mtime_ms: u64) -> Option<Arc<Inode>> {
        let mut table = self.table.lock();
        if let Some(slot) = table.files.get(&object.id()).copied().and_then(|ino| table.slots.get_mut(&ino))
            && let Node::File(file) = &slot.inode.node
            // The origin is trusted with "same version, same bytes"; should it break that, pages must not mix.
            && file.object.size() == object.size()
            && !file.is_gone()
        {
            file.mtime_ms.store(mtime_ms, Ordering::Relaxed);
            slot.references += 1;
            return Some(slot.inode.clone());
        }
        let ino = self.numbers.next()?;
        table.files.insert(object.id(), ino);
        let file = File { object, mtime_ms: AtomicU64::new(mtime_ms), gone: AtomicBool::new(false) };
        Some(table.insert(ino, Node::File(file)))
    }

    /// The number of a directory or of a version of a file, if the kernel refers to it.
    pub(super) fn number_of_dir(&self, path: &DirPath) -> Option<Ino> {
        self.table.lock().dirs.get(path).copied()
    }

    /// Gives back references. The count is a hint after an agent was replaced, so it never goes below 0.
    pub(super) fn forget(&self, ino: Ino, count: u64) {
        let mut table = self.table.lock();
        if let Some(slot) = table.slots.get_mut(&ino) {
            slot.references = slot.references.saturating_sub(count);
            table.drop_unused(ino);
        }
    }

    /// Counts an open handle whose mode is known, or comes from memory by `now`; the first one holds what `hold` says.
    /// Nothing is counted when the mode has to be waited for (`Ok(None)`), or for an unknown number (`Err`).
    pub(super) fn open_now(
        &self,
        ino: Ino,
        now: impl FnOnce() -> Option<Mode>,
        hold: impl FnOnce() -> Option<Held>,
    ) -> Result<Option<Mode>, UnknownIno> {
        if ino == Ino::ROOT {
            return Ok(Some(Mode::Cached));
        }
        let mut table = self.table.lock();
        let slot = table.slots.get_mut(&ino).ok_or(UnknownIno)?;
        let mode = match &slot.choice {
            Choice::Made(mode) => mode.clone(),
            Choice::Choosing(_) => return Ok(None),
            Choice::Unopened => {
                let Some(mode) = now() else { return Ok(None) };
                slot.choice = Choice::Made(mode.clone());
                slot.held = hold();
                mode
            }
        };
        slot.handles += 1;
        Ok(Some(mode))
    }

    /// Counts an open handle whose mode may have to be waited for. Nothing for an unknown number.
    pub(super) fn begin_open(&self, ino: Ino, hold: impl FnOnce() -> Option<Held>) -> Option<Begun> {
        let mut table = self.table.lock();
        let slot = table.slots.get_mut(&ino)?;
        slot.handles += 1;
        Some(match &slot.choice {
            Choice::Made(mode) => Begun::Made(mode.clone()),
            Choice::Choosing(made) => Begun::Waits(made.clone()),
            Choice::Unopened => {
                let (tell, made) = watch::channel(None);
                slot.choice = Choice::Choosing(made);
                slot.held = hold();
                Begun::Chooses(tell)
            }
        })
    }

    /// The mode that the first handle has chosen.
    pub(super) fn chosen(&self, ino: Ino, mode: Mode) {
        if let Some(slot) = self.table.lock().slots.get_mut(&ino) {
            slot.choice = Choice::Made(mode);
        }
    }

    /// Counts a closed handle.
    pub(super) fn closed(&self, ino: Ino) {
        let mut table = self.table.lock();
        let Some(slot) = table.slots.get_mut(&ino) else { return };
        slot.handles = slot.handles.saturating_sub(1);
        if slot.handles > 0 {
            return;
        }
        let left = (std::mem::replace(&mut slot.choice, Choice::Unopened), slot.held.take());
        table.drop_unused(ino);
        drop(table);
        // Tells the kernel and the stores: not under the lock.
        drop(left);
    }

    /// Up to `count` numbers without open handles, the oldest first. The kernel may be asked to forget them.
    pub(super) fn oldest(&self, count: usize) -> Vec<Arc<Inode>> {
        let table = self.table.lock();
        let mut unused: Vec<&Slot> = table.slots.values().filter(|slot| slot.handles == 0).collect();
        if unused.len() > count {
            unused.select_nth_unstable_by_key(count, |slot| slot.inode.ino);
            unused.truncate(count);
        }
        unused.into_iter().map(|slot| slot.inode.clone()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.table.lock().slots.len()
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.slots.iter().for_each(|_| self.share.room().count_number(NumberChange::Dropped));
    }
}

impl Table {
    fn insert(&mut self, ino: Ino, node: Node) -> Arc<Inode> {
        let inode = Arc::new(Inode { ino, node });
        self.slots.insert(
            ino,
            Slot { inode: inode.clone(), references: 1, handles: 0, choice: Choice::Unopened, held: None },
        );
        self.count(NumberChange::Made);
        inode
    }

    fn count(&mut self, change: NumberChange) {
        self.share.set(self.slots.len() * NAME_BYTES);
        self.share.room().count_number(change);
    }

    fn drop_unused(&mut self, ino: Ino) {
        let Some(slot) = self.slots.get(&ino) else { return };
        if slot.references > 0 || slot.handles > 0 {
            return;
        }
        let inode = slot.inode.clone();
        self.slots.remove(&ino);
        self.count(NumberChange::Dropped);
        // A newer number may have taken the name over.
        match &inode.node {
            Node::Dir(path) => {
                if self.dirs.get(path) == Some(&ino) {
                    self.dirs.remove(path);
                }
            }
            Node::File(file) => {
                if self.files.get(&file.object.id()) == Some(&ino) {
                    self.files.remove(&file.object.id());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use larder_proto::ids::VolumeId;
    use larder_proto::object::{ChunkSize, ObjectKey, Version};

    use super::*;
    use crate::fs::Backing;
    use crate::runtime::disk::RealDisk;

    fn inodes() -> Inodes {
        let state = tempfile::tempdir().expect("a folder");
        Inodes::new(Arc::new(Numbers::begin(&RealDisk, state.path()).expect("begins")), &NameRoom::new(1 << 20))
    }

    fn object(version: &str, size: u64) -> Arc<Object> {
        let key = ObjectKey::parse("a/b").expect("a key");
        let version = Version::of_etag(version).expect("a version");
        let chunk_size = ChunkSize::new(1 << 16).expect("a size");
        Object::new(VolumeId::from_bytes([1; 16]), key, version, size, chunk_size).expect("an object")
    }

    #[test]
    fn each_version_has_its_own_number() {
        let inodes = inodes();
        let one = inodes.refer_file(object("v1", 10), 1).expect("a number");
        let same = inodes.refer_file(object("v1", 10), 2).expect("a number");
        let other = inodes.refer_file(object("v2", 10), 1).expect("a number");
        assert_eq!(one.ino(), same.ino());
        assert_ne!(one.ino(), other.ino());
        let Node::File(file) = one.node() else { panic!("a file") };
        assert_eq!(file.mtime_ms(), 2);
        let longer = inodes.refer_file(object("v1", 11), 1).expect("a number");
        assert_ne!(one.ino(), longer.ino(), "a version that changed its size is another file");
    }

    #[test]
    fn a_number_is_dropped_when_nothing_refers_to_it_and_never_comes_back() {
        let inodes = inodes();
        let path = DirPath::parse("a").expect("a path");
        let ino = inodes.refer_dir(&path).expect("a number").ino();
        inodes.refer_dir(&path).expect("a number");
        inodes.forget(ino, 1);
        assert!(inodes.get(ino).is_some());
        inodes.forget(ino, 5);
        assert!(inodes.get(ino).is_none());
        assert_eq!(inodes.len(), 0);
        assert_ne!(inodes.refer_dir(&path).expect("a number").ino(), ino);
        assert!(inodes.get(Ino::ROOT).is_some());
    }

    #[test]
    fn open_handles_keep_a_number() {
        let inodes = inodes();
        let ino = inodes.refer_file(object("v1", 10), 1).expect("a number").ino();
        let open = || inodes.open_now(ino, || Some(Mode::Cached), || Some(Box::new(())));
        assert!(matches!(open(), Ok(Some(Mode::Cached))));
        inodes.forget(ino, 1);
        inodes.closed(ino);
        assert!(inodes.get(ino).is_none());
        assert_eq!(open().err(), Some(UnknownIno));
    }

    struct Numbered(u32);

    impl Backing for Numbered {
        fn id(&self) -> u32 {
            self.0
        }
    }

    #[test]
    fn all_handles_share_one_mode_until_the_last_is_closed() {
        let inodes = inodes();
        let ino = inodes.refer_file(object("v1", 10), 1).expect("a number").ino();
        let passed: Arc<dyn Backing> = Arc::new(Numbered(7));
        let alive = Arc::downgrade(&passed);
        let never = || -> Option<Mode> { panic!("an open inode's mode isn't chosen again") };
        assert!(matches!(inodes.open_now(ino, || None, || None), Ok(None)), "memory can't tell: nothing is counted");
        let Some(Begun::Chooses(tell)) = inodes.begin_open(ino, || None) else { panic!("the first one chooses") };
        let Some(Begun::Waits(made)) = inodes.begin_open(ino, || None) else { panic!("the second one waits") };
        assert!(matches!(inodes.open_now(ino, never, || None), Ok(None)), "and so does the third");
        let mode = Mode::Passthrough(passed);
        inodes.chosen(ino, mode.clone());
        tell.send(Some(mode)).expect("somebody waits");
        assert!(matches!(&*made.borrow(), Some(Mode::Passthrough(backing)) if backing.id() == 7));
        let fourth = inodes.open_now(ino, never, || None);
        assert!(matches!(fourth, Ok(Some(Mode::Passthrough(backing))) if backing.id() == 7));
        drop((made, tell));
        for _ in 0..3 {
            assert!(alive.upgrade().is_some());
            inodes.closed(ino);
        }
        assert!(alive.upgrade().is_none(), "the last handle lets the backing go");
        let again = inodes.open_now(ino, || Some(Mode::Cached), || None);
        assert!(matches!(again, Ok(Some(Mode::Cached))), "the next first handle chooses anew");
    }

    #[test]
    fn a_version_that_is_gone_is_looked_up_under_a_new_number() {
        let inodes = inodes();
        let old = inodes.refer_file(object("v1", 10), 1).expect("a number");
        let Node::File(file) = old.node() else { panic!("a file") };
        file.set_gone();
        let back = inodes.refer_file(object("v1", 10), 1).expect("a number");
        assert_ne!(old.ino(), back.ino());
        inodes.forget(old.ino(), 1);
        assert_eq!(inodes.refer_file(object("v1", 10), 1).expect("a number").ino(), back.ino());
    }
}
