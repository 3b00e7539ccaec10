//! Two nodes on a simulated net: what is asked, what is answered, and every bound between them.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use larder_proto::checksum::{Checksummed, block_crcs};
use larder_proto::control::NodeAddress;
use larder_proto::error::ErrorKind;
use larder_proto::ids::{ClusterId, Epoch, NodeId, NodeName, VolumeId};
use larder_proto::limits::BLOCK_BYTES;
use larder_proto::object::{Chunk, ChunkIndex, ChunkSize, Object, ObjectKey, Version};
use larder_proto::range::ByteRange;
use larder_proto::wire::{ChunkRequest, PutRequest, RequestId, Want};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::*;
use crate::runtime::Runtime;
use crate::runtime::disk::SimDisk;
use crate::runtime::net::Identity;
use crate::runtime::net::sim::SimNet;
use crate::runtime::sim::SimRng;

mod announce;
mod asking;
mod bounds;
mod control;
mod hostile;
mod passing;
mod tls;

pub(super) const MIB: u64 = 1 << 20;

/// What a member knows, as a test says.
pub(super) struct Known {
    pub(super) cluster: ClusterId,
    pub(super) epoch: AtomicU64,
    pub(super) nodes: Mutex<BTreeMap<NodeId, (NodeName, SocketAddr)>>,
    pub(super) newer: Mutex<Vec<(NodeName, Epoch)>>,
    pub(super) offered: AtomicUsize,
}

impl Known {
    pub(super) fn of(cluster: &str) -> Arc<Self> {
        Arc::new(Self {
            cluster: ClusterId::of(cluster),
            epoch: AtomicU64::new(5),
            nodes: Mutex::default(),
            newer: Mutex::default(),
            offered: AtomicUsize::new(0),
        })
    }

    pub(super) fn add(&self, id: u32, name: &str, address: SocketAddr) {
        self.nodes.lock().insert(NodeId(id), (node_name(name), address));
    }
}

#[async_trait]
impl Members for Known {
    fn cluster(&self) -> ClusterId {
        self.cluster
    }

    fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Relaxed))
    }

    fn locate(&self, node: NodeId) -> Option<(NodeName, Vec<SocketAddr>)> {
        self.nodes.lock().get(&node).map(|(name, address)| (name.clone(), vec![*address]))
    }

    fn id_of(&self, name: &NodeName) -> Option<NodeId> {
        self.nodes.lock().iter().find(|(_, (known, _))| known == name).map(|(id, _)| *id)
    }

    fn others(&self) -> Vec<NodeId> {
        self.nodes.lock().keys().copied().collect()
    }

    fn serving(&self) -> Vec<NodeId> {
        self.others()
    }

    fn whereabouts(&self) -> Vec<NodeAddress> {
        Vec::new()
    }

    fn moved(&self, _: NodeAddress) {}

    fn hear(&self, _: Vec<NodeAddress>) {}

    fn newer_epoch_at(&self, peer: &NodeName, epoch: Epoch) {
        self.newer.lock().push((peer.clone(), epoch));
    }

    fn signed_map(&self) -> Option<Bytes> {
        Some(Bytes::from_static(b"a signed map"))
    }

    async fn adopt(&self, _: Bytes) -> bool {
        self.offered.fetch_add(1, Ordering::Relaxed);
        false
    }
}

/// What a handler does with the next requests; `Give` when nothing is said.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// All bytes.
    Give,
    /// No answer.
    Refuse(ErrorKind),
    /// A Fill whose status is this.
    FailFill(ErrorKind),
    /// One MiB, then nothing.
    BreakOff,
    /// Nothing until told.
    Hang,
}

/// Answers with bytes made from the chunk's position.
#[derive(Default)]
pub(super) struct Giver {
    pub(super) acts: Mutex<VecDeque<Act>>,
    pub(super) asked: AtomicUsize,
    pub(super) under_way: AtomicUsize,
    pub(super) most: AtomicUsize,
    pub(super) taken: Mutex<Vec<(NodeName, u64)>>,
    pub(super) go_on: Notify,
}

impl Giver {
    pub(super) fn then(&self, acts: &[Act]) {
        self.acts.lock().extend(acts);
    }
}

struct Giving {
    pieces: VecDeque<Checksummed>,
    status: Result<(), ErrorKind>,
}

#[async_trait]
impl ChunkBody for Giving {
    async fn first(&mut self) -> Result<(), ErrorKind> {
        self.status
    }

    async fn next(&mut self) -> Option<Checksummed> {
        self.pieces.pop_front()
    }
}

#[async_trait]
impl Handler for Giver {
    async fn chunk(&self, _from: &NodeName, request: ChunkRequest) -> Result<Box<dyn ChunkBody>, ErrorKind> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let most = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(most, Ordering::Relaxed);
        let act = self.acts.lock().pop_front().unwrap_or(Act::Give);
        if matches!(act, Act::Hang) {
            self.go_on.notified().await;
        }
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        let mut giving = Giving { pieces: pieces(request.chunk(), request.range()), status: Ok(()) };
        match act {
            Act::Give | Act::Hang => {}
            Act::Refuse(kind) => return Err(kind),
            Act::FailFill(kind) => giving.status = Err(kind),
            Act::BreakOff => giving.pieces.truncate(1),
        }
        Ok(Box::new(giving))
    }

    async fn keep(&self, _from: &NodeName, _request: ChunkRequest) -> Result<(), ErrorKind> {
        Err(ErrorKind::NotHere)
    }

    fn keeps(&self, _request: &ChunkRequest) -> Result<(), ErrorKind> {
        Err(ErrorKind::NotHere)
    }

    async fn put(&self, from: &NodeName, _: PutRequest, body: &mut PutBody) -> Result<(), ErrorKind> {
        if let Some(Act::Refuse(kind)) = self.acts.lock().pop_front() {
            return Err(kind);
        }
        let mut len = 0;
        while let Some(segment) = body.next().await {
            let segment = segment.map_err(|_| ErrorKind::Internal)?;
            len += segment.verify().map_err(|_| ErrorKind::Internal)?.0.len() as u64;
        }
        self.taken.lock().push((from.clone(), len));
        Ok(())
    }
}

pub(super) fn node_name(name: &str) -> NodeName {
    NodeName::parse(name).expect("a name")
}

pub(super) fn chunk(key: &str, size: u64) -> Chunk {
    let key = ObjectKey::parse(key).expect("a key");
    let version = Version::of_etag("1").expect("a version");
    let chunk_size = ChunkSize::new(4 << 20).expect("4 MiB");
    let object = Object::new(VolumeId::from_bytes([7; 16]), key, version, size, chunk_size).expect("small");
    object.chunk(ChunkIndex(0)).expect("one chunk")
}

pub(super) fn bytes_of(range: ByteRange) -> Vec<u8> {
    (range.start()..range.end()).map(|at| u8::try_from((at / 3 + at / 70_001) % 256).expect("a remainder")).collect()
}

/// The range in pieces of 1 MiB.
pub(super) fn pieces(chunk: &Chunk, range: ByteRange) -> VecDeque<Checksummed> {
    let (object, mut block) = (chunk.object().id(), range.start() / u64::from(BLOCK_BYTES));
    let bytes = bytes_of(range);
    let pieces = bytes.chunks(1 << 20).map(|piece| {
        let first = block;
        block += piece.len().div_ceil(BLOCK_BYTES as usize) as u64;
        let crcs = block_crcs(object, first, piece);
        Checksummed::new(object, first, Bytes::copy_from_slice(piece), crcs).expect("counts agree")
    });
    pieces.collect()
}

pub(super) fn asks(want: Want, chunk: &Chunk) -> ChunkRequest {
    ChunkRequest::whole(RequestId(42), want, Epoch(5), chunk.clone())
}

pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// All bytes of an answer, verified.
pub(super) async fn read_all(body: &mut PeerBody) -> Result<Vec<u8>, PeerError> {
    body.first().await?;
    let mut bytes = Vec::new();
    while let Some(segment) = body.next().await {
        bytes.extend_from_slice(&segment?.verify().expect("checksums agree").0);
    }
    Ok(bytes)
}

/// Waits for a condition that other tasks bring about.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) const BOB: NodeId = NodeId(2);

/// alice asks, bob answers.
pub(super) struct Two {
    pub(super) net: SimNet,
    pub(super) alice: Client,
    pub(super) alice_knows: Arc<Known>,
    pub(super) alice_runtime: Runtime,
    pub(super) bob: Arc<Server>,
    pub(super) bob_knows: Arc<Known>,
    pub(super) giver: Arc<Giver>,
    pub(super) bob_identity: Identity,
}

pub(super) async fn two() -> Two {
    two_with(ControlRoutes::new()).await
}

pub(super) async fn two_with(routes: ControlRoutes) -> Two {
    let net = SimNet::new(Arc::new(SimRng::new(1)), Duration::from_micros(50), Duration::from_micros(200));
    let runtime = |seed: u8, name: &str| {
        let identity = Identity::Node(ClusterId::of("test"), node_name(name));
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, seed));
        (Runtime::sim(u64::from(seed), net.node(identity.clone(), address), SimDisk::new(1, 1 << 30)), identity)
    };
    let ((alice_runtime, _), (bob_runtime, bob_identity)) = (runtime(1, "alice"), runtime(2, "bob"));
    let any: SocketAddr = "0.0.0.0:0".parse().expect("an address");
    let listener = bob_runtime.net.listen(any).await.expect("nobody else listens");
    let (alice_knows, bob_knows) = (Known::of("test"), Known::of("test"));
    alice_knows.add(2, "bob", listener.local_addr());
    bob_knows.add(1, "alice", any);
    let giver = Arc::new(Giver::default());
    let bobs_client = Client::new(bob_runtime.clone(), bob_knows.clone());
    let bob = Server::new(bob_runtime.clone(), bobs_client, giver.clone(), routes);
    bob_runtime.tasks.spawn(bob.clone().serve(listener));
    let alice = Client::new(alice_runtime.clone(), alice_knows.clone());
    Two { net, alice, alice_knows, alice_runtime, bob, bob_knows, giver, bob_identity }
}
