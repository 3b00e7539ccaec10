//! The map as peers are found and judged by it, and maps passed on from peer to peer.
//!
//! A peer that says a newer epoch is asked for its map, which is adopted if it is signed: an agent follows the cluster
//! also while the authority can't be reached. One map is fetched at a time; a peer that says an epoch for which it has
//! no map that we believe costs one request a second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_proto::ids::{ClusterId, Epoch, NodeId, NodeName};
use tokio::sync::watch;

use super::{Client, Members};
use crate::map::{Adoption, MapHolder};

/// How long nobody is asked after a peer had no newer map for us.
const PAUSE: Duration = Duration::from_secs(1);

/// The current map's nodes.
pub struct MapMembers {
    holder: MapHolder,
    newer: watch::Sender<Option<NodeName>>,
}

impl MapMembers {
    /// The nodes of whatever map `holder` holds.
    pub fn new(holder: MapHolder) -> Arc<Self> {
        Arc::new(Self { holder, newer: watch::Sender::new(None) })
    }

    /// Fetches newer maps from the peers that say they have one, for ever. Spawn it once.
    pub async fn pass_maps(self: Arc<Self>, client: Client) {
        let mut newer = self.newer.subscribe();
        while newer.changed().await.is_ok() {
            let peer = newer.borrow_and_update().clone();
            let Some(peer) = peer else { continue };
            if self.holder.heard() > self.holder.epoch() && !self.fetch(&client, &peer).await {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Whether the peer had a newer map that is in use now.
    async fn fetch(&self, client: &Client, peer: &NodeName) -> bool {
        let Some(node) = self.holder.current().and_then(|map| map.node_named(peer).map(|node| node.id)) else {
            return false;
        };
        let bytes = match client.signed_map(node).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::debug!(%peer, %error, "a peer with a newer epoch gives no map");
                return false;
            }
        };
        match self.holder.adopt_bytes(bytes).await {
            Ok(Adoption::Adopted(epoch)) => {
                tracing::info!(%peer, %epoch, "a map from a peer");
                true
            }
            Ok(Adoption::Older) => false,
            Err(error) => {
                tracing::warn!(%peer, %error, "a peer's map isn't adopted");
                false
            }
        }
    }
}

impl Members for MapMembers {
    fn cluster(&self) -> ClusterId {
        self.holder.cluster()
    }

    fn epoch(&self) -> Epoch {
        self.holder.epoch()
    }

    fn locate(&self, node: NodeId) -> Option<(NodeName, Vec<SocketAddr>)> {
        self.holder.locate(node)
    }

    fn is_member(&self, name: &NodeName) -> bool {
        self.holder.is_member(name)
    }

    fn newer_epoch_at(&self, peer: &NodeName, epoch: Epoch) {
        self.holder.heard_of(epoch);
        self.newer.send_replace(Some(peer.clone()));
    }

    fn signed_map(&self) -> Option<Bytes> {
        self.holder.signed()
    }
}
