//! What a running cluster says of itself: objects and their conditions, the map, metrics, logs; and waiting for them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::builder::{CLUSTER_NAME, VolumeSpec};
use super::cluster::Cluster;
use super::metrics::Metrics;
use super::patience::{MINUTE, wait_until};
use super::traces::mounts_below;

/// How many chunks there must be in the stores of all nodes together.
#[derive(Clone, Copy, Debug)]
pub struct Copies {
    /// Distinct chunks.
    pub chunks: u64,
    /// Copies of each.
    pub replicas: u64,
}

impl Cluster {
    /// Waits until the cluster is Ready and every volume is mounted on every node.
    pub fn wait_ready(&self) {
        let volumes: Vec<&str> = self.spec.volumes.iter().map(VolumeSpec::name).collect();
        let wanted = volumes.len() * self.node_names().len();
        wait_until(MINUTE, &format!("{wanted} mounts"), || mounts_below(&self.dir()).len() >= wanted);
        self.wait_condition("cc", CLUSTER_NAME, "Ready", "Serving");
    }

    /// Waits until a condition of an object has this reason.
    pub fn wait_condition(&self, kind: &str, name: &str, condition: &str, reason: &str) {
        let what = format!("{kind} {name} has {condition} with reason {reason}");
        wait_until(MINUTE, &what, || self.condition(kind, name, condition).is_some_and(|(_, r)| r == reason));
    }

    /// Status and reason of a condition.
    pub fn condition(&self, kind: &str, name: &str, condition: &str) -> Option<(String, String)> {
        let objects = self.get(kind);
        let object = objects.iter().find(|object| object.pointer("/metadata/name").is_some_and(|n| n == name))?;
        let conditions = object.pointer("/status/conditions")?.as_array()?;
        let found = conditions.iter().find(|c| c["type"] == condition)?;
        Some((found["status"].as_str()?.to_owned(), found["reason"].as_str()?.to_owned()))
    }

    /// The name of its CacheCluster.
    pub fn cluster_name(&self) -> &'static str {
        CLUSTER_NAME
    }

    /// `larder get KIND -o json`: the objects.
    pub fn get(&self, kind: &str) -> Vec<Value> {
        let text = self.larder(&["get", kind, "-o", "json"], MINUTE).ok();
        let list: Value = serde_json::from_str(&text).expect("larder prints JSON");
        list["items"].as_array().expect("a list").clone()
    }

    /// The cluster's map as `larder map` prints it; null when there is none.
    pub fn map(&self) -> Value {
        serde_json::from_str(&self.larder(&["map"], MINUTE).ok()).expect("larder prints JSON")
    }

    /// Nodes of the map, each with its state and whether it owns slots; nothing while slots are handed over.
    pub fn settled_nodes(&self) -> Option<BTreeMap<String, (String, bool)>> {
        let map = self.map();
        if map["handover"].as_u64() != Some(0) {
            return None;
        }
        let owners = |run: &Value| run["owners"].as_array().cloned().unwrap_or_default();
        let owners: BTreeSet<String> = map["slots"].as_array()?.iter().flat_map(owners).filter_map(text).collect();
        let node = |node: &Value| {
            let name = text(node["name"].clone())?;
            let owns = owners.contains(&name);
            Some((name, (text(node["state"].clone())?, owns)))
        };
        map["nodes"].as_array()?.iter().map(node).collect()
    }

    /// Waits until exactly these nodes serve and own slots, and every former owner has handed over what it had.
    pub fn wait_settled(&self, names: &[&str]) {
        wait_until(MINUTE, &format!("{names:?} have all slots and what belongs to them"), || {
            let nodes = self.settled_nodes().unwrap_or_default();
            let owns = |name: &&str| nodes.get(*name).is_some_and(|node| node == &("Serving".to_owned(), true));
            let is_settled = || self.condition("cc", CLUSTER_NAME, "Rebalancing").is_some_and(|(_, r)| r == "Settled");
            names.iter().all(owns) && nodes.values().filter(|(_, owns)| *owns).count() == names.len() && is_settled()
        });
    }

    /// The metrics of a node's agent.
    pub fn metrics(&self, node: &str) -> Metrics {
        self.node(node).metrics()
    }

    /// The sum of a metric over all nodes.
    pub fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> u64 {
        self.node_names().iter().map(|node| self.metrics(node).sum(metric, labels)).sum()
    }

    /// The sum of a metric over some nodes.
    pub fn sum_of(&self, nodes: &[&str], metric: &str) -> u64 {
        nodes.iter().map(|node| self.metrics(node).sum(metric, &[])).sum()
    }

    /// A debug page of a node's agent.
    pub fn debug(&self, node: &str, page: &str) -> Value {
        let text = self.node(node).page(&format!("/debug/{page}")).expect("the agent answers");
        serde_json::from_str(&text).expect("debug pages are JSON")
    }

    /// What `larder up` has written to its terminal since it was started last.
    pub fn terminal(&self) -> String {
        std::fs::read_to_string(self.folder().join("up.out")).unwrap_or_default()
    }

    /// What a node's agent logged.
    pub fn log(&self, node: &str) -> String {
        self.node(node).log()
    }

    /// Waits until all chunks have their copies and nothing is on its way.
    pub fn wait_copies(&self, copies: Copies) {
        let wanted = copies.chunks * copies.replicas;
        wait_until(MINUTE, &format!("{wanted} copies in the stores"), || {
            let busy = self.sum("larder_copies_pending", &[]);
            busy == 0 && self.sum("larder_store_chunks", &[]) >= wanted
        });
    }
}

fn text(value: Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}
