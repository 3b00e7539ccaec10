//! Real file systems in files: full ones, ones without room for names, and disks that end before they should.
//!
//! They need root, and mkfs.ext4, which `tests/install tests` brings. Who is not root is told that they prove nothing.

use std::process::Command;

use super::*;

/// A file system of its own, unmounted on drop.
struct Loop {
    dir: tempfile::TempDir,
}

impl Loop {
    /// Nothing, with the reason said aloud, for who may not mount.
    fn new(test: &str, mebibytes: u64, mkfs: &[&str]) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("{test}: skipped, because mounting needs root");
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let image = dir.path().join("image");
        let at = dir.path().join("mnt");
        std::fs::create_dir(&at).expect("made");
        let file = std::fs::File::create(&image).expect("made");
        file.set_len(mebibytes << 20).expect("grown");
        let run = |program: &str, arguments: &[&str]| {
            let done = Command::new(program).args(arguments).output();
            done.map_err(|error| error.to_string()).and_then(|done| {
                let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
                if done.status.success() { Ok(()) } else { Err(said) }
            })
        };
        let (image, at) = (image.to_str().expect("UTF-8"), at.to_str().expect("UTF-8"));
        let made = run("mkfs.ext4", &[&["-q", "-F"], mkfs, &[image]].concat());
        let mounted = made.and_then(|()| run("mount", &["-o", "loop", image, at]));
        mounted.unwrap_or_else(|reason| panic!("{test}: root has no file system of its own: {reason}"));
        Some(Self { dir })
    }

    fn at(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn config(&self, capacity_bytes: u64) -> StoreConfig {
        StoreConfig { name: "loop".into(), path: self.at().join("s"), capacity_bytes }
    }

    /// The disk ends in the middle from now on.
    fn truncate(&self, mebibytes: u64) {
        let image = std::fs::OpenOptions::new().write(true).open(self.dir.path().join("image")).expect("opens");
        image.set_len(mebibytes << 20).expect("cut");
        std::fs::write("/proc/sys/vm/drop_caches", "1").expect("root");
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _left_to_the_reaper = Command::new("umount").arg("-l").arg(self.at()).status();
    }
}

/// Object `n` of 1 MiB.
fn mib(n: u64) -> Chunk {
    chunk(&object(n, u64::from(CHUNK)), 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_smaller_than_its_store_fills_up_and_the_store_goes_on() {
    let Some(disk) = Loop::new("a_disk_smaller_than_its_store", 64, &[]) else { return };
    let runtime = Runtime::real(Arc::new(NoNet));
    let total = runtime.disk.space(&disk.at()).expect("asks").total_bytes;
    let stores = open(&runtime, &[disk.config(total)]).await.expect("opens");
    // Somebody else takes most of the disk.
    std::fs::write(disk.at().join("foreign"), vec![1; 30 << 20]).expect("fits");
    let (mut taken, mut refused) = (0, 0);
    for n in 0..400 {
        match fill(&stores, &mib(n)).await {
            Ok(()) if stores.has(&mib(n).id()) => taken += 1,
            Ok(()) => refused += 1,
            Err(error) => {
                assert!(matches!(error, StoreError::Io(_)), "{error}");
                refused += 1;
            }
        }
    }
    let counts = counters(&stores);
    assert!(taken > 50 && refused > 0 && counts.disk_full > 0, "{taken} taken, {refused} refused: {counts:?}");
    let evicted = async {
        while counters(&stores).evicted_chunks == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), evicted).await.expect("clean bytes leave");
    assert_eq!(stores.status()[0].health, Health::Healthy, "a full disk is no failing one");
    let mut right = 0;
    for n in 0..400 {
        match look(&stores, &mib(n)).await {
            Seen::Right => right += 1,
            Seen::Absent => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(right > 20, "{right}");
    std::fs::remove_file(disk.at().join("foreign")).expect("removed");
    let again = async {
        while !stores.has(&mib(1_000).id()) {
            let _a_full_disk_is_looked_at_again = fill(&stores, &mib(1_000)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("there is room again");
    stores.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_room_for_names_loses_whole_objects() {
    let Some(disk) = Loop::new("a_disk_without_room_for_names", 64, &["-N", "256"]) else { return };
    let runtime = Runtime::real(Arc::new(NoNet));
    let stores = open(&runtime, &[disk.config(40 << 20)]).await.expect("opens");
    let small = |n: u64| chunk(&object(n, 5_000), 0);
    let mut taken = 0;
    for n in 0..300 {
        let filled = fill(&stores, &small(n)).await;
        taken += u64::from(filled.is_ok() && stores.has(&small(n).id()));
        if n % 20 == 0 {
            settle(&stores).await;
        }
    }
    let counts = counters(&stores);
    assert!(counts.disk_full > 0, "names ran out: {counts:?}");
    assert!(counts.evicted_chunks > 0, "whole objects left: {counts:?}");
    assert!(taken > 50, "{taken}: {counts:?}");
    assert_eq!(stores.status()[0].health, Health::Healthy);
    for n in 0..300 {
        assert!(matches!(look(&stores, &small(n)).await, Seen::Right | Seen::Absent));
    }
    stores.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_ends_early_loses_those_chunks_only() {
    let Some(disk) = Loop::new("a_disk_that_ends_early", 64, &[]) else { return };
    let runtime = Runtime::real(Arc::new(NoNet));
    let stores = open(&runtime, &[disk.config(48 << 20)]).await.expect("opens");
    for n in 0..120 {
        fill(&stores, &mib(n)).await.expect("fills");
    }
    nix::unistd::sync();
    disk.truncate(16);
    let (mut right, mut failed) = (0, 0);
    for n in 0..120 {
        match look(&stores, &mib(n)).await {
            Seen::Right => right += 1,
            Seen::Failed | Seen::Caught => failed += 1,
            Seen::Absent => {}
        }
    }
    let counts = counters(&stores);
    assert!(failed > 10, "the fault was hit: {right} right, {failed} failed");
    assert!(counts.unreadable > 0, "{counts:?}");
    assert!((0..120).filter(|n| stores.has(&mib(*n).id())).count() <= right + failed, "what can't be read is dropped");
    // The loop device grows its file again when it is written: fills may succeed or not, no byte is wrong.
    settle(&stores).await;
    for n in 0..120 {
        let _some_may_fail = fill(&stores, &mib(n)).await;
        assert_ne!(look(&stores, &mib(n)).await, Seen::Caught, "what was just written is right, or was not taken");
    }
}

/// Objects of two chunks, and the real folder of the store that is to have them.
struct Files {
    dir: tempfile::TempDir,
    config: StoreConfig,
    objects: Vec<Arc<Object>>,
}

impl Files {
    fn new(count: u64) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = StoreConfig { name: "s".into(), path: dir.path().join("s"), capacity_bytes: 64 << 20 };
        Self { dir, config, objects: (0..count).map(|n| object(n, 2 * u64::from(CHUNK) - 77)).collect() }
    }

    fn path(&self, n: usize) -> PathBuf {
        object_path(&self.config.path, &self.objects[n])
    }

    /// Each file bears the other's name from now on.
    fn swap(&self, a: usize, b: usize) {
        let aside = self.dir.path().join("aside");
        std::fs::rename(self.path(a), &aside).expect("swaps");
        std::fs::rename(self.path(b), self.path(a)).expect("swaps");
        std::fs::rename(aside, self.path(b)).expect("swaps");
    }
}

async fn fill_both(stores: &Stores, object: &Arc<Object>) {
    for index in 0..2 {
        fill(stores, &chunk(object, index)).await.expect("fills");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_somebody_touched_are_misses_and_come_anew() {
    let files = Files::new(6);
    let Files { config, objects, .. } = &files;
    {
        let runtime = Runtime::real(Arc::new(NoNet));
        let stores = open(&runtime, std::slice::from_ref(config)).await.expect("opens");
        for object in objects {
            fill_both(&stores, object).await;
        }
        stores.close().await;
        runtime.tasks.shut_down().await;
    }
    std::fs::OpenOptions::new().write(true).open(files.path(0)).expect("opens").set_len(1_000).expect("truncates");
    files.swap(1, 2);
    std::fs::remove_file(files.path(3)).expect("deletes");
    std::fs::set_permissions(files.path(4), std::os::unix::fs::PermissionsExt::from_mode(0o0)).expect("chmods");
    std::fs::remove_file(files.path(5)).expect("deletes");
    std::os::unix::fs::symlink("/etc/hostname", files.path(5)).expect("links");
    let runtime = Runtime::real(Arc::new(NoNet));
    let stores = reopen(&runtime, config).await;
    settle(&stores).await;
    for (n, object) in objects.iter().enumerate() {
        for index in 0..2 {
            let seen = look(&stores, &chunk(object, index)).await;
            // Root reads what nobody may.
            assert!(seen != Seen::Right || n == 4, "object {n}, chunk {index}: {seen:?}");
        }
    }
    let counts = counters(&stores);
    assert!(counts.corrupt >= 2 && counts.unreadable >= 1 && counts.missing_files >= 1, "{counts:?}");
    settle(&stores).await;
    for object in objects {
        fill_both(&stores, object).await;
        for index in 0..2 {
            assert_eq!(look(&stores, &chunk(object, index)).await, Seen::Right);
        }
    }
    assert_ne!(std::fs::read("/etc/hostname").unwrap_or_default().len() as u64, objects[5].size(), "not followed");
    stores.close().await;
}

/// Bad input: files swapped and written by hand while the agent runs. The kernel would check no checksum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verified_file_that_somebody_touched_is_not_passed() {
    let files = Files::new(4);
    let Files { config, objects, .. } = &files;
    let runtime = Runtime::real(Arc::new(NoNet));
    let stores = open(&runtime, std::slice::from_ref(config)).await.expect("opens");
    let fill_and_verify = async |object: &Arc<Object>| {
        fill_both(&stores, object).await;
        assert!(stores.verify(object).await.expect("reads"), "every byte is right");
    };
    for object in objects {
        fill_and_verify(object).await;
    }
    files.swap(0, 1);
    let touched = std::fs::OpenOptions::new().write(true).open(files.path(2)).expect("opens");
    std::os::unix::fs::FileExt::write_all_at(&touched, b"not ours", 99).expect("writes");
    for (n, object) in objects.iter().enumerate() {
        let passed = stores.pass(&object.id()).await;
        assert!(if n == 3 { passed.is_ok() } else { matches!(passed, Err(NotPassed::NotHere)) }, "object {n}");
    }
    settle(&stores).await;
    for object in &objects[..3] {
        fill_and_verify(object).await;
        assert!(stores.pass(&object.id()).await.is_ok(), "it came anew");
    }
    stores.close().await;
}
