//! What the authority knows when it plans the next map.

use std::collections::BTreeSet;

use crate::ids::{ClusterId, Epoch};
use crate::map::{Handover, Node, NodeState};

/// Everything that decides the next map, apart from the current one and the time. The order of the nodes doesn't matter.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The cluster.
    pub cluster: ClusterId,
    /// The highest epoch that anybody has been seen with; the next one is above it.
    pub epoch_floor: Epoch,
    /// Owners that each slot should have.
    pub width: u32,
    /// The first map waits for this many nodes with stores.
    pub min_nodes: u32,
    /// The nodes, with distinct ids and names. Who isn't here isn't in the next map.
    pub nodes: Vec<NodeFact>,
    /// Hand-overs of the current map that are over: all is where it belongs, or the time for it has passed.
    pub over: BTreeSet<Handover>,
}

/// A node as the authority sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFact {
    /// The node; weight 0 = it mounts and reads, and owns nothing.
    pub node: Node,
    /// When it became ready to own slots, or came back after it was Down: nodes that come within 5 s enter in one epoch.
    pub joined_ms: u64,
}

impl NodeFact {
    /// Whether it owns slots, or keeps those it has.
    pub(super) fn is_placed(&self) -> bool {
        self.node.weight > 0
            && match self.node.state {
                NodeState::Serving | NodeState::Suspect | NodeState::Returning => true,
                NodeState::Joining | NodeState::Draining | NodeState::Down | NodeState::Gone => false,
            }
    }

    /// Whether it leaves, and may own slots until somebody who serves takes them.
    pub(super) fn is_leaving(&self) -> bool {
        self.node.weight > 0 && self.node.state == NodeState::Draining
    }

    /// Whether what it has can still be had from it when it no longer owns it.
    pub(super) fn may_give(&self) -> bool {
        match self.node.state {
            NodeState::Serving | NodeState::Suspect | NodeState::Returning | NodeState::Draining | NodeState::Gone => {
                true
            }
            NodeState::Joining | NodeState::Down => false,
        }
    }

    /// Whether it can begin to own slots now.
    pub(super) fn is_ready(&self) -> bool {
        self.node.weight > 0 && self.node.state == NodeState::Serving
    }
}
