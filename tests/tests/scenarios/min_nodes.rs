//! Before `minNodes` nodes have joined nothing is published; once something is, losing nodes stops nothing.

use larder_tests::harness::{Cluster, Copies, VolumeSpec, sha256};
use larder_tests::stub::StubS3;

#[test]
fn the_first_map_waits_for_min_nodes_and_later_ones_do_not() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put("file", "content");
    let volume = VolumeSpec::s3("data", &stub).freshness("Forever");
    let mut cluster = Cluster::builder().nodes(2).min_nodes(3).volume(volume).start();
    let name = cluster.cluster_name();
    cluster.wait_condition("cc", name, "Ready", "WaitingForNodes");
    assert!(cluster.map().is_null(), "no map with two of three nodes: {}", cluster.map());
    let printed = cluster.larder(&["get", "cc"], larder_tests::harness::SOON).ok();
    assert!(printed.contains("WaitingForNodes"), "{printed}");

    cluster.apply(|spec| spec.nodes(3)).ok();
    cluster.wait_ready();
    assert!(!cluster.map().is_null());
    let hash = sha256(b"content");
    assert_eq!(sha256(&cluster.read("n1", "data", "file").unwrap()), hash);
    cluster.wait_copies(Copies { chunks: 1, replicas: 2 });

    cluster.kill("n3");
    cluster.wait_condition("cc", name, "Ready", "BelowMinNodes");
    cluster.wait_condition("cc", name, "MinNodesMet", "TooFewNodes");
    for node in ["n1", "n2"] {
        assert_eq!(sha256(&cluster.read(node, "data", "file").unwrap()), hash, "reads go on on {node}");
    }
    stub.put("later", "new content");
    let later = cluster.read("n2", "data", "later").expect("and so do fills");
    assert_eq!(later, b"new content");
}
