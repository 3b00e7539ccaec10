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
