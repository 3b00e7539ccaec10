//! A CacheCluster that is being deleted: it waits for its volumes, then its authority stops and the rest is collected.
//!
//! The garbage collector removes what carries an owner reference. Stores on the disks are kept.

use kube::ResourceExt;
use kube::runtime::controller::Action;
use larder_crds::{CacheCluster, ClusterReadyReason};

use super::super::context::Context;
use super::super::names::CLUSTER_FINALIZER;
use super::super::report;
use super::dereference::refers;
use super::{RESYNC, ReconcileError, apply, name_of};
use crate::manifest::ObjectName;

/// A person's word that waiting is over.
const FORCE: &str = "larder.dev/force-delete";

/// Names of holders that a message shows.
const SHOWN: usize = 5;

/// Lets go, or says who holds it.
pub async fn finish(cluster: &CacheCluster, name: &ObjectName, context: &Context) -> Result<Action, ReconcileError> {
    let holders: Vec<ObjectName> = context
        .volumes
        .state()
        .iter()
        .filter_map(|guarded| guarded.0.as_ref().ok())
        .filter(|volume| refers(volume, name) && volume.metadata.deletion_timestamp.is_none())
        .map(|volume| name_of(&volume.metadata))
        .collect();
    let forced = cluster.annotations().get(FORCE).is_some_and(|value| value == "true");
    if !holders.is_empty() && !forced {
        let shown: Vec<String> = holders.iter().take(SHOWN).map(ToString::to_string).collect();
        let message = format!("waits until {} CacheVolumes are deleted: {}", holders.len(), shown.join(", "));
        report::refuse(context, cluster, ClusterReadyReason::Deleting, &message).await?;
        return Ok(Action::requeue(RESYNC));
    }
    context.authorities.stop(name).await;
    if cluster.finalizers().iter().any(|finalizer| finalizer == CLUSTER_FINALIZER) {
        apply::write_finalizers(name, &[], context).await?;
    }
    context.backoff.forget(&name.to_string());
    Ok(Action::await_change())
}
