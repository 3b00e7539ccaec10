//! Disks that are slow or hang: they lose their reads, and nobody waits for them.

use std::sync::atomic::Ordering;

use super::*;
use crate::runtime::disk::{Mood, Moody};

/// Two stores on one node; the first one's disk is moody. Chunks of each.
struct Two {
    dir: tempfile::TempDir,
    stores: Stores,
    mood: Arc<Mood>,
    on: [Vec<Chunk>; 2],
}

impl Two {
    async fn empty() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mood = Arc::new(Mood::default());
        let configs: Vec<StoreConfig> = ["a", "b"]
            .map(|name| StoreConfig { name: name.into(), path: dir.path().join(name), capacity_bytes: 64 << 20 })
            .into();
        let disk = Moody { folder: configs[0].path.clone(), mood: mood.clone() };
        let runtime = Runtime { disk: Arc::new(disk), ..Runtime::real(Arc::new(NoNet)) };
        let stores = open(&runtime, &configs).await.expect("opens");
        Self { dir, stores, mood, on: [Vec::new(), Vec::new()] }
    }
}

async fn two() -> Two {
    let mut two = Two::empty().await;
    let stores = &two.stores;
    for n in 0..40 {
        let chunk = chunk(&object(n, u64::from(CHUNK)), 0);
        fill(stores, &chunk).await.expect("fills");
        let at = stores.directories.iter().position(|one| one.index.lock().has(&chunk.id())).expect("is here");
        two.on[at].push(chunk);
    }
    assert!(two.on.iter().all(|chunks| chunks.len() > 5), "objects lie on both, each wholly on one");
    for chunk in two.on.iter().flatten().cycle().take(400) {
        assert_eq!(look(stores, chunk).await, Seen::Right);
    }
    assert!(stores.status().iter().all(|store| store.health == Health::Healthy), "{:?}", stores.debug());
    two
}

async fn until_health(stores: &Stores, health: Health, within: Duration) {
    let reached = async {
        while stores.status()[0].health != health {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(within, reached).await.unwrap_or_else(|_| panic!("{health:?}: {:?}", stores.debug()[0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_a_hundred_times_slower_loses_its_reads_until_it_recovers() {
    let two = two().await;
    two.mood.read_us.store(100_000, Ordering::Relaxed);
    let began = std::time::Instant::now();
    while two.stores.status()[0].health != Health::Slow {
        for chunk in &two.on[0] {
            assert_ne!(look(&two.stores, chunk).await, Seen::Caught);
        }
        assert!(began.elapsed() < Duration::from_secs(10), "within ten seconds");
    }
    assert!(two.mood.struck() >= 4);
    assert!(two.stores.is_slow(&two.on[0][0].id()) && !two.stores.is_slow(&two.on[1][0].id()));
    let known = chunk(two.on[0][0].object(), 0);
    assert!(two.stores.has(&known.id()), "nothing is dropped for it");
    for n in 1_000..1_020 {
        fill(&two.stores, &chunk(&object(n, 1_000), 0)).await.expect("the other disk takes it");
    }
    assert_eq!(two.stores.status()[1].chunks, two.on[1].len() as u64 + 20, "new objects go to the other disk");
    two.mood.read_us.store(0, Ordering::Relaxed);
    until_health(&two.stores, Health::Healthy, Duration::from_secs(10)).await;
    for chunk in &two.on[0] {
        assert_eq!(look(&two.stores, chunk).await, Seen::Right);
    }
}

/// An object of one chunk that the first store would take.
fn next_on_the_first(stores: &Stores, from: u64) -> (u64, Chunk) {
    let mut chunks = (from..).map(|n| (n, chunk(&object(n, u64::from(CHUNK)), 0)));
    chunks.find(|(_, chunk)| stores.place(&chunk.object().id()).is_some_and(|at| at.name == "a")).expect("half of them")
}

/// Bytes that say when they are let go of.
struct Counted {
    _alive: Arc<()>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &[7; 65_536]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_wait_for_a_hanging_disk_give_their_bytes_and_their_room_back() {
    let two = two().await;
    let used = two.stores.status()[0].used_bytes;
    two.mood.writes_hang.store(true, Ordering::Relaxed);
    let (mut from, held) = (10_000, Arc::new(()));
    let mut stuck = Vec::new();
    for _ in 0..40 {
        let (n, chunk) = next_on_the_first(&two.stores, from);
        from = n + 1;
        let reservation = two.stores.reserve(&chunk, Giver::Origin).await.expect("room");
        let bytes = Bytes::from_owner(Counted { _alive: held.clone() });
        stuck.push(tokio::spawn(async move { reservation.write(0, bytes).await }));
    }
    let began = std::time::Instant::now();
    for one in stuck {
        let written = one.await.expect("joins");
        assert!(matches!(written, Err(StoreError::Slow)), "{written:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(9), "not until the write's deadline: {:?}", began.elapsed());
    assert_eq!(two.mood.struck(), 2, "as many as there are threads");
    assert_eq!(Arc::strong_count(&held) - 1, 2, "the disk has these two in hand");
    let room = async {
        while two.stores.status()[0].used_bytes > used + 2 * u64::from(CHUNK) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), room).await.expect("the room of the others is free");
    two.mood.relent();
    until_health(&two.stores, Health::Healthy, Duration::from_secs(10)).await;
    settle(&two.stores).await;
    assert_eq!((Arc::strong_count(&held), two.stores.status()[0].used_bytes), (1, used));
    fill(&two.stores, &next_on_the_first(&two.stores, from).1).await.expect("it takes in again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_store_that_was_slow_recovers() {
    let two = Two::empty().await;
    two.mood.writes_hang.store(true, Ordering::Relaxed);
    let (n, chunk) = next_on_the_first(&two.stores, 0);
    let filled = fill(&two.stores, &chunk).await;
    assert!(matches!(filled, Err(StoreError::Slow)), "{filled:?}");
    assert_eq!((two.stores.status()[0].health, two.stores.status()[0].chunks), (Health::Slow, 0));
    assert!(two.mood.struck() > 0);
    two.mood.relent();
    until_health(&two.stores, Health::Healthy, Duration::from_secs(10)).await;
    let again = async {
        while !two.stores.has(&chunk.id()) {
            fill(&two.stores, &chunk).await.expect("it takes in again");
        }
    };
    tokio::time::timeout(Duration::from_secs(5), again).await.expect("what was given up has left");
    assert_eq!(two.stores.status()[0].chunks, 1, "object {n}");
    assert!(!two.dir.path().join("a/probe").exists(), "probes leave nothing behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_hangs_makes_its_disk_slow() {
    let two = two().await;
    let durable = async {
        // What was filled so far is synced together: that may take others' bytes along, and gets longer.
        while two.stores.debug()[0].counters.durable_commits == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), durable).await.expect("it becomes durable");
    two.mood.syncs_hang.store(true, Ordering::Relaxed);
    fill(&two.stores, &next_on_the_first(&two.stores, 10_000).1).await.expect("it was written");
    until_health(&two.stores, Health::Slow, Duration::from_secs(40)).await;
    assert_eq!(two.mood.struck(), 1);
    assert_eq!(two.stores.status()[1].health, Health::Healthy);
    two.mood.relent();
    until_health(&two.stores, Health::Healthy, Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_holds_up_nobody_else() {
    let two = two().await;
    two.mood.reads_hang.store(true, Ordering::Relaxed);
    let began = std::time::Instant::now();
    let stuck: Vec<_> = two.on[0]
        .iter()
        .cycle()
        .take(100)
        .map(|chunk| {
            let (stores, chunk) = (two.stores.clone(), chunk.clone());
            tokio::spawn(async move { look(&stores, &chunk).await })
        })
        .collect();
    for chunk in two.on[1].iter().cycle().take(200) {
        assert_eq!(look(&two.stores, chunk).await, Seen::Right, "the other disk answers");
    }
    let meanwhile = began.elapsed();
    for one in stuck {
        assert_eq!(one.await.expect("joins"), Seen::Failed, "goes to another place");
    }
    // One after the other they would take half a minute; on a busy machine together they take a while too.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(meanwhile < Duration::from_secs(20), "{meanwhile:?}");
    assert_eq!(two.stores.status()[0].health, Health::Slow);
    let mut quickest = Duration::MAX;
    for chunk in two.on[0].iter().take(5) {
        let again = std::time::Instant::now();
        assert_eq!(look(&two.stores, chunk).await, Seen::Failed);
        quickest = quickest.min(again.elapsed());
    }
    // A read that waits takes two seconds; one that doesn't takes as long as the machine lets it.
    assert!(quickest < Duration::from_secs(1), "no longer waited for: {quickest:?}");
    assert_eq!(two.stores.status()[0].chunks, two.on[0].len() as u64, "what it has is not dropped");
    two.mood.reads_hang.store(false, Ordering::Relaxed);
    until_health(&two.stores, Health::Healthy, Duration::from_secs(10)).await;
    assert!(two.mood.struck() >= 4);
    assert_eq!(look(&two.stores, &two.on[0][0]).await, Seen::Right);
}
