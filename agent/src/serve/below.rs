//! How the parts see each other: the map as peers' membership, the cache as what a tree reads from.

use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use larder_proto::control::NodeAddress;
use larder_proto::error::ErrorKind;
use larder_proto::ids::{ClusterId, Epoch, NodeId, NodeName};
use larder_proto::object::{Chunk, Object};
use larder_proto::range::ByteRange;
use larder_proto::wire::RequestId;
use tokio::time::Instant;

use crate::cache::{self, Cache};
use crate::fs::{Chunks, Held, PrefetchGuard, Prefetched, ReadPattern, Space};
use crate::map::{Adoption, MapHolder, Told};
use crate::peer;
use crate::store::Stores;

/// Peers are who the map says.
pub(crate) struct Members(pub(crate) MapHolder);

#[async_trait]
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

    fn id_of(&self, name: &NodeName) -> Option<NodeId> {
        self.0.current()?.node_named(name).map(|node| node.id)
    }

    fn others(&self) -> Vec<NodeId> {
        self.0.others()
    }

    fn serving(&self) -> Vec<NodeId> {
        self.0.serving()
    }

    fn whereabouts(&self) -> Vec<NodeAddress> {
        self.0.whereabouts()
    }

    fn moved(&self, said: NodeAddress) {
        self.0.hear(Told::ByItself, [said]);
    }

    fn hear(&self, said: Vec<NodeAddress>) {
        self.0.hear(Told::ByOthers, said);
    }

    fn newer_epoch_at(&self, _peer: &NodeName, epoch: Epoch) {
        self.0.heard_of(epoch);
    }

    fn signed_map(&self) -> Option<Bytes> {
        self.0.signed()
    }

    async fn adopt(&self, signed_map: Bytes) -> bool {
        match self.0.adopt_bytes(signed_map).await {
            Ok(Adoption::Adopted(_)) => true,
            Ok(Adoption::Older) => false,
            Err(error) => {
                tracing::warn!(%error, "a map that a peer passed on isn't used");
                false
            }
        }
    }
}

/// A tree's bytes come from the cache, its room is that of the stores.
pub(crate) struct Bytewise {
    pub(crate) cache: Cache,
    pub(crate) stores: Stores,
}

impl PrefetchGuard for cache::Prefetch {
    fn is_wasted(&self) -> bool {
        cache::Prefetch::is_wasted(self)
    }
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

    fn hold(&self, object: &Object) -> Held {
        Box::new(self.stores.hold(object.id()))
    }

    async fn keep(&self, request: RequestId, chunks: Vec<Chunk>, deadline: Instant) -> usize {
        let kept = self.cache.keep(request, chunks, deadline).await;
        tracing::debug!(%request, ?kept, "chunks are brought to their owners ahead of their readers");
        kept.kept
    }

    fn space(&self) -> Space {
        self.stores.status().iter().fold(Space::default(), |space, store| Space {
            capacity_bytes: space.capacity_bytes + store.capacity_bytes,
            used_bytes: space.used_bytes + store.used_bytes,
        })
    }
}
