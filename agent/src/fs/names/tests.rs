//! A home over an origin in memory, and three nodes that ask each other, on paused time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use larder_proto::ids::{ClusterId, Epoch, NodeName, Slot};
use larder_proto::map::{ClusterMap, Node, NodeState, Ports, TrustedKeys};
use larder_proto::object::{ChunkSize, ObjectKey};
use larder_proto::volume::{Attributes, Freshness, Keeping, LocalCopies, Origin as Place, Volume};
use tokio::sync::watch;

use super::*;
use crate::origin::OriginError;
use crate::origin::sim::{Asked, Fault, MemoryOrigin};
use crate::runtime::disk::SimDisk;
use crate::runtime::net::Identity;
use crate::runtime::net::sim::SimNet;
use crate::runtime::sim::SimRng;

mod cluster;
mod home;
mod model;

const MINUTE: Duration = Duration::from_secs(60);

fn id() -> VolumeId {
    VolumeId::from_bytes([9; 16])
}

fn volume() -> Volume {
    Volume {
        id: id(),
        namespace: "default".into(),
        name: "data".into(),
        chunk_size: ChunkSize::new(4 << 20).expect("4 MiB"),
        origin: Place::Local { path: "/nowhere".into() },
        replicas: None,
        read_ahead_bytes: 1 << 20,
        read_deadline: Duration::from_secs(30),
        freshness: Freshness::Within(MINUTE),
        attributes: Attributes { uid: 0, gid: 0, file_mode: 0o444, dir_mode: 0o555 },
        local_copies: LocalCopies::Auto,
        keeping: Keeping::default(),
    }
}

fn origins(runtime: &Runtime, memory: &MemoryOrigin) -> Origins {
    let volumes = Arc::new(BTreeMap::from([(id(), Arc::new(volume()))]));
    Origins::new(runtime.clone(), watch::Sender::new(volumes).subscribe(), Arc::new(memory.clone()))
}

fn runtime(seed: u64) -> Runtime {
    let net = SimNet::new(Arc::new(SimRng::new(seed)), Duration::ZERO, Duration::ZERO);
    let nobody = Identity::Authority(ClusterId::of("test"));
    Runtime::sim(seed, net.node(nobody, IpAddr::V4(Ipv4Addr::LOCALHOST)), SimDisk::new(seed, 1 << 20))
}

fn dir(path: &str) -> DirPath {
    DirPath::parse(path).expect("a path")
}

fn name(text: &str) -> EntryName {
    EntryName::parse(text).expect("a name")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// Names of a part with `/` behind directories.
fn shown(part: &Part) -> Vec<String> {
    let slash = |looked: &Looked| if *looked == Looked::Dir { "/" } else { "" };
    part.entries.iter().map(|(name, looked)| format!("{}{}", name.as_str(), slash(looked))).collect()
}
