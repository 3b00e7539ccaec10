//! One `larder up` per folder. The lock holds its pid, for whoever comes second.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

/// More than any pid.
const PID_BYTES_MAX: u64 = 16;

/// Between two looks at a lock that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why the folder isn't ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} is held by another larder{}", path.display(), shown(*pid))]
    Held {
        /// The lock.
        path: PathBuf,
        /// Who holds it, if it has said so.
        pid: Option<u32>,
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

/// ` (pid 7)`, or nothing.
pub fn shown(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// The lock, until it is dropped or the process ends.
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] Flock<File>);

/// Takes the lock at `path`, if nobody holds it.
pub fn take(path: &Path) -> Result<Lock, LockError> {
    let io = |source| LockError::Io { path: path.to_owned(), source };
    let options = File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(path);
    match Flock::lock(options.map_err(io)?, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let pid = std::process::id().to_string();
            lock.set_len(0).and_then(|()| lock.write_all(pid.as_bytes())).map_err(io)?;
            Ok(Lock(lock))
        }
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            // Just taken, and not written yet: then it has no name.
            let pid = file.take(PID_BYTES_MAX).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            Err(LockError::Held { path: path.to_owned(), pid })
        }
        Err((_, errno)) => Err(io(errno.into())),
    }
}

/// Waits until nobody holds the lock at `path`; whether that came within `patience`.
pub fn wait_free(path: &Path, patience: Duration) -> Result<(), LockError> {
    let deadline = Instant::now() + patience;
    loop {
        match take(path) {
            Err(LockError::Held { .. }) if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
            other => return other.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_second_hears_who_was_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("up.lock");
        let first = take(&path).expect("free");
        match take(&path).err() {
            Some(LockError::Held { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        assert!(wait_free(&path, Duration::from_millis(50)).is_err(), "it is held on");
        drop(first);
        wait_free(&path, Duration::from_secs(5)).expect("free again");
    }
}
