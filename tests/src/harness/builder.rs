//! What a scenario's cluster is to be, and the YAML that says so.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::cluster::Cluster;
use super::turns::Company;
use crate::azurite::Azurite;
use crate::stub::StubS3;

/// Of the CacheCluster, in namespace `default`.
pub(super) const CLUSTER_NAME: &str = "scenario";

/// A volume to be.
#[derive(Clone, Debug)]
pub struct VolumeSpec {
    name: String,
    spec: Map<String, Value>,
    /// What its Secret holds.
    secret: Map<String, Value>,
}

impl VolumeSpec {
    /// The stub's own bucket, with credentials that it accepts.
    pub fn s3(name: &str, stub: &StubS3) -> VolumeSpec {
        VolumeSpec::bucket(name, &stub.endpoint(), stub.bucket()).keys(stub.access_key(), stub.secret_key())
    }

    /// A bucket at an endpoint; give it [`VolumeSpec::keys`].
    pub fn bucket(name: &str, endpoint: &str, bucket: &str) -> VolumeSpec {
        let secret = format!("{name}-keys");
        let s3 = json!({"bucket": bucket, "endpoint": endpoint, "credentials": {"secretRef": {"name": secret}}});
        // Nothing is kept where the map doesn't put it, unless a scenario says so.
        let spec = json!({"clusterRef": {"name": CLUSTER_NAME}, "origin": {"s3": s3}, "localCopies": "Never"});
        let Value::Object(spec) = spec else { unreachable!("written as an object") };
        VolumeSpec { name: name.to_owned(), spec, secret: Map::new() }.keys("none", "none")
    }

    /// A folder of a container; `key` is `accountKey` or `sasToken`, with its value.
    pub fn azure(name: &str, azurite: &Azurite, place: (&str, &str), key: (&str, &str)) -> VolumeSpec {
        let (account, endpoint, (container, prefix)) = (azurite.account(), azurite.endpoint(), place);
        let credentials = json!({"secretRef": {"name": format!("{name}-keys")}});
        let azure = json!({
            "account": account, "container": container, "prefix": prefix, "endpoint": endpoint, "credentials": credentials,
        });
        let spec = json!({"clusterRef": {"name": CLUSTER_NAME}, "origin": {"azure": azure}});
        let Value::Object(spec) = spec else { unreachable!("written as an object") };
        let secret = Map::from_iter([(key.0.to_owned(), key.1.into())]);
        VolumeSpec { name: name.to_owned(), spec, secret }
    }

    /// Its credentials.
    pub fn keys(mut self, access: &str, secret: &str) -> VolumeSpec {
        let keys = [("accessKeyId", access), ("secretAccessKey", secret)];
        self.secret = keys.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        self
    }

    /// A field of its spec.
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> VolumeSpec {
        self.spec.insert(field.to_owned(), value.into());
        self
    }

    /// `freshness`.
    pub fn freshness(self, freshness: &str) -> VolumeSpec {
        self.with("freshness", freshness)
    }

    /// `chunkSize`.
    pub fn chunk_size(self, size: &str) -> VolumeSpec {
        self.with("chunkSize", size)
    }

    /// `localCopies`; `Never` otherwise.
    pub fn local_copies(self, which: &str) -> VolumeSpec {
        self.with("localCopies", which)
    }

    /// `readAhead`.
    pub fn read_ahead(self, size: &str) -> VolumeSpec {
        self.with("readAhead", size)
    }

    /// `readDeadline`.
    pub fn read_deadline(self, deadline: &str) -> VolumeSpec {
        self.with("readDeadline", deadline)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn documents(&self) -> Vec<Value> {
        let volume = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "CacheVolume",
            "metadata": {"name": self.name}, "spec": self.spec,
        });
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("{}-keys", self.name)},
            "stringData": self.secret,
        });
        vec![secret, volume]
    }
}

/// A cluster to be: 3 nodes, 2 replicas, one store of 1 GiB on each node.
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    pub(super) nodes: u32,
    pub(super) clients: u32,
    min_nodes: Option<u32>,
    replicas: u32,
    cache_id: Option<String>,
    loss_grace: Option<String>,
    capacity_bytes: u64,
    pub(super) volumes: Vec<VolumeSpec>,
    pub(super) up_args: Vec<String>,
    pub(super) descriptors: Option<u64>,
    pub(super) cgroup: Option<PathBuf>,
    pub(super) disks: Vec<(String, u64)>,
    pub(super) company: Company,
}

impl ClusterBuilder {
    pub(super) fn new() -> ClusterBuilder {
        ClusterBuilder {
            nodes: 3,
            clients: 0,
            min_nodes: None,
            replicas: 2,
            cache_id: None,
            loss_grace: None,
            capacity_bytes: 1 << 30,
            volumes: Vec::new(),
            up_args: Vec::new(),
            descriptors: None,
            cgroup: None,
            disks: Vec::new(),
            company: Company::Others,
        }
    }

    /// How many nodes are started: `n1`, `n2`, ...
    pub fn nodes(mut self, nodes: u32) -> ClusterBuilder {
        self.nodes = nodes;
        self
    }

    /// How many nodes without stores: `c1`, `c2`, ...
    pub fn clients(mut self, clients: u32) -> ClusterBuilder {
        self.clients = clients;
        self
    }

    /// `minNodes`; as many as are started otherwise.
    pub fn min_nodes(mut self, nodes: u32) -> ClusterBuilder {
        self.min_nodes = Some(nodes);
        self
    }

    /// `replicas`.
    pub fn replicas(mut self, replicas: u32) -> ClusterBuilder {
        self.replicas = replicas;
        self
    }

    /// `cacheId`.
    pub fn cache_id(mut self, id: &str) -> ClusterBuilder {
        self.cache_id = Some(id.to_owned());
        self
    }

    /// `lossGrace`.
    pub fn loss_grace(mut self, grace: &str) -> ClusterBuilder {
        self.loss_grace = Some(grace.to_owned());
        self
    }

    /// What each node's store may hold.
    pub fn capacity(mut self, bytes: u64) -> ClusterBuilder {
        self.capacity_bytes = bytes;
        self
    }

    /// How much agents log.
    pub fn agent_log(mut self, level: &str) -> ClusterBuilder {
        self.up_args.push(format!("--agent-log={level}"));
        self
    }

    /// How many descriptors each agent may have; as many as the test otherwise.
    pub fn descriptors(mut self, descriptors: u64) -> ClusterBuilder {
        self.descriptors = Some(descriptors);
        self
    }

    /// A cgroup that all its processes are in; as the test otherwise.
    pub fn cgroup(mut self, group: &Path) -> ClusterBuilder {
        self.cgroup = Some(group.to_owned());
        self
    }

    /// A node's store is on a disk of its own, of so many MiB. Needs root, and mkfs.ext4.
    pub fn disk(mut self, node: &str, mebibytes: u64) -> ClusterBuilder {
        self.disks.push((node.to_owned(), mebibytes));
        self
    }

    /// No other cluster runs meanwhile: for scenarios that need all of a small machine to keep their deadlines.
    pub fn alone(mut self) -> ClusterBuilder {
        self.company = Company::Nobody;
        self
    }

    /// A volume.
    pub fn volume(mut self, volume: VolumeSpec) -> ClusterBuilder {
        self.volumes.push(volume);
        self
    }

    /// The documents that `larder up` is given.
    pub fn yaml(&self) -> String {
        let mut spec = json!({
            "minNodes": self.min_nodes.unwrap_or(self.nodes),
            "replicas": self.replicas,
            "pools": [{
                "name": "local",
                "selector": {"matchLabels": {"larder.dev/local": "true"}},
                "stores": [{"name": "d0", "hostPath": "/mnt/d0", "capacity": self.capacity_bytes, "reserve": "64Mi"}],
            }],
        });
        if let Some(grace) = &self.loss_grace {
            spec["lossGrace"] = json!(grace);
        }
        if let Some(id) = &self.cache_id {
            spec["cacheId"] = json!(id);
        }
        let cluster = json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "CacheCluster",
            "metadata": {"name": CLUSTER_NAME}, "spec": spec,
        });
        let documents = std::iter::once(cluster).chain(self.volumes.iter().flat_map(VolumeSpec::documents));
        let text = |document| serde_yaml::to_string(&document).expect("JSON values are YAML");
        documents.map(text).collect::<Vec<_>>().join("---\n")
    }

    /// Starts the cluster and waits until it is Ready and every volume is mounted on every node.
    pub fn up(self) -> Cluster {
        let cluster = self.start();
        cluster.wait_ready();
        cluster
    }

    /// Starts the processes; with fewer nodes than `minNodes` there is no map, and so nothing is ready.
    pub fn start(self) -> Cluster {
        Cluster::start(self)
    }
}
