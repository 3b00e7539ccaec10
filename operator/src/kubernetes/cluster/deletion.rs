//! A CacheCluster that is being deleted: it waits for its volumes, then its authority stops and the rest is collected.
//!
//! The garbage collector removes what carries an owner reference. Stores on the disks are kept. Nobody is waited for when the
//! whole namespace goes.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};
use larder_crds::{CacheCluster, ClusterReadyReason};

use super::super::claims::is_going;
use super::super::context::Context;
use super::super::names::CLUSTER_FINALIZER;
use super::super::report;
use super::dereference::{answer, refers};
use super::{ReconcileError, apply, name_of};
use crate::manifest::ObjectName;

/// A person's word that waiting is over.
const FORCE: &str = "larder.dev/force-delete";

/// Nobody tells us that a namespace ends.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Names of holders that a message shows.
const SHOWN: usize = 5;

/// Lets go, or says who holds it.
pub async fn finish(cluster: &CacheCluster, name: &ObjectName, context: &Context) -> Result<Action, ReconcileError> {
    let holders: Vec<ObjectName> = context
        .volumes
        .state()
        .iter()
        .filter_map(|guarded| guarded.0.as_ref().ok())
        .filter(|volume| refers(volume, name) && !is_going(volume))
        .map(|volume| name_of(&volume.metadata))
        .collect();
    let forced = cluster.annotations().get(FORCE).is_some_and(|value| value == "true");
    if !holders.is_empty() && !forced && !namespace_ends(name, context).await? {
        let shown: Vec<String> = holders.iter().take(SHOWN).map(ToString::to_string).collect();
        let message = format!("waits until {} CacheVolumes are deleted: {}", holders.len(), shown.join(", "));
        report::refuse(context, cluster, ClusterReadyReason::Deleting, &message).await?;
        return Ok(Action::requeue(LOOK_AGAIN));
    }
    context.authorities.stop(name).await;
    if cluster.finalizers().iter().any(|finalizer| finalizer == CLUSTER_FINALIZER) {
        apply::write_finalizers(name, &[], context).await?;
    }
    context.backoff.forget(&name.to_string());
    Ok(Action::await_change())
}

async fn namespace_ends(name: &ObjectName, context: &Context) -> Result<bool, ReconcileError> {
    let namespaces: Api<Namespace> = Api::all(context.client.clone());
    let found = answer("reading the namespace", namespaces.get_opt(&name.namespace)).await?;
    Ok(found.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}
