//! One reconcile of a CacheCluster: dereference -> validate -> (its authority runs) -> plan -> apply. Statuses are written
//! by `report.rs`, from what nodes report, once this generation is applied.
//!
//! What the API server refuses or doesn't answer is tried again with backoff; what only the user can mend is said in
//! the status and waits for the next change.

use std::sync::Arc;
use std::time::Duration;

use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use larder_crds::{CacheCluster, ClusterReadyReason};

use super::authorities::AuthorityError;
use super::context::Context;
use super::names::Names;
use super::report;
use crate::authority::CaError;
use crate::manifest::ObjectName;

mod apply;
mod deletion;
mod dereference;
pub mod plan;
mod rollout;
mod validate;

pub use apply::params;
pub use rollout::Rollout;
pub use validate::{Refused, Validated, validate};

/// Secrets of origins are read this often; everything is applied again, which changes nothing where nothing changed.
const RESYNC: Duration = Duration::from_secs(60);

/// Why a reconcile is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server refuses or doesn't answer.
    #[error("{what}: {error}")]
    Api {
        /// What was asked.
        what: String,
        /// Why not.
        error: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("{what}: no answer in time")]
    Deadline {
        /// What was asked.
        what: String,
    },
    /// The Secret with the CA can't be used.
    #[error("the Secret with the CA's key: {0}")]
    Ca(#[from] CaError),
    /// The Secret with the CA lacks a key.
    #[error("the Secret with the CA's key has no {key}")]
    CaKey {
        /// Which.
        key: &'static str,
    },
    /// No authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The map's ConfigMaps.
    #[error("the map's ConfigMaps: {0}")]
    Ledger(std::io::Error),
}

/// Brings one CacheCluster nearer to what its spec says.
pub async fn reconcile(
    guarded: Arc<DeserializeGuard<CacheCluster>>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    if context.leading.is_cancelled() {
        return Ok(Action::await_change());
    }
    let cluster = match &guarded.0 {
        Ok(cluster) => cluster,
        Err(malformed) => {
            tracing::error!(name = ?malformed.metadata.name, error = %malformed.error, "a CacheCluster can't be read");
            return Ok(Action::await_change());
        }
    };
    let name = name_of(&cluster.metadata);
    let outcome = match cluster.metadata.deletion_timestamp {
        Some(_) => deletion::finish(cluster, &name, &context).await,
        None => advance(cluster, &name, &context).await,
    };
    if outcome.is_ok() {
        context.backoff.forget(&name.to_string());
    }
    outcome
}

async fn advance(cluster: &CacheCluster, name: &ObjectName, context: &Context) -> Result<Action, ReconcileError> {
    let found = dereference::find(cluster, name, context).await?;
    let validated = match validate(cluster, name, &found, &context.settings.allowed_prefixes) {
        Ok(validated) => validated,
        Err(refused) => {
            report::refuse(context, cluster, refused.reason, &refused.message).await?;
            return Ok(Action::requeue(RESYNC));
        }
    };
    apply::finalizer(cluster, name, context).await?;
    let names = Names { namespace: name.namespace.clone(), cluster: name.name.clone(), id: validated.id };
    let ca = dereference::ca(cluster, &names, context).await?;
    let trust_pem = ca.certificate_pem().to_owned();
    let running = context.authorities.ensure(context, name, cluster, &names, ca).await?;
    running.authority.place(validated.domains());
    let told: Vec<_> = found.volumes.iter().filter_map(|volume| volume.told.clone().ok()).collect();
    running.volumes.send_if_modified(|volumes| {
        let news = *volumes != told;
        *volumes = told;
        news
    });
    running.ledger.mend().await.map_err(ReconcileError::Ledger)?;
    let at = std::net::SocketAddr::new(context.settings.advertise, running.authority.address().port());
    let inputs = plan::Inputs {
        names: &names,
        image: &context.settings.agent_image,
        trust_pem: &trust_pem,
        authority: Some(at),
    };
    let planned = plan::plan(cluster, &inputs);
    apply::objects(&planned, &names, context).await?;
    apply::cache_nodes(cluster, &names, &validated, context).await?;
    apply::retire(&running, &validated, context).await?;
    let rollout = rollout::advance(&running, &validated, &planned, context).await?;
    let pods_missing = dereference::why_pods_are_missing(&planned, &names, context).await?;
    let again = if rollout == Rollout::UpToDate { RESYNC } else { rollout::LOOK_AGAIN };
    {
        let mut told = running.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        told.generation = cluster.metadata.generation;
        told.nodes = validated.nodes.iter().map(|node| node.name.clone()).collect();
        told.volumes = found.volumes.into_iter().map(dereference::FoundVolume::summary).collect();
        told.rollout = rollout;
        told.pods_missing = pods_missing;
    }
    Ok(Action::requeue(again))
}

/// How long a failed reconcile waits.
pub fn on_error(guarded: Arc<DeserializeGuard<CacheCluster>>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let metadata = match &guarded.0 {
        Ok(cluster) => &cluster.metadata,
        Err(malformed) => &malformed.metadata,
    };
    let name = name_of(metadata);
    let wait = context.backoff.failed(&name.to_string());
    tracing::warn!(cluster = %name, %error, again_in_s = wait.as_secs(), "a reconcile failed");
    Action::requeue(wait)
}

/// Namespace and name of an object that the API server has.
pub fn name_of(metadata: &kube::api::ObjectMeta) -> ObjectName {
    ObjectName {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    }
}

/// A refusal of the whole spec.
pub(super) fn refusal(reason: ClusterReadyReason, message: impl Into<String>) -> Refused {
    Refused { reason, message: message.into() }
}
