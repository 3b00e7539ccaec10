use larder_proto::control::OffersReport;
use larder_proto::control::{StoreHealth, StoreReport};
use larder_proto::ids::StoreId;

use super::*;

fn name(number: u32) -> NodeName {
    NodeName::parse(&format!("n{number}")).expect("a name")
}

fn report(epoch: u64) -> NodeReport {
    let store = StoreReport {
        name: "d0".into(),
        id: StoreId::from_bytes([1; 16]),
        capacity_bytes: 10 << 30,
        used_bytes: 0,
        health: StoreHealth::Ok,
    };
    NodeReport {
        epoch: Epoch(epoch),
        addresses: vec!["127.0.0.1".parse().expect("v4")],
        stores: vec![store],
        ..NodeReport::default()
    }
}

fn core() -> Core {
    Core::new(ClusterId::of("a/a"), Shape { min_nodes: 3, replicas: 2 }, None, Epoch(0))
}

fn step(core: &mut Core, now_ms: u64) -> Option<Arc<ClusterMap>> {
    let map = Arc::new(core.plan(0, now_ms)?);
    core.published(map.clone());
    Some(map)
}

fn all_report(core: &mut Core, nodes: &[u32], now_ms: u64) {
    for number in nodes {
        core.report(NodeId(*number), &name(*number), report(0), now_ms);
    }
}

#[test]
fn the_first_map_waits_and_silence_moves_the_leads() {
    let mut core = core();
    all_report(&mut core, &[1, 2], 0);
    assert_eq!(step(&mut core, 100), None);
    all_report(&mut core, &[3], 200);
    let first = step(&mut core, 300).expect("three nodes");
    assert_eq!(first.epoch(), Epoch(1));
    for now_ms in [1_000, 2_000, 3_000] {
        all_report(&mut core, &[1, 2], now_ms);
        assert_eq!(step(&mut core, now_ms), None);
    }
    all_report(&mut core, &[1, 2], 3_200);
    let second = step(&mut core, 3_200).expect("three missed reports");
    assert_eq!(second.epoch(), Epoch(2));
    assert!(Slot::all().all(|slot| second.lead(slot) != Some(NodeId(3))));
    assert_eq!(core.statuses(Some(&second), 3_200)[2].state, NodeState::Suspect);
}

#[test]
fn a_restart_goes_on_and_counts_silence_only_after_the_grace() {
    let mut before = core();
    all_report(&mut before, &[1, 2, 3], 0);
    let map = step(&mut before, 0).expect("three nodes");
    let mut after = Core::new(ClusterId::of("a/a"), Shape { min_nodes: 3, replicas: 2 }, Some(map), Epoch(0));
    assert_eq!(step(&mut after, 29_999), None);
    all_report(&mut after, &[1, 2], 32_000);
    let next = step(&mut after, 33_000).expect("one is silent");
    assert_eq!((next.epoch(), after.nodes[&name(3)].life.state()), (Epoch(2), NodeState::Suspect));
}

#[test]
fn an_epoch_from_before_our_memory_is_jumped() {
    let mut core = core();
    all_report(&mut core, &[1, 2], 0);
    core.report(NodeId(3), &name(3), report(41), 0);
    assert_eq!(step(&mut core, 0).expect("three nodes").epoch(), Epoch(42));
}

#[test]
fn who_follows_keeps_its_slots_and_leads_none_while_others_can() {
    let mut core = core();
    core.follow([name(3)].into());
    all_report(&mut core, &[1, 2, 3], 0);
    let first = step(&mut core, 0).expect("three nodes, also those that follow");
    let owned = |map: &ClusterMap, id| map.shares()[&NodeId(id)].owned;
    let map = step(&mut core, 0).expect("it leads nothing from now on");
    assert_eq!((map.shares()[&NodeId(3)].led, owned(&map, 3)), (0, owned(&first, 3)));
    assert_eq!(step(&mut core, 0), None);
    let serving = core.statuses(Some(&map), 0).iter().filter(|node| node.state == NodeState::Serving).count();
    assert_eq!(serving, 3, "it serves all the same");

    core.follow([name(1), name(2), name(3)].into());
    let all = step(&mut core, 0).expect("other states");
    assert!(Slot::all().all(|slot| !all.owners(slot).is_empty()), "somebody leads");
    core.follow(BTreeSet::new());
    let again = step(&mut core, 0).expect("they serve as before");
    assert!(again.shares().values().all(|share| share.led > 5_000), "{:?}", again.shares());
}

#[test]
fn a_removed_node_leaves_the_map_and_comes_back_as_another() {
    let mut core = core();
    all_report(&mut core, &[1, 2, 3], 0);
    step(&mut core, 0).expect("three nodes");
    core.remove(&name(3));
    let without = step(&mut core, 100).expect("one is gone");
    assert_eq!(without.node_named(&name(3)), None);
    core.report(NodeId(4), &name(3), report(0), 200);
    step(&mut core, 200).expect("it is listed");
    all_report(&mut core, &[1, 2], 2_000);
    core.report(NodeId(4), &name(3), report(0), 2_500);
    all_report(&mut core, &[1, 2], 4_500);
    core.report(NodeId(4), &name(3), report(0), 4_500);
    let back = step(&mut core, 5_200).expect("nobody else came");
    assert_eq!(back.shares().get(&NodeId(4)).map(|share| share.owned > 10_000), Some(true));
}

#[test]
fn a_small_change_of_capacity_moves_nothing() {
    let mut core = core();
    all_report(&mut core, &[1, 2, 3], 0);
    let weight = core.nodes[&name(1)].node.weight;
    let mut larger = report(0);
    larger.stores[0].capacity_bytes += 1 << 20;
    core.report(NodeId(1), &name(1), larger, 10);
    assert_eq!((weight, core.nodes[&name(1)].node.weight), (10, 11), "one GiB of ten is more than a twentieth");
    let mut big = report(0);
    big.stores[0].capacity_bytes = 1 << 40;
    core.report(NodeId(1), &name(1), big.clone(), 20);
    big.stores[0].capacity_bytes += 10 << 30;
    core.report(NodeId(1), &name(1), big, 30);
    assert_eq!(core.nodes[&name(1)].node.weight, 1_024);
}

/// All of them report that what they have was offered to its owners as of `epoch`.
fn all_settle(core: &mut Core, nodes: &[u32], epoch: u64, now_ms: u64) {
    for number in nodes {
        let offers = OffersReport { settled: Epoch(epoch), ..OffersReport::default() };
        core.report(NodeId(*number), &name(*number), NodeReport { offers, ..report(epoch) }, now_ms);
    }
}

#[test]
fn a_node_that_leaves_hands_over_then_is_gone_then_dropped() {
    let mut core = core();
    core.reshape(Shape { min_nodes: 2, replicas: 2 });
    all_report(&mut core, &[1, 2, 3], 0);
    step(&mut core, 100).expect("a map");
    core.retire(&name(3));
    let left = step(&mut core, 200).expect("without n3");
    assert_eq!(left.node(NodeId(3)).map(|node| node.state), Some(NodeState::Draining));
    assert!(Slot::all().all(|slot| left.owners(slot).len() == 2 && !left.owners(slot).contains(&NodeId(3))));
    assert!(left.handover().iter().all(|entry| entry.from == NodeId(3)) && left.handover().len() > 10_000);
    all_report(&mut core, &[3], 300);
    assert_eq!(step(&mut core, 300), None, "it has not handed over yet");
    all_settle(&mut core, &[1, 2], left.epoch().0, 400);
    assert_eq!(step(&mut core, 400), None, "others have, which isn't the same");
    all_settle(&mut core, &[3], left.epoch().0, 500);
    let gone = step(&mut core, 500).expect("it has handed over");
    assert_eq!(gone.node(NodeId(3)).map(|node| node.state), Some(NodeState::Gone), "it still reads from its peers");
    assert!(gone.handover().is_empty(), "and nobody asks it for anything");
    assert_eq!(core.statuses(Some(&gone), 500)[2].state, NodeState::Gone);
    all_report(&mut core, &[3], 600);
    assert_eq!(step(&mut core, 600), None, "its reports don't bring it back");
    core.remove(&name(3));
    let dropped = step(&mut core, 700).expect("a map without it");
    assert_eq!(dropped.node(NodeId(3)), None);
    assert!(Slot::all().all(|slot| dropped.owners(slot) == left.owners(slot)), "nothing moves again");
}

#[test]
fn a_drain_is_taken_back_and_the_last_node_keeps_its_slots() {
    let mut core = core();
    core.reshape(Shape { min_nodes: 1, replicas: 2 });
    all_report(&mut core, &[1, 2], 0);
    let first = step(&mut core, 100).expect("a map");
    core.retire(&name(1));
    step(&mut core, 200).expect("n1 drains");
    core.keep(&name(1));
    let back = step(&mut core, 300).expect("n1 stays");
    assert!(Slot::all().all(|slot| back.owners(slot).len() == 2));
    assert!(back.handover().is_empty(), "who owns a slot isn't its former owner");
    core.retire(&name(1));
    core.retire(&name(2));
    let last = step(&mut core, 400).expect("both drain");
    all_settle(&mut core, &[1, 2], last.epoch().0, 500);
    step(&mut core, 500);
    assert!(Slot::all().all(|slot| !core.current.as_ref().expect("a map").owners(slot).is_empty()));
    assert_eq!(first.shares().len(), 2);
}

#[test]
fn who_drains_and_gets_slots_back_stays_until_others_have_them() {
    let mut core = core();
    core.reshape(Shape { min_nodes: 1, replicas: 1 });
    core.wait(Patience { loss_grace_ms: 10_000, ..Patience::default() });
    all_report(&mut core, &[1, 2], 0);
    step(&mut core, 100).expect("a map");
    core.retire(&name(1));
    let left = step(&mut core, 200).expect("n1 drains");
    assert_eq!(left.shares().len(), 1, "n2 has all");
    for now_ms in (1_000..11_000).step_by(1_000) {
        all_report(&mut core, &[1], now_ms);
        step(&mut core, now_ms);
    }
    let back = core.current.clone().expect("a map");
    assert!(back.shares().contains_key(&NodeId(1)), "n2 is dead, and nobody else is alive");
    for now_ms in (11_000..20_000).step_by(1_000) {
        all_settle(&mut core, &[1], back.epoch().0, now_ms);
        step(&mut core, now_ms);
        assert_eq!(core.statuses(None, now_ms)[0].state, NodeState::Draining, "it has what nobody else has");
    }
    // Who comes takes them, and asks it for what they hold.
    for now_ms in (20_000..30_000).step_by(1_000) {
        all_settle(&mut core, &[1], back.epoch().0, now_ms);
        all_report(&mut core, &[3], now_ms);
        step(&mut core, now_ms);
    }
    let taken = core.current.clone().expect("a map");
    assert!(!taken.shares().contains_key(&NodeId(1)));
    assert!(taken.handover().iter().all(|entry| entry.from == NodeId(1)) && !taken.handover().is_empty());
    all_settle(&mut core, &[1], taken.epoch().0, 30_000);
    step(&mut core, 30_000);
    assert_eq!(core.statuses(None, 30_000)[0].state, NodeState::Gone);
}

#[test]
fn a_silent_node_is_replaced_after_the_grace_and_returns() {
    let mut core = core();
    core.wait(Patience { loss_grace_ms: 10_000, ..Patience::default() });
    all_report(&mut core, &[1, 2, 3, 4], 0);
    step(&mut core, 0).expect("a map");
    let mut last = None;
    for now_ms in (1_000..=11_000).step_by(1_000) {
        all_report(&mut core, &[1, 2, 3], now_ms);
        last = step(&mut core, now_ms).or(last);
    }
    let replaced = last.expect("n4 is down");
    assert_eq!(replaced.node(NodeId(4)).map(|node| node.state), Some(NodeState::Down));
    assert!(Slot::all().all(|slot| replaced.owners(slot).len() == 2 && !replaced.owners(slot).contains(&NodeId(4))));
    assert!(replaced.handover().iter().all(|entry| entry.from != NodeId(4)), "nobody waits for the dead");
    for now_ms in (12_000..17_000).step_by(1_000) {
        all_report(&mut core, &[1, 2, 3, 4], now_ms);
        assert_eq!(step(&mut core, now_ms), None, "it has to go on reporting, and others may come back, too");
    }
    all_report(&mut core, &[1, 2, 3, 4], 17_000);
    let back = step(&mut core, 17_000).expect("n4 is back");
    assert!(back.shares().get(&NodeId(4)).is_some_and(|share| share.led > 0 && share.owned > 0));
}

#[test]
fn who_says_a_word_now_and_then_gets_no_slots_and_a_zone_that_returns_makes_one_epoch() {
    let mut core = core();
    core.wait(Patience { loss_grace_ms: 10_000, ..Patience::default() });
    let zone = [5, 6, 7, 8];
    core.place(zone.into_iter().map(|number| (name(number), "zone".into())).collect());
    all_report(&mut core, &[1, 2, 3, 4, 5, 6, 7, 8], 0);
    step(&mut core, 0).expect("a map");
    for now_ms in (1_000..=11_000).step_by(1_000) {
        all_report(&mut core, &[1, 2, 3, 4], now_ms);
        step(&mut core, now_ms);
    }
    assert_eq!(core.current.as_ref().map(|map| map.shares().len()), Some(4), "the zone is down");
    for now_ms in (12_000..40_000).step_by(1_000) {
        all_report(&mut core, &[1, 2, 3, 4], now_ms);
        if now_ms % 12_000 == 0 {
            all_report(&mut core, &[5], now_ms);
        }
        assert_eq!(step(&mut core, now_ms), None, "one report isn't steady");
    }
    let mut epochs = Vec::new();
    for now_ms in (40_000..60_000).step_by(500) {
        all_report(&mut core, &[1, 2, 3, 4], now_ms);
        // Each second one more of them is back.
        let back = zone.into_iter().filter(|number| now_ms >= 36_000 + u64::from(*number) * 1_000);
        all_report(&mut core, &back.collect::<Vec<_>>(), now_ms);
        epochs.extend(step(&mut core, now_ms).map(|map| map.shares().len()));
    }
    assert_eq!(epochs, [8]);
}

#[test]
fn when_many_fall_silent_at_once_nobody_is_condemned() {
    let mut core = core();
    core.wait(Patience { loss_grace_ms: 10_000, ..Patience::default() });
    all_report(&mut core, &[1, 2, 3, 4], 0);
    let map = step(&mut core, 0).expect("a map");
    for now_ms in (1_000..=60_000).step_by(1_000) {
        all_report(&mut core, &[1, 2], now_ms);
        step(&mut core, now_ms);
    }
    assert!(core.is_mass_silence());
    let spared: Vec<bool> = core.statuses(None, 60_000).iter().map(|status| status.is_spared).collect();
    assert_eq!(spared, [false, false, true, true]);
    let held = core.current.clone().expect("a map");
    let moved = |slot: &Slot| held.owners(*slot).iter().any(|owner| !map.owners(*slot).contains(owner));
    assert_eq!(Slot::all().filter(moved).count(), 0, "no slot has another owner");
}

#[test]
fn a_hand_over_ends_when_the_former_owner_has_offered_all_or_its_time_is_up() {
    let mut core = core();
    core.wait(Patience { warmup_ms: 60_000, ..Patience::default() });
    all_report(&mut core, &[1, 2, 3], 0);
    step(&mut core, 0).expect("a map");
    all_report(&mut core, &[4], 1_000);
    step(&mut core, 1_000).expect("n4 is listed");
    all_report(&mut core, &[1, 2, 3, 4], 3_000);
    all_report(&mut core, &[1, 2, 3, 4], 5_000);
    let joined = step(&mut core, 6_000).expect("n4 enters");
    let from = |map: &ClusterMap, id: u32| map.handover().iter().filter(|entry| entry.from == NodeId(id)).count();
    assert!((1..=3).all(|id| from(&joined, id) > 1_000));
    all_settle(&mut core, &[1], joined.epoch().0, 8_000);
    all_report(&mut core, &[2, 3, 4], 8_000);
    let ended = step(&mut core, 8_000).expect("n1 has offered all");
    assert_eq!((from(&ended, 1), from(&ended, 2) > 1_000), (0, true));
    all_settle(&mut core, &[2], ended.epoch().0, 9_000);
    all_report(&mut core, &[1, 3, 4], 9_000);
    assert_eq!(step(&mut core, 9_000), None, "not an epoch for each");
    let mut last = None;
    for now_ms in (11_000..=67_000).step_by(2_000) {
        all_report(&mut core, &[1, 3, 4], now_ms);
        all_settle(&mut core, &[2], ended.epoch().0, now_ms);
        last = step(&mut core, now_ms).or(last);
    }
    assert!(last.expect("n3's time is up").handover().is_empty());
}

#[test]
fn an_origin_is_known_by_who_asked_and_fails_when_one_says_so() {
    use larder_proto::control::VolumeReport;
    use larder_proto::error::ErrorKind;
    let id = VolumeId::from_bytes([5; 16]);
    let mut core = core();
    let say = |core: &mut Core, number: u32, origin: OriginState, mounted: bool| {
        let volume = VolumeReport { id, mounted, origin, cached_bytes: 0, origin_bytes: 0, read_bytes: 0, objects: 0 };
        core.report(NodeId(number), &name(number), NodeReport { volumes: vec![volume], ..report(0) }, 0);
    };
    say(&mut core, 1, OriginState::NotAsked, false);
    assert_eq!(core.volumes(0)[&id].origin, OriginState::NotAsked);
    say(&mut core, 2, OriginState::Answers, true);
    assert_eq!(core.volumes(0)[&id].origin, OriginState::Answers);
    say(&mut core, 3, OriginState::Fails(ErrorKind::NoSuchBucket), false);
    let status = core.volumes(0).remove(&id).expect("reported");
    assert_eq!(status.origin, OriginState::Fails(ErrorKind::NoSuchBucket));
    assert_eq!(status.mounted.into_iter().collect::<Vec<_>>(), [NodeId(2)]);
}

/// All but `shunned` report that they can't reach it; it reports as if nothing were.
fn all_shun(core: &mut Core, nodes: &[u32], shunned: u32, now_ms: u64) {
    for number in nodes {
        let unreachable = if *number == shunned { Vec::new() } else { vec![NodeId(shunned), NodeId(shunned)] };
        core.report(NodeId(*number), &name(*number), NodeReport { unreachable, ..report(0) }, now_ms);
    }
}

#[test]
fn whom_half_of_the_others_cannot_reach_for_five_seconds_is_suspect_though_it_reports() {
    let mut core = core();
    core.wait(Patience { loss_grace_ms: 10_000, ..Patience::default() });
    all_report(&mut core, &[1, 2, 3, 4], 0);
    let map = step(&mut core, 0).expect("a map");
    for now_ms in (1_000..=5_000).step_by(1_000) {
        all_shun(&mut core, &[1, 2, 4], 4, now_ms);
        all_report(&mut core, &[3], now_ms);
        assert_eq!(step(&mut core, now_ms), None, "two of three say so, not for long enough");
    }
    all_shun(&mut core, &[1, 2, 4], 4, 6_000);
    let suspect = step(&mut core, 6_000).expect("five seconds");
    assert_eq!(suspect.node(NodeId(4)).map(|node| node.state), Some(NodeState::Suspect));
    assert!(Slot::all().all(|slot| suspect.lead(slot) != Some(NodeId(4))));
    for now_ms in (7_000..=60_000).step_by(1_000) {
        all_report(&mut core, &[3], now_ms);
        all_shun(&mut core, &[1, 2, 4], 4, now_ms);
        assert_eq!(step(&mut core, now_ms), None, "it keeps its slots, and costs no epoch");
    }
    all_report(&mut core, &[1, 2, 3, 4], 61_000);
    step(&mut core, 61_250);
    all_report(&mut core, &[1, 2, 3, 4], 62_000);
    step(&mut core, 62_000).expect("it is returning");
    for now_ms in [63_000, 64_000, 65_000] {
        all_report(&mut core, &[1, 2, 3, 4], now_ms);
    }
    let back = step(&mut core, 65_250).expect("it serves");
    assert_eq!(back.node(NodeId(4)).map(|node| node.state), Some(NodeState::Serving));
    let moved = |slot: &Slot| map.owners(*slot).iter().any(|owner| !back.owners(*slot).contains(owner));
    assert_eq!(Slot::all().filter(moved).count(), 0, "no slot has another owner");
}

#[test]
fn too_few_reporters_and_old_reports_suspect_nobody() {
    let mut core = core();
    all_report(&mut core, &[1, 2, 3], 0);
    step(&mut core, 0).expect("a map");
    for now_ms in (1_000..=20_000).step_by(1_000) {
        all_shun(&mut core, &[1, 2, 3], 3, now_ms);
        assert_eq!(step(&mut core, now_ms), None, "two others prove nothing: it may be they who are cut off");
    }
    let mut core = self::core();
    all_report(&mut core, &[1, 2, 3, 4], 0);
    step(&mut core, 0).expect("a map");
    for now_ms in (1_000..=20_000).step_by(1_000) {
        all_shun(&mut core, &[1], 4, now_ms);
        all_report(&mut core, &[2, 3, 4], now_ms);
        assert_eq!(step(&mut core, now_ms), None, "one of three");
    }
    all_shun(&mut core, &[1, 2, 3, 4], 4, 21_000);
    step(&mut core, 21_000);
    for now_ms in (22_000..=40_000).step_by(1_000) {
        all_report(&mut core, &[3, 4], now_ms);
        step(&mut core, now_ms);
    }
    assert_eq!(core.nodes[&name(4)].life.state(), NodeState::Serving, "who shunned it is silent");
}

/// Parts of a network that can't reach each other, each as many nodes as it says; who is shunned then.
fn shunned_in(parts: &[u32]) -> Vec<u32> {
    let part_of = |id: u32| {
        let mut end = 0;
        parts
            .iter()
            .position(|count| {
                end += count;
                id < end
            })
            .expect("a part")
    };
    let all = 0..parts.iter().sum();
    let reports: Vec<(NodeId, Vec<NodeId>)> = all
        .clone()
        .map(|id| (NodeId(id), all.clone().filter(|other| part_of(*other) != part_of(id)).map(NodeId).collect()))
        .collect();
    shunned(reports.iter().map(|(id, others)| (*id, others.as_slice()))).into_iter().map(|id| id.0).collect()
}

#[test]
fn of_a_network_that_is_cut_in_two_the_smaller_part_is_suspect_and_of_halves_neither() {
    assert_eq!(shunned_in(&[3, 1]), [3]);
    assert_eq!(shunned_in(&[3, 2]), [3, 4]);
    assert_eq!(shunned_in(&[4, 3]), [4, 5, 6]);
    assert_eq!(shunned_in(&[1, 9, 2]), [0, 10, 11]);
    for parts in [&[2, 2][..], &[3, 3], &[1, 1, 1, 1], &[5]] {
        assert!(shunned_in(parts).is_empty(), "{parts:?}");
    }
}

#[test]
fn an_epoch_that_cannot_be_stops_no_map() {
    let mut core = core();
    all_report(&mut core, &[1, 2, 3], 0);
    step(&mut core, 0).expect("a map");
    core.report(NodeId(3), &name(3), report((1 << 48) - 1), 100);
    core.report(NodeId(4), &name(4), report(0), 200);
    let joined = step(&mut core, 30_000).expect("maps go on");
    assert!(joined.epoch() < Epoch(10) && joined.node(NodeId(4)).is_some(), "{}", joined.epoch());
    core.report(NodeId(3), &name(3), report(1_000_000), 30_100);
    core.retire(&name(4));
    assert!(step(&mut core, 31_000).expect("it drains").epoch() > Epoch(1_000_000), "one that can be is believed");
}

#[test]
fn after_a_start_maps_wait_until_more_than_half_were_heard_or_ten_seconds() {
    let mut before = core();
    all_report(&mut before, &[1, 2, 3], 0);
    let stored = step(&mut before, 0).expect("a map");
    let again = || Core::new(ClusterId::of("a/a"), Shape { min_nodes: 3, replicas: 2 }, Some(stored.clone()), Epoch(0));
    let mut core = again();
    core.report(NodeId(1), &name(1), report(1), 100);
    core.retire(&name(1));
    assert_eq!(step(&mut core, 9_999), None, "one of three");
    // It has the map that was lost with the ledger's last writes.
    core.report(NodeId(2), &name(2), report(2), 9_999);
    assert_eq!(step(&mut core, 9_999).expect("two of three").epoch(), Epoch(3));
    let mut core = again();
    core.retire(&name(1));
    assert_eq!(step(&mut core, 10_000).expect("long enough").epoch(), Epoch(2));
}

#[test]
fn only_what_a_map_may_follow_from_is_news() {
    let mut core = core();
    assert!(core.report(NodeId(1), &name(1), report(0), 0));
    assert!(!core.report(NodeId(1), &name(1), report(0), 1_000));
    let settled = NodeReport { offers: OffersReport { settled: Epoch(1), ..OffersReport::default() }, ..report(0) };
    assert!(core.report(NodeId(1), &name(1), settled.clone(), 2_000));
    assert!(core.report(NodeId(1), &name(1), NodeReport { unreachable: vec![NodeId(2)], ..settled.clone() }, 3_000));
    assert!(core.report(NodeId(1), &name(1), NodeReport { stores: Vec::new(), ..settled }, 4_000));
}

#[test]
fn what_no_map_can_say_is_told_and_the_old_map_stays_until_it_is_mended() {
    let mut core = core();
    all_report(&mut core, &[1, 2, 3], 0);
    let first = step(&mut core, 0).expect("three nodes");
    core.place([(name(2), "x".repeat(1_000).into())].into());
    assert_eq!(step(&mut core, 1_000), None);
    assert!(core.stuck.is_some() && core.current.as_ref().is_some_and(|map| map.epoch() == first.epoch()));
    core.place([(name(2), "rack".into())].into());
    assert!(step(&mut core, 2_000).is_some());
    assert_eq!(core.stuck, None);
}

#[test]
fn a_report_that_was_under_way_when_its_node_was_removed_makes_no_ghost() {
    let mut core = core();
    all_report(&mut core, &[1, 2, 3, 4], 0);
    let first = step(&mut core, 0).expect("four nodes");
    assert_eq!(first.nodes().len(), 4);
    core.remove(&name(4));
    assert!(!core.report(NodeId(4), &name(4), report(1), 500));
    all_report(&mut core, &[1, 2, 3], 500);
    let second = step(&mut core, 500).expect("one is gone");
    assert!(second.node(NodeId(4)).is_none() && core.statuses(None, 500).len() == 3);
    assert!(core.report(NodeId(5), &name(4), report(1), 600), "it has joined again");
    assert_eq!(core.statuses(None, 600).len(), 4);
}
