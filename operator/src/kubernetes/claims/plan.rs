//! From CacheVolumes, claims and what there is of them to what is to be done: pure, and it can't fail.
//!
//! A volume is held (finalizer) before it has a class, and let go when no PersistentVolume refers to it and its class is
//! gone. A claim gets a PersistentVolume of its own or a refusal, never both. Of other people's objects nothing is touched.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use larder_crds::CacheVolume;
use serde_json::{Value, json};

use super::super::cluster::name_of;
use super::super::names::{DRIVER, MANAGER, VOLUME_FINALIZER};
use crate::manifest::ObjectName;

/// Who made a PersistentVolume; kube-controller-manager leaves its deletion to that driver.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// On a StorageClass: the CacheVolume that it is of, which may be made anew under its name.
const VOLUME_UID: &str = "larder.dev/volume-uid";

/// A part of a volume, asked for on a claim.
const PREFIX: &str = "larder.dev/prefix";

/// A person's word that waiting is over.
const FORCE: &str = "larder.dev/force-delete";

const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// A volume's class is called so, its namespace and name after it: a namespace has no dots.
const CLASS: &str = "larder.";

/// Holders that a message shows.
const SHOWN: usize = 5;

/// What there is, as the watches know it.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Every CacheVolume.
    pub volumes: Vec<CacheVolume>,
    /// StorageClasses with our label.
    pub classes: Vec<Arc<StorageClass>>,
    /// Every claim.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    /// Every PersistentVolume.
    pub persistent: Vec<Arc<PersistentVolume>>,
    /// Namespaces that are being deleted: nobody is waited for there.
    pub ending: Vec<String>,
}

/// One thing to do. Doing it twice is as doing it once.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Keep the volume from going while something of it is there.
    Hold(ObjectName, Uid),
    /// Nothing of it is there any more.
    LetGo(ObjectName, Uid),
    /// Say what its deletion waits for.
    Waits(ObjectName, String),
    /// Apply a StorageClass.
    Class(String, Value),
    /// Remove one.
    RemoveClass(String, Uid),
    /// Create a PersistentVolume for the claim of this uid.
    Persistent(String, Uid, Value),
    /// Remove one.
    RemovePersistent(String, Uid),
    /// Say why a claim gets none.
    Refuse(ObjectName, Uid, Refusal),
}

/// Of one object, whatever comes later under its name.
pub type Uid = String;

impl Action {
    /// By which failures of it are told from others'.
    pub fn key(&self) -> String {
        match self {
            Self::Hold(name, _) | Self::LetGo(name, _) | Self::Waits(name, _) => format!("CacheVolume {name}"),
            Self::Class(name, _) | Self::RemoveClass(name, _) => format!("StorageClass {name}"),
            Self::Persistent(name, ..) | Self::RemovePersistent(name, _) => format!("PersistentVolume {name}"),
            Self::Refuse(name, ..) => format!("PersistentVolumeClaim {name}"),
        }
    }
}

/// Why a claim gets no PersistentVolume.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such volume.
    #[error("there is no CacheVolume {0}")]
    VolumeNotFound(ObjectName),
    /// It is on its way out.
    #[error("CacheVolume {0} is being deleted")]
    VolumeDeleting(ObjectName),
    /// Of another namespace.
    #[error("CacheVolume {0} may be used by claims of its own namespace only")]
    NamespaceNotAllowed(ObjectName),
    /// A block device.
    #[error("volumeMode must be Filesystem: a CacheVolume is files")]
    Block,
    /// A claim that chooses among volumes.
    #[error("a claim of a CacheVolume takes no selector: its StorageClass says which volume")]
    Selector,
    /// A claim that wants to be filled.
    #[error("a claim of a CacheVolume takes no data source: what is in the bucket is in the volume")]
    DataSource,
    /// A part of a volume.
    #[error("this version binds whole volumes only: take the annotation {PREFIX} away, and use subPath in the pod")]
    Prefix,
    /// Without a size.
    #[error("spec.resources.requests.storage is missing")]
    NoRequest,
}

impl Refusal {
    /// For Events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::VolumeNotFound(_) => "VolumeNotFound",
            Self::VolumeDeleting(_) => "VolumeDeleting",
            Self::NamespaceNotAllowed(_) => "NamespaceNotAllowed",
            Self::Block | Self::Selector | Self::DataSource | Self::NoRequest => "Invalid",
            Self::Prefix => "PrefixNotSupported",
        }
    }
}

/// Everything that is to be done, holds first.
pub fn plan(view: &View) -> Vec<Action> {
    let volumes = view.volumes.iter().flat_map(|volume| of_volume(volume, view));
    let orphans = view.classes.iter().filter_map(|class| of_class(class, view));
    let claims = view.claims.iter().filter_map(|claim| of_claim(claim, view));
    volumes.chain(orphans).chain(claims).chain(view.persistent.iter().filter_map(|volume| released(volume))).collect()
}

/// The name of a volume's StorageClass.
pub fn class_name(volume: &ObjectName) -> String {
    format!("{CLASS}{}.{}", volume.namespace, volume.name)
}

/// The volume that a StorageClass of ours is of.
fn volume_of_class(class: &str) -> Option<ObjectName> {
    let (namespace, name) = class.strip_prefix(CLASS)?.split_once('.')?;
    Some(ObjectName { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Whether a volume is gone for everybody but the API server.
pub fn is_going(volume: &CacheVolume) -> bool {
    volume.metadata.deletion_timestamp.is_some() && !is_held(volume)
}

fn is_held(volume: &CacheVolume) -> bool {
    volume.finalizers().iter().any(|finalizer| finalizer == VOLUME_FINALIZER)
}

fn of_volume(volume: &CacheVolume, view: &View) -> Vec<Action> {
    let (name, uid) = (name_of(&volume.metadata), volume.uid().unwrap_or_default());
    let class = view.classes.iter().find(|class| class.name_any() == class_name(&name));
    if volume.metadata.deletion_timestamp.is_none() {
        let wanted = storage_class(&name, &uid);
        return match (is_held(volume), class) {
            // Its class comes when the watch has seen that it is held.
            (false, _) => vec![Action::Hold(name, uid)],
            (true, Some(class)) if is_as_wanted(class, &uid) => Vec::new(),
            (true, _) => vec![Action::Class(class_name(&name), wanted)],
        };
    }
    if !is_held(volume) {
        return Vec::new();
    }
    let forced = volume.annotations().get(FORCE).is_some_and(|value| value == "true");
    let holders: Vec<String> = view
        .persistent
        .iter()
        .filter(|persistent| refers(persistent, &name))
        .map(|persistent| claim_of(persistent))
        .collect();
    let is_waited_for = !forced && !view.ending.contains(&name.namespace);
    match class {
        _ if !holders.is_empty() && is_waited_for => {
            let shown: Vec<&str> = holders.iter().take(SHOWN).map(String::as_str).collect();
            let message = format!("waits until {} claims of it are deleted: {}", holders.len(), shown.join(", "));
            vec![Action::Waits(name, message)]
        }
        Some(class) => vec![remove_class(class)],
        None => vec![Action::LetGo(name, uid)],
    }
}

/// A class of ours whose volume isn't there.
fn of_class(class: &StorageClass, view: &View) -> Option<Action> {
    let is_ours = class.labels().get(MANAGED_BY).is_some_and(|by| by == MANAGER) && class.provisioner == DRIVER;
    let volume = volume_of_class(&class.name_any())?;
    let is_there = view.volumes.iter().any(|known| name_of(&known.metadata) == volume);
    (is_ours && !is_there).then(|| remove_class(class))
}

fn remove_class(class: &StorageClass) -> Action {
    Action::RemoveClass(class.name_any(), class.uid().unwrap_or_default())
}

fn storage_class(volume: &ObjectName, uid: &str) -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": class_name(volume),
            "labels": {"app.kubernetes.io/name": "larder", MANAGED_BY: MANAGER, VOLUME_UID: uid},
        },
        "provisioner": DRIVER,
        "parameters": {"namespace": volume.namespace, "volume": volume.name},
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
        "allowVolumeExpansion": false,
    })
}

/// Whether a class says what can be changed of it as it should; the rest can't be changed, by nobody.
fn is_as_wanted(class: &StorageClass, uid: &str) -> bool {
    class.labels().get(VOLUME_UID).is_some_and(|label| label == uid)
        && class.labels().get(MANAGED_BY).is_some_and(|by| by == MANAGER)
        && class.allow_volume_expansion == Some(false)
}

fn of_claim(claim: &PersistentVolumeClaim, view: &View) -> Option<Action> {
    let spec = claim.spec.as_ref()?;
    let volume = volume_of_class(spec.storage_class_name.as_deref()?)?;
    // One that names its PersistentVolume is bound by kube-controller-manager alone.
    let is_bound = spec.volume_name.as_ref().is_some_and(|name| !name.is_empty());
    let (name, uid) = (name_of(&claim.metadata), claim.uid()?);
    let persistent = format!("pvc-{uid}");
    if is_bound
        || claim.metadata.deletion_timestamp.is_some()
        || view.persistent.iter().any(|known| known.name_any() == persistent)
    {
        return None;
    }
    Some(match persistent_volume(claim, &volume, &uid, view) {
        Ok(object) => Action::Persistent(persistent, uid, object),
        Err(refusal) => Action::Refuse(name, uid, refusal),
    })
}

fn persistent_volume(
    claim: &PersistentVolumeClaim,
    volume: &ObjectName,
    uid: &str,
    view: &View,
) -> Result<Value, Refusal> {
    let found = view.volumes.iter().find(|known| name_of(&known.metadata) == *volume);
    let found = found.ok_or_else(|| Refusal::VolumeNotFound(volume.clone()))?;
    if found.metadata.deletion_timestamp.is_some() {
        return Err(Refusal::VolumeDeleting(volume.clone()));
    }
    let name = name_of(&claim.metadata);
    if name.namespace != volume.namespace {
        return Err(Refusal::NamespaceNotAllowed(volume.clone()));
    }
    let spec = claim.spec.clone().unwrap_or_default();
    if spec.volume_mode.as_deref().is_some_and(|mode| mode != "Filesystem") {
        return Err(Refusal::Block);
    }
    if spec.selector.is_some() {
        return Err(Refusal::Selector);
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Err(Refusal::DataSource);
    }
    if claim.annotations().contains_key(PREFIX) {
        return Err(Refusal::Prefix);
    }
    let requests = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    let capacity = requests.get("storage").ok_or(Refusal::NoRequest)?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": format!("pvc-{uid}"),
            "labels": {"app.kubernetes.io/name": "larder", MANAGED_BY: MANAGER},
            "annotations": {PROVISIONED_BY: DRIVER},
        },
        "spec": {
            "capacity": {"storage": capacity},
            // A volume that is only read is as good in every mode.
            "accessModes": spec.access_modes,
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": class_name(volume),
            "volumeMode": "Filesystem",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": name.namespace,
                "name": name.name,
                "uid": uid,
            },
            "csi": {
                "driver": DRIVER,
                "volumeHandle": format!("pvc-{uid}"),
                "volumeAttributes": {
                    "namespace": volume.namespace,
                    "volume": volume.name,
                    "volumeUID": found.uid().unwrap_or_default(),
                },
            },
        },
    }))
}

/// Whether a PersistentVolume, whoever made it, is of this volume.
fn refers(persistent: &PersistentVolume, volume: &ObjectName) -> bool {
    let csi = persistent.spec.as_ref().and_then(|spec| spec.csi.as_ref()).filter(|csi| csi.driver == DRIVER);
    let attributes = csi.and_then(|csi| csi.volume_attributes.as_ref());
    let is = |key: &str, value: &str| attributes.and_then(|all| all.get(key)).is_some_and(|found| found == value);
    is("namespace", &volume.namespace) && is("volume", &volume.name)
}

/// Who has a PersistentVolume: a claim, or nobody but its own name.
fn claim_of(persistent: &PersistentVolume) -> String {
    let claim = persistent.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let named = claim.and_then(|claim| Some(format!("{}/{}", claim.namespace.as_ref()?, claim.name.as_ref()?)));
    named.unwrap_or_else(|| format!("PersistentVolume {}", persistent.name_any()))
}

/// A PersistentVolume that we made and that nobody claims any more.
fn released(persistent: &PersistentVolume) -> Option<Action> {
    let spec = persistent.spec.as_ref()?;
    let is_ours = persistent.annotations().get(PROVISIONED_BY).is_some_and(|by| by == DRIVER)
        && spec.csi.as_ref().is_some_and(|csi| csi.driver == DRIVER);
    let is_released = persistent.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released");
    let is_to_go = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    let goes = is_ours && is_released && is_to_go && persistent.metadata.deletion_timestamp.is_none();
    goes.then(|| Action::RemovePersistent(persistent.name_any(), persistent.uid().unwrap_or_default()))
}

#[cfg(test)]
mod tests;
