//! fuser's requests, one by one.
//!
//! A request is a call on the tree and a reply. `fh` is the request's own number without its top bit, so an OPEN that
//! is sent again opens the same handle. References counted by the tree for a reply that can't be delivered come back
//! with the connection's end.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use larder_proto::limits::COMPONENT_BYTES_MAX;
use larder_proto::wire::RequestId;
use tracing::Instrument;

use super::directories::{Names, Plain, Plus};
use super::errno::errno;
use super::ops::{Op, Ops};
use super::passthrough::Connection;
use crate::fs::{Attr, Entry, Fh, Fs, FsError, Ino, Kind, Mode, Parts};
use crate::runtime::Runtime;

/// Read-ahead requests that the kernel sends before earlier ones were answered: 64 MiB of them.
const BACKGROUND_MAX: u16 = 64;

/// The largest request; the kernel's own bound (256 pages).
const REQUEST_BYTES_MAX: u32 = 1024 * 1024;

/// What stat and statfs call a block.
const BLOCK_BYTES: u32 = 4096;

/// No generation but this: a new one would make the kernel fail handles that are open.
pub(super) const GENERATION: Generation = Generation(0);

pub(super) struct Door {
    runtime: Runtime,
    tokio: tokio::runtime::Handle,
    fs: Arc<Fs>,
    backings: Arc<Connection>,
    ops: Arc<Ops>,
    requests: AtomicU64,
}

impl Door {
    pub(super) fn new(runtime: &Runtime, fs: Arc<Fs>, backings: Arc<Connection>, ops: Arc<Ops>) -> Self {
        let requests = AtomicU64::new(runtime.rng.next_u64());
        Self { runtime: runtime.clone(), tokio: tokio::runtime::Handle::current(), fs, backings, ops, requests }
    }

    fn request(&self) -> RequestId {
        RequestId(self.requests.fetch_add(1, Ordering::Relaxed))
    }

    /// Waits for an answer off the FUSE thread. How many wait is bounded by the kernel: one per thread that is blocked
    /// in a call, and `BACKGROUND_MAX`.
    fn wait(&self, op: Op, request: RequestId, answer: impl Future<Output = ()> + Send + 'static) {
        self.ops.waited(op);
        // On at every level: what is logged below it shall name the request.
        let span = tracing::error_span!("fuse", op = op.as_str(), %request);
        let _entered = self.tokio.enter();
        self.runtime.tasks.spawn(answer.instrument(span));
    }

    fn refuse(&self, reply: impl FnOnce(Errno)) {
        self.ops.at_once(Op::Write);
        self.ops.failed(Op::Write);
        reply(errno(FsError::ReadOnly));
    }

    fn list(&self, op: Op, fh: FileHandle, offset: u64, names: impl Names) {
        match self.fs.list_now(Fh(fh.0), offset) {
            Ok(Some(part)) => {
                self.ops.at_once(op);
                names.reply(&self.fs, Fh(fh.0), offset, &part);
            }
            Err(error) => {
                self.ops.failed(op);
                names.fail(errno(error));
            }
            Ok(None) => {
                let (fs, ops, fh) = (self.fs.clone(), self.ops.clone(), Fh(fh.0));
                let request = self.request();
                self.wait(op, request, async move {
                    match fs.list(fh, offset).await {
                        Ok(part) => names.reply(&fs, fh, offset, &part),
                        Err(error) => names.fail(failure(&ops, op, error)),
                    }
                });
            }
        }
    }
}

impl Filesystem for Door {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
        ];
        for capability in wanted {
            if config.add_capabilities(capability).is_err() {
                tracing::info!(?capability, "the kernel lacks a FUSE capability; it is slower without");
            }
        }
        let depth = config.set_max_stack_depth(self.backings.stack_depth());
        if depth.is_err() || config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_err() {
            self.backings.unsupported();
        }
        // What the kernel can't do it lowers by itself.
        let _previous = config.set_max_write(REQUEST_BYTES_MAX);
        let _previous = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if let Some(answer) = self.fs.lookup_now(Ino(parent.0), name) {
            self.ops.at_once(Op::Lookup);
            return reply_entry(&self.ops, reply, answer);
        }
        let (fs, ops, name) = (self.fs.clone(), self.ops.clone(), name.to_owned());
        let request = self.request();
        self.wait(Op::Lookup, request, async move {
            let answer = fs.lookup(Ino(parent.0), &name).await;
            reply_entry(&ops, reply, answer);
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.fs.forget(Ino(ino.0), count);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.ops.at_once(Op::Getattr);
        match self.fs.getattr(Ino(ino.0)) {
            Ok(entry) => reply.attr(&entry.ttl, &file_attr(&entry.attr)),
            Err(error) => reply.error(failure(&self.ops, Op::Getattr, error)),
        }
    }

    fn access(&self, _request: &Request, _ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        if mask.contains(AccessFlags::W_OK) { reply.error(errno(FsError::ReadOnly)) } else { reply.ok() }
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            self.ops.at_once(Op::Open);
            return reply.error(failure(&self.ops, Op::Open, FsError::ReadOnly));
        }
        let (ino, fh) = (Ino(ino.0), handle_of(request));
        let now = {
            let _entered = self.tokio.enter();
            self.fs.open_now(ino, fh)
        };
        if let Some(opened) = now {
            self.ops.at_once(Op::Open);
            return reply_open(&self.ops, &self.backings, reply, fh, opened);
        }
        let (fs, ops, backings) = (self.fs.clone(), self.ops.clone(), self.backings.clone());
        self.wait(Op::Open, self.request(), async move {
            let opened = fs.open(ino, fh).await;
            reply_open(&ops, &backings, reply, fh, opened);
        });
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (request, fh) = (self.request(), Fh(fh.0));
        let now = {
            let _entered = self.tokio.enter();
            self.fs.read_now(request, fh, offset, size)
        };
        match now {
            Ok(Some(parts)) => {
                self.ops.at_once(Op::Read);
                reply_bytes(&self.ops, reply, parts);
            }
            Err(error) => reply.error(failure(&self.ops, Op::Read, error)),
            Ok(None) => {
                let (fs, ops) = (self.fs.clone(), self.ops.clone());
                self.wait(Op::Read, request, async move {
                    match fs.read(request, fh, offset, size).await {
                        Ok(parts) => reply_bytes(&ops, reply, parts),
                        Err(error) => reply.error(failure(&ops, Op::Read, error)),
                    }
                });
            }
        }
    }

    fn flush(&self, _request: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.ops.at_once(Op::Release);
        let _entered = self.tokio.enter();
        self.fs.release(Fh(fh.0));
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.ops.at_once(Op::Opendir);
        let fh = handle_of(request);
        match self.fs.opendir(Ino(ino.0), fh) {
            Ok(()) => reply.opened(FileHandle(fh.0), FopenFlags::empty()),
            Err(error) => reply.error(failure(&self.ops, Op::Opendir, error)),
        }
    }

    fn readdir(&self, _request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.list(Op::Readdir, fh, offset, Plain::new(Ino(ino.0), reply));
    }

    fn readdirplus(&self, _request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        self.list(Op::Readdirplus, fh, offset, Plus::new(Ino(ino.0), reply));
    }

    fn releasedir(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.ops.at_once(Op::Release);
        self.fs.release(Fh(fh.0));
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.ops.at_once(Op::Statfs);
        let space = self.fs.space();
        let block = u64::from(BLOCK_BYTES);
        let free = space.capacity_bytes.saturating_sub(space.used_bytes) / block;
        let names = u32::try_from(COMPONENT_BYTES_MAX).expect("255");
        reply.statfs(space.capacity_bytes / block, free, free, 0, 0, BLOCK_BYTES, names, BLOCK_BYTES);
    }

    fn setattr(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.refuse(|error| reply.error(error));
    }

    fn readlink(&self, _request: &Request, _ino: INodeNo, reply: ReplyData) {
        reply.error(Errno::EINVAL);
    }

    fn mknod(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        self.refuse(|error| reply.error(error));
    }

    fn mkdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        self.refuse(|error| reply.error(error));
    }

    fn unlink(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        self.refuse(|error| reply.error(error));
    }

    fn rmdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        self.refuse(|error| reply.error(error));
    }

    fn symlink(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, _target: &Path, reply: ReplyEntry) {
        self.refuse(|error| reply.error(error));
    }

    fn rename(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.refuse(|error| reply.error(error));
    }

    fn link(&self, _request: &Request, _ino: INodeNo, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        self.refuse(|error| reply.error(error));
    }

    fn create(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        self.refuse(|error| reply.error(error));
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.refuse(|error| reply.error(error));
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        self.refuse(|error| reply.error(error));
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.refuse(|error| reply.error(error));
    }

    fn setxattr(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.refuse(|error| reply.error(error));
    }

    fn removexattr(&self, _request: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        self.refuse(|error| reply.error(error));
    }

    // ENOSYS: programs see ENOTSUP, and the kernel doesn't ask again.
    fn getxattr(&self, _request: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: fuser::ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _request: &Request, _ino: INodeNo, _size: u32, reply: fuser::ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    // ENOSYS: the kernel finds data and holes by the size, and doesn't ask again.
    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: fuser::ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }
}

fn handle_of(request: &Request) -> Fh {
    Fh(u64::from(request.unique()) & !(1 << 63))
}

fn reply_entry(ops: &Ops, reply: ReplyEntry, answer: Result<Entry, FsError>) {
    match answer {
        Ok(entry) => reply.entry(&entry.ttl, &file_attr(&entry.attr), GENERATION),
        // A missing name is an answer. The kernel isn't told to remember it: somebody may make the object now.
        Err(FsError::NotFound) => reply.error(errno(FsError::NotFound)),
        Err(error) => reply.error(failure(ops, Op::Lookup, error)),
    }
}

fn reply_open(ops: &Ops, backings: &Connection, reply: ReplyOpen, fh: Fh, opened: Result<Mode, FsError>) {
    let handle = FileHandle(fh.0);
    match opened {
        // Pages are kept: another version is another inode. There is nothing to flush.
        Ok(Mode::Cached) => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH),
        Ok(Mode::Passthrough(file)) => {
            backings.opened();
            // SAFETY: the number is of this connection; `file` keeps it until the reply is sent, and the open handle after.
            let id = unsafe { reply.wrap_backing(file.id()) };
            reply.opened_passthrough(handle, FopenFlags::FOPEN_NOFLUSH, &id);
            // Not closed here: that is for `file`, when the last handle is closed.
            let _id = id.into_raw();
        }
        Err(error) => reply.error(failure(ops, Op::Open, error)),
    }
}

fn reply_bytes(ops: &Ops, reply: ReplyData, parts: Parts) {
    ops.read(parts.len());
    reply.data(&parts.into_bytes());
}

fn failure(ops: &Ops, op: Op, error: FsError) -> Errno {
    ops.failed(op);
    tracing::debug!(op = op.as_str(), %error, "answered with an error");
    errno(error)
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    let (kind, nlink) = match attr.kind {
        Kind::File => (FileType::RegularFile, 1),
        Kind::Dir => (FileType::Directory, 2),
    };
    let time = UNIX_EPOCH + Duration::from_millis(attr.mtime_ms);
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm: attr.mode,
        nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}
