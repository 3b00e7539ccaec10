//! Open files and directories.
//!
//! A file's handle holds the inode, and so the version, from open to close, and remembers how it is read. A
//! directory's handle holds the parts of the listing it has shown, so that offsets mean the same until it is closed.

use std::sync::Arc;

use larder_proto::object::DirPath;
use parking_lot::{Mutex, RwLock};

use super::inodes::{Inode, Node};
use super::listings::Snapshot;
use super::readahead::{Ahead, Waste};
use super::room::NameRoom;
use super::{Fh, Ino};
use crate::runtime::HashMap;

/// Open handles per volume: far above what a node's programs open, far below what memory holds (a handle is small).
const HANDLES_MAX: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Handles {
    open: RwLock<HashMap<Fh, Handle>>,
}

#[derive(Clone)]
enum Handle {
    File(Arc<FileHandle>),
    Dir(Arc<DirHandle>),
}

pub(super) struct FileHandle {
    pub(super) inode: Arc<Inode>,
    pub(super) ahead: Mutex<Ahead>,
}

pub(super) struct DirHandle {
    pub(super) inode: Arc<Inode>,
    pub(super) snapshot: tokio::sync::Mutex<Snapshot>,
}

impl DirHandle {
    pub(super) fn path(&self) -> &DirPath {
        match self.inode.node() {
            Node::Dir(path) => path,
            Node::File(_) => unreachable!("opendir opens directories only"),
        }
    }
}

impl Handles {
    /// Whether there was room for one more.
    pub(super) fn open_file(&self, fh: Fh, inode: Arc<Inode>, waste: &Arc<Waste>) -> bool {
        let Node::File(file) = inode.node() else { return false };
        let ahead = Mutex::new(Ahead::new(file.object(), waste));
        self.insert(fh, Handle::File(Arc::new(FileHandle { inode, ahead })))
    }

    /// Whether there was room for one more.
    pub(super) fn open_dir(&self, fh: Fh, inode: Arc<Inode>, room: &Arc<NameRoom>) -> bool {
        let snapshot = tokio::sync::Mutex::new(Snapshot::new(room));
        self.insert(fh, Handle::Dir(Arc::new(DirHandle { inode, snapshot })))
    }

    pub(super) fn file(&self, fh: Fh) -> Option<Arc<FileHandle>> {
        match self.open.read().get(&fh)? {
            Handle::File(handle) => Some(handle.clone()),
            Handle::Dir(_) => None,
        }
    }

    pub(super) fn dir(&self, fh: Fh) -> Option<Arc<DirHandle>> {
        match self.open.read().get(&fh)? {
            Handle::Dir(handle) => Some(handle.clone()),
            Handle::File(_) => None,
        }
    }

    /// Forgets the handle; returns the inode it held.
    pub(super) fn close(&self, fh: Fh) -> Option<Ino> {
        let closed = self.open.write().remove(&fh)?;
        match closed {
            Handle::File(handle) => {
                handle.ahead.lock().cancel();
                Some(handle.inode.ino())
            }
            Handle::Dir(handle) => Some(handle.inode.ino()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.open.read().len()
    }

    fn insert(&self, fh: Fh, handle: Handle) -> bool {
        let mut open = self.open.write();
        if open.len() >= HANDLES_MAX {
            return false;
        }
        open.insert(fh, handle);
        true
    }
}
