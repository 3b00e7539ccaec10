//! How the parts see each other: the map as peers' membership, the cache as what a tree reads from.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use larder_proto::error::ErrorKind;
use larder_proto::ids::{ClusterId, Epoch, NodeId, NodeName};
use larder_proto::map::ClusterMap;
use larder_proto::object::Chunk;
use larder_proto::range::ByteRange;
use larder_proto::wire::RequestId;
use tokio::time::Instant;

use crate::cache::{self, Cache};
use crate::fs::{Chunks, Prefetched, ReadPattern, Space};
use crate::map::MapHolder;
use crate::store::Stores;
use crate::{peer, replica};

/// Peers are who the map says.
pub(super) struct Members(pub(super) MapHolder);

impl peer::Members for Members {
    fn cluster(&self) -> ClusterId {
        self.0.cluster()
    }

    fn epoch(&self) -> Epoch {
        self.0.epoch()
    }

    fn locate(&self, node: NodeId) -> Option<(NodeName, Vec<SocketAddr>)> {
        self.0.locate(node)
    }

    fn is_member(&self, name: &NodeName) -> bool {
        self.0.is_member(name)
    }

    fn newer_epoch_at(&self, _peer: &NodeName, epoch: Epoch) {
        self.0.heard_of(epoch);
    }

    fn signed_map(&self) -> Option<Bytes> {
        self.0.signed()
    }
}

impl replica::Maps for Members {
    fn current(&self) -> Option<Arc<ClusterMap>> {
        self.0.current()
    }

    fn this_node(&self) -> &NodeName {
        self.0.self_name()
    }
}

/// A tree's bytes come from the cache, its room is that of the stores.
pub(super) struct Bytewise {
    pub(super) cache: Cache,
    pub(super) stores: Stores,
}

#[async_trait]
impl Chunks for Bytewise {
    fn read_now(&self, chunk: &Chunk, range: ByteRange) -> Option<Bytes> {
        self.cache.read_now(chunk, range)
    }

    async fn read(
        &self,
        request: RequestId,
        chunk: &Chunk,
        range: ByteRange,
        pattern: ReadPattern,
        deadline: Instant,
    ) -> Result<Bytes, ErrorKind> {
        let pattern = match pattern {
            ReadPattern::Sequential => cache::Pattern::Sequential,
            ReadPattern::Random => cache::Pattern::Random,
        };
        self.cache.read(request, chunk, range, pattern, deadline).await.map_err(|error| error.kind)
    }

    fn prefetch(&self, request: RequestId, chunk: &Chunk) -> Option<Prefetched> {
        self.cache.prefetch(request, chunk).map(|guard| Box::new(guard) as Prefetched)
    }

    fn space(&self) -> Space {
        self.stores.status().iter().fold(Space::default(), |space, store| Space {
            capacity_bytes: space.capacity_bytes + store.capacity_bytes,
            used_bytes: space.used_bytes + store.used_bytes,
        })
    }
}
