//! Slots that move between simulated agents: what was cached is where the map says, and the origin isn't asked again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use larder_proto::map::{Handover, NodeState};
use larder_proto::object::{Chunk, ChunkIndex, Object};
use larder_proto::range::ByteRange;
use larder_proto::wire::RequestId;

use super::{COPIES, Ending, World, content, until};
use crate::cache::{BUDGET_BYTES, Pattern};

const OBJECTS: usize = 700;
const LEN: usize = 20_000;

async fn put_and_read_all(world: &World) -> Vec<Arc<Object>> {
    let objects: Vec<Arc<Object>> = (0..OBJECTS).map(|number| world.put(&format!("o{number}"), LEN)).collect();
    read_all(world, 0, &objects).await;
    objects
}

fn first_chunk(object: &Arc<Object>) -> Chunk {
    object.chunk(ChunkIndex(0)).expect("it isn't empty")
}

async fn read_all(world: &World, node: usize, objects: &[Arc<Object>]) {
    for object in objects {
        let deadline = world.now() + Duration::from_secs(30);
        let cache = &world.node(node).cache;
        let whole = ByteRange::at(0, LEN as u64);
        let chunk = first_chunk(object);
        let read = cache.read(RequestId(1), &chunk, whole, Pattern::Sequential, deadline);
        let bytes = read.await.expect("it can be read");
        assert!(bytes == content(object.key().as_str(), LEN), "{}", object.key().as_str());
    }
}

/// Chunks that an owner of the map of now doesn't have.
fn missing(world: &World, objects: &[Arc<Object>]) -> usize {
    let map = world.current();
    let lacks = |object: &Arc<Object>| {
        let chunk = first_chunk(object);
        let owners = map.owners(chunk.slot());
        assert_eq!(owners.len(), COPIES);
        let has = |id: &larder_proto::ids::NodeId| world.node(id.0 as usize - 1).stores.has(&chunk.id());
        owners.iter().filter(|id| !has(id)).count()
    };
    objects.iter().map(lacks).sum()
}

fn is_settled(world: &World) -> bool {
    let epoch = world.current().epoch();
    let alive = (0..world.count()).filter(|node| world.is_alive(*node));
    alive.map(|node| world.node(node).cache.replicator().offers()).all(|offers| offers.settled >= epoch)
}

fn all_handovers(world: &World) -> BTreeSet<Handover> {
    world.current().handover().iter().copied().collect()
}

#[tokio::test(start_paused = true)]
async fn after_growth_and_a_drain_every_owner_has_what_is_its_own_and_the_origin_is_not_asked() {
    let mut world = World::planned(71, BUDGET_BYTES, 6).await;
    let objects = put_and_read_all(&world).await;
    until("both owners have everything", || missing(&world, &objects) == 0).await;
    let gets = world.gets();
    assert_eq!(gets, OBJECTS as u64);

    for node in 3..6 {
        world.start(node).await;
    }
    assert!(missing(&world, &objects) > OBJECTS / 2, "half of all copies belong to others now");
    assert!(!all_handovers(&world).is_empty());
    // Nothing was handed over yet: who leads asks the former owners.
    read_all(&world, 5, &objects[..100]).await;
    until("everything was offered", || is_settled(&world)).await;
    assert_eq!(missing(&world, &objects), 0);
    assert!(world.plan(all_handovers(&world)), "hand-overs end");
    assert!(all_handovers(&world).is_empty());
    read_all(&world, 4, &objects).await;

    for node in [0, 1, 2] {
        world.set_state(node, NodeState::Draining);
    }
    assert!(world.current().shares().keys().all(|id| id.0 > 3));
    until("everything was handed over", || is_settled(&world)).await;
    assert_eq!(missing(&world, &objects), 0);
    for node in [0, 1, 2] {
        world.kill(node, Ending::ProcessDies).await;
        world.set_state(node, NodeState::Gone);
    }
    world.plan(all_handovers(&world));
    read_all(&world, 3, &objects).await;
    assert_eq!(world.gets(), gets, "the origin was asked for everything once");
}

#[tokio::test(start_paused = true)]
async fn who_lost_its_disk_gets_its_copies_again() {
    let mut world = World::planned(72, BUDGET_BYTES, 3).await;
    let objects = put_and_read_all(&world).await;
    until("both owners have everything", || missing(&world, &objects) == 0).await;
    world.kill(1, Ending::ProcessDies).await;
    world.set_state(1, NodeState::Suspect);
    world.lose_disk(1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.start(1).await;
    assert!(missing(&world, &objects) > OBJECTS / 2);
    until("its copies are there again", || missing(&world, &objects) == 0).await;
    assert_eq!(world.gets(), OBJECTS as u64, "from the other owners");
}

/// A store is known by what is on it, not by its node: what lies on a disk that another node has now is served from there.
#[tokio::test(start_paused = true)]
async fn disks_that_change_places_keep_their_bytes() {
    let mut world = World::planned(74, BUDGET_BYTES, 3).await;
    let objects = put_and_read_all(&world).await;
    until("both owners have everything", || missing(&world, &objects) == 0).await;
    // Until what was filled is durable: both owners of a slot die at once.
    tokio::time::sleep(Duration::from_secs(60)).await;
    for node in [0, 1] {
        world.kill(node, Ending::ProcessDies).await;
    }
    world.swap_disks(0, 1);
    for node in [0, 1] {
        world.start(node).await;
    }
    assert!(missing(&world, &objects) > OBJECTS / 4);
    until("what is each one's own is there again", || missing(&world, &objects) == 0).await;
    read_all(&world, 2, &objects).await;
    assert_eq!(world.gets(), OBJECTS as u64, "nothing was asked for again");
}

#[tokio::test(start_paused = true)]
async fn a_full_owner_is_left_alone() {
    let mut world = World::planned(73, BUDGET_BYTES, 4).await;
    world.shrink(3, 3 << 20);
    let objects = put_and_read_all(&world).await;
    until("both owners have everything", || missing(&world, &objects) == 0).await;
    world.start(3).await;
    until("everything was offered", || is_settled(&world)).await;
    let declined: u64 = (0..3).map(|node| world.node(node).cache.replicator().snapshot().copies_declined).sum();
    assert!(declined > 0, "it had no room");
    assert_eq!(world.node(3).stores.debug()[0].counters.evicted_bytes, 0, "and nothing left for a copy");
}
