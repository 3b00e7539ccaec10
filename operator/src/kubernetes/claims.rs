//! Claims of CacheVolumes: a StorageClass for each volume, a PersistentVolume for each claim of it; kube-controller-manager
//! binds the two. To a claim nothing is written but Events.
//!
//! While this replica leads: what the watches know -> plan (pure) -> apply, at each change and each minute. What the API
//! server refuses is tried again with its own backoff, and keeps nothing else from being done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, Patch, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use larder_crds::{CacheVolume, VolumeReadyReason};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::cluster::{ReconcileError, answer, params};
use super::context::{Context, REQUEST};
use super::names::VOLUME_FINALIZER;
use super::report;
use crate::manifest::ObjectName;

mod plan;

pub use plan::is_going;

use plan::{Action, Refusal, Uid, View, plan};

/// Without news everything is looked at again.
const RESYNC: Duration = Duration::from_secs(60);

/// News within this are one.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// What a look leaves for the next.
#[derive(Default)]
struct Told {
    /// Claims that were told why they get nothing.
    refused: BTreeMap<Uid, &'static str>,
    /// What failed, and when it may be tried again.
    later: BTreeMap<String, Instant>,
}

/// Looks at each change while this replica leads.
pub async fn look_after(context: Arc<Context>, mut news: watch::Receiver<u64>) {
    let mut told = Told::default();
    loop {
        news.mark_unchanged();
        look(&context, &mut told).await;
        let resync = Instant::now() + RESYNC;
        let again = told.later.values().copied().min().map_or(resync, |due| due.min(resync));
        tokio::select! { biased;
            () = context.leading.cancelled() => return,
            changed = news.changed() => match changed {
                Ok(()) => sleep(DEBOUNCE).await,
                // The watches live as long as the process.
                Err(_) => return,
            },
            () = sleep_until(again) => {}
        }
    }
}

async fn look(context: &Context, told: &mut Told) {
    let view = view(context);
    let now = Instant::now();
    let actions = plan(&view);
    let wanted: Vec<String> = actions.iter().map(Action::key).collect();
    told.later.retain(|key, _| wanted.contains(key));
    told.refused.retain(|uid, _| view.claims.iter().any(|claim| claim.uid().as_ref() == Some(uid)));
    for (action, key) in actions.into_iter().zip(wanted) {
        if told.later.get(&key).is_some_and(|due| *due > now) || context.leading.is_cancelled() {
            continue;
        }
        let name = format!("claims: {key}");
        match act(context, action, told).await {
            Ok(()) => {
                told.later.remove(&key);
                context.backoff.forget(&name);
            }
            Err(error) => {
                let wait = context.backoff.failed(&name);
                tracing::warn!(%error, again_in_s = wait.as_secs(), "{key} isn't as it should be");
                told.later.insert(key, Instant::now() + wait);
            }
        }
    }
}

fn view(context: &Context) -> View {
    let volumes = context.volumes.state();
    let namespaces = context.namespaces.state();
    let ending = namespaces.iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_some());
    View {
        volumes: volumes.iter().filter_map(|guarded| guarded.0.as_ref().ok()).cloned().collect(),
        classes: context.classes.state(),
        claims: context.claims.state(),
        persistent: context.persistent.state(),
        ending: ending.map(|namespace| namespace.name_any()).collect(),
    }
}

async fn act(context: &Context, action: Action, told: &mut Told) -> Result<(), ReconcileError> {
    let client = context.client.clone();
    match action {
        Action::Hold(name, uid) => write_finalizers(context, &name, &uid, &[VOLUME_FINALIZER]).await,
        Action::LetGo(name, uid) => write_finalizers(context, &name, &uid, &[]).await,
        Action::Waits(name, message) => {
            let known = context.volumes.get(&ObjectRef::new(&name.name).within(&name.namespace));
            match known.as_ref().map(|guarded| &guarded.0) {
                Some(Ok(volume)) => {
                    report::refuse_volume(context, volume, &name, VolumeReadyReason::Deleting, message).await
                }
                Some(Err(_)) | None => Ok(()),
            }
        }
        Action::Class(name, object) => {
            let classes: Api<StorageClass> = Api::all(client);
            answer("applying a StorageClass", classes.patch(&name, &params(), &Patch::Apply(&object))).await.map(drop)
        }
        Action::RemoveClass(name, uid) => remove(&Api::<StorageClass>::all(client), &name, &uid).await,
        Action::Persistent(name, uid, object) => create(&Api::all(client), &name, &uid, object).await,
        Action::RemovePersistent(name, uid) => remove(&Api::<PersistentVolume>::all(client), &name, &uid).await,
        Action::Refuse(name, uid, refusal) => {
            if told.refused.get(&uid) != Some(&refusal.reason()) {
                tracing::info!(claim = %name, reason = refusal.reason(), "a claim is refused");
                say(context, &name, &refusal).await?;
                told.refused.insert(uid, refusal.reason());
            }
            Ok(())
        }
    }
}

/// Only of the volume with this uid: one that is gone isn't made again by it.
async fn write_finalizers(
    context: &Context,
    name: &ObjectName,
    uid: &str,
    finalizers: &[&str],
) -> Result<(), ReconcileError> {
    let volumes: Api<CacheVolume> = Api::namespaced(context.client.clone(), &name.namespace);
    let patch = json!({
        "apiVersion": CacheVolume::api_version(&()),
        "kind": CacheVolume::kind(&()),
        "metadata": {"name": name.name, "uid": uid, "finalizers": finalizers},
    });
    match volumes.patch(&name.name, &params(), &Patch::Apply(&patch)).await {
        Err(kube::Error::Api(answer)) if [404, 409].contains(&answer.code) => Ok(()),
        outcome => answer("writing a CacheVolume's finalizer", async { outcome }).await.map(drop),
    }
}

/// One that is there already is fine if it is this claim's.
async fn create(
    persistent: &Api<PersistentVolume>,
    name: &str,
    claim: &str,
    object: Value,
) -> Result<(), ReconcileError> {
    const WHAT: &str = "creating a PersistentVolume";
    let object = serde_json::from_value(object).expect("what is planned is a PersistentVolume");
    match tokio::time::timeout(REQUEST, persistent.create(&PostParams::default(), &object)).await {
        Ok(Err(kube::Error::Api(refused))) if refused.code == 409 => {
            let there = answer("reading a PersistentVolume", persistent.get_opt(name)).await?;
            let claimed = there.and_then(|there| there.spec?.claim_ref?.uid);
            match claimed.as_deref() == Some(claim) {
                true => Ok(()),
                false => Err(ReconcileError::Api { what: WHAT.into(), error: Box::new(kube::Error::Api(refused)) }),
            }
        }
        Ok(outcome) => answer(WHAT, async { outcome }).await.map(drop),
        Err(_) => Err(ReconcileError::Deadline { what: WHAT.into() }),
    }
}

/// Only this very object, which may be gone already.
async fn remove<K>(api: &Api<K>, name: &str, uid: &str) -> Result<(), ReconcileError>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let only = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let what = format!("removing {name}");
    match tokio::time::timeout(REQUEST, api.delete(name, &only)).await {
        Ok(Err(kube::Error::Api(answer))) if [404, 409].contains(&answer.code) => Ok(()),
        Ok(outcome) => answer(&what, async { outcome }).await.map(drop),
        Err(_) => Err(ReconcileError::Deadline { what }),
    }
}

async fn say(context: &Context, claim: &ObjectName, refusal: &Refusal) -> Result<(), ReconcileError> {
    let found = ObjectRef::<PersistentVolumeClaim>::new(&claim.name).within(&claim.namespace);
    let Some(found) = context.claims.get(&found) else { return Ok(()) };
    let event = Event {
        type_: EventType::Warning,
        reason: refusal.reason().into(),
        note: Some(refusal.to_string()),
        action: "Bind".into(),
        secondary: None,
    };
    let whom = found.object_ref(&());
    answer("writing an Event", context.recorder.publish(&event, &whom)).await
}
