//! Files of the machine: pread, pwrite, fdatasync, hole punching, one folder lock, atomic replacement.
//!
//! The last component of a path is never followed as a link. Where a file system refuses O_DIRECT (tmpfs, some
//! overlays) a direct open falls back to the page cache. Calls that a signal interrupts are repeated.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{Caching, Disk, Entry, File, FileSystem, Lock, Open, Space};

/// The machine's own file systems.
#[derive(Debug, Default)]
pub struct RealDisk;

/// What is only ours: stores hold other people's data.
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);
const DIR_MODE: u32 = 0o700;

impl Disk for RealDisk {
    fn open(&self, path: &Path, open: Open, caching: Caching) -> io::Result<Arc<dyn File>> {
        let flags = OFlags::CLOEXEC
            | OFlags::NOFOLLOW
            | match open {
                Open::Read => OFlags::RDONLY,
                Open::Write => OFlags::RDWR,
                Open::Create => OFlags::RDWR | OFlags::CREATE,
            };
        let opened = match caching {
            Caching::Buffered => rustix::fs::open(path, flags, FILE_MODE),
            Caching::Direct => match rustix::fs::open(path, flags | OFlags::DIRECT, FILE_MODE) {
                Err(Errno::INVAL | Errno::OPNOTSUPP) => rustix::fs::open(path, flags, FILE_MODE),
                other => other,
            },
        };
        Ok(Arc::new(RealFile { fd: opened? }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(Entry { name, is_dir: entry.file_type()?.is_dir() });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn read_small(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
        let mut bytes = Vec::new();
        fs::File::from(fd).take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).is_ok_and(|len| len <= max_bytes) {
            Ok(bytes)
        } else {
            Err(io::Error::from(io::ErrorKind::InvalidData))
        }
    }

    fn replace_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let aside = aside(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = RealFile { fd: rustix::fs::open(&aside, flags, FILE_MODE)? };
        file.write_at(bytes, 0)?;
        rustix::fs::fsync(&file.fd)?;
        fs::rename(&aside, path)?;
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        rustix::fs::fsync(open_dir(dir)?)?;
        Ok(())
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        let of = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        let free_files = (stat.f_files > 0).then_some(stat.f_favail);
        Ok(Space { total_bytes: of(stat.f_blocks), free_bytes: of(stat.f_bavail), free_files })
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Lock>> {
        // flock belongs to the open file description, so it also keeps out a second opener in this process.
        let fd = open_dir(dir)?;
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(FolderLock { _fd: fd }))
    }

    fn file_system(&self, dir: &Path) -> io::Result<Arc<dyn FileSystem>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(Arc::new(RealFileSystem { dir: rustix::fs::open(dir, flags, Mode::empty())? }))
    }
}

struct FolderLock {
    _fd: OwnedFd,
}

impl Lock for FolderLock {}

fn open_dir(dir: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Where a replacement is written before it takes the name: beside it, so that the rename stays on one file system.
fn aside(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    Ok(path.with_file_name(name))
}

struct RealFile {
    fd: OwnedFd,
}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let at = advance(offset, done)?;
            match rustix::io::pread(&self.fd, &mut buffer[done..], at) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                // A direct read that ended inside a page can't go on from there: the file ends here.
                Err(Errno::INVAL) if done > 0 && done % super::PAGE_BYTES != 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = advance(offset, done)?;
            match rustix::io::pwrite(&self.fd, &bytes[done..], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.fd)?)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::io::retry_on_intr(|| rustix::fs::fallocate(&self.fd, flags, offset, len))?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(rustix::io::retry_on_intr(|| rustix::fs::ftruncate(&self.fd, len))?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        // st_blocks counts 512 bytes whatever the file system's blocks are (stat(2)).
        Ok(self.metadata()?.blocks().saturating_mul(512))
    }

    fn stamp(&self) -> io::Result<u32> {
        let found = self.metadata()?;
        let mut hasher = DefaultHasher::new();
        (found.ino(), found.len(), found.mtime(), found.mtime_nsec()).hash(&mut hasher);
        Ok(u32::try_from(hasher.finish() >> 32).expect("half of it"))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}

struct RealFileSystem {
    dir: OwnedFd,
}

impl FileSystem for RealFileSystem {
    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.dir)?)
    }
}

impl RealFile {
    fn metadata(&self) -> io::Result<fs::Metadata> {
        fs::File::from(self.fd.try_clone()?).metadata()
    }
}

fn advance(offset: u64, done: usize) -> io::Result<u64> {
    u64::try_from(done).ok().and_then(|done| offset.checked_add(done)).ok_or(io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::super::{AlignedBuf, PAGE_BYTES};
    use super::*;

    #[test]
    fn direct_files_read_what_was_written_and_have_holes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = RealDisk.open(&dir.path().join("f"), Open::Create, Caching::Direct).expect("opens");
        let mut page = AlignedBuf::unpooled(PAGE_BYTES);
        page.put(&[5; PAGE_BYTES]);
        file.write_at(&page, 1 << 20).expect("writes");
        file.set_len((1 << 20) + 100).expect("cuts");
        assert_eq!(file.len().expect("stats"), (1 << 20) + 100);
        let mut read = AlignedBuf::unpooled(2 * PAGE_BYTES);
        assert_eq!(file.read_at(read.whole_mut(), 1 << 20).expect("reads"), 100, "short at the end");
        assert!(read.whole_mut()[..100].iter().all(|b| *b == 5));
        assert!(file.allocated_bytes().expect("stats") < 1 << 20, "a hole takes no space");
        file.punch(1 << 20, PAGE_BYTES as u64).expect("punches");
        file.sync_data().expect("syncs");
        assert_eq!(file.read_at(read.whole_mut(), 1 << 20).expect("reads"), 100);
        assert!(read.whole_mut()[..100].iter().all(|b| *b == 0));
    }

    #[test]
    fn a_folder_has_one_holder() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let held = RealDisk.lock(dir.path()).expect("free");
        let second = RealDisk.lock(dir.path()).err().expect("taken");
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        RealDisk.lock(dir.path()).expect("free again");
    }

    #[test]
    fn small_files_are_replaced_whole_and_links_are_not_followed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("small");
        RealDisk.replace_small(&path, b"one").expect("writes");
        RealDisk.replace_small(&path, b"two").expect("replaces");
        assert_eq!(RealDisk.read_small(&path, 3).expect("reads"), b"two");
        assert_eq!(RealDisk.read_small(&path, 2).expect_err("too long").kind(), io::ErrorKind::InvalidData);
        assert_eq!(RealDisk.list(dir.path()).expect("lists").len(), 1, "nothing is left aside");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("links");
        assert!(RealDisk.open(&link, Open::Read, Caching::Buffered).is_err());
    }
}
