//! The programs people read their data with, on a mount whose objects are evicted underneath while other nodes' agents die.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder_tests::harness::{Cluster, VolumeSpec, run};
use larder_tests::s3client::upload_dir;
use larder_tests::stub::StubS3;

/// Between two deaths.
const DEATH_EVERY: Duration = Duration::from_secs(10);

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

/// Kills `n2` and `n3` in turn and starts them again, until told to stop; returns how often.
fn deaths(cluster: &Cluster, stop: &AtomicBool) -> u32 {
    let mut killed = 0;
    for node in ["n2", "n3"].into_iter().cycle() {
        let next = Instant::now() + DEATH_EVERY;
        while Instant::now() < next {
            if stop.load(Ordering::SeqCst) {
                return killed;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        cluster.kill(node);
        killed += 1;
        cluster.restart(&[]);
    }
    unreachable!("a cycle has no end")
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

    let stop = AtomicBool::new(false);
    let (killed, said) = std::thread::scope(|scope| {
        let deaths = scope.spawn(|| deaths(&cluster, &stop));
        let tour = |command: &mut Command| {
            let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(command, TOUR_WITHIN)));
            said.map_err(|_said_above| "no end".to_owned())
        };
        let mut said = Vec::new();
        for _ in 0..2 {
            said.push(tour(Command::new(&python).arg(clients().join("data_tour.py")).args([&mount, &original])));
            let shell = clients().join("data_tour.sh");
            said.push(tour(Command::new(shell).args([&mount, &original, &scratch.path().join("copies")])));
        }
        stop.store(true, Ordering::SeqCst);
        (deaths.join().unwrap(), said)
    });
    for tour in said {
        let tour = tour.unwrap();
        assert_eq!(last_line(&tour.out), "ok", "{}{}", tour.out, tour.err);
    }
    assert!(killed >= 1, "no agent died while programs read");
    assert!(cluster.sum("larder_store_evicted_bytes_total", &[]) > data.bytes, "too little was evicted to prove anything");
}
