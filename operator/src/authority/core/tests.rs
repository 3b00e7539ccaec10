use larder_proto::control::{StoreHealth, StoreReport};
use larder_proto::ids::{Slot, StoreId};

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
    assert_eq!((next.epoch(), after.nodes[&name(3)].health), (Epoch(2), Health::Suspect));
}

#[test]
fn an_epoch_from_before_our_memory_is_jumped() {
    let mut core = core();
    all_report(&mut core, &[1, 2], 0);
    core.report(NodeId(3), &name(3), report(41), 0);
    assert_eq!(step(&mut core, 0).expect("three nodes").epoch(), Epoch(42));
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

#[test]
fn a_node_that_leaves_is_gone_without_slots_before_it_is_dropped() {
    let mut core = core();
    core.reshape(Shape { min_nodes: 2, replicas: 2 });
    all_report(&mut core, &[1, 2, 3], 0);
    step(&mut core, 100).expect("a map");
    core.retire(&name(3));
    let left = step(&mut core, 200).expect("without n3");
    assert_eq!(left.node(NodeId(3)).map(|node| node.state), Some(NodeState::Gone), "it still reads from its peers");
    assert!(Slot::all().all(|slot| left.owners(slot).len() == 2 && !left.owners(slot).contains(&NodeId(3))));
    all_report(&mut core, &[3], 300);
    assert_eq!(step(&mut core, 300), None, "its reports don't bring it back");
    assert_eq!(core.statuses(Some(&left), 300)[2].state, NodeState::Gone);
    core.remove(&name(3));
    let dropped = step(&mut core, 400).expect("a map without it");
    assert_eq!(dropped.node(NodeId(3)), None);
    assert!(Slot::all().all(|slot| dropped.owners(slot) == left.owners(slot)), "nothing moves again");
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
