//! Agents that are outdated are replaced: at most `maxUnavailable` at a time, all of one failure domain, and only while
//! every other one serves and every slot keeps an owner that does.
//!
//! A DaemonSet (`OnDelete`) never replaces a pod by itself; a pod carries the digest of what it was made from. [`next`] is
//! pure and decides whose turn it is; a pod is evicted, so a PodDisruptionBudget that somebody made is kept. Who isn't ready
//! and is outdated goes first: nobody reads through it, and a bad image is left this way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{EvictParams, ListParams};
use kube::{Api, ResourceExt};
use larder_crds::{CacheCluster, ConditionStatus, UpgradingReason};
use larder_proto::ids::{NodeName, Slot};
use larder_proto::map::{ClusterMap, NodeState};

use super::super::authorities::Running;
use super::super::context::Context;
use super::super::names::{CLUSTER_LABEL, POOL_LABEL, TEMPLATE};
use super::ReconcileError;
use super::dereference::answer;
use super::plan::{Owned, OwnedKind};
use super::validate::Validated;

/// While agents are being replaced.
pub const LOOK_AGAIN: Duration = Duration::from_secs(3);

/// A new agent that isn't ready after this long has failed.
const READY_WITHIN_S: i64 = 300;

/// Reports come each second.
const SILENT_MS: u64 = 3_000;

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Rollout {
    /// Every agent is as it should be.
    #[default]
    UpToDate,
    /// Some are outdated, and this is what happens or what is waited for.
    Goes {
        /// How many are left.
        outdated: usize,
        /// For people.
        what: String,
    },
    /// A new agent isn't ready in time.
    Paused {
        /// How many are left.
        outdated: usize,
        /// The node.
        node: String,
    },
}

impl Rollout {
    /// What the condition Upgrading says.
    pub fn condition(&self) -> (ConditionStatus, UpgradingReason, String) {
        match self {
            Self::UpToDate => {
                (ConditionStatus::False, UpgradingReason::UpToDate, "every agent is as it should be".into())
            }
            Self::Goes { outdated, what } => {
                (ConditionStatus::True, UpgradingReason::RollingOut, format!("{outdated} agents are outdated; {what}"))
            }
            Self::Paused { outdated, node } => (
                ConditionStatus::False,
                UpgradingReason::RolloutPaused,
                format!("the new agent of {node} isn't ready; {outdated} outdated ones are left alone"),
            ),
        }
    }
}

/// An agent's pod.
#[derive(Clone, Debug)]
struct AgentPod {
    name: String,
    node: String,
    is_current: bool,
    is_ready: bool,
    is_ending: bool,
    age_s: i64,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
struct Decision {
    evict: Option<String>,
    rollout: Rollout,
}

/// How many may be away at once, and of what.
struct Bounds<'a> {
    /// Agents.
    most: usize,
    /// Whether every slot keeps an owner that serves while these are away.
    keeps: &'a (dyn Fn(&BTreeSet<&str>) -> bool + Sync),
}

/// Whose turn it is. `serving` are the nodes that serve at the newest epoch, `chosen` those that should have an agent, with
/// their failure domains.
fn next(pods: &[AgentPod], chosen: &[(&str, &str)], serving: &[&str], bounds: &Bounds<'_>) -> Decision {
    let mut outdated: Vec<&AgentPod> = pods.iter().filter(|pod| !pod.is_current && !pod.is_ending).collect();
    outdated.sort_by_key(|pod| (pod.is_ready, pod.node.clone()));
    let left = outdated.len();
    let waits = |what: String| Decision { evict: None, rollout: Rollout::Goes { outdated: left, what } };
    let Some(first) = outdated.first() else {
        return Decision { evict: None, rollout: Rollout::UpToDate };
    };
    let evicts = |pod: &AgentPod| Decision {
        evict: Some(pod.name.clone()),
        rollout: Rollout::Goes { outdated: left, what: format!("that of {} is replaced", pod.node) },
    };
    if !first.is_ready {
        return evicts(first);
    }
    let late = pods.iter().find(|pod| pod.is_current && !pod.is_ready && !pod.is_ending && pod.age_s > READY_WITHIN_S);
    if let Some(late) = late {
        return Decision { evict: None, rollout: Rollout::Paused { outdated: left, node: late.node.clone() } };
    }
    let away = away(pods, chosen, serving);
    let domain = |node: &str| chosen.iter().find(|(name, _)| *name == node).map(|(_, domain)| *domain);
    // Who is away already is joined by others of its domain only.
    let fits = |pod: &&&AgentPod| away.keys().all(|node| *node != pod.node && domain(node) == domain(&pod.node));
    let candidate = outdated.iter().find(fits).filter(|_| away.len() < bounds.most);
    match (candidate, away.iter().next()) {
        (Some(pod), _) => {
            let together: BTreeSet<&str> = away.keys().copied().chain([pod.node.as_str()]).collect();
            if (bounds.keeps)(&together) {
                return evicts(pod);
            }
            waits(format!("without {} some slots would have no owner that serves", pod.node))
        }
        (None, Some((node, why))) => waits(format!("{node} {why}")),
        (None, None) => waits("nobody may be away".into()),
    }
}

/// Nodes whose agent can't be counted on now, and why.
fn away<'a>(pods: &[AgentPod], chosen: &[(&'a str, &str)], serving: &[&str]) -> BTreeMap<&'a str, &'static str> {
    let of = |node: &str| pods.iter().find(|pod| pod.node == node && !pod.is_ending);
    let why = |node: &str| match of(node) {
        None => Some("has no agent yet"),
        Some(pod) if !pod.is_ready => Some("has an agent that isn't ready yet"),
        Some(_) if !serving.contains(&node) => Some("doesn't serve yet"),
        Some(_) => None,
    };
    chosen.iter().filter_map(|(node, _)| Some((*node, why(node)?))).collect()
}

/// Whether every slot keeps an owner that serves while `away` are not there. A slot with one owner can't: its reads go to
/// the origin meanwhile, and no other slot's beside them.
fn keeps_owners(map: Option<&ClusterMap>, serving: &[&str], away: &BTreeSet<&str>) -> bool {
    let Some(map) = map else { return true };
    let stays = |name: &NodeName| serving.contains(&name.as_str()) && !away.contains(name.as_str());
    let kept: BTreeSet<_> = map.nodes().iter().filter(|node| stays(&node.name)).map(|node| node.id).collect();
    Slot::all().map(|slot| map.owners(slot)).all(|owners| match owners {
        [_] => away.len() <= 1,
        owners => owners.is_empty() || owners.iter().any(|owner| kept.contains(owner)),
    })
}

/// What was found and done.
#[derive(Clone, Debug, Default)]
pub struct Advanced {
    /// How far it is.
    pub rollout: Rollout,
    /// Why agents don't run, by node.
    pub last_words: BTreeMap<String, String>,
}

/// Replaces one agent, if it is time.
pub async fn advance(
    cluster: &CacheCluster,
    running: &Running,
    validated: &Validated,
    planned: &[Owned],
    context: &Context,
) -> Result<Advanced, ReconcileError> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &running.names.namespace);
    let ours = ListParams::default().labels(&format!("{CLUSTER_LABEL}={}", running.names.cluster));
    let wanted = digests(planned);
    let listed = answer("listing agents' pods", api.list(&ours)).await?.items;
    let pods: Vec<AgentPod> = listed.iter().filter_map(|pod| agent(pod, &wanted)).collect();
    let epoch = running.authority.epoch();
    let reported = running.authority.nodes();
    let serves = reported.iter().filter(|node| {
        let is_live = node.silent_ms.is_some_and(|silent| silent < SILENT_MS);
        is_live && node.state == NodeState::Serving && Some(node.epoch) == epoch && node.unmet.is_empty()
    });
    let serving: Vec<&str> = serves.map(|node| node.name.as_str()).collect();
    // One that is drained serves nobody that must be waited for.
    let is_drained = |name: &str| {
        let found = reported.iter().find(|node| node.name.as_str() == name);
        found.is_some_and(|node| matches!(node.state, NodeState::Draining | NodeState::Gone))
    };
    let chosen = validated.nodes.iter().map(|node| (node.name.as_str(), &*node.domain));
    let chosen: Vec<(&str, &str)> = chosen.filter(|(name, _)| !is_drained(name)).collect();
    let map = running.authority.map();
    let bounds = Bounds {
        most: usize::try_from(cluster.spec.rollout.max_unavailable).unwrap_or(1).max(1),
        keeps: &|away| keeps_owners(map.as_deref(), &serving, away),
    };
    let decision = next(&pods, &chosen, &serving, &bounds);
    if let Some(pod) = &decision.evict {
        tracing::info!(pod, cluster = running.names.cluster, "an outdated agent is replaced");
        match api.evict(pod, &EvictParams::default()).await {
            // Gone already, or a budget keeps it for now: the next look sees.
            Err(kube::Error::Api(said)) if [404, 429].contains(&said.code) => {}
            outcome => drop(answer("replacing an agent", async { outcome }).await?),
        }
    }
    Ok(Advanced { rollout: decision.rollout, last_words: listed.iter().filter_map(last_words).collect() })
}

/// The node of a pod whose agent doesn't run, and why: the kubelet's word, and the agent's own last ones.
fn last_words(pod: &Pod) -> Option<(String, String)> {
    const SHOWN: usize = 300;
    let node = pod.spec.as_ref()?.node_name.clone()?;
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
    let ended = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    let ended = ended.or_else(|| status.last_state.as_ref().and_then(|state| state.terminated.as_ref()));
    let reason = match (waiting, ended) {
        (Some(waiting), _) => waiting.reason.clone()?,
        (None, Some(_)) if status.ready => return None,
        (None, Some(ended)) => ended.reason.clone()?,
        (None, None) => return None,
    };
    if ["ContainerCreating", "PodInitializing"].contains(&reason.as_str()) {
        return None;
    }
    let said = ended.and_then(|ended| ended.message.as_deref());
    let said = said.or_else(|| waiting.and_then(|waiting| waiting.message.as_deref())).unwrap_or_default();
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    let last: String = last.chars().take(SHOWN).collect();
    Some((
        node,
        if last.is_empty() { format!("doesn't run: {reason}") } else { format!("doesn't run: {reason}: {last}") },
    ))
}

/// The digest that each pool's agents should carry.
fn digests(planned: &[Owned]) -> BTreeMap<String, String> {
    let sets = planned.iter().filter(|owned| owned.kind == OwnedKind::DaemonSet);
    let pair = |set: &Owned| {
        let template = &set.object["spec"]["template"]["metadata"];
        let pool = template["labels"][POOL_LABEL].as_str()?;
        Some((pool.to_owned(), template["annotations"][TEMPLATE].as_str()?.to_owned()))
    };
    sets.filter_map(pair).collect()
}

/// A pod that is bound to a node; others have nothing to replace.
fn agent(pod: &Pod, wanted: &BTreeMap<String, String>) -> Option<AgentPod> {
    let node = pod.spec.as_ref()?.node_name.clone()?;
    // A pool that is gone takes its pods with it.
    let wanted = wanted.get(pod.labels().get(POOL_LABEL)?)?;
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let is_ready = conditions
        .is_some_and(|conditions| conditions.iter().any(|found| found.type_ == "Ready" && found.status == "True"));
    let created = pod.metadata.creation_timestamp.as_ref().map_or_else(Timestamp::now, |time| time.0);
    Some(AgentPod {
        name: pod.name_any(),
        node,
        is_current: pod.annotations().get(TEMPLATE) == Some(wanted),
        is_ready,
        is_ending: pod.metadata.deletion_timestamp.is_some(),
        age_s: Timestamp::now().as_second() - created.as_second(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [&str; 3] = ["n1", "n2", "n3"];
    const CHOSEN: [(&str, &str); 3] = [("n1", "a"), ("n2", "b"), ("n3", "b")];
    const ONE: Bounds<'static> = Bounds { most: 1, keeps: &|_| true };

    fn pod(node: &str, is_current: bool, is_ready: bool) -> AgentPod {
        AgentPod { name: format!("p-{node}"), node: node.into(), is_current, is_ready, is_ending: false, age_s: 10 }
    }

    fn evicted(pods: &[AgentPod], serving: &[&str]) -> Option<String> {
        next(pods, &CHOSEN, serving, &ONE).evict
    }

    #[test]
    fn one_at_a_time_and_only_while_all_others_serve() {
        let pods = [pod("n1", true, true), pod("n2", false, true), pod("n3", false, true)];
        assert_eq!(evicted(&pods, &NODES), Some("p-n2".into()));
        assert_eq!(evicted(&pods, &["n2", "n3"]), None, "the new one doesn't serve yet");
        let starting = [pod("n1", true, false), pods[1].clone(), pods[2].clone()];
        assert_eq!(evicted(&starting, &NODES), None, "the new one isn't ready");
        assert_eq!(evicted(&pods[1..], &NODES), None, "the new one isn't there");
        let mut ending = pods.clone();
        ending[1].is_ending = true;
        assert_eq!(evicted(&ending, &NODES), None, "its successor isn't there");
        let done = NODES.map(|node| pod(node, true, true));
        assert_eq!(next(&done, &CHOSEN, &NODES, &ONE).rollout, Rollout::UpToDate);
    }

    #[test]
    fn several_at_once_are_of_one_domain_and_leave_every_slot_an_owner() {
        let two = Bounds { most: 2, keeps: &|_| true };
        let evicted =
            |pods: &[AgentPod], serving: &[&str], bounds: &Bounds<'_>| next(pods, &CHOSEN, serving, bounds).evict;
        let all = NODES.map(|node| pod(node, false, true));
        assert_eq!(evicted(&all, &NODES, &two), Some("p-n1".into()));
        assert_eq!(evicted(&all[1..], &NODES, &two), None, "n1 is alone in its domain");
        let without_n2 = [pod("n1", true, true), pod("n3", false, true)];
        assert_eq!(evicted(&without_n2, &["n1", "n3"], &two), Some("p-n3".into()), "n2 is of the same domain");
        assert_eq!(evicted(&without_n2, &["n1", "n3"], &ONE), None);
        let needs_n3 = Bounds { most: 2, keeps: &|away| !away.contains("n3") };
        assert_eq!(evicted(&without_n2, &["n1", "n3"], &needs_n3), None);
    }

    #[test]
    fn a_new_agent_that_fails_pauses_and_one_that_is_outdated_and_fails_goes_first() {
        let mut pods = [pod("n1", true, false), pod("n2", false, true), pod("n3", false, true)];
        pods[0].age_s = READY_WITHIN_S + 1;
        let paused = next(&pods, &CHOSEN, &NODES, &ONE);
        assert_eq!((paused.evict, paused.rollout), (None, Rollout::Paused { outdated: 2, node: "n1".into() }));
        // Another image is wanted now: what failed is outdated too.
        pods[0].is_current = false;
        assert_eq!(evicted(&pods, &["n2", "n3"]), Some("p-n1".into()));
    }
}
