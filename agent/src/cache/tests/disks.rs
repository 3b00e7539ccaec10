//! One of a node's disks hangs: what the other one holds, and what the origin holds, is read all the same.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use larder_proto::ids::{ClusterId, Epoch, NodeId, NodeName, Slot};
use larder_proto::map::{ClusterMap, Node, NodeState, Ports, TrustedKeys};
use larder_proto::object::ObjectKey;
use tokio::sync::watch;

use super::*;
use crate::map::{Adoption, MapHolder};
use crate::origin::Volumes;
use crate::origin::sim::MemoryOrigin;
use crate::runtime::disk::{BufferPool, Mood, Moody};
use crate::runtime::net::Identity;
use crate::runtime::net::sim::SimNet;
use crate::runtime::real::SystemRng;
use crate::serve::below::Members;
use crate::store::{StoreConfig, Watermarks};
use crate::world::volume;

const BYTES: usize = CHUNK as usize;

/// A node alone with two real disks, the first of them moody, and memory for eight flights.
struct Rig {
    dir: tempfile::TempDir,
    mood: Arc<Mood>,
    runtime: Runtime,
    stores: Stores,
    cache: Cache,
    origin: MemoryOrigin,
    _volumes: watch::Sender<Volumes>,
}

impl Rig {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mood = Arc::new(Mood::default());
        let config =
            |name: &str| StoreConfig { name: name.into(), path: dir.path().join(name), capacity_bytes: 512 << 20 };
        let configs = ["a", "b"].map(config);
        let cluster = ClusterId::of("default/demo");
        let name = NodeName::parse("n1").expect("a name");
        let address: IpAddr = Ipv4Addr::new(10, 0, 0, 1).into();
        let net = SimNet::new(Arc::new(SystemRng), Duration::ZERO, Duration::ZERO);
        let net = net.node(Identity::Node(cluster, name.clone()), address);
        let disk = Moody { folder: configs[0].path.clone(), mood: mood.clone() };
        let runtime = Runtime { disk: Arc::new(disk), ..Runtime::real(net) };
        let buffers = BufferPool::new(32 << 20);
        let stores = Stores::open(&runtime, buffers, "default/demo", &configs, Watermarks::default());
        let stores = stores.await.expect("the stores open");
        let node = Node {
            id: NodeId(1),
            name: name.clone(),
            addresses: vec![address],
            ports: Ports { peer: 7_000, s3: 0, redis: 0 },
            domain: "n1".into(),
            weight: 1,
            state: NodeState::Serving,
        };
        let owners: Vec<Vec<NodeId>> = Slot::all().map(|_| vec![NodeId(1)]).collect();
        let map = ClusterMap::new(Epoch(1), cluster, vec![node], &owners, Vec::new()).expect("a sound map");
        let maps = MapHolder::in_memory(cluster, name, TrustedKeys::from_spkis([]));
        assert_eq!(maps.adopt_unsigned_for_simulation(map), Adoption::Adopted(Epoch(1)));
        let peers = peer::Client::new(runtime.clone(), Arc::new(Members(maps.clone())));
        let volume = Arc::new(volume());
        let volumes = watch::Sender::new(Arc::new(BTreeMap::from([(volume.id, volume)])));
        let origin = MemoryOrigin::new();
        let origins = Origins::new(runtime.clone(), volumes.subscribe(), Arc::new(origin.clone()));
        let replicator =
            Replicator::new(runtime.clone(), stores.clone(), peers.clone(), Arc::new(maps), volumes.subscribe());
        let cache = Cache::new(runtime.clone(), stores.clone(), peers, origins, replicator, 32 * MIB);
        Self { dir, mood, runtime, stores, cache, origin, _volumes: volumes }
    }

    fn key(n: usize) -> String {
        format!("d/{n}")
    }

    fn put(&self, n: usize) -> Chunk {
        let version = self.origin.put(&Self::key(n), content(&Self::key(n), BYTES));
        let key = ObjectKey::parse(&Self::key(n)).expect("plain");
        let volume = volume();
        let object = Object::new(volume.id, key, version, BYTES as u64, volume.chunk_size).expect("small");
        chunk(&object, 0)
    }

    async fn read(&self, n: usize, chunk: &Chunk) {
        let deadline = self.runtime.clock.now() + Duration::from_secs(30);
        let read = self.cache.read(REQUEST, chunk, ByteRange::at(0, CHUNK), Pattern::Sequential, deadline);
        assert!(read.await.expect("the bytes are somewhere") == content(&Self::key(n), BYTES), "object {n}");
    }

    fn is_on(&self, store: &str, chunk: &Chunk) -> bool {
        let name = chunk.object().id().to_string();
        let objects: PathBuf = self.dir.path().join(store).join("objects");
        objects.join(&name[..2]).join(&name[2..4]).join(&name).exists()
    }

    /// Sixteen objects, on one disk or the other.
    async fn fill(&self) -> Vec<(usize, Chunk)> {
        let all: Vec<(usize, Chunk)> = (0..16).map(|n| (n, self.put(n))).collect();
        for (n, chunk) in &all {
            self.read(*n, chunk).await;
            until("it is stored", || self.stores.has(&chunk.id())).await;
        }
        all
    }

    /// Objects on the second disk, which no memory holds any more.
    async fn known(&self) -> Vec<(usize, Chunk)> {
        let known: Vec<_> = self.fill().await.into_iter().filter(|(_, chunk)| self.is_on("b", chunk)).collect();
        assert!((2..=14).contains(&known.len()), "both disks have some");
        known
    }
}

/// While `hang` says that something hangs on the first disk, cold objects come from the origin and known ones from the
/// second disk: in seconds, most of which pass until the first one is found out.
async fn reads_go_on(rig: &Rig, known: &[(usize, Chunk)]) {
    let cold: Vec<_> = (100..124).map(|n| (n, rig.put(n))).collect();
    let began = std::time::Instant::now();
    let reads = cold.iter().chain(known).map(|(n, chunk)| rig.read(*n, chunk));
    join_all(reads).await;
    assert!(began.elapsed() < Duration::from_secs(20), "nobody waited for a deadline: {:?}", began.elapsed());
    let before = rig.stores.debug()[1].counters.reads;
    for (n, chunk) in known {
        rig.read(*n, chunk).await;
    }
    assert!(rig.stores.debug()[1].counters.reads > before || known.len() < 8, "memory holds eight chunks");
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert!(rig.mood.struck() > 0, "the fault was hit");
}

/// A slow disk that answers is asked before the origin, which costs money.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_only_slow_is_nearer_than_the_origin() {
    let rig = Rig::new().await;
    let on_a: Vec<_> = rig.fill().await.into_iter().filter(|(_, chunk)| rig.is_on("a", chunk)).collect();
    let gets = rig.origin.totals().0;
    rig.mood.read_us.store(250_000, Ordering::Relaxed);
    let read_all = || async {
        while rig.cache.inner.evict_one() {}
        join_all(on_a.iter().map(|(n, chunk)| rig.read(*n, chunk))).await;
    };
    let began = std::time::Instant::now();
    while !rig.stores.is_slow(&on_a[0].1.id()) {
        read_all().await;
        assert!(began.elapsed() < Duration::from_secs(20), "eight slow reads are enough");
    }
    read_all().await;
    assert_eq!(rig.origin.totals().0, gets);
    assert!(rig.stores.is_slow(&on_a[0].1.id()) && rig.mood.struck() > 0, "the fault was hit");
    rig.mood.relent();
}

fn hang(what: &AtomicBool) {
    what.store(true, Ordering::Relaxed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_whose_writes_hang_holds_no_memory_that_others_need() {
    let rig = Rig::new().await;
    let known = rig.known().await;
    hang(&rig.mood.writes_hang);
    reads_go_on(&rig, &known).await;
    rig.mood.relent();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_whose_syncs_hang_holds_no_memory_that_others_need() {
    let rig = Rig::new().await;
    let known = rig.known().await;
    hang(&rig.mood.syncs_hang);
    let mut more = 50..;
    // Whatever the first disk took in is synced within five seconds.
    loop {
        let n = more.next().expect("endless");
        let chunk = rig.put(n);
        rig.read(n, &chunk).await;
        until("it is stored", || rig.stores.has(&chunk.id())).await;
        if rig.is_on("a", &chunk) {
            break;
        }
    }
    until("the sync hangs", || rig.mood.struck() > 0).await;
    reads_go_on(&rig, &known).await;
    rig.mood.relent();
}

/// What has landed and isn't in the store yet is in memory: a reader who comes between would ask the origin again. A store
/// that hangs gets a second for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_what_the_store_does_not_have_yet() {
    let rig = Rig::new().await;
    hang(&rig.mood.writes_hang);
    let forget_all = || while rig.cache.inner.evict_one() {};
    let (mut looked, mut n) = (false, 0);
    while !looked {
        n += 1;
        let (chunk, began) = (rig.put(n), std::time::Instant::now());
        rig.read(n, &chunk).await;
        until("the store has it, or hangs", || rig.stores.has(&chunk.id()) || rig.is_on("a", &chunk)).await;
        forget_all();
        let all = ByteRange::at(0, CHUNK);
        let kept = rig.cache.read_now(&chunk, all).is_some();
        // A machine that stands still for a second tells nothing.
        if rig.is_on("a", &chunk) && began.elapsed() < Duration::from_secs(1) {
            assert!(kept, "it is in memory or in the store");
            until("the store has had its second", || rig.cache.inner.evict_one()).await;
            assert!(rig.cache.read_now(&chunk, all).is_none() && !rig.stores.has(&chunk.id()));
            looked = true;
        }
    }
    assert!(rig.mood.struck() > 0, "the fault was hit");
    rig.mood.relent();
}

#[tokio::test]
async fn what_was_brought_ahead_and_given_up_stays_until_the_store_has_it() {
    let rig = Rig::new().await;
    hang(&rig.mood.writes_hang);
    let (mut looked, mut n) = (false, 0);
    while !looked {
        n += 1;
        let (chunk, began) = (rig.put(n), std::time::Instant::now());
        let ahead = rig.cache.prefetch(REQUEST, &chunk).expect("there is memory");
        until("it lands", || ahead.is_landed()).await;
        until("the store has it, or hangs", || rig.stores.has(&chunk.id()) || rig.is_on("a", &chunk)).await;
        let hangs = rig.is_on("a", &chunk);
        drop(ahead);
        let kept = rig.cache.read_now(&chunk, ByteRange::at(0, CHUNK)).is_some();
        // A machine that stands still for a second tells nothing.
        if hangs && began.elapsed() < Duration::from_secs(1) {
            assert!(kept, "its reader closed the file; another would ask the origin again");
            looked = true;
        }
    }
    assert!(rig.mood.struck() > 0, "the fault was hit");
    rig.mood.relent();
}
