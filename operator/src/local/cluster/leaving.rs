//! Fewer nodes than before: who isn't wanted any more gives its slots to the others and leaves the map.
//!
//! Nothing is moved: what only a leaving node has is filled again from the origin when it is read. Never below minNodes.

use std::time::Duration;

use larder_proto::ids::NodeName;
use larder_proto::map::NodeState;
use tokio::time::{Instant, sleep};

use super::Cluster;
use crate::local::commands::Refusal;

/// How long the others may take to hear who leads now; who hasn't by then finds out when it asks.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Cluster {
    pub(super) fn min_nodes(&self) -> usize {
        usize::try_from(self.desired.cluster.object.spec.min_nodes).unwrap_or(0)
    }

    /// Nodes of the map that aren't planned. Refused when too few would stay.
    pub(super) fn unwanted(&self) -> Result<Vec<NodeName>, Refusal> {
        let known = self.authority.nodes().into_iter().map(|node| node.name);
        let unwanted: Vec<NodeName> = known.filter(|name| !self.plans.iter().any(|plan| plan.name == *name)).collect();
        if !unwanted.is_empty() {
            check_count(self.storing(), self.storing() + unwanted.len(), self.min_nodes())?;
        }
        Ok(unwanted)
    }

    /// Drops nodes of the stored map before any agent runs; says so.
    pub(super) fn forget_unwanted(&mut self) -> Result<Vec<NodeName>, Refusal> {
        let unwanted = self.unwanted()?;
        for name in &unwanted {
            self.authority.remove(name).map_err(|e| Refusal::new(format!("node {name} can't leave the map: {e}")))?;
            println!("{}", self.farewell(name));
        }
        Ok(unwanted)
    }

    /// Lets nodes of the running cluster go: first their slots, then their agents, then their names.
    pub(super) async fn let_go(&mut self) -> Result<Vec<NodeName>, Refusal> {
        let leaving = self.unwanted()?;
        if leaving.is_empty() {
            return Ok(leaving);
        }
        leaving.iter().for_each(|name| self.authority.retire(name));
        let deadline = Instant::now() + HEARD_WITHIN;
        while !self.have_heard(&leaving) && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
        }
        let refuse = |e: std::io::Error| Refusal::new(format!("nodes can't leave: {e}"));
        self.nodes.stop_some(&leaving).await.map_err(refuse)?;
        for name in &leaving {
            self.tokens.remove(name);
            self.authority.remove(name).map_err(refuse)?;
            println!("{}", self.farewell(name));
        }
        Ok(leaving)
    }

    /// Whether the map has them as Gone, and every node that stays and reports runs on it.
    fn have_heard(&self, leaving: &[NodeName]) -> bool {
        let Some(map) = self.authority.map() else { return true };
        let gone = |name: &NodeName| map.node_named(name).is_none_or(|node| node.state == NodeState::Gone);
        let nodes = self.authority.nodes();
        let staying = nodes.iter().filter(|node| !leaving.contains(&node.name));
        leaving.iter().all(gone) && staying.filter(|node| self.hears(node)).all(|node| node.epoch >= map.epoch())
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
