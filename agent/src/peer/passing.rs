//! Maps passed on from peer to peer.
//!
//! A peer that says a newer epoch, as who asks or who is asked, is asked for its map: so an agent follows the cluster
//! also while the authority can't be reached. One map is fetched at a time; a peer that says an epoch for which it has
//! no map that we believe costs one request a second. Whether a map is believed, [`Members::adopt`] decides.

use std::sync::{Arc, Weak};
use std::time::Duration;

use larder_proto::ids::{Epoch, NodeName};
use tokio::sync::watch;

use super::Members;
use super::client::{Client, Inner};

/// How long nobody is asked after a peer had no newer map for us.
const PAUSE: Duration = Duration::from_secs(1);

/// Who has said an epoch above ours, most recently.
pub(super) struct Newer(watch::Sender<Option<(NodeName, Epoch)>>);

impl Newer {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// A peer has said this epoch.
    pub(super) fn hear(&self, members: &dyn Members, peer: &NodeName, epoch: Epoch) {
        if epoch > members.epoch() {
            members.newer_epoch_at(peer, epoch);
            self.0.send_replace(Some((peer.clone(), epoch)));
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Option<(NodeName, Epoch)>> {
        self.0.subscribe()
    }
}

/// Fetches newer maps until the last client is gone.
pub(super) async fn pass_maps(
    mut newer: watch::Receiver<Option<(NodeName, Epoch)>>,
    members: Arc<dyn Members>,
    client: Weak<Inner>,
) {
    while newer.changed().await.is_ok() {
        let said = newer.borrow_and_update().clone();
        let Some((peer, epoch)) = said else { continue };
        if epoch <= members.epoch() {
            continue;
        }
        let Some(client) = client.upgrade().map(Client::of) else { return };
        let adopted = fetch(&client, &*members, &peer).await;
        drop(client);
        if !adopted {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whether the peer had a newer map that is in use now.
async fn fetch(client: &Client, members: &dyn Members, peer: &NodeName) -> bool {
    let Some(node) = members.id_of(peer) else { return false };
    match client.signed_map(node).await {
        Ok(map) => members.adopt(map).await,
        Err(error) => {
            tracing::debug!(%peer, %error, "a peer with a newer epoch gives no map");
            false
        }
    }
}
