//! Statuses of all three kinds, from what nodes report: looked at each second, written when they say something new.
//!
//! A status says which generation it is about; one that isn't applied yet is left alone, so `observedGeneration` never
//! runs ahead of what was done. The words are `status.rs`'s, the same as local mode's.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::Patch;
use kube::core::NamespaceResourceScope;
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource};
use larder_crds::{
    CacheCluster, CacheClusterStatus, CacheNode, CacheNodeStatus, CacheVolume, CacheVolumeStatus, ClusterConditionType,
    ClusterReadyReason, ConditionStatus, MinNodesMetReason, OriginReachableReason, PausedReason, StalledReason, Time,
    UpgradingReason, VolumeConditionType, VolumeReadyReason, condition, set_condition,
};
use larder_proto::map::ClusterMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::authorities::{Running, Told};
use super::cluster::ReconcileError;
use super::context::Context;
use super::names;
use crate::authority::NodeStatus;
use crate::manifest::ObjectName;
use crate::manifest::told::Refusal;
use crate::status::{self, NodeView, View};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A node that has not reported for this long is silent; reports come each second.
const SILENT_MS: u64 = 3_000;

/// Characters of an Event's note; the API server takes 1 KiB.
const NOTE_MAX: usize = 250;

/// Looks each second while this replica leads.
pub async fn look_after(context: Arc<Context>) {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! { biased;
            () = context.leading.cancelled() => return,
            _ = tick.tick() => {}
        }
        look(&context).await;
    }
}

/// One object whose status can't be written keeps no other from its own.
async fn look(context: &Context) {
    let running = context.authorities.all().await;
    let tell = |outcome: Result<(), ReconcileError>| {
        if let Err(error) = outcome {
            tracing::warn!(%error, "a status can't be written; the next look tries again");
        }
    };
    for guarded in context.clusters.state() {
        let Ok(cluster) = &guarded.0 else { continue };
        let name = super::cluster::name_of(&cluster.metadata);
        let Some(running) = running.get(&name).filter(|running| running.uid == uid(cluster)) else { continue };
        tell(report_cluster(context, cluster, &name, running).await);
    }
    for guarded in context.volumes.state() {
        let Ok(volume) = &guarded.0 else { continue };
        let own = super::cluster::name_of(&volume.metadata);
        let (namespace, cluster) = volume_cluster(volume, &own);
        let of = ObjectName { namespace, name: cluster };
        tell(report_volume(context, volume, &own, &of, running.get(&of)).await);
    }
}

fn uid(cluster: &CacheCluster) -> String {
    cluster.metadata.uid.clone().unwrap_or_default()
}

fn volume_cluster(volume: &CacheVolume, own: &ObjectName) -> (String, String) {
    let namespace = volume.spec.cluster_ref.namespace.clone().unwrap_or_else(|| own.namespace.clone());
    (namespace, volume.spec.cluster_ref.name.clone())
}

/// What a look sees of one cluster.
struct Seen {
    map: Option<Arc<ClusterMap>>,
    nodes: Vec<NodeView>,
    leaving: Vec<NodeView>,
    told: Told,
}

impl Seen {
    fn of(running: &Running) -> Self {
        let told = running.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut reported = running.authority.nodes();
        let is_live = |node: &NodeStatus| node.silent_ms.is_some_and(|silent| silent < SILENT_MS);
        let mut view = |name: &larder_proto::ids::NodeName| {
            let position = reported.iter().position(|node| node.name == *name);
            let reported = position.map(|position| reported.swap_remove(position));
            let is_live = reported.as_ref().is_some_and(is_live);
            let ended = told.last_words.get(name.as_str()).filter(|_| !is_live).cloned();
            NodeView { name: name.clone(), is_live, reported, ended }
        };
        let nodes = told.nodes.iter().map(&mut view).collect();
        // No pool chooses them any more, and they are on their way.
        let left = |reported: NodeStatus| NodeView {
            name: reported.name.clone(),
            is_live: is_live(&reported),
            reported: Some(reported),
            ended: None,
        };
        let leaving = reported.into_iter().map(left).collect();
        Self { map: running.authority.map(), nodes, leaving, told }
    }
}

async fn report_cluster(
    context: &Context,
    cluster: &CacheCluster,
    name: &ObjectName,
    running: &Running,
) -> Result<(), ReconcileError> {
    let seen = Seen::of(running);
    if seen.told.generation != cluster.metadata.generation || cluster.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let (volumes, now) = (running.authority.volumes(), now());
    let before = cluster.status.clone().unwrap_or_default();
    let view =
        View { map: seen.map.as_deref(), nodes: &seen.nodes, volumes: &volumes, problems: &before.problems, now: &now };
    let mut status = status::cluster(cluster, &before.conditions, view);
    let (is_true, reason, message) = seen.told.rollout.condition();
    let type_ = ClusterConditionType::Upgrading;
    let upgrading = condition(type_, is_true, reason, message, cluster.metadata.generation, now.clone());
    set_condition(&mut status.conditions, upgrading);
    let (is_paused, reason, message) = match seen.told.is_paused {
        true => (ConditionStatus::True, PausedReason::Paused, "spec.paused is true: nothing is changed"),
        false => (ConditionStatus::False, PausedReason::NotPaused, "the operator does what the spec says"),
    };
    let type_ = ClusterConditionType::Paused;
    let generation = cluster.metadata.generation;
    set_condition(&mut status.conditions, condition(type_, is_paused, reason, message, generation, now.clone()));
    let too_large = running.authority.is_map_too_large().then(|| {
        let message = "the map has grown beyond 700 KiB and isn't published: the one before it stays; use fewer nodes";
        (StalledReason::MapTooLarge, message.to_owned())
    });
    stall(&mut status.conditions, too_large, generation);
    if let Some(why) = &seen.told.pods_missing {
        let ready = ClusterConditionType::Ready.as_str();
        let not_ready = status.conditions.iter_mut().filter(|found| found.type_ == ready && found.status != "True");
        not_ready.for_each(|found| found.message = format!("{}; {why}", found.message));
    }
    announce(context, &cluster.object_ref(&()), &before.conditions, &status.conditions).await;
    write::<CacheCluster>(context, name, &status).await?;
    for node in seen.nodes.iter().chain(&seen.leaving) {
        let object =
            ObjectName { namespace: name.namespace.clone(), name: names::cache_node(&name.name, node.name.as_str()) };
        let status = CacheNodeStatus {
            node_uid: seen.told.uids.get(&node.name).cloned(),
            target: seen.told.targets.get(&node.name).cloned(),
            ..status::node(node)
        };
        write::<CacheNode>(context, &object, &status).await?;
    }
    Ok(())
}

/// Says that a person must act, or says it no more.
fn stall(conditions: &mut Vec<Condition>, why: Option<(StalledReason, String)>, generation: Option<i64>) {
    let type_ = ClusterConditionType::Stalled;
    match why {
        Some((reason, message)) => {
            set_condition(conditions, condition(type_, ConditionStatus::True, reason, message, generation, now()));
        }
        None => conditions.retain(|found| found.type_ != type_.as_str()),
    }
}

async fn report_volume(
    context: &Context,
    volume: &CacheVolume,
    name: &ObjectName,
    cluster: &ObjectName,
    running: Option<&Running>,
) -> Result<(), ReconcileError> {
    if volume.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let earlier = volume.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let Some(running) = running else {
        let known = context.clusters.state();
        let known = known.iter().filter_map(|guarded| guarded.0.as_ref().ok());
        if known.map(|known| super::cluster::name_of(&known.metadata)).any(|known| known == *cluster) {
            return Ok(()); // Its reconcile is under way, or has said why it isn't.
        }
        let message = format!("there is no CacheCluster {cluster}");
        return refuse_volume(context, volume, name, VolumeReadyReason::ClusterNotFound, message).await;
    };
    let seen = Seen::of(running);
    match seen.told.volumes.get(name) {
        None => {
            let message = format!("CacheCluster {cluster} doesn't take volumes of this namespace (allowedNamespaces)");
            if allows(context, volume, cluster) || seen.told.generation.is_none() {
                return Ok(());
            }
            refuse_volume(context, volume, name, VolumeReadyReason::NamespaceNotAllowed, message).await
        }
        Some((generation, _)) if *generation != volume.metadata.generation => Ok(()),
        Some((_, Err(Refusal { field, message, of_secret }))) => {
            let reason = match (*of_secret, *field) {
                (true, _) => VolumeReadyReason::SecretNotFound,
                (false, "spec.origin.local") => VolumeReadyReason::NotSupported,
                (false, "spec.replicas") => VolumeReadyReason::TooFewNodes,
                (false, _) => VolumeReadyReason::Invalid,
            };
            refuse_volume(context, volume, name, reason, format!("{field}: {message}")).await
        }
        Some((_, Ok(id))) => {
            let (volumes, now) = (running.authority.volumes(), now());
            let view =
                View { map: seen.map.as_deref(), nodes: &seen.nodes, volumes: &volumes, problems: &[], now: &now };
            let status = status::volume(volume, *id, &earlier, view);
            announce(context, &volume.object_ref(&()), &earlier, &status.conditions).await;
            write::<CacheVolume>(context, name, &status).await
        }
    }
}

fn allows(context: &Context, volume: &CacheVolume, cluster: &ObjectName) -> bool {
    let known = context.clusters.state();
    let found = known.iter().filter_map(|guarded| guarded.0.as_ref().ok());
    let mut found = found.filter(|known| super::cluster::name_of(&known.metadata) == *cluster);
    found.next().is_some_and(|found| super::cluster::cluster_allows(found, cluster, volume, context))
}

/// Says why a volume can't be read, or what its deletion waits for.
pub async fn refuse_volume(
    context: &Context,
    volume: &CacheVolume,
    name: &ObjectName,
    reason: VolumeReadyReason,
    message: String,
) -> Result<(), ReconcileError> {
    let mut status = volume.status.clone().unwrap_or_default();
    let generation = volume.metadata.generation;
    let ready = condition(VolumeConditionType::Ready, ConditionStatus::False, reason, message, generation, now());
    let earlier = status.conditions.clone();
    set_condition(&mut status.conditions, ready);
    announce(context, &volume.object_ref(&()), &earlier, &status.conditions).await;
    let status = CacheVolumeStatus { observed_generation: generation, origin: volume.spec.origin.text(), ..status };
    write::<CacheVolume>(context, name, &status).await
}

/// Says why nothing is made of a CacheCluster, or what its deletion waits for.
pub async fn refuse(
    context: &Context,
    cluster: &CacheCluster,
    reason: ClusterReadyReason,
    message: &str,
) -> Result<(), ReconcileError> {
    let mut status = cluster.status.clone().unwrap_or_default();
    let generation = cluster.metadata.generation;
    let ready = condition(ClusterConditionType::Ready, ConditionStatus::False, reason, message, generation, now());
    let earlier = status.conditions.clone();
    set_condition(&mut status.conditions, ready);
    let stalled = match reason {
        ClusterReadyReason::Invalid => Some(StalledReason::Invalid),
        ClusterReadyReason::StoreConflict => Some(StalledReason::StoreConflict),
        ClusterReadyReason::WaitingForNodes
        | ClusterReadyReason::BelowMinNodes
        | ClusterReadyReason::SlotsLost
        | ClusterReadyReason::Deleting
        | ClusterReadyReason::Serving => None,
    };
    stall(&mut status.conditions, stalled.map(|reason| (reason, message.to_owned())), generation);
    announce(context, &cluster.object_ref(&()), &earlier, &status.conditions).await;
    let status = CacheClusterStatus { observed_generation: generation, cache_id: Some(cluster.cache_id()), ..status };
    write::<CacheCluster>(context, &super::cluster::name_of(&cluster.metadata), &status).await
}

/// An Event for each condition that says another reason than before; nobody is kept waiting by one that can't be written.
async fn announce(context: &Context, whom: &ObjectReference, before: &[Condition], after: &[Condition]) {
    for now in after {
        let was = before.iter().find(|was| was.type_ == now.type_);
        let as_ever = was.is_none() && now.reason == PausedReason::NotPaused.as_str();
        if as_ever || was.is_some_and(|was| was.reason == now.reason) || context.leading.is_cancelled() {
            continue;
        }
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        // The same twice in a row: the object in the store isn't yet what was written.
        let key = format!("Event {} {}/{} {}", part(&whom.kind), part(&whom.namespace), part(&whom.name), now.type_);
        let said = json!({"reason": now.reason});
        if !context.written.is_news(&key, &said, Instant::now()) {
            continue;
        }
        context.written.remember(&key, said, Instant::now());
        let event = Event {
            type_: if is_warning(now) { EventType::Warning } else { EventType::Normal },
            reason: now.reason.clone(),
            note: Some(now.message.chars().take(NOTE_MAX).collect()),
            action: format!("Report{}", now.type_),
            secondary: None,
        };
        let published = context.recorder.publish(&event, whom);
        match tokio::time::timeout(super::context::REQUEST, published).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, key, "an Event can't be written"),
            Err(_) => tracing::warn!(key, "an Event can't be written: no answer"),
        }
    }
}

/// An Event about what the operator does.
pub async fn say(context: &Context, cluster: &CacheCluster, reason: &str, action: &str, note: &str) {
    let event = Event {
        type_: EventType::Normal,
        reason: reason.into(),
        note: Some(note.into()),
        action: action.into(),
        secondary: None,
    };
    let whom = cluster.object_ref(&());
    let published = context.recorder.publish(&event, &whom);
    if !matches!(tokio::time::timeout(super::context::REQUEST, published).await, Ok(Ok(()))) {
        tracing::warn!(reason, "an Event can't be written");
    }
}

/// Whether somebody should look: what is only waited for, or goes on, is normal.
fn is_warning(condition: &Condition) -> bool {
    let waited_for = [
        ClusterReadyReason::WaitingForNodes.as_str(),
        ClusterReadyReason::Deleting.as_str(),
        VolumeReadyReason::NotMounted.as_str(),
        MinNodesMetReason::TooFewNodes.as_str(),
        OriginReachableReason::NotAsked.as_str(),
    ];
    let is = |type_: ClusterConditionType| condition.type_ == type_.as_str();
    if is(ClusterConditionType::Upgrading) || is(ClusterConditionType::Rebalancing) {
        return condition.reason == UpgradingReason::RolloutPaused.as_str();
    }
    if is(ClusterConditionType::Paused) {
        return false;
    }
    if is(ClusterConditionType::Degraded) || is(ClusterConditionType::Stalled) {
        return condition.status == "True";
    }
    condition.status != "True" && !waited_for.contains(&condition.reason.as_str())
}

/// Writes a status if it says something new. An object that is gone has none.
async fn write<K>(context: &Context, name: &ObjectName, status: &impl Serialize) -> Result<(), ReconcileError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let key = format!("{} {name}", K::kind(&()));
    let status: Value = serde_json::to_value(status).expect("statuses are JSON");
    let at = Instant::now();
    if context.leading.is_cancelled() || !context.written.is_news(&key, &status, at) {
        return Ok(());
    }
    let api: Api<K> = Api::namespaced(context.client.clone(), &name.namespace);
    let patch = Patch::Apply(json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": status}));
    let params = super::cluster::params();
    let written = api.patch_status(&name.name, &params, &patch);
    match tokio::time::timeout(super::context::REQUEST, written).await {
        Ok(Ok(_)) => {
            context.metrics.statuses.fetch_add(1, Ordering::Relaxed);
            context.written.remember(&key, status, at);
            Ok(())
        }
        Ok(Err(kube::Error::Api(answer))) if answer.code == 404 => {
            context.written.forget(&key);
            Ok(())
        }
        Ok(Err(error)) => Err(ReconcileError::Api { what: format!("the status of {key}"), error: Box::new(error) }),
        Err(_) => Err(ReconcileError::Deadline { what: format!("the status of {key}") }),
    }
}

fn now() -> Time {
    // Kubernetes keeps whole seconds.
    let now = jiff::Timestamp::now();
    Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))
}
