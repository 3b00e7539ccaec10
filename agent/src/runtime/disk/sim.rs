//! A disk in memory: sparse files, faults on request, and power failures that lose or tear what was not synced.
//!
//! Every fault that strikes is counted, so a test can assert that it was hit. A direct file refuses what O_DIRECT
//! would refuse. After [`SimDisk::crash`] each page written since its file's last sync is kept, lost or torn at a
//! 512-byte sector, as the seed decides; files that were never synced may be missing, and unlinked ones may be back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Caching, Disk, Entry, File, FileSystem, Lock, Open, PAGE_BYTES, Space};
use crate::runtime::sim::SimRng;

const PAGE: u64 = PAGE_BYTES as u64;
const SECTOR_BYTES: usize = 512;

/// What a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Reading a file.
    Read,
    /// Writing a file.
    Write,
    /// Syncing a file.
    Sync,
}

/// A fault that is waiting to strike.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The operation it strikes.
    pub op: Op,
    /// Only files whose path ends so; empty for all.
    pub path_ends: String,
    /// How many times.
    pub times: u32,
    /// The errno that is returned: `EIO` (5) or `ENOSPC` (28), for example.
    pub errno: i32,
}

/// Faults that have struck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Failed reads.
    pub reads: u64,
    /// Failed writes, a full disk among them.
    pub writes: u64,
    /// Failed syncs.
    pub syncs: u64,
    /// Pages that a crash reverted or tore.
    pub pages_lost: u64,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    rng: SimRng,
    /// Stamps that were asked for.
    stamps: AtomicU64,
}

struct State {
    files: BTreeMap<PathBuf, Arc<Inode>>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    /// Names removed since the last crash: a crash may bring them back.
    removed: BTreeMap<PathBuf, Arc<Inode>>,
    faults: Vec<Fault>,
    counts: FaultCounts,
    total_bytes: u64,
}

/// A file's content. Lock order: the disk's state is never taken while a body is held.
struct Inode {
    body: Mutex<Body>,
}

#[derive(Default)]
struct Body {
    pages: BTreeMap<u64, Box<[u8; PAGE_BYTES]>>,
    len: u64,
    /// What pages were at the last sync, for those that changed since.
    undo: BTreeMap<u64, Option<Box<[u8; PAGE_BYTES]>>>,
    synced_len: Option<u64>,
}

impl SimDisk {
    /// An empty disk of `total_bytes`; crashes follow `seed`.
    pub fn new(seed: u64, total_bytes: u64) -> Self {
        let state = State {
            files: BTreeMap::new(),
            dirs: BTreeSet::from([PathBuf::from("/")]),
            locks: BTreeSet::new(),
            removed: BTreeMap::new(),
            faults: Vec::new(),
            counts: FaultCounts::default(),
            total_bytes,
        };
        let (state, rng) = (Mutex::new(state), SimRng::new(seed));
        Self { shared: Arc::new(Shared { state, rng, stamps: AtomicU64::new(0) }) }
    }

    /// How often a file's stamp was asked for.
    pub fn stamps(&self) -> u64 {
        self.shared.stamps.load(Ordering::Relaxed)
    }

    /// Lets a fault strike the next operations it fits.
    pub fn inject(&self, fault: Fault) {
        self.shared.state.lock().faults.push(fault);
    }

    /// Faults that have struck so far.
    pub fn counts(&self) -> FaultCounts {
        self.shared.state.lock().counts
    }

    /// Changes the disk's size; below what is used, every write that needs a new page fails with `ENOSPC`.
    pub fn resize(&self, total_bytes: u64) {
        self.shared.state.lock().total_bytes = total_bytes;
    }

    /// Paths of all files, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.shared.state.lock().files.keys().cloned().collect()
    }

    /// Flips one bit of a file behind everybody's back; false when the file has a hole or its end there.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) -> bool {
        let Some(inode) = self.shared.state.lock().files.get(path).cloned() else { return false };
        let mut body = inode.body.lock();
        let within = offset < body.len;
        match body.pages.get_mut(&(offset / PAGE)) {
            Some(page) if within => {
                page[at_page(offset)] ^= 1 << (bit % 8);
                true
            }
            _ => false,
        }
    }

    /// Puts a page of one file where a page of another should be, as a write that went astray does; false when either
    /// has a hole or its end there, or when they are alike.
    pub fn misdirect(&self, from: (&Path, u64), to: (&Path, u64)) -> bool {
        let inode = |path: &Path| self.shared.state.lock().files.get(path).cloned();
        let (Some(source), Some(target)) = (inode(from.0), inode(to.0)) else { return false };
        let Some(page) = source.body.lock().pages.get(&(from.1 / PAGE)).cloned() else { return false };
        let mut body = target.body.lock();
        match body.pages.get_mut(&(to.1 / PAGE)) {
            Some(old) if *old != page => {
                *old = page;
                true
            }
            _ => false,
        }
    }

    /// The power fails: unsynced pages are kept, lost or torn, locks are gone. Files opened before must not be used.
    pub fn crash(&self) {
        let mut state = self.shared.state.lock();
        state.locks.clear();
        state.faults.clear();
        let removed = std::mem::take(&mut state.removed);
        for (path, inode) in removed {
            if self.shared.rng.below(2) == 0 {
                state.files.entry(path).or_insert(inode);
            }
        }
        let mut lost = 0;
        let mut missing = Vec::new();
        for (path, inode) in &state.files {
            let mut body = inode.body.lock();
            if body.synced_len.is_none() && self.shared.rng.below(3) == 0 {
                missing.push(path.clone());
            }
            lost += body.crash(&self.shared.rng);
        }
        for path in missing {
            state.files.remove(&path);
        }
        state.counts.pages_lost += lost;
    }

    /// The waiting fault for this operation, counted.
    fn strike(&self, op: Op, path: &Path) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let text = path.to_string_lossy();
        let Some(position) = state.faults.iter().position(|f| f.op == op && text.ends_with(&f.path_ends)) else {
            return Ok(());
        };
        let fault = &mut state.faults[position];
        let errno = fault.errno;
        fault.times = fault.times.saturating_sub(1);
        if fault.times == 0 {
            state.faults.remove(position);
        }
        match op {
            Op::Read => state.counts.reads += 1,
            Op::Write => state.counts.writes += 1,
            Op::Sync => state.counts.syncs += 1,
        }
        Err(io::Error::from_raw_os_error(errno))
    }
}

impl State {
    fn used_bytes(&self) -> u64 {
        self.files.values().map(|inode| inode.body.lock().allocated()).sum()
    }
}

impl Body {
    fn allocated(&self) -> u64 {
        u64::try_from(self.pages.len()).expect("usize fits u64") * PAGE
    }

    fn page_mut(&mut self, page: u64) -> &mut [u8; PAGE_BYTES] {
        self.remember(page);
        self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE_BYTES]))
    }

    fn remember(&mut self, page: u64) {
        let old = self.pages.get(&page);
        self.undo.entry(page).or_insert_with(|| old.cloned());
    }

    fn remove_pages(&mut self, from: u64, to: u64) {
        let gone: Vec<u64> = self.pages.range(from..to).map(|(page, _)| *page).collect();
        for page in gone {
            self.remember(page);
            self.pages.remove(&page);
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.remove_pages(len.div_ceil(PAGE), u64::MAX);
            if self.pages.contains_key(&(len / PAGE)) {
                self.page_mut(len / PAGE)[at_page(len)..].fill(0);
            }
        }
        self.len = len;
    }

    fn synced(&mut self) {
        self.undo.clear();
        self.synced_len = Some(self.len);
    }

    fn crash(&mut self, rng: &SimRng) -> u64 {
        let mut lost = 0;
        for (page, old) in std::mem::take(&mut self.undo) {
            match (rng.below(3), old) {
                (0, _) => {}
                (1, Some(old)) => {
                    self.pages.insert(page, old);
                    lost += 1;
                }
                (1, None) => {
                    self.pages.remove(&page);
                    lost += 1;
                }
                (_, old) => {
                    let old = old.unwrap_or_else(|| Box::new([0; PAGE_BYTES]));
                    let new = self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE_BYTES]));
                    for (new, old) in new.chunks_mut(SECTOR_BYTES).zip(old.chunks(SECTOR_BYTES)) {
                        if rng.below(2) == 0 {
                            new.copy_from_slice(old);
                        }
                    }
                    lost += 1;
                }
            }
        }
        if rng.below(2) == 0 {
            let len = self.synced_len.unwrap_or(0);
            self.set_len(len);
            self.undo.clear();
        }
        self.synced_len = Some(self.len);
        lost
    }
}

fn at_page(offset: u64) -> usize {
    usize::try_from(offset % PAGE).expect("below 4096")
}

impl FileSystem for SimDisk {
    fn sync(&self) -> io::Result<()> {
        let paths = self.paths();
        paths.iter().try_for_each(|path| self.strike(Op::Sync, path))?;
        let state = self.shared.state.lock();
        state.files.values().for_each(|inode| inode.body.lock().synced());
        Ok(())
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, open: Open, caching: Caching) -> io::Result<Arc<dyn File>> {
        let mut state = self.shared.state.lock();
        let inode = match (state.files.get(path), open) {
            (Some(inode), _) => inode.clone(),
            (None, Open::Create) => {
                if !path.parent().is_some_and(|dir| state.dirs.contains(dir)) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let inode = Arc::new(Inode { body: Mutex::default() });
                state.removed.remove(path);
                state.files.insert(path.to_owned(), inode.clone());
                inode
            }
            (None, Open::Read | Open::Write) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(SimFile { disk: self.clone(), inode, path: path.to_owned(), caching }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let state = self.shared.state.lock();
        if !state.dirs.contains(dir) {
            let is_file = state.files.contains_key(dir);
            return Err(if is_file { io::ErrorKind::NotADirectory } else { io::ErrorKind::NotFound }.into());
        }
        let here = |path: &&PathBuf| path.parent() == Some(dir);
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let files = state.files.keys().filter(here).filter_map(name).map(|name| Entry { name, is_dir: false });
        let dirs = state.dirs.iter().filter(here).filter_map(name).map(|name| Entry { name, is_dir: true });
        let mut entries: Vec<Entry> = files.chain(dirs).collect();
        entries.sort();
        Ok(entries)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        if dir.ancestors().any(|path| state.files.contains_key(path)) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        state.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let inode = state.files.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state.removed.insert(path.to_owned(), inode);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let inode = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), inode);
        Ok(())
    }

    fn read_small(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path, Open::Read, Caching::Buffered)?;
        let len = file.len()?;
        if len > max_bytes {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; usize::try_from(len).expect("bounded by the caller")];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn replace_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".new");
        let aside = PathBuf::from(aside);
        let file = self.open(&aside, Open::Create, Caching::Buffered)?;
        file.set_len(0)?;
        file.write_at(bytes, 0)?;
        file.sync_data()?;
        self.rename(&aside, path)
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let state = self.shared.state.lock();
        let free_bytes = state.total_bytes.saturating_sub(state.used_bytes());
        Ok(Space { total_bytes: state.total_bytes, free_bytes, free_files: None })
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Lock>> {
        if !self.shared.state.lock().locks.insert(dir.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: self.clone(), dir: dir.to_owned() }))
    }

    fn file_system(&self, _dir: &Path) -> io::Result<Arc<dyn FileSystem>> {
        Ok(Arc::new(self.clone()))
    }
}

struct SimLock {
    disk: SimDisk,
    dir: PathBuf,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.shared.state.lock().locks.remove(&self.dir);
    }
}

struct SimFile {
    disk: SimDisk,
    inode: Arc<Inode>,
    path: PathBuf,
    caching: Caching,
}

impl SimFile {
    /// What O_DIRECT refuses with EINVAL.
    fn check_aligned(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let aligned = offset.is_multiple_of(PAGE)
            && bytes.len().is_multiple_of(PAGE_BYTES)
            && (bytes.as_ptr() as usize).is_multiple_of(PAGE_BYTES);
        if self.caching == Caching::Buffered || aligned { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.check_aligned(buffer, offset)?;
        self.disk.strike(Op::Read, &self.path)?;
        let body = self.inode.body.lock();
        let available = usize::try_from(body.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = buffer.len().min(available);
        let mut done = 0;
        while done < count {
            let at = offset + done as u64;
            let piece = (PAGE_BYTES - at_page(at)).min(count - done);
            let target = &mut buffer[done..done + piece];
            match body.pages.get(&(at / PAGE)) {
                Some(page) => target.copy_from_slice(&page[at_page(at)..at_page(at) + piece]),
                None => target.fill(0),
            }
            done += piece;
        }
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check_aligned(bytes, offset)?;
        self.disk.strike(Op::Write, &self.path)?;
        let end = offset + bytes.len() as u64;
        let mut state = self.disk.shared.state.lock();
        let missing = {
            let body = self.inode.body.lock();
            let touched = end.div_ceil(PAGE) - offset / PAGE;
            touched - body.pages.range(offset / PAGE..end.div_ceil(PAGE)).count() as u64
        };
        if missing > 0 && state.used_bytes() + missing * PAGE > state.total_bytes {
            state.counts.writes += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        drop(state);
        let mut body = self.inode.body.lock();
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let piece = (PAGE_BYTES - at_page(at)).min(bytes.len() - done);
            body.page_mut(at / PAGE)[at_page(at)..at_page(at) + piece].copy_from_slice(&bytes[done..done + piece]);
            done += piece;
        }
        body.len = body.len.max(end);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.strike(Op::Sync, &self.path)?;
        self.inode.body.lock().synced();
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.strike(Op::Write, &self.path)?;
        let mut body = self.inode.body.lock();
        let end = offset.saturating_add(len);
        let (first, last) = (offset.div_ceil(PAGE), end / PAGE);
        if first <= last {
            body.remove_pages(first, last);
        }
        let edges = [(offset, end.min(first * PAGE)), (offset.max(last * PAGE), end)];
        for (from, to) in edges {
            if from < to && body.pages.contains_key(&(from / PAGE)) {
                let start = at_page(from);
                let count = usize::try_from(to - from).expect("within one page");
                body.page_mut(from / PAGE)[start..start + count].fill(0);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.strike(Op::Write, &self.path)?;
        self.inode.body.lock().set_len(len);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.inode.body.lock().len)
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(self.inode.body.lock().allocated())
    }

    fn stamp(&self) -> io::Result<u32> {
        self.disk.shared.stamps.fetch_add(1, Ordering::Relaxed);
        // Nobody but the store writes to it.
        Ok(0)
    }
}
