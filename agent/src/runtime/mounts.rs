//! FUSE mounts of this process: by its own hands, or by the node's mounter where this process may not.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use larder_mounter::{Client, mounts};

pub use larder_mounter::mounts::{Mounted, is_ours, mounted, mounted_at, unmount};

/// What statfs says of an overlay (OVERLAYFS_SUPER_MAGIC of linux/magic.h).
const OVERLAY: rustix::fs::FsWord = 0x794c_7630;

/// Who mounts: this process, if it is root, or the node's mounter.
#[derive(Clone)]
pub enum Hands {
    /// This process.
    Own,
    /// The mounter.
    Mounter(Arc<Client>),
}

/// How long an agent that starts waits for the mounter: a node that has just come up has others to start.
const MOUNTER_WITHIN: Duration = Duration::from_secs(120);

impl Hands {
    /// The mounter's, once it is there. Blocks.
    pub fn of_mounter(socket: &Path) -> io::Result<Self> {
        Ok(Self::Mounter(Arc::new(Client::connect(socket, MOUNTER_WITHIN)?)))
    }

    /// Mounts at `at`; the kernel's first request is waiting on the connection.
    pub fn mount(&self, at: &Path) -> io::Result<OwnedFd> {
        match self {
            Self::Own => mounts::make(at),
            Self::Mounter(mounter) => Ok(mounter.mount(name_of(at)?)?),
        }
    }

    /// Takes it away, and the folder it was on.
    pub fn unmount(&self, at: &Path) -> io::Result<()> {
        match self {
            Self::Own => unmount(at),
            Self::Mounter(mounter) => Ok(mounter.unmount(name_of(at)?)?),
        }
    }

    /// How far the kernel reads ahead.
    pub fn set_read_ahead(&self, at: &Path, bytes: u64) -> io::Result<()> {
        match self {
            Self::Own => mounts::set_read_ahead(&mounted_at(at)?.ok_or(io::ErrorKind::NotFound)?, bytes),
            Self::Mounter(mounter) => Ok(mounter.read_ahead(name_of(at)?, bytes)?),
        }
    }

    /// Which volume of which namespace it is: from then on the node's pods may be given it.
    pub fn offer(&self, at: &Path, namespace: &str) -> io::Result<()> {
        match self {
            // No pods here.
            Self::Own => Ok(()),
            Self::Mounter(mounter) => Ok(mounter.offer(name_of(at)?, namespace)?),
        }
    }

    /// The folder on which something was mounted; the mounter looks after its own.
    pub fn remove_mount_point(&self, at: &Path) {
        match self {
            Self::Own => remove_mount_point(at),
            Self::Mounter(_) => {}
        }
    }
}

fn name_of(at: &Path) -> io::Result<&str> {
    at.file_name().and_then(|name| name.to_str()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Whether there is a FUSE device.
pub fn has_device() -> bool {
    Path::new("/dev/fuse").exists()
}

/// Removes the folder on which something was mounted, if it is empty; nothing is lost when it stays.
pub fn remove_mount_point(at: &Path) {
    if let Err(error) = fs::remove_dir(at) {
        tracing::debug!(at = %at.display(), %error, "a mount's folder stays");
    }
}

/// Whether the file system that holds `path` lies on another one (an overlay).
pub fn is_stacked(path: &Path) -> io::Result<bool> {
    Ok(rustix::fs::statfs(path)?.f_type == OVERLAY)
}
