//! How what the operator owns is called, and the labels by which it is found again. Pure.

use std::collections::BTreeMap;

use larder_proto::ids::ClusterId;

/// The one field manager of everything the operator applies.
pub const MANAGER: &str = "larder-operator";

/// Holds a CacheCluster while CacheVolumes refer to it.
pub const CLUSTER_FINALIZER: &str = "larder.dev/cluster";

/// Holds a CacheVolume while PersistentVolumes or its StorageClass are there.
pub const VOLUME_FINALIZER: &str = "larder.dev/volume";

/// The CSI driver, in whose name the operator binds claims.
pub const DRIVER: &str = "csi.larder.dev";

/// On everything owned: the CacheCluster's name.
pub const CLUSTER_LABEL: &str = "larder.dev/cluster";

/// On DaemonSets and their pods: the pool's name.
pub const POOL_LABEL: &str = "larder.dev/pool";

/// On agents' pods: a digest of what they were made from. Another one is outdated.
pub const TEMPLATE: &str = "larder.dev/template";

/// Agents and nobody else.
pub const AGENT_USER: i64 = 65_532;

/// The names of one CacheCluster's objects, all in its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The namespace.
    pub namespace: String,
    /// The CacheCluster.
    pub cluster: String,
    /// What the data on the disks belongs to.
    pub id: ClusterId,
}

impl Names {
    /// Agents run as this account, which has no rights.
    pub fn account(&self) -> String {
        format!("{}-agent", self.cluster)
    }

    /// The Secret with the CA's key.
    pub fn ca(&self) -> String {
        format!("{}-ca", self.cluster)
    }

    /// The ConfigMap with the CA's certificate.
    pub fn trust(&self) -> String {
        format!("{}-trust", self.cluster)
    }

    /// The ConfigMap with the published map.
    pub fn map(&self) -> String {
        format!("{}-map", self.cluster)
    }

    /// The ConfigMap with the node ids.
    pub fn node_ids(&self) -> String {
        format!("{}-node-ids", self.cluster)
    }

    /// The Service through which agents find the authority.
    pub fn authority(&self) -> String {
        format!("{}-authority", self.cluster)
    }

    /// A pool's DaemonSet, and the ConfigMap with its agents' configuration.
    pub fn pool(&self, pool: &str) -> String {
        format!("{}-{pool}", self.cluster)
    }

    /// Who reaches the agents.
    pub fn network_policy(&self) -> String {
        format!("{}-agents", self.cluster)
    }

    /// What a join token must have been made for.
    pub fn audience(&self) -> String {
        format!("larder.dev/join/{}", self.id)
    }

    /// The user that a token of the agents' account names.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.account())
    }

    /// The labels of everything owned.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let labels = [
            ("app.kubernetes.io/name", "larder"),
            ("app.kubernetes.io/instance", self.cluster.as_str()),
            ("app.kubernetes.io/managed-by", MANAGER),
            (CLUSTER_LABEL, self.cluster.as_str()),
        ];
        labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    /// The labels of a pool's pods.
    pub fn pool_labels(&self, pool: &str) -> BTreeMap<String, String> {
        let mut labels = self.labels();
        labels.insert("app.kubernetes.io/component".into(), "agent".into());
        labels.insert(POOL_LABEL.into(), pool.into());
        labels
    }
}

/// A CacheNode's name: `<cluster>.<node>`, cut and hashed past 253 characters.
pub fn cache_node(cluster: &str, node: &str) -> String {
    const MAX: usize = 253;
    let name = format!("{cluster}.{node}");
    if name.len() <= MAX {
        return name;
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
    let hash = hex::encode(&digest.as_ref()[..8]);
    let head: String = name.chars().take(MAX - hash.len() - 1).collect();
    format!("{}-{hash}", head.trim_end_matches(['.', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_and_stay_distinct() {
        assert_eq!(cache_node("fast", "n1"), "fast.n1");
        let long = |end: &str| cache_node(&"c".repeat(40), &format!("{}{end}", "n".repeat(250)));
        assert!(long("a").len() <= 253 && long("a") != long("b"), "{}", long("a"));
    }
}
