//! What the authority can say about nodes and volumes: for `larder get`, conditions and metrics.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use larder_proto::control::{AnchorDigest, OffersReport, OriginState, Passthrough, StoreReport};
use larder_proto::ids::{Epoch, NodeId, NodeName};
use larder_proto::map::{NodeState, Ports, Share};

/// A node, as it was last heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its number.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// What it does.
    pub state: NodeState,
    /// Where it is.
    pub addresses: Vec<IpAddr>,
    /// Where its doors listen.
    pub ports: Ports,
    /// Its admin port; 0 = not said.
    pub admin_port: u16,
    /// Its failure domain.
    pub domain: Arc<str>,
    /// The epoch it runs on.
    pub epoch: Epoch,
    /// Its stores.
    pub stores: Vec<StoreReport>,
    /// Nodes it couldn't reach of late.
    pub unreachable: Vec<NodeId>,
    /// Serving nodes that it hasn't reached since its agent began.
    pub unmet: Vec<NodeId>,
    /// Whether the kernel reads whole local files past its agent.
    pub passthrough: Option<Passthrough>,
    /// The CA certificates that it trusts.
    pub trusted: Vec<AnchorDigest>,
    /// How far it has handed what it has to whom the map gives it.
    pub offers: OffersReport,
    /// It has been silent for long enough to lose its slots, and keeps them because many fell silent together.
    pub is_spared: bool,
    /// Slots it owns and leads.
    pub share: Share,
    /// Since its last report; none since the authority began.
    pub silent_ms: Option<u64>,
}

/// A volume, summed over the nodes that report it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeStatus {
    /// Nodes that report now and have it mounted.
    pub mounted: BTreeSet<NodeId>,
    /// Nodes that know it.
    pub nodes: u32,
    /// What is known of the origin: that it fails, if one node says so; that it answers, if one has asked.
    pub origin: OriginState,
    /// Bytes in all stores, copies included.
    pub cached_bytes: u64,
    /// Bytes that came from the origin, on all nodes.
    pub origin_bytes: u64,
    /// Bytes read through the doors.
    pub read_bytes: u64,
    /// The most objects that one node holds something of.
    pub objects: u64,
}
