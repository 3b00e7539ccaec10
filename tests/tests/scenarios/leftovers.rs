//! Ends: in order, by Ctrl-C, and by crashes that leave mounts and locks behind for the next `larder up` to clean.

use larder_tests::harness::{Cluster, SOON, VolumeSpec, mounts_below, processes_naming, sha256, wait_until};
use larder_tests::stub::StubS3;

#[test]
fn what_a_crash_leaves_the_next_up_cleans() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put("file", "content");
    let volume = VolumeSpec::s3("data", &stub).freshness("Forever");
    let mut cluster = Cluster::builder().volume(volume).up();
    let hash = sha256(b"content");
    assert_eq!(sha256(&cluster.read("n1", "data", "file").unwrap()), hash);
    for _ in 0..2 {
        cluster.crash();
        assert_eq!(mounts_below(&cluster.dir()).len(), 3, "dead mounts are left");
        cluster.up();
        cluster.wait_ready();
        assert_eq!(mounts_below(&cluster.dir()).len(), 3, "one mount for each node");
        for node in cluster.node_names() {
            assert_eq!(sha256(&cluster.read(&node, "data", "file").unwrap()), hash, "{node}");
        }
    }
    cluster.crash();
    cluster.larder(&["down"], SOON).ok();
    assert!(mounts_below(&cluster.dir()).is_empty(), "down cleans too");
    assert!(processes_naming(&cluster.dir()).is_empty());
    let nothing = cluster.larder(&["down"], SOON);
    assert_eq!(nothing.status.code(), Some(1), "and says so when there is nothing: {nothing:?}");
}

#[test]
fn an_agent_that_was_killed_comes_back_onto_its_dead_mount() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put("file", "content");
    let cluster = Cluster::builder().nodes(1).replicas(1).volume(VolumeSpec::s3("data", &stub)).up();
    cluster.kill("n1");
    assert_eq!(mounts_below(&cluster.dir()).len(), 1, "the mount outlives its agent");
    assert!(cluster.read("n1", "data", "file").is_err());
    cluster.restart(&["n1"]);
    assert_eq!(mounts_below(&cluster.dir()).len(), 1, "replaced, not stacked");
    assert_eq!(cluster.read("n1", "data", "file").unwrap(), b"content");
}

#[test]
fn ctrl_c_unmounts_and_leaves_nothing() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let mut cluster = Cluster::builder().nodes(2).volume(VolumeSpec::s3("data", &stub)).up();
    // A reader that sits in the mount must not keep it.
    let held = std::fs::File::open(cluster.mount("n1", "data")).unwrap();
    cluster.interrupt();
    wait_until(SOON, "mounts are gone", || mounts_below(&cluster.dir()).is_empty());
    assert!(processes_naming(&cluster.dir()).is_empty());
    drop(held);
    cluster.up();
    cluster.wait_ready();
}
