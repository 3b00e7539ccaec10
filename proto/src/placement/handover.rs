//! Who is asked before the origin for what a slot's new owners don't have yet: its former owners.
//!
//! A slot that loses an owner gets an entry for it, as long as that node can still give; the entry goes when it owns the
//! slot again, can't give any more, or the caller says that it is over. Not more than two per slot, the last to leave first.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::NodeFact;
use crate::ids::{NodeId, Slot};
use crate::map::{ClusterMap, Handover};

/// Former owners of a slot that the map names: with `SLOTS` of them it stays within `HANDOVERS_MAX`.
const FORMER_MAX: usize = 2;

pub(super) fn handover(
    before: &ClusterMap,
    nodes: &BTreeMap<NodeId, NodeFact>,
    owners: &[Vec<NodeId>],
    over: &BTreeSet<Handover>,
) -> Vec<Handover> {
    let mut still = before.handover().iter().filter(|entry| !over.contains(entry)).peekable();
    let mut entries = Vec::new();
    for (slot, now) in Slot::all().zip(owners) {
        let left = before.owners(slot).iter().copied();
        let earlier = std::iter::from_fn(|| still.next_if(|entry| entry.slot == slot)).map(|entry| entry.from);
        let mut named: Vec<NodeId> = Vec::new();
        for from in left.chain(earlier) {
            let may_give = nodes.get(&from).is_some_and(NodeFact::may_give) && !now.contains(&from);
            if may_give && !named.contains(&from) {
                named.push(from);
            }
        }
        entries.extend(named.into_iter().take(FORMER_MAX).map(|from| Handover { slot, from }));
    }
    entries
}
