//! Disks that fail under running agents: readers see neither an error nor a wrong byte.

use larder_tests::harness::{Cluster, Copies, Readers, VolumeSpec};
use larder_tests::stub::StubS3;

const CHUNK: u64 = 64 * 1024;
const FILE: u64 = 16 * CHUNK;
const FILES: usize = 60;

fn put_files(stub: &StubS3, folder: &str) -> Vec<String> {
    let keys: Vec<String> = (0..FILES).map(|number| format!("{folder}/{number}")).collect();
    for key in &keys {
        stub.put_pattern(key, 1, FILE);
    }
    keys
}

/// Reads every key once more on each of these nodes, and as many times as that takes on the slowest.
fn read_all(cluster: &Cluster, nodes: &[&str], keys: &[String]) {
    for node in nodes {
        let readers = Readers::start(vec![cluster.mount(node, "data")], keys);
        readers.wait_for_more(keys.len() as u64);
        readers.end();
    }
}

/// Two copies of everything, one store of which is on a disk that can fail: n3's.
fn warm_cluster(stub: &StubS3, keys: &[String]) -> Cluster {
    let volume = VolumeSpec::s3("data", stub).chunk_size("64Ki").read_ahead("0");
    let builder = Cluster::builder().alone().capacity(300 << 20).disk("n3", 512).volume(volume);
    let cluster = builder.up();
    read_all(&cluster, &["n1"], keys);
    cluster.wait_copies(Copies { chunks: keys.len() as u64 * FILE / CHUNK, replicas: 2 });
    // A store that was closed is durable, and its agent remembers nothing.
    cluster.restart(&["n3"]);
    stub.reset_counters();
    cluster
}

/// docs/FAULTS.md, row 5.
#[test]
fn a_disk_that_ends_early_under_readers_costs_no_error() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let keys = put_files(&stub, "warm");
    let mut cluster = warm_cluster(&stub, &keys);
    nix::unistd::sync();
    cluster.disk("n3").cut(24);
    read_all(&cluster, &["n1", "n2", "n3"], &keys);
    // Nothing can be read there, or zeros where the index's own writes made the file grow again.
    let metrics = cluster.metrics("n3");
    let dropped = |reason| metrics.sum("larder_store_dropped_chunks_total", &[("reason", reason)]);
    assert!(dropped("unreadable") + dropped("corrupt") > 0, "the disk's end was met, or this proves nothing");
    assert_eq!(stub.counters().gets, 0, "every chunk had a second copy");
    cluster.down();
}

/// docs/FAULTS.md, row 3: what was durable is there again, and nothing else is believed.
#[test]
fn after_a_power_failure_a_store_goes_on_from_what_was_durable() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let (warm, cold) = (put_files(&stub, "warm"), put_files(&stub, "cold"));
    let mut cluster = warm_cluster(&stub, &warm);
    let kept = cluster.metrics("n3").sum("larder_store_chunks", &[]);
    // Fills are on their way into it when the power goes.
    let readers = Readers::start(vec![cluster.mount("n1", "data"), cluster.mount("n2", "data")], &cold);
    readers.wait_for_more(6);
    cluster.disk("n3").lose_power();
    readers.wait_for_more(10);
    cluster.kill("n3");
    readers.wait_for_more(2 * FILES as u64);
    readers.end();
    cluster.disk("n3").return_power();
    cluster.restart(&["n3"]);
    let kept_after = cluster.metrics("n3").sum("larder_store_chunks", &[]);
    println!("n3 had {kept} chunks that were durable, and has {kept_after}");
    assert!(kept > 0 && kept_after >= kept / 2, "{kept} chunks before, {kept_after} after");
    let both = [warm.clone(), cold].concat();
    read_all(&cluster, &["n3", "n1"], &both);
    let warm_gets: u64 = warm.iter().map(|key| stub.counters().key(stub.bucket(), key).gets).sum();
    assert_eq!(warm_gets, 0, "every chunk had a second copy");
    cluster.down();
}
