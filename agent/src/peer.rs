//! Bytes between agents: who may ask, over how many connections, and what a failure means to the asker.
//!
//! [`Client`] asks other nodes for chunks, [`Server`] answers them through a [`Handler`]. Every wait has a deadline,
//! every pool a bound. The peer's identity is that of its certificate, and it counts only while [`Members`] knows it.
//! This module knows nothing of stores, flights or origins: it moves segments that their receiver checks.

use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use larder_proto::checksum::Checksummed;
use larder_proto::control::NodeAddress;
use larder_proto::error::ErrorKind;
use larder_proto::ids::{ClusterId, Epoch, NodeId, NodeName};
use larder_proto::wire::{ChunkRequest, PutRequest};

use crate::runtime::net::ConnectError;

mod announce;
mod answer;
mod body;
mod client;
mod control;
mod latency;
mod outgoing;
mod passing;
mod pool;
mod route;
mod server;
mod stall;

pub use announce::{Meeting, routes as announcements};
pub use body::PutBody;
pub use client::{Client, ClientCounts, FILL_HEAD, Patience, PeerBatch, PeerBody};
pub use control::ControlRoutes;
pub use server::{Server, ServerCounts};

/// Why a peer gave no bytes, or no more of them. Each says what the asker does next.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No connection: the next owner, at once.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The map doesn't name the node, or gives it no address: the next owner.
    #[error("node {0} is not in the map")]
    UnknownNode(NodeId),
    /// The peer was asked too often in vain; it is not asked again for up to a second: the next owner.
    #[error("the circuit to node {0} is open")]
    CircuitOpen(NodeId),
    /// The peer doesn't count us as a member (its map is older or newer than ours): the next owner.
    #[error("node {0} refuses us")]
    Refused(NodeId),
    /// The peer answered, with this.
    #[error("the peer answered {0}")]
    Kind(ErrorKind),
    /// The connection or the body broke off, or wasn't the protocol: drive the request again, or take the next owner.
    #[error("the peer's answer broke off")]
    Broken,
    /// No answer, or no more of it, within the deadline.
    #[error("the peer's deadline passed")]
    Deadline,
}

impl PeerError {
    /// The other side's kernel acknowledged nothing for too long.
    fn silent() -> Self {
        Self::Connect(ConnectError::Io(io::ErrorKind::TimedOut.into()))
    }

    /// Whether the peer could not be reached at all: only then does an owner that isn't first fill by itself.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect(_) | Self::UnknownNode(_) | Self::CircuitOpen(_) | Self::Refused(_) => true,
            Self::Kind(_) | Self::Broken | Self::Deadline => false,
        }
    }
}

/// Who the peers are: what this module needs to know of the map.
#[async_trait]
pub trait Members: Send + Sync + 'static {
    /// The cluster that certificates must name.
    fn cluster(&self) -> ClusterId;

    /// The epoch of the map that answers these calls.
    fn epoch(&self) -> Epoch;

    /// The name and the addresses of a node, in the order in which they are tried; nothing when the map has no such node.
    fn locate(&self, node: NodeId) -> Option<(NodeName, Vec<SocketAddr>)>;

    /// The number of the node of this name; nothing when it isn't in the map.
    fn id_of(&self, name: &NodeName) -> Option<NodeId>;

    /// Whether a node of this name is in the map.
    fn is_member(&self, name: &NodeName) -> bool {
        self.id_of(name).is_some()
    }

    /// The other nodes of the map that may have an agent.
    fn others(&self) -> Vec<NodeId>;

    /// Those of them that serve.
    fn serving(&self) -> Vec<NodeId>;

    /// Where nodes are that moved since the map was made.
    fn whereabouts(&self) -> Vec<NodeAddress>;

    /// A node has said itself where it is. Must return at once.
    fn moved(&self, said: NodeAddress);

    /// Takes in what others say of where nodes are. Must return at once.
    fn hear(&self, said: Vec<NodeAddress>);

    /// A peer has said an epoch above ours; its map is being fetched. Must return at once.
    fn newer_epoch_at(&self, peer: &NodeName, epoch: Epoch);

    /// The signed map as it is handed to peers; nothing before the first.
    fn signed_map(&self) -> Option<Bytes>;

    /// Takes a signed map that a peer passed on. Whether it was believed and newer, and is in use now; says why where
    /// it was not.
    async fn adopt(&self, signed_map: Bytes) -> bool;
}

/// What answers peers. `from` is a member of the current map, by its certificate.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Opens the answer to a request for bytes. A Have that isn't here is `NotHere` at once; a Fill returns at once
    /// too: what the origin says is told by [`ChunkBody::first`]. Requests with an older epoch are answered alike.
    async fn chunk(&self, from: &NodeName, request: ChunkRequest) -> Result<Box<dyn ChunkBody>, ErrorKind>;

    /// Brings the chunk of a Fill, if it isn't here, and keeps it. Returns when all of it has come.
    async fn keep(&self, from: &NodeName, request: ChunkRequest) -> Result<(), ErrorKind>;

    /// Whether the chunk is kept here; `NotHere` where a copy would be taken, `NoSpace` where there is no room for one,
    /// `StaleEpoch` where this node owns no such chunk, `Busy` where a copy would be taken later, or where its map is too
    /// old to tell. From memory.
    fn keeps(&self, request: &ChunkRequest) -> Result<(), ErrorKind>;

    /// Takes a copy of a chunk. The epoch is not older than ours (`StaleEpoch` was answered otherwise).
    async fn put(&self, from: &NodeName, request: PutRequest, body: &mut PutBody) -> Result<(), ErrorKind>;
}

/// The bytes of an answer, as they land. Dropped when the asker goes away.
#[async_trait]
pub trait ChunkBody: Send {
    /// Waits until it is known whether the bytes come (the status of a Fill). Called once, before `next`.
    async fn first(&mut self) -> Result<(), ErrorKind>;

    /// The next piece of the range: contiguous, any whole number of blocks (the chunk's last one cut). `None` before
    /// the range is complete breaks the answer off, and the asker drives it again.
    async fn next(&mut self) -> Option<Checksummed>;
}

#[cfg(test)]
mod tests;
