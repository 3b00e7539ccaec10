//! As of which map everything here was offered, and on whom that stands. Pure.
//!
//! What nearer nodes give is left to them. When one of those is lost, or has begun anew, it may not have given it: what was
//! offered since then is owed again.

use std::collections::BTreeSet;
use std::sync::Arc;

use larder_proto::ids::NodeId;
use larder_proto::map::{ClusterMap, NodeState};

#[derive(Default)]
pub(super) struct Sound {
    /// Nothing: never, or it is no longer believed.
    map: Option<Arc<ClusterMap>>,
    left: Option<Left>,
}

/// What was left to others since everybody was asked about everything.
struct Left {
    to: BTreeSet<NodeId>,
    /// As of which map all was offered before anything was left.
    before: Arc<ClusterMap>,
}

impl Sound {
    pub(super) fn map(&self) -> Option<Arc<ClusterMap>> {
        self.map.clone()
    }

    /// Everybody is to be asked about everything.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// All was offered as of `map`, or left to these to give.
    pub(super) fn reach(&mut self, map: Arc<ClusterMap>, left_to: BTreeSet<NodeId>) {
        let before = self.map.replace(map);
        if let Some(left) = &mut self.left {
            left.to.extend(left_to);
        } else if let Some(before) = before.filter(|_| !left_to.is_empty()) {
            self.left = Some(Left { to: left_to, before });
        }
    }

    /// Looks whether those that something was left to are still there; `begun`: who has begun anew.
    pub(super) fn doubt(&mut self, map: &ClusterMap, begun: &BTreeSet<NodeId>) {
        let is_lost = |node: &NodeId| begun.contains(node) || !gives(map, *node);
        if let Some(left) = self.left.take_if(|left| left.to.iter().any(is_lost)) {
            self.map = Some(left.before);
        }
    }
}

/// Whether the node gives what it has: who leaves does, too.
pub(super) fn gives(map: &ClusterMap, node: NodeId) -> bool {
    map.node(node).is_some_and(|node| match node.state {
        NodeState::Serving | NodeState::Returning | NodeState::Draining => true,
        NodeState::Joining | NodeState::Suspect | NodeState::Down | NodeState::Gone => false,
    })
}

#[cfg(test)]
mod tests {
    use NodeState::{Down, Serving};

    use super::super::round::tests::map;
    use super::*;

    fn epoch_of(sound: &Sound) -> Option<u64> {
        sound.map().map(|map| map.epoch().0)
    }

    fn ids(ids: &[u32]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    #[test]
    fn what_was_left_to_a_node_that_is_lost_is_owed_again() {
        let all = |epoch| map(epoch, &[(1, Serving), (2, Serving), (3, Serving)]);
        let lost = map(5, &[(1, Serving), (2, Serving), (3, Down)]);
        let mut sound = Sound::default();
        sound.reach(all(1), ids(&[]));
        sound.reach(all(2), ids(&[3]));
        sound.reach(all(3), ids(&[2]));
        sound.doubt(&all(4), &ids(&[1]));
        assert_eq!(epoch_of(&sound), Some(3), "nothing was left to n1");
        sound.doubt(&lost, &ids(&[]));
        assert_eq!(epoch_of(&sound), Some(1), "n3 may not have given what it was left as of 2");
        sound.reach(lost.clone(), ids(&[]));
        sound.doubt(&lost, &ids(&[2, 3]));
        assert_eq!(epoch_of(&sound), Some(5), "that was offered by this node then");

        sound.reach(all(6), ids(&[2]));
        sound.doubt(&all(6), &ids(&[2]));
        assert_eq!(epoch_of(&sound), Some(5), "n2 has begun anew");
        sound.forget();
        assert_eq!(epoch_of(&sound), None);
    }
}
