//! Files, as stores and state folders need them. All calls block: the store runs them in its own pools.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

mod aligned;
#[cfg(test)]
mod moody;
mod real;
mod sim;

pub use aligned::{AlignedBuf, BufferPool, PAGE_BYTES};
#[cfg(test)]
pub use moody::{Mood, Moody};
pub use real::RealDisk;
pub use sim::{Fault, FaultCounts, Op, SimDisk};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; it must exist.
    Write,
    /// For reading and writing; made, or kept as it is.
    Create,
}

/// Whether reads and writes go past the page cache. Direct ones need offsets, lengths and memory aligned to 4 KiB
/// (a read may end short at the end of the file).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Through the page cache.
    Buffered,
    /// O_DIRECT; falls back to buffered where the file system lacks it (tmpfs).
    Direct,
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name, as it is on disk; names that aren't UTF-8 are left out.
    pub name: String,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// Bytes of the file system under a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// In all.
    pub total_bytes: u64,
    /// Free for us.
    pub free_bytes: u64,
    /// Files that can still be made; nothing where the file system doesn't count them.
    pub free_files: Option<u64>,
}

/// A folder held by one process; released on drop or when the process ends.
pub trait Lock: Send + Sync {}

/// The node's own folders.
pub trait Disk: Send + Sync {
    /// Opens a file. Links are not followed in the last component.
    fn open(&self, path: &Path, open: Open, caching: Caching) -> io::Result<Arc<dyn File>>;

    /// The names in a folder, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// Makes a folder and its parents.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Removes a file's name. The bytes go when the last opener does.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Gives a file another name on the same file system, replacing what bore it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Reads a whole small file; an error (`InvalidData`) when it is longer than `max_bytes`.
    fn read_small(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>>;

    /// Replaces a small file so that a crash leaves the old or the new one: write aside, fsync, rename, fsync the folder.
    fn replace_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Space of the file system that holds `path`.
    fn space(&self, path: &Path) -> io::Result<Space>;

    /// Locks a folder against every other process (and a second opener in this one); `WouldBlock` when it is taken.
    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Lock>>;

    /// The file system that holds a folder.
    fn file_system(&self, dir: &Path) -> io::Result<Arc<dyn FileSystem>>;
}

/// A file system, held open: what the kernel failed to write since then is an error of the next sync.
pub trait FileSystem: Send + Sync {
    /// syncfs: the bytes and names of every file, others' too. Errors are those of [`File::sync_data`].
    fn sync(&self) -> io::Result<()>;
}

/// An open file.
#[allow(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
pub trait File: Send + Sync {
    /// Reads at `offset` until `buffer` is full or the file ends; returns the bytes read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// fdatasync. An error here fences the store: the kernel may have dropped the pages.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes a hole, keeping the file's length.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Cuts or grows the file.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Bytes the file takes on disk (holes don't count).
    fn allocated_bytes(&self) -> io::Result<u64>;

    /// Tells the file, as it was written last, from what somebody else puts in its place or writes to it. Nobody does
    /// that to a simulated one.
    fn stamp(&self) -> io::Result<u32> {
        Ok(0)
    }

    /// The descriptor, for the kernel; a simulated file has none.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
