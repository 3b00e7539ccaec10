//! The places themselves: opening one, and taking its next piece, checked.
//!
//! A peer that is asked for a Fill may be silent because the origin is: after [`SILENCE`] it is asked for a block that
//! it may not have, and any answer shows that it lives. A process that hangs costs two seconds that way, not the reader's
//! deadline; one that is slow because it gets no processor is not passed over.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use larder_proto::checksum::Checksummed;
use larder_proto::error::ErrorKind;
use larder_proto::ids::NodeId;
use larder_proto::limits::{BLOCK_BYTES, SEGMENT_BYTES};
use larder_proto::object::Chunk;
use larder_proto::range::ByteRange;
use larder_proto::wire::{ChunkRequest, RequestId, Want};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::Inner;
use super::counters::one;
use super::flight::{HAVE_PATIENCE, Hedging, HopFailure};
use super::route::Hop;
use super::table::Leading;
use crate::origin;
use crate::peer::{FILL_HEAD, Patience, PeerBody, PeerError};
use crate::replica::Owners;

/// A Fill that sends nothing for this long makes us ask whether the peer still lives.
const SILENCE: Duration = Duration::from_millis(500);

/// How long a living peer may take to say anything at all.
const PROBE_WITHIN: Duration = Duration::from_millis(1500);

/// The same to an owner that passes on a Fill: whoever sent it here has waited for that peer already.
const SECOND_WAIT: Duration = Duration::from_secs(1);

/// What bounds one body as a whole; progress is watched by the flight. 64 MiB at 1 MiB/s.
const BODY_WITHIN: Duration = Duration::from_secs(64);

/// What every request of a flight says.
pub struct Ask<'a> {
    /// The door's request that started the flight.
    pub request: RequestId,
    /// Who owns the chunk, by the map of now.
    pub owners: &'a Owners,
    /// Why this node drives the flight.
    pub leading: Leading,
    /// Whether a place that is late may be hedged.
    pub hedging: Hedging,
}

/// A place that sends.
pub enum Place {
    /// This node's store.
    Store {
        /// What hasn't been read yet.
        rest: ByteRange,
    },
    /// A peer.
    Peer {
        /// Which.
        node: NodeId,
        /// Its answer.
        body: Box<PeerBody>,
        /// Whether it may be silent because the origin is.
        fills: bool,
        /// Whether the status of a Fill has come.
        opened: bool,
    },
    /// The origin.
    Origin(Box<origin::Body>),
}

/// Bytes in order. Those of the origin have no checksums yet; all others were checked.
pub struct Piece {
    /// The bytes.
    pub bytes: Bytes,
    /// Their checksums, one per block.
    pub crcs: Option<Vec<u32>>,
}

impl Inner {
    /// Asks a place for the chunk's bytes from `from` (a block's start) to its end.
    pub(super) async fn open(&self, chunk: &Chunk, hop: &Hop, from: u64, ask: &Ask<'_>) -> Result<Place, HopFailure> {
        tracing::debug!(request = %ask.request, chunk = ?chunk.id(), ?hop, "a place is asked");
        let len = u64::from(chunk.len());
        let rest = ByteRange::new(from, len).unwrap_or(ByteRange::at(len, 0));
        match hop {
            Hop::Store => Ok(Place::Store { rest }),
            Hop::Have(node) => self.open_peer_or_hedge(*node, Want::Have, chunk, rest, ask).await,
            Hop::OwnersHave(nodes) => {
                let mut answers = FuturesUnordered::new();
                for node in nodes {
                    answers.push(self.open_peer(*node, Want::Have, chunk, rest, ask).boxed());
                }
                while let Some(answer) = answers.next().await {
                    if answer.is_ok() {
                        return answer;
                    }
                }
                Err(HopFailure::Refused(ErrorKind::NotHere))
            }
            Hop::Fill(node) => {
                // An owner passes the Fill on; whoever gets it from an owner fills, whatever its own map says.
                let want = if ask.owners.includes_this() { Want::PassedFill } else { Want::Fill };
                if want == Want::PassedFill {
                    one(&self.counters.passed_on);
                }
                self.open_peer_or_hedge(*node, want, chunk, rest, ask).await
            }
            Hop::Origin(_) => self.open_origin(chunk, rest).await,
        }
    }

    async fn open_origin(&self, chunk: &Chunk, rest: ByteRange) -> Result<Place, HopFailure> {
        let object = chunk.object();
        let unknown = HopFailure::Refused(ErrorKind::UnknownVolume);
        let origin = self.origins.get(object.volume()).ok_or(unknown)?;
        let range = ByteRange::at(chunk.range().start() + rest.start(), rest.len());
        one(&self.counters.fills);
        let deadline = self.now() + BODY_WITHIN;
        match origin.get(object.key(), object.version(), range, deadline).await {
            Ok(body) => Ok(Place::Origin(Box::new(body))),
            Err(error) => Err(HopFailure::Refused(error.kind())),
        }
    }

    /// Asks a peer for a range of whole blocks.
    pub(super) async fn open_peer(
        &self,
        node: NodeId,
        want: Want,
        chunk: &Chunk,
        range: ByteRange,
        ask: &Ask<'_>,
    ) -> Result<Place, HopFailure> {
        self.open_peer_told(node, want, chunk, range, ask, &Notify::new()).await
    }

    /// As [`open_peer`](Self::open_peer); rings `sent` when the request leaves.
    pub(super) async fn open_peer_told(
        &self,
        node: NodeId,
        want: Want,
        chunk: &Chunk,
        range: ByteRange,
        ask: &Ask<'_>,
        sent: &Notify,
    ) -> Result<Place, HopFailure> {
        let bad = HopFailure::Refused(ErrorKind::BadRequest);
        let request = ChunkRequest::new(ask.request, want, ask.owners.epoch, chunk.clone(), range).ok_or(bad)?;
        // The client bounds a Fill's head; waiting in line for a connection is not the peer's doing.
        let patience = if want.is_fill() { BODY_WITHIN } else { HAVE_PATIENCE };
        let second = want.is_fill() && ask.leading == Leading::Asked;
        let head_within = match want {
            Want::Have | Want::DoubtedHave => HAVE_PATIENCE,
            Want::Fill | Want::PassedFill => {
                if second {
                    SECOND_WAIT
                } else {
                    FILL_HEAD
                }
            }
        };
        let told = Patience { head: head_within, sent: Some(sent) };
        let read = self.peers.read_within(node, &request, told, self.now() + BODY_WITHIN);
        match timeout(patience, read).await {
            Ok(Ok(body)) => {
                Ok(Place::Peer { node, body: Box::new(body), fills: want.is_fill(), opened: !want.is_fill() })
            }
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(HopFailure::Unreachable),
        }
    }

    /// Whether a peer answers anything at all.
    async fn lives(&self, node: NodeId, chunk: &Chunk) -> bool {
        let first = ByteRange::at(0, u64::from(BLOCK_BYTES)).clamp(u64::from(chunk.len()));
        let epoch = self.replicator.owners(chunk).epoch;
        let id = RequestId(self.runtime.rng.next_u64());
        let Some(request) = ChunkRequest::new(id, Want::Have, epoch, chunk.clone(), first) else { return false };
        match self.peers.read(node, &request, self.now() + PROBE_WITHIN).await {
            Ok(_) | Err(PeerError::Kind(_)) => true,
            Err(
                PeerError::Connect(_)
                | PeerError::UnknownNode(_)
                | PeerError::CircuitOpen(_)
                | PeerError::Refused(_)
                | PeerError::Broken
                | PeerError::Deadline,
            ) => false,
        }
    }
}

impl Place {
    /// The owner that sends in the stead of the one that was asked, whose answer was late.
    pub(super) fn hedge_of(&self, hop: &Hop) -> Option<NodeId> {
        match (self, hop) {
            (Self::Peer { node, .. }, Hop::Have(asked) | Hop::Fill(asked)) => Some(*node).filter(|node| node != asked),
            (Self::Peer { .. }, Hop::Store | Hop::OwnersHave(_) | Hop::Origin(_))
            | (Self::Store { .. } | Self::Origin(_), _) => None,
        }
    }

    /// The next piece. Asked again after the last one it fails: whoever asks knows how much there is.
    pub(super) async fn next(&mut self, inner: &Inner, chunk: &Chunk) -> Result<Piece, HopFailure> {
        match self {
            Self::Store { rest } => {
                let range = ByteRange::at(rest.start(), u64::from(SEGMENT_BYTES)).clamp(rest.end());
                let piece = inner.read_stored(chunk, range).await.ok_or(HopFailure::Broken)?;
                *rest = ByteRange::new(range.end(), rest.end()).unwrap_or(*rest);
                Ok(piece)
            }
            Self::Origin(body) => match body.next().await {
                Some(Ok(bytes)) => Ok(Piece { bytes, crcs: None }),
                Some(Err(error)) => Err(HopFailure::Refused(error.kind())),
                None => Err(HopFailure::Broken),
            },
            Self::Peer { node, body, fills, opened } => loop {
                let answer = async {
                    if !*opened {
                        body.first().await?;
                        *opened = true;
                    }
                    body.next().await.unwrap_or(Err(PeerError::Broken))
                };
                tokio::select! { biased;
                    answer = answer => {
                        let piece = answer.map_err(|error| failure(&error))?;
                        return match inner.checked(piece) {
                            Ok((bytes, crcs)) => Ok(Piece { bytes, crcs: Some(crcs) }),
                            Err(failure) => {
                                inner.doubt(*node, chunk);
                                Err(failure)
                            }
                        };
                    }
                    () = sleep(SILENCE), if *fills => {}
                }
                if !inner.lives(*node, chunk).await {
                    return Err(HopFailure::Unreachable);
                }
            },
        }
    }
}

impl Inner {
    /// The bytes of a peer, if every block matches its checksum.
    pub(super) fn checked(&self, piece: Checksummed) -> Result<(Bytes, Vec<u32>), HopFailure> {
        piece.verify().map_err(|corrupt| {
            one(&self.counters.corrupt);
            tracing::warn!(%corrupt, "a peer sent a corrupt block; another place is asked");
            HopFailure::Broken
        })
    }

    /// A peer sent something wrong: it is made to look at what it has, and drops it if it is wrong there.
    fn doubt(&self, node: NodeId, chunk: &Chunk) {
        let id = RequestId(self.runtime.rng.next_u64());
        let epoch = self.replicator.owners(chunk).epoch;
        let request = ChunkRequest::whole(id, Want::DoubtedHave, epoch, chunk.clone());
        let (peers, deadline) = (self.peers.clone(), self.now() + BODY_WITHIN);
        self.runtime.tasks.spawn(async move {
            let Ok(mut body) = peers.read(node, &request, deadline).await else { return };
            while let Some(Ok(_looked_at_there)) = body.next().await {}
        });
    }

    /// A range of whole blocks from this node's store, checked. A chunk that fails its check is dropped there, and comes
    /// anew from another place.
    pub(super) async fn read_stored(&self, chunk: &Chunk, range: ByteRange) -> Option<Piece> {
        let piece = match self.stores.read(chunk, range).await {
            Ok(piece) => piece?,
            Err(error) => {
                tracing::debug!(%error, chunk = ?chunk.id(), "the store gave no bytes; another place is asked");
                return None;
            }
        };
        match piece.verify() {
            Ok((bytes, crcs)) => Some(Piece { bytes, crcs: Some(crcs) }),
            Err(corrupt) => {
                one(&self.counters.corrupt);
                tracing::warn!(%corrupt, "a chunk in the store is corrupt; it is dropped and comes anew");
                self.stores.drop_chunk(chunk);
                None
            }
        }
    }
}

/// What a peer's failure means to the order of places.
pub fn failure(error: &PeerError) -> HopFailure {
    match error {
        PeerError::Connect(_) | PeerError::UnknownNode(_) | PeerError::CircuitOpen(_) | PeerError::Refused(_) => {
            HopFailure::Unreachable
        }
        PeerError::Kind(kind) => HopFailure::Refused(*kind),
        PeerError::Broken | PeerError::Deadline => HopFailure::Broken,
    }
}
