//! Reads of this node's doors.
//!
//! Sequential reads, and all that the origin must answer, go through a flight: its readers follow it block by block.
//! A random read of something that is cached takes only its own blocks, from the store or from a peer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use larder_proto::error::ErrorKind;
use larder_proto::ids::NodeId;
use larder_proto::object::Chunk;
use larder_proto::range::ByteRange;
use larder_proto::wire::{RequestId, Want};
use tokio::time::{Instant, timeout, timeout_at};

use super::counters::{add, one};
use super::flight::{HAVE_STALL_PATIENCE, Hedging, HopFailure, is_final};
use super::hops::{Ask, Place};
use super::route::Hop;
use super::table::{Boarded, Flight, Leading, Patience, Progress, Seat, Stage};
use super::{Inner, Pattern, ReadError};

/// What a random read finds outside of flights.
enum Direct {
    /// The bytes.
    Bytes(Bytes),
    /// No other place has an answer either.
    Final(ErrorKind),
    /// A flight must find them.
    Nothing,
}

impl Inner {
    pub(super) async fn read(
        self: &Arc<Self>,
        request: RequestId,
        chunk: &Chunk,
        range: ByteRange,
        pattern: Pattern,
        deadline: Instant,
    ) -> Result<Bytes, ReadError> {
        if range.is_empty() || range.end() > u64::from(chunk.len()) {
            return Err(ReadError { kind: ErrorKind::BadRequest });
        }
        if let Some(seat) = self.flights.join(&chunk.id(), Patience::Reader) {
            one(&self.counters.followers);
            return self.follow(seat, range, deadline).await;
        }
        if pattern == Pattern::Random {
            match timeout_at(deadline, self.read_direct(request, chunk, range)).await {
                Ok(Direct::Bytes(bytes)) => {
                    self.read_here(chunk);
                    return Ok(bytes);
                }
                Ok(Direct::Final(kind)) => return Err(ReadError { kind }),
                Ok(Direct::Nothing) => {}
                Err(_) => return Err(ReadError { kind: ErrorKind::DeadlineExceeded }),
            }
        }
        let seat = match self.flights.board(chunk, Patience::Reader, Leading::Map) {
            Boarded::Joined(seat) => {
                one(&self.counters.followers);
                seat
            }
            Boarded::Started(seat) => {
                self.start(seat.flight().clone(), request);
                seat
            }
        };
        self.follow(seat, range, deadline).await
    }

    /// Waits until the range has landed, the flight has failed for good, or the reader's deadline has passed.
    async fn follow(&self, seat: Seat, range: ByteRange, deadline: Instant) -> Result<Bytes, ReadError> {
        let flight = seat.flight();
        let mut progress = flight.progress.subscribe();
        loop {
            let Progress { stage, kind, .. } = *progress.borrow_and_update();
            if let Some(bytes) = flight.slice(range) {
                self.count_hit(flight);
                if flight.read_here_first() {
                    self.read_here(flight.chunk());
                }
                return Ok(bytes);
            }
            if let Stage::Failed(kind) = stage {
                return Err(ReadError { kind });
            }
            match timeout_at(deadline, progress.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(ReadError { kind: kind.unwrap_or(ErrorKind::DeadlineExceeded) }),
            }
        }
    }

    fn count_hit(&self, flight: &Flight) {
        one(match flight.asked() {
            Some(Hop::Store) => &self.counters.hits_store,
            Some(Hop::Have(_) | Hop::OwnersHave(_) | Hop::Fill(_)) => &self.counters.hits_peer,
            Some(Hop::Origin(_)) | None => &self.counters.hits_origin,
        });
    }

    /// Only the blocks of the range: from the store, else from the owners before this node.
    async fn read_direct(&self, request: RequestId, chunk: &Chunk, range: ByteRange) -> Direct {
        let wide = range.widen_to_blocks(u64::from(chunk.len()));
        let (owners, hops) = self.route_of(chunk, Leading::Map);
        let ask = Ask { request, owners: &owners, leading: Leading::Map, hedging: Hedging::Allowed };
        for hop in hops {
            let (node, want) = match hop {
                Hop::Store => match self.read_stored(chunk, wide).await {
                    Some(piece) => {
                        one(&self.counters.hits_store);
                        add(&self.counters.bytes_store, wide.len());
                        return cut(piece.bytes, wide, range);
                    }
                    None => continue,
                },
                Hop::Have(node) => (node, Want::Have),
                Hop::Fill(node) => (node, if owners.includes_this() { Want::PassedFill } else { Want::Fill }),
                Hop::OwnersHave(_) | Hop::Origin(_) => return Direct::Nothing,
            };
            match self.blocks_of(node, want, chunk, wide, &ask).await {
                Ok(bytes) => {
                    one(&self.counters.hits_peer);
                    add(&self.counters.bytes_peer, wide.len());
                    return cut(bytes, wide, range);
                }
                Err(HopFailure::Refused(kind)) if is_final(kind) => return Direct::Final(kind),
                Err(HopFailure::Refused(ErrorKind::OriginUnreachable | ErrorKind::Throttled)) => {
                    return Direct::Nothing;
                }
                Err(HopFailure::Unreachable) => one(&self.counters.unreachable),
                Err(HopFailure::Broken) => one(&self.counters.abandoned),
                Err(HopFailure::Refused(_)) => {}
            }
        }
        Direct::Nothing
    }

    /// All of a range of whole blocks from a peer, checked. Who has the bytes sends them at once: a Have that stalls (it
    /// may follow a flight there) is given up, and the next place is asked; after a hedge, the one that was late.
    async fn blocks_of(
        &self,
        node: NodeId,
        want: Want,
        chunk: &Chunk,
        wide: ByteRange,
        ask: &Ask<'_>,
    ) -> Result<Bytes, HopFailure> {
        let (patience, hop) = match want {
            Want::Have | Want::DoubtedHave => (HAVE_STALL_PATIENCE, Hop::Have(node)),
            Want::Fill | Want::PassedFill => (self.waits(chunk, ask.leading).fill, Hop::Fill(node)),
        };
        let all = async {
            let place = self.open_peer_or_hedge(node, want, chunk, wide, ask).await?;
            if place.hedge_of(&hop).is_none() {
                return self.receive_blocks(place, chunk, wide).await;
            }
            match timeout(HAVE_STALL_PATIENCE, self.receive_blocks(place, chunk, wide)).await {
                Ok(Ok(bytes)) => Ok(bytes),
                Ok(Err(_)) | Err(_) => {
                    one(&self.counters.abandoned);
                    let place = self.open_peer(node, want, chunk, wide, ask).await?;
                    self.receive_blocks(place, chunk, wide).await
                }
            }
        };
        timeout(patience, all).await.unwrap_or(Err(HopFailure::Broken))
    }

    /// As [`blocks_of`](Self::blocks_of). Ranges of doors are at most 1 MiB and two blocks.
    async fn receive_blocks(&self, mut place: Place, chunk: &Chunk, wide: ByteRange) -> Result<Bytes, HopFailure> {
        let len = usize::try_from(wide.len()).map_err(|_| HopFailure::Broken)?;
        let first = place.next(self, chunk).await?.bytes;
        if first.len() == len {
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(len);
        whole.extend_from_slice(&first);
        while whole.len() < len {
            whole.extend_from_slice(&place.next(self, chunk).await?.bytes);
        }
        Ok(whole.freeze())
    }
}

/// `range` out of the bytes of `wide`.
fn cut(bytes: Bytes, wide: ByteRange, range: ByteRange) -> Direct {
    let start = usize::try_from(range.start() - wide.start());
    let len = usize::try_from(range.len());
    match (start, len) {
        (Ok(start), Ok(len)) if start + len <= bytes.len() => Direct::Bytes(bytes.slice(start..start + len)),
        _ => Direct::Nothing,
    }
}
