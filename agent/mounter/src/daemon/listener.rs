//! A socket of the mounter's, made so that nobody connects before it is its owner's alone.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket};

/// Callers that wait for the one before them to end.
const WAITING: i32 = 16;

/// After an accept that failed, before the next.
const BREATH: Duration = Duration::from_millis(100);

/// Bound aside, given to `owner` and renamed.
pub fn open(path: &Path, owner: u32) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    let aside = path.with_extension("new");
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    bind(fd.as_raw_fd(), &UnixAddr::new(&aside)?)?;
    chown(&aside, Some(owner), Some(owner))?;
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o600))?;
    listen(&fd, Backlog::new(WAITING)?)?;
    fs::rename(&aside, path)?;
    Ok(fd)
}

/// The next caller.
pub fn accept(listener: &OwnedFd) -> OwnedFd {
    loop {
        match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
            Ok(raw) => return unsafe { OwnedFd::from_raw_fd(raw) },
            Err(_) => std::thread::sleep(BREATH),
        }
    }
}
