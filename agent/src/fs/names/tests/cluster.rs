use std::collections::BTreeSet;

use larder_proto::wire::{ChunkRequest, PutRequest};

use super::*;
use crate::fs::Names as _;
use crate::peer::{ChunkBody, Handler, PutBody, Server};
use crate::serve::below::Members;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const PORT: u16 = 7_701;

/// Has no chunks.
struct Empty;

#[async_trait]
impl Handler for Empty {
    async fn chunk(&self, _: &NodeName, _: ChunkRequest) -> Result<Box<dyn ChunkBody>, ErrorKind> {
        Err(ErrorKind::NotHere)
    }

    async fn keep(&self, _from: &NodeName, _request: ChunkRequest) -> Result<(), ErrorKind> {
        Err(ErrorKind::NotHere)
    }

    fn keeps(&self, _request: &ChunkRequest) -> Result<(), ErrorKind> {
        Err(ErrorKind::NotHere)
    }

    async fn put(&self, _: &NodeName, _: PutRequest, _: &mut PutBody) -> Result<(), ErrorKind> {
        Err(ErrorKind::NoSpace)
    }
}

struct Cluster {
    net: SimNet,
    memory: MemoryOrigin,
    homes: Vec<Homes>,
}

fn address(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, number))
}

fn identity(number: usize) -> Identity {
    Identity::Node(ClusterId::of("test"), NodeName::parse(NODES[number]).expect("a name"))
}

/// Each slot's lead is node `slot % 3`, the next owner the one after it.
fn map() -> ClusterMap {
    let nodes = (1u32..).zip(NODES).map(|(id, name)| Node {
        id: NodeId(id),
        name: NodeName::parse(name).expect("a name"),
        addresses: vec![address(u8::try_from(id).expect("small"))],
        ports: Ports { peer: PORT, s3: 0, redis: 0 },
        domain: name.into(),
        weight: 1,
        state: NodeState::Serving,
    });
    let owner = |slot: Slot, place: usize| NodeId(u32::try_from((slot.index() + place) % 3).expect("small") + 1);
    let owners: Vec<Vec<NodeId>> = Slot::all().map(|slot| vec![owner(slot, 0), owner(slot, 1)]).collect();
    ClusterMap::new(Epoch(1), ClusterId::of("test"), nodes.collect(), &owners, Vec::new()).expect("a map")
}

impl Cluster {
    async fn new() -> Self {
        let net = SimNet::new(Arc::new(SimRng::new(7)), Duration::from_micros(50), Duration::from_micros(200));
        let memory = MemoryOrigin::new();
        let mut homes = Vec::new();
        for (number, name) in NODES.into_iter().enumerate() {
            let at = address(u8::try_from(number + 1).expect("small"));
            let disk = SimDisk::new(number as u64, 1 << 20);
            let runtime = Runtime::sim(number as u64, net.node(identity(number), at), disk);
            let name = NodeName::parse(name).expect("a name");
            let holder = MapHolder::in_memory(ClusterId::of("test"), name, TrustedKeys::from_spkis([]));
            holder.adopt_unsigned_for_simulation(map());
            let peers = Client::new(runtime.clone(), Arc::new(Members(holder.clone())));
            let origins = origins(&runtime, &memory);
            let these = Homes::new(runtime.clone(), holder, peers.clone(), origins, &NameRoom::new(2 << 20));
            let server = Server::new(runtime.clone(), peers, Arc::new(Empty), these.routes(ControlRoutes::new()));
            let listener = runtime.net.listen(SocketAddr::new(at, PORT)).await.expect("listens");
            runtime.tasks.spawn(server.serve(listener));
            homes.push(these);
        }
        Self { net, memory, homes }
    }

    /// A directory whose home is this node.
    fn dir_of(&self, number: usize) -> DirPath {
        let mut all = (0..).map(|n| dir(&format!("d{n}")));
        all.find(|dir| dir.slot(id()).index() % 3 == number).expect("a third of them")
    }

    async fn list(&self, by: usize, dir: &DirPath) -> Result<Vec<String>, ErrorKind> {
        let (mut all, mut from) = (Vec::new(), None);
        loop {
            let part = self.homes[by].list(id(), dir, from.as_ref(), MINUTE, soon()).await?.value;
            all.extend(shown(&part));
            from = part.next;
            if from.is_none() {
                return Ok(all);
            }
        }
    }

    async fn look(&self, by: usize, dir: &DirPath, text: &str) -> Result<Looked, ErrorKind> {
        Ok(self.homes[by].lookup(id(), dir, &name(text), MINUTE, soon()).await?.value)
    }
}

#[tokio::test(start_paused = true)]
async fn everybody_asks_the_home_and_the_home_asks_once() {
    let cluster = Cluster::new().await;
    cluster.memory.set_latency(Duration::from_millis(20));
    let home = cluster.dir_of(0);
    for n in 0..2_500 {
        cluster.memory.put(&format!("{}/{n:04}", home.as_str()), "1");
    }
    let lists = futures::future::join_all((0..30).map(|n| cluster.list(n % 3, &home))).await;
    for listed in lists {
        let names: BTreeSet<_> = listed.expect("lists").into_iter().collect();
        assert_eq!(names.len(), 2_500);
    }
    assert_eq!(cluster.memory.totals(), (0, 0, 3), "three pages, once for three nodes");
    for by in 0..3 {
        assert!(matches!(cluster.look(by, &home, "0042").await, Ok(Looked::File(info)) if info.size == 1));
        assert_eq!(cluster.look(by, &home, "none").await, Ok(Looked::Absent));
    }
    assert_eq!(cluster.memory.totals(), (0, 0, 3));
    assert!(cluster.homes[1].counts().remote > 0 && cluster.homes[0].counts().remote == 0);
}

#[tokio::test(start_paused = true)]
async fn answers_from_afar_carry_their_age() {
    let cluster = Cluster::new().await;
    let home = cluster.dir_of(1);
    cluster.memory.put(&format!("{}/f", home.as_str()), "1");
    let asked = Instant::now();
    assert!(cluster.look(1, &home, "f").await.is_ok());
    tokio::time::advance(Duration::from_secs(40)).await;
    let answer = cluster.homes[0].lookup(id(), &home, &name("f"), MINUTE, soon()).await.expect("an answer");
    assert!(answer.as_of <= asked + Duration::from_millis(2), "as of when the home asked");
    assert!(answer.as_of.elapsed() < Duration::from_secs(41));
}

#[tokio::test(start_paused = true)]
async fn without_its_home_the_next_owner_answers_then_the_origin() {
    let cluster = Cluster::new().await;
    let home = cluster.dir_of(1);
    cluster.memory.put(&format!("{}/f", home.as_str()), "1");
    cluster.net.kill(&identity(1));
    let began = Instant::now();
    assert_eq!(cluster.list(0, &home).await, Ok(vec!["f".to_owned()]));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(cluster.homes[0].counts().next_owner, 1, "node 3 is the slot's next owner");
    assert_eq!(cluster.homes[2].counts().home.listings, 1);
    cluster.net.kill(&identity(2));
    tokio::time::advance(MINUTE).await;
    assert!(matches!(cluster.look(0, &home, "f").await, Ok(Looked::File(_))));
    assert_eq!(cluster.homes[0].counts().by_itself, 1);
    assert!(cluster.net.refused() > 0);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_final_and_an_unreachable_origin_is_tried_from_here() {
    let cluster = Cluster::new().await;
    let home = cluster.dir_of(1);
    cluster.memory.set_down(Some(OriginError::AccessDenied));
    assert_eq!(cluster.look(0, &home, "f").await, Err(ErrorKind::AccessDenied));
    let asked = cluster.memory.totals();
    assert_eq!((asked.1 + asked.2, cluster.homes[0].counts().by_itself), (2, 0), "nobody else was asked");
    cluster.memory.set_down(Some(OriginError::Unreachable(crate::origin::Unreachable::Connect)));
    assert_eq!(cluster.look(0, &home, "g").await, Err(ErrorKind::OriginUnreachable));
    assert_eq!(cluster.homes[0].counts().by_itself, 1);
}
