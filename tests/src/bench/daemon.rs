//! A FUSE daemon that answers OPEN at once and does nothing: what opening costs when the daemon is free.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Result;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
};

const FOREVER: Duration = Duration::from_secs(3600);

/// The daemon, mounted until [`NullDaemon::unmount`]. It has the files `0`, `1`, `2`, ...
pub(super) struct NullDaemon {
    session: BackgroundSession,
}

impl NullDaemon {
    pub(super) fn mount(path: &Path) -> Result<NullDaemon> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("null".to_owned()), MountOption::RO];
        Ok(NullDaemon { session: fuser::spawn_mount(Null, path, &config)? })
    }

    pub(super) fn unmount(self) -> Result<()> {
        Ok(self.session.umount_and_join()?)
    }
}

struct Null;

fn attributes(ino: INodeNo) -> FileAttr {
    let kind = if ino == INodeNo::ROOT { FileType::Directory } else { FileType::RegularFile };
    FileAttr {
        ino,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Null {
    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str().and_then(|name| name.parse::<u64>().ok()) {
            Some(number) => reply.entry(&FOREVER, &attributes(INodeNo(number + 2)), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &attributes(ino));
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}
