//! Byte streams between agents, with the peer's identity already checked.
//!
//! Two lanes share one port: `Bytes` (HTTP/1.1, chunks) and `Control` (HTTP/2, tonic). TLS picks the lane by ALPN.
//! There is no plaintext between agents; the admin port is the one plain listener.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

pub mod sim;
pub mod tls;

pub use larder_proto::identity::Identity;

/// What a stream can do.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A stream of bytes.
pub type BoxIo = Box<dyn Io>;

/// Which protocol a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// HTTP/1.1: chunks.
    Bytes,
    /// HTTP/2: tonic.
    Control,
}

/// How long a connection's questions may stay unacknowledged, and a kernel that is to be connected silent. Kernels answer
/// whatever their processes do, and TCP has sent a question three times by then: it repeats after 200 ms at the soonest.
pub const SILENCE: Duration = Duration::from_millis(600);

/// What we send over a connection to a peer, and so how soon its silence ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// Small questions: the other side's kernel acknowledges them at once, also while its process hangs or gets no
    /// processor. Where it doesn't for [`SILENCE`], the connection fails with `TimedOut`: the way there is cut.
    Questions,
    /// Bodies, which the other side takes at its own pace.
    Bodies,
}

/// Why a connection was not made. Each means: take the next place.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there, or the network failed.
    #[error("can't connect: {0}")]
    Io(#[from] io::Error),
    /// The other side isn't who it should be, or has no valid certificate.
    #[error("the other side is not {expected}: {why}")]
    Identity {
        /// Who was asked for.
        expected: Identity,
        /// What TLS or the certificate said.
        why: &'static str,
    },
    /// No connection within the deadline.
    #[error("no connection within {deadline_ms} ms")]
    Deadline {
        /// The deadline.
        deadline_ms: u64,
    },
}

impl ConnectError {
    /// Whether the other side's kernel answered nothing: the machine is gone, or the way to it is cut.
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Io(error) => error.kind() == io::ErrorKind::TimedOut,
            Self::Identity { .. } | Self::Deadline { .. } => false,
        }
    }
}

/// Streams out and in.
#[async_trait]
pub trait Net: Send + Sync {
    /// A stream to `expected` at `to`; its identity is checked before this returns.
    async fn connect(
        &self,
        to: SocketAddr,
        expected: &Identity,
        lane: Lane,
        carries: Carries,
    ) -> Result<BoxIo, ConnectError>;

    /// The addresses of `host:port`. By default only what is an address already has one.
    async fn resolve(&self, host_port: &str) -> io::Result<Vec<SocketAddr>> {
        host_port.parse().map(|address| vec![address]).map_err(|_| io::ErrorKind::InvalidInput.into())
    }

    /// Listens for peers with certificates of this cluster.
    async fn listen(&self, at: SocketAddr) -> io::Result<Box<dyn Listener>>;

    /// Listens for anybody, in plain text: the admin port.
    async fn listen_plain(&self, at: SocketAddr) -> io::Result<Box<dyn PlainListener>>;
}

/// Incoming peers.
#[async_trait]
pub trait Listener: Send {
    /// The next peer whose identity was checked. Peers that fail are counted and dropped inside.
    async fn accept(&mut self) -> io::Result<(BoxIo, Identity, Lane)>;

    /// Where it listens (a port of 0 was replaced).
    fn local_addr(&self) -> SocketAddr;
}

/// Incoming plain connections.
#[async_trait]
pub trait PlainListener: Send {
    /// The next connection.
    async fn accept(&mut self) -> io::Result<BoxIo>;

    /// Where it listens.
    fn local_addr(&self) -> SocketAddr;
}
