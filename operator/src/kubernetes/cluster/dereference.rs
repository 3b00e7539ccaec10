//! What a CacheCluster refers to, read: its nodes and volumes, and the Secrets of their origins.
//!
//! Secrets are got one by one: the operator may not list them. None is ever written here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Event, Node, Secret};
use kube::api::ListParams;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use larder_crds::{CacheCluster, CacheVolume};
use larder_proto::ids::VolumeId;
use larder_proto::volume::Volume;
use serde_json::json;
use tokio::time::timeout;

use super::super::claims::is_going;
use super::super::context::{Context, REQUEST};
use super::super::names::Names;
use super::plan::{Owned, OwnedKind};
use super::{ReconcileError, name_of};
use crate::manifest::told::{self, Refusal};
use crate::manifest::{ObjectName, SecretData};

/// The taint of cordoned nodes.
const CORDONED: &str = "node.kubernetes.io/unschedulable";

/// Events of one DaemonSet that are looked at: the controller counts repeated ones up.
const EVENTS_MAX: u32 = 50;

/// What a CacheCluster refers to.
#[derive(Clone, Debug)]
pub struct Found {
    /// All nodes.
    pub nodes: BTreeMap<String, FoundNode>,
    /// The volumes that refer to it.
    pub volumes: Vec<FoundVolume>,
    /// An older CacheCluster of the same cacheId.
    pub same_cache_id: Option<ObjectName>,
}

/// A Kubernetes node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundNode {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Another node may come under its name.
    pub uid: String,
    /// Since when it is cordoned.
    pub cordoned_since: Option<Timestamp>,
    /// The keys of its taints.
    pub taints: BTreeSet<String>,
}

impl FoundNode {
    /// What the API server says of it. `first_seen` is when it was seen to be cordoned, for one whose taint doesn't say.
    pub fn read(node: &Node, first_seen: impl Fn(&str) -> Timestamp) -> Self {
        let spec = node.spec.as_ref();
        let taints = || spec.into_iter().flat_map(|spec| spec.taints.iter().flatten());
        let said = || taints().find(|taint| taint.key == CORDONED).and_then(|taint| Some(taint.time_added.as_ref()?.0));
        let is_cordoned = spec.and_then(|spec| spec.unschedulable) == Some(true);
        Self {
            labels: node.labels().clone(),
            uid: node.uid().unwrap_or_default(),
            cordoned_since: is_cordoned.then(|| said().unwrap_or_else(|| first_seen(&node.name_any()))),
            taints: taints().map(|taint| taint.key.clone()).collect(),
        }
    }
}

/// A CacheVolume, and what agents are told of it.
#[derive(Clone, Debug)]
pub struct FoundVolume {
    /// Its name.
    pub name: ObjectName,
    /// Its generation.
    pub generation: Option<i64>,
    /// What agents are told, or why they aren't.
    pub told: Result<Volume, Refusal>,
}

impl FoundVolume {
    /// Without credentials.
    pub fn summary(self) -> (ObjectName, (Option<i64>, Result<VolumeId, Refusal>)) {
        (self.name, (self.generation, self.told.map(|volume| volume.id)))
    }
}

/// Reads it all.
pub async fn find(cluster: &CacheCluster, name: &ObjectName, context: &Context) -> Result<Found, ReconcileError> {
    let nodes = context.nodes.state();
    let first_seen = |name: &str| context.cordons.first_seen(name);
    let nodes: BTreeMap<String, FoundNode> =
        nodes.iter().map(|node| (node.name_any(), FoundNode::read(node, first_seen))).collect();
    for (name, _) in nodes.iter().filter(|(_, node)| node.cordoned_since.is_none()) {
        context.cordons.forget(name);
    }
    let mut volumes = Vec::new();
    for guarded in context.volumes.state() {
        let Ok(volume) = &guarded.0 else { continue };
        let is_ours = refers(volume, name) && cluster_allows(cluster, name, volume, context);
        // One that waits for its claims goes on serving them.
        if is_ours && !is_going(volume) {
            volumes.push(read_volume(cluster, volume, context).await?);
        }
    }
    Ok(Found { nodes, volumes, same_cache_id: older_of_same_id(cluster, name, context) })
}

/// Whether `volume` names this cluster.
pub fn refers(volume: &CacheVolume, cluster: &ObjectName) -> bool {
    let own = name_of(&volume.metadata).namespace;
    let namespace = volume.spec.cluster_ref.namespace.as_deref().unwrap_or(&own);
    namespace == cluster.namespace && volume.spec.cluster_ref.name == cluster.name
}

/// Whether the cluster takes volumes of its namespace.
pub fn cluster_allows(cluster: &CacheCluster, name: &ObjectName, volume: &CacheVolume, context: &Context) -> bool {
    let own = name_of(&volume.metadata).namespace;
    let namespace = context.namespaces.get(&ObjectRef::new(&own));
    let labels = namespace.map(|namespace| namespace.labels().clone()).unwrap_or_default();
    cluster.spec.allowed_namespaces.allows(&name.namespace, &own, &labels)
}

async fn read_volume(
    cluster: &CacheCluster,
    volume: &CacheVolume,
    context: &Context,
) -> Result<FoundVolume, ReconcileError> {
    let name = name_of(&volume.metadata);
    let secret = match told::secret_of(&name, &volume.spec) {
        Some(secret) => Some(read_secret(&secret, context).await?),
        None => None,
    };
    let find = |wanted: &ObjectName| match &secret {
        Some(Ok(secret)) => Ok(secret),
        Some(Err(why)) => Err(why.clone()),
        None => Err(format!("no Secret {wanted}")),
    };
    let local = matches!(volume.spec.origin.member(), Some(larder_crds::OriginMember::Local(_)));
    let too_many = volume.spec.replicas.filter(|replicas| *replicas > cluster.spec.min_nodes);
    let told = if let Some(replicas) = too_many {
        let message = format!("{replicas} is more than the cluster's minNodes, {}", cluster.spec.min_nodes);
        Err(Refusal { field: "spec.replicas", message, of_secret: false })
    } else if local {
        let message = "a local directory is an origin in `larder up` only";
        Err(Refusal { field: "spec.origin.local", message: message.into(), of_secret: false })
    } else {
        told::volume(&name, volume, &cluster.cache_id(), find)
    };
    Ok(FoundVolume { name, generation: volume.metadata.generation, told })
}

/// The Secret's texts, or what is wrong with it.
async fn read_secret(name: &ObjectName, context: &Context) -> Result<Result<SecretData, String>, ReconcileError> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &name.namespace);
    let found = answer("reading an origin's Secret", secrets.get_opt(&name.name)).await?;
    let Some(secret) = found else { return Ok(Err(format!("there is no Secret {name}"))) };
    let value = json!({"metadata": {"name": name.name}, "data": secret.data.unwrap_or_default()});
    Ok(SecretData::read(&value).map_err(|violations| {
        let wrong: Vec<String> = violations.iter().map(ToString::to_string).collect();
        format!("Secret {name}: {}", wrong.join("; "))
    }))
}

fn older_of_same_id(cluster: &CacheCluster, name: &ObjectName, context: &Context) -> Option<ObjectName> {
    let age = |cluster: &CacheCluster, name: &ObjectName| {
        (cluster.metadata.creation_timestamp.as_ref().map(|time| time.0), name.clone())
    };
    let others = context.clusters.state();
    let others = others.iter().filter_map(|guarded| guarded.0.as_ref().ok());
    let same = others.map(|other| (name_of(&other.metadata), other)).filter(|(other_name, other)| {
        other_name != name && other.cache_id() == cluster.cache_id() && age(other, other_name) < age(cluster, name)
    });
    same.map(|(name, _)| name).min()
}

/// What the DaemonSet controller said last, where a DaemonSet has fewer pods than it wants: a quota, or an admission that
/// refuses them.
pub async fn why_pods_are_missing(
    planned: &[Owned],
    names: &Names,
    context: &Context,
) -> Result<Option<String>, ReconcileError> {
    let sets: Api<DaemonSet> = Api::namespaced(context.client.clone(), &names.namespace);
    for owned in planned.iter().filter(|owned| owned.kind == OwnedKind::DaemonSet) {
        let status = answer("reading a DaemonSet", sets.get_opt(&owned.name)).await?.and_then(|set| set.status);
        let is_short = status.is_some_and(|status| status.current_number_scheduled < status.desired_number_scheduled);
        if !is_short {
            continue;
        }
        let events: Api<Event> = Api::namespaced(context.client.clone(), &names.namespace);
        let about = format!("involvedObject.kind=DaemonSet,involvedObject.name={},reason=FailedCreate", owned.name);
        let wanted = ListParams::default().fields(&about).limit(EVENTS_MAX);
        let newest =
            answer("reading a DaemonSet's Events", events.list(&wanted)).await?.items.into_iter().max_by_key(last_seen);
        if let Some(message) = newest.and_then(|event| event.message) {
            return Ok(Some(format!("DaemonSet {} can't make pods: {message}", owned.name)));
        }
    }
    Ok(None)
}

fn last_seen(event: &Event) -> Option<jiff::Timestamp> {
    let counted = event.last_timestamp.as_ref().map(|time| time.0);
    counted.or_else(|| event.event_time.as_ref().map(|time| time.0))
}

/// A request's answer, in time.
pub async fn answer<T>(what: &str, request: impl Future<Output = kube::Result<T>>) -> Result<T, ReconcileError> {
    within(REQUEST, what, request).await
}

async fn within<T>(
    deadline: Duration,
    what: &str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, ReconcileError> {
    match timeout(deadline, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(ReconcileError::Api { what: what.to_owned(), error: Box::new(error) }),
        Err(_) => Err(ReconcileError::Deadline { what: what.to_owned() }),
    }
}
