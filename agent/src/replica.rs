//! Copies: which nodes own a chunk now, and giving it to those that lack it.
//!
//! After a filler has served its readers it pushes the chunk to the slot's other owners. What waits is bounded, and so
//! are transfers; an owner that can't take its copy now is tried again, slower and slower, until it can, stops being an
//! owner, or the chunk is gone here. Whatever is missed by that, and whatever a new map gives to other owners, is offered
//! to them by who has it: hand-over, repair after a loss and drain are the same offers. Nothing waits for a copy: losing
//! one is a miss.

use std::sync::Arc;

use larder_proto::ids::{Epoch, NodeId, NodeName};
use larder_proto::map::{ClusterMap, NodeState};
use larder_proto::object::Chunk;
use tokio::sync::watch;

use crate::map::MapHolder;

mod offers;
mod pending;
mod push;
mod standing;
#[cfg(test)]
mod tests;

pub use push::{FromMemory, Replicator, Snapshot, Volumes};

/// The map that this node believes. Reading never waits for a newer one.
pub trait Maps: Send + Sync + 'static {
    /// The map; nothing before the first.
    fn current(&self) -> Option<Arc<ClusterMap>>;

    /// Tells of each new map.
    fn changed(&self) -> watch::Receiver<Epoch>;

    /// This node's name, as in its certificate.
    fn this_node(&self) -> &NodeName;

    /// Nodes whose agents have begun anew since the last call, by their own word.
    fn take_begun(&self) -> Vec<NodeName> {
        Vec::new()
    }
}

impl Maps for MapHolder {
    fn current(&self) -> Option<Arc<ClusterMap>> {
        MapHolder::current(self)
    }

    fn changed(&self) -> watch::Receiver<Epoch> {
        MapHolder::changed(self)
    }

    fn this_node(&self) -> &NodeName {
        self.self_name()
    }

    fn take_begun(&self) -> Vec<NodeName> {
        MapHolder::take_begun(self)
    }
}

/// Who owns a chunk, as one map has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owners {
    /// The map's epoch; 0 before the first map.
    pub epoch: Epoch,
    /// This node, once the map has it.
    pub this: Option<NodeId>,
    /// The owners in map order, at most as many as the volume wants copies.
    pub nodes: Vec<OwnerNode>,
    /// The former owners, while the slot is handed over.
    pub former: Vec<NodeId>,
}

/// One owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerNode {
    /// The node.
    pub id: NodeId,
    /// What the authority says of it.
    pub state: NodeState,
    /// Whether it is in this node's failure domain.
    pub near: bool,
}

impl Owners {
    /// The owners of `chunk`, whose volume wants `replicas` copies (nothing: as many as the map has).
    pub fn of(maps: &dyn Maps, chunk: &Chunk, replicas: Option<u32>) -> Self {
        let Some(map) = maps.current() else {
            return Self { epoch: Epoch::default(), this: None, nodes: Vec::new(), former: Vec::new() };
        };
        let this = map.node_named(maps.this_node());
        let slot = chunk.slot();
        let copies = replicas.map_or(usize::MAX, |replicas| usize::try_from(replicas.max(1)).unwrap_or(usize::MAX));
        let owner = |id: &NodeId| {
            let node = map.node(*id)?;
            let near = this.is_some_and(|this| !this.domain.is_empty() && this.domain == node.domain);
            Some(OwnerNode { id: *id, state: node.state, near })
        };
        let nodes = map.owners(slot).iter().take(copies).filter_map(owner).collect();
        let former = map.former(slot).collect();
        Self { epoch: map.epoch(), this: this.map(|node| node.id), nodes, former }
    }

    /// Whether this node is one of them.
    pub fn includes_this(&self) -> bool {
        self.this.is_some_and(|this| self.nodes.iter().any(|owner| owner.id == this))
    }

    /// The owners that aren't this node.
    pub fn others(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().map(|owner| owner.id).filter(|id| Some(*id) != self.this)
    }
}
