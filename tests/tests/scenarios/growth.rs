//! A cluster that grows from three nodes to six and shrinks again while it is read: it stays warm.

use std::time::Duration;

use larder_tests::harness::{Cluster, Copies, MINUTE, Readers, VolumeSpec, wait_until};
use larder_tests::stub::StubS3;

const CHUNK: u64 = 64 * 1024;
const FILE: u64 = 4 * CHUNK;
const FILES: u64 = 400;

/// Of the reads between two looks, how many had to go to the origin at worst; looked at while `change` goes on.
fn worst_miss_ratio(stub: &StubS3, readers: &Readers, change: impl FnOnce() + Send) -> f64 {
    std::thread::scope(|scope| {
        let changing = scope.spawn(change);
        let mut worst: f64 = 0.0;
        loop {
            let is_last = changing.is_finished();
            let (reads, gets) = (readers.done(), stub.counters().gets);
            readers.wait_for_more(50);
            let (read, missed) = ((readers.done() - reads) * FILE / CHUNK, stub.counters().gets - gets);
            worst = worst.max(missed as f64 / read as f64);
            if is_last {
                changing.join().expect("the change was made");
                return worst;
            }
        }
    })
}

/// docs/FAULTS.md, row 2, as far as wishes go; the promise of a warm hand-over.
#[test]
fn a_cluster_that_grows_and_shrinks_under_load_stays_warm() {
    let stub = StubS3::builder().latency(Duration::from_millis(5)).start_blocking().unwrap();
    let keys: Vec<String> = (0..FILES).map(|number| format!("f{number}")).collect();
    for key in &keys {
        stub.put_pattern(key, 1, FILE);
    }
    let volume = VolumeSpec::s3("data", &stub).chunk_size("64Ki").read_ahead("0");
    let mut cluster = Cluster::builder().alone().min_nodes(3).volume(volume).up();
    let readers = Readers::start(vec![cluster.mount("n1", "data")], &keys);
    readers.wait_for_more(FILES);
    readers.end();
    let chunks = FILES * FILE / CHUNK;
    cluster.wait_copies(Copies { chunks, replicas: 2 });
    cluster.restart(&["n1", "n2", "n3"]);
    stub.reset_counters();
    let readers = Readers::start(vec![cluster.mount("n1", "data"), cluster.mount("n2", "data")], &keys);
    for (count, names) in [(6, &["n1", "n2", "n3", "n4", "n5", "n6"][..]), (3, &["n1", "n2", "n3"])] {
        let before = std::time::Instant::now();
        let worst = worst_miss_ratio(&stub, &readers, || {
            cluster.apply(|spec| spec.nodes(count)).ok();
            cluster.wait_settled(names);
        });
        let asked = stub.counters().bytes_sent;
        println!(
            "to {count} nodes in {:?}: at worst {worst:.3} of reads missed, {asked} bytes from the origin",
            before.elapsed()
        );
        assert!(worst <= 0.1, "{worst} of the reads between two looks went to the origin");
        assert!(asked * 50 <= chunks * CHUNK, "the origin was asked for {asked} bytes of {}", chunks * CHUNK);
        if count == 6 {
            let given = cluster.sum("larder_copies_total", &[("outcome", "given")]);
            assert!(given > chunks / 4, "{given} copies were handed over: half of all should have been");
        }
    }
    readers.end();
    let nodes = || cluster.map()["nodes"].as_array().map(Vec::len);
    wait_until(MINUTE, "who left is forgotten", || nodes() == Some(3));
    // Everything is on the three that stayed.
    stub.reset_counters();
    let readers = Readers::start(vec![cluster.mount("n3", "data")], &keys);
    readers.wait_for_more(FILES);
    readers.end();
    assert_eq!(stub.counters().gets, 0, "what those who left had was handed over");
}
