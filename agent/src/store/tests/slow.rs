//! Disks that are slow or hang: they lose their reads, and nobody waits for them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::runtime::disk::{Caching, Disk, Entry, File, Lock, Open, RealDisk, Space};

/// How a disk behaves: latency of its reads, and whether they hang altogether.
#[derive(Default)]
struct Mood {
    read_us: AtomicU64,
    hangs: AtomicBool,
    /// Reads that were delayed or hung.
    struck: AtomicU64,
}

/// Files below `folder` behave as the mood says.
#[derive(Clone)]
struct Moody {
    folder: PathBuf,
    mood: Arc<Mood>,
}

struct MoodyFile {
    file: Arc<dyn File>,
    mood: Option<Arc<Mood>>,
}

impl Disk for Moody {
    fn open(&self, path: &Path, open: Open, caching: Caching) -> io::Result<Arc<dyn File>> {
        let file = RealDisk.open(path, open, caching)?;
        let moody = path.starts_with(&self.folder) && path.components().any(|part| part.as_os_str() == "objects");
        Ok(Arc::new(MoodyFile { file, mood: moody.then(|| self.mood.clone()) }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        RealDisk.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        RealDisk.unlink(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn read_small(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        RealDisk.read_small(path, max_bytes)
    }

    fn replace_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        RealDisk.replace_small(path, bytes)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        RealDisk.space(path)
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Lock>> {
        RealDisk.lock(dir)
    }
}

impl File for MoodyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some(mood) = &self.mood {
            let us = mood.read_us.load(Ordering::Relaxed);
            let mut hung = false;
            while mood.hangs.load(Ordering::Relaxed) {
                hung = true;
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_micros(us));
            mood.struck.fetch_add(u64::from(hung || us > 10_000), Ordering::Relaxed);
        }
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch(offset, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.file.allocated_bytes()
    }
}

/// Two stores on one node; the first one's disk is moody. Chunks of each.
struct Two {
    _dir: tempfile::TempDir,
    stores: Stores,
    mood: Arc<Mood>,
    on: [Vec<Chunk>; 2],
}

async fn two() -> Two {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mood = Arc::new(Mood::default());
    let configs: Vec<StoreConfig> = ["a", "b"]
        .map(|name| StoreConfig { name: name.into(), path: dir.path().join(name), capacity_bytes: 64 << 20 })
        .into();
    let disk = Moody { folder: configs[0].path.clone(), mood: mood.clone() };
    let runtime = Runtime { disk: Arc::new(disk), ..Runtime::real(Arc::new(NoNet)) };
    let stores = open(&runtime, &configs).await.expect("opens");
    let mut on = [Vec::new(), Vec::new()];
    for n in 0..40 {
        let chunk = chunk(&object(n, u64::from(CHUNK)), 0);
        fill(&stores, &chunk).await.expect("fills");
        let at = stores.directories.iter().position(|one| one.index.lock().has(&chunk.id())).expect("is here");
        on[at].push(chunk);
    }
    assert!(on.iter().all(|chunks| chunks.len() > 5), "objects lie on both, each wholly on one");
    for chunk in on.iter().flatten().cycle().take(400) {
        assert_eq!(look(&stores, chunk).await, Seen::Right);
    }
    assert!(stores.status().iter().all(|store| store.health == Health::Healthy), "{:?}", stores.debug());
    Two { _dir: dir, stores, mood, on }
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
    assert!(two.mood.struck.load(Ordering::Relaxed) >= 4);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_holds_up_nobody_else() {
    let two = two().await;
    two.mood.hangs.store(true, Ordering::Relaxed);
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
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(meanwhile < Duration::from_secs(4), "{meanwhile:?}");
    assert_eq!(two.stores.status()[0].health, Health::Slow);
    let again = std::time::Instant::now();
    assert_eq!(look(&two.stores, &two.on[0][0]).await, Seen::Failed);
    assert!(again.elapsed() < Duration::from_millis(500), "no longer waited for: {:?}", again.elapsed());
    assert_eq!(two.stores.status()[0].chunks, two.on[0].len() as u64, "what it has is not dropped");
    two.mood.hangs.store(false, Ordering::Relaxed);
    until_health(&two.stores, Health::Healthy, Duration::from_secs(10)).await;
    assert!(two.mood.struck.load(Ordering::Relaxed) >= 4);
    assert_eq!(look(&two.stores, &two.on[0][0]).await, Seen::Right);
}
