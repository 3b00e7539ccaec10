//! Chunks brought far ahead of their readers, to their owners, whose stores keep them.
//!
//! For what a reader's own memory has no room for: the rest of a directory, the far end of a window. Each owner is asked for
//! many chunks in one request, and sends none of their bytes. As an owner, this node brings at most 64 of them at a time, in
//! at most a third of its memory, so that readers' own flights find room; which chunks, and how many, is the door's policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use larder_proto::error::ErrorKind;
use larder_proto::ids::NodeId;
use larder_proto::limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX};
use larder_proto::object::Chunk;
use larder_proto::wire::{BatchEvent, BatchRequest, RequestId};
use tokio::time::{Instant, timeout_at};

use super::Inner;
use super::budget::Budget;
use super::counters::one;
use super::route::Hop;
use super::table::{Boarded, Leading, Patience, Progress, Stage};

/// Chunks of this node's own that land at a time: half of the requests that may be on their way to one origin.
const LANDING_MAX: usize = 64;

/// What came of asking owners to keep chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Chunks that are with an owner now.
    pub kept: usize,
    /// Chunks that are not: refused, no owner could be asked, or the deadline has passed.
    pub failed: usize,
}

impl Kept {
    fn count(&mut self, kept: bool) {
        *(if kept { &mut self.kept } else { &mut self.failed }) += 1;
    }
}

/// The share of the budget for chunks that land only to be kept, in pages.
pub(super) fn pages(budget: &Budget) -> usize {
    usize::try_from(budget.bytes() / 3 / 4096).unwrap_or(usize::MAX >> 4)
}

impl Inner {
    pub(super) async fn keep(self: &Arc<Self>, request: RequestId, chunks: Vec<Chunk>, deadline: Instant) -> Kept {
        let all = chunks.len();
        let mut kept = Kept::default();
        let (mut own, mut of_peers) = (Vec::new(), BTreeMap::<NodeId, Vec<Chunk>>::new());
        for chunk in chunks {
            let (owners, hops) = self.route_of(&chunk, Leading::Map);
            match hops.iter().find(|hop| matches!(hop, Hop::Store | Hop::Fill(_))) {
                Some(Hop::Store) => kept.kept += 1,
                Some(Hop::Fill(node)) => of_peers.entry(*node).or_default().push(chunk),
                _ if owners.includes_this() => own.push(chunk),
                // Nobody to keep it.
                _ => {}
            }
        }
        let here = stream::iter(own).map(|chunk| async move { self.keep_here(request, &chunk).await.is_ok() });
        let here = async { timeout_at(deadline, here.buffer_unordered(LANDING_MAX).collect::<Vec<bool>>()).await };
        let there = futures::future::join_all(
            of_peers.into_iter().map(|(node, chunks)| self.keep_there(request, node, chunks, deadline)),
        );
        let (here, there) = tokio::join!(here, there);
        here.unwrap_or_default().into_iter().for_each(|came| kept.count(came));
        kept.kept += there.into_iter().sum::<usize>();
        kept.failed = all - kept.kept;
        kept
    }

    /// How many of them an owner has brought.
    async fn keep_there(&self, request: RequestId, node: NodeId, chunks: Vec<Chunk>, deadline: Instant) -> usize {
        let mut kept = 0;
        let epoch = chunks.first().map(|chunk| self.replicator.owners(chunk).epoch).unwrap_or_default();
        for batch in batches(chunks) {
            let Some(batch) = BatchRequest::keep(request, epoch, batch) else { continue };
            let Ok(mut answer) = self.peers.read_batch(node, &batch, deadline).await else { return kept };
            while let Some(Ok(event)) = answer.next().await {
                kept += usize::from(matches!(event, BatchEvent::Complete(_)));
            }
        }
        kept
    }

    /// Brings a chunk to this node as its owner; it is in a store when this returns `Ok`.
    pub(super) async fn keep_here(self: &Arc<Self>, request: RequestId, chunk: &Chunk) -> Result<(), ErrorKind> {
        if self.stores.has(&chunk.id()) {
            return Ok(());
        }
        let share = pages(&self.budget);
        let wanted = usize::try_from(u64::from(chunk.len()).div_ceil(4096)).unwrap_or(usize::MAX);
        let permits = u32::try_from(wanted.clamp(share / LANDING_MAX, share)).unwrap_or(u32::MAX);
        let _share = self.keeping.acquire_many(permits).await.map_err(|_| ErrorKind::Internal)?;
        let seat = match self.flights.board(chunk, Patience::Guest, Leading::Map) {
            Boarded::Joined(seat) => seat,
            Boarded::Started(seat) => {
                one(&self.counters.kept);
                self.start(seat.flight().clone(), request);
                seat
            }
        };
        let mut changes = seat.flight().progress.subscribe();
        let before = changes.borrow().failed_rounds;
        loop {
            let Progress { failed_rounds, kind, stage, .. } = *changes.borrow_and_update();
            match stage {
                Stage::Landed => {
                    // Its bytes have had their use: they leave memory before those that wait for a reader.
                    seat.flight().mark_used();
                    break;
                }
                Stage::Failed(kind) => return Err(kind),
                Stage::Flying if failed_rounds > before => return Err(kind.unwrap_or(ErrorKind::Internal)),
                Stage::Flying => {}
            }
            if changes.changed().await.is_err() {
                return Err(ErrorKind::Internal);
            }
        }
        let mut told = seat.flight().store_told.subscribe();
        drop(seat);
        let _ends_with_its_driver = told.wait_for(|told| *told).await;
        if self.stores.has(&chunk.id()) { Ok(()) } else { Err(ErrorKind::NoSpace) }
    }
}

/// Cut so that each can be asked for in one request.
fn batches(chunks: Vec<Chunk>) -> Vec<Vec<Chunk>> {
    let (mut batches, mut bytes) = (Vec::<Vec<Chunk>>::new(), 0);
    for chunk in chunks {
        let len = u64::from(chunk.len());
        match batches.last_mut().filter(|last| last.len() < BATCH_ENTRIES_MAX && bytes + len <= BATCH_BYTES_MAX) {
            Some(last) => {
                bytes += len;
                last.push(chunk);
            }
            None => {
                bytes = len;
                batches.push(vec![chunk]);
            }
        }
    }
    batches
}
