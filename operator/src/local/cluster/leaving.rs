//! Nodes that leave: by `larder drain`, or because fewer are wanted than before.
//!
//! Who leaves gives its slots to others and hands over what it has. One that was drained then stays as it is, without
//! slots, and its mounts go on; one that is no longer wanted ends, and leaves the map. Never below minNodes.

use std::time::Duration;

use larder_proto::ids::NodeName;
use larder_proto::map::NodeState;
use tokio::time::Instant;

use super::Cluster;
use crate::local::commands::Refusal;

/// How long the others may take to hear that a node is Gone; who hasn't by then finds out when it asks.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

/// What is to become of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Wish {
    /// It hands over what it has, and owns nothing any more.
    Drain,
    /// It owns slots again.
    Undrain,
}

impl Cluster {
    pub(super) fn min_nodes(&self) -> usize {
        usize::try_from(self.desired.cluster.object.spec.min_nodes).unwrap_or(0)
    }

    /// `larder drain` and `larder undrain`; says what happens now.
    pub fn wish(&mut self, name: &str, wish: Wish) -> Result<String, Refusal> {
        let named = self.plans.iter().find(|plan| plan.name.as_str() == name).map(|plan| plan.name.clone());
        let nodes = self.authority.nodes();
        let known = named.filter(|name| nodes.iter().any(|node| node.name == *name));
        let Some(name) = known else {
            return Err(Refusal::new(format!("no node \"{name}\" has joined: larder get cn lists them")));
        };
        match wish {
            Wish::Drain => {
                // Who is silent, or has only just come back, is given no slots.
                let takes = |node: &crate::authority::NodeStatus| {
                    node.name != name && !node.stores.is_empty() && node.state == NodeState::Serving
                };
                if !nodes.iter().any(takes) {
                    return Err(Refusal::new(format!(
                        "node {name} can't be drained: no other node could take its slots"
                    )));
                }
                self.authority.retire(&name);
                Ok(format!("node {name} hands over what it has; larder get cn shows how far it is"))
            }
            Wish::Undrain => {
                self.authority.keep(&name);
                Ok(format!("node {name} stays"))
            }
        }
    }

    /// Nodes of the map that aren't planned.
    pub(super) fn unwanted(&self) -> Vec<NodeName> {
        let known = self.authority.nodes().into_iter().map(|node| node.name);
        known.filter(|name| !self.plans.iter().any(|plan| plan.name == *name)).collect()
    }

    /// Drops nodes of the stored map before any agent runs; says so.
    pub(super) fn forget_unwanted(&mut self) -> Result<Vec<NodeName>, Refusal> {
        let unwanted = self.unwanted();
        if !unwanted.is_empty() {
            check_count(self.storing(), self.storing() + unwanted.len(), self.min_nodes())?;
        }
        for name in &unwanted {
            self.authority.remove(name).map_err(|e| Refusal::new(format!("node {name} can't leave the map: {e}")))?;
            println!("{}", self.farewell(name));
        }
        Ok(unwanted)
    }

    /// Who isn't wanted any more begins to leave, and who is wanted again stays.
    pub(super) fn let_go(&mut self, known: &[NodeName]) -> Vec<NodeName> {
        for plan in self.plans.iter().filter(|plan| !known.contains(&plan.name)) {
            self.authority.keep(&plan.name);
        }
        let leaving = self.unwanted();
        leaving.iter().for_each(|name| self.authority.retire(name));
        leaving
    }

    /// Ends who has handed over everything, or can't any more; returns the lines that the terminal is to show.
    pub async fn part(&mut self) -> Vec<String> {
        let unwanted = self.unwanted();
        self.gone_since.retain(|name, _| unwanted.contains(name));
        if unwanted.is_empty() {
            return Vec::new();
        }
        let running = self.nodes.running();
        let mut leaving = Vec::new();
        for name in unwanted {
            if !running.contains(&name) || (self.is_gone(&name) && self.others_know(&name)) {
                leaving.push(name);
            }
        }
        if let Err(error) = self.nodes.stop_some(&leaving).await {
            return vec![format!("nodes can't leave: {error}")];
        }
        let mut lines = Vec::new();
        for name in &leaving {
            self.tokens.remove(name);
            lines.push(match self.authority.remove(name) {
                Ok(()) => self.farewell(name),
                Err(error) => format!("node {name} can't leave the map: {error}"),
            });
        }
        lines
    }

    fn is_gone(&self, name: &NodeName) -> bool {
        let listed = |map: &larder_proto::map::ClusterMap| map.node_named(name).map(|node| node.state);
        self.authority.map().is_none_or(|map| listed(&map).is_none_or(|state| state == NodeState::Gone))
    }

    /// Whether every node that reports runs on the map that has it as Gone, or had time enough to hear of it.
    fn others_know(&mut self, name: &NodeName) -> bool {
        let Some(map) = self.authority.map() else { return true };
        let since = *self.gone_since.entry(name.clone()).or_insert_with(Instant::now);
        let nodes = self.authority.nodes();
        let mut others = nodes.iter().filter(|node| node.name != *name && self.hears(node));
        since.elapsed() >= HEARD_WITHIN || others.all(|node| node.epoch >= map.epoch())
    }

    fn farewell(&self, name: &NodeName) -> String {
        let cache = self.folder.node(name.as_str());
        format!("node {name} has left the map; its cache stays in {}", cache.root().display())
    }
}

/// Whether so few nodes are enough.
pub(super) fn check_count(wanted: usize, known: usize, min_nodes: usize) -> Result<(), Refusal> {
    if wanted >= min_nodes {
        return Ok(());
    }
    Err(Refusal::new(format!(
        "--nodes {wanted}: the map has {known} nodes, and at least minNodes, {min_nodes}, must stay: lower minNodes first, or use more --nodes"
    )))
}
