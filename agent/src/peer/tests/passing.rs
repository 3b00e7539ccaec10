//! Maps passed on from peer to peer.

use larder_proto::ids::Slot;
use larder_proto::map::{ClusterMap, MapKey, Node, NodeState, Ports, SignedMap, TrustedKeys};
use rcgen::{KeyPair, PublicKeyData as _};

use super::*;
use crate::map::MapHolder;
use crate::serve::below::Members as MapMembers;

struct Authority {
    key: MapKey,
    trusted: TrustedKeys,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("entropy");
        Self {
            key: MapKey::from_pkcs8(&key.serialize_der()).expect("P-256"),
            trusted: TrustedKeys::from_spkis([key.subject_public_key_info()]),
        }
    }

    /// alice, bob and carol at 10.0.0.1 to 10.0.0.3.
    fn map(&self, epoch: u64) -> SignedMap {
        let node = |id: u32, name: &str| Node {
            id: NodeId(id),
            name: node_name(name),
            addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(id).expect("small")))],
            ports: Ports { peer: 7000, s3: 0, redis: 0 },
            domain: name.into(),
            weight: 1,
            state: NodeState::Serving,
        };
        let owners: Vec<_> = Slot::all().map(|_| vec![NodeId(1), NodeId(2)]).collect();
        let nodes = vec![node(1, "alice"), node(2, "bob"), node(3, "carol")];
        let map = ClusterMap::new(Epoch(epoch), ClusterId::of("test"), nodes, &owners, Vec::new());
        SignedMap::sign(&map.expect("consistent"), &self.key).expect("small")
    }
}

/// A node that holds a map of this epoch by `authority`, serves, and passes maps on.
async fn start(net: &SimNet, name: &str, address: u8, authority: &Authority, epoch: u64) -> (Client, MapHolder) {
    let identity = Identity::Node(ClusterId::of("test"), node_name(name));
    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, address));
    let runtime = Runtime::sim(epoch, net.node(identity, address), SimDisk::new(1, 1 << 30));
    let holder = MapHolder::in_memory(ClusterId::of("test"), node_name(name), authority.trusted.clone());
    holder.adopt(authority.map(epoch)).await.expect("signed");
    let members = Arc::new(MapMembers(holder.clone()));
    let listener = runtime.net.listen(SocketAddr::new(address, 7000)).await.expect("free");
    let client = Client::new(runtime.clone(), members);
    let server = Server::new(runtime.clone(), client.clone(), Arc::new(Giver::default()), ControlRoutes::new());
    runtime.tasks.spawn(server.serve(listener));
    (client, holder)
}

fn small_net() -> SimNet {
    SimNet::new(Arc::new(SimRng::new(3)), Duration::from_micros(50), Duration::from_micros(200))
}

async fn read(client: &Client, holder: &MapHolder) {
    read_of(client, holder, BOB).await;
}

async fn read_of(client: &Client, holder: &MapHolder, node: NodeId) {
    let request = ChunkRequest::whole(RequestId(1), Want::Have, holder.epoch(), chunk("small", 10));
    let mut body = client.read(node, &request, soon()).await.expect("an answer");
    read_all(&mut body).await.expect("all bytes");
}

#[tokio::test(start_paused = true)]
async fn a_newer_map_comes_from_the_peer_that_has_it() {
    let (net, authority) = (small_net(), Authority::new());
    let (alice, alices) = start(&net, "alice", 1, &authority, 4).await;
    let (_bob, bobs) = start(&net, "bob", 2, &authority, 6).await;
    read(&alice, &alices).await;
    until("alice has bob's map", || alices.epoch() == Epoch(6)).await;

    // And the other way: who is asked learns of the asker's.
    alices.adopt(authority.map(9)).await.expect("signed");
    read(&alice, &alices).await;
    until("bob has alice's map", || bobs.epoch() == Epoch(9)).await;
}

#[tokio::test(start_paused = true)]
async fn a_map_that_nobody_trusted_signed_is_dropped_and_not_asked_for_at_every_request() {
    let (net, authority, forger) = (small_net(), Authority::new(), Authority::new());
    let (alice, alices) = start(&net, "alice", 1, &authority, 4).await;
    let (_bob, bobs) = start(&net, "bob", 2, &forger, 6).await;
    for _ in 0..20 {
        read(&alice, &alices).await;
    }
    until("it is counted", || alices.counts().forged > 0).await;
    assert_eq!((alices.epoch(), bobs.epoch()), (Epoch(4), Epoch(6)));
    assert_eq!(alices.counts().forged, 1);
}

/// carol says an epoch a million ahead with every request, and has no map of it that anybody else believes. bob says once
/// that he has a newer one, while carol is being asked.
#[tokio::test(start_paused = true)]
async fn one_that_lies_about_its_epoch_keeps_nobody_from_being_asked() {
    let (net, authority, forger) = (small_net(), Authority::new(), Authority::new());
    let (alice, alices) = start(&net, "alice", 1, &authority, 4).await;
    let (_bob, bobs) = start(&net, "bob", 2, &authority, 6).await;
    let (carol, carols) = start(&net, "carol", 3, &forger, 1_000_000).await;
    let talk = |count: usize| {
        let (carol, carols) = (carol.clone(), carols.clone());
        async move {
            for _ in 0..count {
                read_of(&carol, &carols, NodeId(1)).await;
            }
        }
    };
    talk(5).await;
    until("she was asked", || alices.counts().forged > 0).await;
    read(&alice, &alices).await;
    let mut spoken = 0;
    while alices.epoch() < Epoch(6) {
        talk(1).await;
        spoken += 1;
        assert!(spoken < 20_000, "bob isn't asked, though his map is newer");
    }
    assert_eq!(alices.epoch(), bobs.epoch());
    assert!(alices.counts().forged <= 2, "they are asked in turn");
    talk(5).await;
    until("she is asked again", || alices.counts().forged > 1).await;
}
