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

    /// alice and bob at 10.0.0.1 and 10.0.0.2.
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
        let nodes = vec![node(1, "alice"), node(2, "bob")];
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
    let request = ChunkRequest::whole(RequestId(1), Want::Have, holder.epoch(), chunk("small", 10));
    let mut body = client.read(BOB, &request, soon()).await.expect("an answer");
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
