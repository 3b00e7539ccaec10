//! The newest map, for everybody who asks where something is. Cheap to clone; reading takes no lock.
//!
//! Epochs only rise. A map is written to the state folder before it is used, so that an agent never forgets an epoch it
//! has acted on; of a stored map that can't be verified any more (another CA) only the number is kept, and reported: the
//! authority's epochs go on above it.
//! Beside it lies where nodes are that moved since it was made: agents that restart one after another, without the
//! authority, find each other by that.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use larder_proto::control::{NodeAddress, message, parse_whereabouts, whereabouts_message};
use larder_proto::ids::{ClusterId, Epoch, NodeId, NodeName, Slot};
use larder_proto::limits::{EPOCH_MAX, MAP_BYTES_MAX, MESSAGE_BYTES_MAX, SIGNATURE_BYTES_MAX};
use larder_proto::map::{ClusterMap, MapDelta, MapError, Node, NodeState, SignedMap, TrustedKeys};
use parking_lot::Mutex as Lock;
use prost::Message as _;
use tokio::sync::{Mutex, watch};

use super::whereabouts::{Told, Whereabouts};
use crate::runtime::Runtime;
use crate::runtime::tasks::{Pool, PoolError};

/// The file in the state folder.
const FILE: &str = "map";

/// Beside it: a `Whereabouts` message.
const MOVED_FILE: &str = "whereabouts";

/// A stored map with its signature and head.
const FILE_BYTES_MAX: u64 = (MAP_BYTES_MAX + SIGNATURE_BYTES_MAX + 16) as u64;

/// What became of a map that is consistent and signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// It is the current one now.
    Adopted(Epoch),
    /// The current one is as new, or newer.
    Older,
}

/// Why a map was dropped.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It isn't believed.
    #[error(transparent)]
    Map(#[from] MapError),
    /// It couldn't be stored, so it isn't used either.
    #[error("can't store the map: {0}")]
    State(#[from] std::io::Error),
    /// The state folder's disk is stuck.
    #[error("can't store the map: {0}")]
    Pool(#[from] PoolError),
}

/// Maps that came, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapCounts {
    /// Adopted.
    pub adopted: u64,
    /// Not newer than the current one.
    pub older: u64,
    /// Signed by no trusted key.
    pub forged: u64,
    /// Of another cluster.
    pub foreign: u64,
    /// Not a map, or an inconsistent one.
    pub malformed: u64,
    /// Deltas over another map than the current one.
    pub other_base: u64,
    /// Believed, but not stored and so not used.
    pub not_stored: u64,
}

#[derive(Default)]
struct Counters {
    adopted: AtomicU64,
    older: AtomicU64,
    forged: AtomicU64,
    foreign: AtomicU64,
    malformed: AtomicU64,
    other_base: AtomicU64,
    not_stored: AtomicU64,
}

/// One owner of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its number.
    pub id: NodeId,
    /// Its name, as in its certificate.
    pub name: NodeName,
    /// Where its peer port is, if the map says so.
    pub address: Option<SocketAddr>,
    /// What it does.
    pub state: NodeState,
    /// Whether it is this node.
    pub is_self: bool,
}

struct Held {
    map: Arc<ClusterMap>,
    /// As it is handed to peers; nothing in a simulation.
    signed: Option<Bytes>,
}

struct Inner {
    cluster: ClusterId,
    name: NodeName,
    keys: ArcSwap<TrustedKeys>,
    held: ArcSwapOption<Held>,
    /// Of a stored map that nobody trusted signed.
    former: AtomicU64,
    changed: watch::Sender<Epoch>,
    moved: Lock<Whereabouts>,
    heard: AtomicU64,
    /// Who has said since the last look that it began anew; at most the nodes of the map.
    begun: Lock<BTreeSet<NodeName>>,
    state: Option<State>,
    adopting: Mutex<()>,
    counters: Counters,
}

struct State {
    runtime: Runtime,
    pool: Pool,
    file: PathBuf,
    moved_file: PathBuf,
}

/// The newest map.
#[derive(Clone)]
pub struct MapHolder {
    inner: Arc<Inner>,
}

impl MapHolder {
    /// Begins with the map that the state folder holds, if it is believed.
    pub async fn open(runtime: &Runtime, state: &Path, cluster: ClusterId, name: NodeName, keys: TrustedKeys) -> Self {
        let (disk, file, moved_file) = (runtime.disk.clone(), state.join(FILE), state.join(MOVED_FILE));
        let pool = runtime.tasks.pool("state", 1, 16);
        let (folder, path, moved_path) = (state.to_owned(), file.clone(), moved_file.clone());
        let stored = pool
            .run(move || {
                disk.create_dir_all(&folder)?;
                // Whoever can't be found by it is found by the map, or by what others say.
                let moved = disk.read_small(&moved_path, MESSAGE_BYTES_MAX as u64).unwrap_or_default();
                Ok::<_, std::io::Error>((disk.read_small(&path, FILE_BYTES_MAX)?, moved))
            })
            .await;
        let state = State { runtime: runtime.clone(), pool, file, moved_file };
        let holder = Self::with(cluster, name, keys, Some(state));
        match stored {
            Ok(Ok((map, moved))) => {
                holder.resume(map.into());
                holder.resume_moved(&moved);
            }
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
            Ok(Err(error)) => tracing::warn!(%error, "the stored map can't be read; waiting for the authority's"),
            Err(error) => tracing::warn!(%error, "the stored map can't be read; waiting for the authority's"),
        }
        holder
    }

    /// Keeps nothing on disk: for simulations, which adopt their maps directly.
    pub fn in_memory(cluster: ClusterId, name: NodeName, keys: TrustedKeys) -> Self {
        Self::with(cluster, name, keys, None)
    }

    fn with(cluster: ClusterId, name: NodeName, keys: TrustedKeys, state: Option<State>) -> Self {
        let inner = Inner {
            cluster,
            name,
            keys: ArcSwap::from_pointee(keys),
            held: ArcSwapOption::empty(),
            former: AtomicU64::new(0),
            changed: watch::Sender::new(Epoch(0)),
            moved: Lock::default(),
            heard: AtomicU64::new(0),
            begun: Lock::default(),
            state,
            adopting: Mutex::new(()),
            counters: Counters::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    fn resume(&self, bytes: Bytes) {
        match SignedMap::decode(bytes.clone()).and_then(|signed| self.believed(&signed)) {
            Ok(map) => {
                tracing::info!(epoch = map.epoch().0, "going on with the stored map");
                self.hold(map, Some(bytes));
            }
            Err(error) => {
                let claimed = SignedMap::decode(bytes).and_then(|signed| signed.claims()).ok();
                let claimed = claimed.filter(|(cluster, _)| *cluster == self.inner.cluster);
                let former = claimed.map_or(Epoch(0), |(_, epoch)| epoch);
                self.inner.former.store(former.0, Ordering::Relaxed);
                tracing::warn!(%error, former = former.0, "the stored map isn't believed; waiting for the authority's");
            }
        }
    }

    /// Whose maps are believed from now on. The one in use stays.
    pub fn trust(&self, keys: TrustedKeys) {
        self.inner.keys.store(Arc::new(keys));
    }

    /// The epoch of a stored map of this cluster that nobody trusted had signed when this agent began; 0 = none.
    pub fn former_epoch(&self) -> Epoch {
        Epoch(self.inner.former.load(Ordering::Relaxed))
    }

    fn resume_moved(&self, bytes: &[u8]) {
        let known = message::Whereabouts::decode(bytes).ok().and_then(|known| parse_whereabouts(known).ok());
        if let (Some(known), Some(map)) = (known, self.current()) {
            let mut moved = self.inner.moved.lock();
            for said in known {
                moved.hear(&map, Told::ByOthers, said);
            }
        }
    }

    /// Takes in where nodes are; kept for the next start.
    pub fn hear(&self, told: Told, said: impl IntoIterator<Item = NodeAddress>) {
        let Some(map) = self.current() else { return };
        let mut news = false;
        {
            let mut moved = self.inner.moved.lock();
            for said in said {
                if said.node == self.inner.name {
                    continue;
                }
                if told == Told::ByItself && map.node_named(&said.node).is_some() {
                    self.inner.begun.lock().insert(said.node.clone());
                }
                tracing::debug!(node = %said.node, port = said.ports.peer, ?told, "a node is said to be there");
                news |= moved.hear(&map, told, said);
            }
        }
        if news {
            self.keep_moved();
        }
    }

    /// Nodes that have said themselves where they are since the last call, as agents do when they begin.
    pub fn take_begun(&self) -> Vec<NodeName> {
        std::mem::take(&mut *self.inner.begun.lock()).into_iter().collect()
    }

    /// Where nodes are that moved since the map was made.
    pub fn whereabouts(&self) -> Vec<NodeAddress> {
        self.inner.moved.lock().all().cloned().collect()
    }

    /// Keeps what is known for the next start. Not waited for: it is a hint.
    fn keep_moved(&self) {
        let Some(state) = &self.inner.state else { return };
        let (disk, file, pool) = (state.runtime.disk.clone(), state.moved_file.clone(), state.pool.clone());
        let holder = self.clone();
        state.runtime.tasks.spawn(async move {
            // Read where the writes are in order.
            let kept = pool.run(move || {
                let bytes = whereabouts_message(holder.inner.moved.lock().all()).encode_to_vec();
                disk.replace_small(&file, &bytes)
            });
            match kept.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "where peers are can't be kept for the next start"),
                Err(error) => tracing::debug!(%error, "where peers are isn't kept for the next start"),
            }
        });
    }

    /// Takes a map that came from a wire, in the form of `SignedMap::encode`.
    pub async fn adopt_bytes(&self, bytes: Bytes) -> Result<Adoption, AdoptError> {
        match SignedMap::decode(bytes) {
            Ok(signed) => self.adopt(signed).await,
            Err(error) => {
                self.count_refused(&error);
                Err(error.into())
            }
        }
    }

    /// Believes a map if it is signed, of this cluster and newer; stores it, then uses it. Cancel safe: a map that was
    /// stored and not yet used is found again at the next start.
    pub async fn adopt(&self, signed: SignedMap) -> Result<Adoption, AdoptError> {
        let map = self.believed(&signed).inspect_err(|error| self.count_refused(error))?;
        let _one_at_a_time = self.inner.adopting.lock().await;
        self.use_believed(map, signed).await
    }

    /// Takes what changed since the current map, in the form of `MapDelta::encode`. Over any other map than the current
    /// one it is refused; one that leads to no newer map is passed over.
    pub async fn adopt_delta_bytes(&self, bytes: Bytes) -> Result<Adoption, AdoptError> {
        let delta = MapDelta::decode(bytes).inspect_err(|error| self.count_refused(error))?;
        let _one_at_a_time = self.inner.adopting.lock().await;
        let Some(current) = self.current() else {
            let error = MapError::OtherBase(delta.base());
            self.count_refused(&error);
            return Err(error.into());
        };
        if delta.epoch() <= current.epoch() {
            count(&self.inner.counters.older);
            return Ok(Adoption::Older);
        }
        let (map, signed) =
            delta.apply(&current, &self.inner.keys.load()).inspect_err(|error| self.count_refused(error))?;
        self.use_believed(map, signed).await
    }

    /// Stores and uses it, if it is newer; for one caller at a time.
    async fn use_believed(&self, map: ClusterMap, signed: SignedMap) -> Result<Adoption, AdoptError> {
        if map.epoch() <= self.epoch() {
            count(&self.inner.counters.older);
            return Ok(Adoption::Older);
        }
        let bytes = signed.encode();
        if let Err(error) = self.store(bytes.clone()).await {
            count(&self.inner.counters.not_stored);
            return Err(error);
        }
        let epoch = map.epoch();
        self.hold(map, Some(bytes));
        Ok(Adoption::Adopted(epoch))
    }

    /// Uses a map that nobody signed. For simulations, where there is no authority; nothing is stored.
    #[cfg(test)]
    pub fn adopt_unsigned_for_simulation(&self, map: ClusterMap) -> Adoption {
        if map.epoch() <= self.epoch() {
            count(&self.inner.counters.older);
            return Adoption::Older;
        }
        let epoch = map.epoch();
        self.hold(map, None);
        Adoption::Adopted(epoch)
    }

    fn believed(&self, signed: &SignedMap) -> Result<ClusterMap, MapError> {
        let map = signed.verify(&self.inner.keys.load())?;
        if map.cluster() == self.inner.cluster { Ok(map) } else { Err(MapError::WrongCluster(map.cluster())) }
    }

    async fn store(&self, bytes: Bytes) -> Result<(), AdoptError> {
        let Some(state) = &self.inner.state else { return Ok(()) };
        let (disk, file) = (state.runtime.disk.clone(), state.file.clone());
        Ok(state.pool.run(move || disk.replace_small(&file, &bytes)).await??)
    }

    fn hold(&self, map: ClusterMap, signed: Option<Bytes>) {
        let epoch = map.epoch();
        count(&self.inner.counters.adopted);
        if self.inner.moved.lock().adopt(self.current().as_deref(), &map) {
            self.keep_moved();
        }
        self.inner.held.store(Some(Arc::new(Held { map: Arc::new(map), signed })));
        self.inner.changed.send_replace(epoch);
    }

    fn count_refused(&self, error: &MapError) {
        let counters = &self.inner.counters;
        count(match error {
            MapError::Forged => &counters.forged,
            MapError::WrongCluster(_) => &counters.foreign,
            MapError::OtherBase(_) => &counters.other_base,
            MapError::Truncated { .. }
            | MapError::Trailing { .. }
            | MapError::Format
            | MapError::Packed
            | MapError::TooLarge { .. }
            | MapError::Invalid(_)
            | MapError::DuplicateNode(_)
            | MapError::DuplicateOwner { .. }
            | MapError::UnknownNode(_)
            | MapError::Slots(_) => &counters.malformed,
        });
    }

    /// The current map; nothing before the first.
    pub fn current(&self) -> Option<Arc<ClusterMap>> {
        self.inner.held.load().as_ref().map(|held| held.map.clone())
    }

    /// The current map as it is handed to peers.
    pub fn signed(&self) -> Option<Bytes> {
        self.inner.held.load().as_ref().and_then(|held| held.signed.clone())
    }

    /// The current epoch; 0 before the first map.
    pub fn epoch(&self) -> Epoch {
        self.inner.held.load().as_ref().map_or(Epoch(0), |held| held.map.epoch())
    }

    /// Tells each new epoch after the map is in use.
    pub fn changed(&self) -> watch::Receiver<Epoch> {
        self.inner.changed.subscribe()
    }

    /// A peer has said this epoch. Only remembered: the map itself comes signed, from whoever has it.
    pub fn heard_of(&self, epoch: Epoch) {
        if epoch < EPOCH_MAX {
            self.inner.heard.fetch_max(epoch.0, Ordering::Relaxed);
        }
    }

    /// The highest epoch that a peer has said; nothing is believed for it.
    pub fn heard(&self) -> Epoch {
        Epoch(self.inner.heard.load(Ordering::Relaxed))
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.inner.cluster
    }

    /// This node's name.
    pub fn self_name(&self) -> &NodeName {
        &self.inner.name
    }

    /// This node's number, once the map names it.
    pub fn self_id(&self) -> Option<NodeId> {
        self.current()?.node_named(&self.inner.name).map(|node| node.id)
    }

    /// The owners of a slot in the order they are asked; empty before the first map.
    pub fn owners_of(&self, slot: Slot) -> Vec<Owner> {
        let Some(map) = self.current() else { return Vec::new() };
        let owners = map.owners(slot).iter().filter_map(|id| map.node(*id));
        let moved = self.inner.moved.lock();
        let moved_to = |node: &Node| moved.of(&node.name).and_then(|said| said.peer_addresses().next());
        owners
            .map(|node| Owner {
                id: node.id,
                name: node.name.clone(),
                address: moved_to(node).or_else(|| node.peer_address()),
                state: node.state,
                is_self: node.name == self.inner.name,
            })
            .collect()
    }

    /// The name and the peer addresses of a node, in the order in which they are tried: where it moved to comes first.
    pub fn locate(&self, node: NodeId) -> Option<(NodeName, Vec<SocketAddr>)> {
        let map = self.current()?;
        let node = map.node(node)?;
        let moved = self.inner.moved.lock();
        let mut addresses: Vec<SocketAddr> =
            moved.of(&node.name).into_iter().flat_map(NodeAddress::peer_addresses).collect();
        let of_map = node.addresses.iter().filter(|_| node.ports.peer != 0);
        addresses.extend(of_map.map(|address| SocketAddr::new(*address, node.ports.peer)));
        Some((node.name.clone(), addresses))
    }

    /// The other nodes of the map that may have an agent.
    pub fn others(&self) -> Vec<NodeId> {
        self.others_that(|state| !matches!(state, NodeState::Down | NodeState::Gone))
    }

    /// The other nodes that serve, by the map.
    pub fn serving(&self) -> Vec<NodeId> {
        self.others_that(|state| state == NodeState::Serving)
    }

    fn others_that(&self, which: impl Fn(NodeState) -> bool) -> Vec<NodeId> {
        let Some(map) = self.current() else { return Vec::new() };
        let others = map.nodes().iter().filter(|node| node.name != self.inner.name);
        others.filter(|node| which(node.state)).map(|node| node.id).collect()
    }

    /// Whether a node of this name is in the map; leaving it revokes the node's certificate.
    pub fn is_member(&self, name: &NodeName) -> bool {
        self.current().is_some_and(|map| map.node_named(name).is_some())
    }

    /// Maps that came, since the start.
    pub fn counts(&self) -> MapCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.inner.counters;
        MapCounts {
            adopted: read(&counters.adopted),
            older: read(&counters.older),
            forged: read(&counters.forged),
            foreign: read(&counters.foreign),
            malformed: read(&counters.malformed),
            other_base: read(&counters.other_base),
            not_stored: read(&counters.not_stored),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
