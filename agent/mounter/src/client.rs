//! The agent's end.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::message::{Malformed, Reply, Request};
use crate::packet::{receive, send};

/// A mounter answers in milliseconds; a disk that hangs must not hang the agent.
const ANSWER_SECONDS: i64 = 30;

/// Between two tries while the mounter isn't there.
const AGAIN: Duration = Duration::from_millis(200);

/// Why something wasn't done.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no conversation.
    #[error("the mounter: {0}")]
    Io(#[from] io::Error),
    /// It speaks something else.
    #[error("the mounter: {0}")]
    Malformed(#[from] Malformed),
    /// It hung up.
    #[error("the mounter hung up")]
    Ended,
    /// It refuses.
    #[error("the mounter refuses: {why}")]
    Refused {
        /// The system's error number; 0 when it is the mounter's own word.
        errno: i32,
        /// Why.
        why: String,
    },
    /// A mount without its connection.
    #[error("the mounter sent no connection")]
    NoConnection,
}

impl From<ClientError> for io::Error {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Io(error) => error,
            error => Self::other(error),
        }
    }
}

/// A connection to the mounter. While it lasts, nobody else is this cluster's agent on this node. One that ended, because
/// the mounter did, is made anew with the next request.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    socket: Mutex<Option<OwnedFd>>,
}

impl Client {
    /// Connects, waiting until the mounter is there, at most `patience`. Blocks.
    pub fn connect(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        let until = Instant::now() + patience;
        loop {
            match connect_to(path) {
                Ok(socket) => return Ok(Self { path: path.to_owned(), socket: Mutex::new(Some(socket)) }),
                Err(error) if Instant::now() >= until => return Err(error.into()),
                Err(_) => std::thread::sleep(AGAIN),
            }
        }
    }

    /// Makes the cluster's folder below `host_path`, for the agent alone; refused when a disk is to be mounted there and none is.
    pub fn prepare(&self, host_path: &str, is_mount_point: bool) -> Result<(), ClientError> {
        self.ask(&Request::Prepare { host_path: host_path.to_owned(), is_mount_point }).map(drop)
    }

    /// Mounts; returns the FUSE connection, on which the kernel's first request waits.
    pub fn mount(&self, name: &str) -> Result<OwnedFd, ClientError> {
        self.ask(&Request::Mount { name: name.to_owned() })?.ok_or(ClientError::NoConnection)
    }

    /// Takes a mount away.
    pub fn unmount(&self, name: &str) -> Result<(), ClientError> {
        self.ask(&Request::Unmount { name: name.to_owned() }).map(drop)
    }

    /// Sets how far the kernel reads ahead on a mount.
    pub fn read_ahead(&self, name: &str, bytes: u64) -> Result<(), ClientError> {
        self.ask(&Request::ReadAhead { name: name.to_owned(), bytes }).map(drop)
    }

    /// Says which volume a mount is; pods on this node may be given it from then on.
    pub fn offer(&self, name: &str, namespace: &str) -> Result<(), ClientError> {
        self.ask(&Request::Offer { name: name.to_owned(), namespace: namespace.to_owned() }).map(drop)
    }

    fn ask(&self, request: &Request) -> Result<Option<OwnedFd>, ClientError> {
        let mut kept = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = kept.as_ref() {
            match exchange(socket, &request.encode()) {
                Err(ClientError::Io(_) | ClientError::Ended) => *kept = None,
                answered => return answered,
            }
        }
        let socket = connect_to(&self.path)?;
        let answered = exchange(&socket, &request.encode());
        *kept = Some(socket);
        answered
    }
}

pub(crate) fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    let wait = TimeVal::seconds(ANSWER_SECONDS);
    setsockopt(&fd, sockopt::ReceiveTimeout, &wait)?;
    setsockopt(&fd, sockopt::SendTimeout, &wait)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

/// One request, as bytes, and its answer.
pub(crate) fn exchange(socket: &OwnedFd, request: &[u8]) -> Result<Option<OwnedFd>, ClientError> {
    send(socket, request, None)?;
    let (bytes, descriptor) = receive(socket)?.ok_or(ClientError::Ended)?;
    match Reply::decode(&bytes)? {
        Reply::Done => Ok(descriptor),
        Reply::Refused { errno, why } => Err(ClientError::Refused { errno, why }),
    }
}
