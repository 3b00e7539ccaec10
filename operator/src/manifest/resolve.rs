//! References between documents: a volume's cluster and its Secret. What comes out can be started.

use std::collections::{BTreeMap, BTreeSet};

use larder_crds::{CacheCluster, CacheVolume};
use larder_proto::volume::Volume;

use super::{Manifest, Mistake, ObjectName, Placed, told};

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
    if !spec.allowed_namespaces.allows(&cluster_name.namespace, &name.namespace, &BTreeMap::new()) {
        let message =
            format!("CacheCluster {cluster_name} takes volumes of its own namespace only (allowedNamespaces)");
        return Err(placed.mistake("metadata.namespace", message));
    }
    if volume.spec.replicas.is_some_and(|replicas| replicas > spec.min_nodes) {
        let message =
            format!("must not be larger than minNodes of CacheCluster {cluster_name}, which is {}", spec.min_nodes);
        return Err(placed.mistake("spec.replicas", message));
    }
    let find = |secret: &ObjectName| {
        let found = manifest.secrets.get(secret).map(|placed| &placed.object);
        found.ok_or_else(|| format!("no Secret {secret} in these files"))
    };
    told::volume(name, volume, &cluster.object.cache_id(), find)
        .map_err(|refusal| placed.mistake(refusal.field, refusal.message))
}
