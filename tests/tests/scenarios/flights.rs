//! Many readers of what nobody has yet: the origin is asked once for each chunk.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::thread;

use larder_tests::harness::{Cluster, MINUTE, VolumeSpec, read_uncached, within};
use larder_tests::stub::{StubS3, pattern};

const CHUNK: u64 = 256 * 1024;

/// `readers` threads, spread over the nodes, begin at once; each reads every key, beginning with another one.
fn read_all_at_once(cluster: &Cluster, readers: usize, keys: &[String], size: u64) {
    let content = |key: &String| {
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        pattern::fill(key, 1, 0, &mut bytes);
        (key.clone(), bytes)
    };
    // Made once: a hundred readers that check patterns would leave no processor for the agents.
    let wanted: Arc<BTreeMap<String, Vec<u8>>> = Arc::new(keys.iter().map(content).collect());
    let nodes = cluster.node_names();
    let begin = Arc::new(Barrier::new(readers));
    let mut threads = Vec::new();
    for reader in 0..readers {
        let mount = cluster.mount(&nodes[reader % nodes.len()], "data");
        let (begin, wanted) = (begin.clone(), wanted.clone());
        let mut keys = keys.to_vec();
        let first = reader % keys.len();
        keys.rotate_left(first);
        threads.push(thread::spawn(move || {
            begin.wait();
            for key in keys {
                let bytes = read_uncached(&mount.join(&key)).unwrap_or_else(|e| panic!("{key}: {e}"));
                assert!(bytes == wanted[&key], "{key}: wrong bytes, {} of them", bytes.len());
            }
        }));
    }
    within(MINUTE * 2, "all readers end", move || threads.into_iter().for_each(|thread| thread.join().unwrap()));
}

#[test]
fn fifty_cold_readers_on_three_nodes_are_one_get_per_chunk() {
    const SIZE: u64 = 2 * CHUNK + 4321;
    let stub = StubS3::builder().latency(std::time::Duration::from_millis(20)).start_blocking().unwrap();
    let keys: Vec<String> = (0..6).map(|number| format!("shard-{number}")).collect();
    for key in &keys {
        stub.put_pattern(key, 1, SIZE);
    }
    let cluster = Cluster::builder().alone().volume(VolumeSpec::s3("data", &stub).chunk_size("256Ki")).up();

    read_all_at_once(&cluster, 50, &keys, SIZE);

    let counters = stub.counters();
    assert_eq!((counters.gets, counters.gets_per_chunk(CHUNK)), (18, 1.0), "{counters:?}");
    assert_eq!(counters.byte_amplification(), 1.0);
}

/// docs/FAULTS.md, row 23.
#[test]
fn a_hundred_readers_of_one_cold_object_are_one_get_per_chunk() {
    let stub = StubS3::builder().latency(std::time::Duration::from_millis(20)).start_blocking().unwrap();
    stub.put_pattern("model", 1, 8 * CHUNK);
    let cluster = Cluster::builder().alone().volume(VolumeSpec::s3("data", &stub).chunk_size("256Ki")).up();

    read_all_at_once(&cluster, 100, &["model".to_owned()], 8 * CHUNK);

    let counters = stub.counters();
    assert_eq!((counters.gets, counters.gets_per_chunk(CHUNK)), (8, 1.0), "{counters:?}");
}
