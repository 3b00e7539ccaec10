//! An agent dies in the middle of reads: the other nodes' mounts go on without an error.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use larder_tests::harness::{Cluster, Copies, MINUTE, SOON, VolumeSpec, read_uncached, wait_until, within};
use larder_tests::stub::{StubS3, pattern};
use parking_lot::Mutex;

const CHUNK: u64 = 256 * 1024;
const WARM: usize = 12;

/// Readers that read all their keys again and again until they are told to stop; any error or wrong byte panics.
struct Readers {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    /// When each read began, and when it had its bytes.
    times: Arc<Mutex<Vec<(Instant, Instant)>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    fn start(mounts: Vec<PathBuf>, keys: &[String]) -> Readers {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let times = Arc::new(Mutex::new(Vec::new()));
        let reader = |mount: PathBuf| {
            let (stop, done, times, keys) = (stop.clone(), done.clone(), times.clone(), keys.to_vec());
            move || {
                for key in keys.iter().cycle().take_while(|_| !stop.load(Ordering::SeqCst)) {
                    let began = Instant::now();
                    let bytes = read_uncached(&mount.join(key)).unwrap_or_else(|e| panic!("{key}: {e}"));
                    pattern::check_version(key, 1, 0, &bytes).unwrap();
                    times.lock().push((began, Instant::now()));
                    done.fetch_add(1, Ordering::SeqCst);
                }
            }
        };
        let threads = mounts.into_iter().map(|mount| thread::spawn(reader(mount))).collect();
        Readers { stop, done, times, threads }
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    fn wait_for_more(&self, reads: u64) {
        let wanted = self.done() + reads;
        wait_until(MINUTE, &format!("{reads} more reads"), || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a reader gave up");
            self.done() >= wanted
        });
    }

    /// Stops them; the time from `moment` to the end of the first read that began after it, and the longest of those.
    fn stop(self, moment: Instant) -> (Duration, Duration) {
        self.stop.store(true, Ordering::SeqCst);
        within(SOON, "readers end", move || self.threads.into_iter().for_each(|thread| thread.join().unwrap()));
        let times = self.times.lock();
        let after = || times.iter().filter(|(began, _)| *began >= moment);
        let first = after().map(|(_, ended)| *ended - moment).min().expect("reads went on");
        (first, after().map(|(began, ended)| *ended - *began).max().expect("reads went on"))
    }
}

/// faults.md, row 1, as far as reads go.
#[test]
fn readers_on_other_nodes_see_no_error_when_an_agent_is_killed() {
    let stub = StubS3::builder().latency(Duration::from_millis(20)).start_blocking().unwrap();
    let keys: Vec<String> = (0..WARM).map(|number| format!("warm/{number}")).collect();
    let cold: Vec<String> = (0..WARM).map(|number| format!("cold/{number}")).collect();
    for key in keys.iter().chain(&cold) {
        stub.put_pattern(key, 1, 4 * CHUNK);
    }
    let cluster = Cluster::builder().volume(VolumeSpec::s3("data", &stub).chunk_size("256Ki")).up();
    let mounts = || vec![cluster.mount("n1", "data"), cluster.mount("n2", "data")];
    let mut readers = Readers::start(mounts(), &keys);
    readers.wait_for_more(2 * WARM as u64);
    cluster.wait_copies(Copies { chunks: 4 * WARM as u64, replicas: 2 });
    stub.reset_counters();

    // Readers of what nobody has yet, so that fills are on their way on the node that dies.
    let cold_readers = Readers::start(mounts(), &cold);
    cold_readers.wait_for_more(2);
    cluster.kill("n3");
    let killed = Instant::now();
    readers.wait_for_more(4 * WARM as u64);
    cold_readers.wait_for_more(3 * WARM as u64);
    let (first, longest) = readers.stop(killed);
    cold_readers.stop(killed);
    println!("first good read {first:?} after the kill, longest read after it {longest:?}");
    let counters = stub.counters();
    let warm_gets: u64 = keys.iter().map(|key| counters.key(stub.bucket(), key).gets).sum();
    assert_eq!(warm_gets, 0, "every chunk had a second copy");

    // The node comes back with its cache, and its own mount serves again.
    cluster.restart(&["n3"]);
    readers = Readers::start(vec![cluster.mount("n3", "data")], &keys);
    readers.wait_for_more(WARM as u64);
    readers.stop(killed);
}

/// A paused agent answers nobody and closes no connection; its peers' deadlines have to notice.
#[test]
fn readers_on_other_nodes_go_on_when_an_agent_hangs() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let keys: Vec<String> = (0..WARM).map(|number| format!("warm/{number}")).collect();
    for key in &keys {
        stub.put_pattern(key, 1, 4 * CHUNK);
    }
    let cluster = Cluster::builder().volume(VolumeSpec::s3("data", &stub).chunk_size("256Ki")).up();
    let readers = Readers::start(vec![cluster.mount("n1", "data"), cluster.mount("n2", "data")], &keys);
    readers.wait_for_more(2 * WARM as u64);
    cluster.wait_copies(Copies { chunks: 4 * WARM as u64, replicas: 2 });
    cluster.stop("n3");
    let stopped = Instant::now();
    readers.wait_for_more(6 * WARM as u64);
    cluster.cont("n3");
    let (first, longest) = readers.stop(stopped);
    println!("first good read {first:?} after the pause began, longest read {longest:?}");
}
