//! From facts to the next map: who takes part, then owners, then their order.

use std::collections::BTreeMap;

use super::facts::{Facts, NodeFact};
use super::owners::{Member, Table};
use super::{handover, leads, quota};
use crate::ids::{NodeId, Slot};
use crate::limits::OWNERS_MAX;
use crate::map::{ClusterMap, MapError, Node, NodeState};

/// Nodes that come, or come back, within this time of each other enter in one epoch,
const SETTLE_MS: u64 = 5_000;
/// and none waits longer than this, however many keep coming.
const SETTLE_MAX_MS: u64 = 30_000;

/// Passes over a plan: the second mends what the first left for want of a fitting slot.
const PASSES: usize = 2;

pub(super) fn next_map(
    current: Option<&ClusterMap>,
    facts: &Facts,
    now_ms: u64,
) -> Result<Option<ClusterMap>, MapError> {
    let mut nodes: BTreeMap<NodeId, NodeFact> = facts.nodes.iter().map(|fact| (fact.node.id, fact.clone())).collect();
    hold_back_newcomers(current, facts, &mut nodes, now_ms);
    let ready = nodes.values().filter(|fact| fact.is_ready()).count();
    if current.is_none() && (ready == 0 || ready < usize::try_from(facts.min_nodes).unwrap_or(usize::MAX)) {
        return Ok(None);
    }
    // While nobody serves, who leaves is better than nobody.
    let may_own = |fact: &&NodeFact| fact.is_placed() || (ready == 0 && fact.is_leaving());
    let living: Vec<&NodeFact> = nodes.values().filter(may_own).collect();
    let width = Width::new(facts, &living);
    let owners = match current {
        Some(map) if says_it_all(map, facts, &nodes, width) => {
            if !map.handover().iter().any(|entry| facts.over.contains(entry)) {
                return Ok(None);
            }
            // Only hand-overs end: planning again could only shuffle.
            Slot::all().map(|slot| map.owners(slot).to_vec()).collect()
        }
        Some(map) if living.is_empty() => kept_owners(map, &nodes),
        Some(_) | None => plan(current, &living, width),
    };
    let handover = current.map(|map| handover::handover(map, &nodes, &owners, &facts.over)).unwrap_or_default();
    let listed = nodes.into_values().map(|fact| fact.node).collect();
    let epoch = current.map_or(facts.epoch_floor, |map| map.epoch().max(facts.epoch_floor)).next();
    ClusterMap::new(epoch, facts.cluster, listed, &owners, handover).map(Some)
}

/// How many owners a slot should have.
#[derive(Clone, Copy)]
pub(super) enum Width {
    /// So many.
    Exactly(usize),
    /// Nobody serves: what a slot has, and at least so many.
    AtLeast(usize),
}

impl Width {
    fn new(facts: &Facts, living: &[&NodeFact]) -> Self {
        let placed = living.iter().filter(|fact| fact.is_placed()).count();
        let width = usize::try_from(facts.width).unwrap_or(OWNERS_MAX).clamp(1, OWNERS_MAX).min(placed);
        match living.iter().any(|fact| fact.is_ready()) {
            true => Self::Exactly(width),
            // Who leaves takes a slot that nobody else has, and no more than that.
            false => Self::AtLeast(width.max(1).min(living.len())),
        }
    }

    pub(super) fn owners(self) -> usize {
        match self {
            Self::Exactly(owners) | Self::AtLeast(owners) => owners,
        }
    }

    fn is_met_by(self, owners: usize) -> bool {
        match self {
            Self::Exactly(wanted) => owners == wanted,
            Self::AtLeast(wanted) => owners >= wanted,
        }
    }
}

/// Whether the map was planned from these very nodes and this width: planning again could only shuffle.
fn says_it_all(map: &ClusterMap, facts: &Facts, nodes: &BTreeMap<NodeId, NodeFact>, width: Width) -> bool {
    let same_nodes = map.nodes().len() == nodes.len()
        && map.nodes().iter().zip(nodes.values()).all(|(node, fact)| is_placed_alike(node, &fact.node));
    let same_width = Slot::all().all(|slot| width.is_met_by(map.owners(slot).len()));
    map.epoch() >= facts.epoch_floor && same_nodes && same_width
}

/// Whether the two differ in where they are at most: placement isn't address, and moving makes no epoch.
fn is_placed_alike(a: &Node, b: &Node) -> bool {
    (a.id, &a.name, &a.domain, a.weight, a.state) == (b.id, &b.name, &b.domain, b.weight, b.state)
}

/// Newcomers stay as they are listed, else `Joining`, until nobody has come for 5 s and they serve; the first map takes
/// whoever is there. Who was Down or Gone is a newcomer, too: its slots are others' by now.
fn hold_back_newcomers(
    current: Option<&ClusterMap>,
    facts: &Facts,
    nodes: &mut BTreeMap<NodeId, NodeFact>,
    now_ms: u64,
) {
    let listed = |fact: &NodeFact| current.and_then(|map| map.node(fact.node.id));
    let is_new = |fact: &NodeFact| {
        let owns_nothing = |node: &Node| {
            node.weight == 0 || matches!(node.state, NodeState::Joining | NodeState::Down | NodeState::Gone)
        };
        fact.is_placed() && listed(fact).is_none_or(owns_nothing)
    };
    // With nobody else there, who can't lead yet, or mustn't, is better than nobody.
    let is_alone =
        current.is_some() && nodes.values().all(|fact| !fact.is_placed() || (is_new(fact) && !fact.is_ready()));
    let may_enter = |fact: &NodeFact| fact.is_ready() || (is_alone && fact.node.state == NodeState::Returning);
    let new = || facts.nodes.iter().filter(|fact| is_new(fact));
    let Some(last) = new().map(|fact| fact.joined_ms).max() else { return };
    let first = new().filter(|fact| may_enter(fact)).map(|fact| fact.joined_ms).min();
    let waited = |since_ms: u64, at_least_ms: u64| now_ms.saturating_sub(since_ms) >= at_least_ms;
    let settled =
        current.is_none() || waited(last, SETTLE_MS) || first.is_some_and(|first| waited(first, SETTLE_MAX_MS));
    for fact in nodes.values_mut().filter(|fact| is_new(fact)) {
        if !settled || !may_enter(fact) {
            fact.node.state = match listed(fact).map(|node| node.state) {
                Some(state @ (NodeState::Down | NodeState::Gone)) => state,
                _ => NodeState::Joining,
            };
        }
    }
}

/// Nobody can own slots: who has them keeps them, while it is in the map at all.
fn kept_owners(current: &ClusterMap, nodes: &BTreeMap<NodeId, NodeFact>) -> Vec<Vec<NodeId>> {
    let kept = |slot| current.owners(slot).iter().copied().filter(|id| nodes.contains_key(id)).collect();
    Slot::all().map(kept).collect()
}

/// The nodes without their names, in their order; domains are numbered as they come.
pub(super) fn members<'a>(living: impl IntoIterator<Item = &'a NodeFact>) -> Vec<Member> {
    let mut domains: BTreeMap<&str, usize> = BTreeMap::new();
    let member = |NodeFact { node, .. }: &'a NodeFact| {
        let next = domains.len();
        let domain = *domains.entry(&node.domain).or_insert(next);
        Member { weight: node.weight, domain, state: node.state }
    };
    living.into_iter().map(member).collect()
}

fn plan(current: Option<&ClusterMap>, living: &[&NodeFact], width: Width) -> Vec<Vec<NodeId>> {
    let members = members(living.iter().copied());
    let index: BTreeMap<NodeId, usize> = living.iter().enumerate().map(|(i, fact)| (fact.node.id, i)).collect();
    let kept = |slot| -> Vec<usize> {
        current.map(|map| map.owners(slot).iter().filter_map(|id| index.get(id).copied()).collect()).unwrap_or_default()
    };
    let mut rows: Vec<Vec<usize>> = Slot::all().map(kept).collect();
    for _ in 0..PASSES {
        rows = one_pass(&members, rows, width);
    }
    rows.iter().map(|row| row.iter().map(|member| living[*member].node.id).collect()).collect()
}

fn one_pass(members: &[Member], rows: Vec<Vec<usize>>, width: Width) -> Vec<Vec<usize>> {
    let counts = owned(&rows, members.len());
    let quotas = quota::quotas(members, width.owners(), &counts);
    let mut table = Table::new(members, rows, quotas, width.owners());
    match width {
        Width::Exactly(_) => {
            table.trim();
            table.fill();
            table.balance();
            table.part_domains();
        }
        Width::AtLeast(_) => table.fill(),
    }
    let mut rows = table.into_rows();
    leads::order(members, &mut rows);
    rows
}

/// How many rows each member is in.
pub(super) fn owned(rows: &[Vec<usize>], members: usize) -> Vec<u32> {
    let mut counts = vec![0; members];
    for member in rows.iter().flatten() {
        counts[*member] += 1;
    }
    counts
}
