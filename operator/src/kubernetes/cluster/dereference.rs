//! What a CacheCluster refers to, read: its nodes and volumes, the Secrets of their origins, its CA.
//!
//! Secrets are got one by one: the operator may not list them. Only `<cluster>-ca` is ever written, once.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, ResourceExt};
use larder_crds::{CacheCluster, CacheVolume};
use larder_proto::ids::VolumeId;
use larder_proto::volume::Volume;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::context::{Context, REQUEST};
use super::super::names::Names;
use super::plan::{Owned, OwnedKind, owner};
use super::{ReconcileError, name_of};
use crate::authority::Ca;
use crate::manifest::told::{self, Refusal};
use crate::manifest::{ObjectName, SecretData};

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";

/// Events of one DaemonSet that are looked at: the controller counts repeated ones up.
const EVENTS_MAX: u32 = 50;

/// What a CacheCluster refers to.
#[derive(Clone, Debug)]
pub struct Found {
    /// Labels of all nodes.
    pub nodes: BTreeMap<String, BTreeMap<String, String>>,
    /// The volumes that refer to it.
    pub volumes: Vec<FoundVolume>,
    /// An older CacheCluster of the same cacheId.
    pub same_cache_id: Option<ObjectName>,
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

/// Reads everything but the CA.
pub async fn find(cluster: &CacheCluster, name: &ObjectName, context: &Context) -> Result<Found, ReconcileError> {
    let nodes = context.nodes.state();
    let nodes = nodes.iter().map(|node| (node.name_any(), node.labels().clone())).collect();
    let mut volumes = Vec::new();
    for guarded in context.volumes.state() {
        let Ok(volume) = &guarded.0 else { continue };
        if refers(volume, name) && cluster_allows(cluster, name, volume) && volume.metadata.deletion_timestamp.is_none()
        {
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
pub fn cluster_allows(cluster: &CacheCluster, name: &ObjectName, volume: &CacheVolume) -> bool {
    let own = name_of(&volume.metadata).namespace;
    cluster.spec.allowed_namespaces.allows(&name.namespace, &own)
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
    let told = if local {
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

/// The cluster's CA, made at the first visit.
pub async fn ca(cluster: &CacheCluster, names: &Names, context: &Context) -> Result<Ca, ReconcileError> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &names.namespace);
    if let Some(found) = answer("reading the CA's Secret", secrets.get_opt(&names.ca())).await? {
        return ca_of(&found);
    }
    let (certificate, key) = Ca::generate()?;
    let data = [(CA_CERTIFICATE, certificate), (CA_KEY, key)];
    let metadata = ObjectMeta {
        name: Some(names.ca()),
        namespace: Some(names.namespace.clone()),
        labels: Some(names.labels()),
        owner_references: serde_json::from_value(Value::Array(vec![owner(cluster)])).ok(),
        ..ObjectMeta::default()
    };
    let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
    let secret = Secret { metadata, data: Some(data.into()), type_: Some("Opaque".into()), ..Secret::default() };
    let params = PostParams { field_manager: Some(super::super::names::MANAGER.into()), ..PostParams::default() };
    // Of two who make one, the first wins, and the second reads it at its next attempt.
    let made = answer("making the CA's Secret", secrets.create(&params, &secret)).await?;
    tracing::info!(namespace = names.namespace, secret = names.ca(), "a new CA");
    ca_of(&made)
}

fn ca_of(secret: &Secret) -> Result<Ca, ReconcileError> {
    let text = |key: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        let text = bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        text.ok_or(ReconcileError::CaKey { key })
    };
    Ok(Ca::from_pem(text(CA_CERTIFICATE)?, &text(CA_KEY)?)?)
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
