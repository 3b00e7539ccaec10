//! In which order a chunk's places are asked. Pure: the map's owners, this node and the store's answer in, hops out.
//!
//! The order is the promise of "one GET per chunk": everybody sends its Fill to the first Serving owner, an owner asks
//! only owners before itself (so two nodes with one map never wait for each other), and the origin comes last, asked by
//! the first owner that can be connected. Before that first owner goes to the origin it asks the slot's other owners
//! whether they have the chunk: one round trip inside the cluster, which keeps the promise after a restart, a lost
//! store, a corrupt copy or a new lead.

use larder_proto::ids::NodeId;

/// One place to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// This node's own store.
    Store,
    /// A nearer or quicker owner that isn't the lead: bytes at once, or the next hop.
    Have(NodeId),
    /// All of these at once; the first that has it answers.
    OwnersHave(Vec<NodeId>),
    /// An owner that has the chunk or brings it.
    Fill(NodeId),
    /// The origin itself.
    Origin(Keep),
}

/// Whether a chunk from the origin is written to this node's store and pushed to the other owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// This node owns the slot.
    Owned,
    /// It doesn't: the bytes only pass through memory.
    Passing,
}

/// An owner of the chunk's slot, as the map has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The node.
    pub id: NodeId,
    /// Whether the map says it serves (Suspect, Returning and the rest are asked after those that do).
    pub serving: bool,
    /// Whether it is in this node's failure domain.
    pub near: bool,
    /// Whether it answers so much later than others that another copy is tried first.
    pub slow: bool,
}

/// What the order depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// This node, once it has a place in the map.
    pub this: Option<NodeId>,
    /// The slot's owners in map order.
    pub owners: &'a [Owner],
    /// The former owners, while the slot is handed over.
    pub former: &'a [NodeId],
    /// Whether this node's store has the chunk.
    pub stored: Stored,
}

/// Whether this node's store has a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It doesn't.
    No,
    /// It does.
    Yes,
    /// It does, on a disk that is slow now: peers come first, the origin last.
    Slow,
}

/// The hops of a chunk, in order; never empty, for the origin is always the last resort.
pub fn route(view: &View<'_>) -> Vec<Hop> {
    let mut hops = Vec::new();
    if view.stored == Stored::Yes {
        hops.push(Hop::Store);
    }
    let ordered = in_order(view.owners);
    let position = ordered.iter().position(|owner| Some(owner.id) == view.this);
    let before = &ordered[..position.unwrap_or(ordered.len())];
    if let Some(better) = better_than_lead(before) {
        hops.push(Hop::Have(better));
    }
    hops.extend(before.iter().map(|owner| Hop::Fill(owner.id)));
    let slow = (view.stored == Stored::Slow).then_some(Hop::Store);
    match position {
        None => hops.extend(slow.into_iter().chain([Hop::Origin(Keep::Passing)])),
        Some(own) => {
            let mut others: Vec<NodeId> = ordered[own + 1..].iter().map(|owner| owner.id).collect();
            let is_owner = |former: &NodeId| view.owners.iter().any(|owner| owner.id == *former);
            let former = view.former.iter().filter(|former| Some(**former) != view.this && !is_owner(former));
            others.extend(former.copied());
            if !others.is_empty() {
                hops.push(Hop::OwnersHave(others));
            }
            hops.extend(slow);
            hops.push(Hop::Origin(Keep::Owned));
        }
    }
    hops
}

fn in_order(owners: &[Owner]) -> Vec<Owner> {
    let (mut serving, rest): (Vec<Owner>, Vec<Owner>) = owners.iter().partition(|owner| owner.serving);
    serving.extend(rest);
    serving
}

fn better_than_lead(ordered: &[Owner]) -> Option<NodeId> {
    let (lead, rest) = ordered.split_first()?;
    let mut quick = rest.iter().filter(|owner| owner.serving && !owner.slow);
    match (lead.near, lead.slow) {
        (true, false) => None,
        (false, false) => quick.find(|owner| owner.near).map(|owner| owner.id),
        (_, true) => quick.max_by_key(|owner| owner.near).map(|owner| owner.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(id: u32) -> Owner {
        Owner { id: NodeId(id), serving: true, near: false, slow: false }
    }

    fn hops(this: u32, owners: &[Owner]) -> Vec<Hop> {
        route(&View { this: Some(NodeId(this)), owners, former: &[], stored: Stored::No })
    }

    #[test]
    fn a_reader_asks_the_owners_in_order_and_the_origin_last() {
        let expected = vec![Hop::Fill(NodeId(2)), Hop::Fill(NodeId(3)), Hop::Origin(Keep::Passing)];
        assert_eq!(hops(1, &[owner(2), owner(3)]), expected);
    }

    #[test]
    fn the_lead_asks_the_others_before_the_origin() {
        let expected = vec![Hop::OwnersHave(vec![NodeId(3)]), Hop::Origin(Keep::Owned)];
        assert_eq!(hops(2, &[owner(2), owner(3)]), expected);
    }

    #[test]
    fn an_owner_asks_only_owners_before_itself_to_fill() {
        let expected = vec![Hop::Fill(NodeId(2)), Hop::OwnersHave(vec![NodeId(4)]), Hop::Origin(Keep::Owned)];
        assert_eq!(hops(3, &[owner(2), owner(3), owner(4)]), expected);
    }

    #[test]
    fn a_suspect_owner_is_asked_last_wherever_it_stands() {
        let suspect = Owner { serving: false, ..owner(2) };
        assert_eq!(hops(1, &[suspect, owner(3)])[0], Hop::Fill(NodeId(3)));
        assert_eq!(hops(1, &[suspect])[0], Hop::Fill(NodeId(2)), "better than nobody");
    }

    #[test]
    fn a_near_copy_is_tried_only_when_the_lead_is_far() {
        let near = Owner { near: true, ..owner(3) };
        assert_eq!(hops(1, &[owner(2), near])[0], Hop::Have(NodeId(3)));
        assert_eq!(hops(1, &[Owner { near: true, ..owner(2) }, near])[0], Hop::Fill(NodeId(2)));
    }

    #[test]
    fn a_copy_is_tried_when_the_lead_is_slow() {
        let slow = Owner { slow: true, near: true, ..owner(2) };
        assert_eq!(hops(1, &[slow, owner(3)])[..2], [Hop::Have(NodeId(3)), Hop::Fill(NodeId(2))]);
        assert_eq!(hops(1, &[slow, Owner { slow: true, ..owner(3) }])[0], Hop::Fill(NodeId(2)), "none is better");
    }

    #[test]
    fn the_store_comes_first_and_a_former_owner_is_asked_before_the_origin() {
        let view = View { this: Some(NodeId(2)), owners: &[owner(2)], former: &[NodeId(9)], stored: Stored::Yes };
        let expected = vec![Hop::Store, Hop::OwnersHave(vec![NodeId(9)]), Hop::Origin(Keep::Owned)];
        assert_eq!(route(&view), expected);
    }

    #[test]
    fn a_slow_store_comes_after_the_peers_and_before_the_origin() {
        let view = View { this: Some(NodeId(2)), owners: &[owner(2), owner(3)], former: &[], stored: Stored::Slow };
        assert_eq!(route(&view), vec![Hop::OwnersHave(vec![NodeId(3)]), Hop::Store, Hop::Origin(Keep::Owned)]);
        let view = View { this: Some(NodeId(1)), ..view };
        let expected = vec![Hop::Fill(NodeId(2)), Hop::Fill(NodeId(3)), Hop::Store, Hop::Origin(Keep::Passing)];
        assert_eq!(route(&view), expected);
    }

    #[test]
    fn without_a_map_the_origin_is_left() {
        let view = View { this: None, owners: &[], former: &[], stored: Stored::No };
        assert_eq!(route(&view), vec![Hop::Origin(Keep::Passing)]);
    }
}
