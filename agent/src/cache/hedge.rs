//! A second owner asked when the first is late: only for bytes that it has, and never more than one request in twenty.

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};

use larder_proto::ids::NodeId;
use larder_proto::object::Chunk;
use larder_proto::range::ByteRange;
use larder_proto::wire::Want;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::Inner;
use super::counters::one;
use super::flight::{Hedging, HopFailure};
use super::hops::{Ask, Place};

/// Requests that earn one hedge: 5 %, so that hedging never doubles the load of a cluster in trouble.
const REQUESTS_PER_HEDGE: u32 = 20;

/// Hedges that may be saved up: what a peer that hangs costs before its circuit opens.
const SAVED_MAX: u32 = 10;

/// What may be spent on hedges.
#[derive(Debug, Default)]
pub(super) struct Hedges {
    /// In twentieths of a hedge.
    earned: AtomicU32,
}

impl Hedges {
    fn earn(&self) {
        let more = |earned: u32| (earned < SAVED_MAX * REQUESTS_PER_HEDGE).then_some(earned + 1);
        let _full = self.earned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    fn spend(&self) -> bool {
        let less = |earned: u32| earned.checked_sub(REQUESTS_PER_HEDGE);
        self.earned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

impl Inner {
    /// As [`open_peer`](Self::open_peer); when the head is late, another owner is asked whether it has the bytes, and the
    /// first of the two that sends them is taken. Whoever gets another owner's answer watches it as a Have: it never
    /// waits for the origin, and the one that was late may be asked again.
    pub(super) async fn open_peer_or_hedge(
        &self,
        node: NodeId,
        want: Want,
        chunk: &Chunk,
        range: ByteRange,
        ask: &Ask<'_>,
    ) -> Result<Place, HopFailure> {
        self.hedges.earn();
        let sent = Notify::new();
        let mut first = pin!(self.open_peer_told(node, want, chunk, range, ask, &sent));
        let other = ask.owners.others().find(|other| *other != node && !self.peers.is_slow(*other));
        let Some(other) = other.filter(|_| ask.hedging == Hedging::Allowed) else { return first.await };
        tokio::select! { biased;
            answer = &mut first => return answer,
            // Waiting in line for a connection isn't the peer's doing.
            () = async { sent.notified().await; sleep(self.peers.hedge_after(node)).await } => {}
        }
        if !self.hedges.spend() {
            one(&self.counters.hedges_refused);
            return first.await;
        }
        one(&self.counters.hedged);
        let mut second = pin!(self.open_peer(other, Want::Have, chunk, range, ask));
        tokio::select! { biased;
            answer = &mut first => match answer {
                Ok(place) => Ok(place),
                Err(failure) => second.await.map_err(|_| failure),
            },
            answer = &mut second => match answer {
                Ok(place) => {
                    one(&self.counters.hedges_won);
                    Ok(place)
                }
                Err(_) => first.await,
            },
        }
    }
}
