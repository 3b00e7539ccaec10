//! Who is owed an offer of which slots, and by whom. Pure.
//!
//! Of those that have a slot's chunks one gives an owner what it lacks, so that nothing is sent twice: the nearest to the
//! owner. Who that is follows from the map alone but for who may lack the slot's chunks itself, which no node believes of
//! itself: of two nodes neither leaves a chunk to the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use larder_proto::ids::{NodeId, Slot};
use larder_proto::map::{ClusterMap, NodeState};
use larder_proto::object::Chunk;

use super::sound::gives;

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

    /// Who gives the owner what it lacks of the chunk, where that isn't this node: whoever is in the owner's failure domain
    /// before others, and who hands the slot over before who owns it and serves. Only nodes that were offered all are
    /// counted on; in a round that asks everybody about everything, nobody is.
    pub(super) fn giver(&self, chunk: &Chunk, copies: usize, owner: NodeId) -> Option<NodeId> {
        self.giver_of(chunk.slot(), copies, owner)
    }

    fn giver_of(&self, slot: Slot, copies: usize, owner: NodeId) -> Option<NodeId> {
        self.sound.as_ref()?;
        let map = &self.map;
        let domain = map.node(owner).map(|node| &*node.domain).filter(|domain| !domain.is_empty());
        let is_far = |id: NodeId| domain.is_none() || map.node(id).map(|node| &*node.domain) != domain;
        let has = |id: NodeId| id == self.this || !self.may_lack(slot, id);
        let serves = |id: NodeId| map.node(id).is_some_and(|node| node.state == NodeState::Serving);
        let owners = map.owners(slot);
        let former = map.former(slot).filter(|id| !owners.contains(id) && gives(map, *id));
        let others = owners.iter().take(copies).copied().filter(|id| *id != owner && serves(*id) && has(*id));
        // The first of those that are equally near.
        let nearest = former.chain(others).min_by_key(|id| is_far(*id))?;
        (nearest != self.this).then_some(nearest)
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
pub(super) mod tests {
    use larder_proto::ids::{ClusterId, Epoch, NodeName};
    use larder_proto::map::{Handover, Node, Ports};

    use super::*;

    /// A map of these nodes, of which the first two own every slot, and those that drain hand over all of them.
    pub(in super::super) fn map(epoch: u64, nodes: &[(u32, NodeState)]) -> Arc<ClusterMap> {
        zoned(epoch, &nodes.iter().map(|(id, state)| (*id, *state, "a")).collect::<Vec<_>>())
    }

    /// The same, each in its failure domain.
    fn zoned(epoch: u64, nodes: &[(u32, NodeState, &str)]) -> Arc<ClusterMap> {
        let listed = nodes.iter().map(|(id, state, domain)| Node {
            id: NodeId(*id),
            name: NodeName::parse(&format!("n{id}")).expect("a name"),
            addresses: Vec::new(),
            ports: Ports::default(),
            domain: (*domain).into(),
            weight: 1,
            state: *state,
        });
        let owners: Vec<NodeId> = nodes.iter().take(2).map(|(id, ..)| NodeId(*id)).collect();
        let owners = vec![owners; Slot::all().count()];
        let leaves = |(id, state, _): &(u32, NodeState, _)| (*state == NodeState::Draining).then_some(NodeId(*id));
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

    /// Who gives n`owner` what it lacks, in the eyes of n`this`.
    fn giver(this: u32, map: &Arc<ClusterMap>, sound: &Arc<ClusterMap>, begun: &[u32], owner: u32) -> u32 {
        let begun = begun.iter().map(|id| NodeId(*id)).collect();
        let round = Round::new(NodeId(this), map.clone(), Some(sound.clone()), begun);
        let slot = Slot::new(7).expect("below 16,384");
        round.giver_of(slot, usize::MAX, NodeId(owner)).map_or(this, |giver| giver.0)
    }

    #[test]
    fn of_those_that_have_it_one_gives() {
        let before = map(1, &[(1, Serving), (2, Serving), (3, Serving), (4, Serving)]);
        // n3 is new, n1 hands over; n4 has it as a guest.
        let moved = map(2, &[(2, Serving), (3, Serving), (1, Draining), (4, Serving)]);
        assert_eq!([1, 2, 4].map(|this| giver(this, &moved, &before, &[], 3)), [1, 1, 1]);
        let lost = map(3, &[(2, Serving), (3, Serving), (1, Gone), (4, Serving)]);
        assert_eq!([1, 2, 4].map(|this| giver(this, &lost, &before, &[], 3)), [2, 2, 2], "the owner that is left");
        let silent = map(3, &[(2, Suspect), (3, Serving), (1, Gone), (4, Serving)]);
        assert_eq!([1, 4].map(|this| giver(this, &silent, &before, &[], 3)), [1, 4], "nobody can be counted on");
        assert_eq!(giver(1, &lost, &before, &[2], 3), 1, "nor who has begun anew: it may have lost its disk");
        assert_eq!(giver(2, &lost, &before, &[2], 3), 2, "but it gives what it has");
        let both = map(4, &[(3, Serving), (4, Serving), (1, Draining), (2, Draining)]);
        assert_eq!([1, 2].map(|this| giver(this, &both, &before, &[], 3)), [1, 1], "one of two that hand over");
        let full = Round::new(NodeId(2), moved, None, BTreeSet::new());
        assert_eq!(
            full.giver_of(Slot::new(7).expect("below 16,384"), 2, NodeId(3)),
            None,
            "everybody, about everything"
        );
    }

    #[test]
    fn who_is_near_gives_before_who_is_not() {
        let zones = ["a", "b", "b", "c"];
        let at = |id: u32| zones[id as usize - 1];
        let before = zoned(1, &[1, 2, 3, 4].map(|id| (id, Serving, at(id))));
        let moved = zoned(2, &[(2, Serving, at(2)), (3, Serving, at(3)), (1, Draining, at(1)), (4, Serving, at(4))]);
        assert_eq!([1, 2, 4].map(|this| giver(this, &moved, &before, &[], 3)), [2, 2, 2], "n2 is in n3's domain");
        let moved = zoned(2, &[(1, Serving, at(1)), (3, Serving, at(3)), (2, Draining, at(2)), (4, Serving, at(4))]);
        assert_eq!([1, 2, 4].map(|this| giver(this, &moved, &before, &[], 3)), [2, 2, 2]);
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
