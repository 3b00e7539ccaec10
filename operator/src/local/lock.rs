//! One `larder up` per folder.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Why the folder isn't ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} is held by another larder", path.display())]
    Held {
        /// The lock.
        path: PathBuf,
    },
    /// It can't be made.
    #[error("can't lock {}: {source}", path.display())]
    Io {
        /// The lock.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The lock, until it is dropped or the process ends.
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] Flock<File>);

/// Takes the lock at `path`, if nobody holds it.
pub fn take(path: &Path) -> Result<Lock, LockError> {
    let io = |source| LockError::Io { path: path.to_owned(), source };
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(io)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Lock(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(LockError::Held { path: path.to_owned() }),
        Err((_, errno)) => Err(io(errno.into())),
    }
}
