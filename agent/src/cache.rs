//! One chunk from the nearest place: memory, this node's store, a peer that owns it, the origin.
//!
//! At most one [flight](table::Flight) per chunk and node brings bytes into memory, and all its readers, here and on
//! other nodes, follow it block by block. Every Fill ends at the chunk's first Serving owner, so the cluster as a whole
//! asks the origin once. Bytes are checked before anybody here reads them. A place that fails or stalls costs its
//! patience, never the reader's deadline. The memory has one bound; who finds it empty waits. Nothing here waits for a
//! newer map.
//!
//! `route` says in which order places are asked, `flight` what follows from what happens, `drive` does it; `read` and
//! `serve` are the two ways in: this node's doors, and peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use larder_proto::error::ErrorKind;
use larder_proto::object::Chunk;
use larder_proto::range::ByteRange;
use larder_proto::wire::RequestId;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::origin::Origins;
use crate::peer;
use crate::replica::Replicator;
use crate::runtime::Runtime;
use crate::runtime::disk::BufferPool;
use crate::store::Stores;

mod budget;
mod counters;
mod debug;
mod drive;
mod flight;
mod guests;
mod hedge;
mod hops;
mod keep;
mod landing;
mod prefetch;
mod read;
mod repair;
mod route;
mod serve;
mod table;
mod writer;

pub use counters::Snapshot;
pub use debug::FlightStatus;
pub use keep::Kept;
pub use prefetch::Prefetch;

use budget::Budget;
use counters::Counters;
use guests::Guests;
use hedge::Hedges;
use table::Flights;

/// The memory of flights, unless the configuration says otherwise: 24 chunks of 4 MiB.
pub const BUDGET_BYTES: u64 = 96 * 1024 * 1024;

/// Copies that are taken at the same time: 16 MiB of pieces, and enough to keep a disk and a 10 Gbit/s link busy. A node
/// that joins a hundred is given copies by all of them; whoever is too many is told to come later.
const TAKEN_AT_ONCE: usize = 16;

/// How a handle reads, as its door sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// The neighbours will be wanted: the whole chunk comes into memory.
    Sequential,
    /// Only these bytes are wanted: what is cached elsewhere is asked for in blocks of 64 KiB.
    Random,
}

/// Why a read has no bytes; what it says to the reader is in the table of the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no place had the bytes: {kind}")]
pub struct ReadError {
    /// `Changed` and `NotFound`: this version is gone. `AccessDenied`, `BadCredentials`, `NoSuchBucket`: the volume must
    /// be mended. Everything else: no place answered before the deadline.
    pub kind: ErrorKind,
}

/// The chunks that this node can reach. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Runtime,
    stores: Stores,
    peers: peer::Client,
    origins: Origins,
    replicator: Replicator,
    flights: Flights,
    budget: Budget,
    hedges: Hedges,
    pool: BufferPool,
    /// Half of the budget, in pages: what is prefetched and not yet read.
    ahead: Arc<Semaphore>,
    /// A third of the budget, in pages: what lands only to be kept.
    keeping: Arc<Semaphore>,
    /// Objects that this node reads but doesn't own.
    guests: Guests,
    /// Flights that wait for memory.
    waiting: AtomicUsize,
    /// Copies that may still be taken at the same time.
    taking: Semaphore,
    counters: Arc<Counters>,
}

impl Cache {
    /// A cache whose flights use at most `budget_bytes` of memory.
    pub fn new(
        runtime: Runtime,
        stores: Stores,
        peers: peer::Client,
        origins: Origins,
        replicator: Replicator,
        budget_bytes: u64,
    ) -> Self {
        let budget = Budget::new(budget_bytes);
        let ahead = Arc::new(Semaphore::new(prefetch::pages(budget.bytes() / 2)));
        let (guests, worth) = Guests::new();
        let counters = Arc::new(Counters::default());
        let seen = counters.clone();
        replicator.count_reads(Box::new(move || seen.beside_disks()));
        let inner = Inner {
            runtime,
            stores,
            peers,
            origins,
            replicator,
            flights: Flights::default(),
            hedges: Hedges::default(),
            pool: drive::pool(&budget),
            keeping: Arc::new(Semaphore::new(keep::pages(&budget))),
            budget,
            ahead,
            guests,
            waiting: AtomicUsize::new(0),
            taking: Semaphore::new(TAKEN_AT_ONCE),
            counters,
        };
        let inner = Arc::new(inner);
        inner.runtime.tasks.spawn(inner.clone().complete_guests(worth));
        if let Some(damaged) = inner.stores.damaged() {
            inner.runtime.tasks.spawn(inner.clone().repair_all(damaged));
        }
        Self { inner }
    }

    /// `range` of the chunk (counted from the chunk's start, inside it, not empty), if it is in memory. Never waits.
    pub fn read_now(&self, chunk: &Chunk, range: ByteRange) -> Option<Bytes> {
        let flight = self.inner.flights.get(&chunk.id())?;
        let bytes = flight.slice(range)?;
        if flight.read_here_first() {
            self.inner.read_here(chunk);
        }
        counters::one(&self.inner.counters.hits_memory);
        Some(bytes)
    }

    /// Exactly `range` of the chunk (counted from the chunk's start, inside it, not empty), from the nearest place that
    /// has it before `deadline`. An origin that can't be reached is tried until then.
    pub async fn read(
        &self,
        request: RequestId,
        chunk: &Chunk,
        range: ByteRange,
        pattern: Pattern,
        deadline: Instant,
    ) -> Result<Bytes, ReadError> {
        let read = self.inner.read(request, chunk, range, pattern, deadline).await;
        if read.is_err() {
            counters::one(&self.inner.counters.failed);
        }
        read
    }

    /// Brings the chunk into memory ahead of its reader. Dropping the guard gives it up unless a reader has come. Nothing
    /// when half of the memory is taken by chunks that wait for their readers: ask again after the next read.
    pub fn prefetch(&self, request: RequestId, chunk: &Chunk) -> Option<Prefetch> {
        self.inner.prefetch(request, chunk)
    }

    /// Has these chunks (small ones, far ahead of their readers) brought to their owners, each once, and kept there. Returns
    /// when every owner has answered or `deadline` has passed.
    pub async fn keep(&self, request: RequestId, chunks: Vec<Chunk>, deadline: Instant) -> Kept {
        self.inner.keep(request, chunks, deadline).await
    }

    /// The counters of this moment.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.counters.snapshot()
    }

    /// The copies that this node pushes to other owners.
    pub fn replicator(&self) -> &Replicator {
        &self.inner.replicator
    }

    /// Bytes of memory that flights hold, and the bound.
    pub fn memory(&self) -> (u64, u64) {
        (self.inner.budget.used_bytes(), self.inner.budget.bytes())
    }

    /// Flights on their way to memory or the store.
    pub fn flying(&self) -> usize {
        self.inner.flights.flying()
    }

    /// Every flight that is in memory, for `/debug/flights`.
    pub fn flights(&self) -> Vec<FlightStatus> {
        debug::list(&self.inner)
    }
}

impl Inner {
    fn now(&self) -> Instant {
        self.runtime.clock.now()
    }

    /// Gives up one finished flight for its memory; `false` when there is none.
    fn evict_one(&self) -> bool {
        let Some(flight) = self.flights.evict() else { return false };
        counters::one(&self.counters.evicted);
        if !flight.was_used() {
            counters::one(&self.counters.prefetch_wasted);
        }
        true
    }

    fn somebody_waits_for_memory(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }
}

#[cfg(test)]
mod tests;
