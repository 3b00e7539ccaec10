//! Connections to peers: at most 8 to one peer and 256 in all, each carrying one request at a time.
//!
//! The 8 are shared out by purpose, so that a Have never waits behind a Fill that waits for the origin, nor either of
//! them behind copies and what is brought ahead. Who finds none free waits until its deadline. When all 256 are open, the one that was idle longest is
//! closed; when none is idle, one waits. Idle connections are closed after 20 s.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use larder_proto::ids::NodeId;
use larder_proto::limits::{CONNECTIONS_MAX, CONNECTIONS_PER_PEER_MAX, HEAD_BYTES_MAX};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::PeerError;
use super::client::FILL_HEAD;
use super::outgoing::Outgoing;
use crate::runtime::Runtime;
use crate::runtime::net::{Carries, ConnectError, Identity, Lane};

/// How long a connection may be idle. Shorter than what the other side allows.
const IDLE: Duration = Duration::from_secs(20);

/// How often idle connections are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// TCP and TLS together. In one data center they take a few milliseconds; a process that gets no processor takes its time
/// for TLS, and is waited for as long as for an answer. A kernel that doesn't answer is not waited for that long.
const CONNECT: Duration = FILL_HEAD;

/// Headers of an answer are few; a peer that sends more isn't one.
const HEADERS_MAX: usize = 32;

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// Bytes that the peer has, and maps.
    Have,
    /// Bytes that the peer may have to bring.
    Fill,
    /// Copies handed to the peer.
    Put,
    /// Chunks that the peer is to bring and keep.
    Keep,
}

impl Purpose {
    /// The share of the 8.
    const fn connections(self) -> usize {
        match self {
            Self::Have => 2,
            Self::Fill => 4,
            Self::Put | Self::Keep => 1,
        }
    }

    /// What is sent over them.
    const fn carries(self) -> Carries {
        match self {
            Self::Have | Self::Fill => Carries::Questions,
            Self::Put | Self::Keep => Carries::Bodies,
        }
    }
}

const _: () = assert!(
    Purpose::Have.connections()
        + Purpose::Fill.connections()
        + Purpose::Put.connections()
        + Purpose::Keep.connections()
        == CONNECTIONS_PER_PEER_MAX
);

struct Idle {
    sender: SendRequest<Outgoing>,
    since: Instant,
    total: OwnedSemaphorePermit,
}

struct Shelf {
    free: Arc<Semaphore>,
    idle: VecDeque<Idle>,
}

/// The connections to all peers.
pub(super) struct Pool {
    runtime: Runtime,
    shelves: Mutex<BTreeMap<(NodeId, Purpose), Shelf>>,
    total: Arc<Semaphore>,
}

/// Where and to whom a connection goes.
pub(super) struct Destination {
    pub(super) node: NodeId,
    pub(super) identity: Identity,
    pub(super) addresses: Vec<std::net::SocketAddr>,
}

/// Whether a connection that was idle will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// An idle one, if there is one: it may turn out to be closed.
    Any,
    /// A new one.
    New,
}

/// A connection in use. Dropped, it is closed; given back, it waits for the next request.
pub(super) struct Leased {
    pub(super) sender: SendRequest<Outgoing>,
    pub(super) was_idle: bool,
    key: (NodeId, Purpose),
    total: OwnedSemaphorePermit,
    _turn: Turn,
    pool: Arc<Pool>,
}

/// One of the connections that a purpose may have to a peer; clones are one.
#[derive(Clone)]
pub(super) struct Turn {
    key: (NodeId, Purpose),
    _free: Arc<OwnedSemaphorePermit>,
}

impl Leased {
    /// For the next request; the answer to the last one was read to its end.
    pub(super) fn give_back(self) {
        if self.sender.is_closed() {
            return;
        }
        let since = self.pool.runtime.clock.now();
        let idle = Idle { sender: self.sender, since, total: self.total };
        if let Some(shelf) = self.pool.shelves.lock().get_mut(&self.key) {
            shelf.idle.push_back(idle);
        }
    }
}

impl Pool {
    pub(super) fn new(runtime: Runtime) -> Arc<Self> {
        let total = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let pool = Arc::new(Self { runtime: runtime.clone(), shelves: Mutex::default(), total });
        let swept = Arc::downgrade(&pool);
        runtime.tasks.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(pool) = swept.upgrade() else { return };
                pool.sweep();
            }
        });
        pool
    }

    /// Waits in line for one of the connections that `purpose` may have to `node`.
    pub(super) async fn turn(&self, node: NodeId, purpose: Purpose, deadline: Instant) -> Result<Turn, PeerError> {
        let key = (node, purpose);
        let free = self.free_of(key);
        match timeout_at(deadline, free.acquire_owned()).await {
            Err(_) => Err(PeerError::Deadline),
            Ok(permit) => Ok(Turn { key, _free: Arc::new(permit.expect("the semaphore is never closed")) }),
        }
    }

    /// A connection to `to`, before `deadline`.
    pub(super) async fn lease(
        self: &Arc<Self>,
        to: &Destination,
        turn: &Turn,
        freshness: Freshness,
        deadline: Instant,
    ) -> Result<Leased, PeerError> {
        let key = turn.key;
        if freshness == Freshness::Any {
            while let Some(idle) = self.take_idle(key) {
                let mut sender = idle.sender;
                // Resolves at once: a closed connection says so, an open one has nothing under way.
                if matches!(timeout_at(deadline, sender.ready()).await, Ok(Ok(()))) {
                    return Ok(Leased {
                        sender,
                        was_idle: true,
                        key,
                        total: idle.total,
                        _turn: turn.clone(),
                        pool: self.clone(),
                    });
                }
            }
        }
        let total = self.total_permit(deadline).await?;
        let sender = self.connect(to, key.1.carries(), deadline).await?;
        Ok(Leased { sender, was_idle: false, key, total, _turn: turn.clone(), pool: self.clone() })
    }

    /// Connections that are open or being opened.
    pub(super) fn open_connections(&self) -> usize {
        CONNECTIONS_MAX - self.total.available_permits()
    }

    fn free_of(&self, key: (NodeId, Purpose)) -> Arc<Semaphore> {
        let mut shelves = self.shelves.lock();
        let shelf = shelves
            .entry(key)
            .or_insert_with(|| Shelf { free: Arc::new(Semaphore::new(key.1.connections())), idle: VecDeque::new() });
        shelf.free.clone()
    }

    /// The connection that was used last: the others grow old and are closed.
    fn take_idle(&self, key: (NodeId, Purpose)) -> Option<Idle> {
        let now = self.runtime.clock.now();
        let mut shelves = self.shelves.lock();
        let shelf = shelves.get_mut(&key)?;
        while let Some(idle) = shelf.idle.pop_back() {
            if now.duration_since(idle.since) < IDLE && !idle.sender.is_closed() {
                return Some(idle);
            }
        }
        None
    }

    async fn total_permit(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, PeerError> {
        if let Ok(permit) = self.total.clone().try_acquire_owned() {
            return Ok(permit);
        }
        drop(self.take_oldest_idle());
        match timeout_at(deadline, self.total.clone().acquire_owned()).await {
            Err(_) => Err(PeerError::Deadline),
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
        }
    }

    fn take_oldest_idle(&self) -> Option<Idle> {
        let mut shelves = self.shelves.lock();
        let oldest = shelves.values_mut().filter(|shelf| !shelf.idle.is_empty());
        oldest.min_by_key(|shelf| shelf.idle.front().map(|idle| idle.since))?.idle.pop_front()
    }

    async fn connect(
        &self,
        to: &Destination,
        carries: Carries,
        deadline: Instant,
    ) -> Result<SendRequest<Outgoing>, PeerError> {
        let limit = deadline.min(self.runtime.clock.now() + CONNECT);
        let too_late =
            || ConnectError::Deadline { deadline_ms: u64::try_from(CONNECT.as_millis()).unwrap_or(u64::MAX) };
        let mut failure = None;
        for address in &to.addresses {
            match timeout_at(limit, self.runtime.net.connect(*address, &to.identity, Lane::Bytes, carries)).await {
                Err(_) => return Err(failure.unwrap_or_else(too_late).into()),
                Ok(Err(error)) => failure = Some(error),
                Ok(Ok(io)) => {
                    let mut builder = http1::Builder::new();
                    builder.max_headers(HEADERS_MAX).max_header_size(HEAD_BYTES_MAX);
                    let (sender, connection) =
                        builder.handshake(TokioIo::new(io)).await.map_err(|_| PeerError::Broken)?;
                    self.runtime.tasks.spawn(async move {
                        // Whoever waits for an answer hears of a failure there.
                        let _ = connection.await;
                    });
                    return Ok(sender);
                }
            }
        }
        Err(failure.map_or(PeerError::UnknownNode(to.node), PeerError::Connect))
    }

    fn sweep(&self) {
        let now = self.runtime.clock.now();
        self.shelves.lock().retain(|key, shelf| {
            shelf.idle.retain(|idle| now.duration_since(idle.since) < IDLE && !idle.sender.is_closed());
            !shelf.idle.is_empty()
                || shelf.free.available_permits() < key.1.connections()
                || Arc::strong_count(&shelf.free) > 1
        });
    }
}
