//! Copies that owners lack, given by agents of a simulated world: to whom, by whom, and how fast.

use std::sync::Arc;
use std::time::Duration;

use larder_proto::checksum::block_crcs;
use larder_proto::ids::{Epoch, NodeId, Slot};
use larder_proto::map::{ClusterMap, NodeState};
use larder_proto::object::{Chunk, ChunkIndex, Object};
use larder_proto::range::ByteRange;
use larder_proto::wire::RequestId;

use super::Snapshot;
use crate::cache::{BUDGET_BYTES, Pattern};
use crate::store::Giver;
use crate::world::{CHUNK, Ending, World, content, until};

const SECOND: Duration = Duration::from_secs(1);

/// A planned world whose first three nodes know each other.
async fn world(seed: u64, nodes: u32) -> World {
    let world = World::planned(seed, BUDGET_BYTES, nodes).await;
    until("everything was offered", || (0..3).all(|node| snapshot(&world, node).offer_rounds > 0)).await;
    world
}

fn snapshot(world: &World, node: usize) -> Snapshot {
    world.node(node).cache.replicator().snapshot()
}

fn sum(world: &World, of: impl Fn(&Snapshot) -> u64) -> u64 {
    (0..world.count()).filter(|node| world.is_alive(*node)).map(|node| of(&snapshot(world, node))).sum()
}

/// The node at this place is one of the chunk's owners.
fn owns(world: &World, node: usize, chunk: &Chunk) -> bool {
    world.current().owners(chunk.slot()).iter().any(|id| at(*id) == node)
}

/// Where the world has a node.
fn at(id: NodeId) -> usize {
    id.0 as usize - 1
}

fn chunk_of(object: &Arc<Object>) -> Chunk {
    object.chunk(ChunkIndex(0)).expect("it isn't empty")
}

/// A node has the chunk, as if it had filled it.
async fn keep(world: &World, node: usize, chunk: &Chunk) {
    let bytes = content(chunk.object().key().as_str(), chunk.len() as usize);
    let reservation = world.node(node).stores.reserve(chunk, Giver::Node).await.expect("room");
    let crcs = block_crcs(chunk.object().id(), chunk.first_block(), &bytes);
    reservation.write(0, bytes).await.expect("writes");
    reservation.commit(crcs).await.expect("commits");
}

/// Objects of one chunk each, which their owners have.
async fn kept_by_owners(world: &World, count: usize, len: usize) -> Vec<Chunk> {
    let chunks: Vec<Chunk> = (0..count).map(|number| chunk_of(&world.put(&format!("o{number}"), len))).collect();
    for chunk in &chunks {
        for owner in world.current().owners(chunk.slot()) {
            keep(world, at(*owner), chunk).await;
        }
    }
    chunks
}

/// Copies that owners lack.
fn missing(world: &World, chunks: &[Chunk]) -> u64 {
    let map = world.current();
    let lacks = |chunk: &Chunk| {
        map.owners(chunk.slot()).iter().filter(|id| !world.node(at(**id)).stores.has(&chunk.id())).count() as u64
    };
    chunks.iter().map(lacks).sum()
}

#[tokio::test(start_paused = true)]
async fn an_owner_whose_disk_is_slow_gets_its_copies_when_it_is_not() {
    let mut world = world(81, 3).await;
    let chunks = kept_by_owners(&world, 100, 20_000).await;
    world.kill(1, Ending::ProcessDies).await;
    world.set_state(1, NodeState::Suspect);
    world.lose_disk(1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.start(1).await;
    let stall = world.node(1).stores.stall();
    let lost = missing(&world, &chunks);
    assert!(lost > 40, "{lost}");
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!((missing(&world, &chunks), sum(&world, |copies| copies.copies_given)), (lost, 0), "it takes nothing");
    assert!(sum(&world, |copies| copies.copies_lacking) > 0, "and that is known");
    drop(stall);
    until("it has its copies", || missing(&world, &chunks) == 0).await;
    assert_eq!(sum(&world, |copies| copies.copies_declined), 0, "slow isn't full");
}

/// Who reads while copies are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readers {
    Nobody,
    /// The kernel has a file.
    Kernel,
    /// A thousand times a second, what is in memory.
    Memory,
}

/// How long node 0 takes to give node 1 eight chunks of 4 MiB, from the first one on.
async fn giving_takes(readers: Readers) -> Duration {
    let mut world = world(82, 3).await;
    let chunks = (0..).map(|number| chunk_of(&world.put(&format!("o{number}"), CHUNK as usize)));
    let chunks: Vec<Chunk> = chunks.filter(|chunk| owns(&world, 0, chunk) && owns(&world, 1, chunk)).take(8).collect();
    for chunk in &chunks {
        keep(&world, 0, chunk).await;
    }
    let (cache, stores) = (world.node(0).cache.clone(), world.node(0).stores.clone());
    let (first, part) = (chunks[0].clone(), ByteRange::at(0, 65_536));
    cache.read(RequestId(1), &first, part, Pattern::Sequential, world.now() + SECOND).await.expect("it is here");
    let lent = match readers {
        Readers::Kernel => {
            assert!(stores.verify(first.object()).await.expect("reads"));
            Some(stores.pass(&first.object().id()).await.expect("it is whole").lend())
        }
        Readers::Nobody | Readers::Memory => None,
    };

    let is_hit = || readers != Readers::Memory || cache.read_now(&first, part).is_some();
    world.set_state(1, NodeState::Suspect);
    for _ in 0..3_000 {
        assert!(is_hit(), "it is in memory");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.set_state(1, NodeState::Serving);
    let given = |world: &World| snapshot(world, 0).copies_given;
    let (mut began, deadline) = (world.now(), world.now() + 60 * SECOND);
    while given(&world) < 8 {
        assert!(world.now() < deadline, "{} are given", given(&world));
        if given(&world) == 0 {
            began = world.now();
        }
        assert!(is_hit(), "it is in memory");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(stores.by_kernel().open, u64::from(lent.is_some()));
    world.now() - began
}

#[tokio::test(start_paused = true)]
async fn copies_are_given_slower_while_files_are_read_past_the_stores_threads() {
    // Seven chunks after the first: 28 MiB.
    let idle = giving_takes(Readers::Nobody).await;
    assert!((Duration::from_millis(80)..Duration::from_millis(250)).contains(&idle), "256 MiB/s: {idle:?}");
    for readers in [Readers::Kernel, Readers::Memory] {
        let loaded = giving_takes(readers).await;
        assert!((Duration::from_millis(370)..SECOND).contains(&loaded), "64 MiB/s: {readers:?}, {loaded:?}");
    }
}

/// What is given, what is taken and what is refused as too much at once.
fn moved(world: &World) -> (u64, u64, u64) {
    let alive: Vec<usize> = (0..world.count()).filter(|node| world.is_alive(*node)).collect();
    let counted = |node: &usize| world.node(*node).cache.snapshot();
    let taken = alive.iter().map(|node| counted(node).copies_taken).sum();
    let refused = alive.iter().map(|node| counted(node).copies_refused).sum();
    (sum(world, |copies| copies.copies_given), taken, refused)
}

#[tokio::test(start_paused = true)]
async fn of_all_that_have_a_chunk_one_gives_it() {
    let mut world = world(83, 6).await;
    let chunks = kept_by_owners(&world, 300, 100_000).await;
    for node in 3..6 {
        world.start(node).await;
    }
    let lacking = missing(&world, &chunks);
    assert!(lacking > 200, "half of all copies belong to others now: {lacking}");
    until("every owner has its copies", || missing(&world, &chunks) == 0).await;
    until("nobody gives any more", || moved(&world).0 >= lacking).await;
    assert_eq!(moved(&world), (lacking, lacking, 0), "each copy was sent once");
}

/// The node that the others left its copies to is killed in the middle: they give them, long before the next full round.
#[tokio::test(start_paused = true)]
async fn what_was_left_to_a_node_that_died_is_given_by_another() {
    let mut world = world(84, 4).await;
    let chunks = kept_by_owners(&world, 150, 300_000).await;
    // It takes its time, so that the others are done with what is theirs.
    world.slow(0, Duration::from_millis(200));
    world.start(3).await;
    tokio::time::sleep(3 * SECOND).await;
    assert!(snapshot(&world, 0).copies_given > 0, "it has begun to give");
    world.kill(0, Ending::ProcessDies).await;
    let by_others = |world: &World| {
        let lacks = |chunk: &&Chunk| owns(world, 3, chunk) && !world.node(3).stores.has(&chunk.id());
        let has = |chunk: &&Chunk| [1, 2].into_iter().any(|node| world.node(node).stores.has(&chunk.id()));
        chunks.iter().filter(lacks).filter(has).count()
    };
    tokio::time::sleep(3 * SECOND).await;
    assert!(by_others(&world) > 0, "the others left something to it");
    world.set_state(0, NodeState::Suspect);
    until("the others have given what they have", || by_others(&world) == 0).await;
}

/// The world's nodes, of which these own every slot.
fn owned_by(world: &World, epoch: u64, owners: &[usize]) -> ClusterMap {
    let map = world.current();
    let owners: Vec<NodeId> = owners.iter().map(|node| map.nodes()[*node].id).collect();
    let table = vec![owners; Slot::all().count()];
    ClusterMap::new(Epoch(epoch), map.cluster(), map.nodes().to_vec(), &table, Vec::new()).expect("a sound map")
}

/// The map that took the chunk away from its owner never came here, only the one after it, which gives it back.
#[tokio::test(start_paused = true)]
async fn an_owner_that_refuses_by_a_newer_map_is_asked_again() {
    let world = world(85, 3).await;
    let chunk = chunk_of(&world.put("o", 20_000));
    let adopt = |node: usize, epoch: u64, owners: &[usize]| {
        world.node(node).maps.adopt_unsigned_for_simulation(owned_by(&world, epoch, owners));
    };
    let offers = || world.node(0).cache.replicator().offers();
    (0..3).for_each(|node| adopt(node, 1_000, &[0, 2]));
    until("all was offered as of that map", || offers().settled >= Epoch(1_000)).await;
    keep(&world, 0, &chunk).await;
    adopt(1, 1_002, &[0, 2]);
    [0, 2].into_iter().for_each(|node| adopt(node, 1_001, &[0, 1]));
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(offers().settled, Epoch(1_000), "it has not said that it has it");
    (0..3).for_each(|node| adopt(node, 1_003, &[0, 1]));
    until("it has it", || world.node(1).stores.has(&chunk.id())).await;
    until("nobody is owed anything", || offers().settled >= Epoch(1_003)).await;
}
