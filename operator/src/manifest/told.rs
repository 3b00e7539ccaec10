//! What agents are told of a volume: the CacheVolume as written, its Secret's keys with it. Pure.
//!
//! Used by local mode and by the operator alike, so that both understand a field the same way.

use larder_crds::{CacheVolume, CacheVolumeSpec, KeyPattern, OriginMember, SecretRef};
use larder_proto::glob::Glob;
use larder_proto::ids::VolumeId;
use larder_proto::volume::{
    Attributes, Azure, AzureCredentials, Credentials, Freshness, Keeping, LocalCopies, Origin, S3, Secret, Volume,
};

use super::ObjectName;
use super::secret::SecretData;

/// Why agents can't be told of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The field.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
    /// Whether the Secret is what has to be mended.
    pub of_secret: bool,
}

impl Refusal {
    fn new(field: &'static str, what: impl std::fmt::Display) -> Self {
        Self { field, message: what.to_string(), of_secret: false }
    }

    fn of_secret(field: &'static str, message: String) -> Self {
        Self { field, message, of_secret: true }
    }
}

/// The volume as agents are told. `find` has the Secrets, or says what is wrong with one.
pub fn volume<'a>(
    name: &ObjectName,
    volume: &CacheVolume,
    cache_id: &str,
    find: impl Fn(&ObjectName) -> Result<&'a SecretData, String>,
) -> Result<Volume, Refusal> {
    let spec = &volume.spec;
    let identity =
        spec.origin.identity().ok_or_else(|| Refusal::new("spec.origin", "exactly one member must be set"))?;
    let chunk_bytes = spec.chunk_size.bytes().map_err(|e| Refusal::new("spec.chunkSize", e))?;
    let chunk_size = u32::try_from(chunk_bytes)
        .ok()
        .and_then(larder_proto::object::ChunkSize::new)
        .ok_or_else(|| Refusal::new("spec.chunkSize", "must be 64Ki x a power of two, at most 64Mi"))?;
    let freshness = match spec.freshness().map_err(|e| Refusal::new("spec.freshness", e))? {
        larder_crds::Freshness::Within(age) => Freshness::Within(age),
        larder_crds::Freshness::OnOpen => Freshness::OnOpen,
        larder_crds::Freshness::Forever => Freshness::Forever,
    };
    Ok(Volume {
        id: VolumeId::of(cache_id, &name.namespace, &name.name, &identity, chunk_size),
        namespace: name.namespace.as_str().into(),
        name: name.name.as_str().into(),
        chunk_size,
        origin: origin(name, spec, find)?,
        replicas: spec.replicas.and_then(|replicas| u32::try_from(replicas).ok()),
        read_ahead_bytes: spec.read_ahead_bytes().map_err(|e| Refusal::new("spec.readAhead", e))?,
        read_deadline: spec.read_deadline().map_err(|e| Refusal::new("spec.readDeadline", e))?,
        freshness,
        attributes: attributes(spec)?,
        local_copies: match spec.local_copies {
            larder_crds::LocalCopies::Auto => LocalCopies::Auto,
            larder_crds::LocalCopies::Never => LocalCopies::Never,
            larder_crds::LocalCopies::Always => LocalCopies::Always,
            larder_crds::LocalCopies::Unknown => {
                return Err(Refusal::new("spec.localCopies", "must be Auto, Never or Always"));
            }
        },
        keeping: keeping(spec)?,
    })
}

fn keeping(spec: &CacheVolumeSpec) -> Result<Keeping, Refusal> {
    let globs = |field: &'static str, texts: &[KeyPattern]| -> Result<Vec<Glob>, Refusal> {
        let glob = |text: &KeyPattern| {
            Glob::parse(text.as_str()).ok_or_else(|| Refusal::new(field, format!("{:?} is no pattern", text.as_str())))
        };
        texts.iter().map(glob).collect()
    };
    let admission = &spec.admission;
    Ok(Keeping {
        after_reads: u32::try_from(admission.after_reads).unwrap_or(0),
        exclude: globs("spec.admission.exclude", &admission.exclude)?,
        max_object_bytes: admission.max_object_bytes().map_err(|e| Refusal::new("spec.admission.maxObjectSize", e))?,
        ttl: spec.ttl().map_err(|e| Refusal::new("spec.ttl", e))?,
        quota_bytes: spec.quota_bytes().map_err(|e| Refusal::new("spec.quota", e))?,
        pin: globs("spec.pin", &spec.pin)?,
    })
}

fn attributes(spec: &CacheVolumeSpec) -> Result<Attributes, Refusal> {
    let written = &spec.attributes;
    let parts = (written.owner(), written.file_mode_bits(), written.dir_mode_bits());
    let (Some((uid, gid)), Some(file_mode), Some(dir_mode)) = parts else {
        let message = "must be numbers of users and modes of four octal digits";
        return Err(Refusal::new("spec.attributes", message));
    };
    Ok(Attributes { uid, gid, file_mode, dir_mode })
}

fn origin<'a>(
    name: &ObjectName,
    spec: &CacheVolumeSpec,
    find: impl Fn(&ObjectName) -> Result<&'a SecretData, String>,
) -> Result<Origin, Refusal> {
    match spec.origin.member() {
        Some(OriginMember::S3(s3)) => {
            let field = "spec.origin.s3.credentials.secretRef.name";
            let keys = Keys::find(name, &s3.credentials.secret_ref, field, find)?;
            Ok(Origin::S3(S3 {
                bucket: s3.bucket.as_str().into(),
                prefix: s3.key_prefix().into(),
                region: s3.region.as_str().into(),
                endpoint: s3.endpoint.as_deref().map(Into::into),
                path_style: s3.effective_addressing() == larder_crds::Addressing::Path,
                credentials: Some(Credentials {
                    access_key_id: keys.required("accessKeyId")?,
                    secret_access_key: keys.required("secretAccessKey")?,
                    session_token: keys.secret.get("sessionToken").map(Secret::new),
                }),
            }))
        }
        Some(OriginMember::Azure(azure)) => {
            let field = "spec.origin.azure.credentials.secretRef.name";
            let keys = Keys::find(name, &azure.credentials.secret_ref, field, find)?;
            let credentials = match (keys.get("accountKey"), keys.get("sasToken")) {
                (Some(key), None) => AzureCredentials::AccountKey(key),
                (None, Some(token)) => AzureCredentials::SasToken(token),
                (Some(_), Some(_)) => return Err(keys.refusal("has both accountKey and sasToken: keep one")),
                (None, None) => return Err(keys.refusal("has neither key accountKey nor key sasToken")),
            };
            Ok(Origin::Azure(Azure {
                account: azure.account.as_str().into(),
                container: azure.container.as_str().into(),
                prefix: azure.key_prefix().into(),
                endpoint: azure.endpoint.as_deref().map(Into::into),
                credentials,
            }))
        }
        Some(OriginMember::Local(local)) => Ok(Origin::Local { path: local.directory().into() }),
        None => Err(Refusal::new("spec.origin", "exactly one member must be set")),
    }
}

/// The Secret that a volume refers to; nothing for an origin without credentials.
pub fn secret_of(name: &ObjectName, spec: &CacheVolumeSpec) -> Option<ObjectName> {
    let secret_ref = match spec.origin.member()? {
        OriginMember::S3(s3) => &s3.credentials.secret_ref,
        OriginMember::Azure(azure) => &azure.credentials.secret_ref,
        OriginMember::Local(_) => return None,
    };
    Some(ObjectName { namespace: name.namespace.clone(), name: secret_ref.name.clone() })
}

/// The Secret that a volume refers to.
struct Keys<'a> {
    secret: &'a SecretData,
    name: ObjectName,
    field: &'static str,
}

impl<'a> Keys<'a> {
    fn find(
        volume: &ObjectName,
        secret_ref: &SecretRef,
        field: &'static str,
        find: impl Fn(&ObjectName) -> Result<&'a SecretData, String>,
    ) -> Result<Self, Refusal> {
        let name = ObjectName { namespace: volume.namespace.clone(), name: secret_ref.name.clone() };
        let secret = find(&name).map_err(|message| Refusal::of_secret(field, message))?;
        Ok(Self { secret, name, field })
    }

    /// The value of a key, without the white space that files end in; an empty one is none.
    fn get(&self, key: &str) -> Option<Secret> {
        self.secret.get(key).map(str::trim).filter(|value| !value.is_empty()).map(Secret::new)
    }

    fn required(&self, key: &str) -> Result<Secret, Refusal> {
        self.get(key).ok_or_else(|| self.refusal(&format!("has no key {key}")))
    }

    fn refusal(&self, what: &str) -> Refusal {
        Refusal::of_secret(self.field, format!("Secret {} {what}", self.name))
    }
}
