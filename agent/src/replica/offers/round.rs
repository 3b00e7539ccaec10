//! Who is owed an offer of which slots. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use larder_proto::ids::{NodeId, Slot};
use larder_proto::map::{ClusterMap, NodeState};
use larder_proto::object::Chunk;

/// One round of offers.
pub(super) struct Round {
    this: NodeId,
    map: Arc<ClusterMap>,
    /// As of which map everything was offered; nothing: never.
    sound: Option<Arc<ClusterMap>>,
    /// Nodes that have begun anew since.
    begun: BTreeSet<NodeId>,
}

impl Round {
    pub(super) fn new(
        this: NodeId,
        map: Arc<ClusterMap>,
        sound: Option<Arc<ClusterMap>>,
        begun: BTreeSet<NodeId>,
    ) -> Self {
        Self { this, map, sound, begun }
    }

    /// Whether nobody is owed anything.
    pub(super) fn is_empty(&self) -> bool {
        Slot::all().all(|slot| self.owed_of(slot, usize::MAX).next().is_none())
    }

    /// Whether a slot that this node gives away has an owner that is silent: it may lack what is here, and can't be asked
    /// before it returns. Until then, or until others own the slot, nothing is over.
    pub(super) fn waits_for_silent(&self) -> bool {
        let silent = |owner: &NodeId| self.map.node(*owner).is_some_and(|node| node.state == NodeState::Suspect);
        let given = self.map.handover().iter().filter(|entry| entry.from == self.this);
        given
            .flat_map(|entry| self.map.owners(entry.slot).iter().map(move |owner| (entry.slot, owner)))
            .any(|(slot, owner)| silent(owner) && self.may_lack(slot, *owner))
    }

    /// The owners that are offered the chunk, of the first `copies`.
    pub(super) fn owed(&self, chunk: &Chunk, copies: usize) -> impl Iterator<Item = NodeId> + '_ {
        self.owed_of(chunk.slot(), copies)
    }

    fn owed_of(&self, slot: Slot, copies: usize) -> impl Iterator<Item = NodeId> + '_ {
        let owners = self.map.owners(slot).iter().take(copies).copied();
        owners.filter(move |owner| *owner != self.this && takes(&self.map, *owner) && self.may_lack(slot, *owner))
    }

    /// Whether the owner wasn't offered the slot's chunks as of the sound map, or may have lost them since.
    fn may_lack(&self, slot: Slot, owner: NodeId) -> bool {
        let Some(sound) = &self.sound else { return true };
        self.begun.contains(&owner) || !takes(sound, owner) || !sound.owners(slot).contains(&owner)
    }

    /// Whether the newer map owes something to others than this round knows.
    pub(super) fn is_outdated_by(&self, newer: &Arc<ClusterMap>) -> bool {
        if newer.epoch() <= self.map.epoch() {
            return false;
        }
        let since = Self::new(self.this, newer.clone(), Some(self.map.clone()), BTreeSet::new());
        !since.is_empty()
    }
}

/// Whether the node can be offered anything; one that is silent is, when it returns.
fn takes(map: &ClusterMap, node: NodeId) -> bool {
    map.node(node).is_some_and(|node| match node.state {
        NodeState::Serving | NodeState::Returning => true,
        NodeState::Joining | NodeState::Suspect | NodeState::Draining | NodeState::Down | NodeState::Gone => false,
    })
}

#[cfg(test)]
mod tests {
    use larder_proto::ids::{ClusterId, Epoch, NodeName};
    use larder_proto::map::{Handover, Node, Ports};

    use super::*;

    /// A map of these nodes, of which the first two own every slot.
    fn map(epoch: u64, nodes: &[(u32, NodeState)]) -> Arc<ClusterMap> {
        let listed = nodes.iter().map(|(id, state)| Node {
            id: NodeId(*id),
            name: NodeName::parse(&format!("n{id}")).expect("a name"),
            addresses: Vec::new(),
            ports: Ports::default(),
            domain: "a".into(),
            weight: 1,
            state: *state,
        });
        let owners: Vec<NodeId> = nodes.iter().take(2).map(|(id, _)| NodeId(*id)).collect();
        let owners = vec![owners; Slot::all().count()];
        let leaves = |(id, state): &(u32, NodeState)| (*state == NodeState::Draining).then_some(NodeId(*id));
        let leaving =
            nodes.iter().filter_map(leaves).flat_map(|from| Slot::all().map(move |slot| Handover { slot, from }));
        let map = ClusterMap::new(Epoch(epoch), ClusterId::of("a/a"), listed.collect(), &owners, leaving.collect());
        Arc::new(map.expect("sound"))
    }

    fn owed(map: &Arc<ClusterMap>, sound: Option<&Arc<ClusterMap>>, begun: &[u32]) -> Vec<u32> {
        let begun = begun.iter().map(|id| NodeId(*id)).collect();
        let round = Round::new(NodeId(1), map.clone(), sound.cloned(), begun);
        let slot = Slot::new(7).expect("below 16,384");
        let owed: Vec<u32> = round.owed_of(slot, usize::MAX).map(|id| id.0).collect();
        assert_eq!(round.is_empty(), owed.is_empty());
        owed
    }

    use NodeState::{Draining, Gone, Returning, Serving, Suspect};

    #[test]
    fn who_gives_slots_to_a_silent_node_is_not_done_before_it_returns_or_others_have_them() {
        let waits = |map: &Arc<ClusterMap>, sound: Option<&Arc<ClusterMap>>| {
            Round::new(NodeId(1), map.clone(), sound.cloned(), BTreeSet::new()).waits_for_silent()
        };
        let leaving = map(2, &[(2, Serving), (3, Suspect), (1, Draining)]);
        assert!(waits(&leaving, None) && waits(&leaving, Some(&leaving)), "n3 was never asked");
        let offered = map(1, &[(2, Serving), (3, Serving), (1, Draining)]);
        assert!(!waits(&leaving, Some(&offered)), "it was, before it fell silent");
        assert!(!waits(&offered, None), "nobody is silent");
        let staying = map(2, &[(1, Serving), (3, Suspect), (2, Serving)]);
        assert!(!waits(&staying, None), "nothing is given away: it is asked when it returns");
    }

    #[test]
    fn who_may_lack_something_is_asked_and_nobody_else() {
        let two = map(2, &[(1, Serving), (2, Serving), (3, Serving)]);
        assert_eq!(owed(&two, None, &[]), [2], "never offered");
        assert!(owed(&two, Some(&two), &[]).is_empty());
        assert_eq!(owed(&two, Some(&two), &[2, 3]), [2], "it began anew; one that owns nothing doesn't matter");
        let moved = map(3, &[(3, Serving), (2, Serving), (1, Gone)]);
        assert_eq!(owed(&moved, Some(&two), &[]), [3], "a new owner, also by who is none any more");
        let silent = map(4, &[(1, Serving), (2, Suspect)]);
        assert!(owed(&silent, None, &[]).is_empty(), "who is silent can't be asked");
        let back = map(5, &[(1, Serving), (2, Returning)]);
        assert_eq!(owed(&back, Some(&silent), &[]), [2], "it may have lost its disk");
    }

    #[test]
    fn only_a_map_that_owes_more_outdates_a_round() {
        let two = map(2, &[(1, Serving), (2, Serving), (3, Serving)]);
        let round = Round::new(NodeId(1), two.clone(), None, BTreeSet::new());
        assert!(!round.is_outdated_by(&two));
        assert!(!round.is_outdated_by(&map(3, &[(1, Serving), (2, Suspect), (3, Serving)])));
        assert!(round.is_outdated_by(&map(3, &[(1, Serving), (3, Serving), (2, Serving)])));
    }
}
