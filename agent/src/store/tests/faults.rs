//! A disk that fails, fills up, rots or loses its power: each fault is counted, and no wrong byte passes.

use std::sync::atomic::Ordering;

use super::*;
use crate::runtime::disk::{Caching, Disk, Fault, Op, Open};

const EIO: i32 = 5;

fn fault(op: Op, path_ends: &str) -> Fault {
    Fault { op, path_ends: path_ends.into(), times: 1, errno: EIO }
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_is_caught_dropped_and_filled_again() {
    let disk = SimDisk::new(1, 1 << 30);
    let stores = open_one(&sim(&disk), 64 << 20).await;
    let object = object(1, u64::from(CHUNK) * 2);
    for index in 0..2 {
        fill(&stores, &chunk(&object, index)).await.expect("fills");
    }
    let path = object_path(Path::new("/s1"), &object);
    for round in 0..100u64 {
        let offset = round * 2_621 % u64::from(CHUNK);
        assert!(disk.flip(&path, offset, (round % 8) as u8));
        assert_eq!(look(&stores, &chunk(&object, 0)).await, Seen::Caught);
        assert_eq!(look(&stores, &chunk(&object, 0)).await, Seen::Absent);
        assert_eq!(look(&stores, &chunk(&object, 1)).await, Seen::Right, "the other chunk stays");
        fill(&stores, &chunk(&object, 0)).await.expect("fills");
        assert_eq!(look(&stores, &chunk(&object, 0)).await, Seen::Right);
    }
    assert_eq!(counters(&stores).corrupt, 100);
}

#[tokio::test(start_paused = true)]
async fn a_read_error_drops_the_chunk_and_the_caller_goes_on() {
    let disk = SimDisk::new(1, 1 << 30);
    let stores = open_one(&sim(&disk), 64 << 20).await;
    let chunk = chunk(&object(1, 200_000), 0);
    fill(&stores, &chunk).await.expect("fills");
    disk.inject(fault(Op::Read, &chunk.object().id().to_string()));
    assert_eq!(look(&stores, &chunk).await, Seen::Failed);
    assert_eq!(disk.counts().reads, 1);
    assert_eq!(look(&stores, &chunk).await, Seen::Absent);
    assert_eq!(counters(&stores).unreadable, 1);
    assert_eq!(stores.status()[0].health, Health::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_short_file_is_a_miss() {
    let disk = SimDisk::new(1, 1 << 30);
    let stores = open_one(&sim(&disk), 64 << 20).await;
    let chunk = chunk(&object(1, 200_000), 0);
    fill(&stores, &chunk).await.expect("fills");
    let path = object_path(Path::new("/s1"), chunk.object());
    let file = disk.open(&path, Open::Write, Caching::Buffered).expect("opens");
    file.set_len(100_000).expect("cuts");
    assert_eq!(look(&stores, &chunk).await, Seen::Failed);
    assert_eq!(look(&stores, &chunk).await, Seen::Absent);
    assert_eq!(counters(&stores).unreadable, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_fences_the_store() {
    let disk = SimDisk::new(1, 1 << 30);
    let runtime = sim(&disk);
    let stores = open_one(&runtime, 64 << 20).await;
    let object = object(1, u64::from(CHUNK) * 2);
    fill(&stores, &chunk(&object, 0)).await.expect("fills");
    disk.inject(fault(Op::Sync, &object.id().to_string()));
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(disk.counts().syncs, 1);
    assert_eq!((stores.status()[0].health, counters(&stores).fences), (Health::Failing, 1));
    assert_eq!(stores.reserve(&chunk(&object, 1), Giver::Origin).await.err(), Some(Bypass::Unavailable));
    assert_eq!(look(&stores, &chunk(&object, 0)).await, Seen::Right, "what it has is served, checked");
    stores.close().await;
    runtime.tasks.shut_down().await;
    drop(stores);
    let stores = open_one(&sim(&disk), 64 << 20).await;
    assert_eq!(look(&stores, &chunk(&object, 0)).await, Seen::Absent, "its index was never made durable");
}

#[tokio::test(start_paused = true)]
async fn a_failed_index_fences_the_store_and_nothing_is_lost_but_time() {
    let disk = SimDisk::new(1, 1 << 30);
    let stores = open_one(&sim(&disk), 64 << 20).await;
    let object = object(1, u64::from(CHUNK) * 2);
    fill(&stores, &chunk(&object, 0)).await.expect("fills");
    disk.inject(Fault { times: 1_000, ..fault(Op::Write, "index.redb") });
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(disk.counts().writes >= 1);
    assert_eq!(stores.status()[0].health, Health::Failing);
    assert_ne!(look(&stores, &chunk(&object, 0)).await, Seen::Caught);
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_ends_the_fill_only() {
    let disk = SimDisk::new(1, 1 << 30);
    let stores = open_one(&sim(&disk), 64 << 20).await;
    let chunk = chunk(&object(1, 200_000), 0);
    disk.inject(fault(Op::Write, &chunk.object().id().to_string()));
    assert!(fill(&stores, &chunk).await.is_err());
    assert_eq!(disk.counts().writes, 1);
    settle(&stores).await;
    fill(&stores, &chunk).await.expect("fills");
    assert_eq!(look(&stores, &chunk).await, Seen::Right);
}

#[tokio::test(start_paused = true)]
async fn on_a_full_disk_clean_bytes_leave_and_fills_go_past() {
    let disk = SimDisk::new(1, 1 << 30);
    let stores = open_one(&sim(&disk), 512 << 20).await;
    let objects: Vec<_> = (0..20).map(|n| object(n, u64::from(CHUNK))).collect();
    for object in &objects {
        fill(&stores, &chunk(object, 0)).await.expect("fills");
    }
    let space = disk.space(Path::new("/s1")).expect("asks");
    disk.resize(space.total_bytes - space.free_bytes + u64::from(CHUNK) - 4096);
    let late = chunk(&object(99, u64::from(CHUNK)), 0);
    assert!(matches!(fill(&stores, &late).await, Err(StoreError::Io(_))));
    assert_eq!((counters(&stores).disk_full, disk.counts().writes), (1, 1));
    assert_eq!(stores.reserve(&late, Giver::Origin).await.err(), Some(Bypass::Full));
    settle(&stores).await;
    assert_eq!(look(&stores, &chunk(&objects[0], 0)).await, Seen::Absent, "the oldest left");
    assert_eq!(look(&stores, &chunk(&objects[19], 0)).await, Seen::Right);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(stores.status()[0].health, Health::Healthy);
    disk.resize(1 << 30);
    tokio::time::sleep(Duration::from_secs(6)).await;
    fill(&stores, &late).await.expect("fills again");
    assert_eq!(look(&stores, &late).await, Seen::Right);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_or_deleted_index_begins_anew_and_is_set_aside() {
    for damage in ["garbage", "empty", "deleted", "middle"] {
        let disk = SimDisk::new(1, 1 << 30);
        let runtime = sim(&disk);
        let stores = open_one(&runtime, 64 << 20).await;
        let objects: Vec<_> = (0..50).map(|n| chunk(&object(n, 70_000), 0)).collect();
        for chunk in &objects {
            fill(&stores, chunk).await.expect("fills");
        }
        stores.close().await;
        runtime.tasks.shut_down().await;
        drop(stores);
        let index = Path::new("/s1/index.redb");
        match damage {
            "garbage" => disk.replace_small(index, &[0xa5; 20_000]).expect("writes"),
            "empty" => disk.replace_small(index, b"redb").expect("writes"),
            "deleted" => disk.unlink(index).expect("unlinks"),
            _ => {
                let file = disk.open(index, Open::Write, Caching::Buffered).expect("opens");
                let len = file.len().expect("stats");
                file.write_at(&vec![0xff; usize::try_from(len - 4096).expect("small")], 4096).expect("writes");
            }
        }
        let stores = open_one(&sim(&disk), 64 << 20).await;
        let aside = disk.paths().iter().filter(|path| path.starts_with("/s1/lost")).count();
        assert_eq!(aside as u64, counters(&stores).indexes_set_aside, "{damage}");
        assert_eq!(aside, usize::from(damage != "deleted"), "{damage}");
        settle(&stores).await;
        assert_eq!(counters(&stores).orphans, 50, "{damage}: files that nobody knows are unlinked");
        for chunk in &objects {
            assert_eq!(look(&stores, chunk).await, Seen::Absent, "{damage}");
            fill(&stores, chunk).await.expect("fills");
            assert_eq!(look(&stores, chunk).await, Seen::Right, "{damage}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_without_a_file_is_dropped() {
    let disk = SimDisk::new(1, 1 << 30);
    let runtime = sim(&disk);
    let stores = open_one(&runtime, 64 << 20).await;
    let chunks = [chunk(&object(1, 70_000), 0), chunk(&object(2, 70_000), 0)];
    for chunk in &chunks {
        fill(&stores, chunk).await.expect("fills");
    }
    stores.close().await;
    runtime.tasks.shut_down().await;
    drop(stores);
    disk.unlink(&object_path(Path::new("/s1"), chunks[0].object())).expect("unlinks");
    let stores = open_one(&sim(&disk), 64 << 20).await;
    settle(&stores).await;
    assert_eq!(counters(&stores).missing_files, 1);
    assert!(!stores.has(&chunks[0].id()));
    settle(&stores).await;
    assert_eq!(stores.status()[0].objects, 1);
    assert_eq!(look(&stores, &chunks[1]).await, Seen::Right);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_not_closed_forgets_what_was_not_durable() {
    let disk = SimDisk::new(1, 1 << 30);
    let runtime = sim(&disk);
    let stores = open_one(&runtime, 64 << 20).await;
    let (early, late) = (chunk(&object(1, 70_000), 0), chunk(&object(2, 70_000), 0));
    fill(&stores, &early).await.expect("fills");
    tokio::time::sleep(Duration::from_secs(6)).await;
    fill(&stores, &late).await.expect("fills");
    runtime.tasks.shut_down().await;
    drop(stores);
    let stores = open_one(&sim(&disk), 64 << 20).await;
    assert!(!stores.debug()[0].opened_clean);
    assert_eq!(look(&stores, &early).await, Seen::Right);
    assert_eq!(look(&stores, &late).await, Seen::Absent, "its file was never synced");
    settle(&stores).await;
    assert_eq!(counters(&stores).orphans, 1);
}

/// Many small files: synced with their file system, before the index names them for good.
async fn many(stores: &Stores) -> Vec<Chunk> {
    let chunks: Vec<Chunk> = (0..100).map(|n| chunk(&object(n, 64), 0)).collect();
    for chunk in &chunks {
        fill(stores, chunk).await.expect("fills");
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    chunks
}

#[tokio::test(start_paused = true)]
async fn many_files_are_durable_together() {
    let disk = SimDisk::new(1, 1 << 30);
    let runtime = sim(&disk);
    let stores = open_one(&runtime, 64 << 20).await;
    let chunks = many(&stores).await;
    disk.crash();
    runtime.tasks.shut_down().await;
    drop(stores);
    let stores = open_one(&sim(&disk), 64 << 20).await;
    assert!(!stores.debug()[0].opened_clean);
    for chunk in &chunks {
        assert_eq!(look(&stores, chunk).await, Seen::Right);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_of_many_files_fences_the_store() {
    let disk = SimDisk::new(1, 1 << 30);
    let stores = open_one(&sim(&disk), 64 << 20).await;
    disk.inject(fault(Op::Sync, &object(50, 64).id().to_string()));
    many(&stores).await;
    assert_eq!(disk.counts().syncs, 1);
    assert_eq!((stores.status()[0].health, counters(&stores).fences), (Health::Failing, 1));
}

#[tokio::test(start_paused = true)]
async fn too_many_chunks_at_once_go_past_the_store() {
    let disk = SimDisk::new(1, 1 << 30);
    let stores = open_one(&sim(&disk), 512 << 20).await;
    let mut writing = Vec::new();
    let refused = loop {
        let n = writing.len() as u64;
        match stores.reserve(&chunk(&object(n, 64), 0), Giver::Origin).await {
            Ok(reservation) => writing.push(reservation),
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused, writing.len(), counters(&stores).bypassed_busy), (Bypass::Busy, 4_096, 1));
    writing.pop();
    settle(&stores).await;
    fill(&stores, &chunk(&object(10_000, 64), 0)).await.expect("fills");
    assert_eq!(look(&stores, &chunk(&object(10_000, 64), 0)).await, Seen::Right);
}

#[tokio::test(start_paused = true)]
async fn only_what_was_written_counts_as_freed() {
    let disk = SimDisk::new(1, 1 << 30);
    let stores = open_one(&sim(&disk), 64 << 20).await;
    let moved = || {
        let directory = &stores.directories[0];
        [&directory.written_bytes, &directory.freed_bytes].map(|bytes| bytes.load(Ordering::Relaxed))
    };
    let object = object(1, 3 * u64::from(CHUNK));
    for _ in 0..10 {
        let reservation = stores.reserve(&chunk(&object, 0), Giver::Origin).await.expect("room");
        reservation.write(0, aligned(&content(&chunk(&object, 0))[..65_536])).await.expect("writes");
        drop(reservation);
        settle(&stores).await;
    }
    assert_eq!(moved(), [10 * 65_536, 10 * 65_536], "a quarter of each chunk was written");
    for index in 0..3 {
        fill(&stores, &chunk(&object, index)).await.expect("fills");
    }
    let [written, freed] = moved();
    assert_eq!(written - freed, 3 * u64::from(CHUNK));
    disk.inject(fault(Op::Write, &object.id().to_string()));
    stores.drop_chunk(&chunk(&object, 1));
    settle(&stores).await;
    assert_eq!(counters(&stores).unfreed, 1, "the fault was hit");
    assert_eq!(moved()[1], freed, "the disk has kept the bytes");
    stores.drop_chunk(&chunk(&object, 2));
    settle(&stores).await;
    assert_eq!(moved()[1], freed + u64::from(CHUNK));
}
