//! Which nodes and stores a local cluster has. Pure.

use std::path::{Path, PathBuf};

use larder_crds::{CacheCluster, CapacityLimit, StoreSpec};
use larder_proto::ids::NodeName;
use serde::{Deserialize, Serialize};

use super::folder::{Folder, NodeFolder};

/// Zones of local nodes, in turn.
const ZONES: [&str; 3] = ["a", "b", "c"];

/// The label whose values local nodes have; by any other label each node is a domain of its own.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// How many nodes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// With stores: `n1`, `n2`, ...
    pub nodes: u32,
    /// Without: they mount and read, and nothing is placed on them. `c1`, `c2`, ...
    pub clients: u32,
}

/// How many nodes a command asks for; absent: as many as there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// With stores.
    pub nodes: Option<u32>,
    /// Without.
    pub clients: Option<u32>,
}

impl Wanted {
    /// What is meant where `now` is the case.
    pub fn or(self, now: Counts) -> Counts {
        Counts { nodes: self.nodes.unwrap_or(now.nodes), clients: self.clients.unwrap_or(now.clients) }
    }
}

/// One node to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// As [`Counts`] says.
    pub name: NodeName,
    /// Its failure domain.
    pub domain: String,
    /// Its stores.
    pub stores: Vec<StorePlan>,
}

/// One store of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorePlan {
    /// Its name in the pool.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// How many bytes it may hold.
    pub capacity_bytes: u64,
}

/// What can't be planned, and the field that asks for it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PlanError {
    /// The field.
    pub field: String,
    /// What to do.
    pub message: String,
}

/// The nodes of `cluster`, on a disk of `disk_bytes`. A percentage is of the disk divided by the nodes with stores; so is
/// the reserve, since they share the disk.
pub fn plan(
    cluster: &CacheCluster,
    counts: Counts,
    folder: &Folder,
    disk_bytes: u64,
) -> Result<Vec<NodePlan>, PlanError> {
    let (position, pool) = (cluster.spec.pools.iter().enumerate())
        .find(|(_, pool)| !pool.stores.is_empty())
        .ok_or_else(|| error("spec.pools", "at least one pool must have stores"))?;
    let count = counts.nodes;
    let share = disk_bytes / u64::from(count.max(1));
    let mut capacities = Vec::new();
    for (index, store) in pool.stores.iter().enumerate() {
        let field = format!("spec.pools[{position}].stores[{index}]");
        if NodeFolder::TAKEN.contains(&store.name.as_str()) {
            return Err(error(&format!("{field}.name"), "local mode needs this name for itself: choose another"));
        }
        capacities.push(capacity(store, &field, share, count)?);
    }
    let node = |letter: char, number: u32, capacities: &[u64]| {
        let name = format!("{letter}{}", number + 1);
        let zone = ZONES[number as usize % ZONES.len()];
        let domain = if cluster.spec.failure_domain == ZONE_LABEL { zone } else { &name };
        let stores = pool.stores.iter().zip(capacities).map(|(store, capacity)| StorePlan {
            name: store.name.clone(),
            path: folder.node(&name).store(&store.name),
            capacity_bytes: *capacity,
        });
        NodePlan {
            domain: domain.to_owned(),
            stores: stores.collect(),
            name: NodeName::parse(&name).expect("a letter and digits"),
        }
    };
    let clients = (0..counts.clients).map(|number| node('c', number, &[]));
    Ok((0..count).map(|number| node('n', number, &capacities)).chain(clients).collect())
}

fn capacity(store: &StoreSpec, field: &str, share: u64, count: u32) -> Result<u64, PlanError> {
    let at = |part: &str, message: &str| error(&format!("{field}.{part}"), message);
    let reserve = store.reserve_bytes().map_err(|e| at("reserve", &e.to_string()))? / u64::from(count.max(1));
    let usable = share.saturating_sub(reserve);
    match store.capacity_limit().map_err(|e| at("capacity", &e.to_string()))? {
        limit @ CapacityLimit::Percent(_) => Ok(limit.bytes_of(share).min(usable)),
        CapacityLimit::Bytes(bytes) if bytes > usable => {
            let message = format!(
                "{} is more than each of the {count} nodes' part of the disk, which is {} after the reserve",
                larder_crds::format_bytes(bytes),
                larder_crds::format_bytes(usable),
            );
            Err(at("capacity", &message))
        }
        CapacityLimit::Bytes(bytes) => Ok(bytes),
    }
}

fn error(field: &str, message: &str) -> PlanError {
    PlanError { field: field.to_owned(), message: message.to_owned() }
}

/// The space of the file system that will hold `folder`, or its nearest parent that exists.
pub fn disk_bytes(folder: &Path) -> std::io::Result<u64> {
    let existing = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = nix::sys::statvfs::statvfs(existing)?;
    Ok(stat.blocks().saturating_mul(stat.fragment_size()))
}

#[cfg(test)]
mod tests {
    use larder_crds::CacheClusterSpec;
    use serde_json::json;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn cluster(store: serde_json::Value, failure_domain: &str) -> CacheCluster {
        let spec: CacheClusterSpec = serde_json::from_value(json!({
            "minNodes": 3,
            "failureDomain": failure_domain,
            "pools": [
                {"name": "clients", "selector": {"matchLabels": {"a": "b"}}},
                {"name": "nvme", "selector": {"matchLabels": {"a": "c"}}, "stores": [store]},
            ],
        }))
        .expect("a spec");
        CacheCluster::new("demo", spec)
    }

    fn plan_of(store: serde_json::Value, nodes: u32) -> Result<Vec<NodePlan>, PlanError> {
        plan(&cluster(store, ZONE_LABEL), Counts { nodes, clients: 0 }, &Folder::new("/d".into()), 300 * GIB)
    }

    #[test]
    fn nodes_lie_in_three_zones_and_share_the_disk() {
        let store = json!({"name": "d0", "hostPath": "/mnt/d0", "capacity": "50%", "reserve": "3Gi"});
        let plans = plan_of(store, 4).expect("a plan");
        let zones: Vec<&str> = plans.iter().map(|plan| plan.domain.as_str()).collect();
        assert_eq!(zones, ["a", "b", "c", "a"]);
        assert_eq!(plans[3].name.as_str(), "n4");
        assert_eq!(plans[3].stores[0].path, Path::new("/d/n4/d0"));
        assert_eq!(plans[0].stores[0].capacity_bytes, 300 * GIB / 4 / 2);
    }

    #[test]
    fn a_percentage_never_takes_the_reserve() {
        let store = json!({"name": "d0", "hostPath": "/mnt/d0", "capacity": "99%", "reserve": "30Gi"});
        assert_eq!(plan_of(store, 3).expect("a plan")[0].stores[0].capacity_bytes, 90 * GIB);
    }

    #[test]
    fn by_another_label_each_node_is_a_domain() {
        let store = json!({"name": "d0", "hostPath": "/mnt/d0", "capacity": "1Gi", "reserve": 0});
        let cluster = cluster(store, "example.com/rack");
        let plans =
            plan(&cluster, Counts { nodes: 2, clients: 0 }, &Folder::new("/d".into()), 300 * GIB).expect("a plan");
        assert_eq!(plans.iter().map(|plan| plan.domain.as_str()).collect::<Vec<_>>(), ["n1", "n2"]);
    }

    #[test]
    fn clients_have_no_stores_and_take_no_part_of_the_disk() {
        let store = json!({"name": "d0", "hostPath": "/mnt/d0", "capacity": "50%", "reserve": 0});
        let counts = Counts { nodes: 2, clients: 1 };
        let plans = plan(&cluster(store, ZONE_LABEL), counts, &Folder::new("/d".into()), 300 * GIB).expect("a plan");
        let named: Vec<_> = plans.iter().map(|plan| (plan.name.as_str(), plan.stores.len())).collect();
        assert_eq!(named, [("n1", 1), ("n2", 1), ("c1", 0)]);
        assert_eq!(plans[0].stores[0].capacity_bytes, 300 * GIB / 2 / 2);
    }

    #[test]
    fn what_does_not_fit_names_its_field() {
        let store = json!({"name": "d0", "hostPath": "/mnt/d0", "capacity": "101Gi", "reserve": 0});
        let error = plan_of(store, 3).expect_err("a third of 300 GiB is 100");
        assert_eq!(error.field, "spec.pools[1].stores[0].capacity");
        assert!(error.message.contains("101Gi") && error.message.contains("100Gi"), "{error}");
        let store = json!({"name": "mnt", "hostPath": "/mnt/d0", "capacity": "1Gi", "reserve": 0});
        assert_eq!(plan_of(store, 3).expect_err("taken").field, "spec.pools[1].stores[0].name");
    }
}
