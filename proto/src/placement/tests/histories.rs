//! Random histories of a cluster, and what every map of theirs has to hold, in the order of precedence that `next_map`
//! promises.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::{LATER, crowded_slots, facts, first, next_map, node};
use crate::ids::{NodeId, Slot};
use crate::limits::SLOTS;
use crate::map::{ClusterMap, NodeState};
use crate::placement::owners::Member;
use crate::placement::plan::members;
use crate::placement::{Facts, NodeFact, quota};

#[derive(Clone, Debug)]
enum Change {
    Join { domain: usize, weight: u32 },
    Leave(usize),
    State(usize, NodeState),
    Width(u32),
}

fn change() -> impl Strategy<Value = Change> {
    let states = prop::sample::select(NodeState::ALL.to_vec());
    prop_oneof![
        3 => (0..4usize, 1..400u32).prop_map(|(domain, weight)| Change::Join { domain, weight }),
        1 => (0..20usize).prop_map(Change::Leave),
        3 => (0..20usize, states).prop_map(|(at, state)| Change::State(at, state)),
        1 => (1..5u32).prop_map(Change::Width),
    ]
}

fn apply(facts: &mut Facts, next_id: &mut u32, change: &Change) {
    let len = facts.nodes.len();
    match change {
        Change::Join { domain, weight } => {
            facts.nodes.push(node(*next_id, ["a", "b", "c", "d"][*domain], *weight, NodeState::Serving));
            *next_id += 1;
        }
        Change::Leave(at) if len > 1 => drop(facts.nodes.remove(at % len)),
        Change::Leave(_) => {}
        Change::State(at, state) => facts.nodes[at % len].node.state = *state,
        Change::Width(width) => facts.width = *width,
    }
}

/// A map, and what it was planned from: the nodes that own slots in the order of their ids, and for each how many slots
/// it had, has and should have.
struct Planned<'a> {
    map: &'a ClusterMap,
    members: Vec<Member>,
    width: usize,
    had: Vec<u32>,
    owned: Vec<u32>,
    quotas: Vec<u32>,
}

impl<'a> Planned<'a> {
    /// Nothing when nobody serves.
    fn new(before: Option<&ClusterMap>, map: &'a ClusterMap, width: u32) -> Option<Self> {
        // As the map states them: a newcomer that isn't ready is listed as Joining, whatever else is known of it.
        let listed = map.nodes().iter().map(|node| NodeFact { node: node.clone(), joined_ms: 0 });
        let placed: Vec<NodeFact> = listed.filter(NodeFact::is_placed).collect();
        let members = members(&placed);
        let owned = |map: &ClusterMap| -> Vec<u32> {
            let shares = map.shares();
            placed.iter().map(|fact| shares.get(&fact.node.id).map_or(0, |share| share.owned)).collect()
        };
        let had = before.map_or_else(|| vec![0; members.len()], owned);
        let width = placed.len().min(width as usize);
        if !placed.iter().any(NodeFact::is_ready) {
            return None;
        }
        let quotas = quota::quotas(&members, width, &had);
        Some(Self { map, width, owned: owned(map), members, had, quotas })
    }

    fn places(&self) -> u64 {
        u64::from(SLOTS) * self.width as u64
    }

    /// A slot's owners are distinct and as many as they should be; who serves leads, who is silent comes last.
    fn check_owners(&self) -> Result<(), TestCaseError> {
        for slot in Slot::all() {
            let owners = self.map.owners(slot);
            let twice = (1..owners.len()).any(|place| owners[..place].contains(&owners[place]));
            prop_assert!(owners.len() == self.width && !twice, "{owners:?} of {}", self.width);
            let state = |id: &NodeId| self.map.node(*id).expect("listed").state;
            let first = state(&owners[0]);
            let serving = owners.iter().any(|id| state(id) == NodeState::Serving);
            prop_assert!(!serving || first == NodeState::Serving, "{first:?} leads {owners:?}");
            let mut silent = owners.iter().skip_while(|id| state(id) != NodeState::Suspect);
            prop_assert!(silent.all(|id| state(id) == NodeState::Suspect), "{owners:?}");
        }
        Ok(())
    }

    /// What a member may own, that could be `most`: no more than it had while it doesn't serve.
    fn room(&self, member: usize, most: u64) -> u64 {
        if self.members[member].takes() { most } else { most.min(u64::from(self.had[member])) }
    }

    /// Nobody is above 1.25 x its share, but where that isn't enough for distinct owners; nobody comes above it, while
    /// those that could relieve it don't serve.
    fn check_bounds(&self) -> Result<(), TestCaseError> {
        let sum: u64 = self.members.iter().map(|member| u64::from(member.weight)).sum();
        let share = |member: &Member| self.places() * u64::from(member.weight) / sum;
        let most = |member: &Member| (share(member) * 5 / 4).min(u64::from(SLOTS));
        let room: u64 = self.members.iter().enumerate().map(|(at, member)| self.room(at, most(member))).sum();
        let forced = room <= self.places() + self.members.len() as u64;
        let all_take = self.members.iter().all(Member::takes);
        for ((member, owned), had) in self.members.iter().zip(&self.owned).zip(&self.had) {
            let share = share(member);
            let is_stuck = !all_take && owned <= had;
            prop_assert!(forced || is_stuck || u64::from(*owned) <= share * 5 / 4 + 2, "{owned} of {share}");
        }
        Ok(())
    }

    /// Whether owners lie in distinct domains, or the bounds leave no room for that. Where only a chain of swaps could
    /// part the last ones they stay as they are: an eighth of the slots at most.
    fn check_domains(&self) -> Result<bool, TestCaseError> {
        let mut room: BTreeMap<usize, u64> = BTreeMap::new();
        let bounds = quota::bounds(&self.members, self.width, &self.quotas);
        for (at, bound) in bounds.into_iter().enumerate() {
            *room.entry(self.members[at].domain).or_default() += self.room(at, bound.into());
        }
        let fits = room.values().map(|room| (*room).min(u64::from(SLOTS))).sum::<u64>() >= self.places();
        let crowded = crowded_slots(self.map);
        prop_assert!(!fits || crowded <= usize::from(SLOTS) / 8, "{crowded} slots have owners in one domain");
        Ok(!fits || crowded == 0)
    }

    /// Whether everybody is within 5 % or one slot of its quota (of two that could get an odd slot, either may have it).
    /// Where only chains of moves between domains could do that, some are tried: then nobody is an eighth away.
    fn check_balance(&self) -> Result<bool, TestCaseError> {
        let mut even = true;
        for (owned, quota) in self.owned.iter().zip(&self.quotas) {
            let off = owned.abs_diff(*quota);
            prop_assert!(off <= (quota / 8).max(1) + 1, "{owned}, but should be {quota}");
            even &= off <= (quota / 20).max(1) + 1;
        }
        Ok(even)
    }

    /// Copies that had to move, and that did: no history moves a fifth of everything beyond what it must.
    fn check_moved(&self, before: &ClusterMap) -> Result<(u64, u64), TestCaseError> {
        let must = self.quotas.iter().zip(&self.had).map(|(quota, had)| u64::from(quota.saturating_sub(*had))).sum();
        let taken = |slot| self.map.owners(slot).iter().filter(|id| !before.owners(slot).contains(id)).count() as u64;
        let moved = Slot::all().map(taken).sum();
        prop_assert!(moved <= must * 11 / 10 + self.places() / 5, "{moved} moved, {must} had to");
        Ok((must, moved))
    }

    fn check(&self, seen: &Seen) -> Result<(), TestCaseError> {
        self.check_owners()?;
        self.check_bounds()?;
        // Who doesn't serve takes nothing: then domains and quotas are as good as the others can make them.
        if self.members.iter().all(Member::takes) {
            seen.crowded.fetch_add(u64::from(!self.check_domains()?), Ordering::Relaxed);
            seen.maps.fetch_add(1, Ordering::Relaxed);
            seen.uneven.fetch_add(u64::from(!self.check_balance()?), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Who doesn't serve takes no slot that one who does could have.
fn check_takers(before: &ClusterMap, after: &ClusterMap) -> Result<(), TestCaseError> {
    let listed = after.nodes().iter().map(|node| NodeFact { node: node.clone(), joined_ms: 0 });
    let ready: BTreeSet<NodeId> = listed.filter(NodeFact::is_ready).map(|fact| fact.node.id).collect();
    for slot in Slot::all() {
        let owners = after.owners(slot);
        let new = || owners.iter().filter(|id| !before.owners(slot).contains(id));
        let others_could = || ready.iter().any(|id| !owners.contains(id));
        prop_assert!(new().all(|id| ready.contains(id)) || !others_could(), "{:?} to {owners:?}", before.owners(slot));
    }
    Ok(())
}

/// Whoever left a slot and may give is named for it: all of them, or two.
fn check_left(before: &ClusterMap, after: &ClusterMap) -> Result<(), TestCaseError> {
    let listed = after.nodes().iter().map(|node| NodeFact { node: node.clone(), joined_ms: 0 });
    let givers: BTreeSet<NodeId> = listed.filter(NodeFact::may_give).map(|fact| fact.node.id).collect();
    let mut named = after.handover().iter().peekable();
    for slot in Slot::all() {
        let froms: Vec<NodeId> =
            std::iter::from_fn(|| named.next_if(|entry| entry.slot == slot)).map(|entry| entry.from).collect();
        let owners = after.owners(slot);
        let left = before.owners(slot).iter().filter(|id| givers.contains(id) && !owners.contains(id));
        let (left, told) = left.fold((0, 0), |(left, told), id| (left + 1, told + usize::from(froms.contains(id))));
        prop_assert!(told == left.min(2) && froms.len() <= 2, "{left} left {slot:?}, {froms:?} are named");
    }
    Ok(())
}

/// While nobody serves, slots stay with everybody who lives; who is lost has none while anybody lives.
fn check_rest(before: &ClusterMap, after: &ClusterMap) -> Result<(), TestCaseError> {
    let listed = after.nodes().iter().map(|node| NodeFact { node: node.clone(), joined_ms: 0 });
    let living: Vec<NodeId> =
        listed.filter(|fact| fact.is_placed() || fact.is_leaving()).map(|fact| fact.node.id).collect();
    for slot in Slot::all() {
        let (had, has) = (before.owners(slot), after.owners(slot));
        prop_assert!(living.is_empty() || (!has.is_empty() && has.iter().all(|id| living.contains(id))), "{has:?}");
        prop_assert!(had.iter().all(|id| has.contains(id) || !living.contains(id)), "{had:?} to {has:?}");
    }
    Ok(())
}

/// What happens to a cluster: how many nodes it begins with, owners per slot, changes, and in how different an order the
/// facts come a second time.
type History = (u32, u32, Vec<Change>, usize);

fn history() -> impl Strategy<Value = History> {
    (1..6u32, 1..4u32, prop::collection::vec(change(), 1..7), 0..20usize)
}

/// What all histories add up to: maps where all serve, those of them where owners share a domain without need, those where somebody is
/// more than 5 % from its quota; copies that had to move and copies that moved.
#[derive(Default)]
struct Seen {
    maps: AtomicU64,
    crowded: AtomicU64,
    uneven: AtomicU64,
    must: AtomicU64,
    moved: AtomicU64,
}

fn holds((start, width, changes, turn): History, seen: &Seen) -> Result<(), TestCaseError> {
    let mut facts = facts(1..=start, width);
    let mut next_id = start + 1;
    let mut map = first(&facts);
    Planned::new(None, &map, width).expect("they serve").check(seen)?;
    for (number, change) in changes.iter().enumerate() {
        apply(&mut facts, &mut next_id, change);
        let next = next_map(Some(&map), &facts, LATER);
        if number == turn % changes.len() {
            let mut turned = facts.clone();
            let len = turned.nodes.len();
            turned.nodes.rotate_left(turn % len);
            turned.nodes.swap(0, len / 2);
            prop_assert!(next == next_map(Some(&map), &turned, LATER), "order mattered");
        }
        let Some(next) = next else { continue };
        prop_assert_eq!(next.epoch(), map.epoch().next());
        for entry in next.handover() {
            let gives = facts.nodes.iter().any(|fact| fact.node.id == entry.from && fact.may_give());
            prop_assert!(gives && !next.owners(entry.slot).contains(&entry.from), "{entry:?}");
        }
        check_takers(&map, &next)?;
        check_left(&map, &next)?;
        let planned = Planned::new(Some(&map), &next, facts.width);
        if planned.is_none() {
            check_rest(&map, &next)?;
        }
        if let Some(planned) = planned {
            planned.check(seen)?;
            let (must, moved) = planned.check_moved(&map)?;
            seen.must.fetch_add(must, Ordering::Relaxed);
            seen.moved.fetch_add(moved, Ordering::Relaxed);
        }
        prop_assert!(next_map(Some(&next), &facts, LATER).is_none(), "the same facts twice");
        map = next;
    }
    Ok(())
}

/// How many histories; `LARDER_MAP_CASES` says another number. They are the same each time.
const CASES: u32 = 10_000;

/// Histories that come from one seed, the batch's number.
const BATCH: u32 = 250;

fn run_batch(number: u32, seen: &Seen) {
    let config = ProptestConfig { cases: BATCH, failure_persistence: None, ..ProptestConfig::default() };
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let ran = TestRunner::new_with_rng(config, rng).run(&history(), |history| holds(history, seen));
    ran.unwrap_or_else(|failed| panic!("batch {number}: {failed}"));
}

#[test]
fn whatever_happens_maps_hold_what_they_promise() {
    let cases = std::env::var("LARDER_MAP_CASES").map_or(CASES, |text| text.parse().expect("a number"));
    let (next, seen) = (AtomicU32::new(0), Seen::default());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                let batches = || next.fetch_add(1, Ordering::Relaxed);
                std::iter::repeat_with(batches)
                    .take_while(|batch| *batch < cases.div_ceil(BATCH))
                    .for_each(|batch| run_batch(batch, &seen));
            });
        }
    });
    // Single changes may move more, for the sake of bounds and domains.
    let (must, moved) = (seen.must.into_inner(), seen.moved.into_inner());
    assert!(moved * 10 <= must * 11, "{moved} copies moved, {must} had to");
    let (maps, crowded, uneven) = (seen.maps.into_inner(), seen.crowded.into_inner(), seen.uneven.into_inner());
    println!("{maps} maps: {crowded} crowded, {uneven} uneven; {must} copies had to move, {moved} did");
    assert!(crowded * 500 <= maps && uneven * 500 <= maps, "{crowded} crowded and {uneven} uneven of {maps} maps");
}
