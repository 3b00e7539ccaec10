//! The programs people read their data with, on a mount whose objects are evicted underneath while other nodes' agents die.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder_tests::harness::{Cluster, VolumeSpec, open_uncached, run};
use larder_tests::s3client::{Uploaded, upload_dir};
use larder_tests::stub::StubS3;

/// Between two deaths.
const DEATH_EVERY: Duration = Duration::from_secs(10);

/// How many agents die.
const DEATHS: usize = 3;

/// A tour takes half a minute on an idle machine.
const TOUR_WITHIN: Duration = Duration::from_secs(300);

/// Of the kernel's and the programs' time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// The Python of the environment that has what `data-requirements.txt` lists.
fn python() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned();
    let (dir, pins) = (target.join("data-clients"), clients().join("data-requirements.txt"));
    run(Command::new(clients().join("install")).args([&dir, &pins]), TOUR_WITHIN).ok();
    dir.join("bin/python")
}

/// Kills `n2` and `n3` in turn and starts them again, until it happened often enough or a tour failed.
fn deaths(cluster: &Cluster, stop: &AtomicBool) {
    for node in ["n2", "n3"].into_iter().cycle().take(DEATHS) {
        let next = Instant::now() + DEATH_EVERY;
        while Instant::now() < next {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        cluster.kill(node);
        cluster.restart(&[]);
    }
}

/// The kernel's page cache holds all of it, and would hide the stores.
fn forget_pages(mount: &Path, data: &Uploaded) {
    data.sizes.keys().for_each(|key| drop(open_uncached(&mount.join(key)).unwrap()));
}

/// Tells the other thread that this one panicked.
struct FailIfDropped<'a>(&'a AtomicBool);

impl Drop for FailIfDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn last_line(text: &str) -> &str {
    text.trim_end().lines().last().unwrap_or_default()
}

#[test]
fn everyday_programs_read_right_bytes_while_objects_are_evicted_and_agents_die() {
    let python = python();
    let scratch = tempfile::Builder::new().prefix("larder-programs-").tempdir_in("/var/tmp").unwrap();
    let original = scratch.path().join("original");
    run(Command::new(&python).arg(clients().join("data_make.py")).arg(&original), TOUR_WITHIN).ok();
    let stub = StubS3::builder().bucket("data").start_blocking().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let data = runtime.block_on(upload_dir(&stub.client(), &original, "", 8, |_bytes| ())).unwrap();
    // Two copies of a third of the data, on three nodes.
    let capacity = data.bytes / 3 * 2 / 3;
    let volume = VolumeSpec::s3("data", &stub).chunk_size("256Ki");
    let cluster = Cluster::builder().capacity(capacity).volume(volume).alone().up();
    let mount = cluster.mount("n1", "data");

    let failed = AtomicBool::new(false);
    let tours = std::thread::scope(|scope| {
        let deaths = scope.spawn(|| deaths(&cluster, &failed));
        let mut tours = 0;
        // On a busy machine one tour may take longer than all deaths.
        while tours < 2 || !deaths.is_finished() {
            forget_pages(&mount, &data);
            let told = FailIfDropped(&failed);
            let python_tour =
                run(Command::new(&python).arg(clients().join("data_tour.py")).args([&mount, &original]), TOUR_WITHIN);
            assert_eq!(last_line(&python_tour.out), "ok", "{}{}", python_tour.out, python_tour.err);
            forget_pages(&mount, &data);
            let copies = scratch.path().join("copies");
            let shell_tour =
                run(Command::new(clients().join("data_tour.sh")).args([&mount, &original, &copies]), TOUR_WITHIN);
            assert_eq!(last_line(&shell_tour.out), "ok", "{}{}", shell_tour.out, shell_tour.err);
            std::mem::forget(told);
            tours += 1;
        }
        deaths.join().unwrap();
        tours
    });
    println!("{tours} tours beside {DEATHS} deaths");
    assert!(
        cluster.sum("larder_store_evicted_bytes_total", &[]) > data.bytes,
        "too little was evicted to prove anything"
    );
}
