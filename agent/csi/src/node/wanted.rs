//! What a publish asks for, once it is sure to be something that can be given: parsed, never checked again.
//!
//! The volume context is a PersistentVolume's `volumeAttributes` and what the kubelet adds of the pod. An attribute that
//! isn't known is refused, not passed over.

use std::collections::HashMap;

use crate::proto::csi::NodePublishVolumeRequest;
use crate::proto::csi::volume_capability::AccessType;

/// A Kubernetes name, at most.
const NAME_BYTES_MAX: usize = 253;

/// A path of Linux, at most.
const PATH_BYTES_MAX: usize = 4_095;

/// Attributes of the volume.
const NAMESPACE: &str = "namespace";
const VOLUME: &str = "volume";
const VOLUME_UID: &str = "volumeUID";
const PREFIX: &str = "prefix";

/// What the kubelet adds begins so (`podInfoOnMount`).
const KUBELETS: &str = "csi.storage.k8s.io/";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";

/// Why a publish is refused before anybody is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A field that must be there.
    #[error("{field} is missing")]
    Missing {
        /// Which.
        field: &'static str,
    },
    /// A field that is longer than anything meant, or has characters that names have not.
    #[error("{field} can't be what it should name")]
    Malformed {
        /// Which.
        field: &'static str,
    },
    /// A block device.
    #[error("a volume is files: volumeMode must be Filesystem")]
    Block,
    /// Options of the mount.
    #[error("a volume takes no mountOptions")]
    MountOptions,
    /// An attribute that nobody knows.
    #[error("the attribute {name:?} is unknown: namespace and volume are known")]
    UnknownAttribute {
        /// Its name, cut.
        name: String,
    },
    /// A part of a volume.
    #[error("this version mounts whole volumes only: take the attribute prefix away, and use subPath")]
    Prefix,
    /// Somebody else's volume.
    #[error(
        "CacheVolume {volume} may be used by pods of namespace {namespace} only, and this pod is of {pod_namespace}"
    )]
    OtherNamespace {
        /// As `namespace/name`.
        volume: String,
        /// Whose it is.
        namespace: String,
        /// Whose the pod is.
        pod_namespace: String,
    },
}

/// A publish that may be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// As `namespace/name`.
    pub volume: String,
    /// As the kubelet names it.
    pub target: String,
}

impl Wanted {
    /// Reads a request, of which nothing is believed.
    pub fn parse(request: &NodePublishVolumeRequest) -> Result<Self, Refusal> {
        let target = target_of(&request.volume_id, &request.target_path)?;
        let capability = request.volume_capability.as_ref().ok_or(Refusal::Missing { field: "volume_capability" })?;
        match &capability.access_type {
            Some(AccessType::Mount(mount)) if mount.mount_flags.is_empty() => {}
            Some(AccessType::Mount(_)) => return Err(Refusal::MountOptions),
            Some(AccessType::Block(_)) => return Err(Refusal::Block),
            None => return Err(Refusal::Missing { field: "volume_capability.access_type" }),
        }
        let attributes = &request.volume_context;
        let known = [NAMESPACE, VOLUME, VOLUME_UID, PREFIX];
        if let Some(name) =
            attributes.keys().find(|name| !known.contains(&name.as_str()) && !name.starts_with(KUBELETS))
        {
            return Err(Refusal::UnknownAttribute { name: name.chars().take(64).collect() });
        }
        if attributes.get(PREFIX).is_some_and(|prefix| !prefix.is_empty()) {
            return Err(Refusal::Prefix);
        }
        let namespace = name_in(attributes, NAMESPACE)?;
        let volume = format!("{namespace}/{}", name_in(attributes, VOLUME)?);
        let pod_namespace = name_in(attributes, POD_NAMESPACE)?;
        if pod_namespace != namespace {
            let (namespace, pod_namespace) = (namespace.to_owned(), pod_namespace.to_owned());
            return Err(Refusal::OtherNamespace { volume, namespace, pod_namespace });
        }
        Ok(Self { volume, target })
    }
}

/// The target of a request that names its volume, as every one must.
pub fn target_of(volume_id: &str, target: &str) -> Result<String, Refusal> {
    match (volume_id, target) {
        ("", _) => Err(Refusal::Missing { field: "volume_id" }),
        (_, "") => Err(Refusal::Missing { field: "target_path" }),
        (_, target) if target.len() > PATH_BYTES_MAX || !target.starts_with('/') || target.contains('\0') => {
            Err(Refusal::Malformed { field: "target_path" })
        }
        (_, target) => Ok(target.to_owned()),
    }
}

fn name_in<'a>(attributes: &'a HashMap<String, String>, field: &'static str) -> Result<&'a str, Refusal> {
    let name = attributes.get(field).map(String::as_str).unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    match name {
        "" => Err(Refusal::Missing { field }),
        name if name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) => Err(Refusal::Malformed { field }),
        name => Ok(name),
    }
}
