//! What a store does by itself: verifying after an unclean stop, scrubbing.

use super::*;
use crate::runtime::disk::Disk;

#[tokio::test(start_paused = true)]
async fn after_an_unclean_stop_what_came_since_is_verified_and_damage_leaves() {
    let disk = SimDisk::new(1, 1 << 30);
    let runtime = sim(&disk);
    let stores = open_one(&runtime, 64 << 20).await;
    let (old, new) = (object(1, 2 * u64::from(CHUNK)), object(2, 2 * u64::from(CHUNK)));
    for index in 0..2 {
        fill(&stores, &chunk(&old, index)).await.expect("fills");
    }
    stores.close().await;
    runtime.tasks.shut_down().await;
    drop(stores);
    let runtime = sim(&disk);
    let stores = open_one(&runtime, 64 << 20).await;
    for index in 0..2 {
        fill(&stores, &chunk(&new, index)).await.expect("fills");
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    runtime.tasks.shut_down().await;
    drop(stores);
    assert!(disk.flip(&object_path(Path::new("/s1"), &old), 5_000, 1));
    assert!(disk.flip(&object_path(Path::new("/s1"), &new), 5_000, 1));
    let stores = open_one(&sim(&disk), 64 << 20).await;
    assert!(!stores.debug()[0].opened_clean);
    assert!(matches!(stores.pass(&new.id()).await, Err(NotPassed::Unverified)));
    tokio::time::sleep(Duration::from_secs(30)).await;
    settle(&stores).await;
    let counts = counters(&stores);
    assert_eq!((counts.verified_bytes, counts.corrupt), (2 * u64::from(CHUNK), 1), "{counts:?}");
    assert!(!stores.has(&chunk(&new, 0).id()) && stores.has(&chunk(&new, 1).id()));
    assert!(stores.has(&chunk(&old, 0).id()), "what was here at the last clean close waits for the scrub");
}

#[tokio::test(start_paused = true)]
async fn only_a_file_that_may_be_passed_afterwards_is_stamped() {
    let disk = SimDisk::new(1, 1 << 30);
    let runtime = sim(&disk);
    let stores = open_one(&runtime, 64 << 20).await;
    let (whole, half) = (object(1, 2 * u64::from(CHUNK)), object(2, 2 * u64::from(CHUNK)));
    for chunk in [chunk(&whole, 0), chunk(&whole, 1), chunk(&half, 0)] {
        fill(&stores, &chunk).await.expect("fills");
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    runtime.tasks.shut_down().await;
    drop(stores);
    let stores = open_one(&sim(&disk), 64 << 20).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((counters(&stores).verified_bytes, disk.stamps()), (3 * u64::from(CHUNK), 1));
    assert!(stores.is_verified(&whole.id()) && !stores.is_verified(&half.id()));
}

#[tokio::test(start_paused = true)]
async fn every_byte_is_scrubbed_within_a_week_also_over_restarts() {
    let disk = SimDisk::new(1, 1 << 30);
    let objects: Vec<_> = (0..20).map(|n| object(n, 8 * u64::from(CHUNK))).collect();
    let mut damaged = true;
    let (mut scrubbed, mut corrupt) = (0, 0);
    for day in 0..7 {
        let runtime = sim(&disk);
        let stores = open_one(&runtime, 64 << 20).await;
        if day == 0 {
            for object in &objects {
                for index in 0..8 {
                    fill(&stores, &chunk(object, index)).await.expect("fills");
                }
            }
        }
        if std::mem::take(&mut damaged) {
            for object in &objects {
                assert!(disk.flip(&object_path(Path::new("/s1"), object), 300_000, 2));
            }
        }
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        scrubbed += counters(&stores).scrubbed_bytes;
        corrupt += counters(&stores).corrupt;
        stores.close().await;
        runtime.tasks.shut_down().await;
    }
    assert_eq!(corrupt, 20, "each object had one flipped bit; {scrubbed} bytes were read");
    assert!(scrubbed >= 20 * 7 * u64::from(CHUNK), "{scrubbed}");
    assert!(disk.list(Path::new("/s1/lost")).is_err());
}

/// Bytes that were verified or scrubbed so far.
fn read_back(stores: &Stores) -> u64 {
    counters(stores).verified_bytes + counters(stores).scrubbed_bytes
}

/// A chunk of zeros: cheap to make.
async fn fill_zeros(stores: &Stores, chunk: &Chunk) {
    let reservation = stores.reserve(chunk, Giver::Origin).await.expect("room");
    let mut zeros = AlignedBuf::unpooled(chunk.len() as usize);
    zeros.set_len(chunk.len() as usize);
    let zeros = zeros.freeze();
    let crcs = block_crcs(chunk.object().id(), chunk.first_block(), &zeros);
    reservation.write(0, zeros).await.expect("writes");
    reservation.commit(crcs).await.expect("commits");
}

/// Chunks of an object that takes the keeper a second.
const LARGE: u64 = 512;
const ROOM: u64 = 256 << 20;

/// A store that was left unclean, with one large object that must be verified, and one chunk that is sure.
async fn left_unclean(disk: &SimDisk) -> (Runtime, Stores, Arc<Object>, Chunk) {
    let (large, small) = (object(1, LARGE * u64::from(CHUNK)), chunk(&object(2, u64::from(CHUNK)), 0));
    let runtime = sim(disk);
    let stores = open_one(&runtime, ROOM).await;
    fill(&stores, &small).await.expect("fills");
    stores.close().await;
    runtime.tasks.shut_down().await;
    drop(stores);
    let runtime = sim(disk);
    let stores = open_one(&runtime, ROOM).await;
    for index in 0..LARGE {
        fill_zeros(&stores, &chunk(&large, index as u32)).await;
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    runtime.tasks.shut_down().await;
    drop(stores);
    let runtime = sim(disk);
    let stores = open_one(&runtime, ROOM).await;
    (runtime, stores, large, small)
}

#[tokio::test(start_paused = true)]
async fn one_large_object_is_verified_in_steps_that_pause_while_readers_need_the_disk() {
    let (_runtime, stores, large, small) = left_unclean(&SimDisk::new(1, 1 << 30)).await;
    let whole = LARGE * u64::from(CHUNK);
    let step = Duration::from_millis(10);
    let (mut before, mut steps) = (0, 0);
    while read_back(&stores) < whole / 4 {
        tokio::time::sleep(step).await;
        let now = read_back(&stores);
        assert!(now - before <= 4 << 20, "{} bytes in 10 ms", now - before);
        (before, steps) = (now, steps + 1);
        assert!(steps < 1_000, "it begins");
    }
    for _ in 0..100 {
        assert_eq!(look(&stores, &small).await, Seen::Right);
        tokio::time::sleep(step).await;
    }
    let begun = read_back(&stores);
    assert!(begun < whole, "{begun}: a loaded disk is left alone");
    for _ in 0..500 {
        assert_eq!(look(&stores, &small).await, Seen::Right);
        tokio::time::sleep(step).await;
    }
    assert_eq!(read_back(&stores), begun, "for as long as it is");
    assert!(!stores.is_verified(&large.id()));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(counters(&stores).verified_bytes, whole, "then it goes on where it was");
    assert!(stores.is_verified(&large.id()), "and the kernel may have it");
}

#[tokio::test(start_paused = true)]
async fn a_door_does_not_wait_for_the_keeper_to_verify_an_object() {
    let (_runtime, stores, large, small) = left_unclean(&SimDisk::new(1, 1 << 30)).await;
    while read_back(&stores) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..50 {
        assert_eq!(look(&stores, &small).await, Seen::Right);
    }
    assert!(!stores.is_verified(&large.id()), "the keeper is at it");
    assert!(stores.verify(&large).await.expect("reads"));
    stores.pass(&large.id()).await.expect("every byte is right");
}

#[tokio::test(start_paused = true)]
async fn one_large_object_is_scrubbed_in_steps_also_over_restarts() {
    let disk = SimDisk::new(1, 1 << 30);
    const LARGE: u64 = 128;
    let large = object(1, LARGE * u64::from(CHUNK));
    let (mut most, mut scrubbed) = (0, 0);
    for day in 0..7 {
        let runtime = sim(&disk);
        let stores = open_one(&runtime, 64 << 20).await;
        if day == 0 {
            for index in 0..LARGE {
                fill(&stores, &chunk(&large, index as u32)).await.expect("fills");
            }
            assert!(disk.flip(&object_path(Path::new("/s1"), &large), (LARGE - 1) * u64::from(CHUNK) + 9, 2));
        }
        for _ in 0..24 * 60 {
            let before = counters(&stores).scrubbed_bytes;
            tokio::time::sleep(Duration::from_secs(60)).await;
            most = most.max(counters(&stores).scrubbed_bytes - before);
        }
        scrubbed += counters(&stores).scrubbed_bytes;
        if day < 4 {
            assert_eq!(counters(&stores).corrupt, 0, "day {day}: its last chunk comes last");
        }
        stores.close().await;
        runtime.tasks.shut_down().await;
    }
    assert!(most <= 2 << 20, "{most} bytes in a minute");
    assert!(scrubbed >= (LARGE - 1) * u64::from(CHUNK), "{scrubbed}");
    let stores = open_one(&sim(&disk), 64 << 20).await;
    assert!(!stores.has(&chunk(&large, (LARGE - 1) as u32).id()), "the damage was found");
}
