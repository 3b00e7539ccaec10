//! Agents that come back somewhere else, and find each other without another epoch.

use larder_proto::control::message::peers_client::PeersClient;
use larder_proto::ids::Slot;
use larder_proto::map::{ClusterMap, Node, NodeState, Ports, TrustedKeys};

use super::*;
use crate::map::{MapHolder, Told};
use crate::serve::below::Members as MapMembers;

const NAMES: [&str; 3] = ["alice", "bob", "carol"];

/// The three of them, all at port 7000 of 10.0.0.1 to 10.0.0.3.
fn map(states: [NodeState; 3]) -> ClusterMap {
    let node = |(id, (name, state)): (u32, (&str, NodeState))| Node {
        id: NodeId(id),
        name: node_name(name),
        addresses: vec![address(id)],
        ports: Ports { peer: 7000, s3: 0, redis: 0 },
        domain: name.into(),
        weight: 1,
        state,
    };
    let nodes = (1..).zip(NAMES.into_iter().zip(states)).map(node).collect();
    let owners: Vec<_> = Slot::all().map(|_| vec![NodeId(1), NodeId(2)]).collect();
    ClusterMap::new(Epoch(1), ClusterId::of("test"), nodes, &owners, Vec::new()).expect("consistent")
}

fn address(id: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(id).expect("small")))
}

fn said(id: u32, port: u16, began_ms: u64) -> NodeAddress {
    let ports = Ports { peer: port, s3: 0, redis: 0 };
    NodeAddress { node: node_name(NAMES[id as usize - 1]), addresses: vec![address(id)], ports, began_ms }
}

struct Agent {
    id: u32,
    identity: Identity,
    client: Client,
    holder: MapHolder,
}

impl Agent {
    /// Serves at `port`.
    async fn start(net: &SimNet, id: u32, port: u16) -> Self {
        let name = node_name(NAMES[id as usize - 1]);
        let identity = Identity::Node(ClusterId::of("test"), name.clone());
        net.revive(&identity);
        let runtime = Runtime::sim(id.into(), net.node(identity.clone(), address(id)), SimDisk::new(1, 1 << 30));
        let holder = MapHolder::in_memory(ClusterId::of("test"), name, TrustedKeys::from_spkis([]));
        holder.adopt_unsigned_for_simulation(map([NodeState::Serving; 3]));
        let members = Arc::new(MapMembers(holder.clone()));
        let listener = runtime.net.listen(SocketAddr::new(address(id), port)).await.expect("free");
        let client = Client::new(runtime.clone(), members.clone());
        let routes = announcements(ControlRoutes::new(), members);
        let server = Server::new(runtime.clone(), client.clone(), Arc::new(Giver::default()), routes);
        runtime.tasks.spawn(server.serve(listener));
        Self { id, identity, client, holder }
    }

    fn announce(&self, port: u16, began_ms: u64) -> Meeting {
        self.client.announce(said(self.id, port, began_ms), self.holder.changed())
    }

    /// Where it looks for a node first.
    fn port_of(&self, id: u32) -> u16 {
        self.holder.locate(NodeId(id)).expect("in the map").1[0].port()
    }
}

fn small_net() -> SimNet {
    SimNet::new(Arc::new(SimRng::new(3)), Duration::from_micros(50), Duration::from_micros(200))
}

#[tokio::test(start_paused = true)]
async fn agents_that_restart_one_after_another_find_each_other_without_an_epoch() {
    let net = small_net();
    let (alice, bob) = (Agent::start(&net, 1, 7000).await, Agent::start(&net, 2, 7000).await);
    let carol = Agent::start(&net, 3, 7000).await;
    net.kill(&alice.identity);
    let alice = Agent::start(&net, 1, 7101).await;
    let meeting = alice.announce(7101, 1);
    until("alice has reached both", || meeting.is_over()).await;
    assert_eq!((bob.port_of(1), carol.port_of(1)), (7101, 7101));

    net.kill(&bob.identity);
    let bob = Agent::start(&net, 2, 7102).await;
    assert_eq!(bob.port_of(1), 7000, "it has only the map");
    let meeting = bob.announce(7102, 2);
    assert_eq!(meeting.unmet(), [], "nobody was asked yet");
    until("bob has reached both, alice where carol said", || meeting.is_over()).await;
    assert_eq!((bob.port_of(1), alice.port_of(2), carol.port_of(2)), (7101, 7102, 7102));
    assert!(net.refused() > 0, "alice's old port was tried");
    let request = ChunkRequest::whole(RequestId(1), Want::Have, Epoch(1), chunk("small", 10));
    let mut body = bob.client.read(NodeId(1), &request, soon()).await.expect("alice answers");
    read_all(&mut body).await.expect("all bytes");
    assert_eq!([&alice, &bob, &carol].map(|agent| agent.holder.epoch()), [Epoch(1); 3]);
}

#[tokio::test(start_paused = true)]
async fn agents_that_all_moved_wait_for_each_other_until_somebody_says_where() {
    let net = small_net();
    let (alice, bob) = (Agent::start(&net, 1, 7101).await, Agent::start(&net, 2, 7102).await);
    let meeting = alice.announce(7101, 1);
    until("alice knows that she hasn't met them", || meeting.unmet() == [NodeId(2), NodeId(3)]).await;
    assert!(!meeting.is_over());
    // As the authority does.
    alice.holder.hear(Told::ByOthers, [said(2, 7102, 1)]);
    let told = Instant::now();
    until("alice has met bob", || meeting.unmet() == [NodeId(3)]).await;
    assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
    assert_eq!(bob.port_of(1), 7101);
    until("carol is taken for dead", || meeting.is_over()).await;
    assert!(told.elapsed() > Duration::from_secs(8), "{:?}", told.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_node_that_the_map_calls_suspect() {
    let net = small_net();
    let (alice, _bob) = (Agent::start(&net, 1, 7000).await, Agent::start(&net, 2, 7000).await);
    let mut next = map([NodeState::Serving, NodeState::Serving, NodeState::Suspect]);
    next = next.at_epoch(Epoch(2)).expect("small");
    alice.holder.adopt_unsigned_for_simulation(next);
    let (meeting, began) = (alice.announce(7000, 1), Instant::now());
    until("alice has met whoever serves", || meeting.is_over()).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_peer_asked_in_vain_is_found_again_though_nobody_asks_it() {
    let net = small_net();
    let (alice, bob) = (Agent::start(&net, 1, 7000).await, Agent::start(&net, 2, 7000).await);
    let _carol = Agent::start(&net, 3, 7000).await;
    let meeting = alice.announce(7000, 1);
    until("alice has met both", || meeting.is_over()).await;
    net.cut(&bob.identity, &alice.identity);
    let request = ChunkRequest::whole(RequestId(1), Want::Have, Epoch(1), chunk("small", 10));
    let began = Instant::now();
    let failed = alice.client.read(NodeId(2), &request, soon()).await.err().expect("bob is not heard");
    assert!(failed.is_unreachable(), "{failed}");
    assert!(began.elapsed() < Duration::from_millis(800), "{:?}", began.elapsed());
    assert_eq!(alice.client.unreachable(), [NodeId(2)], "one silence is enough");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(alice.client.unreachable(), [NodeId(2)], "and stays known as long as it lasts");
    net.heal();
    until("bob is found again", || alice.client.unreachable().is_empty()).await;
    assert!(net.cut_short() > 3, "{} tries", net.cut_short());
}

#[tokio::test(start_paused = true)]
async fn a_node_speaks_for_itself_only() {
    let net = small_net();
    let (alice, bob) = (Agent::start(&net, 1, 7000).await, Agent::start(&net, 2, 7000).await);
    let channel = alice.client.control(NodeId(2)).expect("known");
    let refused = PeersClient::new(channel).announce(said(3, 6666, 9).to_message()).await.expect_err("not carol");
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert_eq!(bob.port_of(3), 7000);
}
