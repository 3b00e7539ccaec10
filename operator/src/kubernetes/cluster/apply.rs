//! What was planned becomes so: server-side apply with one field manager, then what isn't planned any more goes.
//!
//! Applying what is there already changes nothing, not even a resourceVersion. Only objects that carry our label and
//! belong to this very CacheCluster are ever removed.

use std::collections::BTreeSet;

use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use larder_crds::{CacheCluster, CacheNode, NodeRequest};
use serde_json::json;

use super::super::context::Context;
use super::super::names::{self, CLUSTER_FINALIZER, CLUSTER_LABEL, MANAGER, Names};
use super::ReconcileError;
use super::dereference::answer;
use super::plan::{Owned, OwnedKind, owner};
use super::validate::Validated;
use crate::manifest::ObjectName;

/// How the operator applies.
pub fn params() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.into()), force: true, ..PatchParams::default() }.validation_strict()
}

fn resource(kind: OwnedKind) -> ApiResource {
    use k8s_openapi::api::{
        apps::v1::DaemonSet, core::v1, discovery::v1::EndpointSlice, networking::v1::NetworkPolicy,
    };
    match kind {
        OwnedKind::ServiceAccount => ApiResource::erase::<v1::ServiceAccount>(&()),
        OwnedKind::ConfigMap => ApiResource::erase::<v1::ConfigMap>(&()),
        OwnedKind::Service => ApiResource::erase::<v1::Service>(&()),
        OwnedKind::EndpointSlice => ApiResource::erase::<EndpointSlice>(&()),
        OwnedKind::NetworkPolicy => ApiResource::erase::<NetworkPolicy>(&()),
        OwnedKind::DaemonSet => ApiResource::erase::<DaemonSet>(&()),
    }
}

/// Applies in order, then removes the DaemonSets and ConfigMaps of pools that are gone.
pub async fn objects(planned: &[Owned], names: &Names, context: &Context) -> Result<(), ReconcileError> {
    each(planned.iter(), names, context).await?;
    for kind in [OwnedKind::DaemonSet, OwnedKind::ConfigMap] {
        let keep: BTreeSet<&str> =
            planned.iter().filter(|owned| owned.kind == kind).map(|owned| owned.name.as_str()).collect();
        sweep(kind, &keep, names, context).await?;
    }
    Ok(())
}

/// Where agents find the authority, and nothing else: what a paused cluster needs to go on.
pub async fn whereabouts(planned: &[Owned], names: &Names, context: &Context) -> Result<(), ReconcileError> {
    each(planned.iter().filter(|owned| owned.kind == OwnedKind::EndpointSlice), names, context).await
}

async fn each(planned: impl Iterator<Item = &Owned>, names: &Names, context: &Context) -> Result<(), ReconcileError> {
    for owned in planned {
        let api: Api<DynamicObject> =
            Api::namespaced_with(context.client.clone(), &names.namespace, &resource(owned.kind));
        let what = format!("applying {:?} {}", owned.kind, owned.name);
        answer(&what, api.patch(&owned.name, &params(), &Patch::Apply(&owned.object))).await?;
    }
    Ok(())
}

async fn sweep(kind: OwnedKind, keep: &BTreeSet<&str>, names: &Names, context: &Context) -> Result<(), ReconcileError> {
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &names.namespace, &resource(kind));
    let ours = ListParams::default().labels(&format!("{CLUSTER_LABEL}={}", names.cluster));
    let ledgers = [names.map(), names.node_ids()];
    for object in answer("listing what is owned", api.list(&ours)).await? {
        let name = object.name_any();
        let managed = object.labels().get("app.kubernetes.io/managed-by").is_some_and(|by| by == MANAGER);
        if !managed || keep.contains(name.as_str()) || ledgers.contains(&name) {
            continue;
        }
        tracing::info!(?kind, name, "removing what no pool needs any more");
        match api.delete(&name, &DeleteParams::background()).await {
            Err(kube::Error::Api(answer)) if answer.code == 404 => {}
            outcome => drop(answer("removing what isn't planned", async { outcome }).await?),
        }
    }
    Ok(())
}

/// Holds the CacheCluster until nothing refers to it.
pub async fn finalizer(cluster: &CacheCluster, name: &ObjectName, context: &Context) -> Result<(), ReconcileError> {
    if cluster.finalizers().iter().any(|finalizer| finalizer == CLUSTER_FINALIZER) {
        return Ok(());
    }
    write_finalizers(name, &[CLUSTER_FINALIZER], context).await
}

/// Applies exactly these finalizers of ours.
pub async fn write_finalizers(name: &ObjectName, finalizers: &[&str], context: &Context) -> Result<(), ReconcileError> {
    let api: Api<CacheCluster> = Api::namespaced(context.client.clone(), &name.namespace);
    let patch = json!({
        "apiVersion": CacheCluster::api_version(&()),
        "kind": CacheCluster::kind(&()),
        "metadata": {"name": name.name, "finalizers": finalizers},
    });
    match api.patch(&name.name, &params(), &Patch::Apply(&patch)).await {
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
        outcome => answer("writing the finalizer", async { outcome }).await.map(drop),
    }
}

/// A CacheNode for each node that is chosen; those of nodes that are neither chosen nor in the map go.
pub async fn cache_nodes(
    cluster: &CacheCluster,
    names: &Names,
    validated: &Validated,
    context: &Context,
) -> Result<(), ReconcileError> {
    let api: Api<CacheNode> = Api::namespaced(context.client.clone(), &names.namespace);
    let known: BTreeSet<String> = context.cache_nodes.state().iter().map(|node| full_name(&**node)).collect();
    let mut wanted = BTreeSet::new();
    for node in &validated.nodes {
        let name = names::cache_node(&names.cluster, node.name.as_str());
        let is_there = known.contains(&format!("{}/{name}", names.namespace));
        wanted.insert(name.clone());
        if is_there {
            continue;
        }
        let object = json!({
            "apiVersion": CacheNode::api_version(&()),
            "kind": CacheNode::kind(&()),
            "metadata": {
                "name": name,
                "namespace": names.namespace,
                "labels": names.labels(),
                "ownerReferences": [owner(cluster)],
            },
            "spec": {"clusterName": names.cluster, "nodeName": node.name.as_str()},
        });
        answer("applying a CacheNode", api.patch(&name, &params(), &Patch::Apply(&object))).await?;
    }
    let running =
        context.authorities.get(&ObjectName { namespace: names.namespace.clone(), name: names.cluster.clone() }).await;
    let in_map: BTreeSet<String> =
        running.iter().flat_map(|running| running.authority.nodes()).map(|node| node.name.to_string()).collect();
    for node in context.cache_nodes.state() {
        let Ok(node) = &node.0 else { continue };
        let ours = node.namespace().as_deref() == Some(&names.namespace) && node.spec.cluster_name == names.cluster;
        if ours && !wanted.contains(&node.name_any()) && !in_map.contains(&node.spec.node_name) {
            match api.delete(&node.name_any(), &DeleteParams::default()).await {
                Err(kube::Error::Api(answer)) if answer.code == 404 => {}
                outcome => drop(answer("removing a CacheNode", async { outcome }).await?),
            }
        }
    }
    Ok(())
}

/// Takes back a Remove that was asked of the node before this one: another one has come under its name.
pub async fn welcome(names: &Names, validated: &Validated, context: &Context) -> Result<(), ReconcileError> {
    let api: Api<CacheNode> = Api::namespaced(context.client.clone(), &names.namespace);
    for guarded in context.cache_nodes.state() {
        let Ok(node) = &guarded.0 else { continue };
        let ours = node.namespace().as_deref() == Some(&names.namespace) && node.spec.cluster_name == names.cluster;
        if !ours || node.spec.request != NodeRequest::Remove {
            continue;
        }
        let known = node.status.as_ref().and_then(|status| status.node_uid.as_deref());
        let there = validated.nodes.iter().find(|chosen| chosen.name.as_str() == node.spec.node_name);
        if known.zip(there).is_some_and(|(known, there)| known != there.uid) {
            tracing::info!(node = node.spec.node_name, "another node has come under its name");
            let patch = Patch::Merge(json!({"spec": {"request": NodeRequest::None}}));
            let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
            answer("taking a Remove back", api.patch(&node.name_any(), &params, &patch)).await?;
        }
    }
    Ok(())
}

fn full_name(object: &impl ResourceExt) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}
