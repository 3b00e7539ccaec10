//! Chunks brought into memory ahead of their reader. The policy (which, how many) is the door's; the bound is here:
//! at most half of the memory holds chunks that no reader has come for.

use std::sync::Arc;

use larder_proto::object::Chunk;
use larder_proto::wire::RequestId;

use super::Inner;
use super::counters::one;
use super::table::{Boarded, Flight, Leading, LooseSeat, Patience};

/// A chunk that was asked for ahead. It doesn't hold the chunk's memory: when that is wanted, landed chunks go. Dropped
/// before a reader came, it is given up, unless the origin is sending it to its owner already.
#[must_use = "dropping it gives the chunk up"]
pub struct Prefetch {
    inner: Arc<Inner>,
    seat: LooseSeat,
    /// Whether this guard brought the flight about.
    started: bool,
}

impl Prefetch {
    /// Whether a reader has come for the chunk, which needs the guard no more.
    pub fn is_used(&self) -> bool {
        self.seat.was_used()
    }

    /// Whether the chunk was brought for this guard's sake, and nobody has had bytes of it.
    pub fn is_wasted(&self) -> bool {
        self.started && !self.is_used()
    }

    /// Whether all of the chunk is in memory.
    pub fn is_landed(&self) -> bool {
        self.seat.flight().is_some_and(|flight| flight.is_landed())
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        let Some(flight) = self.seat.flight().filter(|flight| self.started && !flight.was_used()) else { return };
        flight.release_prefetch();
        if !flight.is_landed() {
            return;
        }
        // What the store doesn't have yet would be found nowhere, and the origin asked again: it leaves by itself, soon.
        let may_go = *flight.store_told.borrow();
        let wasted = |flight: &Flight| !flight.was_used();
        if if may_go { self.inner.flights.remove_if(&flight, wasted) } else { wasted(&flight) } {
            one(&self.inner.counters.prefetch_wasted);
        }
    }
}

/// Memory in pages, as the semaphore of prefetches counts it.
pub(super) fn pages(bytes: u64) -> usize {
    usize::try_from(bytes / 4096).unwrap_or(usize::MAX >> 4)
}

impl Inner {
    pub(super) fn prefetch(self: &Arc<Self>, request: RequestId, chunk: &Chunk) -> Option<Prefetch> {
        if let Some(seat) = self.flights.join(&chunk.id(), Patience::Guest) {
            return Some(Prefetch { inner: self.clone(), seat: LooseSeat::beside(&seat), started: false });
        }
        let pages = u32::try_from(pages(u64::from(chunk.len()) + 4095)).ok()?;
        let Ok(permit) = self.ahead.clone().try_acquire_many_owned(pages) else {
            one(&self.counters.prefetch_refused);
            return None;
        };
        let (seat, started) = match self.flights.board(chunk, Patience::Guest, Leading::Map) {
            Boarded::Joined(seat) => (seat, false),
            Boarded::Started(seat) => {
                one(&self.counters.prefetched);
                seat.flight().hold_prefetch(permit);
                self.start(seat.flight().clone(), request);
                (seat, true)
            }
        };
        Some(Prefetch { inner: self.clone(), seat: LooseSeat::beside(&seat), started })
    }
}
