//! Brings damaged chunks again: from memory when they are there, else from the places that others are asked in.
//!
//! Without this a chunk would come again with its next reader, and its copy would be missing until then. An object that
//! the kernel had leaves whole for one bad bit: then all of it is brought again. Only owners repair; a guest's chunk comes
//! with its reader. A chunk that can't be brought now is left to its next reader too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use larder_proto::object::Chunk;
use larder_proto::wire::RequestId;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Inner;
use super::counters::one;
use super::table::{Boarded, Flight, Leading, Patience, Stage};
use crate::store::{Damaged, Giver, StoreError};

/// Objects that are repaired at a time, a chunk of each in turn: a large one doesn't hold up the others.
const SIDE_BY_SIDE: usize = 16;

/// One repair takes so long at most; the next damaged chunk waits meanwhile.
const REPAIR_WITHIN: Duration = Duration::from_secs(30);

impl Inner {
    /// Repairs one chunk after the other: repair never crowds out readers.
    pub(super) async fn repair_all(self: Arc<Self>, mut damaged: mpsc::Receiver<Damaged>) {
        let mut turns: VecDeque<Damaged> = VecDeque::new();
        loop {
            while turns.len() < SIDE_BY_SIDE
                && let Ok(next) = damaged.try_recv()
            {
                turns.push_back(next);
            }
            let Some(mut turn) = turns.pop_front() else {
                let Some(next) = damaged.recv().await else { return };
                turns.push_back(next);
                continue;
            };
            let Some(chunk) = turn.next() else { continue };
            turns.push_back(turn);
            if !self.replicator.owners(&chunk).includes_this() {
                tokio::task::yield_now().await;
                continue;
            }
            let repaired = timeout(REPAIR_WITHIN, self.repair(&chunk)).await.unwrap_or(false);
            one(if repaired { &self.counters.repaired } else { &self.counters.repairs_failed });
        }
    }

    /// Whether the chunk is in the store again.
    async fn repair(self: &Arc<Self>, chunk: &Chunk) -> bool {
        let seat = match self.flights.board(chunk, Patience::Guest, Leading::Map) {
            Boarded::Joined(seat) => seat,
            Boarded::Started(seat) => {
                self.start(seat.flight().clone(), RequestId(self.runtime.rng.next_u64()));
                seat
            }
        };
        let flight = seat.flight();
        let mut changes = flight.progress.subscribe();
        let landed = changes.wait_for(|progress| progress.stage != Stage::Flying).await;
        if !landed.is_ok_and(|progress| progress.stage == Stage::Landed) {
            return false;
        }
        // A flight that came from another place is being written by its own writer, or was before the damage.
        match self.store_landed(flight, chunk).await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, chunk = ?chunk.id(), "a damaged chunk was not stored again");
                self.stores.has(&chunk.id())
            }
        }
    }

    async fn store_landed(&self, flight: &Flight, chunk: &Chunk) -> Result<(), StoreError> {
        let Some(pieces) = flight.landing.all_checksummed() else { return Err(StoreError::Incomplete) };
        let reservation = match self.stores.reserve(chunk, Giver::Node).await {
            Ok(reservation) => reservation,
            Err(crate::store::Bypass::Already) => return self.written_by_another(chunk).await,
            Err(_) => return Err(StoreError::Busy),
        };
        let (mut at, mut crcs) = (0, Vec::new());
        for piece in pieces {
            let (bytes, of_piece) = piece.into_unverified_parts();
            let len = bytes.len() as u64;
            reservation.write(at, bytes).await?;
            at += len;
            crcs.extend(of_piece);
        }
        reservation.commit(crcs).await
    }

    /// Somebody else is writing it: waits until it is here, for as long as the caller has patience.
    async fn written_by_another(&self, chunk: &Chunk) -> Result<(), StoreError> {
        while !self.stores.has(&chunk.id()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}
