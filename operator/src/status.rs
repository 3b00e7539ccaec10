//! What resources say of themselves, computed from what nodes report. Pure: time and earlier conditions are given.

use std::collections::{BTreeMap, BTreeSet};

use larder_crds::{
    CacheCluster, CacheClusterStatus, CacheNodeStatus, CacheVolume, CacheVolumeStatus, ClusterConditionType,
    ClusterReadyReason, Condition, ConditionStatus, DegradedReason, MinNodesMetReason, NodeCounts,
    OriginReachableReason, Problem, RebalancingReason, SlotCounts, Time, VolumeConditionType, VolumeReadyReason,
    condition, format_bytes, format_percent, set_condition,
};
use larder_proto::control::{OriginState, Passthrough, StoreHealth, StoreReport};
use larder_proto::error::ErrorKind;
use larder_proto::ids::{Epoch, NodeId, NodeName, Slot, VolumeId};
use larder_proto::limits::SLOTS;
use larder_proto::map::{ClusterMap, NodeState};

use crate::authority::{NodeStatus, VolumeStatus};

/// `problems` shows at most this many (the schema's bound).
const PROBLEMS_MAX: usize = 10;

/// Nodes that a message names at most.
const NAMED_MAX: usize = 5;

/// A node that should be there.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its name.
    pub name: NodeName,
    /// What it last reported, once it has joined.
    pub reported: Option<NodeStatus>,
    /// Whether it reports now.
    pub is_live: bool,
    /// How its agent ended, where that is known.
    pub ended: Option<String>,
}

impl NodeView {
    /// Only such nodes count for minNodes.
    fn has_stores(&self) -> bool {
        self.reported.as_ref().is_some_and(|node| !node.stores.is_empty())
    }

    fn serves(&self) -> bool {
        // Before it has a map and has reached its peers, reads through it may go past them to the origin.
        let serves =
            |node: &NodeStatus| node.state == NodeState::Serving && node.epoch > Epoch(0) && node.unmet.is_empty();
        self.is_live && self.reported.as_ref().is_some_and(serves)
    }
}

/// Everything statuses are computed from.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The published map.
    pub map: Option<&'a ClusterMap>,
    /// The nodes that should be there.
    pub nodes: &'a [NodeView],
    /// What they report of the volumes.
    pub volumes: &'a BTreeMap<VolumeId, VolumeStatus>,
    /// The problems written last: they keep their times.
    pub problems: &'a [Problem],
    /// Now.
    pub now: &'a Time,
}

impl View<'_> {
    fn reported(&self) -> impl Iterator<Item = &NodeStatus> {
        self.nodes.iter().filter_map(|node| node.reported.as_ref())
    }

    /// Slots without a live owner, and slots with fewer than `width`.
    fn slots(&self, width: usize) -> (i32, i32) {
        let Some(map) = self.map else { return (i32::from(SLOTS), i32::from(SLOTS)) };
        let live = self.nodes.iter().filter(|node| node.is_live).filter_map(|node| node.reported.as_ref());
        let live: BTreeSet<NodeId> = live.map(|node| node.id).collect();
        let alive = |slot: Slot| map.owners(slot).iter().filter(|owner| live.contains(owner)).count();
        Slot::all()
            .map(alive)
            .fold((0, 0), |(lost, short), owners| (lost + i32::from(owners == 0), short + i32::from(owners < width)))
    }
}

/// The status of a cluster. `earlier` keeps the conditions' transition times.
pub fn cluster(cluster: &CacheCluster, earlier: &[Condition], view: View<'_>) -> CacheClusterStatus {
    let desired = view.nodes.len();
    let ready = view.nodes.iter().filter(|node| node.serves()).count();
    let width = usize::try_from(cluster.spec.replicas).unwrap_or(1);
    let (lost, short) = view.slots(width.min(desired.max(1)));
    let stores = || view.reported().flat_map(|node| &node.stores);
    let mut conditions = earlier.to_vec();
    let generation = cluster.metadata.generation;
    let min_nodes = usize::try_from(cluster.spec.min_nodes).unwrap_or(1);
    let set = |conditions: &mut Vec<Condition>, type_, is_true, reason: &dyn std::fmt::Display, message: String| {
        let status = if is_true { ConditionStatus::True } else { ConditionStatus::False };
        set_condition(conditions, condition(type_, status, reason, message, generation, view.now.clone()));
    };
    let storing = view.nodes.iter().filter(|node| node.serves() && node.has_stores()).count();
    let (reason, message) = ready_reason(view, storing, min_nodes, lost);
    let is_ready = reason == ClusterReadyReason::Serving;
    set(&mut conditions, ClusterConditionType::Ready, is_ready, &reason, message);
    let enough = storing >= min_nodes;
    let reason = if enough { MinNodesMetReason::EnoughNodes } else { MinNodesMetReason::TooFewNodes };
    let message = format!("{storing} nodes with stores serve, minNodes is {min_nodes}");
    set(&mut conditions, ClusterConditionType::MinNodesMet, enough, &reason, message);
    let (moves, reason, message) = rebalancing(view);
    set(&mut conditions, ClusterConditionType::Rebalancing, moves, &reason, message);
    let short_copies = view.reported().map(|node| node.offers.lacking).sum::<u64>();
    let (degraded, reason, message) = degraded(view, short, short_copies);
    set(&mut conditions, ClusterConditionType::Degraded, degraded, &reason, message);
    CacheClusterStatus {
        observed_generation: generation,
        cache_id: Some(cluster.cache_id()),
        nodes: Some(NodeCounts { desired: number(desired), ready: number(ready), text: format!("{ready}/{desired}") }),
        capacity: Some(format_bytes(stores().map(|store| store.capacity_bytes).sum())),
        used: Some(format_bytes(stores().map(|store| store.used_bytes).sum())),
        epoch: view.map.and_then(|map| i64::try_from(map.epoch().0).ok()),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        slots: Some(SlotCounts { total: i32::from(SLOTS), short }),
        short_copies: i64::try_from(short_copies).ok(),
        problems: problems(view),
        conditions,
    }
}

fn ready_reason(view: View<'_>, storing: usize, min_nodes: usize, lost: i32) -> (ClusterReadyReason, String) {
    if view.map.is_none() {
        let joined = view.nodes.iter().filter(|node| node.is_live).count();
        let message = format!("{joined} of at least {min_nodes} nodes have joined; the first map is published then");
        return (ClusterReadyReason::WaitingForNodes, message);
    }
    if lost > 0 {
        return (
            ClusterReadyReason::SlotsLost,
            format!("{lost} slots have no live owner; their chunks come from the origin"),
        );
    }
    if storing < min_nodes {
        return (
            ClusterReadyReason::BelowMinNodes,
            format!("{storing} nodes with stores serve, minNodes is {min_nodes}; reads go on"),
        );
    }
    (ClusterReadyReason::Serving, format!("{storing} nodes with stores serve"))
}

/// Whether chunks move: a slot has a former owner that is asked, or a node has not looked yet who lacks what it has.
fn rebalancing(view: View<'_>) -> (bool, RebalancingReason, String) {
    let Some(map) = view.map else { return (false, RebalancingReason::Settled, "there is no map yet".into()) };
    let handed = map.handover().chunk_by(|a, b| a.slot == b.slot).count();
    let gives = |state| match state {
        NodeState::Serving | NodeState::Returning | NodeState::Draining => true,
        NodeState::Joining | NodeState::Suspect | NodeState::Down | NodeState::Gone => false,
    };
    let live = view.nodes.iter().filter(|node| node.is_live).filter_map(|node| node.reported.as_ref());
    let busy: Vec<&str> = live
        .filter(|node| gives(node.state) && !node.stores.is_empty() && node.offers.settled < map.epoch())
        .map(|node| node.name.as_str())
        .collect();
    if handed == 0 && busy.is_empty() {
        return (
            false,
            RebalancingReason::Settled,
            "every chunk is where the map puts it, as far as there is room".into(),
        );
    }
    let who = if busy.is_empty() { "no node".to_owned() } else { some_of(&busy) };
    let message = format!("{handed} slots are handed over; {who} still to offer what is there to its owners");
    (true, RebalancingReason::HandingOver, message)
}

/// Some names, and how many more.
fn some_of(names: &[&str]) -> String {
    match names.split_at_checked(NAMED_MAX) {
        Some((some, more)) if !more.is_empty() => format!("{} and {} more", some.join(", "), more.len()),
        Some(_) | None => names.join(", "),
    }
}

fn degraded(view: View<'_>, short: i32, short_copies: u64) -> (bool, DegradedReason, String) {
    if view.map.is_some() && short > 0 {
        let message = format!("{short} slots have fewer live owners than they should");
        return (true, DegradedReason::SlotsShort, message);
    }
    if short_copies > 0 {
        let message = format!("owners lack {short_copies} copies that other nodes are giving them");
        return (true, DegradedReason::CopiesShort, message);
    }
    (false, DegradedReason::AllCopies, "no copy is known to be missing".into())
}

fn problems(view: View<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for node in view.nodes {
        let mut add = |reason: &str, message: String| {
            let node_name = node.name.as_str();
            let earlier = view.problems.iter().find(|earlier| earlier.node == node_name && earlier.reason == reason);
            let since = earlier.map_or(view.now, |earlier| &earlier.since).clone();
            problems.push(Problem { node: node_name.to_owned(), reason: reason.to_owned(), message, since });
        };
        match (&node.reported, node.is_live) {
            (_, false) if node.ended.is_some() => {
                let how = node.ended.as_deref().unwrap_or_default();
                add("AgentEnded", format!("its agent {how}"));
            }
            (None, _) => add("NotJoined", "its agent has not joined".into()),
            (Some(reported), false) if reported.is_spared => add(
                "MassSilence",
                "its agent doesn't report, nor do many others: none of them loses its slots for that".into(),
            ),
            (Some(_), false) => add("Silent", "its agent doesn't report".into()),
            (Some(reported), true) => {
                match reported.state {
                    NodeState::Suspect => add(
                        "Suspect",
                        "it was silent for 3 s, or half of its peers can't reach it; others lead its slots".into(),
                    ),
                    NodeState::Returning => {
                        add("Returning", "it is heard again; it leads slots again after 3 s without a gap".into())
                    }
                    NodeState::Joining
                    | NodeState::Serving
                    | NodeState::Draining
                    | NodeState::Down
                    | NodeState::Gone => {}
                }
                for store in &reported.stores {
                    let name = &store.name;
                    match store.health {
                        StoreHealth::Ok => {}
                        StoreHealth::Slow => {
                            add("StoreSlow", format!("store {name} answers late; others are asked first"))
                        }
                        StoreHealth::Fenced => {
                            add("StoreFailed", format!("store {name} takes no more writes; its disk failed"));
                        }
                    }
                }
            }
        }
    }
    problems.truncate(PROBLEMS_MAX);
    problems
}

/// The status of a node.
pub fn node(node: &NodeView) -> CacheNodeStatus {
    let Some(reported) = &node.reported else {
        return CacheNodeStatus { state: Some(larder_crds::NodeState::Joining), ..CacheNodeStatus::default() };
    };
    let state = match reported.state {
        NodeState::Joining => larder_crds::NodeState::Joining,
        NodeState::Serving => larder_crds::NodeState::Serving,
        NodeState::Returning => larder_crds::NodeState::Returning,
        NodeState::Gone => larder_crds::NodeState::Gone,
        NodeState::Suspect => larder_crds::NodeState::Suspect,
        NodeState::Draining => larder_crds::NodeState::Draining,
        NodeState::Down => larder_crds::NodeState::Down,
    };
    CacheNodeStatus {
        // What Kubernetes knows besides is added where it is known.
        node_uid: None,
        target: None,
        node_id: Some(i64::from(reported.id.0)),
        state: Some(state),
        address: reported.addresses.first().map(ToString::to_string),
        domain: Some(reported.domain.to_string()),
        stores: reported.stores.iter().map(store).collect(),
        slots: i32::try_from(reported.share.owned).ok(),
        offered: (reported.offers.all > 0).then(|| format_percent(reported.offers.done, reported.offers.all)),
        short_copies: i64::try_from(reported.offers.lacking).ok(),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        epoch: i64::try_from(reported.epoch.0).ok(),
        passthrough: reported.passthrough.map(passthrough),
        conditions: Vec::new(),
    }
}

fn passthrough(reported: Passthrough) -> larder_crds::Passthrough {
    match reported {
        Passthrough::Active => larder_crds::Passthrough::Active,
        Passthrough::NoKernel => larder_crds::Passthrough::NoKernelSupport,
        Passthrough::NoCapability => larder_crds::Passthrough::NoCapability,
        Passthrough::NoDescriptors => larder_crds::Passthrough::NoDescriptors,
        Passthrough::Stacked => larder_crds::Passthrough::StackedFileSystem,
    }
}

fn store(store: &StoreReport) -> larder_crds::StoreStatus {
    larder_crds::StoreStatus {
        name: store.name.to_string(),
        id: Some(store.id.to_string()),
        capacity: Some(format_bytes(store.capacity_bytes)),
        used: Some(format_bytes(store.used_bytes)),
        health: Some(match store.health {
            StoreHealth::Ok | StoreHealth::Slow => larder_crds::StoreHealth::Healthy,
            StoreHealth::Fenced => larder_crds::StoreHealth::Failed,
        }),
    }
}

/// The status of a volume. `earlier` keeps the conditions' transition times.
pub fn volume(volume: &CacheVolume, id: VolumeId, earlier: &[Condition], view: View<'_>) -> CacheVolumeStatus {
    let none = VolumeStatus::default();
    let reported = view.volumes.get(&id).unwrap_or(&none);
    let generation = volume.metadata.generation;
    let mut conditions = earlier.to_vec();
    let (reason, message) = volume_ready(reported, view);
    let status = if reason == VolumeReadyReason::Serving { ConditionStatus::True } else { ConditionStatus::False };
    set_condition(
        &mut conditions,
        condition(VolumeConditionType::Ready, status, reason, message, generation, view.now.clone()),
    );
    let (status, reason, message) = origin_reachable(reported.origin);
    set_condition(
        &mut conditions,
        condition(VolumeConditionType::OriginReachable, status, reason, message, generation, view.now.clone()),
    );
    CacheVolumeStatus {
        observed_generation: generation,
        origin: volume.spec.origin.text(),
        mounts: Some(format!("{}/{}", reported.mounted.len(), view.nodes.len())),
        cached: Some(format_bytes(reported.cached_bytes)),
        hit_ratio: Some(format_percent(reported.read_bytes.saturating_sub(reported.origin_bytes), reported.read_bytes)),
        objects: i64::try_from(reported.objects).ok(),
        conditions,
    }
}

/// A volume serves once every live node that the map has as serving has mounted it; nodes that join or come back later
/// don't change that until they serve.
fn volume_ready(reported: &VolumeStatus, view: View<'_>) -> (VolumeReadyReason, String) {
    let Some(map) = view.map else {
        let message = "nothing is mounted before minNodes nodes have joined and the first map is published";
        return (VolumeReadyReason::TooFewNodes, message.into());
    };
    let serves = |id: NodeId| map.node(id).is_some_and(|node| node.state == NodeState::Serving);
    let live = view.nodes.iter().filter(|node| node.is_live).filter_map(|node| node.reported.as_ref());
    let without: Vec<&str> = live
        .filter(|node| serves(node.id) && !reported.mounted.contains(&node.id))
        .map(|node| node.name.as_str())
        .collect();
    if without.is_empty() && !reported.mounted.is_empty() {
        return (VolumeReadyReason::Serving, format!("mounted on {} nodes", reported.mounted.len()));
    }
    let mounted = reported.mounted.len();
    let message = match without.is_empty() {
        true => "no node that reports has mounted it".to_owned(),
        false => format!("mounted on {mounted} nodes, not yet on {}", without.join(", ")),
    };
    (VolumeReadyReason::NotMounted, message)
}

/// What nodes say of the origin; one table from error kinds to reasons.
fn origin_reachable(state: OriginState) -> (ConditionStatus, OriginReachableReason, String) {
    let kind = match state {
        OriginState::NotAsked => {
            let message = "no node has had an answer from the origin yet";
            return (ConditionStatus::Unknown, OriginReachableReason::NotAsked, message.into());
        }
        OriginState::Answers => None,
        OriginState::Fails(kind) => Some(kind),
    };
    let reason = |kind| match kind {
        ErrorKind::AccessDenied => Some(OriginReachableReason::AccessDenied),
        ErrorKind::BadCredentials => Some(OriginReachableReason::BadCredentials),
        ErrorKind::NoSuchBucket => Some(OriginReachableReason::NoSuchBucket),
        ErrorKind::OriginUnreachable | ErrorKind::Throttled | ErrorKind::OriginProtocol => {
            Some(OriginReachableReason::Unreachable)
        }
        ErrorKind::Changed
        | ErrorKind::NotFound
        | ErrorKind::NotHere
        | ErrorKind::StaleEpoch
        | ErrorKind::NoSpace
        | ErrorKind::UnknownVolume
        | ErrorKind::Busy
        | ErrorKind::BadRequest
        | ErrorKind::DeadlineExceeded
        | ErrorKind::Internal => None,
    };
    match kind.and_then(reason) {
        None => (ConditionStatus::True, OriginReachableReason::Reachable, "the origin answers".into()),
        Some(reason) => {
            let message = match reason {
                OriginReachableReason::BadCredentials => "the origin doesn't know these credentials: mend the Secret",
                OriginReachableReason::AccessDenied => {
                    "the origin refuses these credentials: allow them to list and read"
                }
                OriginReachableReason::NoSuchBucket => {
                    "the bucket, container or directory does not exist: mend spec.origin"
                }
                OriginReachableReason::Unreachable => "the origin does not answer: what is cached is served",
                OriginReachableReason::NotAsked | OriginReachableReason::Reachable => "the origin answers",
            };
            (ConditionStatus::False, reason, message.into())
        }
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use larder_proto::ids::{ClusterId, Epoch};
    use larder_proto::map::Node;
    use serde_json::json;

    use super::*;

    fn time(seconds: i64) -> Time {
        Time(jiff::Timestamp::from_second(seconds).expect("a time"))
    }

    fn waiting(name: &str) -> NodeView {
        let name = NodeName::parse(name).expect("a name");
        NodeView { name, reported: None, is_live: false, ended: None }
    }

    fn a_cluster() -> CacheCluster {
        let spec = json!({"minNodes": 2, "pools": []});
        CacheCluster::new("demo", serde_json::from_value(spec).expect("a spec"))
    }

    fn of(status: &CacheClusterStatus, type_: ClusterConditionType) -> &Condition {
        status.conditions.iter().find(|c| c.type_ == type_.as_str()).expect("written at the first visit")
    }

    #[test]
    fn before_the_first_map_a_cluster_waits_for_its_nodes() {
        let (nodes, volumes, now) = ([waiting("n1"), waiting("n2")], BTreeMap::new(), time(5));
        let view = View { map: None, nodes: &nodes, volumes: &volumes, problems: &[], now: &now };
        let status = cluster(&a_cluster(), &[], view);
        let ready = of(&status, ClusterConditionType::Ready);
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "WaitingForNodes"));
        assert_eq!(status.nodes.as_ref().map(|nodes| nodes.text.as_str()), Some("0/2"));
        assert_eq!(status.slots, Some(SlotCounts { total: 16_384, short: 16_384 }));
        let named: Vec<&str> = status.problems.iter().map(|problem| problem.reason.as_str()).collect();
        assert_eq!(named, ["NotJoined", "NotJoined"]);

        let later = time(9);
        let again = cluster(&a_cluster(), &status.conditions, View { now: &later, problems: &status.problems, ..view });
        assert_eq!(again.problems, status.problems, "and began when it began");
        assert_eq!(of(&again, ClusterConditionType::Ready).last_transition_time, time(5), "nothing changed");
    }

    #[test]
    fn an_origin_that_refuses_says_what_to_mend() {
        for (kind, reason) in [
            (OriginState::Answers, OriginReachableReason::Reachable),
            (OriginState::Fails(ErrorKind::NotFound), OriginReachableReason::Reachable),
            (OriginState::Fails(ErrorKind::BadCredentials), OriginReachableReason::BadCredentials),
            (OriginState::Fails(ErrorKind::AccessDenied), OriginReachableReason::AccessDenied),
            (OriginState::Fails(ErrorKind::NoSuchBucket), OriginReachableReason::NoSuchBucket),
            (OriginState::Fails(ErrorKind::Throttled), OriginReachableReason::Unreachable),
        ] {
            let (status, found, message) = origin_reachable(kind);
            assert_eq!(found, reason, "{kind:?}");
            assert_eq!(status == ConditionStatus::True, reason == OriginReachableReason::Reachable, "{message}");
        }
        assert_eq!(origin_reachable(OriginState::NotAsked).0, ConditionStatus::Unknown, "nobody has looked");
    }

    /// A node that reports, and whether it does now.
    fn reporting(number: u32, state: NodeState, is_live: bool) -> NodeView {
        let name = NodeName::parse(&format!("n{number}")).expect("a name");
        let reported = NodeStatus {
            id: NodeId(number),
            name: name.clone(),
            state,
            addresses: Vec::new(),
            ports: Default::default(),
            admin_port: 0,
            domain: "a".into(),
            epoch: Epoch(1),
            stores: Vec::new(),
            unreachable: Vec::new(),
            share: Default::default(),
            silent_ms: Some(0),
            unmet: Vec::new(),
            passthrough: None,
            trusted: Vec::new(),
            offers: Default::default(),
            is_spared: false,
        };
        NodeView { name, reported: Some(reported), is_live, ended: None }
    }

    fn a_map(nodes: &[NodeView]) -> ClusterMap {
        let node = |view: &NodeView| {
            let reported = view.reported.as_ref().expect("it reports");
            Node {
                id: reported.id,
                name: view.name.clone(),
                addresses: Vec::new(),
                ports: Default::default(),
                domain: "a".into(),
                weight: 1,
                state: reported.state,
            }
        };
        let owners = vec![vec![NodeId(1)]; usize::from(SLOTS)];
        let nodes = nodes.iter().map(node).collect();
        ClusterMap::new(Epoch(1), ClusterId::of("a/a"), nodes, &owners, Vec::new()).expect("consistent")
    }

    #[test]
    fn a_volume_serves_once_every_serving_node_has_mounted_it() {
        let spec = json!({"clusterRef": {"name": "demo"}, "origin": {"local": {"path": "/srv"}}});
        let object = CacheVolume::new("data", serde_json::from_value(spec).expect("a spec"));
        let id = VolumeId::from_bytes([7; 16]);
        let nodes = [
            reporting(1, NodeState::Serving, true),
            reporting(2, NodeState::Serving, true),
            reporting(3, NodeState::Suspect, true),
            reporting(4, NodeState::Serving, false),
        ];
        let (map, now) = (a_map(&nodes), time(5));
        let status_of = |map: Option<&ClusterMap>, mounted: &[u32]| {
            let mounted = mounted.iter().copied().map(NodeId).collect();
            let reported = VolumeStatus { mounted, origin_bytes: 1, read_bytes: 4, ..VolumeStatus::default() };
            let volumes = BTreeMap::from([(id, reported)]);
            volume(&object, id, &[], View { map, nodes: &nodes, volumes: &volumes, problems: &[], now: &now })
        };
        let condition_of = |status: &CacheVolumeStatus, type_: VolumeConditionType| {
            let found = status.conditions.iter().find(|condition| condition.type_ == type_.as_str()).expect("written");
            (found.status.clone(), found.reason.clone())
        };
        for (map, mounted, ready) in [
            (None, &[][..], ("False", "TooFewNodes")),
            (Some(&map), &[][..], ("False", "NotMounted")),
            (Some(&map), &[1][..], ("False", "NotMounted")),
            (Some(&map), &[1, 2][..], ("True", "Serving")),
        ] {
            let status = status_of(map, mounted);
            let (status, reason) = condition_of(&status, VolumeConditionType::Ready);
            assert_eq!((status.as_str(), reason.as_str()), ready, "mounted on {mounted:?}");
        }
        let status = status_of(Some(&map), &[1, 2]);
        assert_eq!(condition_of(&status, VolumeConditionType::OriginReachable), ("Unknown".into(), "NotAsked".into()));
        assert_eq!((status.mounts.as_deref(), status.hit_ratio.as_deref()), (Some("2/4"), Some("75%")));
    }

    #[test]
    fn a_disk_that_is_slow_has_not_failed() {
        let mut node = reporting(1, NodeState::Serving, true);
        let store = |name: &str, health| StoreReport {
            name: name.into(),
            id: larder_proto::ids::StoreId::from_bytes([1; 16]),
            capacity_bytes: 1,
            used_bytes: 0,
            health,
        };
        node.reported.as_mut().expect("it reports").stores =
            vec![store("d0", StoreHealth::Ok), store("d1", StoreHealth::Slow), store("d2", StoreHealth::Fenced)];
        let (nodes, volumes, now) = ([node], BTreeMap::new(), time(5));
        let status =
            cluster(&a_cluster(), &[], View { map: None, nodes: &nodes, volumes: &volumes, problems: &[], now: &now });
        let named: Vec<&str> = status.problems.iter().map(|problem| problem.reason.as_str()).collect();
        assert_eq!(named, ["StoreSlow", "StoreFailed"]);
    }

    #[test]
    fn a_node_that_comes_back_says_so() {
        let nodes = [reporting(1, NodeState::Serving, true), reporting(2, NodeState::Returning, true)];
        let (volumes, now) = (BTreeMap::new(), time(5));
        let status =
            cluster(&a_cluster(), &[], View { map: None, nodes: &nodes, volumes: &volumes, problems: &[], now: &now });
        let named: Vec<(&str, &str)> = status.problems.iter().map(|p| (p.node.as_str(), p.reason.as_str())).collect();
        assert_eq!(named, [("n2", "Returning")]);
        assert_eq!(node(&nodes[1]).state, Some(larder_crds::NodeState::Returning));
    }
}
