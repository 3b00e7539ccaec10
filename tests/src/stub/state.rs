//! What all connections of one double share.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;

use super::content::{Content, Shelf};
use super::counters::LiveCounters;
use super::faults::FaultPlan;
use super::objects::Objects;
use super::pacer::Pacer;
use crate::sigv4::Credentials;

/// Objects, counters, and everything that can be turned while the double runs.
#[derive(Debug)]
pub(super) struct State {
    pub(super) objects: Objects,
    pub(super) shelf: Shelf,
    pub(super) counters: LiveCounters,
    pub(super) faults: FaultPlan,
    pub(super) credentials: RwLock<Vec<Credentials>>,
    /// The bucket that the control endpoint and the library write to unless told otherwise.
    pub(super) bucket: String,
    /// Cap on everything sent.
    pub(super) down: Pacer,
    /// Cap on everything received.
    pub(super) up: Pacer,
    latency_ms: AtomicU64,
    connection_bytes_per_s: AtomicU64,
    ids: AtomicU64,
}

impl State {
    pub(super) fn new(bucket: String, shelf: Shelf, credentials: Credentials) -> State {
        State {
            objects: Objects::default(),
            shelf,
            counters: LiveCounters::default(),
            faults: FaultPlan::default(),
            credentials: RwLock::new(vec![credentials]),
            bucket,
            down: Pacer::new(None),
            up: Pacer::new(None),
            latency_ms: AtomicU64::new(0),
            connection_bytes_per_s: AtomicU64::new(0),
            ids: AtomicU64::new(1),
        }
    }

    pub(super) fn latency(&self) -> Duration {
        Duration::from_millis(self.latency_ms.load(Ordering::SeqCst))
    }

    pub(super) fn set_latency(&self, latency: Duration) {
        let ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        self.latency_ms.store(ms, Ordering::SeqCst);
    }

    /// `None` = no cap. A connection's cap holds for connections made from now on.
    pub(super) fn set_bandwidth(&self, whole: Option<u64>, each_connection: Option<u64>) {
        self.down.set(whole);
        self.up.set(whole);
        self.connection_bytes_per_s.store(each_connection.unwrap_or(0), Ordering::SeqCst);
    }

    /// A number that this double has not used before.
    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::SeqCst)
    }

    /// Keeps a body where this double keeps bodies.
    pub(super) async fn keep(self: &Arc<Self>, body: Bytes) -> io::Result<Content> {
        match self.shelf {
            Shelf::Memory => self.shelf.keep(body),
            Shelf::Disk { .. } => {
                let state = self.clone();
                tokio::task::spawn_blocking(move || state.shelf.keep(body)).await.map_err(io::Error::other)?
            }
        }
    }
}

/// What belongs to one connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) state: Arc<State>,
    pub(super) down: Pacer,
    pub(super) up: Pacer,
    /// Set by a fault: the socket is to be closed with a RST.
    pub(super) reset: Arc<AtomicBool>,
}

impl Connection {
    pub(super) fn new(state: Arc<State>, reset: Arc<AtomicBool>) -> Connection {
        let cap = Some(state.connection_bytes_per_s.load(Ordering::SeqCst)).filter(|cap| *cap > 0);
        Connection { state, down: Pacer::new(cap), up: Pacer::new(cap), reset }
    }
}
