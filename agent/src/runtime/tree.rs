//! A directory tree that belongs to somebody else, read only: a local origin.
//!
//! Every path is resolved below the root by the kernel (openat2, RESOLVE_BENEATH), so neither a link nor a rename under
//! way leads out of it. Only plain files are opened, without waiting (a FIFO can't hang a reader). All calls block: they
//! belong in a pool.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

/// The root of a tree, opened.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

/// A plain file of a tree, opened.
#[derive(Debug)]
pub struct TreeFile {
    fd: OwnedFd,
}

/// What is known of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeInfo {
    /// Its inode.
    pub inode: u64,
    /// Its length.
    pub size: u64,
    /// When its bytes changed last, in nanoseconds since the epoch; 0 when it was before.
    pub mtime_ns: u64,
}

/// A name in a directory of a tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TreeEntry {
    /// The name, in whatever bytes it has.
    pub name: Vec<u8>,
    /// Whether it is a directory (or leads to one inside the tree).
    pub is_dir: bool,
}

impl Tree {
    /// Opens the root, which must be a directory.
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::open(root, flags, Mode::empty())? })
    }

    /// The names in a directory (empty path: the root), in no order. Links that lead out of the tree or nowhere, and
    /// what is neither file nor directory, are left out.
    pub fn list(&self, dir: &str) -> io::Result<Vec<TreeEntry>> {
        let fd = self.resolve(dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown | FileType::Symlink => kind(&fd, name),
                other => Some(other),
            };
            match kind {
                Some(FileType::Directory) => names.push(TreeEntry { name: name.to_bytes().into(), is_dir: true }),
                Some(FileType::RegularFile) => names.push(TreeEntry { name: name.to_bytes().into(), is_dir: false }),
                _ => {}
            }
        }
        Ok(names)
    }

    /// What is known of a plain file; `NotFound` when it is anything else.
    pub fn info(&self, path: &str) -> io::Result<TreeInfo> {
        info(&rustix::fs::fstat(self.resolve(path, OFlags::PATH)?)?)
    }

    /// Opens a plain file; `NotFound` when it is anything else.
    pub fn file(&self, path: &str) -> io::Result<TreeFile> {
        let file = TreeFile { fd: self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)? };
        file.info()?;
        Ok(file)
    }

    fn resolve(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        beneath(&self.root, path, flags)
    }
}

impl TreeFile {
    /// What is known of the file now.
    pub fn info(&self) -> io::Result<TreeInfo> {
        info(&rustix::fs::fstat(&self.fd)?)
    }

    /// At most `len` bytes at `offset`; fewer only at the end of the file.
    pub fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            let at = offset.saturating_add(u64::try_from(done).expect("a length fits u64"));
            match rustix::io::pread(&self.fd, &mut bytes[done..], at) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }
}

fn beneath(dir: &OwnedFd, path: impl rustix::path::Arg, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// What a name is, following a link only below its own directory's tree; nothing when it can't be told.
fn kind(dir: &OwnedFd, name: &CStr) -> Option<FileType> {
    let stat = match beneath(dir, name, OFlags::PATH) {
        Ok(fd) => rustix::fs::fstat(fd).ok()?,
        Err(_) => rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?,
    };
    Some(FileType::from_raw_mode(stat.st_mode))
}

fn info(stat: &Stat) -> io::Result<TreeInfo> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::NotFound.into());
    }
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    #[allow(clippy::useless_conversion, reason = "signed on some architectures")]
    let nanos = u64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    Ok(TreeInfo {
        inode: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: seconds.saturating_mul(1_000_000_000).saturating_add(nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_that_lead_out_are_not_there() {
        let root = tempfile::tempdir().expect("a directory");
        let outside = tempfile::tempdir().expect("a directory");
        fs::write(outside.path().join("secret"), "x").expect("written");
        fs::create_dir(root.path().join("d")).expect("made");
        fs::write(root.path().join("d/f"), "hello").expect("written");
        symlink(outside.path(), root.path().join("out")).expect("linked");
        symlink("d", root.path().join("in")).expect("linked");
        symlink("../../../../etc/passwd", root.path().join("up")).expect("linked");
        let tree = Tree::open(root.path()).expect("opened");
        let mut names = tree.list("").expect("listed");
        names.sort();
        let plain: Vec<_> = names.iter().map(|entry| (entry.name.as_slice(), entry.is_dir)).collect();
        assert_eq!(plain, [(b"d".as_slice(), true), (b"in".as_slice(), true)]);
        assert!(tree.file("out/secret").is_err());
        assert!(tree.file("up").is_err());
        let file = tree.file("in/f").expect("inside");
        assert_eq!(file.read_at(1, 100).expect("read"), b"ello");
        assert_eq!(tree.info("d").expect_err("a directory").kind(), io::ErrorKind::NotFound);
    }
}
