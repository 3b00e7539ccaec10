//! The map authority: issues certificates, hears reports, decides who serves, plans and publishes signed maps.
//!
//! Knows nothing of Kubernetes: local mode and the operator give it tokens, volumes and a shape. A map is stored, with
//! fsync, before anybody sees it, and node ids are stored before they are told, so that a restart never publishes an
//! old epoch or reuses an id. Data never passes through here; while the authority is away, agents go on.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use larder_proto::control::NodeAddress;
use larder_proto::ids::{ClusterId, Epoch, NodeName, VolumeId};
use larder_proto::map::{ClusterMap, MapDelta, SignedMap};
use larder_proto::volume::Volume;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod ca;
mod core;
mod ledger;
mod life;
mod listen;
mod serve;
mod state;
mod status;
mod token;

pub use ca::{Ca, CaError};
pub use ledger::{FolderLedger, Ledger};
pub use life::Patience;
pub use state::ForeignMap;
pub use status::{NodeStatus, VolumeStatus};
pub use token::{NodeTokens, TokenVerifier};

use self::core::Core;
use state::{State, StateError};

/// How often silence is looked for, apart from news.
const TICK: Duration = Duration::from_millis(250);

/// How long a stop waits for agents to hang up.
const STOP: Duration = Duration::from_secs(3);

/// How many owners slots have, and when the first map comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The first map waits for this many nodes with stores.
    pub min_nodes: u32,
    /// Owners of each slot; a volume that asks for more raises it, up to `min_nodes`.
    pub replicas: u32,
}

/// What an authority is made of.
pub struct AuthorityOptions {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its CA, which signs certificates and maps.
    pub ca: Ca,
    /// Where agents reach it; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Who may join.
    pub tokens: Arc<dyn TokenVerifier>,
    /// How many owners and nodes.
    pub shape: Shape,
    /// Where node ids and the last map are kept.
    pub ledger: Arc<dyn Ledger>,
    /// What becomes of a map in the ledger that isn't this cluster's.
    pub foreign_map: ForeignMap,
    /// The first map's epoch is above this, whatever the ledger holds.
    pub epoch_floor: Epoch,
}

/// Why an authority doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state can't be read, or isn't this cluster's.
    #[error(transparent)]
    State(#[from] StateError),
    /// No certificate can be issued.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Nobody can be listened to there.
    #[error("can't listen on {at}: {error}")]
    Listen {
        /// Where.
        at: SocketAddr,
        /// Why.
        error: io::Error,
    },
}

/// A running authority; it stops with [`stop`](Self::stop) or when the last handle is dropped. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    shared: Arc<Shared>,
    address: SocketAddr,
    tracker: TaskTracker,
    _stop_on_drop: Arc<tokio_util::sync::DropGuard>,
    stop: CancellationToken,
}

/// What the planner and the sessions share.
struct Shared {
    cluster: ClusterId,
    ca: Ca,
    tokens: Arc<dyn TokenVerifier>,
    state: Arc<State>,
    core: Mutex<Core>,
    /// Something was reported or set: plan now.
    news: Notify,
    published: watch::Sender<Option<Published>>,
    /// Where nodes are that moved since the published map was made.
    moved: watch::Sender<Moved>,
    volumes: watch::Receiver<Vec<Volume>>,
    is_map_too_large: AtomicBool,
    began: Instant,
}

/// Nodes by name, and where they say they are.
type Moved = Arc<BTreeMap<NodeName, NodeAddress>>;

#[derive(Clone)]
struct Published {
    map: Arc<ClusterMap>,
    signed: bytes::Bytes,
    /// What changed since the map published before, and that map's epoch; nothing when it is no smaller.
    delta: Option<(Epoch, bytes::Bytes)>,
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        // No call under the lock panics half-way through a change.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the authority began.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Authority {
    /// Goes on from the state folder and listens. `volumes` is the full list, sent to every agent whenever it changes.
    pub async fn start(options: AuthorityOptions, volumes: watch::Receiver<Vec<Volume>>) -> Result<Self, StartError> {
        let AuthorityOptions { cluster, ca, listen, tokens, shape, ledger, foreign_map, epoch_floor } = options;
        let keys = ca.trust()?.keys().clone();
        let (state, stored) = State::open(ledger, cluster, &keys, foreign_map)?;
        // What another CA signed is good until every agent has a map of this one: the next one is to come at once.
        let own = ca.own_trust()?.keys().clone();
        let stale = stored.map.as_ref().filter(|(_, signed)| believe(signed.clone(), &own).is_none());
        let epoch_floor = stale.map_or(epoch_floor, |(map, _)| epoch_floor.max(map.epoch().next()));
        let published = stored.map.map(|(map, signed)| Published { map: Arc::new(map), signed, delta: None });
        let stored = published.as_ref().map(|published| published.map.clone());
        let core = Core::new(cluster, shape, stored, epoch_floor);
        let shared = Arc::new(Shared {
            cluster,
            ca,
            tokens,
            state: Arc::new(state),
            core: Mutex::new(core),
            news: Notify::new(),
            published: watch::Sender::new(published),
            moved: watch::Sender::default(),
            volumes,
            is_map_too_large: AtomicBool::new(false),
            began: Instant::now(),
        });
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let incoming = listen::Incoming::bind(listen, shared.clone(), stop.clone(), &tracker).await?;
        let address = incoming.address();
        tracker.spawn(serve::serve(shared.clone(), incoming, stop.clone(), tracker.clone()));
        tracker.spawn(plan(shared.clone(), stop.clone()));
        let guard = Arc::new(stop.clone().drop_guard());
        Ok(Self { shared, address, tracker, _stop_on_drop: guard, stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The CA certificate in PEM: what agents need to trust.
    pub fn trust_pem(&self) -> &str {
        self.shared.ca.certificate_pem()
    }

    /// The map that agents have, or are getting.
    pub fn map(&self) -> Option<Arc<ClusterMap>> {
        self.shared.published.borrow().as_ref().map(|published| published.map.clone())
    }

    /// The epoch of the published map.
    pub fn epoch(&self) -> Option<Epoch> {
        self.map().map(|map| map.epoch())
    }

    /// Every node that has joined and reported, by name.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let map = self.map();
        self.shared.core().statuses(map.as_deref(), self.shared.now_ms())
    }

    /// What the nodes report of each volume.
    pub fn volumes(&self) -> BTreeMap<VolumeId, VolumeStatus> {
        self.shared.core().volumes(self.shared.now_ms())
    }

    /// Owners and nodes from now on.
    pub fn reshape(&self, shape: Shape) {
        self.shared.core().reshape(shape);
        self.shared.news.notify_one();
    }

    /// The failure domains of nodes, as the authority's owner knows them: they outweigh what the nodes report.
    pub fn place(&self, domains: BTreeMap<NodeName, Arc<str>>) {
        self.shared.core().place(domains);
        self.shared.news.notify_one();
    }

    /// Whether the published map is signed by the CA that signs now; true before there is one.
    pub fn is_map_own(&self) -> bool {
        let published = self.shared.published.borrow().clone();
        let Ok(own) = self.shared.ca.own_trust() else { return false };
        published.is_none_or(|published| believe(published.signed, own.keys()).is_some())
    }

    /// Whether the newest map is larger than what may be published: the one before it stays.
    pub fn is_map_too_large(&self) -> bool {
        self.shared.is_map_too_large.load(Ordering::Relaxed)
    }

    /// How long nodes may be silent, and slow to hand over, from now on.
    pub fn wait(&self, patience: Patience) {
        self.shared.core().wait(patience);
        self.shared.news.notify_one();
    }

    /// These nodes keep their slots and lead none, where others may; and take none while they are new.
    pub fn follow(&self, names: BTreeSet<NodeName>) {
        self.shared.core().follow(names);
        self.shared.news.notify_one();
    }

    /// A node that won't come back: it is Gone at once, whatever it has; others get its slots. To be followed by
    /// [`remove`](Self::remove) once its agent has ended.
    pub fn dismiss(&self, name: &NodeName) {
        self.shared.core().dismiss(name);
        self.shared.news.notify_one();
    }

    /// A node that was to leave is to stay, or to come back.
    pub fn keep(&self, name: &NodeName) {
        self.shared.core().keep(name);
        self.shared.news.notify_one();
    }

    /// A node that is to leave: its slots go to others, and it hands over what it has (Draining); then it stays in the map
    /// as Gone, so that it still serves what it has mounted. To be followed by [`remove`](Self::remove) once its agent has
    /// ended. Until it is Gone it may be [kept](Self::keep).
    pub fn retire(&self, name: &NodeName) {
        self.shared.core().retire(name);
        self.shared.news.notify_one();
    }

    /// Drops a node that won't come back: its slots move, its certificate is nobody's, its id is never used again.
    /// Blocks on the ledger.
    pub fn remove(&self, name: &NodeName) -> io::Result<()> {
        self.shared.state.forget(name)?;
        self.shared.core().remove(name);
        self.shared.news.notify_one();
        Ok(())
    }

    /// Ends sessions and tasks; agents that hang are waited for at most 3 s. What was published stays valid.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        if timeout(STOP, self.tracker.wait()).await.is_err() {
            tracing::warn!("the map authority stops while agents are still connected");
        }
    }
}

/// Plans whenever there is news, and often enough to notice silence; stores, then publishes.
async fn plan(shared: Arc<Shared>, stop: CancellationToken) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut volumes = shared.volumes.clone();
    loop {
        let wanted = {
            let wanted = volumes.borrow_and_update().iter().filter_map(|volume| volume.replicas).max();
            wanted.unwrap_or(0)
        };
        let next = shared.core().plan(wanted, shared.now_ms());
        if let Some(map) = next {
            publish(&shared, map).await;
        }
        let moved = shared.core().moved();
        shared.moved.send_if_modified(|known| {
            let news = **known != moved;
            *known = Arc::new(moved);
            news
        });
        tokio::select! { biased;
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
            () = shared.news.notified() => {}
        }
    }
}

async fn publish(shared: &Shared, map: ClusterMap) {
    let Some(signed) = shared.ca.sign(&map) else {
        tracing::error!(nodes = map.nodes().len(), "the map is too large to be published; the old one stays");
        shared.is_map_too_large.store(true, Ordering::Relaxed);
        return;
    };
    let (state, bytes) = (shared.state.clone(), signed.encode());
    let before = shared.published.borrow().as_ref().map(|published| published.map.clone());
    let delta = before.and_then(|before| {
        let delta = MapDelta::between(&before, &map, &signed).encode()?;
        (delta.len() < bytes.len()).then_some((before.epoch(), delta))
    });
    let stored = {
        let bytes = bytes.clone();
        let epoch = map.epoch();
        tokio::task::spawn_blocking(move || state.store_map(&bytes, epoch)).await
    };
    match stored {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "the map can't be stored; the old one stays");
            shared.is_map_too_large.store(error.kind() == io::ErrorKind::FileTooLarge, Ordering::Relaxed);
            return;
        }
        Err(_) => return,
    }
    shared.is_map_too_large.store(false, Ordering::Relaxed);
    let map = Arc::new(map);
    tracing::info!(epoch = map.epoch().0, nodes = map.nodes().len(), "a new map");
    shared.core().published(map.clone());
    shared.published.send_replace(Some(Published { map, signed: bytes, delta }));
}

/// A signed map and what it says.
type StoredMap = (ClusterMap, bytes::Bytes);

/// Decodes and believes a stored map.
fn believe(bytes: bytes::Bytes, keys: &larder_proto::map::TrustedKeys) -> Option<StoredMap> {
    let map = SignedMap::decode(bytes.clone()).and_then(|signed| signed.verify(keys)).ok()?;
    Some((map, bytes))
}
