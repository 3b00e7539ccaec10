//! A real disk that is slow or hangs when a test says so: what lies below one folder, but the index, by what is done.
//!
//! Who hangs sleeps in its thread until the mood changes, as a thread in a disk's driver does. What was struck is
//! counted, so a test can assert that the fault was hit.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::{Caching, Disk, Entry, File, FileSystem, Lock, Open, RealDisk, Space};

/// How a disk behaves.
#[derive(Default)]
pub struct Mood {
    /// Latency of its reads.
    pub read_us: AtomicU64,
    /// Reads hang.
    pub reads_hang: AtomicBool,
    /// Writes hang.
    pub writes_hang: AtomicBool,
    /// Syncs hang.
    pub syncs_hang: AtomicBool,
    /// Calls that were delayed by more than 10 ms, or hung.
    pub struck: AtomicU64,
}

impl Mood {
    /// Everything goes on.
    pub fn relent(&self) {
        for hangs in [&self.reads_hang, &self.writes_hang, &self.syncs_hang] {
            hangs.store(false, Ordering::Relaxed);
        }
        self.read_us.store(0, Ordering::Relaxed);
    }

    /// Calls that were struck so far.
    pub fn struck(&self) -> u64 {
        self.struck.load(Ordering::Relaxed)
    }

    fn strike(&self, hangs: &AtomicBool, us: u64) {
        if hangs.load(Ordering::Relaxed) || us > 10_000 {
            self.struck.fetch_add(1, Ordering::Relaxed);
        }
        while hangs.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_micros(us));
    }
}

/// Files below `folder`, but the index, behave as the mood says.
#[derive(Clone)]
pub struct Moody {
    /// A store's folder.
    pub folder: PathBuf,
    /// How it behaves.
    pub mood: Arc<Mood>,
}

struct MoodyFile {
    file: Arc<dyn File>,
    mood: Option<Arc<Mood>>,
}

impl Disk for Moody {
    fn open(&self, path: &Path, open: Open, caching: Caching) -> io::Result<Arc<dyn File>> {
        let file = RealDisk.open(path, open, caching)?;
        let moody = path.starts_with(&self.folder) && !path.ends_with("index.redb");
        Ok(Arc::new(MoodyFile { file, mood: moody.then(|| self.mood.clone()) }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        RealDisk.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        RealDisk.unlink(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn read_small(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        RealDisk.read_small(path, max_bytes)
    }

    fn replace_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        RealDisk.replace_small(path, bytes)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        RealDisk.space(path)
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Lock>> {
        RealDisk.lock(dir)
    }

    fn file_system(&self, dir: &Path) -> io::Result<Arc<dyn FileSystem>> {
        let moody = dir.starts_with(&self.folder).then(|| self.mood.clone());
        Ok(Arc::new(MoodyFileSystem { all: RealDisk.file_system(dir)?, mood: moody }))
    }
}

struct MoodyFileSystem {
    all: Arc<dyn FileSystem>,
    mood: Option<Arc<Mood>>,
}

impl FileSystem for MoodyFileSystem {
    fn sync(&self) -> io::Result<()> {
        if let Some(mood) = &self.mood {
            mood.strike(&mood.syncs_hang, 0);
        }
        self.all.sync()
    }
}

impl File for MoodyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some(mood) = &self.mood {
            mood.strike(&mood.reads_hang, mood.read_us.load(Ordering::Relaxed));
        }
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(mood) = &self.mood {
            mood.strike(&mood.writes_hang, 0);
        }
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        if let Some(mood) = &self.mood {
            mood.strike(&mood.syncs_hang, 0);
        }
        self.file.sync_data()
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch(offset, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.file.allocated_bytes()
    }
}
