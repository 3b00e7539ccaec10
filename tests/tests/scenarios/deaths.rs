//! An agent dies in the middle of reads: the other nodes' mounts go on without an error.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use larder_tests::harness::{Cluster, Copies, MINUTE, SOON, VolumeSpec, read_uncached, wait_until, within};
use larder_tests::stub::{StubS3, pattern};
use parking_lot::Mutex;

const CHUNK: u64 = 64 * 1024;
const FILE: u64 = 4 * CHUNK;
/// So many that readers are still reading what no memory holds when the agent dies.
const WARM: usize = 80;
const COLD: usize = 40;

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

    /// Stops them.
    fn end(self) -> Vec<(Instant, Instant)> {
        self.stop.store(true, Ordering::SeqCst);
        within(SOON, "readers end", move || self.threads.into_iter().for_each(|thread| thread.join().unwrap()));
        std::mem::take(&mut self.times.lock())
    }

    /// Stops them; the time from `moment` to the end of the first read that began after it, and the longest of those.
    fn stop(self, moment: Instant) -> (Duration, Duration) {
        let times = self.end();
        let after = || times.iter().filter(|(began, _)| *began >= moment);
        let first = after().map(|(_, ended)| *ended - moment).min().expect("reads went on");
        (first, after().map(|(began, ended)| *ended - *began).max().expect("reads went on"))
    }
}

fn volume(stub: &StubS3) -> VolumeSpec {
    VolumeSpec::s3("data", stub).chunk_size("64Ki").read_ahead("0")
}

fn put_files(stub: &StubS3, folder: &str, count: usize) -> Vec<String> {
    let keys: Vec<String> = (0..count).map(|number| format!("{folder}/{number}")).collect();
    for key in &keys {
        stub.put_pattern(key, 1, FILE);
    }
    keys
}

/// A cluster whose disks hold two copies of each chunk of `keys`, and whose memories hold none.
fn warm_cluster(stub: &StubS3, keys: &[String]) -> Cluster {
    let cluster = Cluster::builder().alone().volume(volume(stub)).up();
    let chunks = keys.len() as u64 * FILE / CHUNK;
    let readers = Readers::start(vec![cluster.mount("n1", "data")], keys);
    readers.wait_for_more(keys.len() as u64);
    readers.end();
    cluster.wait_copies(Copies { chunks, replicas: 2 });
    cluster.restart(&["n1", "n2", "n3"]);
    stub.reset_counters();
    cluster
}

/// Far above what is promised (a quarter of a second, two for a node that hangs), far below a read's deadline of 30 s:
/// nothing fails because a machine is slow.
const LONGEST: Duration = Duration::from_secs(10);

/// How often n1 and n2 found a peer unreachable, or gave up a place that made no progress.
fn sum_on_survivors(cluster: &Cluster) -> u64 {
    let failures = |node: &str| {
        let metrics = cluster.metrics(node);
        metrics.sum("larder_abandoned_total", &[]) + metrics.sum("larder_peer_failures_total", &[])
    };
    ["n1", "n2"].into_iter().map(failures).sum()
}

fn mounts(cluster: &Cluster, nodes: &[&str]) -> Vec<PathBuf> {
    nodes.iter().map(|node| cluster.mount(node, "data")).collect()
}

/// docs/FAULTS.md, row 1, as far as reads go.
#[test]
fn readers_on_other_nodes_see_no_error_when_an_agent_is_killed() {
    let stub = StubS3::builder().latency(Duration::from_millis(20)).start_blocking().unwrap();
    let (warm, cold) = (put_files(&stub, "warm", WARM), put_files(&stub, "cold", COLD));
    let cluster = warm_cluster(&stub, &warm);
    let readers = Readers::start(mounts(&cluster, &["n1", "n2"]), &warm);
    // Readers of what nobody has yet, so that fills are on their way on the node that dies.
    let cold_readers = Readers::start(mounts(&cluster, &["n1", "n2"]), &cold);
    readers.wait_for_more(4);
    cold_readers.wait_for_more(4);
    let asked = sum_on_survivors(&cluster);
    cluster.kill("n3");
    let killed = Instant::now();
    readers.wait_for_more(3 * WARM as u64);
    cold_readers.wait_for_more(3 * COLD as u64);
    let (first, longest) = readers.stop(killed);
    let (_, longest_cold) = cold_readers.stop(killed);
    println!(
        "first good read {first:?} after the kill; longest read after it {longest:?}, of cold files {longest_cold:?}"
    );
    assert!(longest.max(longest_cold) < LONGEST, "a read waited {longest:?}, a cold one {longest_cold:?}");
    let asked = sum_on_survivors(&cluster) - asked;
    assert!(asked > 0, "somebody asked the dead node, or this proves nothing");
    let counters = stub.counters();
    let warm_gets: u64 = warm.iter().map(|key| counters.key(stub.bucket(), key).gets).sum();
    assert_eq!(warm_gets, 0, "every chunk had a second copy");

    // The node comes back with its cache, and its own mount serves again.
    cluster.restart(&["n3"]);
    let readers = Readers::start(mounts(&cluster, &["n3"]), &warm);
    readers.wait_for_more(WARM as u64);
    readers.end();
}

/// A paused agent answers nobody and closes no connection; its peers' deadlines have to notice.
#[test]
fn readers_on_other_nodes_go_on_when_an_agent_hangs() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let warm = put_files(&stub, "warm", WARM);
    let cluster = warm_cluster(&stub, &warm);
    let readers = Readers::start(mounts(&cluster, &["n1", "n2"]), &warm);
    readers.wait_for_more(4);
    cluster.stop("n3");
    let stopped = Instant::now();
    readers.wait_for_more(3 * WARM as u64);
    let (first, longest) = readers.stop(stopped);
    cluster.cont("n3");
    println!("first good read {first:?} after the pause began; longest read {longest:?}");
    assert!(longest < LONGEST, "a read waited {longest:?} for a node that hangs");
}
