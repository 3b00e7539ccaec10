//! Three agents in one process, for tests: the real parts above a simulated net, seeded disks and an origin in memory.
//!
//! Nothing here decides what is right; a test drives the world and looks. Slot `s` belongs to the nodes `s mod 3` and
//! `(s + 1) mod 3`, so every node leads a third. A killed node loses its tasks, its connections and, with
//! [`Ending::PowerFails`], what its disk had not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_proto::control::NodeAddress;
use larder_proto::ids::{ClusterId, Epoch, NodeId, NodeName, Slot, VolumeId};
use larder_proto::map::{ClusterMap, Handover, Node, NodeState, Ports, TrustedKeys};
use larder_proto::object::{ChunkSize, Object, ObjectKey};
use larder_proto::placement::{Facts, NodeFact, next_map};
use larder_proto::volume::{Attributes, Freshness, Keeping, LocalCopies, Origin, Volume};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cache::Cache;
use crate::fs::names::Homes;
use crate::fs::{Below, CachedOnly, Fs, NameRoom, Numbers};
use crate::map::MapHolder;
use crate::origin::sim::MemoryOrigin;
use crate::origin::{Origins, Volumes};
use crate::peer::{Client, ControlRoutes, Server, announcements};
use crate::replica::Replicator;
use crate::runtime::clock::SimClock;
use crate::runtime::disk::{BufferPool, Disk, SimDisk};
use crate::runtime::net::Identity;
use crate::runtime::net::sim::SimNet;
use crate::runtime::sim::SimRng;
use crate::runtime::{Clock, Rng, Runtime};
use crate::serve::below::{Bytewise, Members};
use crate::store::{StoreConfig, Stores, Watermarks};

mod cuts;
mod directories;
mod handovers;
mod simulation;
mod storm;

/// The chunk size of the world's volume.
pub const CHUNK: u64 = 4 << 20;

/// Nodes of most worlds.
const NODES: u32 = 3;
const COPIES: usize = 2;
const PEER_PORT: u16 = 7_000;
const DISK_BYTES: u64 = 4 << 30;

/// What a killed node's disk keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything that was written: the process died.
    ProcessDies,
    /// What was synced, and some of the rest.
    PowerFails,
}

/// A node that runs.
pub struct Alive {
    /// Its outside.
    pub runtime: Runtime,
    /// Its stores.
    pub stores: Stores,
    /// Its map.
    pub maps: MapHolder,
    /// Whom it asks.
    pub peers: Client,
    /// Its chunks.
    pub cache: Cache,
    /// The volume's tree.
    pub fs: Arc<Fs>,
}

struct Place {
    identity: Identity,
    name: NodeName,
    address: IpAddr,
    disk: SimDisk,
    clock: Arc<SimClock>,
    alive: Option<Alive>,
    starts: u64,
    /// What its store may hold.
    store_bytes: u64,
}

/// Three agents and an origin.
pub struct World {
    /// The network between them.
    pub net: SimNet,
    /// The origin of the one volume.
    pub origin: MemoryOrigin,
    /// The volume.
    pub volume: Arc<Volume>,
    volumes: watch::Sender<Volumes>,
    cluster: ClusterId,
    seed: u64,
    epoch: u64,
    budget_bytes: u64,
    places: Vec<Place>,
    states: Vec<NodeState>,
    /// The map as the authority's planner made it; nothing: slots belong to nodes as the top of this file says.
    planned: Option<ClusterMap>,
    clock: SimClock,
    began: Instant,
}

impl World {
    /// A world in which every node runs and has the first map.
    pub async fn new(seed: u64) -> Self {
        Self::with_budget(seed, crate::cache::BUDGET_BYTES).await
    }

    /// The same with another bound of each cache's memory.
    pub async fn with_budget(seed: u64, budget_bytes: u64) -> Self {
        Self::with_nodes(seed, budget_bytes, NODES).await
    }

    /// The same with more nodes, the first three of which run. The planner gives the slots to those that serve.
    pub async fn planned(seed: u64, budget_bytes: u64, nodes: u32) -> Self {
        assert!(nodes >= NODES, "the first three run");
        let mut world = Self::with_nodes(seed, budget_bytes, nodes).await;
        world.plan(BTreeSet::new());
        world
    }

    async fn with_nodes(seed: u64, budget_bytes: u64, nodes: u32) -> Self {
        let rng: Arc<dyn Rng> = Arc::new(SimRng::new(seed));
        let net = SimNet::new(rng, Duration::from_micros(50), Duration::from_micros(300));
        let cluster = ClusterId::of("default/demo");
        let volume = Arc::new(volume());
        let volumes = watch::Sender::new(Arc::new(BTreeMap::from([(volume.id, volume.clone())])));
        let place = |number: u32| {
            let name = NodeName::parse(&format!("n{number}")).expect("a name");
            let last = u8::try_from(number).expect("few nodes");
            Place {
                identity: Identity::Node(cluster, name.clone()),
                name,
                address: Ipv4Addr::new(10, 0, 0, last).into(),
                disk: SimDisk::new(seed ^ u64::from(number), DISK_BYTES),
                clock: Arc::new(SimClock::new()),
                alive: None,
                starts: 0,
                store_bytes: DISK_BYTES / 2,
            }
        };
        let places = (1..=nodes).map(place).collect();
        let mut states = vec![NodeState::Serving; NODES as usize];
        states.resize(nodes as usize, NodeState::Joining);
        let origin = MemoryOrigin::new();
        let clock = SimClock::new();
        let began = clock.now();
        let mut world = Self {
            net,
            origin,
            volume,
            volumes,
            cluster,
            seed,
            epoch: 1,
            budget_bytes,
            places,
            states,
            planned: None,
            clock,
            began,
        };
        for index in 0..NODES as usize {
            world.start(index).await;
        }
        world
    }

    /// Puts an object of `len` bytes that depend on its name.
    pub fn put(&self, key: &str, len: usize) -> Arc<Object> {
        let version = self.origin.put(key, content(key, len));
        let key = ObjectKey::parse(key).expect("a plain key");
        Object::new(self.volume.id, key, version, len as u64, self.volume.chunk_size).expect("small")
    }

    /// A node that runs.
    pub fn node(&self, index: usize) -> &Alive {
        self.places[index].alive.as_ref().expect("the test keeps it alive")
    }

    /// How many nodes there may be.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// Whether the node runs.
    pub fn is_alive(&self, index: usize) -> bool {
        self.places[index].alive.is_some()
    }

    /// A node's disk.
    pub fn disk(&self, index: usize) -> &SimDisk {
        &self.places[index].disk
    }

    /// The simulated time.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Simulated time since the world began.
    pub fn since_start(&self) -> Duration {
        self.now() - self.began
    }

    /// GETs at the origin so far.
    pub fn gets(&self) -> u64 {
        self.origin.totals().0
    }

    /// A node that doesn't run gets another disk, an empty one.
    pub fn lose_disk(&mut self, index: usize) {
        let place = &mut self.places[index];
        assert!(place.alive.is_none(), "its agent has it");
        place.disk = SimDisk::new(self.seed ^ 0xd15c ^ place.starts, DISK_BYTES);
    }

    /// Two nodes that don't run have each other's disk from now on.
    pub fn swap_disks(&mut self, a: usize, b: usize) {
        assert!(self.places[a].alive.is_none() && self.places[b].alive.is_none(), "their agents have them");
        let disk = self.places[a].disk.clone();
        self.places[a].disk = std::mem::replace(&mut self.places[b].disk, disk);
    }

    /// What the store of a node may hold from its next start on.
    pub fn shrink(&mut self, index: usize, store_bytes: u64) {
        self.places[index].store_bytes = store_bytes;
    }

    /// Whatever a node says comes this much later.
    pub fn slow(&self, index: usize, by: Duration) {
        self.net.slow(&self.places[index].identity, by);
    }

    /// Two nodes can't reach each other, until the net is [healed](Self::heal).
    pub fn part(&self, a: usize, b: usize) {
        self.net.part(&self.places[a].identity, &self.places[b].identity);
    }

    /// What a node says to another doesn't arrive, and nobody is told, until it is [mended](Self::mend) or the net is
    /// [healed](Self::heal).
    pub fn cut(&self, from: usize, to: usize) {
        self.net.cut(&self.places[from].identity, &self.places[to].identity);
    }

    /// It arrives again.
    pub fn mend(&self, from: usize, to: usize) {
        self.net.mend(&self.places[from].identity, &self.places[to].identity);
    }

    /// Nobody hears the node, and it hears nobody.
    pub fn isolate(&self, node: usize) {
        for other in (0..self.count()).filter(|other| *other != node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// It hears and is heard.
    pub fn rejoin(&self, node: usize) {
        for other in (0..self.count()).filter(|other| *other != node) {
            self.mend(node, other);
            self.mend(other, node);
        }
    }

    /// Of a thousand bursts that the node says, so many are lost at first.
    pub fn lose(&self, node: usize, per_mille: u64) {
        self.net.lose(&self.places[node].identity, per_mille);
    }

    /// The machine's time jumps on one node.
    pub fn jump(&self, node: usize, by_ms: i64) {
        self.places[node].clock.jump(by_ms);
    }

    /// Every two nodes can reach each other again, and no word is lost.
    pub fn heal(&self) {
        self.net.heal();
    }

    /// A node that was silenced by [`stop_after`](Self::stop_after) speaks again.
    pub fn resume(&self, index: usize) {
        self.net.revive(&self.places[index].identity);
    }

    /// The node says so many bytes more, then nothing.
    pub fn stop_after(&self, index: usize, bytes: usize) {
        self.net.stop_after(&self.places[index].identity, bytes);
    }

    /// The operator says what of the volume is kept.
    pub fn set_keeping(&self, keeping: Keeping) {
        let volume = Arc::new(Volume { keeping, ..(*self.volume).clone() });
        self.volumes.send_replace(Arc::new(BTreeMap::from([(volume.id, volume)])));
    }

    /// Kills a node.
    pub async fn kill(&mut self, index: usize, ending: Ending) {
        self.net.kill(&self.places[index].identity);
        if let Some(alive) = self.places[index].alive.take() {
            let tasks = alive.runtime.tasks.clone();
            drop(alive);
            tasks.shut_down().await;
        }
        if ending == Ending::PowerFails {
            self.places[index].disk.crash();
        }
    }

    /// Starts a node, on the disk it had, with the newest map.
    pub async fn start(&mut self, index: usize) {
        let place = &mut self.places[index];
        self.net.revive(&place.identity);
        place.starts += 1;
        let number = index as u64 + 1;
        let seed = self.seed.wrapping_mul(31).wrapping_add(number * 1_000 + place.starts);
        let net = self.net.node(place.identity.clone(), place.address);
        let runtime = Runtime { clock: place.clock.clone(), ..Runtime::sim(seed, net, place.disk.clone()) };
        let buffers = BufferPool::new(32 << 20);
        let config =
            [StoreConfig { name: "nvme0".into(), path: PathBuf::from("/nvme0"), capacity_bytes: place.store_bytes }];
        let stores = Stores::open(&runtime, buffers, "default/demo", &config, Watermarks::default());
        let stores = stores.await.expect("the store opens");
        let maps = MapHolder::in_memory(self.cluster, place.name.clone(), TrustedKeys::from_spkis([]));
        let peers = Client::new(runtime.clone(), Arc::new(Members(maps.clone())));
        let volumes = self.volumes.subscribe();
        let origins = Origins::new(runtime.clone(), volumes.clone(), Arc::new(self.origin.clone()));
        let replicator =
            Replicator::new(runtime.clone(), stores.clone(), peers.clone(), Arc::new(maps.clone()), volumes);
        let cache =
            Cache::new(runtime.clone(), stores.clone(), peers.clone(), origins.clone(), replicator, self.budget_bytes);
        let listener = runtime.net.listen(SocketAddr::new(place.address, PEER_PORT)).await.expect("the port is free");
        let room = NameRoom::new(2 << 20);
        let names = Homes::new(runtime.clone(), maps.clone(), peers.clone(), origins, &room);
        let routes = names.routes(ControlRoutes::new());
        let routes = announcements(routes, Arc::new(Members(maps.clone())));
        let own = NodeAddress {
            node: place.name.clone(),
            addresses: vec![place.address],
            ports: Ports { peer: PEER_PORT, s3: 0, redis: 0 },
            began_ms: runtime.clock.wall_ms(),
        };
        peers.announce(own, maps.changed());
        let server = Server::new(runtime.clone(), peers.clone(), Arc::new(cache.clone()), routes);
        runtime.tasks.spawn(server.serve(listener));
        let state = Path::new("/state");
        place.disk.create_dir_all(state).expect("made");
        let below = Below {
            names: Arc::new(names),
            chunks: Arc::new(Bytewise { cache: cache.clone(), stores: stores.clone() }),
            numbers: Arc::new(Numbers::begin(&place.disk, state).expect("begins")),
            backings: Arc::new(CachedOnly),
            room,
        };
        let fs = Arc::new(Fs::new(runtime.clone(), self.volume.clone(), below));
        place.alive = Some(Alive { runtime, stores, maps, peers, cache, fs });
        self.states[index] = NodeState::Serving;
        self.publish();
    }

    /// The authority says what a node does: a new epoch, at every node that runs.
    pub fn set_state(&mut self, index: usize, state: NodeState) {
        self.states[index] = state;
        self.publish();
    }

    /// The planner makes the map that follows from the nodes' states; `over`: hand-overs that end. Whether there is one.
    pub fn plan(&mut self, over: BTreeSet<Handover>) -> bool {
        let fact = |node: Node| NodeFact { node, joined_ms: 0 };
        let facts = Facts {
            cluster: self.cluster,
            epoch_floor: Epoch(self.epoch),
            width: COPIES as u32,
            min_nodes: 1,
            nodes: self.nodes().into_iter().map(fact).collect(),
            over,
        };
        let next = next_map(self.planned.as_ref(), &facts, 1_000_000).expect("a map can say it");
        let Some(next) = next else { return false };
        self.epoch = next.epoch().0;
        self.planned = Some(next);
        self.hand_out();
        true
    }

    /// The epoch of now.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }

    /// The map of now.
    pub fn current(&self) -> ClusterMap {
        self.map()
    }

    fn publish(&mut self) {
        if self.planned.is_some() {
            if !self.plan(BTreeSet::new()) {
                self.hand_out();
            }
            return;
        }
        self.epoch += 1;
        self.hand_out();
    }

    /// Whoever runs and has an older map gets this one.
    fn hand_out(&self) {
        let map = self.map();
        for alive in self.places.iter().filter_map(|place| place.alive.as_ref()) {
            alive.maps.adopt_unsigned_for_simulation(map.clone());
            assert_eq!(alive.maps.epoch(), Epoch(self.epoch));
        }
    }

    fn nodes(&self) -> Vec<Node> {
        (1u32..)
            .zip(&self.places)
            .zip(&self.states)
            .map(|((number, place), state)| Node {
                id: NodeId(number),
                name: place.name.clone(),
                addresses: vec![place.address],
                ports: Ports { peer: PEER_PORT, s3: 0, redis: 0 },
                domain: place.name.as_str().into(),
                weight: 1,
                state: *state,
            })
            .collect()
    }

    fn map(&self) -> ClusterMap {
        if let Some(planned) = &self.planned {
            return planned.clone();
        }
        let nodes = self.nodes();
        let owners: Vec<Vec<NodeId>> = Slot::all().map(|slot| self.owners(slot)).collect();
        ClusterMap::new(Epoch(self.epoch), self.cluster, nodes, &owners, Vec::new()).expect("a sound map")
    }

    /// The slot's owners: those that don't serve come last.
    fn owners(&self, slot: Slot) -> Vec<NodeId> {
        let first = u32::try_from(slot.index()).expect("small") % NODES;
        let mut owners: Vec<u32> = (0..NODES).map(|step| (first + step) % NODES).take(COPIES).collect();
        owners.sort_by_key(|node| self.states[*node as usize] != NodeState::Serving);
        owners.into_iter().map(|node| NodeId(node + 1)).collect()
    }

    /// Which node (by position) leads the chunk, which owns it besides, and which doesn't.
    pub fn roles(&self, chunk: &larder_proto::object::Chunk) -> (usize, usize, usize) {
        let owners = self.owners(chunk.slot());
        let at = |id: NodeId| usize::try_from(id.0 - 1).expect("small");
        let (lead, second) = (at(owners[0]), at(owners[1]));
        (lead, second, 3 - lead - second)
    }
}

/// The bytes of an object, made from its name: no two objects have a block alike.
pub fn content(key: &str, len: usize) -> Bytes {
    let rng = SimRng::new(key.bytes().fold(7, |hash: u64, byte| hash.wrapping_mul(131).wrapping_add(u64::from(byte))));
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// Waits (on the simulated clock) until `holds`.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("within a minute: {what}");
}

/// The world's volume.
pub fn volume() -> Volume {
    let chunk_size = ChunkSize::new(u32::try_from(CHUNK).expect("4 MiB")).expect("4 MiB");
    Volume {
        id: VolumeId::of("default/demo", "default", "data", "memory", chunk_size),
        namespace: "default".into(),
        name: "data".into(),
        chunk_size,
        origin: Origin::Local { path: "/nowhere".into() },
        replicas: None,
        read_ahead_bytes: 1 << 20,
        read_deadline: Duration::from_secs(30),
        freshness: Freshness::Within(Duration::from_secs(60)),
        attributes: Attributes { uid: 0, gid: 0, file_mode: 0o444, dir_mode: 0o555 },
        local_copies: LocalCopies::Never,
        keeping: Keeping::default(),
    }
}
