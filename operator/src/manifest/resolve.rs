//! References between documents: a volume's cluster and its Secret. What comes out can be started.

use std::collections::BTreeSet;

use larder_crds::{CacheCluster, CacheVolume, KeyPattern, OriginMember, SecretRef};
use larder_proto::glob::Glob;
use larder_proto::ids::VolumeId;
use larder_proto::volume::{
    Attributes, Azure, AzureCredentials, Credentials, Freshness, Keeping, LocalCopies, Origin, S3, Secret, Volume,
};

use super::secret::SecretData;
use super::{Manifest, Mistake, ObjectName, Placed};

/// What the files ask for.
pub struct Desired {
    /// The cluster's name.
    pub name: ObjectName,
    /// The cluster.
    pub cluster: Placed<CacheCluster>,
    /// Its volumes.
    pub volumes: Vec<DesiredVolume>,
}

/// A volume as written, and as agents are told.
pub struct DesiredVolume {
    /// Its name.
    pub name: ObjectName,
    /// As written, and where.
    pub placed: Placed<CacheVolume>,
    /// As agents are told, credentials included.
    pub volume: Volume,
}

/// Finds what each document refers to. One run has one CacheCluster.
pub fn resolve(mut manifest: Manifest) -> Result<Desired, Vec<Mistake>> {
    let (name, cluster) = the_cluster(&mut manifest)?;
    let mut volumes = Vec::new();
    let mut mistakes = Vec::new();
    let mut taken = BTreeSet::new();
    for (volume_name, placed) in std::mem::take(&mut manifest.volumes) {
        if !taken.insert(volume_name.name.clone()) {
            let message =
                "another namespace has a volume of this name, and local mode mounts volumes by name: rename one";
            mistakes.push(placed.mistake("metadata.name", message));
        }
        match resolve_volume(&volume_name, &placed, &name, &cluster, &manifest) {
            Ok(volume) => volumes.push(DesiredVolume { name: volume_name, placed, volume }),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if mistakes.is_empty() { Ok(Desired { name, cluster, volumes }) } else { Err(mistakes) }
}

fn the_cluster(manifest: &mut Manifest) -> Result<(ObjectName, Placed<CacheCluster>), Vec<Mistake>> {
    let mut clusters = std::mem::take(&mut manifest.clusters).into_iter();
    let Some(first) = clusters.next() else {
        let message = "no CacheCluster in these files: larder up needs exactly one";
        let of_file = || {
            let file = manifest.files.first().map(std::path::PathBuf::as_path).unwrap_or(std::path::Path::new(""));
            let is_empty = manifest.secrets.is_empty();
            let what = if is_empty { format!("there is nothing in it; {message}") } else { message.to_owned() };
            Mistake::of_file(file, what)
        };
        let place = manifest.volumes.values().next().map(|volume| volume.mistake("", message));
        return Err(vec![place.unwrap_or_else(of_file)]);
    };
    let more: Vec<Mistake> = clusters
        .map(|(_, other)| {
            let message =
                format!("larder up runs one CacheCluster, and {} is another: use one --dir for each", first.0);
            other.mistake("metadata.name", message)
        })
        .collect();
    if more.is_empty() { Ok(first) } else { Err(more) }
}

fn resolve_volume(
    name: &ObjectName,
    placed: &Placed<CacheVolume>,
    cluster_name: &ObjectName,
    cluster: &Placed<CacheCluster>,
    manifest: &Manifest,
) -> Result<Volume, Mistake> {
    let volume = &placed.object;
    let namespace = volume.spec.cluster_ref.namespace.as_deref().unwrap_or(&name.namespace);
    if (namespace, volume.spec.cluster_ref.name.as_str()) != (&cluster_name.namespace, &cluster_name.name) {
        let message = format!("no CacheCluster {namespace}/{} in these files", volume.spec.cluster_ref.name);
        return Err(placed.mistake("spec.clusterRef.name", message));
    }
    let spec = &cluster.object.spec;
    if !spec.allowed_namespaces.allows(&cluster_name.namespace, &name.namespace) {
        let message =
            format!("CacheCluster {cluster_name} takes volumes of its own namespace only (allowedNamespaces)");
        return Err(placed.mistake("metadata.namespace", message));
    }
    if volume.spec.replicas.is_some_and(|replicas| replicas > spec.min_nodes) {
        let message =
            format!("must not be larger than minNodes of CacheCluster {cluster_name}, which is {}", spec.min_nodes);
        return Err(placed.mistake("spec.replicas", message));
    }
    build(name, placed, &cluster.object, manifest)
}

fn build(
    name: &ObjectName,
    placed: &Placed<CacheVolume>,
    cluster: &CacheCluster,
    manifest: &Manifest,
) -> Result<Volume, Mistake> {
    let spec = &placed.object.spec;
    let refuse = |field: &'static str| move |e: &dyn std::fmt::Display| placed.mistake(field, e.to_string());
    let identity = spec.origin.identity().ok_or_else(|| refuse("spec.origin")(&"exactly one member must be set"))?;
    let chunk_bytes = spec.chunk_size.bytes().map_err(|e| refuse("spec.chunkSize")(&e))?;
    let chunk_size = u32::try_from(chunk_bytes)
        .ok()
        .and_then(larder_proto::object::ChunkSize::new)
        .ok_or_else(|| refuse("spec.chunkSize")(&"must be 64Ki x a power of two, at most 64Mi"))?;
    let freshness = match spec.freshness().map_err(|e| refuse("spec.freshness")(&e))? {
        larder_crds::Freshness::Within(age) => Freshness::Within(age),
        larder_crds::Freshness::OnOpen => Freshness::OnOpen,
        larder_crds::Freshness::Forever => Freshness::Forever,
    };
    Ok(Volume {
        id: VolumeId::of(&cluster.cache_id(), &name.namespace, &name.name, &identity, chunk_size),
        namespace: name.namespace.as_str().into(),
        name: name.name.as_str().into(),
        chunk_size,
        origin: origin(name, placed, manifest)?,
        replicas: spec.replicas.and_then(|replicas| u32::try_from(replicas).ok()),
        read_ahead_bytes: spec.read_ahead_bytes().map_err(|e| refuse("spec.readAhead")(&e))?,
        read_deadline: spec.read_deadline().map_err(|e| refuse("spec.readDeadline")(&e))?,
        freshness,
        attributes: attributes(placed)?,
        local_copies: match spec.local_copies {
            larder_crds::LocalCopies::Auto => LocalCopies::Auto,
            larder_crds::LocalCopies::Never => LocalCopies::Never,
            larder_crds::LocalCopies::Always => LocalCopies::Always,
            larder_crds::LocalCopies::Unknown => {
                return Err(refuse("spec.localCopies")(&"must be Auto, Never or Always"));
            }
        },
        keeping: keeping(placed)?,
    })
}

fn keeping(placed: &Placed<CacheVolume>) -> Result<Keeping, Mistake> {
    let spec = &placed.object.spec;
    let refuse = |field: &'static str| move |e: &dyn std::fmt::Display| placed.mistake(field, e.to_string());
    let globs = |field: &'static str, texts: &[KeyPattern]| -> Result<Vec<Glob>, Mistake> {
        let glob = |text: &KeyPattern| {
            Glob::parse(text.as_str()).ok_or_else(|| refuse(field)(&format!("{:?} is no pattern", text.as_str())))
        };
        texts.iter().map(glob).collect()
    };
    let admission = &spec.admission;
    Ok(Keeping {
        after_reads: u32::try_from(admission.after_reads).unwrap_or(0),
        exclude: globs("spec.admission.exclude", &admission.exclude)?,
        max_object_bytes: admission.max_object_bytes().map_err(|e| refuse("spec.admission.maxObjectSize")(&e))?,
        ttl: spec.ttl().map_err(|e| refuse("spec.ttl")(&e))?,
        quota_bytes: spec.quota_bytes().map_err(|e| refuse("spec.quota")(&e))?,
        pin: globs("spec.pin", &spec.pin)?,
    })
}

fn attributes(placed: &Placed<CacheVolume>) -> Result<Attributes, Mistake> {
    let written = &placed.object.spec.attributes;
    let parts = (written.owner(), written.file_mode_bits(), written.dir_mode_bits());
    let (Some((uid, gid)), Some(file_mode), Some(dir_mode)) = parts else {
        return Err(placed.mistake("spec.attributes", "must be numbers of users and modes of four octal digits"));
    };
    Ok(Attributes { uid, gid, file_mode, dir_mode })
}

fn origin(name: &ObjectName, placed: &Placed<CacheVolume>, manifest: &Manifest) -> Result<Origin, Mistake> {
    match placed.object.spec.origin.member() {
        Some(OriginMember::S3(s3)) => {
            let field = "spec.origin.s3.credentials.secretRef.name";
            let keys = Keys::find(name, &s3.credentials.secret_ref, field, placed, manifest)?;
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
            let keys = Keys::find(name, &azure.credentials.secret_ref, field, placed, manifest)?;
            let credentials = match (keys.get("accountKey"), keys.get("sasToken")) {
                (Some(key), None) => AzureCredentials::AccountKey(key),
                (None, Some(token)) => AzureCredentials::SasToken(token),
                (Some(_), Some(_)) => return Err(keys.mistake("has both accountKey and sasToken: keep one")),
                (None, None) => return Err(keys.mistake("has neither key accountKey nor key sasToken")),
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
        None => Err(placed.mistake("spec.origin", "exactly one member must be set")),
    }
}

/// The Secret that a volume refers to.
struct Keys<'a> {
    secret: &'a SecretData,
    name: ObjectName,
    placed: &'a Placed<CacheVolume>,
    field: &'static str,
}

impl<'a> Keys<'a> {
    fn find(
        volume: &ObjectName,
        secret_ref: &SecretRef,
        field: &'static str,
        placed: &'a Placed<CacheVolume>,
        manifest: &'a Manifest,
    ) -> Result<Self, Mistake> {
        let name = ObjectName { namespace: volume.namespace.clone(), name: secret_ref.name.clone() };
        match manifest.secrets.get(&name) {
            Some(secret) => Ok(Self { secret: &secret.object, name, placed, field }),
            None => Err(placed.mistake(field, format!("no Secret {name} in these files"))),
        }
    }

    /// The value of a key, without the white space that files end in; an empty one is none.
    fn get(&self, key: &str) -> Option<Secret> {
        self.secret.get(key).map(str::trim).filter(|value| !value.is_empty()).map(Secret::new)
    }

    fn required(&self, key: &str) -> Result<Secret, Mistake> {
        self.get(key).ok_or_else(|| self.mistake(&format!("has no key {key}")))
    }

    fn mistake(&self, what: &str) -> Mistake {
        self.placed.mistake(self.field, format!("Secret {} {what}", self.name))
    }
}
