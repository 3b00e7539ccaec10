//! What the schema can't refuse, and which nodes a CacheCluster has. No client; pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use larder_crds::{AgentSpec, CacheCluster, ClusterReadyReason, Pool};
use larder_proto::ids::{ClusterId, NodeName};

use super::dereference::Found;
use super::plan::{TERMS_MAX, matches, terms};
use super::refusal;
use crate::manifest::ObjectName;

/// Prefixes of labels and annotations that nobody else gives agents' pods.
const RESERVED: [&str; 2] = ["larder.dev", "app.kubernetes.io"];

/// A spec that can be planned, and the nodes it chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validated {
    /// What the data on the disks belongs to.
    pub id: ClusterId,
    /// Its nodes, by name.
    pub nodes: Vec<ChosenNode>,
}

/// A node that a pool chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenNode {
    /// Its name.
    pub name: NodeName,
    /// Its failure domain.
    pub domain: Arc<str>,
    /// Whether its pool has stores.
    pub has_stores: bool,
    /// The Kubernetes node's.
    pub uid: String,
    /// Since when it is cordoned.
    pub cordoned_since: Option<Timestamp>,
    /// Whether an autoscaler is about to remove it.
    pub is_reclaimed: bool,
}

/// Why nothing is made of a CacheCluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The condition's reason.
    pub reason: ClusterReadyReason,
    /// What to mend.
    pub message: String,
}

impl Validated {
    /// The nodes' failure domains.
    pub fn domains(&self) -> BTreeMap<NodeName, Arc<str>> {
        self.nodes.iter().map(|node| (node.name.clone(), node.domain.clone())).collect()
    }
}

/// What the operator's own settings allow and say.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'a> {
    /// Paths below which stores may lie.
    pub prefixes: &'a [String],
    /// Images that agents may be made from; a star at the end stands for anything.
    pub images: &'a [String],
    /// Taints of nodes that an autoscaler is about to remove.
    pub drain_taints: &'a [String],
}

/// Checks `cluster` against what was found.
pub fn validate(
    cluster: &CacheCluster,
    name: &ObjectName,
    found: &Found,
    allowed: &Allowed<'_>,
) -> Result<Validated, Refused> {
    let cache_id = cluster.cache_id();
    if let Some(older) = &found.same_cache_id {
        let message =
            format!("CacheCluster {older} is older and has the same cacheId, {cache_id}: nothing is made of this one");
        return Err(refusal(ClusterReadyReason::StoreConflict, message));
    }
    let pools = &cluster.spec.pools;
    for (position, pool) in pools.iter().enumerate() {
        check_stores(position, pool, allowed.prefixes)?;
        if terms(pool, &smaller(pools, pool)).is_none() {
            let message = format!(
                "spec.pools[{position}].selector: telling its nodes from those of other pools takes more than {TERMS_MAX} terms: give each pool another value of one label"
            );
            return Err(refusal(ClusterReadyReason::Invalid, message));
        }
    }
    check_agent(&cluster.spec.agent, allowed.images)?;
    tracing::trace!(cluster = %name, "valid");
    Ok(Validated { id: ClusterId::of(&cache_id), nodes: choose(cluster, found, allowed.drain_taints) })
}

fn check_stores(position: usize, pool: &Pool, allowed_prefixes: &[String]) -> Result<(), Refused> {
    for (index, store) in pool.stores.iter().enumerate() {
        let invalid = |field: &str, why: String| {
            refusal(ClusterReadyReason::Invalid, format!("spec.pools[{position}].stores[{index}].{field}: {why}"))
        };
        store.capacity_limit().map_err(|e| invalid("capacity", e.to_string()))?;
        store.reserve_bytes().map_err(|e| invalid("reserve", e.to_string()))?;
        let path = store.host_path.trim_end_matches('/');
        let below = |prefix: &String| {
            let prefix = prefix.trim_end_matches('/');
            path == prefix || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
        };
        if !allowed_prefixes.iter().any(below) {
            let allowed = allowed_prefixes.join(", ");
            return Err(invalid("hostPath", format!("{path} lies outside {allowed}, where stores are allowed")));
        }
    }
    Ok(())
}

fn check_agent(agent: &AgentSpec, allowed_images: &[String]) -> Result<(), Refused> {
    let is_allowed = |image: &str| {
        allowed_images.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(begin) => image.starts_with(begin),
            None => image == allowed,
        })
    };
    if let Some(image) = agent.image.as_deref().filter(|image| !is_allowed(image)) {
        let message = format!("spec.agent.image: {image} is none of the images that Helm's agent.allowedImages allows");
        return Err(refusal(ClusterReadyReason::Invalid, message));
    }
    let is_ours = |key: &&String| {
        let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
        RESERVED.iter().any(|reserved| prefix == *reserved || prefix.ends_with(&format!(".{reserved}")))
    };
    for (field, keys) in [("podLabels", &agent.pod_labels), ("podAnnotations", &agent.pod_annotations)] {
        if let Some(key) = keys.keys().find(is_ours) {
            let message = format!("spec.agent.{field}: {key} is one of the operator's own");
            return Err(refusal(ClusterReadyReason::Invalid, message));
        }
    }
    Ok(())
}

fn choose(cluster: &CacheCluster, found: &Found, drain_taints: &[String]) -> Vec<ChosenNode> {
    let pools = &cluster.spec.pools;
    let chosen = found.nodes.iter().filter_map(|(name, node)| {
        let pool = pools.iter().find(|pool| matches(pool, &smaller(pools, pool), &node.labels))?;
        let domain = node.labels.get(&cluster.spec.failure_domain).filter(|value| !value.is_empty());
        // Kubernetes' names of nodes are names of ours.
        let name = NodeName::parse(name)?;
        let domain: Arc<str> = domain.map_or(name.as_str(), String::as_str).into();
        Some(ChosenNode {
            name,
            domain,
            has_stores: !pool.stores.is_empty(),
            uid: node.uid.clone(),
            cordoned_since: node.cordoned_since,
            is_reclaimed: drain_taints.iter().any(|taint| node.taints.contains(taint)),
        })
    });
    chosen.collect()
}

fn smaller<'a>(pools: &'a [Pool], pool: &Pool) -> Vec<&'a Pool> {
    pools.iter().filter(|other| other.name < pool.name).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::dereference::FoundNode;
    use super::*;

    fn allowed(prefixes: &[String]) -> Allowed<'_> {
        Allowed { prefixes, images: &[], drain_taints: &[] }
    }

    fn cluster(host_path: &str) -> CacheCluster {
        let spec = json!({
            "minNodes": 1,
            "pools": [
                {"name": "a", "selector": {"matchLabels": {"disk": "nvme"}},
                 "stores": [{"name": "d0", "hostPath": host_path, "capacity": "90%"}]},
                {"name": "clients", "selector": {"matchLabels": {"reads": "yes"}}},
            ],
        });
        CacheCluster::new("fast", serde_json::from_value(spec).expect("a spec"))
    }

    fn found() -> Found {
        let labels = |pairs: &[(&str, &str)]| {
            let labels = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            FoundNode { labels, ..FoundNode::default() }
        };
        let zone = "topology.kubernetes.io/zone";
        let nodes = BTreeMap::from([
            ("n1".to_owned(), labels(&[("disk", "nvme"), (zone, "a")])),
            ("n2".to_owned(), labels(&[("disk", "nvme"), ("reads", "yes")])),
            ("n3".to_owned(), labels(&[("reads", "yes"), (zone, "b")])),
            ("n4".to_owned(), labels(&[])),
        ]);
        Found { nodes, volumes: Vec::new(), same_cache_id: None }
    }

    fn name() -> ObjectName {
        ObjectName { namespace: "default".into(), name: "fast".into() }
    }

    #[test]
    fn a_node_of_two_pools_belongs_to_the_smaller_name() {
        let validated = validate(&cluster("/mnt/nvme0"), &name(), &found(), &allowed(&["/mnt".into()])).expect("valid");
        let chosen: Vec<_> =
            validated.nodes.iter().map(|node| (node.name.as_str(), &*node.domain, node.has_stores)).collect();
        assert_eq!(chosen, [("n1", "a", true), ("n2", "n2", true), ("n3", "b", false)]);
    }

    #[test]
    fn stores_lie_below_the_allowed_prefixes() {
        for (path, is_allowed) in [("/mnt", true), ("/mnt/d/", true), ("/mntx", false), ("/etc", false), ("/", false)] {
            let prefixes = ["/mnt/".into(), "/var/lib/larder".into()];
            let outcome = validate(&cluster(path), &name(), &found(), &allowed(&prefixes));
            assert_eq!(outcome.is_ok(), is_allowed, "{path}");
        }
    }

    #[test]
    fn images_and_labels_of_agents_are_those_that_are_allowed() {
        let images = ["example.com/larder-agent:1".to_owned(), "mirror.example.com/*".to_owned()];
        let outcome = |agent: serde_json::Value| {
            let mut cluster = cluster("/mnt");
            cluster.spec.agent = serde_json::from_value(agent).expect("an agent");
            let allowed = Allowed { prefixes: &["/mnt".into()], images: &images, drain_taints: &["going".into()] };
            validate(&cluster, &name(), &found(), &allowed).map(drop).map_err(|refused| refused.message)
        };
        for image in ["example.com/larder-agent:1", "mirror.example.com/x/larder-agent:2"] {
            assert_eq!(outcome(json!({"image": image})), Ok(()));
        }
        for image in ["example.com/larder-agent:2", "mirror.example.com.evil/x:1"] {
            assert!(outcome(json!({"image": image})).is_err_and(|why| why.contains(image)));
        }
        assert_eq!(outcome(json!({"podLabels": {"team": "a", "example.com/larder.dev": "b"}})), Ok(()));
        for key in ["larder.dev/cluster", "app.kubernetes.io/name", "x.larder.dev/y"] {
            assert!(outcome(json!({"podLabels": {key: "a"}})).is_err_and(|why| why.contains(key)), "{key}");
            assert!(outcome(json!({"podAnnotations": {key: "a"}})).is_err_and(|why| why.contains(key)), "{key}");
        }
    }

    #[test]
    fn of_two_with_one_cache_id_the_younger_gets_nothing() {
        let found = Found { same_cache_id: Some(name()), ..found() };
        let refused = validate(&cluster("/mnt/d"), &name(), &found, &allowed(&["/mnt".into()])).expect_err("refused");
        assert_eq!(refused.reason, ClusterReadyReason::StoreConflict);
    }
}
