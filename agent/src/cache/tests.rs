//! Three caches over a simulated net: one GET per chunk, and every way a place can fail.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use larder_proto::checksum::{Checksummed, block_crcs};
use larder_proto::error::ErrorKind;
use larder_proto::ids::{Epoch, NodeId};
use larder_proto::object::{Chunk, ChunkIndex, Object};
use larder_proto::range::ByteRange;
use larder_proto::volume::Keeping;
use larder_proto::wire::{ChunkRequest, PutRequest, RequestId, Want};
use tokio::time::{Instant, timeout};

mod damage;
mod disks;
mod stalls;

use super::*;
use crate::origin::sim::Fault;
use crate::origin::{OriginError, Unreachable};
use crate::peer::{Handler as _, PeerError};
use crate::world::{CHUNK, Ending, World, content, until};

const REQUEST: RequestId = RequestId(1);
const MIB: u64 = 1 << 20;

fn chunk(object: &Arc<Object>, index: u32) -> Chunk {
    object.chunk(ChunkIndex(index)).expect("in the object")
}

async fn read(
    world: &World,
    node: usize,
    chunk: &Chunk,
    range: ByteRange,
    pattern: Pattern,
) -> Result<Bytes, ReadError> {
    let alive = world.node(node);
    let deadline = alive.runtime.clock.now() + Duration::from_secs(30);
    alive.cache.read(REQUEST, chunk, range, pattern, deadline).await
}

async fn read_all(world: &World, node: usize, chunk: &Chunk) -> Result<Bytes, ReadError> {
    read(world, node, chunk, ByteRange::at(0, u64::from(chunk.len())), Pattern::Sequential).await
}

fn now(world: &World, node: usize) -> Instant {
    world.node(node).runtime.clock.now()
}

/// The chunk is in the stores of both its owners, and nothing waits.
async fn copied(world: &World, chunk: &Chunk) {
    let (lead, second, _) = world.roles(chunk);
    until("both owners have their copy", || {
        let has = |node: usize| world.node(node).stores.has(&chunk.id());
        has(lead) && has(second) && world.node(lead).cache.replicator().snapshot().copies_pending == 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn fifty_readers_on_three_nodes_are_one_get() {
    let world = World::new(1).await;
    world.origin.set_latency(Duration::from_millis(20));
    let object = world.put("a/b", CHUNK as usize);
    let chunk = chunk(&object, 0);
    let bytes = content("a/b", CHUNK as usize);
    let reads = (0..50).map(|reader| read_all(&world, reader % 3, &chunk));
    for answer in join_all(reads).await {
        assert!(answer.expect("read") == bytes);
    }
    assert_eq!(world.gets(), 1);
    let followers: u64 = (0..3).map(|node| world.node(node).cache.snapshot().followers).sum();
    assert_eq!(followers, 47, "all but the first on each node");
    copied(&world, &chunk).await;
    let copies: Vec<_> = (0..3).map(|node| world.node(node).cache.replicator().snapshot()).collect();
    let read: u64 = copies.iter().map(|copies| copies.copies_read).sum();
    let pushed: u64 = copies.iter().map(|copies| copies.copies_pushed).sum();
    assert_eq!((read, pushed), (1, 0), "the other owner has stored what it read");
}

#[tokio::test(start_paused = true)]
async fn followers_stream_before_the_flight_ends() {
    let world = World::new(2).await;
    let object = world.put("a", CHUNK as usize);
    let chunk = chunk(&object, 0);
    let (lead, _, reader) = world.roles(&chunk);
    // The origin sends a bit more than a segment, then nothing for five seconds.
    world.origin.inject([Fault::StallsAfter(MIB + 200_000)]);
    let began = now(&world, lead);
    let first = ByteRange::at(0, 128 * 1024);
    for node in [lead, reader] {
        let got = read(&world, node, &chunk, first, Pattern::Sequential).await.expect("streamed");
        assert!(got == content("a", CHUNK as usize)[..128 * 1024]);
    }
    let block_of_the_open_segment = ByteRange::at(MIB, 65_536);
    let got = read(&world, lead, &chunk, block_of_the_open_segment, Pattern::Sequential).await.expect("streamed");
    assert!(got == content("a", CHUNK as usize)[MIB as usize..MIB as usize + 65_536]);
    assert!(now(&world, lead) - began < Duration::from_secs(1), "nobody waited for the stall");
    assert!(world.node(lead).cache.flights()[0].stage == "Flying");
    assert_eq!(world.node(lead).cache.flying(), 1);
    let all = read_all(&world, reader, &chunk).await.expect("goes on");
    assert!(all == content("a", CHUNK as usize));
    until("it has landed", || world.node(lead).cache.flights()[0].stage == "Landed").await;
    until("what is kept in memory isn't on its way", || world.node(lead).cache.flying() == 0).await;
    assert_eq!(world.origin.injected(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_owner_costs_milliseconds_and_no_second_get() {
    let mut world = World::new(3).await;
    let object = world.put("a", CHUNK as usize);
    let chunk = chunk(&object, 0);
    let (lead, second, reader) = world.roles(&chunk);
    world.kill(lead, Ending::ProcessDies).await;
    let began = now(&world, reader);
    let got = read_all(&world, reader, &chunk).await.expect("from the second owner");
    assert!(got == content("a", CHUNK as usize));
    assert!(now(&world, reader) - began < Duration::from_millis(250));
    assert_eq!(world.gets(), 1);
    assert!(world.node(reader).cache.snapshot().unreachable > 0, "the dead owner was asked");
    // The lead returns without the chunk: it asks the other owner before the origin, and gets its copy pushed.
    world.start(lead).await;
    let got = read_all(&world, lead, &chunk).await.expect("from the second owner");
    assert!(got == content("a", CHUNK as usize));
    assert_eq!(world.gets(), 1);
    copied(&world, &chunk).await;
    until("the missing copy was made good", || world.node(second).cache.replicator().snapshot().copies_short == 0)
        .await;
}

/// Slow isn't dead: a lead that gets no processor for 0.9 s at a time is waited for, by readers and by the next owner.
#[tokio::test(start_paused = true)]
async fn a_lead_that_is_slow_is_not_passed_over() {
    let world = World::new(10).await;
    world.origin.set_latency(Duration::from_millis(20));
    let object = world.put("a", 8 * CHUNK as usize);
    for index in 0..8 {
        let chunk = chunk(&object, index);
        let (lead, second, reader) = world.roles(&chunk);
        for node in 0..3 {
            world.slow(node, if node == lead { Duration::from_millis(900) } else { Duration::ZERO });
        }
        let reads = [reader, second, reader, second, lead].map(|node| read_all(&world, node, &chunk));
        let whole = u64::from(index) * CHUNK..u64::from(index + 1) * CHUNK;
        for answer in join_all(reads).await {
            assert!(
                answer.expect("read") == content("a", 8 * CHUNK as usize)[whole.start as usize..whole.end as usize]
            );
        }
        assert_eq!(world.gets(), u64::from(index) + 1, "one GET per chunk");
    }
}

/// A stopped process: connections are made, nothing comes. It costs its readers three seconds once, not per chunk.
#[tokio::test(start_paused = true)]
async fn a_lead_that_hangs_holds_readers_once() {
    let world = World::new(11).await;
    let object = world.put("a", 8 * CHUNK as usize);
    let (lead, _, _) = world.roles(&chunk(&object, 0));
    let led: Vec<Chunk> =
        (0..8).map(|index| chunk(&object, index)).filter(|chunk| world.roles(chunk).0 == lead).collect();
    assert!(led.len() >= 3, "runs of four chunks share a slot");
    world.slow(lead, Duration::from_secs(3_600));
    let mut waited = Vec::new();
    for chunk in &led {
        let (_, _, reader) = world.roles(chunk);
        let began = now(&world, reader);
        read_all(&world, reader, chunk).await.expect("from the next owner");
        waited.push(now(&world, reader) - began);
    }
    assert!(waited[0] > Duration::from_secs(1), "the fault was hit: {waited:?}");
    assert!(waited[0] < Duration::from_millis(3_100), "{waited:?}");
    assert!(waited[1..].iter().all(|waited| *waited < Duration::from_millis(100)), "{waited:?}");
    // A process that only says nothing has asked for the first chunk too; a stopped one wouldn't have.
    assert!(world.gets() <= led.len() as u64 + 1, "{} GETs", world.gets());
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_dies_in_the_middle_is_replaced_by_the_next() {
    let mut world = World::new(4).await;
    let object = world.put("a", CHUNK as usize);
    let chunk = chunk(&object, 0);
    let (lead, _, reader) = world.roles(&chunk);
    world.origin.inject([Fault::StallsAfter(2 * MIB)]);
    let cache = world.node(reader).cache.clone();
    let deadline = now(&world, reader) + Duration::from_secs(30);
    let whole = ByteRange::at(0, CHUNK);
    let reading = {
        let chunk = chunk.clone();
        tokio::spawn(async move { cache.read(REQUEST, &chunk, whole, Pattern::Sequential, deadline).await })
    };
    until("half of it has come", || {
        world.node(reader).cache.flights().first().is_some_and(|flight| flight.landed == 2 * MIB)
    })
    .await;
    let began = now(&world, reader);
    world.kill(lead, Ending::ProcessDies).await;
    let got = reading.await.expect("joins").expect("from the next owner");
    assert!(got == content("a", CHUNK as usize));
    assert!(now(&world, reader) - began < Duration::from_secs(1));
    assert_eq!(world.origin.injected(), 1);
    assert!(world.node(reader).cache.snapshot().abandoned > 0);
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_chunk_is_healed_from_the_other_owner() {
    let mut world = World::new(5).await;
    let object = world.put("a", CHUNK as usize);
    let chunk = chunk(&object, 0);
    let (lead, ..) = world.roles(&chunk);
    read_all(&world, lead, &chunk).await.expect("filled");
    copied(&world, &chunk).await;
    world.node(lead).stores.close().await;
    world.kill(lead, Ending::ProcessDies).await;
    let disk = world.disk(lead).clone();
    let file = disk.paths().into_iter().find(|path| path.to_string_lossy().contains("/objects/")).expect("stored");
    assert!(disk.flip(&file, 70_000, 3));
    world.start(lead).await;
    assert!(world.node(lead).stores.has(&chunk.id()));
    let got = read(&world, lead, &chunk, ByteRange::at(69_000, 5_000), Pattern::Random).await.expect("healed");
    assert!(got == content("a", CHUNK as usize)[69_000..74_000]);
    assert_eq!(world.node(lead).cache.snapshot().corrupt, 1);
    assert_eq!(world.gets(), 1, "the other owner's copy is as good");
    until("it is stored again", || world.node(lead).stores.has(&chunk.id())).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_sent_a_corrupt_block_makes_the_sender_look() {
    let mut world = World::new(7).await;
    let object = world.put("a", CHUNK as usize);
    let chunk = chunk(&object, 0);
    let (lead, _, reader) = world.roles(&chunk);
    read_all(&world, lead, &chunk).await.expect("filled");
    copied(&world, &chunk).await;
    world.node(lead).stores.close().await;
    world.kill(lead, Ending::ProcessDies).await;
    let disk = world.disk(lead).clone();
    let file = disk.paths().into_iter().find(|path| path.to_string_lossy().contains("/objects/")).expect("stored");
    assert!(disk.flip(&file, 70_000, 3));
    world.start(lead).await;
    let got = read(&world, reader, &chunk, ByteRange::at(69_000, 5_000), Pattern::Random).await.expect("read");
    assert!(got == content("a", CHUNK as usize)[69_000..74_000], "the other owner's copy");
    assert_eq!(world.node(reader).cache.snapshot().corrupt, 1, "found by who hands the bytes to a door");
    until("the sender has looked", || world.node(lead).cache.snapshot().corrupt == 1).await;
    let lead_has = |world: &World| world.node(lead).stores.has(&chunk.id());
    assert!(!lead_has(&world) || read_all(&world, lead, &chunk).await.is_ok());
    assert!(read_all(&world, reader, &chunk).await.expect("read") == content("a", CHUNK as usize));
    assert_eq!(world.gets(), 1, "nothing is fetched again");
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_origin_reach_every_reader() {
    let world = World::new(6).await;
    for (error, kind) in [
        (OriginError::AccessDenied, ErrorKind::AccessDenied),
        (OriginError::BadCredentials, ErrorKind::BadCredentials),
        (OriginError::NoSuchBucket, ErrorKind::NoSuchBucket),
    ] {
        let object = world.put("a", 100_000);
        world.origin.set_down(Some(error));
        for node in 0..3 {
            assert_eq!(read_all(&world, node, &chunk(&object, 0)).await, Err(ReadError { kind }));
            let random = read(&world, node, &chunk(&object, 0), ByteRange::at(0, 10), Pattern::Random).await;
            assert_eq!(random, Err(ReadError { kind }));
        }
        world.origin.set_down(None);
    }
    let object = world.put("a", 100_000);
    world.put("a", 100_001);
    for node in 0..3 {
        assert_eq!(read_all(&world, node, &chunk(&object, 0)).await, Err(ReadError { kind: ErrorKind::Changed }));
    }
    world.origin.remove("a");
    for node in 0..3 {
        assert_eq!(read_all(&world, node, &chunk(&object, 0)).await, Err(ReadError { kind: ErrorKind::NotFound }));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_origin_is_tried_until_the_readers_deadline() {
    let world = World::new(7).await;
    let object = world.put("a", 100_000);
    let chunk = chunk(&object, 0);
    let (_, _, reader) = world.roles(&chunk);
    world.origin.set_down(Some(OriginError::Unreachable(Unreachable::Connect)));
    let began = now(&world, reader);
    let failed = read_all(&world, reader, &chunk).await;
    assert_eq!(failed, Err(ReadError { kind: ErrorKind::OriginUnreachable }));
    assert_eq!(now(&world, reader) - began, Duration::from_secs(30));
    let read = read_all(&world, reader, &chunk);
    let mut read = std::pin::pin!(read);
    assert!(timeout(Duration::from_secs(3), &mut read).await.is_err(), "it waits");
    world.origin.set_down(None);
    assert!(read.await.expect("the origin is back") == content("a", 100_000));
}

#[tokio::test(start_paused = true)]
async fn a_random_read_moves_only_its_blocks() {
    let world = World::new(8).await;
    let object = world.put("a", CHUNK as usize);
    let chunk = chunk(&object, 0);
    let (lead, second, reader) = world.roles(&chunk);
    read_all(&world, lead, &chunk).await.expect("filled");
    copied(&world, &chunk).await;
    let range = ByteRange::at(1_000_000, 4_096);
    let got = read(&world, reader, &chunk, range, Pattern::Random).await.expect("read");
    assert!(got == content("a", CHUNK as usize)[1_000_000..1_004_096]);
    let counted = world.node(reader).cache.snapshot();
    assert_eq!((counted.bytes_peer, counted.hits_peer), (65_536, 1));
    assert!(world.node(reader).cache.flights().is_empty());
    let got = read(&world, second, &chunk, range, Pattern::Random).await.expect("read");
    assert_eq!(got.len(), 4_096);
    assert_eq!(world.node(second).cache.snapshot().hits_store, 1, "its own copy");
    assert_eq!(world.gets(), 1);
}

#[tokio::test(start_paused = true)]
async fn prefetches_are_bounded_used_and_given_up() {
    let world = World::with_budget(9, 32 * MIB).await;
    let object = world.put("a", 16 * CHUNK as usize);
    let cache = &world.node(0).cache;
    let mut guards: Vec<_> = (0..16).filter_map(|index| cache.prefetch(REQUEST, &chunk(&object, index))).collect();
    assert_eq!(guards.len(), 4, "half of the memory");
    assert_eq!(cache.snapshot().prefetch_refused, 12);
    until("they land", || guards.iter().all(Prefetch::is_landed)).await;
    let first = chunk(&object, 0);
    let whole = ByteRange::at(0, 128 * 1024);
    assert!(cache.read_now(&first, whole).expect("in memory") == content("a", 16 * CHUNK as usize)[..128 * 1024]);
    assert!(guards[0].is_used());
    assert!(cache.prefetch(REQUEST, &chunk(&object, 9)).is_some(), "the reader came: there is room again");
    guards.truncate(1);
    assert!(cache.snapshot().prefetch_wasted >= 3);
    assert!(cache.read_now(&first, whole).is_some(), "what was read stays");
    assert!(cache.memory().0 <= 32 * MIB);
}

/// Handles keep their guards while they are read on; more handles than memory has chunks must not hold all of it.
#[tokio::test(start_paused = true)]
async fn guards_of_prefetched_chunks_hold_no_memory_that_is_wanted() {
    let world = World::with_budget(13, 16 * MIB).await;
    let object = world.put("a", 12 * CHUNK as usize);
    let cache = &world.node(0).cache;
    let mut guards = Vec::new();
    for index in 0..4 {
        let chunk = chunk(&object, index);
        guards.push(cache.prefetch(REQUEST, &chunk).expect("there is memory"));
        read_all(&world, 0, &chunk).await.expect("read");
    }
    let ahead: Vec<_> = (4..6).filter_map(|index| cache.prefetch(REQUEST, &chunk(&object, index))).collect();
    assert_eq!(ahead.len(), 2);
    until("they land", || ahead.iter().all(Prefetch::is_landed)).await;
    for index in 6..12 {
        let began = now(&world, 0);
        read_all(&world, 0, &chunk(&object, index)).await.expect("there is memory for who reads");
        assert!(now(&world, 0) - began < Duration::from_secs(1));
    }
    assert!(guards.iter().all(|guard| guard.is_used() && !guard.is_wasted()));
    assert!(ahead.iter().all(|guard| guard.is_wasted() && guard.is_landed()), "what was read goes first");
    drop((guards, ahead));
    assert_eq!(cache.snapshot().prefetch_wasted, 2, "those that nobody read");
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_however_much_is_read() {
    let world = World::with_budget(10, 16 * MIB).await;
    let object = world.put("a", 24 * CHUNK as usize);
    let bytes = content("a", 24 * CHUNK as usize);
    let reads = (0..24u32).map(|index| {
        let chunk = chunk(&object, index);
        let world = &world;
        async move { (index, read_all(world, 0, &chunk).await) }
    });
    for (index, got) in join_all(reads).await {
        let start = u64::from(index) * CHUNK;
        assert!(got.expect("read") == bytes[start as usize..(start + CHUNK) as usize]);
    }
    assert!(world.node(0).cache.memory().0 <= 16 * MIB);
    assert!(world.node(0).cache.snapshot().evicted > 0);
    assert_eq!(world.gets(), 24);
}

#[tokio::test(start_paused = true)]
async fn without_owners_the_reader_asks_the_origin_itself() {
    let mut world = World::new(11).await;
    let object = world.put("a", 100_000);
    let chunk = chunk(&object, 0);
    let (lead, second, reader) = world.roles(&chunk);
    world.kill(lead, Ending::ProcessDies).await;
    world.kill(second, Ending::ProcessDies).await;
    assert!(read_all(&world, reader, &chunk).await.expect("from the origin") == content("a", 100_000));
    assert!(!world.node(reader).stores.has(&chunk.id()), "it isn't an owner");
}

#[tokio::test(start_paused = true)]
async fn a_line_for_connections_is_no_failure_of_the_peer() {
    let world = World::new(12).await;
    // Each GET takes longer than a peer may take to say that it lives; many more are wanted than connections allow.
    world.origin.set_latency(Duration::from_millis(1_500));
    let objects: Vec<_> = (0..60).map(|number| world.put(&format!("f{number}"), 50_000)).collect();
    let reads = objects.iter().map(|object| {
        let (world, chunk) = (&world, chunk(object, 0));
        async move { read_all(world, 0, &chunk).await }
    });
    for (number, answer) in join_all(reads).await.into_iter().enumerate() {
        assert!(answer.expect("read") == content(&format!("f{number}"), 50_000));
    }
    assert_eq!(world.gets(), 60);
    let counted = world.node(0).cache.snapshot();
    assert_eq!((counted.unreachable, counted.abandoned), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_comes_once_and_stays_with_its_owners() {
    let world = World::new(31).await;
    world.origin.set_latency(Duration::from_millis(20));
    let objects: Vec<Arc<Object>> = (0..120).map(|number| world.put(&format!("d/{number}"), 50_000)).collect();
    let chunks: Vec<Chunk> = objects.iter().map(|object| chunk(object, 0)).collect();
    let deadline = now(&world, 0) + Duration::from_secs(30);
    let keep = |node: usize| world.node(node).cache.keep(REQUEST, chunks.clone(), deadline);
    // Two nodes want the same, and somebody reads meanwhile.
    let reads = join_all(chunks.iter().take(10).map(|chunk| read_all(&world, 2, chunk)));
    let (first, second, read) = futures::join!(keep(0), keep(1), reads);
    assert_eq!((first.kept, first.failed), (120, 0));
    assert_eq!((second.kept, second.failed), (120, 0));
    assert!(read.iter().all(Result::is_ok));
    assert_eq!(world.gets(), 120, "each chunk once");
    for chunk in &chunks {
        copied(&world, chunk).await;
        let (_, _, other) = world.roles(chunk);
        assert!(!world.node(other).stores.has(&chunk.id()));
    }
    assert_eq!(world.node(0).cache.snapshot().bytes_peer, 0, "no bytes come to who only wants them kept");
    let again = keep(0).await;
    assert_eq!((again.kept, world.gets()), (120, 120));
    for (number, chunk) in chunks.iter().enumerate() {
        assert!(read_all(&world, 0, chunk).await.expect("read") == content(&format!("d/{number}"), 50_000));
    }
    assert_eq!(world.gets(), 120);
}

#[tokio::test(start_paused = true)]
async fn chunks_are_kept_though_an_owner_is_gone_and_errors_are_counted() {
    let mut world = World::new(32).await;
    let objects: Vec<Arc<Object>> = (0..60).map(|number| world.put(&format!("d/{number}"), 50_000)).collect();
    let chunks: Vec<Chunk> = objects.iter().map(|object| chunk(object, 0)).collect();
    world.kill(1, Ending::ProcessDies).await;
    let led_by_the_dead = chunks.iter().filter(|chunk| world.roles(chunk).0 == 1).count();
    assert!(led_by_the_dead > 0);
    let deadline = now(&world, 0) + Duration::from_secs(30);
    let kept = world.node(0).cache.keep(REQUEST, chunks, deadline).await;
    assert_eq!(kept.failed, led_by_the_dead, "their readers find them");
    let gone =
        (0..60).map(|number| world.put(&format!("e/{number}"), 50_000)).find(|o| world.roles(&chunk(o, 0)).0 == 2);
    let gone = gone.expect("one of sixty is led by the third node");
    world.put(gone.key().as_str(), 50_001);
    let kept = world.node(0).cache.keep(REQUEST, vec![chunk(&gone, 0)], deadline).await;
    assert_eq!((kept.kept, kept.failed), (0, 1), "this version is gone");
}

#[tokio::test(start_paused = true)]
async fn what_no_store_took_in_is_not_counted_as_kept() {
    let world = World::new(33).await;
    world.set_keeping(Keeping { after_reads: 1, ..Keeping::default() });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let objects: Vec<Arc<Object>> = (0..30).map(|number| world.put(&format!("d/{number}"), 50_000)).collect();
    let chunks: Vec<Chunk> = objects.iter().map(|object| chunk(object, 0)).collect();
    let deadline = now(&world, 0) + Duration::from_secs(30);
    let kept = world.node(0).cache.keep(REQUEST, chunks.clone(), deadline).await;
    assert_eq!((kept.kept, kept.failed), (0, 30), "all have come, no store has one");
    assert_eq!(world.gets(), 30);
    assert!((0..3).all(|node| chunks.iter().all(|chunk| !world.node(node).stores.has(&chunk.id()))));
}

/// Random reads of 64 KiB of what both owners have, by a node that owns none of it; how long each took.
async fn random_reads(world: &World, chunks: &[Chunk], count: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for number in 0..count {
        let chunk = &chunks[number % chunks.len()];
        let (_, _, reader) = world.roles(chunk);
        let began = now(world, reader);
        let range = ByteRange::at(65_536 * (number as u64 % 4), 65_536);
        read(world, reader, chunk, range, Pattern::Random).await.expect("read");
        took.push(now(world, reader) - began);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    took.sort_unstable();
    took
}

#[tokio::test(start_paused = true)]
async fn one_slow_peer_is_hedged_and_then_avoided_within_a_bound() {
    let world = World::new(51).await;
    let objects: Vec<Arc<Object>> = (0..200).map(|number| world.put(&format!("o/{number}"), 300_000)).collect();
    let all: Vec<Chunk> = objects.iter().map(|object| chunk(object, 0)).collect();
    // Read by node 0, which owns none of them: from the other two.
    let chunks: Vec<Chunk> = all.into_iter().filter(|chunk| world.roles(chunk).2 == 0).collect();
    assert!(chunks.len() >= 40);
    let deadline = now(&world, 0) + Duration::from_secs(30);
    world.node(0).cache.keep(REQUEST, chunks.clone(), deadline).await;
    for chunk in &chunks {
        copied(&world, chunk).await;
    }
    let healthy = random_reads(&world, &chunks, 1_000).await;
    world.slow(1, Duration::from_millis(60));
    let slow = random_reads(&world, &chunks, 1_000).await;
    let p99 = |took: &[Duration]| took[took.len() * 99 / 100];
    assert!(p99(&slow) <= 3 * p99(&healthy), "{:?} with a slow peer, {:?} without", p99(&slow), p99(&healthy));
    let counted = world.node(0).cache.snapshot();
    assert!(counted.hedged > 0 && counted.hedges_won > 0, "{counted:?}");
    assert!(counted.hedged <= 2_000 / 20, "{} hedges for 2,000 requests", counted.hedged);
    assert_eq!(world.gets(), chunks.len() as u64, "a hedge never asks the origin");
}

/// A copy of the chunk, as its owner gives it.
fn copy_of(chunk: &Chunk, epoch: Epoch) -> (PutRequest, Vec<Checksummed>) {
    let bytes = content(chunk.object().key().as_str(), chunk.len() as usize);
    let crcs = block_crcs(chunk.object().id(), chunk.first_block(), &bytes);
    let piece = Checksummed::new(chunk.object().id(), chunk.first_block(), bytes, crcs).expect("counts agree");
    (PutRequest { request: REQUEST, epoch, chunk: chunk.clone() }, vec![piece])
}

#[tokio::test(start_paused = true)]
async fn who_takes_as_many_copies_as_it_may_says_busy() {
    let world = World::new(21).await;
    let chunk = chunk(&world.put("a", MIB as usize), 0);
    let (lead, second, _) = world.roles(&chunk);
    let (giver, taker) = (&world.node(lead).peers, &world.node(second).cache);
    let (put, pieces) = copy_of(&chunk, world.epoch());
    let to = NodeId(u32::try_from(second).expect("small") + 1);
    let asked = ChunkRequest::whole(REQUEST, Want::Have, world.epoch(), chunk.clone());
    assert_eq!(taker.keeps(&asked), Err(ErrorKind::NotHere));

    let others = taker.inner.taking.try_acquire_many(TAKEN_AT_ONCE as u32).expect("nobody gives yet");
    assert_eq!(taker.keeps(&asked), Err(ErrorKind::Busy), "wanted, and not now");
    let refused = giver.put(to, &put, pieces.clone(), world.now() + Duration::from_secs(5)).await;
    assert!(matches!(refused, Err(PeerError::Kind(ErrorKind::Busy))), "{refused:?}");
    assert!(!world.node(second).stores.has(&chunk.id()));
    assert_eq!(taker.snapshot().copies_refused, 1);

    drop(others);
    giver.put(to, &put, pieces, world.now() + Duration::from_secs(5)).await.expect("there is room again");
    assert!(world.node(second).stores.has(&chunk.id()));
    assert_eq!(taker.inner.taking.available_permits(), TAKEN_AT_ONCE, "its turn is over");
}
