//! The flights of this node: at most one per chunk, and the finished ones that are still in memory.
//!
//! Readers hold a [`Seat`]; a flight that isn't over is told when its last seat is left. Finished flights stay to serve
//! the neighbours of what was read, and leave in the order in which the store had them when memory is wanted: those that
//! a reader has had first, then what was prefetched in vain.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use larder_proto::error::ErrorKind;
use larder_proto::ids::{NodeId, NodeName};
use larder_proto::object::{Chunk, ChunkId};
use larder_proto::range::ByteRange;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};

use super::landing::Landing;
use super::route::Hop;
use crate::runtime::HashMap;

/// What followers of a flight are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes from the chunk's start that can be read.
    pub landed: u64,
    /// Rounds in which no place answered.
    pub failed_rounds: u32,
    /// Why the last of them failed.
    pub kind: Option<ErrorKind>,
    /// Whether it goes on.
    pub stage: Stage,
}

/// Whether a flight goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It does.
    Flying,
    /// Every byte is in memory.
    Landed,
    /// It ended without.
    Failed(ErrorKind),
}

/// Who sits in a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A reader of this node: waits until its own deadline, through failed rounds.
    Reader,
    /// A peer, told of the first failed round; or a prefetch, which nobody waits for.
    Guest,
}

/// Whether this node's flight may send its Fill to owners before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leading {
    /// As the map says.
    Map,
    /// As the map says; but another node sent its Fill here, so it had no luck with the owners before us.
    Asked,
    /// Another owner passed the Fill on to us: we fill, whatever our map says.
    Passed,
}

/// One chunk on its way, or in memory.
pub struct Flight {
    /// Its bytes.
    pub landing: Landing,
    /// Where it is asked for now, for `/debug/flights` and so that two nodes never wait for each other.
    pub hop: Mutex<Option<Hop>>,
    /// What followers watch.
    pub progress: watch::Sender<Progress>,
    /// True once the store has what landed, or won't have it. Outlives the flight: who waits for a disk holds no memory.
    pub store_told: Arc<watch::Sender<bool>>,
    /// Rung when the last seat is left.
    pub left: Notify,
    /// How its route is made.
    pub leading: Leading,
    /// The share of the prefetch budget, until a reader comes.
    prefetch: Mutex<Option<OwnedSemaphorePermit>>,
    /// Peers that are sent all of it.
    taken_by: Mutex<Vec<NodeName>>,
    seats: AtomicUsize,
    readers: AtomicUsize,
    /// Whether a reader or a peer ever had bytes of it.
    used: Arc<AtomicBool>,
    /// Whether a reader of this node had.
    read_here: AtomicBool,
}

impl Flight {
    fn new(chunk: &Chunk, leading: Leading) -> Self {
        let progress = Progress { landed: 0, failed_rounds: 0, kind: None, stage: Stage::Flying };
        Self {
            landing: Landing::new(chunk),
            hop: Mutex::new(None),
            progress: watch::Sender::new(progress),
            store_told: Arc::new(watch::Sender::new(false)),
            left: Notify::new(),
            leading,
            prefetch: Mutex::new(None),
            taken_by: Mutex::default(),
            seats: AtomicUsize::new(0),
            readers: AtomicUsize::new(0),
            used: Arc::default(),
            read_here: AtomicBool::new(false),
        }
    }

    /// The chunk.
    pub fn chunk(&self) -> &Chunk {
        self.landing.chunk()
    }

    /// Whether all bytes are in memory.
    pub fn is_landed(&self) -> bool {
        self.progress.borrow().stage == Stage::Landed
    }

    /// Whether anybody sits in it.
    pub fn is_wanted(&self) -> bool {
        self.seats.load(Ordering::Acquire) > 0
    }

    /// Readers of this node that sit in it.
    pub fn readers(&self) -> usize {
        self.readers.load(Ordering::Acquire)
    }

    /// Whether a reader sits in it that waits through failed rounds.
    pub fn has_readers(&self) -> bool {
        self.readers.load(Ordering::Acquire) > 0
    }

    /// Whether it waits for this peer.
    pub fn waits_for(&self, node: NodeId) -> bool {
        let waiting = !self.is_landed();
        waiting && matches!(&*self.hop.lock(), Some(Hop::Fill(at) | Hop::Have(at)) if *at == node)
    }

    /// One more round in which no place gave the bytes: peers leave, readers wait on.
    pub fn tell_failed_round(&self, kind: Option<ErrorKind>) {
        self.progress.send_modify(|progress| {
            progress.failed_rounds = progress.failed_rounds.saturating_add(1);
            progress.kind = kind;
        });
    }

    /// Bytes a reader takes: the flight has been of use, and is no longer a prefetch.
    pub fn slice(&self, range: ByteRange) -> Option<Bytes> {
        let bytes = self.landing.slice(range)?;
        self.mark_used();
        Some(bytes)
    }

    /// A reader of this node has had bytes of it: whether it is the first.
    pub fn read_here_first(&self) -> bool {
        !self.read_here.load(Ordering::Relaxed) && !self.read_here.swap(true, Ordering::AcqRel)
    }

    /// A reader or a peer has come for its bytes.
    pub fn mark_used(&self) {
        if !self.used.swap(true, Ordering::AcqRel) {
            self.prefetch.lock().take();
        }
    }

    /// Whether a reader or a peer ever had bytes of it.
    pub fn was_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// Gives back the share of the prefetch budget, though no reader has come.
    pub fn release_prefetch(&self) {
        self.prefetch.lock().take();
    }

    /// Counts it against the prefetch budget until a reader comes.
    pub fn hold_prefetch(&self, permit: OwnedSemaphorePermit) {
        *self.prefetch.lock() = Some(permit);
    }

    /// A peer is being sent all of it; at most one entry for each member.
    pub fn sent_to(&self, peer: &NodeName) {
        let mut taken_by = self.taken_by.lock();
        if !taken_by.contains(peer) {
            taken_by.push(peer.clone());
        }
    }

    /// The peers that are being sent all of it, or were.
    pub fn taken_by(&self) -> Vec<NodeName> {
        self.taken_by.lock().clone()
    }

    /// The node that is asked now, for `/debug/flights`.
    pub fn asked(&self) -> Option<Hop> {
        self.hop.lock().clone()
    }
}

/// A place in a flight; left on drop.
pub struct Seat {
    flight: Arc<Flight>,
    patience: Patience,
}

impl Seat {
    fn take(flight: &Arc<Flight>, patience: Patience) -> Self {
        flight.seats.fetch_add(1, Ordering::AcqRel);
        if patience == Patience::Reader {
            flight.readers.fetch_add(1, Ordering::AcqRel);
        }
        Self { flight: flight.clone(), patience }
    }

    /// The flight.
    pub fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.patience == Patience::Reader {
            self.flight.readers.fetch_sub(1, Ordering::AcqRel);
        }
        if self.flight.seats.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.flight.left.notify_one();
        }
    }
}

/// A place in a flight that doesn't keep its bytes: it is wanted while it flies; once it has landed and leaves memory, its
/// memory is free.
pub struct LooseSeat {
    flight: Weak<Flight>,
    used: Arc<AtomicBool>,
}

impl LooseSeat {
    /// Beside a seat that the caller holds, and may leave then.
    pub fn beside(seat: &Seat) -> Self {
        let flight = &seat.flight;
        flight.seats.fetch_add(1, Ordering::AcqRel);
        Self { flight: Arc::downgrade(flight), used: flight.used.clone() }
    }

    /// The flight, unless it has left memory.
    pub fn flight(&self) -> Option<Arc<Flight>> {
        self.flight.upgrade()
    }

    /// Whether a reader or a peer ever had bytes of it.
    pub fn was_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }
}

impl Drop for LooseSeat {
    fn drop(&mut self) {
        let Some(flight) = self.flight.upgrade() else { return };
        if flight.seats.fetch_sub(1, Ordering::AcqRel) == 1 {
            flight.left.notify_one();
        }
    }
}

/// Whether a seat was taken in a flight that was there, or the caller must drive a new one.
pub enum Boarded {
    /// Somebody drives it.
    Joined(Seat),
    /// The caller spawns its driver.
    Started(Seat),
}

#[derive(Default)]
struct Inner {
    by_chunk: HashMap<ChunkId, Arc<Flight>>,
    /// Those that may leave memory.
    settled: VecDeque<ChunkId>,
}

/// All flights. Its size is bounded by the memory budget for those that hold memory, and by the callers' own bounds
/// (FUSE requests, peers' connections, prefetch windows) for those that wait for it.
#[derive(Default)]
pub struct Flights {
    inner: Mutex<Inner>,
}

impl Flights {
    /// The flight of a chunk.
    pub fn get(&self, id: &ChunkId) -> Option<Arc<Flight>> {
        self.inner.lock().by_chunk.get(id).cloned()
    }

    /// A seat in the chunk's flight, which is made if there is none.
    pub fn board(&self, chunk: &Chunk, patience: Patience, leading: Leading) -> Boarded {
        let mut inner = self.inner.lock();
        if let Some(flight) = inner.by_chunk.get(&chunk.id()) {
            return Boarded::Joined(Seat::take(flight, patience));
        }
        let flight = Arc::new(Flight::new(chunk, leading));
        inner.by_chunk.insert(chunk.id(), flight.clone());
        Boarded::Started(Seat::take(&flight, patience))
    }

    /// A seat in the chunk's flight, if there is one.
    pub fn join(&self, id: &ChunkId, patience: Patience) -> Option<Seat> {
        let inner = self.inner.lock();
        inner.by_chunk.get(id).map(|flight| Seat::take(flight, patience))
    }

    /// All bytes are in memory, and in the store if they belong there: the flight stays until its memory is wanted.
    pub fn settled(&self, flight: &Arc<Flight>) {
        let mut inner = self.inner.lock();
        if inner.by_chunk.get(&flight.chunk().id()).is_some_and(|known| Arc::ptr_eq(known, flight)) {
            inner.settled.push_back(flight.chunk().id());
        }
    }

    /// Takes a flight out, so that the next reader starts anew.
    pub fn remove(&self, flight: &Arc<Flight>) {
        remove(&mut self.inner.lock(), flight);
    }

    /// Takes a flight out if `unwanted` says so while nobody can take a seat.
    pub fn remove_if(&self, flight: &Arc<Flight>, unwanted: impl FnOnce(&Flight) -> bool) -> bool {
        let mut inner = self.inner.lock();
        let unwanted = unwanted(flight);
        if unwanted {
            remove(&mut inner, flight);
        }
        unwanted
    }

    /// Gives up the oldest finished flight: one that was used, else one that was not. `None` when there is none.
    pub fn evict(&self) -> Option<Arc<Flight>> {
        let mut inner = self.inner.lock();
        let used = inner.settled.iter().position(|id| inner.by_chunk.get(id).is_none_or(|flight| flight.was_used()));
        let id = inner.settled.remove(used.unwrap_or(0))?;
        inner.by_chunk.remove(&id)
    }

    /// Flights on their way to memory or the store: those that are kept only for their bytes don't count.
    pub fn flying(&self) -> usize {
        let inner = self.inner.lock();
        inner.by_chunk.len() - inner.settled.len()
    }

    /// All flights, in the order of their chunks.
    pub fn list(&self) -> Vec<Arc<Flight>> {
        let mut flights: Vec<_> = self.inner.lock().by_chunk.values().cloned().collect();
        flights.sort_by_key(|flight| flight.chunk().id());
        flights
    }
}

fn remove(inner: &mut Inner, flight: &Arc<Flight>) {
    let id = flight.chunk().id();
    if inner.by_chunk.get(&id).is_some_and(|known| Arc::ptr_eq(known, flight)) {
        inner.by_chunk.remove(&id);
        inner.settled.retain(|settled| *settled != id);
    }
}
