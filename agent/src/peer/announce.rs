//! An agent that begins says where it is to every node of its map, until each has heard it or is taken for dead.
//!
//! Only the node that a certificate names is believed about itself. The reply says where others have moved to, so that
//! agents which restart one after another find each other without the authority. [`Meeting`] says which Serving nodes
//! weren't reached yet: until there are none, reads may go past them to the origin.
//!
//! Afterwards it says so again, once a second, to peers that were asked in vain: so it is known when they can be reached
//! again though nobody has anything to ask them, and the authority hears of those that can't.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use larder_proto::control::message::peers_client::PeersClient;
use larder_proto::control::message::peers_server::{Peers, PeersServer};
use larder_proto::control::{NodeAddress, message, parse_whereabouts, whereabouts_message};
use larder_proto::ids::{Epoch, NodeId, NodeName};
use larder_proto::limits::MESSAGE_BYTES_MAX;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Request, Response, Status};

use super::{Client, ControlRoutes, Members};
use crate::runtime::circuit::Verdict;

/// Nodes that are told at a time.
const TELL_AT_ONCE: usize = 16;

/// How long a node may take to hear it; connecting is most of it.
const TELL_WITHIN: Duration = Duration::from_secs(1);

/// The pause between two rounds: a peer that restarts too has another port in a moment.
const PAUSE: Duration = Duration::from_millis(100);

/// A node that couldn't be reached for this long, wherever it was said to be, is taken for dead; the authority, if it is
/// there, has said so long before.
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// How often peers that were asked in vain are tried.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// How long a try takes at most: longer than it takes to find out that a connection is dead (`control.rs`), or the next
/// try would use it again.
const TRY_WITHIN: Duration = Duration::from_millis(2_500);

/// Whom this agent hasn't reached since it began. Cheap to clone.
#[derive(Clone, Default)]
pub struct Meeting {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    news: Arc<Notify>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    /// There is no map yet, so nobody to be met.
    #[default]
    NoMap,
    /// These weren't reached yet.
    Waiting(Vec<NodeId>),
    /// Everybody that served was reached once; who comes later announces itself.
    Over,
}

impl Meeting {
    /// Serving nodes that weren't reached yet.
    pub fn unmet(&self) -> Vec<NodeId> {
        match &*self.inner.state.lock() {
            State::Waiting(unmet) => unmet.clone(),
            State::NoMap | State::Over => Vec::new(),
        }
    }

    /// Whether every node that served when this agent began was reached once, or is dead.
    pub fn is_over(&self) -> bool {
        *self.inner.state.lock() == State::Over
    }

    /// Rung when `unmet` changes.
    pub fn news(&self) -> Arc<Notify> {
        self.inner.news.clone()
    }

    fn set(&self, unmet: Vec<NodeId>) {
        let next = if unmet.is_empty() { State::Over } else { State::Waiting(unmet) };
        let mut state = self.inner.state.lock();
        if *state != State::Over && *state != next {
            *state = next;
            self.inner.news.notify_one();
        }
    }
}

impl Client {
    /// Says to every node of the map that this one is at `own`; `changed` tells when there is another map.
    /// From then on it tries peers that can't be reached.
    pub fn announce(&self, own: NodeAddress, changed: watch::Receiver<Epoch>) -> Meeting {
        let meeting = Meeting::default();
        let (client, met) = (self.clone(), meeting.clone());
        self.runtime().tasks.spawn(async move {
            if announce(&client, &own, changed, met).await.is_some() {
                try_again(&client, &own).await;
            }
        });
        meeting
    }
}

/// Adds the service that hears announcements.
pub fn routes(routes: ControlRoutes, members: Arc<dyn Members>) -> ControlRoutes {
    let server = PeersServer::new(Hearing { members });
    routes.with(server.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
}

/// Nothing when there will be no other map.
async fn announce(
    client: &Client,
    own: &NodeAddress,
    mut changed: watch::Receiver<Epoch>,
    meeting: Meeting,
) -> Option<()> {
    let (mut told, mut since) = (BTreeSet::new(), BTreeMap::new());
    loop {
        let now = client.runtime().clock.now();
        changed.mark_unchanged();
        let left = untold(client, &told, &mut since, now);
        let heard =
            stream::iter(left.clone()).map(|node| tell(client, node, own, TELL_WITHIN)).buffer_unordered(TELL_AT_ONCE);
        told.extend(heard.filter_map(|heard| async move { heard }).collect::<Vec<NodeId>>().await);
        if client.members().epoch() > Epoch(0) {
            let left = untold(client, &told, &mut since, client.runtime().clock.now());
            meeting.set(client.members().serving().into_iter().filter(|node| left.contains(node)).collect());
            if left.is_empty() {
                return Some(());
            }
        }
        tokio::select! { biased;
            mapped = changed.changed() => mapped.ok()?,
            () = sleep(PAUSE) => {}
        }
    }
}

/// Tries peers that were asked in vain, for ever.
async fn try_again(client: &Client, own: &NodeAddress) {
    loop {
        sleep(TRY_EVERY).await;
        let due = client.troubled().into_iter().filter(|node| client.admits(*node));
        let tried = stream::iter(due).map(|node| async move {
            let began = client.runtime().clock.now();
            if tell(client, node, own, TRY_WITHIN).await.is_none() {
                client.missed(node, began);
            }
        });
        tried.buffer_unordered(TELL_AT_ONCE).for_each(|()| async {}).await;
    }
}

/// Nodes that haven't heard it and may be alive.
fn untold(
    client: &Client,
    told: &BTreeSet<NodeId>,
    since: &mut BTreeMap<NodeId, Instant>,
    now: Instant,
) -> Vec<NodeId> {
    let mut others = client.members().others();
    others.retain(|node| !told.contains(node) && now - *since.entry(*node).or_insert(now) < DEAD_AFTER);
    others
}

/// The node, if it has heard it.
async fn tell(client: &Client, node: NodeId, own: &NodeAddress, within: Duration) -> Option<NodeId> {
    let mut peer = PeersClient::new(client.control(node).ok()?).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let reply = timeout(within, peer.announce(own.to_message())).await;
    match reply.ok()?.map(|reply| parse_whereabouts(reply.into_inner())) {
        Ok(Ok(moved)) => {
            client.members().hear(moved);
            client.saw(node, Verdict::Alive);
            Some(node)
        }
        Ok(Err(error)) => {
            tracing::warn!(%node, %error, "a peer's reply breaks the protocol");
            None
        }
        Err(status) => {
            tracing::debug!(%node, %status, "a peer hasn't heard where this node is");
            None
        }
    }
}

struct Hearing {
    members: Arc<dyn Members>,
}

#[tonic::async_trait]
impl Peers for Hearing {
    async fn announce(&self, request: Request<message::NodeAddress>) -> Result<Response<message::Whereabouts>, Status> {
        let from = request.extensions().get::<NodeName>().cloned();
        let said =
            NodeAddress::parse(request.into_inner()).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if from.as_ref() != Some(&said.node) {
            return Err(Status::permission_denied("a node speaks for itself only"));
        }
        self.members.moved(said);
        Ok(Response::new(whereabouts_message(&self.members.whereabouts())))
    }
}
