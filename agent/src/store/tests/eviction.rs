//! Who leaves, and what is taken in at all: ranks, uses, quotas, ages, pins, admission.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use larder_proto::glob::Glob;
use larder_proto::ids::{Epoch, Slot};
use larder_proto::volume::{Attributes, Freshness, Keeping, LocalCopies, Origin, Volume};
use tokio::sync::watch;

use super::*;
use crate::runtime::Clock;
use crate::runtime::clock::{RealClock, SimClock};

/// Ranks by slot: even ones as the number says.
#[derive(Default)]
struct Ranks {
    /// 0: first copies everywhere; 1: even slots are guests; 2: odd slots are.
    guests: AtomicU64,
    epochs: watch::Sender<Epoch>,
}

impl Standing for Ranks {
    fn generation(&self) -> u64 {
        self.epochs.borrow().0
    }

    fn epochs(&self) -> watch::Receiver<Epoch> {
        self.epochs.subscribe()
    }

    fn rank(&self, _volume: VolumeId, slot: Slot) -> Rank {
        match (self.guests.load(Ordering::Relaxed), slot.index() % 2) {
            (1, 0) | (2, 1) => Rank::Guest,
            (0, _) => Rank::First,
            (_, _) => Rank::Copy,
        }
    }

    fn share(&self) -> (u64, u64) {
        (1, 4)
    }
}

fn volume(keeping: Keeping) -> Volumes {
    let id = VolumeId::from_bytes([7; 16]);
    let volume = Volume {
        id,
        namespace: "default".into(),
        name: "data".into(),
        chunk_size: ChunkSize::new(CHUNK).expect("256 KiB"),
        origin: Origin::Local { path: "/nowhere".into() },
        replicas: None,
        read_ahead_bytes: 0,
        read_deadline: Duration::from_secs(30),
        freshness: Freshness::Forever,
        attributes: Attributes { uid: 0, gid: 0, file_mode: 0o444, dir_mode: 0o555 },
        local_copies: LocalCopies::Auto,
        keeping,
    };
    Arc::new(BTreeMap::from([(id, Arc::new(volume))]))
}

fn glob(text: &str) -> Glob {
    Glob::parse(text).expect("a pattern")
}

struct Governed {
    stores: Stores,
    ranks: Arc<Ranks>,
    volumes: watch::Sender<Volumes>,
}

async fn governed(disk: &SimDisk, chunks: u64, keeping: Keeping) -> Governed {
    let stores = open_one(&sim(disk), u64::from(CHUNK) * chunks).await;
    let ranks = Arc::new(Ranks::default());
    let (volumes, follow) = watch::channel(volume(keeping));
    stores.govern(ranks.clone(), follow);
    settle(&stores).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    Governed { stores, ranks, volumes }
}

fn one(n: u64) -> Chunk {
    chunk(&object(n, u64::from(CHUNK)), 0)
}

async fn fill_one(stores: &Stores, n: u64) {
    fill(stores, &one(n)).await.expect("fills");
    settle(stores).await;
}

fn here(stores: &Stores, objects: impl Iterator<Item = u64>) -> usize {
    objects.filter(|n| stores.has(&one(*n).id())).count()
}

#[tokio::test(start_paused = true)]
async fn what_is_read_once_passes_through_and_leaves_the_rest_alone() {
    let Governed { stores, .. } = governed(&SimDisk::new(1, 1 << 30), 40, Keeping::default()).await;
    for n in 0..10 {
        fill_one(&stores, n).await;
    }
    tokio::time::sleep(Duration::from_secs(11)).await;
    for n in 0..10 {
        assert_eq!(look(&stores, &one(n)).await, Seen::Right);
    }
    for n in 100..400 {
        fill_one(&stores, n).await;
    }
    assert_eq!(here(&stores, 0..10), 10, "a scan of seven times the store drives out nothing that is used");
    assert!(counters(&stores).evicted_chunks > 250);
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_soon_after_it_left_stays() {
    let Governed { stores, .. } = governed(&SimDisk::new(1, 1 << 30), 40, Keeping::default()).await;
    for n in 0..50 {
        fill_one(&stores, n).await;
    }
    assert!(!stores.has(&one(0).id()), "it was never used");
    fill_one(&stores, 0).await;
    for n in 100..300 {
        fill_one(&stores, n).await;
    }
    assert!(stores.has(&one(0).id()), "it was remembered");
}

#[tokio::test(start_paused = true)]
async fn guests_leave_first_then_copies_and_the_map_decides_anew() {
    let Governed { stores, ranks, volumes: _volumes } =
        governed(&SimDisk::new(1, 1 << 30), 40, Keeping::default()).await;
    ranks.guests.store(1, Ordering::Relaxed);
    let is_guest = |n: &u64| one(*n).slot().index().is_multiple_of(2);
    let mut filled = Vec::new();
    for n in 0..36 {
        fill_one(&stores, n).await;
        filled.push(n);
    }
    let (guests, others): (Vec<u64>, Vec<u64>) = filled.into_iter().partition(is_guest);
    assert!(guests.len() > 5 && others.len() > 5);
    tokio::time::sleep(Duration::from_secs(11)).await;
    for n in &guests {
        assert_eq!(look(&stores, &one(*n)).await, Seen::Right);
    }
    let mut more = (1_000..).filter(|n| !is_guest(n));
    for n in more.by_ref().take(3) {
        fill_one(&stores, n).await;
    }
    assert_eq!(here(&stores, others.iter().copied()), others.len(), "guests leave before, however often they are read");
    assert!(here(&stores, guests.iter().copied()) < guests.len());

    ranks.guests.store(2, Ordering::Relaxed);
    ranks.epochs.send_replace(Epoch(1));
    let kept: Vec<u64> = guests.iter().copied().filter(|n| stores.has(&one(*n).id())).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for n in more.take(8) {
        fill_one(&stores, n).await;
    }
    assert_eq!(here(&stores, kept.iter().copied()), kept.len(), "they are copies now, and the others guests");
    assert!(here(&stores, others.iter().copied()) < others.len());
}

#[tokio::test(start_paused = true)]
async fn a_volume_keeps_to_its_share_of_the_quota() {
    // A quarter of 40 chunks is this node's.
    let keeping = Keeping { quota_bytes: Some(40 * u64::from(CHUNK)), ..Keeping::default() };
    let Governed { stores, volumes, .. } = governed(&SimDisk::new(1, 1 << 30), 100, keeping).await;
    for n in 0..30 {
        fill_one(&stores, n).await;
        assert!(stores.status()[0].used_bytes <= 10 * u64::from(CHUNK));
    }
    assert!(stores.has(&one(29).id()));
    assert!(counters(&stores).over_quota >= 20);
    assert_eq!(counters(&stores).bypassed_full, 0);
    let keeping = Keeping { quota_bytes: Some(8 * u64::from(CHUNK)), ..Keeping::default() };
    volumes.send_replace(volume(keeping));
    tokio::time::sleep(Duration::from_secs(1)).await;
    settle(&stores).await;
    assert!(stores.status()[0].used_bytes <= 2 * u64::from(CHUNK), "a smaller quota drives out at once");
    volumes.send_replace(volume(Keeping { quota_bytes: Some(0), ..Keeping::default() }));
    tokio::time::sleep(Duration::from_secs(1)).await;
    settle(&stores).await;
    assert_eq!(stores.status()[0].used_bytes, 0);
    assert_eq!(stores.reserve(&one(1), Giver::Origin).await.err(), Some(Bypass::Full));
}

#[tokio::test(start_paused = true)]
async fn what_is_older_than_the_ttl_leaves_also_after_a_restart() {
    let disk = SimDisk::new(1, 1 << 30);
    let keeping = Keeping { ttl: Some(Duration::from_secs(100)), ..Keeping::default() };
    let runtime = sim(&disk);
    let stores = open_one(&runtime, 100 * u64::from(CHUNK)).await;
    let (_volumes, follow) = watch::channel(volume(keeping));
    stores.govern(Arc::new(Alone), follow.clone());
    fill_one(&stores, 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    fill_one(&stores, 2).await;
    tokio::time::sleep(Duration::from_secs(46)).await;
    settle(&stores).await;
    assert_eq!((stores.has(&one(1).id()), stores.has(&one(2).id())), (false, true));
    assert_eq!(counters(&stores).expired, 1);
    stores.close().await;
    runtime.tasks.shut_down().await;
    drop(stores);
    // The simulated wall clock begins anew with each runtime: what was filled at second 60 is that old again at 160.
    let stores = open_one(&sim(&disk), 100 * u64::from(CHUNK)).await;
    stores.govern(Arc::new(Alone), follow);
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(stores.has(&one(2).id()));
    tokio::time::sleep(Duration::from_secs(130)).await;
    settle(&stores).await;
    assert!(!stores.has(&one(2).id()), "its age is on the disk");
}

/// docs/FAULTS.md, row 11.
#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_by_an_hour_moves_ages_and_nothing_else() {
    let disk = SimDisk::new(1, 1 << 30);
    let clock = Arc::new(SimClock::new());
    let runtime = Runtime { clock: clock.clone(), ..sim(&disk) };
    let stores = open_one(&runtime, 100 * u64::from(CHUNK)).await;
    let keeping = Keeping { ttl: Some(Duration::from_secs(1_800)), ..Keeping::default() };
    let (_volumes, follow) = watch::channel(volume(keeping));
    stores.govern(Arc::new(Alone), follow);
    fill_one(&stores, 1).await;
    clock.jump(-HOUR_MS);
    fill_one(&stores, 2).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    settle(&stores).await;
    assert_eq!(counters(&stores).expired, 0, "what comes from the future is young");
    clock.jump(HOUR_MS);
    tokio::time::sleep(Duration::from_secs(60)).await;
    settle(&stores).await;
    assert_eq!((stores.has(&one(1).id()), stores.has(&one(2).id())), (true, false), "the second looks an hour old");
    assert_eq!(look(&stores, &one(1)).await, Seen::Right);
    fill_one(&stores, 2).await;
    assert_eq!(look(&stores, &one(2)).await, Seen::Right);
    assert_eq!((counters(&stores).expired, stores.status()[0].health), (1, Health::Healthy));
}

const HOUR_MS: i64 = 3_600_000;

#[tokio::test(start_paused = true)]
async fn pinned_objects_stay_and_leave_when_they_are_no_longer_pinned() {
    let disk = SimDisk::new(1, 1 << 30);
    let pin = vec![glob("dir/object-1*")];
    let keeping = Keeping { pin, ttl: Some(Duration::from_secs(3600)), ..Keeping::default() };
    let Governed { stores, volumes, .. } = governed(&disk, 40, keeping).await;
    fill_one(&stores, 1).await;
    fill_one(&stores, 2).await;
    for n in 200..300 {
        fill_one(&stores, n).await;
    }
    assert_eq!((stores.has(&one(1).id()), stores.has(&one(2).id())), (true, false));
    volumes.send_replace(volume(Keeping { pin: vec![glob("object-29?")], ..Keeping::default() }));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let pinned: Vec<u64> = (290..300).filter(|n| stores.has(&one(*n).id())).collect();
    for n in 300..400 {
        fill_one(&stores, n).await;
    }
    assert!(!stores.has(&one(1).id()), "no longer pinned");
    assert_eq!(here(&stores, pinned.iter().copied()), pinned.len(), "what is here already is pinned too");
    volumes.send_replace(volume(Keeping { pin: vec![glob("**")], ..Keeping::default() }));
    tokio::time::sleep(Duration::from_secs(1)).await;
    for n in 500..520 {
        fill(&stores, &one(n)).await.expect("fills or goes past");
    }
    assert!(counters(&stores).bypassed_full > 0, "a store full of pins takes nothing in");
    assert_eq!(look(&stores, &one(pinned[0])).await, Seen::Right);
}

#[tokio::test(start_paused = true)]
async fn only_what_is_wanted_is_taken_in() {
    let keeping = Keeping {
        after_reads: 2,
        exclude: vec![glob("object-3"), glob("tmp/**")],
        max_object_bytes: Some(u64::from(CHUNK)),
        ..Keeping::default()
    };
    let Governed { stores, .. } = governed(&SimDisk::new(1, 1 << 30), 40, keeping).await;
    let try_fill = |n: u64, size: u64, giver: Giver| {
        let stores = stores.clone();
        async move { stores.reserve(&chunk(&object(n, size), 0), giver).await.map(drop).err() }
    };
    for _ in 0..2 {
        assert_eq!(try_fill(1, 1000, Giver::Origin).await, Some(Bypass::NotAdmitted));
    }
    assert_eq!(try_fill(1, 1000, Giver::Origin).await, None, "the third time");
    assert_eq!(try_fill(2, 1000, Giver::Node).await, None, "a copy of what a node keeps");
    assert_eq!(try_fill(3, 1000, Giver::Node).await, Some(Bypass::NotAdmitted), "excluded");
    assert_eq!(try_fill(4, u64::from(CHUNK) + 1, Giver::Node).await, Some(Bypass::NotAdmitted), "too large");
    assert_eq!(counters(&stores).not_admitted, 4);
}

/// A clock that stops the first thread that looks up pins.
#[derive(Default)]
struct Stopping {
    armed: AtomicBool,
    stopped: AtomicBool,
}

impl Clock for Stopping {
    fn now(&self) -> tokio::time::Instant {
        let looks_up = std::thread::current().name().is_some_and(|name| name.starts_with("pins"));
        if looks_up && self.armed.swap(false, Ordering::SeqCst) {
            self.stopped.store(true, Ordering::SeqCst);
            while self.stopped.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        RealClock.now()
    }

    fn wall_ms(&self) -> u64 {
        RealClock.wall_ms()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_can_not_look_up_pins_keeps_no_other_from_evicting() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let clock = Arc::new(Stopping::default());
    let runtime = Runtime { clock: clock.clone(), ..Runtime::real(Arc::new(NoNet)) };
    let config = |name: &str| StoreConfig {
        name: name.into(),
        path: dir.path().join(name),
        capacity_bytes: 20 * u64::from(CHUNK),
    };
    let stores = open(&runtime, &["a", "b"].map(config)).await.expect("opens");
    for n in 0..12 {
        fill(&stores, &one(n)).await.expect("fills");
    }
    assert!(stores.status().iter().all(|store| store.chunks > 0), "both have some");
    let (volumes, follow) = watch::channel(volume(Keeping::default()));
    stores.govern(Arc::new(Alone), follow);
    clock.armed.store(true, Ordering::SeqCst);
    let pin = vec![glob("dir/nothing")];
    volumes.send_replace(volume(Keeping { pin: pin.clone(), ..Keeping::default() }));
    let within = Duration::from_secs(20);
    let until = async |what: &str, holds: &dyn Fn(&[StoreDebug]) -> bool| {
        let reached = async {
            while !holds(&stores.debug()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(within, reached).await.unwrap_or_else(|_| panic!("{what}: {:?}", stores.debug()));
    };
    until("a store hangs", &|_| clock.stopped.load(Ordering::SeqCst)).await;
    let evicts = |store: &StoreDebug| store.counters.evicted_chunks > 0;
    let filling = async {
        for n in 100.. {
            fill(&stores, &one(n)).await.expect("fills, or goes past");
            let debug = stores.debug();
            if debug.iter().any(evicts) && debug.iter().any(|store| store.counters.bypassed_full > 0) {
                break;
            }
        }
    };
    tokio::time::timeout(within, filling).await.expect("the other store evicts");
    assert_eq!(stores.debug().iter().filter(|store| evicts(store)).count(), 1, "who is pinned there isn't known");
    volumes.send_replace(volume(Keeping { pin, quota_bytes: Some(0), ..Keeping::default() }));
    until("the other store follows", &|stores| stores.iter().any(|store| store.status.used_bytes == 0)).await;
    clock.stopped.store(false, Ordering::SeqCst);
    until("and then this one", &|stores| stores.iter().all(|store| store.status.used_bytes == 0)).await;
}
