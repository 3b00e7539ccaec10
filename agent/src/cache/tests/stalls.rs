//! Places that begin and then bring nothing: what they cost a reader, and that the next place still has time.

use larder_proto::wire::{ChunkRequest, Want};

use super::*;
use crate::cache::budget::Source;

/// Both owners have the chunk; its reader, who owns nothing of it, has earned a hedge.
async fn hedged_world(seed: u64) -> (World, Chunk) {
    let world = World::new(seed).await;
    let object = world.put("a", CHUNK as usize);
    let chunk = chunk(&object, 0);
    let (lead, _, reader) = world.roles(&chunk);
    read_all(&world, lead, &chunk).await.expect("filled");
    copied(&world, &chunk).await;
    for block in 0..40 {
        let range = ByteRange::at(block * 65_536, 65_536);
        read(&world, reader, &chunk, range, Pattern::Random).await.expect("read");
    }
    (world, chunk)
}

/// The lead is late, the hedge's answer comes from the next owner, which is stopped in the middle of it.
async fn stop_the_hedge(world: &World, chunk: &Chunk, range: ByteRange, pattern: Pattern, after: usize) {
    let (lead, second, reader) = world.roles(chunk);
    world.slow(lead, Duration::from_millis(300));
    world.stop_after(second, after);
    let began = now(world, reader);
    let got = read(world, reader, chunk, range, pattern).await.expect("the lead has it");
    let waited = now(world, reader) - began;
    assert!(got == content("a", CHUNK as usize)[range.start() as usize..range.end() as usize]);
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    let counted = world.node(reader).cache.snapshot();
    assert_eq!(counted.hedges_won, 1, "{counted:?}");
    assert!(counted.abandoned >= 1 && world.net.stopped() > 0, "it was stopped in the middle");
    assert_eq!(world.gets(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_wins_and_stalls_costs_a_second() {
    let (world, chunk) = hedged_world(61).await;
    stop_the_hedge(&world, &chunk, ByteRange::at(0, CHUNK), Pattern::Sequential, 1_500_000).await;
}

#[tokio::test(start_paused = true)]
async fn a_hedged_random_read_that_stalls_costs_a_second() {
    let (world, chunk) = hedged_world(62).await;
    stop_the_hedge(&world, &chunk, ByteRange::at(MIB, MIB), Pattern::Random, 300_000).await;
}

/// Who is sent the bytes of a hedge waits for the one that sends them: a Fill of that one must not wait for us.
#[tokio::test(start_paused = true)]
async fn a_hedged_flight_waits_for_who_sends() {
    let (world, chunk) = hedged_world(63).await;
    let (lead, second, reader) = world.roles(&chunk);
    let ids = [lead, second].map(|node| larder_proto::ids::NodeId(u32::try_from(node).expect("small") + 1));
    world.slow(lead, Duration::from_millis(300));
    world.stop_after(second, 1_500_000);
    let cache = world.node(reader).cache.clone();
    let reading = read_all(&world, reader, &chunk);
    let looking = async {
        until("the hedge sends", || {
            cache.inner.flights.get(&chunk.id()).is_some_and(|flight| flight.landing.landed() > 0)
        })
        .await;
        let flight = cache.inner.flights.get(&chunk.id()).expect("it flies");
        assert_eq!(ids.map(|id| flight.waits_for(id)), [false, true]);
    };
    let (read, ()) = futures::join!(reading, looking);
    assert!(read.is_ok());
}

/// The lead lives, answers probes, and has no memory: its followers are told, and have time for another place.
#[tokio::test(start_paused = true)]
async fn a_lead_without_memory_costs_a_part_of_the_deadline() {
    for pattern in [Pattern::Sequential, Pattern::Random] {
        let world = World::new(64).await;
        let object = world.put("a", CHUNK as usize);
        let chunk = chunk(&object, 0);
        let (lead, second, reader) = world.roles(&chunk);
        let budget = &world.node(lead).cache.inner.budget;
        let _all = budget.take(budget.bytes(), Source::Own).await;
        let began = now(&world, reader);
        let got = read(&world, reader, &chunk, ByteRange::at(0, MIB), pattern).await.expect("from another place");
        let waited = now(&world, reader) - began;
        assert!(got == content("a", CHUNK as usize)[..MIB as usize]);
        assert!(waited > Duration::from_secs(4), "the fault was hit: {waited:?}");
        assert!(waited < Duration::from_secs(15), "{waited:?}");
        assert_eq!(world.gets(), 1, "the next owner has filled");
        let began = now(&world, second);
        read_all(&world, second, &chunk).await.expect("it has it");
        assert!(now(&world, second) - began < Duration::from_secs(1));
    }
}

/// A node that loses power while it is sent chunks doesn't close its connections, and reads no more.
#[tokio::test(start_paused = true)]
async fn readers_that_lose_power_hold_memory_for_seconds() {
    let world = World::with_budget(65, 16 * MIB).await;
    let object = world.put("a", 32 * CHUNK as usize);
    let chunks: Vec<Chunk> = (0..32).map(|index| chunk(&object, index)).collect();
    let (lead, _, reader) = world.roles(&chunks[0]);
    let same = |chunk: &&Chunk| world.roles(chunk).0 == lead && world.roles(chunk).2 == reader;
    let led: Vec<&Chunk> = chunks.iter().filter(same).collect();
    assert!(led.len() > 4, "{} chunks", led.len());
    let to = larder_proto::ids::NodeId(u32::try_from(lead).expect("small") + 1);
    let dead = &world.node(reader).cache.inner;
    let mut bodies = Vec::new();
    for chunk in &led[..4] {
        let request = ChunkRequest::whole(REQUEST, Want::Fill, dead.replicator.owners(chunk).epoch, (*chunk).clone());
        bodies.push(dead.peers.read(to, &request, dead.now() + Duration::from_secs(60)).await.expect("a head"));
    }
    let memory = || world.node(lead).cache.memory();
    until("they have all of the lead's memory", || memory().0 == 16 * MIB).await;
    let began = now(&world, lead);
    read_all(&world, lead, led[4]).await.expect("there is memory in time");
    let waited = now(&world, lead) - began;
    assert!(waited > Duration::from_secs(1), "the memory was taken: {waited:?}");
    assert!(waited < Duration::from_secs(8), "{waited:?}");
    drop(bodies);
}
