//! Files that the kernel has: they leave whole and keep their bytes; open ones that it has not keep their chunks.

use super::*;
use crate::runtime::disk::{Caching, Disk, Entry, File, FileSystem, Lock, Open, RealDisk, Space};

/// A mapping of a file, as a program has one; never unmapped.
fn map(passed: &Passed, len: usize) -> &'static [u8] {
    let fd = passed.descriptor().expect("a real file");
    // SAFETY: a new read-only mapping of our own, of `len` bytes of a file that is never cut; it is never unmapped.
    unsafe {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let start = mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, fd, 0).expect("maps");
        std::slice::from_raw_parts(start.cast::<u8>().cast_const(), len)
    }
}

async fn fill_object(stores: &Stores, object: &Arc<Object>) {
    for index in 0..object.chunks() {
        fill(stores, &chunk(object, index)).await.expect("fills");
    }
}

fn whole(object: &Arc<Object>) -> Vec<u8> {
    (0..object.chunks()).flat_map(|index| content(&chunk(object, index))).collect()
}

/// Pushes everything that may leave out of the store.
async fn evict_everything(stores: &Stores, from: u64, count: u64) {
    for n in from..from + count {
        fill(stores, &chunk(&object(n, u64::from(CHUNK)), 0)).await.expect("fills");
        settle(stores).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passed_file_leaves_whole_and_its_mapping_keeps_its_bytes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let runtime = Runtime::real(Arc::new(NoNet));
    let config = StoreConfig { name: "real".into(), path: dir.path().into(), capacity_bytes: 4 << 20 };
    let stores = open(&runtime, std::slice::from_ref(&config)).await.expect("opens");
    let object = object(1, 5 * u64::from(CHUNK) - 999);
    assert!(matches!(stores.pass(&object.id()).await, Err(NotPassed::NotHere)));
    fill_object(&stores, &object).await;
    assert!(matches!(stores.pass(&object.id()).await, Err(NotPassed::Unverified)));
    assert!(stores.verify(&object).await.expect("reads"), "every byte is right");
    let passed = stores.pass(&object.id()).await.expect("it is whole");
    let bytes = whole(&object);
    let mapped = map(&passed, bytes.len());
    drop(passed);
    let path = object_path(&config.path, &object);
    evict_everything(&stores, 100, 40).await;
    assert!(!path.exists(), "evicted by unlink");
    assert!((0..5).all(|index| !stores.has(&chunk(&object, index).id())));
    assert_eq!(std::fs::read_dir(dir.path().join("passed")).expect("lists").count(), 0, "its mark went with it");
    fill_object(&stores, &object).await;
    assert!(mapped == bytes, "the mapping outlives eviction and the next fill");
    stores.close().await;
}

/// One thread: the first reservation comes before the keeper has looked at any file.
#[tokio::test]
async fn a_mapping_outlives_the_index() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = StoreConfig { name: "real".into(), path: dir.path().into(), capacity_bytes: 64 << 20 };
    let runtime = Runtime::real(Arc::new(NoNet));
    let stores = open(&runtime, std::slice::from_ref(&config)).await.expect("opens");
    let (object, other) = (object(1, 4 * u64::from(CHUNK)), object(2, 4 * u64::from(CHUNK)));
    let bytes = whole(&object);
    for object in [&object, &other] {
        fill_object(&stores, object).await;
        assert!(stores.verify(object).await.expect("reads"), "every byte is right");
    }
    let mapped = map(&stores.pass(&object.id()).await.expect("it is whole"), bytes.len());
    stores.close().await;
    runtime.tasks.shut_down().await;
    drop(stores);
    std::fs::remove_file(dir.path().join("index.redb")).expect("the index is lost");

    let runtime = Runtime::real(Arc::new(NoNet));
    let stores = reopen(&runtime, &config).await;
    fill_object(&stores, &object).await;
    for index in 0..4 {
        stores.drop_chunk(&chunk(&object, index));
        settle(&stores).await;
    }
    fill_object(&stores, &object).await;
    assert!(mapped == bytes, "a program's mapping has the bytes it had");
    assert_eq!(counters(&stores).orphans, 2, "both files were forgotten, the passed one at once");
    assert_eq!(look(&stores, &chunk(&object, 3)).await, Seen::Right);
    stores.close().await;
}

type Hook = Box<dyn FnOnce() + Send>;

/// A real disk that does something else before it makes a mark in `passed/`.
#[derive(Clone, Default)]
struct Interrupted {
    hook: Arc<Mutex<Option<Hook>>>,
}

impl Disk for Interrupted {
    fn open(&self, path: &Path, open: Open, caching: Caching) -> io::Result<Arc<dyn File>> {
        let marks = open == Open::Create && path.components().any(|part| part.as_os_str() == "passed");
        let hook = if marks { self.hook.lock().take() } else { None };
        hook.into_iter().for_each(|hook| hook());
        RealDisk.open(path, open, caching)
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

    fn file_system(&self, dir: &Path) -> io::Result<Arc<dyn FileSystem>> {
        RealDisk.file_system(dir)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_made_anew_while_it_was_being_passed_is_not() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let disk = Interrupted::default();
    let runtime = Runtime { disk: Arc::new(disk.clone()), ..Runtime::real(Arc::new(NoNet)) };
    let config = StoreConfig { name: "real".into(), path: dir.path().into(), capacity_bytes: 64 << 20 };
    let stores = open(&runtime, &[config]).await.expect("opens");
    let object = object(1, 3 * u64::from(CHUNK));
    fill_object(&stores, &object).await;
    assert!(stores.verify(&object).await.expect("reads"), "every byte is right");
    let (outside, meanwhile, (done, hooked)) =
        (tokio::runtime::Handle::current(), (stores.clone(), object.clone()), oneshot::channel());
    let hook = move || {
        let (stores, object) = meanwhile;
        outside.block_on(async {
            stores.drop_chunk(&chunk(&object, 0));
            settle(&stores).await;
            // As long as the whole, and half of it is missing.
            fill(&stores, &chunk(&object, 2)).await.expect("fills");
        });
        done.send(()).expect("the test listens");
    };
    *disk.hook.lock() = Some(Box::new(hook));
    let directory = stores.directories[0].clone();
    let id = object.id();
    let passed = tokio::task::spawn_blocking(move || directory.pass_now(id)).await.expect("joins");
    hooked.await.expect("it was interrupted");
    assert!(matches!(passed, Err(NotPassed::NotHere)), "a half filled file");
    fill_object(&stores, &object).await;
    assert!(stores.verify(&object).await.expect("reads"));
    stores.pass(&id).await.expect("whole again");
    stores.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_chunk_of_a_passed_file_takes_the_file_with_it() {
    let disk = SimDisk::new(1, 1 << 30);
    let stores = open_one(&sim(&disk), 64 << 20).await;
    let object = object(1, 3 * u64::from(CHUNK));
    fill_object(&stores, &object).await;
    assert!(matches!(stores.pass(&object.id()).await, Err(NotPassed::Unverified)));
    assert!(stores.verify(&object).await.expect("reads"), "every byte is right");
    let passed = stores.pass(&object.id()).await.expect("it is whole");
    let path = object_path(Path::new("/s1"), &object);
    assert!(disk.flip(&path, 70_000, 1));
    assert_eq!(look(&stores, &chunk(&object, 0)).await, Seen::Caught);
    settle(&stores).await;
    assert_eq!(look(&stores, &chunk(&object, 2)).await, Seen::Absent);
    assert!(!disk.paths().contains(&path));
    fill_object(&stores, &object).await;
    let mut byte = vec![0; 65_536];
    passed.file().read_at(&mut byte, 65_536).expect("the old file is still there for who has it");
    assert_ne!(byte, &whole(&object)[65_536..131_072], "and nobody wrote it");
    assert_eq!(look(&stores, &chunk(&object, 0)).await, Seen::Right);
}

#[tokio::test(start_paused = true)]
async fn after_the_agent_died_a_passed_file_is_still_one() {
    let disk = SimDisk::new(1, 1 << 30);
    let runtime = sim(&disk);
    let stores = open_one(&runtime, 64 << 20).await;
    let object = object(1, 3 * u64::from(CHUNK));
    fill_object(&stores, &object).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(stores.verify(&object).await.expect("reads"), "every byte is right");
    let _kernel_has = stores.pass(&object.id()).await.expect("it is whole");
    runtime.tasks.shut_down().await;
    drop(stores);
    let stores = open_one(&sim(&disk), 64 << 20).await;
    stores.drop_chunk(&chunk(&object, 1));
    settle(&stores).await;
    let path = object_path(Path::new("/s1"), &object);
    assert!(!disk.paths().contains(&path), "not punched: unlinked");
    assert!(disk.list(Path::new("/s1/passed")).expect("lists").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_passed_file_of_which_the_index_lost_a_part_leaves_before_it_is_written() {
    let disk = SimDisk::new(1, 1 << 30);
    let runtime = sim(&disk);
    let stores = open_one(&runtime, 64 << 20).await;
    let object = object(1, 3 * u64::from(CHUNK));
    for index in 0..2 {
        fill(&stores, &chunk(&object, index)).await.expect("fills");
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    fill(&stores, &chunk(&object, 2)).await.expect("fills");
    assert!(stores.verify(&object).await.expect("reads"), "every byte is right");
    let passed = stores.pass(&object.id()).await.expect("it is whole");
    runtime.tasks.shut_down().await;
    drop(stores);
    let stores = open_one(&sim(&disk), 64 << 20).await;
    // Before the committer has done anything.
    fill(&stores, &chunk(&object, 2)).await.expect("fills");
    settle(&stores).await;
    assert_eq!((0..2).map(|index| stores.has(&chunk(&object, index).id())).collect::<Vec<_>>(), [false, false]);
    assert_eq!(look(&stores, &chunk(&object, 2)).await, Seen::Right, "in a file of its own");
    let mut first = vec![0; CHUNK as usize];
    passed.file().read_at(&mut first, 0).expect("the old file is still there for who has it");
    assert!(first == content(&chunk(&object, 0)));
}

#[tokio::test(start_paused = true)]
async fn an_open_file_keeps_its_chunks_until_it_is_closed() {
    let disk = SimDisk::new(1, 1 << 30);
    let stores = open_one(&sim(&disk), 20 * u64::from(CHUNK)).await;
    let kept = object(1, 3 * u64::from(CHUNK));
    let held = stores.hold(kept.id());
    fill_object(&stores, &kept).await;
    evict_everything(&stores, 100, 60).await;
    assert!(stores.object_complete(&kept.id()), "it is open");
    drop(held);
    for n in 200..260 {
        // Used again, or it would not drive out what was kept for long.
        evict_everything(&stores, n, 1).await;
        tokio::time::sleep(Duration::from_secs(11)).await;
        look(&stores, &chunk(&object(n, u64::from(CHUNK)), 0)).await;
    }
    assert!((0..3).all(|index| !stores.has(&chunk(&kept, index).id())));
    let all = stores.hold(object(300, u64::from(CHUNK)).id());
    drop(all);
}

#[tokio::test(start_paused = true)]
async fn a_file_with_a_wrong_byte_is_never_passed() {
    let disk = SimDisk::new(1, 1 << 30);
    let stores = open_one(&sim(&disk), 64 << 20).await;
    let object = object(1, 3 * u64::from(CHUNK));
    fill_object(&stores, &object).await;
    assert!(disk.flip(&object_path(Path::new("/s1"), &object), 600_000, 1));
    assert!(!stores.verify(&object).await.expect("reads"), "a byte is wrong");
    assert!(matches!(stores.pass(&object.id()).await, Err(NotPassed::NotHere)), "its chunk was dropped");
    settle(&stores).await;
    fill(&stores, &chunk(&object, 2)).await.expect("fills again");
    assert!(matches!(stores.pass(&object.id()).await, Err(NotPassed::Unverified)));
    assert!(stores.verify(&object).await.expect("reads"));
    stores.pass(&object.id()).await.expect("whole, and every byte is right");
    stores.drop_chunk(&chunk(&object, 0));
    assert!(!stores.is_verified(&object.id()));
}
