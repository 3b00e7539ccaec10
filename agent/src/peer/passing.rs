//! Maps passed on from peer to peer.
//!
//! A peer that says a newer epoch, as who asks or who is asked, is asked for its map: so an agent follows the cluster
//! also while the authority can't be reached. One map is fetched at a time, from whom was asked longest ago: one that says
//! an epoch for which it has no map that we believe costs one request a second, and keeps nobody else's word from being
//! heard. Whether a map is believed, [`Members::adopt`] decides.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use larder_proto::ids::{Epoch, NodeName};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Members;
use super::client::{Client, Inner};

/// How long nobody is asked after a peer had no newer map for us.
const PAUSE: Duration = Duration::from_secs(1);

/// Who has said epochs above ours.
pub(super) struct Newer {
    said: Arc<Mutex<Said>>,
    rung: watch::Sender<()>,
}

/// What the peers of the map have said, and who was asked when. Sans-IO.
#[derive(Default)]
pub(super) struct Said {
    peers: BTreeMap<NodeName, Word>,
    asked: u64,
}

struct Word {
    epoch: Epoch,
    /// It was said since the peer was asked last.
    is_news: bool,
    /// When the peer was asked last, counted in requests; 0: never.
    asked: u64,
}

impl Said {
    fn hear(&mut self, peer: &NodeName, epoch: Epoch) {
        match self.peers.get_mut(peer) {
            Some(word) => (word.epoch, word.is_news) = (epoch, true),
            None => drop(self.peers.insert(peer.clone(), Word { epoch, is_news: true, asked: 0 })),
        }
    }

    /// Whom to ask now: of those that say an epoch above ours, who was asked longest ago. Forgets who says none, and who
    /// has left the map.
    fn next(&mut self, members: &dyn Members) -> Option<NodeName> {
        let own = members.epoch();
        self.peers.retain(|peer, word| word.epoch > own && members.is_member(peer));
        let (peer, word) = self.peers.iter_mut().filter(|(_, word)| word.is_news).min_by_key(|(_, word)| word.asked)?;
        self.asked += 1;
        (word.is_news, word.asked) = (false, self.asked);
        Some(peer.clone())
    }
}

impl Newer {
    pub(super) fn new() -> Self {
        Self { said: Arc::default(), rung: watch::Sender::new(()) }
    }

    /// A peer has said this epoch.
    pub(super) fn hear(&self, members: &dyn Members, peer: &NodeName, epoch: Epoch) {
        if epoch > members.epoch() {
            members.newer_epoch_at(peer, epoch);
            self.said.lock().hear(peer, epoch);
            self.rung.send_replace(());
        }
    }

    pub(super) fn subscribe(&self) -> (Arc<Mutex<Said>>, watch::Receiver<()>) {
        (self.said.clone(), self.rung.subscribe())
    }
}

/// Fetches newer maps until the last client is gone.
pub(super) async fn pass_maps(
    (said, mut rung): (Arc<Mutex<Said>>, watch::Receiver<()>),
    members: Arc<dyn Members>,
    client: Weak<Inner>,
) {
    while rung.changed().await.is_ok() {
        loop {
            let next = said.lock().next(&*members);
            let Some(peer) = next else { break };
            let Some(client) = client.upgrade().map(Client::of) else { return };
            let adopted = fetch(&client, &*members, &peer).await;
            drop(client);
            if !adopted {
                tokio::time::sleep(PAUSE).await;
            }
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
