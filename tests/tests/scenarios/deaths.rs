//! An agent dies in the middle of reads: the other nodes' mounts go on without an error.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use larder_tests::harness::{Cluster, Copies, Readers, VolumeSpec};
use larder_tests::stub::StubS3;

const CHUNK: u64 = 64 * 1024;
const FILE: u64 = 4 * CHUNK;
/// So many that readers are still reading what no memory holds when the agent dies.
const WARM: usize = 80;
const COLD: usize = 40;

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

/// How often the owner dies: `LARDER_KILLS`, or as often as `make test` has time for.
fn kills() -> u32 {
    std::env::var("LARDER_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// docs/FAULTS.md, row 1: the owner is killed again and again, and comes back each time.
#[test]
fn an_owner_that_is_killed_again_and_again_costs_no_error_and_no_get() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let warm = put_files(&stub, "warm", WARM);
    let cluster = warm_cluster(&stub, &warm);
    let (mut firsts, mut longests) = (Vec::new(), Vec::new());
    let asked = sum_on_survivors(&cluster);
    for _ in 0..kills() {
        let readers = Readers::start(mounts(&cluster, &["n1", "n2"]), &warm);
        readers.wait_for_more(4);
        cluster.kill("n3");
        let killed = Instant::now();
        readers.wait_for_more(WARM as u64);
        let (first, longest) = readers.stop(killed);
        firsts.push(first);
        longests.push(longest);
        cluster.restart(&["n3"]);
    }
    assert!(sum_on_survivors(&cluster) > asked, "somebody asked the dead node, or this proves nothing");
    let (first, longest) = (firsts.iter().max().unwrap(), longests.iter().max().unwrap());
    println!("{} deaths: the first good read came within {first:?}, the longest took {longest:?}", firsts.len());
    assert!(*longest < LONGEST, "a read waited {longest:?}");
    // Who asks for many deaths has a machine that does nothing else.
    assert!(firsts.len() < 100 || *first < Duration::from_millis(250), "nothing was read for {first:?}");
    assert_eq!(stub.counters().gets, 0, "every chunk had a second copy");
}

/// How long the agent that hangs is stopped.
const STOPPED: Duration = Duration::from_secs(30);

/// A paused agent answers nobody and closes no connection; its peers' deadlines have to notice. Then it wakes.
#[test]
fn readers_on_other_nodes_go_on_when_an_agent_hangs() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let warm = put_files(&stub, "warm", WARM);
    let cluster = warm_cluster(&stub, &warm);
    let readers = Readers::start(mounts(&cluster, &["n1", "n2"]), &warm);
    readers.wait_for_more(4);
    cluster.stop("n3");
    let stopped = Instant::now();
    while stopped.elapsed() < STOPPED {
        readers.wait_for_more(20);
    }
    cluster.cont("n3");
    readers.wait_for_more(3 * WARM as u64);
    cluster.wait_settled(&["n1", "n2", "n3"]);
    let (first, longest) = readers.stop(stopped);
    println!("first good read {first:?} after the pause began; longest read {longest:?}");
    assert!(longest < LONGEST, "a read waited {longest:?} for a node that hangs");
    let readers = Readers::start(mounts(&cluster, &["n3"]), &warm);
    readers.wait_for_more(WARM as u64);
    readers.end();
    assert_eq!(stub.counters().gets, 0, "every chunk had a second copy");
}
