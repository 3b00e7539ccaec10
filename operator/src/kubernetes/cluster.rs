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
mod ca;
mod deletion;
mod dereference;
mod leaving;
pub mod plan;
mod rollout;
mod validate;

pub use apply::params;
pub use dereference::{FoundNode, answer, cluster_allows};
pub use rollout::Rollout;
pub use validate::{Allowed, Refused, Validated, validate};

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
        None => {
            let outcome = advance(cluster, &name, &context).await;
            if let Err(error) = &outcome {
                tell_refused(cluster, &name, &context, error).await?;
            }
            outcome
        }
    };
    if outcome.is_ok() {
        context.backoff.forget(&name.to_string());
    }
    outcome
}

async fn advance(cluster: &CacheCluster, name: &ObjectName, context: &Context) -> Result<Action, ReconcileError> {
    let found = dereference::find(cluster, name, context).await?;
    let settings = &context.settings;
    let mut images = settings.allowed_images.clone();
    images.push(settings.agent_image.clone());
    let allowed =
        Allowed { prefixes: &settings.allowed_prefixes, images: &images, drain_taints: &settings.drain_taints };
    let validated = match validate(cluster, name, &found, &allowed) {
        Ok(validated) => validated,
        Err(refused) => {
            report::refuse(context, cluster, refused.reason, &refused.message).await?;
            return Ok(Action::requeue(RESYNC));
        }
    };
    let names = Names { namespace: name.namespace.clone(), cluster: name.name.clone(), id: validated.id };
    let is_paused = cluster.spec.paused;
    if is_paused && ca::find(&names, context).await?.is_none() {
        let message = "spec.paused is true: nothing is made before it is false";
        report::refuse(context, cluster, ClusterReadyReason::WaitingForNodes, message).await?;
        return Ok(Action::requeue(RESYNC));
    }
    apply::finalizer(cluster, name, context).await?;
    let kept = ca::find_or_make(cluster, &names, context).await?;
    let trust_pem = kept.trust_pem()?;
    let running = context.authorities.ensure(context, name, cluster, &names, kept.ca()?).await?;
    running.authority.place(validated.domains());
    let told: Vec<_> = found.volumes.iter().filter_map(|volume| volume.told.clone().ok()).collect();
    running.volumes.send_if_modified(|volumes| {
        let news = *volumes != told;
        *volumes = told;
        news
    });
    let at = std::net::SocketAddr::new(context.settings.advertise, running.authority.address().port());
    let inputs = plan::Inputs {
        names: &names,
        image: cluster.spec.agent.image.as_deref().unwrap_or(&settings.agent_image),
        drain_taints: &settings.drain_taints,
        trust_pem: &trust_pem,
        authority: Some(at),
    };
    let planned = plan::plan(cluster, &inputs);
    let changed = match is_paused {
        true => {
            apply::whereabouts(&planned, &names, context).await?;
            Changed::default()
        }
        false => {
            let changed = change(cluster, &running, &validated, &planned, context).await?;
            Changed { rotates: ca::rotate(cluster, &kept, &running, context).await?, ..changed }
        }
    };
    let pods_missing = dereference::why_pods_are_missing(&planned, &names, context).await?;
    let is_quiet = changed.rollout == Rollout::UpToDate && !changed.rotates;
    let again = if is_quiet { RESYNC } else { rollout::LOOK_AGAIN };
    let again = changed.leaving.again_in.map_or(again, |due| again.min(due.max(rollout::LOOK_AGAIN)));
    {
        let mut told = running.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        told.generation = cluster.metadata.generation;
        told.nodes = validated.nodes.iter().map(|node| node.name.clone()).collect();
        told.volumes = found.volumes.into_iter().map(dereference::FoundVolume::summary).collect();
        told.uids = validated.nodes.iter().map(|node| (node.name.clone(), node.uid.clone())).collect();
        told.targets = changed.leaving.targets;
        told.rollout = changed.rollout;
        told.last_words = changed.last_words;
        told.is_paused = is_paused;
        told.pods_missing = pods_missing;
    }
    Ok(Action::requeue(again))
}

/// What a reconcile has changed.
#[derive(Default)]
struct Changed {
    leaving: leaving::Settled,
    rollout: Rollout,
    last_words: std::collections::BTreeMap<String, String>,
    rotates: bool,
}

/// Everything that a paused cluster goes without.
async fn change(
    cluster: &CacheCluster,
    running: &super::authorities::Running,
    validated: &Validated,
    planned: &[plan::Owned],
    context: &Context,
) -> Result<Changed, ReconcileError> {
    let names = &running.names;
    running.ledger.mend().await.map_err(ReconcileError::Ledger)?;
    apply::objects(planned, names, context).await?;
    apply::welcome(names, validated, context).await?;
    apply::cache_nodes(cluster, names, validated, context).await?;
    let leaving = leaving::settle(cluster, running, validated, context).await?;
    let rollout::Advanced { rollout, last_words } =
        rollout::advance(cluster, running, validated, planned, context).await?;
    Ok(Changed { leaving, rollout, last_words, rotates: false })
}

/// Says what the API server refuses for good, such as a toleration that contradicts itself; it is tried again all the same.
async fn tell_refused(
    cluster: &CacheCluster,
    name: &ObjectName,
    context: &Context,
    error: &ReconcileError,
) -> Result<(), ReconcileError> {
    let ReconcileError::Api { what, error } = error else { return Ok(()) };
    let kube::Error::Api(answer) = &**error else { return Ok(()) };
    let applied = match context.authorities.get(name).await {
        Some(running) => running.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner).generation,
        None => None,
    };
    // A generation that was applied once is refused by something that changed since, and passes.
    if ![400, 403, 422].contains(&answer.code) || applied == cluster.metadata.generation {
        return Ok(());
    }
    let message = format!("{what}: the API server refuses: {}", answer.message);
    report::refuse(context, cluster, ClusterReadyReason::Invalid, &message).await
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
