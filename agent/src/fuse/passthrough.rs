//! Files that the kernel reads past the agent: which are given to it, how many, and why others aren't.
//!
//! [`Passthrough`] belongs to the agent: one bound on what the kernel has of it, one set of counters. Each mount has its
//! own [`Connection`], for the kernel's numbers mean something on one connection only. Whatever stands in the way, the
//! file is read through the agent; the reason is counted, and what will not go away by itself is in the node's status.
//!
//! A file is given only when all of it is here and every byte was read back and checked since the store was opened. One
//! that wasn't yet is read through the agent and checked meanwhile: a later open finds it ready.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use larder_proto::ids::ObjectId;
use larder_proto::object::Object;
use nix::errno::Errno;
use rustix::ioctl::{Setter, ioctl};
use tokio::sync::Semaphore;

use crate::fs::{Backing, Backings, Mode};
use crate::runtime::Runtime;
use crate::runtime::tasks::Pool;
use crate::store::{Lent, NotPassed, Stores};

/// Smaller files are read through the agent: their pages are kept, and giving one to the kernel costs more than reading it.
const FILE_BYTES_MIN: u64 = 1 << 20;

/// Objects that are read back at the same time, and those that may wait for it; others are asked for by a later open.
const VERIFYING_MAX: usize = 2;
const WAITING_MAX: u64 = 256;

/// `FUSE_DEV_IOC_BACKING_CLOSE` of linux/fuse.h: `_IOW(229, 2, uint32_t)`.
const BACKING_CLOSE: rustix::ioctl::Opcode = 0x4004_e502;

/// Why an open that could have been passed through was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The kernel can't (it is older than 6.9, or built without).
    Kernel,
    /// The agent lacks CAP_SYS_ADMIN in the initial user namespace.
    Capability,
    /// The kernel has as many files of this agent as it may, or has no descriptors left.
    Descriptors,
    /// The store is on file systems stacked upon each other, deeper than the kernel follows.
    Stacked,
    /// The disk failed, or took too long.
    Disk,
    /// The object is being read back and checked.
    Unverified,
    /// The kernel said something else.
    Other,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 7] =
        [Self::Kernel, Self::Capability, Self::Descriptors, Self::Stacked, Self::Disk, Self::Unverified, Self::Other];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Capability => "capability",
            Self::Descriptors => "descriptors",
            Self::Stacked => "stacked",
            Self::Disk => "disk",
            Self::Unverified => "unverified",
            Self::Other => "other",
        }
    }

    /// What the kernel's refusal means.
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM) => Self::Capability,
            Some(Errno::ELOOP) => Self::Stacked,
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOSPC | Errno::ENOMEM) => Self::Descriptors,
            Some(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EINVAL) => Self::Kernel,
            _ => Self::Other,
        }
    }

    /// What holds for the whole agent until it is started anew.
    fn lasting(self) -> Option<Standing> {
        match self {
            Self::Kernel => Some(Standing::Kernel),
            Self::Capability => Some(Standing::Capability),
            Self::Descriptors | Self::Stacked | Self::Disk | Self::Unverified | Self::Other => None,
        }
    }
}

/// What stands in the way of passthrough as long as nobody mends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As [`Refusal::Kernel`].
    Kernel,
    /// As [`Refusal::Capability`].
    Capability,
    /// As [`Refusal::Descriptors`], until files are closed.
    Descriptors,
    /// As [`Refusal::Stacked`], for some store.
    Stacked,
}

impl Standing {
    fn refusal(self) -> Refusal {
        match self {
            Self::Kernel => Refusal::Kernel,
            Self::Capability => Refusal::Capability,
            Self::Descriptors => Refusal::Descriptors,
            Self::Stacked => Refusal::Stacked,
        }
    }
}

/// The numbers of this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassthroughCounts {
    /// Opens whose file the kernel reads itself.
    pub opened: u64,
    /// Opens that could have been, by why they were not, in the order of [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Files that the kernel has now.
    pub files: u64,
    /// The most it may have.
    pub files_max: u64,
}

/// What all mounts of an agent share. Cheap to clone.
#[derive(Clone)]
pub struct Passthrough {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Runtime,
    stores: Stores,
    files: AtomicU64,
    files_max: u64,
    /// Stores lie on an overlay: the kernel must be told to follow one more level.
    stacked: bool,
    opened: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    /// What holds until the agent is started anew.
    lasting: OnceLock<Standing>,
    /// The kernel refused a store's file for its depth.
    stacked_too_deep: AtomicBool,
    turns: Semaphore,
    waiting: AtomicU64,
    closing: Pool,
}

impl Passthrough {
    /// The kernel may have `files_max` files of these stores; `stacked`: one of them lies on an overlay.
    pub fn new(runtime: Runtime, stores: Stores, files_max: u64, stacked: bool) -> Self {
        let inner = Inner {
            // One that is never closed keeps its file's room on the disk: there is a place for each.
            closing: runtime.tasks.pool("backings", 1, usize::try_from(files_max).unwrap_or(usize::MAX)),
            runtime,
            stores,
            files: AtomicU64::new(0),
            files_max,
            stacked,
            opened: AtomicU64::new(0),
            refused: Default::default(),
            lasting: OnceLock::new(),
            stacked_too_deep: AtomicBool::new(false),
            turns: Semaphore::new(VERIFYING_MAX),
            waiting: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// For one mount; it gives nothing to the kernel before it is connected.
    pub fn connection(&self) -> Arc<Connection> {
        Arc::new(Connection { inner: self.inner.clone(), device: OnceLock::new() })
    }

    /// The counters.
    pub fn counts(&self) -> PassthroughCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PassthroughCounts {
            opened: get(&self.inner.opened),
            refused: std::array::from_fn(|at| get(&self.inner.refused[at])),
            files: get(&self.inner.files),
            files_max: self.inner.files_max,
        }
    }

    /// Why no file is passed through, or not every file that could be; nothing when all is well.
    pub fn refusal(&self) -> Option<Standing> {
        let inner = &self.inner;
        if let Some(lasting) = inner.lasting.get() {
            return Some(*lasting);
        }
        if inner.files.load(Ordering::Relaxed) >= inner.files_max {
            return Some(Standing::Descriptors);
        }
        inner.stacked_too_deep.load(Ordering::Relaxed).then_some(Standing::Stacked)
    }
}

impl Inner {
    fn refuse(&self, why: Refusal) -> Mode {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(lasting) = why.lasting() {
            self.lacks(lasting);
        }
        if why == Refusal::Stacked {
            self.stacked_too_deep.store(true, Ordering::Relaxed);
        }
        Mode::Cached
    }

    /// Says once what stands in the way until the agent is started anew.
    fn lacks(&self, lasting: Standing) {
        if self.lasting.set(lasting).is_ok() {
            let reason = lasting.refusal().as_str();
            tracing::info!(reason, "files are read through the agent: passthrough isn't to be had");
        }
    }

    /// Reads the object back in the background, so that a later open can pass it.
    fn verify(self: &Arc<Self>, object: &Arc<Object>) {
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let (inner, object) = (self.clone(), object.clone());
        self.runtime.tasks.spawn(async move {
            let turn = inner.turns.acquire().await.expect("never closed");
            match inner.stores.verify(&object).await {
                Ok(verified) => tracing::debug!(object = %object.id(), verified, "read back"),
                Err(error) => tracing::debug!(object = %object.id(), %error, "could not be read back"),
            }
            drop(turn);
            inner.waiting.fetch_sub(1, Ordering::AcqRel);
        });
    }

    /// Room for one more file, if there is.
    fn room(self: &Arc<Self>) -> Option<Room> {
        let more = |files| (files < self.files_max).then_some(files + 1);
        self.files.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Room(self.clone()))
    }
}

/// One of the files that the kernel may have.
struct Room(Arc<Inner>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.files.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One mount's side.
pub struct Connection {
    inner: Arc<Inner>,
    /// The mount's device. Lives as long as this does, and so as long as the tree.
    device: OnceLock<Arc<OwnedFd>>,
}

impl Connection {
    /// The kernel speaks on `device`.
    pub(super) fn connect(&self, device: OwnedFd) {
        let first = self.device.set(Arc::new(device));
        debug_assert!(first.is_ok(), "a mount has one device");
    }

    /// How deep the kernel has to follow stacked file systems. More than needed would keep others from stacking upon
    /// the mount.
    pub(super) fn stack_depth(&self) -> u32 {
        if self.inner.stacked { 2 } else { 1 }
    }

    /// The kernel said at the beginning that it can't.
    pub(super) fn unsupported(&self) {
        self.inner.lacks(Standing::Kernel);
    }

    /// Asks the kernel whether it takes files at all, once the mount has begun, so that the node's status is right
    /// before anybody opens one. It checks the capability before it looks at the descriptor, and the mount's own device
    /// is none that it can use.
    pub(super) fn probe(&self) {
        let Some(device) = self.device.get() else { return };
        match fuser::BackingId::create_raw(device.as_ref(), device.as_ref()) {
            // Linux 6.9 takes anything that can be read.
            Ok(id) => close_backing(device, id),
            Err(error) if Refusal::of(&error) == Refusal::Capability => self.inner.lacks(Standing::Capability),
            Err(_) => (),
        }
    }

    /// A handle was opened that the kernel reads past us.
    pub(super) fn opened(&self) {
        self.inner.opened.fetch_add(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Backings for Connection {
    fn choose_now(&self, object: &Arc<Object>) -> Option<Mode> {
        if object.size() < FILE_BYTES_MIN || !self.inner.stores.object_complete(&object.id()) {
            return Some(Mode::Cached);
        }
        if let Some(lasting) = self.inner.lasting.get() {
            return Some(self.inner.refuse(lasting.refusal()));
        }
        if !self.inner.stores.is_verified(&object.id()) {
            self.inner.verify(object);
            return Some(self.inner.refuse(Refusal::Unverified));
        }
        None
    }

    async fn choose(&self, object: &Arc<Object>) -> Mode {
        let Some(device) = self.device.get() else { return Mode::Cached };
        let Some(room) = self.inner.room() else { return self.inner.refuse(Refusal::Descriptors) };
        let passed = match self.inner.stores.pass(&object.id()).await {
            Ok(passed) => passed,
            // It has just left.
            Err(NotPassed::NotHere) => return Mode::Cached,
            Err(NotPassed::Unverified) => return self.inner.refuse(Refusal::Unverified),
            Err(NotPassed::Disk(error)) => {
                tracing::debug!(object = %object.id(), %error, "the file can't be opened for the kernel");
                return self.inner.refuse(Refusal::Disk);
            }
        };
        let Some(file) = passed.descriptor() else { return Mode::Cached };
        // The kernel keeps the file open by itself: our descriptor ends with this call.
        match fuser::BackingId::create_raw(device.as_ref(), file) {
            Ok(id) => {
                let device = Arc::downgrade(device);
                let (object, _lent) = (object.id(), passed.lend());
                Mode::Passthrough(Arc::new(KernelFile { id, object, device, room: Some(room), _lent }))
            }
            Err(error) => {
                tracing::debug!(object = %object.id(), %error, "the kernel refuses the file");
                self.inner.refuse(Refusal::of(&error))
            }
        }
    }
}

/// A file that the kernel has.
struct KernelFile {
    id: u32,
    object: ObjectId,
    device: Weak<OwnedFd>,
    room: Option<Room>,
    /// Whoever gives copies leaves the disk to its readers.
    _lent: Lent,
}

impl Backing for KernelFile {
    fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for KernelFile {
    fn drop(&mut self) {
        let Some(room) = self.room.take() else { return };
        // Without a device the connection is gone, and the kernel's numbers with it.
        let Some(device) = self.device.upgrade() else { return };
        let inner = room.0.clone();
        let id = self.id;
        let close = move || {
            close_backing(&device, id);
            drop(room);
        };
        if inner.stores.is_verified(&self.object) {
            return close();
        }
        // Evicted meanwhile: its last user goes here, and the disk may take a while to free a large file.
        let closing = inner.closing.clone();
        inner.runtime.tasks.spawn(async move {
            let _closed = closing.run(close).await;
        });
    }
}

/// Tells the kernel that no open will name this file again; open handles keep it.
fn close_backing(device: &OwnedFd, id: u32) {
    // SAFETY: the opcode takes a pointer to a u32, which the setter passes, and changes nothing of ours.
    let closed = unsafe { ioctl(device, Setter::<BACKING_CLOSE, u32>::new(id)) };
    if let Err(error) = closed {
        tracing::debug!(id, %error, "the kernel doesn't know the file any more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_has_a_reason() {
        let of = |errno: Errno| Refusal::of(&io::Error::from_raw_os_error(errno as i32));
        assert_eq!(of(Errno::EPERM), Refusal::Capability);
        assert_eq!(of(Errno::ELOOP), Refusal::Stacked);
        assert_eq!(of(Errno::ENFILE), Refusal::Descriptors);
        assert_eq!(of(Errno::ENOTTY), Refusal::Kernel);
        assert_eq!(of(Errno::EIO), Refusal::Other);
        for (at, reason) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at, "{}", reason.as_str());
        }
    }
}
