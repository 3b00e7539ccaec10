//! Open files of one store: `objects/xx/yy/<id>`, at most so many at once, the least recently used closed first.
//!
//! A file that was unlinked is never handed out again, even when it was being opened at that moment. A file that the
//! kernel was given has an empty file of its name in `passed/`, made before the kernel has it: mappings outlive an agent.
//! They don't outlive a power failure, so nothing there is synced.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder_proto::ids::ObjectId;
use parking_lot::Mutex;

use crate::runtime::HashMap;
use crate::runtime::disk::{Caching, Disk, Entry, File, Open};

pub(super) struct Files {
    disk: Arc<dyn Disk>,
    objects: PathBuf,
    passed: PathBuf,
    open_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: HashMap<ObjectId, (Arc<dyn File>, u64)>,
    /// By last use.
    order: BTreeMap<u64, ObjectId>,
    clock: u64,
    /// Counts unlinks: what was opened before one isn't kept after it.
    unlinks: u64,
}

impl Files {
    pub fn new(disk: Arc<dyn Disk>, root: &Path, open_max: usize) -> Self {
        Self { disk, objects: root.join("objects"), passed: root.join("passed"), open_max, state: Mutex::default() }
    }

    /// The object's file, opened past the page cache; with [`Open::Create`] it and its folders are made.
    pub fn get(&self, object: ObjectId, open: Open) -> io::Result<Arc<dyn File>> {
        let unlinks = {
            let mut state = self.state.lock();
            if let Some(file) = state.touch(object) {
                return Ok(file);
            }
            state.unlinks
        };
        let path = self.path(object);
        let file = match self.disk.open(&path, open, Caching::Direct) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && open == Open::Create => {
                self.disk.create_dir_all(path.parent().expect("objects/xx/yy"))?;
                self.disk.open(&path, open, Caching::Direct)?
            }
            other => other?,
        };
        let mut state = self.state.lock();
        if state.unlinks == unlinks {
            state.keep(object, file.clone(), self.open_max);
        }
        Ok(file)
    }

    /// Removes the object's file. It being gone already is fine.
    pub fn unlink(&self, object: ObjectId) -> io::Result<()> {
        self.state.lock().forget(object);
        let result = self.disk.unlink(&self.path(object));
        self.state.lock().forget(object);
        match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Removes the file of an object that was passed, then its mark.
    pub fn unlink_passed(&self, object: ObjectId) -> io::Result<()> {
        self.unlink(object)?;
        match self.disk.unlink(&self.passed.join(object.to_string())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Marks the object's file as one that the kernel has.
    pub fn mark_passed(&self, object: ObjectId) -> io::Result<()> {
        self.disk.open(&self.passed.join(object.to_string()), Open::Create, Caching::Buffered).map(drop)
    }

    /// The object's file as the kernel reads it: through the page cache, never written.
    pub fn open_for_kernel(&self, object: ObjectId) -> io::Result<Arc<dyn File>> {
        self.disk.open(&self.path(object), Open::Read, Caching::Buffered)
    }

    /// The objects whose files were passed before, by their marks.
    pub fn marked_passed(&self) -> io::Result<Vec<ObjectId>> {
        self.disk.create_dir_all(&self.passed)?;
        let marks = self.disk.list(&self.passed)?.into_iter().filter(|entry| !entry.is_dir);
        Ok(marks.filter_map(|entry| ObjectId::from_hex(&entry.name)).collect())
    }

    /// Bytes that the object's file takes on the disk; none when there is no such file.
    pub fn allocated_bytes(&self, object: ObjectId) -> io::Result<u64> {
        match self.open_for_kernel(object).and_then(|file| file.allocated_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            other => other,
        }
    }

    /// Files open now.
    pub fn open_count(&self) -> usize {
        self.state.lock().open.len()
    }

    /// Every file below one folder of `objects/`. What `known` denies is unlinked, and `gone` told. Names that are no
    /// object id are not ours to judge and stay.
    pub fn sweep(
        &self,
        folder: u32,
        known: &mut dyn FnMut(ObjectId) -> bool,
        gone: &mut dyn FnMut(),
    ) -> io::Result<()> {
        let outer = self.objects.join(format!("{folder:02x}"));
        for inner in self.list(&outer)?.into_iter().filter(|entry| entry.is_dir) {
            let inner = outer.join(inner.name);
            for entry in self.list(&inner)?.into_iter().filter(|entry| !entry.is_dir) {
                let id = ObjectId::from_hex(&entry.name).filter(|id| self.path(*id) == inner.join(&entry.name));
                if let Some(id) = id
                    && !known(id)
                {
                    let unlinked = self.unlink(id);
                    gone();
                    unlinked?;
                }
            }
        }
        Ok(())
    }

    /// Nothing is in a folder that isn't there.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        match self.disk.list(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }

    fn path(&self, object: ObjectId) -> PathBuf {
        let name = object.to_string();
        self.objects.join(&name[..2]).join(&name[2..4]).join(&name)
    }
}

impl State {
    fn touch(&mut self, object: ObjectId) -> Option<Arc<dyn File>> {
        let (file, used) = self.open.get_mut(&object)?;
        self.clock += 1;
        self.order.remove(used);
        self.order.insert(self.clock, object);
        *used = self.clock;
        Some(file.clone())
    }

    fn keep(&mut self, object: ObjectId, file: Arc<dyn File>, open_max: usize) {
        self.clock += 1;
        if let Some((_, used)) = self.open.insert(object, (file, self.clock)) {
            self.order.remove(&used);
        }
        self.order.insert(self.clock, object);
        while self.open.len() > open_max.max(1) {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.open.remove(&oldest);
        }
    }

    fn forget(&mut self, object: ObjectId) {
        self.unlinks += 1;
        if let Some((_, used)) = self.open.remove(&object) {
            self.order.remove(&used);
        }
    }
}
