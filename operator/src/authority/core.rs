//! What the authority knows of its nodes, and the map that follows. Sans-IO: reports and time in, maps out.
//!
//! After a restart the nodes of the stored map are taken to serve for 30 s, until they can have reported again. An
//! epoch that an agent reports above ours (we lost some) raises the next one above it.

use std::collections::BTreeMap;
use std::sync::Arc;

use larder_proto::control::{NodeAddress, NodeReport, OriginState};
use larder_proto::ids::{ClusterId, Epoch, NodeId, NodeName, VolumeId};
use larder_proto::map::{ClusterMap, Node, NodeState};
use larder_proto::placement::{Facts, NodeFact, next_map};

use super::Shape;
use super::health::{Event, Health, SILENCE_MS};
use super::status::{NodeStatus, VolumeStatus};

/// Silence isn't counted before this long after the start.
const GRACE_MS: u64 = 30_000;

/// A weight is one GiB of stores. It follows the stores only when they change by more than this part of it.
const WEIGHT_BYTES: u64 = 1 << 30;
const WEIGHT_SLACK: u32 = 20;

struct Known {
    node: Node,
    health: Health,
    /// It gives its slots to others, and stays in the map without any until it is removed.
    is_leaving: bool,
    joined_ms: u64,
    report: Option<(NodeReport, u64)>,
}

pub(super) struct Core {
    cluster: ClusterId,
    shape: Shape,
    current: Option<Arc<ClusterMap>>,
    nodes: BTreeMap<NodeName, Known>,
    /// What outweighs the nodes' own word.
    domains: BTreeMap<NodeName, Arc<str>>,
    epoch_floor: Epoch,
}

impl Core {
    pub(super) fn new(cluster: ClusterId, shape: Shape, current: Option<Arc<ClusterMap>>, floor: Epoch) -> Self {
        let listed = current.iter().flat_map(|map| map.nodes());
        let nodes = listed.map(|node| (node.name.clone(), resumed(node))).collect();
        let epoch_floor = current.as_ref().map_or(floor, |map| map.epoch().max(floor));
        Self { cluster, shape, current, nodes, domains: BTreeMap::new(), epoch_floor }
    }

    pub(super) fn reshape(&mut self, shape: Shape) {
        self.shape = shape;
    }

    pub(super) fn place(&mut self, domains: BTreeMap<NodeName, Arc<str>>) {
        for (name, known) in &mut self.nodes {
            if let Some(domain) = domains.get(name) {
                known.node.domain = domain.clone();
            }
        }
        self.domains = domains;
    }

    pub(super) fn remove(&mut self, name: &NodeName) {
        self.nodes.remove(name);
    }

    pub(super) fn retire(&mut self, name: &NodeName) {
        if let Some(known) = self.nodes.get_mut(name) {
            known.is_leaving = true;
        }
    }

    pub(super) fn published(&mut self, map: Arc<ClusterMap>) {
        self.current = Some(map);
    }

    /// A node said something.
    pub(super) fn report(&mut self, id: NodeId, name: &NodeName, report: NodeReport, now_ms: u64) {
        self.epoch_floor = self.epoch_floor.max(report.epoch);
        let known = self.nodes.entry(name.clone()).or_insert_with(|| Known::new(id, name));
        if known.node.id != id {
            // It was removed and has joined again: nothing of its former life counts.
            *known = Known::new(id, name);
        }
        let before = known.health;
        known.health = before.step(Event::Report, now_ms);
        let weight = weight(&report);
        if known.health.state() == NodeState::Serving && (before == Health::Joining || known.node.weight == 0) {
            known.joined_ms = now_ms;
        }
        if known.node.weight.abs_diff(weight) > known.node.weight / WEIGHT_SLACK || weight == 0 {
            known.node.weight = weight;
        }
        known.node.addresses.clone_from(&report.addresses);
        known.node.ports = report.ports;
        known.node.domain = match (self.domains.get(name), &*report.domain) {
            (Some(placed), _) => placed.clone(),
            (None, "") => name.as_str().into(),
            (None, _) => report.domain.clone(),
        };
        known.report = Some((report, now_ms));
    }

    /// Where nodes say they are, of those whom the current map has somewhere else.
    pub(super) fn moved(&self) -> BTreeMap<NodeName, NodeAddress> {
        let Some(map) = &self.current else { return BTreeMap::new() };
        let reported = self.nodes.values().filter_map(|known| Some((&known.node, &known.report.as_ref()?.0)));
        let moved = reported.filter(|(node, _)| {
            let listed = map.node(node.id);
            listed.is_some_and(|listed| (&listed.addresses, listed.ports) != (&node.addresses, node.ports))
        });
        let address = |node: &Node, report: &NodeReport| NodeAddress {
            node: node.name.clone(),
            addresses: node.addresses.clone(),
            ports: node.ports,
            began_ms: report.began_ms,
        };
        moved.map(|(node, report)| (node.name.clone(), address(node, report))).collect()
    }

    /// The map that is to be published now, if any. `wanted` is the most replicas that a volume asks for.
    pub(super) fn plan(&mut self, wanted: u32, now_ms: u64) -> Option<ClusterMap> {
        for known in self.nodes.values_mut() {
            known.health = known.health.step(Event::Tick, now_ms);
        }
        let fact = |known: &Known| NodeFact {
            node: Node { state: known.state(), ..known.node.clone() },
            joined_ms: known.joined_ms,
        };
        let facts = Facts {
            cluster: self.cluster,
            epoch_floor: self.epoch_floor,
            width: self.shape.replicas.max(wanted.min(self.shape.min_nodes)).max(1),
            min_nodes: self.shape.min_nodes,
            nodes: self.nodes.values().map(fact).collect(),
        };
        next_map(self.current.as_deref(), &facts, now_ms)
    }

    pub(super) fn statuses(&self, map: Option<&ClusterMap>, now_ms: u64) -> Vec<NodeStatus> {
        let shares = map.map(ClusterMap::shares).unwrap_or_default();
        self.nodes.values().map(|known| known.status(&shares, now_ms)).collect()
    }

    /// Mounts, origin and stores as the nodes say that report now; bytes read as all of them ever said.
    pub(super) fn volumes(&self, now_ms: u64) -> BTreeMap<VolumeId, VolumeStatus> {
        let mut volumes: BTreeMap<VolumeId, VolumeStatus> = BTreeMap::new();
        let reports = self.nodes.values().filter_map(|known| Some((known.node.id, known.report.as_ref()?)));
        for (node, volume, at_ms) in
            reports.flat_map(|(node, (report, at))| report.volumes.iter().map(move |volume| (node, volume, *at)))
        {
            let status = volumes.entry(volume.id).or_default();
            status.origin_bytes = status.origin_bytes.saturating_add(volume.origin_bytes);
            status.read_bytes = status.read_bytes.saturating_add(volume.read_bytes);
            if now_ms.saturating_sub(at_ms) >= SILENCE_MS {
                continue;
            }
            status.nodes += 1;
            status.mounted.extend(volume.mounted.then_some(node));
            status.origin = match (status.origin, volume.origin) {
                (OriginState::Fails(kind), _) | (_, OriginState::Fails(kind)) => OriginState::Fails(kind),
                (OriginState::Answers, _) | (_, OriginState::Answers) => OriginState::Answers,
                (OriginState::NotAsked, OriginState::NotAsked) => OriginState::NotAsked,
            };
            status.cached_bytes = status.cached_bytes.saturating_add(volume.cached_bytes);
            status.objects = status.objects.max(volume.objects);
        }
        volumes
    }
}

impl Known {
    fn new(id: NodeId, name: &NodeName) -> Self {
        let node = Node {
            id,
            name: name.clone(),
            addresses: Vec::new(),
            ports: Default::default(),
            domain: name.as_str().into(),
            weight: 0,
            state: NodeState::Joining,
        };
        Self { node, health: Health::Joining, is_leaving: false, joined_ms: 0, report: None }
    }

    fn state(&self) -> NodeState {
        if self.is_leaving { NodeState::Gone } else { self.health.state() }
    }

    fn status(&self, shares: &BTreeMap<NodeId, larder_proto::map::Share>, now_ms: u64) -> NodeStatus {
        let report = self.report.as_ref().map(|(report, _)| report);
        NodeStatus {
            id: self.node.id,
            name: self.node.name.clone(),
            state: self.state(),
            addresses: self.node.addresses.clone(),
            ports: self.node.ports,
            admin_port: report.map_or(0, |report| report.admin_port),
            domain: self.node.domain.clone(),
            epoch: report.map_or(Epoch(0), |report| report.epoch),
            stores: report.map(|report| report.stores.clone()).unwrap_or_default(),
            unreachable: report.map(|report| report.unreachable.clone()).unwrap_or_default(),
            unmet: report.map(|report| report.unmet.clone()).unwrap_or_default(),
            passthrough: report.and_then(|report| report.passthrough),
            share: shares.get(&self.node.id).copied().unwrap_or_default(),
            silent_ms: self.report.as_ref().map(|(_, at_ms)| now_ms.saturating_sub(*at_ms)),
        }
    }
}

/// A node of the stored map, when the authority starts.
fn resumed(node: &Node) -> Known {
    let is_leaving = node.state == NodeState::Gone;
    let health = match node.state {
        NodeState::Joining => Health::Joining,
        NodeState::Suspect | NodeState::Down => Health::Suspect,
        NodeState::Returning => Health::Returning { since_ms: 0, last_ms: GRACE_MS },
        NodeState::Serving | NodeState::Draining | NodeState::Gone => Health::Serving { last_ms: GRACE_MS },
    };
    Known { node: node.clone(), health, is_leaving, joined_ms: 0, report: None }
}

fn weight(report: &NodeReport) -> u32 {
    let bytes = report.stores.iter().map(|store| store.capacity_bytes).fold(0, u64::saturating_add);
    if report.stores.is_empty() { 0 } else { u32::try_from(bytes.div_ceil(WEIGHT_BYTES)).unwrap_or(u32::MAX).max(1) }
}

#[cfg(test)]
mod tests;
