use std::collections::BTreeSet;

use super::*;
use crate::ids::{ClusterId, Epoch, NodeId, NodeName};
use crate::limits::{EPOCH_MAX, SLOTS};
use crate::map::{Field, Handover, Node, NodeState, Ports, Share};

mod histories;

fn node(id: u32, domain: &str, weight: u32, state: NodeState) -> NodeFact {
    let node = Node {
        id: NodeId(id),
        name: NodeName::parse(&format!("n{id}")).expect("a name"),
        addresses: vec!["127.0.0.1".parse().expect("an address")],
        ports: Ports { peer: 7710, s3: 0, redis: 0 },
        domain: domain.into(),
        weight,
        state,
    };
    NodeFact { node, joined_ms: 0 }
}

/// Nodes of weight 100, each a domain of its own.
fn facts(ids: impl IntoIterator<Item = u32>, width: u32) -> Facts {
    let nodes = ids.into_iter().map(|id| node(id, &format!("d{id}"), 100, NodeState::Serving)).collect();
    Facts { cluster: ClusterId::of("a/a"), epoch_floor: Epoch(0), width, min_nodes: 1, nodes, over: BTreeSet::new() }
}

fn with_state(facts: &Facts, id: u32, state: NodeState) -> Facts {
    let mut facts = facts.clone();
    for fact in facts.nodes.iter_mut().filter(|fact| fact.node.id == NodeId(id)) {
        fact.node.state = state;
    }
    facts
}

/// Of facts that a map can say.
fn next_map(current: Option<&ClusterMap>, facts: &Facts, now_ms: u64) -> Option<ClusterMap> {
    super::next_map(current, facts, now_ms).expect("a map can say it")
}

/// Long after everybody has joined.
const LATER: u64 = 1_000_000;

fn first(facts: &Facts) -> ClusterMap {
    next_map(None, facts, LATER).expect("enough nodes")
}

fn then(map: &ClusterMap, facts: &Facts) -> ClusterMap {
    next_map(Some(map), facts, LATER).expect("something changed")
}

/// Owners that slots have in `after` and didn't in `before`: what has to be copied.
fn moved(before: &ClusterMap, after: &ClusterMap) -> usize {
    let new = |slot| after.owners(slot).iter().filter(|owner| !before.owners(slot).contains(owner)).count();
    Slot::all().map(new).sum()
}

/// Runs of neighbouring slots with one lead.
fn runs(map: &ClusterMap) -> usize {
    let leads: Vec<Option<NodeId>> = Slot::all().map(|slot| map.lead(slot)).collect();
    leads.chunk_by(|a, b| a == b).count()
}

fn crowded_slots(map: &ClusterMap) -> usize {
    let domain = |id: &NodeId| &map.node(*id).expect("an owner is in the map").domain;
    let crowded = |slot: &Slot| {
        let owners = map.owners(*slot);
        (1..owners.len()).any(|place| owners[..place].iter().any(|other| domain(other) == domain(&owners[place])))
    };
    Slot::all().filter(crowded).count()
}

fn spread(map: &ClusterMap, of: impl Fn(&Share) -> u32) -> (u32, u32) {
    let shares = map.shares();
    let all = || shares.values().map(&of);
    (all().min().expect("owners"), all().max().expect("owners"))
}

#[test]
fn three_equal_nodes_share_alike_and_lead_one_run_each() {
    let map = first(&facts(1..=3, 2));
    assert_eq!(map.epoch(), Epoch(1));
    assert_eq!(runs(&map), 3);
    let (least, most) = spread(&map, |share| share.owned);
    assert!(most - least <= 4, "{least} to {most}");
    let (least, most) = spread(&map, |share| share.led);
    assert!(most - least <= 1, "{least} to {most}");
    // The slots of a node that dies have both others as next owners.
    let next: BTreeSet<NodeId> =
        Slot::all().filter(|slot| map.lead(*slot) == Some(NodeId(1))).map(|slot| map.owners(slot)[1]).collect();
    assert_eq!(next, BTreeSet::from([NodeId(2), NodeId(3)]));
}

#[test]
fn no_map_before_enough_nodes_serve_and_later_ones_below_that() {
    let mut facts = facts(1..=2, 2);
    facts.min_nodes = 3;
    assert_eq!(next_map(None, &facts, LATER), None);
    facts.nodes.push(node(3, "d3", 0, NodeState::Serving));
    assert_eq!(next_map(None, &facts, LATER), None, "a client doesn't count");
    facts.nodes.push(node(4, "d4", 100, NodeState::Serving));
    let map = first(&facts);
    assert_eq!(map.shares().len(), 3);
    let below = with_state(&with_state(&facts, 1, NodeState::Suspect), 2, NodeState::Suspect);
    assert_eq!(then(&map, &below).epoch(), Epoch(2));
}

#[test]
fn a_suspect_comes_last_returns_without_leads_and_gets_them_back() {
    let good = facts(1..=3, 2);
    let map = first(&good);
    let suspect = then(&map, &with_state(&good, 2, NodeState::Suspect));
    assert_eq!(moved(&map, &suspect), 0);
    assert_eq!(suspect.shares()[&NodeId(2)].led, 0);
    assert_eq!(suspect.shares()[&NodeId(2)].owned, map.shares()[&NodeId(2)].owned);
    let returning = then(&suspect, &with_state(&good, 2, NodeState::Returning));
    assert_eq!(returning.shares()[&NodeId(2)].led, 0);
    let back = then(&returning, &good);
    assert_eq!(moved(&map, &back), 0);
    let (least, most) = spread(&back, |share| share.led);
    assert!(most - least <= most / 10, "{least} to {most}");
    assert_eq!(next_map(Some(&back), &good, LATER), None);
}

#[test]
fn all_suspect_nodes_still_own_their_slots() {
    let good = facts(1..=2, 2);
    let map = first(&good);
    let bad = with_state(&with_state(&good, 1, NodeState::Suspect), 2, NodeState::Suspect);
    let after = then(&map, &bad);
    assert!(Slot::all().all(|slot| after.owners(slot).len() == 2));
    let gone = with_state(&with_state(&good, 1, NodeState::Down), 2, NodeState::Down);
    let after = then(&after, &gone);
    assert!(Slot::all().all(|slot| after.owners(slot).len() == 2), "nobody could take them");
}

#[test]
fn a_node_that_moves_makes_no_epoch_and_is_found_in_the_next_one() {
    let mut good = facts(1..=3, 2);
    let map = first(&good);
    good.nodes[0].node.addresses = vec!["127.0.0.9".parse().expect("an address")];
    good.nodes[0].node.ports.peer = 7711;
    assert_eq!(next_map(Some(&map), &good, LATER), None);
    let next = then(&map, &with_state(&good, 2, NodeState::Suspect));
    let moved = next.node(NodeId(1)).and_then(Node::peer_address);
    assert_eq!(moved, Some("127.0.0.9:7711".parse().expect("an address")));
}

#[test]
fn facts_that_no_map_can_say_are_an_error() {
    let mut facts = facts(1..=3, 2);
    let map = first(&facts);
    facts.nodes[2].node.name = facts.nodes[1].node.name.clone();
    let twice = super::next_map(Some(&map), &facts, LATER);
    assert_eq!(twice, Err(MapError::DuplicateNode(NodeId(3))));
    facts.nodes.pop();
    facts.epoch_floor = EPOCH_MAX;
    let endless = super::next_map(Some(&map), &facts, LATER);
    assert_eq!(endless, Err(MapError::TooLarge { field: Field::Epoch, value: EPOCH_MAX.0 + 1 }));
}

#[test]
fn newcomers_enter_together() {
    let mut facts = facts(1..=3, 2);
    let map = next_map(None, &facts, 0).expect("the first map waits for nobody else");
    for (id, joined_ms) in [(4, 10_000), (5, 13_000)] {
        let mut fact = node(id, &format!("d{id}"), 100, NodeState::Serving);
        fact.joined_ms = joined_ms;
        facts.nodes.push(fact);
    }
    let waiting = next_map(Some(&map), &facts, 17_000).expect("they are listed");
    assert_eq!(waiting.node(NodeId(4)).map(|node| node.state), Some(NodeState::Joining));
    assert_eq!(moved(&map, &waiting), 0);
    assert_eq!(next_map(Some(&waiting), &facts, 17_900), None);
    let entered = next_map(Some(&waiting), &facts, 18_000).expect("nobody came for 5 s");
    assert_eq!(entered.shares().len(), 5);
    let impatient = next_map(Some(&map), &facts, 40_000).expect("30 s are over");
    assert_eq!(impatient.shares().len(), 5);
}

/// These nodes have come back at `joined_ms`.
fn returned(facts: &Facts, ids: impl IntoIterator<Item = u32>, state: NodeState, joined_ms: u64) -> Facts {
    ids.into_iter().fold(facts.clone(), |facts, id| {
        let mut facts = with_state(&facts, id, state);
        facts.nodes.iter_mut().filter(|fact| fact.node.id == NodeId(id)).for_each(|fact| fact.joined_ms = joined_ms);
        facts
    })
}

#[test]
fn nodes_that_come_back_enter_together_once_they_serve() {
    let good = facts(1..=12, 2);
    let mut lost = (7..=12).fold(good.clone(), |facts, id| with_state(&facts, id, NodeState::Down));
    let without = then(&first(&good), &lost);
    // One a second, each Returning for 3 s: no epoch before all are back, and then one.
    for second in 0..11 {
        let now_ms = LATER + second * 1_000;
        if let Ok(id @ 7..=12) = u32::try_from(second + 7) {
            lost = returned(&lost, [id], NodeState::Returning, now_ms);
        }
        if let Ok(id @ 7..=12) = u32::try_from(second + 4) {
            lost = with_state(&lost, id, NodeState::Serving);
        }
        let expected = second == 10;
        let next = next_map(Some(&without), &lost, now_ms);
        assert_eq!(next.is_some(), expected, "{second} s");
        if let Some(next) = next {
            assert_eq!(next.shares().len(), 12);
            assert_eq!(next_map(Some(&next), &lost, now_ms + 1), None);
        }
    }
    // Who comes and goes owns nothing, however long.
    let flaps = returned(&lost, [7], NodeState::Suspect, LATER);
    let entered = next_map(Some(&without), &flaps, LATER + 10_000).expect("the others");
    assert_eq!(entered.node(NodeId(7)).map(|node| node.state), Some(NodeState::Down));
    assert_eq!(entered.shares().len(), 11);
    // Who leaves the map as Gone and is wanted again comes back in the same way.
    let gone = then(&first(&good), &with_state(&good, 3, NodeState::Gone));
    let again = returned(&good, [3], NodeState::Serving, LATER);
    assert_eq!(next_map(Some(&gone), &again, LATER + 4_999), None);
    assert!(next_map(Some(&gone), &again, LATER + 5_000).expect("it is back").shares().contains_key(&NodeId(3)));
}

#[test]
fn nodes_that_all_were_lost_come_back_to_what_they_had() {
    let good = facts(1..=3, 2);
    let map = first(&good);
    let lost = then(&map, &returned(&good, 1..=3, NodeState::Down, 0));
    assert_eq!((moved(&map, &lost), left(&map, &lost).len()), (0, 0), "nobody could take them");
    let one = returned(&returned(&good, 1..=3, NodeState::Down, 0), [1], NodeState::Returning, LATER);
    assert_eq!(next_map(Some(&lost), &one, LATER + 4_000), None);
    let all = returned(&one, 2..=3, NodeState::Returning, LATER + 4_000);
    let all = with_state(&all, 1, NodeState::Serving);
    assert_eq!(next_map(Some(&lost), &all, LATER + 8_999), None);
    let all = returned(&all, 1..=3, NodeState::Serving, LATER + 4_000);
    let back = next_map(Some(&lost), &all, LATER + 9_000).expect("they are back");
    assert_eq!((moved(&map, &back), left(&map, &back).len()), (0, 0));
    // Cordoned nodes own slots, too, where there is nobody else.
    let cordoned = returned(&good, 1..=3, NodeState::Returning, LATER);
    let back = next_map(Some(&lost), &cordoned, LATER + 5_000).expect("they are back");
    assert_eq!((moved(&map, &back), left(&map, &back).len()), (0, 0));
}

#[test]
fn domains_are_parted_as_far_as_fairness_allows() {
    let mut facts = facts([], 2);
    for (id, domain) in [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c"), (6, "c")] {
        facts.nodes.push(node(id, domain, 100, NodeState::Serving));
    }
    assert_eq!(crowded_slots(&first(&facts)), 0);
    facts.nodes.truncate(3);
    let map = first(&facts);
    // One node against two: it gets 1.25 x its share of 10,922, and no more.
    assert_eq!(map.shares()[&NodeId(3)].owned, 13_653);
    assert_eq!(crowded_slots(&map), usize::from(SLOTS) - 13_653);
}

#[test]
fn one_node_in_a_zone_beside_ten_in_another_takes_a_quarter_more_than_its_share() {
    let mut facts = facts([], 2);
    for id in 1..=11 {
        facts.nodes.push(node(id, if id == 1 { "a" } else { "b" }, 100, NodeState::Serving));
    }
    let map = first(&facts);
    let alone = map.shares()[&NodeId(1)].owned;
    // Of its share of 2,979.
    assert!((3_723..=3_724).contains(&alone), "{alone}");
    assert_eq!(crowded_slots(&map), usize::from(SLOTS) - alone as usize);
    let owned: BTreeSet<u32> = (2..=11).map(|id| map.shares()[&NodeId(id)].owned).collect();
    assert!(owned.iter().all(|owned| (2_900..=2_910).contains(owned)), "{owned:?}");
    let after = then(&map, &with_state(&facts, 2, NodeState::Down));
    let lost = map.shares()[&NodeId(2)].owned as usize;
    assert!(moved(&map, &after) * 10 <= lost * 11, "{} of {lost}", moved(&map, &after));
}

#[test]
fn a_hundred_nodes_in_three_domains() {
    let mut facts = facts([], 3);
    for id in 1..=100 {
        facts.nodes.push(node(id, ["a", "b", "c"][id as usize % 3], 100, NodeState::Serving));
    }
    let map = first(&facts);
    assert_eq!(crowded_slots(&map), 0);
    let (least, most) = spread(&map, |share| share.owned);
    assert!(most - least <= most / 20, "{least} to {most}");
    assert!(runs(&map) <= 800, "{}", runs(&map));
    let without = with_state(&facts, 50, NodeState::Down);
    let after = then(&map, &without);
    let ideal = map.shares()[&NodeId(50)].owned as usize;
    assert!(moved(&map, &after) * 10 <= ideal * 11, "{} of {ideal}", moved(&map, &after));
}

#[test]
fn two_thousand_nodes_are_planned_in_time() {
    let facts = facts(1..=2_000, 3);
    let began = std::time::Instant::now();
    let map = first(&facts);
    assert!(map.shares().values().all(|share| (24..=25).contains(&share.owned)));
    let after = then(&map, &with_state(&facts, 7, NodeState::Down));
    assert!(moved(&map, &after) <= 28, "{}", moved(&map, &after));
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
}

/// Grown from three nodes to `last`, one at a time.
fn grown(last: u32) -> (Facts, ClusterMap) {
    let mut facts = facts(1..=3, 2);
    let mut map = first(&facts);
    for id in 4..=last {
        facts.nodes.push(node(id, &format!("d{id}"), 100, NodeState::Serving));
        let next = then(&map, &facts);
        let ideal = 2 * usize::from(SLOTS) / facts.nodes.len();
        assert!(moved(&map, &next) * 10 <= ideal * 11, "join of {id} moved {} of {ideal}", moved(&map, &next));
        map = next;
    }
    (facts, map)
}

fn assert_leads_are_even(map: &ClusterMap, nodes: u32) {
    let (least, most) = spread(map, |share| share.led);
    let share = u32::from(SLOTS) / nodes;
    assert!(most <= share * 11 / 10 + 1 && least + 1 >= share * 9 / 10, "{least} to {most}");
}

#[test]
fn twenty_joins_move_little_and_leave_leads_even() {
    let (facts, map) = grown(23);
    assert_leads_are_even(&map, 23);
    let (least, most) = spread(&map, |share| share.owned);
    assert!(most - least <= most / 20, "{least} to {most}");
    let gone = with_state(&facts, 9, NodeState::Down);
    let after = then(&map, &gone);
    let ideal = map.shares()[&NodeId(9)].owned as usize;
    assert!(moved(&map, &after) * 10 <= ideal * 11, "{} of {ideal}", moved(&map, &after));
}

#[test]
fn a_small_cluster_keeps_few_runs_through_joins_and_suspicions() {
    let (facts, mut map) = grown(8);
    for round in 0..40 {
        let id = 1 + round * 3 % 8;
        map = then(&map, &with_state(&facts, id, NodeState::Suspect));
        map = then(&map, &facts);
        assert!(runs(&map) <= 8 * 8, "round {round}: {}", runs(&map));
    }
    assert_leads_are_even(&map, 8);
}

/// Slots that have lost an owner, each with those.
fn left(before: &ClusterMap, after: &ClusterMap) -> BTreeSet<Handover> {
    let gone = |slot: Slot| before.owners(slot).iter().filter(move |id| !after.owners(slot).contains(id));
    Slot::all().flat_map(|slot| gone(slot).map(move |from| Handover { slot, from: *from })).collect()
}

fn named(map: &ClusterMap) -> BTreeSet<Handover> {
    map.handover().iter().copied().collect()
}

#[test]
fn former_owners_are_named_until_it_is_over() {
    let mut facts = facts(1..=3, 2);
    let map = first(&facts);
    assert!(map.handover().is_empty());
    facts.nodes.push(node(4, "d4", 100, NodeState::Serving));
    let joined = then(&map, &facts);
    assert_eq!(named(&joined), left(&map, &joined));
    assert!(joined.handover().len() > 7_000, "{}", joined.handover().len());
    assert_eq!(next_map(Some(&joined), &facts, LATER), None);
    facts.over = named(&joined).into_iter().filter(|entry| entry.from == NodeId(1)).collect();
    let ended = then(&joined, &facts);
    assert_eq!(named(&ended), &named(&joined) - &facts.over);
    assert_eq!(moved(&joined, &ended) + left(&joined, &ended).len(), 0, "nothing moves for it");
    assert_eq!(next_map(Some(&ended), &facts, LATER), None);
}

#[test]
fn a_node_that_drains_gives_all_and_is_named_and_a_lost_one_is_not() {
    let good = facts(1..=4, 2);
    let map = first(&good);
    let drains = with_state(&good, 2, NodeState::Draining);
    let draining = then(&map, &drains);
    assert_eq!(draining.shares().get(&NodeId(2)), None);
    assert!(Slot::all().all(|slot| draining.owners(slot).len() == 2));
    assert!(left(&map, &draining).iter().filter(|entry| entry.from == NodeId(2)).all(|e| named(&draining).contains(e)));
    let gone = then(&draining, &with_state(&good, 2, NodeState::Gone));
    assert_eq!(named(&gone), named(&draining), "it is asked as long as its agent may run");
    let mut without = drains.clone();
    without.nodes.remove(1);
    assert!(then(&gone, &without).handover().iter().all(|entry| entry.from != NodeId(2)));
    let down = then(&map, &with_state(&good, 2, NodeState::Down));
    assert!(down.handover().iter().all(|entry| entry.from != NodeId(2)), "nobody waits for the dead");
    let back = then(&draining, &good);
    assert!(back.handover().iter().all(|entry| !back.owners(entry.slot).contains(&entry.from)));
}

#[test]
fn without_another_node_a_draining_one_keeps_its_slots() {
    let map = first(&facts(1..=1, 2));
    let after = then(&map, &with_state(&facts(1..=1, 2), 1, NodeState::Draining));
    assert!(Slot::all().all(|slot| after.owners(slot) == [NodeId(1)]));
}

/// Slots that a node owns in `after` and didn't in `before`.
fn gained(before: &ClusterMap, after: &ClusterMap, id: u32) -> usize {
    let owns = |map: &ClusterMap, slot| map.owners(slot).contains(&NodeId(id));
    Slot::all().filter(|slot| owns(after, *slot) && !owns(before, *slot)).count()
}

#[test]
fn who_does_not_serve_takes_none_of_the_slots_of_who_dies_or_drains() {
    let good = facts(1..=10, 2);
    let map = first(&good);
    for state in [NodeState::Suspect, NodeState::Returning] {
        let silent = then(&map, &with_state(&good, 6, state));
        for leaves in [NodeState::Down, NodeState::Draining] {
            let after = then(&silent, &with_state(&with_state(&good, 6, state), 3, leaves));
            assert_eq!((gained(&silent, &after, 6), gained(&after, &silent, 6)), (0, 0), "{state}, {leaves}");
            assert!(Slot::all().all(|slot| after.owners(slot).len() == 2 && !after.owners(slot).contains(&NodeId(3))));
            // Eight take what n3 had.
            let others = after.shares().into_iter().filter(|(id, _)| *id != NodeId(6));
            let owned: BTreeSet<u32> = others.map(|(_, share)| share.owned).collect();
            let (least, most) = (owned.first().expect("some"), owned.last().expect("some"));
            assert!(most - least <= most / 20, "{least} to {most}");
        }
    }
    // Both at once, too: n6 is as dead as n3, and found out a tick later.
    let both = with_state(&with_state(&good, 6, NodeState::Suspect), 3, NodeState::Down);
    assert_eq!(gained(&map, &then(&map, &both), 6), 0);
}

#[test]
fn who_does_not_serve_takes_what_nobody_else_can() {
    let good = facts(1..=3, 2);
    let map = first(&good);
    for state in [NodeState::Suspect, NodeState::Returning] {
        let after = then(&map, &with_state(&with_state(&good, 2, state), 3, NodeState::Down));
        assert!(Slot::all().all(|slot| after.owners(slot) == [NodeId(1), NodeId(2)]), "{state}");
    }
    let followers =
        good.nodes.iter().fold(good.clone(), |facts, fact| with_state(&facts, fact.node.id.0, NodeState::Returning));
    let cordoned = then(&map, &followers);
    assert_eq!((moved(&map, &cordoned), left(&map, &cordoned).len()), (0, 0));
    let after = then(&cordoned, &with_state(&followers, 3, NodeState::Down));
    assert!(Slot::all().all(|slot| after.owners(slot).len() == 2 && !after.owners(slot).contains(&NodeId(3))));
}

#[test]
fn a_draining_node_keeps_its_slots_while_only_silent_ones_could_take_them() {
    for width in [1, 2] {
        let good = facts(1..=2, width);
        let map = first(&good);
        let silent = with_state(&good, 2, NodeState::Suspect);
        let drains = with_state(&silent, 1, NodeState::Draining);
        let draining = then(&then(&map, &silent), &drains);
        assert_eq!((moved(&map, &draining), left(&map, &draining).len()), (0, 0), "width {width}");
        assert_eq!(next_map(Some(&draining), &drains, LATER), None, "the same facts twice");
        let lost = then(&draining, &with_state(&drains, 2, NodeState::Down));
        assert!(Slot::all().all(|slot| lost.owners(slot) == [NodeId(1)]), "width {width}");
        let back = then(&lost, &with_state(&drains, 2, NodeState::Serving));
        assert!(Slot::all().all(|slot| back.owners(slot) == [NodeId(2)]), "width {width}: now it can take them");
        assert_eq!(named(&back), left(&lost, &back), "width {width}");
    }
}

#[test]
fn a_drained_node_gets_its_slots_back_when_who_took_them_is_lost() {
    let drains = with_state(&facts(1..=2, 2), 1, NodeState::Draining);
    let drained = then(&first(&facts(1..=2, 2)), &drains);
    assert!(Slot::all().all(|slot| drained.owners(slot) == [NodeId(2)]));
    let silent = then(&drained, &with_state(&drains, 2, NodeState::Suspect));
    assert_eq!((moved(&drained, &silent), left(&drained, &silent).len()), (0, 0), "a hiccup moves nothing");
    let dead = with_state(&drains, 2, NodeState::Down);
    let lost = then(&silent, &dead);
    assert!(Slot::all().all(|slot| lost.owners(slot) == [NodeId(1)]), "rather than the dead");
    assert_eq!(next_map(Some(&lost), &dead, LATER), None, "the same facts twice");
}
