//! A socket in a folder of the kubelet's, for as long as it is held.

use std::io;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {}: {error}", path.display())]
pub struct ListenError {
    path: PathBuf,
    error: io::Error,
}

/// A socket that is listened on. Its file goes when this is dropped, so that the kubelet knows.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
}

impl Socket {
    /// Listens; takes the place of a socket that an earlier process has left.
    pub fn listen(path: &Path) -> Result<(Self, UnixListenerStream), ListenError> {
        let failed = |error| ListenError { path: path.to_owned(), error };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        Ok((Self { path: path.to_owned() }, UnixListenerStream::new(listener)))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The next process takes its place in any case.
        let _gone = std::fs::remove_file(&self.path);
    }
}
