//! The map authority and agents' clients over real TLS on loopback: joining, maps, silence, restarts and impostors.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use larder_agent::map::{
    AdoptError, Adoption, AuthorityClient, AuthorityOptions as AgentOptions, Hooks, MapHolder, NodeIdentity,
};
use larder_agent::runtime::Runtime;
use larder_agent::runtime::net::tls::{Credentials, TlsNet};
use larder_operator::authority::{
    Authority, AuthorityOptions, Ca, FolderLedger, ForeignMap, Ledger, NodeTokens, Shape,
};
use larder_proto::control::{NodeReport, StoreHealth, StoreReport};
use larder_proto::identity::{Identity, Trust};
use larder_proto::ids::{ClusterId, Epoch, NodeId, NodeName, Slot, StoreId, VolumeId};
use larder_proto::map::{ClusterMap, MapDelta, MapError, NodeState, Ports, SignedMap};
use larder_proto::object::ChunkSize;
use larder_proto::volume::{Attributes, Freshness, Keeping, LocalCopies, Origin, Volume};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

const DEADLINE: Duration = Duration::from_secs(20);

fn cluster() -> ClusterId {
    ClusterId::of("default/test")
}

fn name(text: &str) -> NodeName {
    NodeName::parse(text).expect("a name")
}

/// Waits until `condition` gives something.
async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

struct World {
    folder: tempfile::TempDir,
    tokens: Arc<NodeTokens>,
    volumes: watch::Sender<Vec<Volume>>,
}

impl World {
    fn new() -> Self {
        let _installed_by_another_test = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().expect("a folder");
        let tokens = Arc::new(NodeTokens::new());
        for node in ["n1", "n2", "n3"] {
            let token = NodeTokens::random();
            std::fs::write(folder.path().join(format!("{node}.token")), format!("{token}\n")).expect("written");
            tokens.set(name(node), token);
        }
        Self { folder, tokens, volumes: watch::Sender::new(vec![volume()]) }
    }

    fn path(&self, inner: &str) -> PathBuf {
        self.folder.path().join(inner)
    }

    async fn authority(&self, listen: &str) -> Authority {
        let ca = Ca::load_or_create(&self.path("authority")).expect("a CA");
        Authority::start(self.options(listen, ca), self.volumes.subscribe()).await.expect("starts")
    }

    fn options(&self, listen: &str, ca: Ca) -> AuthorityOptions {
        AuthorityOptions {
            cluster: cluster(),
            ca,
            listen: listen.parse().expect("an address"),
            tokens: self.tokens.clone(),
            shape: Shape { min_nodes: 3, replicas: 2 },
            ledger: Arc::new(FolderLedger::open(self.path("authority")).expect("a folder")),
            foreign_map: ForeignMap::Refuse,
            epoch_floor: Epoch(0),
        }
    }

    fn trust(&self) -> Trust {
        Trust::from_pem(&std::fs::read(self.path("authority/ca.pem")).expect("there")).expect("a CA")
    }

    async fn agent(&self, node: &str, token_of: &str, authority: SocketAddr) -> Agent {
        self.agent_at(node, token_of, authority, 7710).await
    }

    async fn agent_at(&self, node: &str, token_of: &str, authority: SocketAddr, peer_port: u16) -> Agent {
        let token = self.path(&format!("{token_of}.token"));
        Agent::start(node, self.trust(), token, &self.path(node), authority, peer_port).await
    }
}

fn volume() -> Volume {
    Volume {
        id: VolumeId::from_bytes([7; 16]),
        namespace: "default".into(),
        name: "data".into(),
        chunk_size: ChunkSize::new(4 << 20).expect("4 MiB"),
        origin: Origin::Local { path: "/srv".into() },
        replicas: Some(2),
        read_ahead_bytes: 1 << 20,
        read_deadline: Duration::from_secs(30),
        freshness: Freshness::Forever,
        attributes: Attributes { uid: 0, gid: 0, file_mode: 0o644, dir_mode: 0o755 },
        local_copies: LocalCopies::Auto,
        keeping: Keeping::default(),
    }
}

struct Agent {
    runtime: Runtime,
    map: MapHolder,
    client: AuthorityClient,
}

impl Agent {
    async fn start(
        node: &str,
        trust: Trust,
        token: PathBuf,
        state: &Path,
        authority: SocketAddr,
        peer_port: u16,
    ) -> Self {
        let own = Identity::Node(cluster(), name(node));
        let net = TlsNet::new(Credentials { cluster: cluster(), trust: trust.clone(), own: None }).expect("no key yet");
        let net = Arc::new(net);
        let runtime = Runtime::real(net.clone());
        let wall_ms = runtime.clock.wall_ms();
        // One that another CA signed is none.
        let identity = NodeIdentity::load(runtime.disk.as_ref(), state, &own, &trust, wall_ms).unwrap_or_default();
        let install = move |identity: Option<&NodeIdentity>, trust: &Trust| {
            let own = identity.map(|identity| (identity.chain(), identity.key()));
            net.replace(Credentials { cluster: cluster(), trust: trust.clone(), own })
        };
        install(identity.as_ref(), &trust).expect("its own key");
        let map = MapHolder::open(&runtime, state, cluster(), name(node), trust.keys().clone()).await;
        let options = AgentOptions {
            address: authority.to_string().into(),
            cluster: cluster(),
            name: name(node),
            trust,
            token,
            state: state.to_owned(),
        };
        let hooks =
            Hooks { report: Box::new(move || report(peer_port)), news: Arc::default(), install: Box::new(install) };
        let client = AuthorityClient::start(runtime.clone(), options, map.clone(), identity, hooks).await;
        Self { runtime, map, client }
    }

    async fn stop(self) {
        self.runtime.tasks.shut_down().await;
    }
}

fn report(peer_port: u16) -> NodeReport {
    NodeReport {
        addresses: vec!["127.0.0.1".parse().expect("v4")],
        ports: Ports { peer: peer_port, s3: 0, redis: 0 },
        began_ms: peer_port.into(),
        stores: vec![StoreReport {
            name: "d0".into(),
            id: StoreId::from_bytes([1; 16]),
            capacity_bytes: 1 << 30,
            used_bytes: 0,
            health: StoreHealth::Ok,
        }],
        ..NodeReport::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_join_miss_a_silent_one_and_outlive_the_authority() {
    let world = World::new();
    let authority = world.authority("127.0.0.1:0").await;
    let at = authority.address();
    let n1 = world.agent("n1", "n1", at).await;
    let n2 = world.agent("n2", "n2", at).await;
    until("two sessions", || (authority.nodes().len() == 2).then_some(())).await;
    assert_eq!(authority.map(), None, "two of three nodes are not enough for the first map");
    let n3 = world.agent("n3", "n3", at).await;

    until("all adopt the first map", || [&n1, &n2, &n3].iter().all(|a| a.map.epoch() == Epoch(1)).then_some(())).await;
    let map = n1.map.current().expect("adopted");
    assert_eq!(map.shares().len(), 3);
    assert_eq!(map.owners(Slot::of_hash(0)).len(), 2);
    assert_eq!(n1.map.self_id(), map.node_named(&name("n1")).map(|node| node.id));
    let volumes = until("the volumes come", || n1.client.volumes().borrow().clone()).await;
    assert_eq!(volumes.values().map(|volume| (**volume).clone()).collect::<Vec<_>>(), vec![volume()]);

    let silent = Instant::now();
    n3.stop().await;
    let suspects = |map: Arc<ClusterMap>| map.node_named(&name("n3")).is_some_and(|n| n.state == NodeState::Suspect);
    until("n3 is suspect", || n1.map.current().filter(|map| suspects(map.clone()))).await;
    assert!(silent.elapsed() < Duration::from_secs(5), "{:?}", silent.elapsed());
    let map = n1.map.current().expect("adopted");
    assert_eq!(map.epoch(), Epoch(2));
    let n3_id = map.node_named(&name("n3")).expect("listed").id;
    assert_eq!((map.shares()[&n3_id].led, map.shares()[&n3_id].owned > 10_000), (0, true));

    authority.stop().await;
    until("the agents notice", || (!*n1.client.connected().borrow()).then_some(())).await;
    assert_eq!(n1.map.epoch(), Epoch(2), "agents go on with their last map");
    let n3 = world.agent("n3", "n3", at).await;
    assert_eq!(n3.map.epoch(), Epoch(1), "it begins with what it had stored");
    assert!(n3.client.volumes().borrow().is_some(), "and with its volumes");

    let authority = world.authority(&at.to_string()).await;
    assert_eq!(authority.epoch(), Some(Epoch(2)), "a restart goes on from the stored map");
    until("n3 serves again", || {
        let map = n2.map.current()?;
        (map.node_named(&name("n3"))?.state == NodeState::Serving && map.shares()[&n3_id].led > 5_000).then_some(())
    })
    .await;
    assert!(n2.map.epoch() > Epoch(2));
    assert_eq!(n3.client.counts().joins, 0, "the stored certificate was good enough");
    assert_eq!(n1.map.counts().forged + n1.map.counts().foreign + n1.map.counts().malformed, 0);
    for agent in [n1, n2, n3] {
        agent.stop().await;
    }
    authority.stop().await;
}

/// The same cluster made again has a new CA; its agents hold maps of the former one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_made_again_goes_on_above_the_epochs_that_its_agents_hold() {
    let world = World::new();
    let authority = world.authority("127.0.0.1:0").await;
    let at = authority.address();
    let mut agents = Vec::new();
    for node in ["n1", "n2", "n3"] {
        agents.push(world.agent(node, node, at).await);
    }
    until("all adopt the first map", || agents.iter().all(|a| a.map.epoch() == Epoch(1)).then_some(())).await;
    // Another epoch, which n3 never sees.
    agents.remove(2).stop().await;
    until("n3 is suspect", || agents.iter().all(|a| a.map.epoch() == Epoch(2)).then_some(())).await;
    for agent in agents.drain(..) {
        agent.stop().await;
    }
    authority.stop().await;

    std::fs::remove_dir_all(world.path("authority")).expect("removed");
    let authority = world.authority("127.0.0.1:0").await;
    for node in ["n3", "n2", "n1"] {
        agents.push(world.agent(node, node, authority.address()).await);
    }
    let all = || agents.iter().all(|agent| agent.map.epoch() == Epoch(3));
    until("all adopt a map above what any of them held", || all().then_some(())).await;
    let former: Vec<Epoch> = agents.iter().map(|agent| agent.map.former_epoch()).collect();
    assert_eq!(former, [Epoch(1), Epoch(2), Epoch(2)]);
    assert!(agents.iter().all(|agent| agent.client.counts().joins == 1), "and have new certificates");
    for agent in agents {
        agent.stop().await;
    }
    authority.stop().await;
}

/// A CA takes another's place while agents talk: they trust both, get new certificates and a new map, then trust one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_ca_takes_the_place_of_the_first_while_agents_go_on() {
    let world = World::new();
    let authority = world.authority("127.0.0.1:0").await;
    let at = authority.address();
    let mut agents = Vec::new();
    for node in ["n1", "n2", "n3"] {
        agents.push(world.agent(node, node, at).await);
    }
    until("all adopt the first map", || agents.iter().all(|a| a.map.epoch() == Epoch(1)).then_some(())).await;
    let (next, key) = Ca::generate().expect("a CA");
    let former = authority.trust_pem().to_owned();
    let (both, only) = (format!("{former}{next}"), next.clone());
    let trust = |pem: &str| Trust::from_pem(pem.as_bytes()).expect("CAs");
    for agent in &agents {
        agent.client.trust(trust(&both)).expect("trusted");
    }
    let digest = trust(&next).digests()[0];
    let trusted = || authority.nodes().iter().filter(|node| node.trusted.contains(&digest)).count() == 3;
    until("all say whom they trust", || trusted().then_some(())).await;
    authority.stop().await;

    let options = world.options(&at.to_string(), Ca::from_pem(next, &key).expect("a CA").trusting(&former));
    let authority = Authority::start(options, world.volumes.subscribe()).await.expect("starts with the former's map");
    until("all have joined anew", || agents.iter().all(|a| a.client.counts().joins == 2).then_some(())).await;
    let newest = until("a map of the new CA", || authority.epoch().filter(|epoch| *epoch > Epoch(1))).await;
    until("all have it", || agents.iter().all(|a| a.map.epoch() == newest).then_some(())).await;
    for agent in &agents {
        agent.client.trust(trust(&only)).expect("trusted");
        let signed = SignedMap::decode(agent.map.signed().expect("held")).expect("whole");
        assert!(signed.verify(trust(&only).keys()).is_ok(), "who trusts only the new one believes it");
        assert!(signed.verify(trust(&former).keys()).is_err());
    }
    for agent in agents {
        agent.stop().await;
    }
    authority.stop().await;
}

/// Placement isn't address: whoever moved is found without another epoch, also by those who were away meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_come_back_elsewhere_make_no_epoch() {
    let world = World::new();
    let authority = world.authority("127.0.0.1:0").await;
    let at = authority.address();
    let mut agents = Vec::new();
    for node in ["n1", "n2", "n3"] {
        agents.push(world.agent(node, node, at).await);
    }
    until("all adopt the first map", || agents.iter().all(|a| a.map.epoch() == Epoch(1)).then_some(())).await;
    for agent in agents.drain(..) {
        agent.stop().await;
    }
    for (node, port) in [("n1", 7801), ("n2", 7802), ("n3", 7803)] {
        agents.push(world.agent_at(node, node, at, port).await);
    }
    let port_of = |agent: &Agent, id: u32| agent.map.locate(NodeId(id)).map(|(_, at)| at[0].port());
    let ids = ["n1", "n2", "n3"].map(|node| {
        let map = authority.map().expect("published");
        map.node_named(&name(node)).expect("listed").id.0
    });
    until("each knows where the others are", || {
        let knows = |own: usize, other: usize| port_of(&agents[own], ids[other]) == Some(7801 + other as u16);
        [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)].iter().all(|(own, other)| knows(*own, *other)).then_some(())
    })
    .await;
    assert_eq!(authority.epoch(), Some(Epoch(1)));

    // Kept for a start without the authority.
    authority.stop().await;
    agents.remove(0).stop().await;
    until("it was kept", || std::fs::metadata(world.path("n1/whereabouts")).ok()).await;
    let again = world.agent_at("n1", "n1", at, 7801).await;
    assert_eq!((port_of(&again, ids[1]), port_of(&again, ids[2])), (Some(7802), Some(7803)));
    again.stop().await;
    for agent in agents {
        agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_opens_nothing() {
    let world = World::new();
    let authority = world.authority("127.0.0.1:0").await;
    let impostor = world.agent("n1", "n2", authority.address()).await;
    let stranger = world.agent("n9", "n1", authority.address()).await;
    until("both are refused twice", || {
        (impostor.client.counts().failures >= 2 && stranger.client.counts().failures >= 2).then_some(())
    })
    .await;
    for agent in [&impostor, &stranger] {
        assert_eq!((agent.client.counts().joins, agent.client.counts().sessions), (0, 0));
    }
    assert!(authority.nodes().is_empty());
    assert!(!world.path("n1/identity.pem").exists(), "no certificate was issued");
    impostor.stop().await;
    stranger.stop().await;
    authority.stop().await;
}

/// A token that was copied makes no second node: there is one id, and whoever came last speaks for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_node_twice_is_one_node_and_the_newer_session_counts() {
    let world = World::new();
    let authority = world.authority("127.0.0.1:0").await;
    let first = world.agent_at("n1", "n1", authority.address(), 7801).await;
    until("it reports", || (authority.nodes().len() == 1).then_some(())).await;
    let (token, elsewhere) = (world.path("n1.token"), world.path("copy"));
    let copy = Agent::start("n1", world.trust(), token, &elsewhere, authority.address(), 7802).await;
    until("the newer one speaks", || authority.nodes().iter().any(|node| node.ports.peer == 7802).then_some(())).await;
    until("the older one is told", || (first.client.counts().failures > 0).then_some(())).await;
    let nodes = authority.nodes();
    assert_eq!(nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [NodeId(1)]);
    first.stop().await;
    until("the last one has it", || {
        (authority.nodes()[0].ports.peer == 7802 && *copy.client.connected().borrow()).then_some(())
    })
    .await;
    copy.stop().await;
    authority.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_without_a_certificate_leads_to_a_join() {
    let world = World::new();
    let authority = world.authority("127.0.0.1:0").await;
    let first = world.agent("n1", "n1", authority.address()).await;
    until("it joins", || (first.client.counts().sessions == 1).then_some(())).await;
    first.stop().await;
    authority.remove(&name("n1")).expect("stored");
    let again = world.agent("n1", "n1", authority.address()).await;
    until("it joins anew", || (again.client.counts().joins == 1).then_some(())).await;
    assert_eq!(again.client.counts().failures, 1, "its old certificate was refused first");
    let node = until("it reports", || authority.nodes().first().map(|node| node.id)).await;
    assert_eq!(node, NodeId(2), "an id is never reused");
    again.stop().await;
    authority.stop().await;
}

/// A ledger with room for ids and for no map.
struct Narrow(FolderLedger);

impl Ledger for Narrow {
    fn place(&self) -> String {
        self.0.place()
    }

    fn load_ids(&self) -> std::io::Result<Option<Vec<u8>>> {
        self.0.load_ids()
    }

    fn load_map(&self) -> std::io::Result<Option<Vec<u8>>> {
        self.0.load_map()
    }

    fn store_ids(&self, ids: &[u8]) -> std::io::Result<()> {
        self.0.store_ids(ids)
    }

    fn store_map(&self, _signed: &[u8], _epoch: Epoch) -> std::io::Result<()> {
        Err(std::io::ErrorKind::FileTooLarge.into())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_map_that_is_too_large_is_not_published_and_said() {
    let world = World::new();
    let ca = Ca::load_or_create(&world.path("authority")).expect("a CA");
    let narrow = Narrow(FolderLedger::open(world.path("authority")).expect("a folder"));
    let options = AuthorityOptions { ledger: Arc::new(narrow), ..world.options("127.0.0.1:0", ca) };
    let authority = Authority::start(options, world.volumes.subscribe()).await.expect("starts");
    assert!(!authority.is_map_too_large());
    let mut agents = Vec::new();
    for node in ["n1", "n2", "n3"] {
        agents.push(world.agent(node, node, authority.address()).await);
    }
    until("it is said", || authority.is_map_too_large().then_some(())).await;
    assert_eq!(authority.map(), None);
    assert!(agents.iter().all(|agent| agent.map.current().is_none()), "nobody has what isn't stored");
    for agent in agents {
        agent.stop().await;
    }
    authority.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_and_foreign_maps_are_dropped_and_counted() {
    let world = World::new();
    let ours = Ca::load_or_create(&world.path("authority")).expect("a CA");
    let theirs = Ca::ephemeral().expect("a CA");
    let holder = MapHolder::in_memory(cluster(), name("n1"), world.trust().keys().clone());
    let map = |cluster, epoch| {
        let nobody: Vec<Vec<NodeId>> = vec![Vec::new(); 16_384];
        ClusterMap::new(Epoch(epoch), cluster, Vec::new(), &nobody, Vec::new()).expect("consistent")
    };
    let forged = theirs.sign(&map(cluster(), 9)).expect("small");
    assert!(matches!(holder.adopt(forged).await, Err(AdoptError::Map(MapError::Forged))));
    let foreign = ours.sign(&map(ClusterId::of("other/cluster"), 9)).expect("small");
    assert!(matches!(holder.adopt(foreign).await, Err(AdoptError::Map(MapError::WrongCluster(_)))));
    assert!(holder.adopt_bytes(bytes::Bytes::from_static(b"LMAP\x01\x48")).await.is_err());
    let mut bent = ours.sign(&map(cluster(), 9)).expect("small").encode().to_vec();
    bent[20] ^= 1;
    assert!(matches!(holder.adopt_bytes(bent.into()).await, Err(AdoptError::Map(MapError::Forged))));
    assert_eq!(holder.current(), None);
    for epoch in [3, 2, 3] {
        holder.adopt(ours.sign(&map(cluster(), epoch)).expect("small")).await.expect("believed");
    }
    let counts = holder.counts();
    assert_eq!((counts.forged, counts.foreign, counts.malformed), (2, 1, 1));
    assert_eq!((counts.adopted, counts.older, holder.epoch()), (1, 2, Epoch(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delta_is_taken_only_over_the_very_map_that_it_was_made_over() {
    let world = World::new();
    let ours = Ca::load_or_create(&world.path("authority")).expect("a CA");
    let theirs = Ca::ephemeral().expect("a CA");
    let holder = MapHolder::in_memory(cluster(), name("n1"), world.trust().keys().clone());
    let nobody: Vec<Vec<NodeId>> = vec![Vec::new(); 16_384];
    let map = |epoch| ClusterMap::new(Epoch(epoch), cluster(), Vec::new(), &nobody, Vec::new()).expect("consistent");
    let delta = |ca: &Ca, from, to| {
        let signed = ca.sign(&map(to)).expect("small");
        MapDelta::between(&map(from), &map(to), &signed).encode().expect("small")
    };
    let refused = holder.adopt_delta_bytes(delta(&ours, 1, 2)).await;
    assert!(matches!(refused, Err(AdoptError::Map(MapError::OtherBase(Epoch(1))))), "there is no map yet");
    holder.adopt(ours.sign(&map(3)).expect("small")).await.expect("believed");
    let refused = holder.adopt_delta_bytes(delta(&ours, 4, 5)).await;
    assert!(matches!(refused, Err(AdoptError::Map(MapError::OtherBase(Epoch(4))))));
    let refused = holder.adopt_delta_bytes(delta(&theirs, 3, 4)).await;
    assert!(matches!(refused, Err(AdoptError::Map(MapError::Forged))));
    assert!(holder.adopt_delta_bytes(bytes::Bytes::from_static(b"LMAD\x01\x48")).await.is_err());
    assert_eq!(holder.adopt_delta_bytes(delta(&ours, 1, 2)).await.expect("passed over"), Adoption::Older);
    assert_eq!(holder.adopt_delta_bytes(delta(&ours, 3, 4)).await.expect("believed"), Adoption::Adopted(Epoch(4)));
    let passed_on = SignedMap::decode(holder.signed().expect("held")).expect("whole");
    assert_eq!(passed_on.verify(world.trust().keys()), Ok(map(4)));
    let counts = holder.counts();
    assert_eq!((counts.adopted, counts.older, counts.other_base), (2, 1, 2));
    assert_eq!((counts.forged, counts.malformed), (1, 1));
}
