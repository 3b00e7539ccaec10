//! Which nodes leave the map, lead nothing, or stay: what people, cordons, autoscalers and selectors say of them.
//!
//! [`part`] is pure. A node that leaves gives its slots away and hands over what it has; once its agent's pod is gone too,
//! and no pool chooses it any more, its entry goes, which revokes its certificate. Nobody leaves while no node with stores
//! would stay: slots would have no owner. A cordon alone makes nobody leave while every other node is cordoned too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use larder_crds::{CacheCluster, NodeRequest, NodeTarget, TargetReason, TargetState};
use larder_proto::ids::NodeName;
use larder_proto::map::NodeState;

use super::super::authorities::Running;
use super::super::context::Context;
use super::super::names::{CLUSTER_LABEL, Names};
use super::ReconcileError;
use super::dereference::answer;
use super::validate::{ChosenNode, Validated};
use crate::authority::NodeStatus;

/// What is to become of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It serves as all others.
    Serve,
    /// It keeps its slots and leads none, because it is cordoned; in so long it leaves.
    Follow {
        /// How long.
        leaves_in: Duration,
    },
    /// It gives its slots away and hands over what it has.
    Leave(TargetReason),
    /// It owns nothing at once: it won't come back.
    Remove,
}

impl Part {
    fn stays(self) -> bool {
        matches!(self, Self::Serve | Self::Follow { .. })
    }

    /// As its status says it.
    fn target(self) -> Option<NodeTarget> {
        match self {
            Self::Serve => None,
            Self::Follow { .. } => Some(NodeTarget { state: TargetState::Serving, reason: TargetReason::Cordoned }),
            Self::Leave(reason) => Some(NodeTarget { state: TargetState::Gone, reason }),
            Self::Remove => Some(NodeTarget { state: TargetState::Gone, reason: TargetReason::Requested }),
        }
    }
}

/// What becomes of a node; `chosen` is nothing when no pool chooses it, or when it isn't there any more.
fn part(chosen: Option<&ChosenNode>, request: NodeRequest, after_cordon: Duration, now: Timestamp) -> Part {
    match (request, chosen) {
        (NodeRequest::Remove, _) => Part::Remove,
        (_, None) => Part::Leave(TargetReason::NodeDeleted),
        (NodeRequest::Drain, Some(_)) => Part::Leave(TargetReason::Requested),
        (NodeRequest::None, Some(node)) if node.is_reclaimed => Part::Leave(TargetReason::AutoscalerTaint),
        (NodeRequest::None, Some(node)) => {
            let Some(since) = node.cordoned_since else { return Part::Serve };
            let passed = Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO);
            match after_cordon.saturating_sub(passed) {
                Duration::ZERO => Part::Leave(TargetReason::Cordoned),
                leaves_in => Part::Follow { leaves_in },
            }
        }
    }
}

/// What was decided.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    /// Where it isn't to serve as all others.
    pub targets: BTreeMap<NodeName, NodeTarget>,
    /// When the next cordoned node is to leave.
    pub again_in: Option<Duration>,
}

/// What people ask of the cluster's nodes.
fn requests(names: &Names, context: &Context) -> BTreeMap<String, NodeRequest> {
    let nodes = context.cache_nodes.state();
    let nodes = nodes.iter().filter_map(|guarded| guarded.0.as_ref().ok());
    let ours = nodes.filter(|node| {
        node.namespace().as_deref() == Some(&names.namespace) && node.spec.cluster_name == names.cluster
    });
    ours.map(|node| (node.spec.node_name.clone(), node.spec.request)).collect()
}

/// Tells the authority who leaves, who leads nothing and who stays.
pub async fn settle(
    cluster: &CacheCluster,
    running: &Running,
    validated: &Validated,
    context: &Context,
) -> Result<Settled, ReconcileError> {
    let requests = requests(&running.names, context);
    // A schema of ours has admitted it.
    let after_cordon = cluster.spec.after_cordon().unwrap_or(Duration::MAX);
    let now = Timestamp::now();
    let chosen = |name: &NodeName| validated.nodes.iter().find(|node| node.name == *name);
    let part_of = |name: &NodeName| {
        let request = requests.get(name.as_str()).copied().unwrap_or_default();
        part(chosen(name), request, after_cordon, now)
    };
    let nodes = running.authority.nodes();
    let names = validated.nodes.iter().map(|node| &node.name).chain(nodes.iter().map(|node| &node.name));
    let parts: BTreeMap<NodeName, Part> = names.map(|name| (name.clone(), part_of(name))).collect();
    let mut settled = Settled::default();
    let mut followers = BTreeSet::new();
    for (name, part) in &parts {
        settled.targets.extend(part.target().map(|target| (name.clone(), target)));
        if let Part::Follow { leaves_in } = part {
            followers.insert(name.clone());
            settled.again_in = Some(settled.again_in.map_or(*leaves_in, |sooner| sooner.min(*leaves_in)));
        }
    }
    running.authority.follow(followers);
    for node in nodes.iter().filter(|node| parts[&node.name].stays()) {
        if matches!(node.state, NodeState::Draining | NodeState::Gone) {
            tracing::info!(node = %node.name, "it is to serve again");
            running.authority.keep(&node.name);
        }
    }
    let leaving: Vec<(&NodeStatus, Part)> =
        nodes.iter().map(|node| (node, parts[&node.name])).filter(|(_, part)| !part.stays()).collect();
    if leaving.is_empty() {
        return Ok(settled);
    }
    let has_stores = |name: &NodeName| chosen(name).is_some_and(|node| node.has_stores);
    let would_stay =
        |node: &NodeStatus| node.state == NodeState::Serving && parts[&node.name].stays() && has_stores(&node.name);
    if !nodes.iter().any(would_stay) {
        tracing::warn!(cluster = running.names.cluster, "no node would stay: nobody leaves the map");
        return Ok(settled);
    }
    let is_uncordoned = |node: &NodeStatus| would_stay(node) && parts[&node.name] == Part::Serve;
    let waits = !nodes.iter().any(is_uncordoned);
    for (node, part) in leaving {
        if waits && part == Part::Leave(TargetReason::Cordoned) {
            tracing::debug!(node = %node.name, "every node is cordoned: it stays");
            continue;
        }
        leave(node, part, chosen(&node.name).is_some(), running, context).await?;
    }
    Ok(settled)
}

/// One more step of a node that leaves.
async fn leave(
    node: &NodeStatus,
    part: Part,
    is_chosen: bool,
    running: &Running,
    context: &Context,
) -> Result<(), ReconcileError> {
    match (node.state, part) {
        (NodeState::Gone, _) | (NodeState::Draining, Part::Leave(_)) => {}
        (_, Part::Remove) => {
            tracing::info!(node = %node.name, "it won't come back: others get its slots at once");
            running.authority.dismiss(&node.name);
            return Ok(());
        }
        _ => {
            tracing::info!(node = %node.name, ?part, "it gives its slots to others");
            running.authority.retire(&node.name);
            return Ok(());
        }
    }
    if is_chosen {
        return Ok(()); // Its agent stays, and serves its own mounts.
    }
    // Without its agent there is nothing that could be handed over.
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &running.names.namespace);
    let there = ListParams::default()
        .labels(&format!("{CLUSTER_LABEL}={}", running.names.cluster))
        .fields(&format!("spec.nodeName={}", node.name));
    if answer("listing a node's pods", pods.list(&there)).await?.items.is_empty() {
        tracing::info!(node = %node.name, "it leaves the map");
        let (authority, name) = (running.authority.clone(), node.name.clone());
        let removed = tokio::task::spawn_blocking(move || authority.remove(&name)).await;
        removed.unwrap_or_else(|_| Err(std::io::ErrorKind::Interrupted.into())).map_err(ReconcileError::Ledger)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn node() -> ChosenNode {
        ChosenNode {
            name: NodeName::parse("n1").expect("a name"),
            domain: "a".into(),
            has_stores: true,
            uid: "u".into(),
            cordoned_since: None,
            is_reclaimed: false,
        }
    }

    #[test]
    fn who_leaves_and_why() {
        let wait = Duration::from_secs(30);
        let of = |node: Option<&ChosenNode>, request| part(node, request, wait, at(100));
        let (plain, cordoned) = (node(), ChosenNode { cordoned_since: Some(at(80)), ..node() });
        let long_ago = ChosenNode { cordoned_since: Some(at(70)), ..node() };
        let reclaimed = ChosenNode { is_reclaimed: true, ..cordoned.clone() };
        assert_eq!(of(Some(&plain), NodeRequest::None), Part::Serve);
        assert_eq!(of(Some(&cordoned), NodeRequest::None), Part::Follow { leaves_in: Duration::from_secs(10) });
        assert_eq!(of(Some(&long_ago), NodeRequest::None), Part::Leave(TargetReason::Cordoned));
        assert_eq!(of(Some(&reclaimed), NodeRequest::None), Part::Leave(TargetReason::AutoscalerTaint));
        assert_eq!(of(Some(&plain), NodeRequest::Drain), Part::Leave(TargetReason::Requested));
        assert_eq!(of(None, NodeRequest::None), Part::Leave(TargetReason::NodeDeleted));
        for node in [Some(&plain), None] {
            assert_eq!(of(node, NodeRequest::Remove), Part::Remove);
        }
        let ahead = ChosenNode { cordoned_since: Some(at(200)), ..node() };
        assert_eq!(of(Some(&ahead), NodeRequest::None), Part::Follow { leaves_in: wait }, "another's clock is ahead");
    }

    #[test]
    fn targets_say_what_is_not_as_usual() {
        assert_eq!(Part::Serve.target(), None);
        let target = Part::Follow { leaves_in: Duration::ZERO }.target().expect("it is cordoned");
        assert_eq!((target.state, target.reason), (TargetState::Serving, TargetReason::Cordoned));
        assert_eq!(Part::Remove.target().map(|target| target.state), Some(TargetState::Gone));
    }
}
