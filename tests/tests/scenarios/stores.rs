//! Disks that aren't this cluster's, or this version's, are refused before anything is touched.

use larder_tests::harness::{Cluster, Copies, VolumeSpec, sha256};
use larder_tests::stub::StubS3;

fn assert_refused(cluster: &mut Cluster, wanted: &[&str]) {
    let said = cluster.try_up().expect_err("the store is refused");
    assert_eq!(said.lines().count(), 1, "one line: {said}");
    for word in wanted {
        assert!(said.contains(word), "{word:?} in: {said}");
    }
}

#[test]
fn a_store_of_another_cache_is_refused_and_left_alone() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put("file", "content");
    let ours = |id: &'static str| move |spec: larder_tests::harness::ClusterBuilder| spec.cache_id(id);
    // A copy on every node: without the authority's folder nodes get other numbers, and slots other owners.
    let mut cluster = Cluster::builder().cache_id("ours").replicas(3).volume(VolumeSpec::s3("data", &stub)).up();
    let hash = sha256(b"content");
    assert_eq!(sha256(&cluster.read("n1", "data", "file").unwrap()), hash);
    cluster.wait_copies(Copies { chunks: 1, replicas: 3 });
    cluster.down();

    cluster.respecify(ours("theirs"));
    assert_refused(&mut cluster, &["authority", "not of this cluster"]);
    // As if the disks had been moved to another cluster's machines.
    std::fs::remove_dir_all(cluster.dir().join("authority")).unwrap();
    for node in cluster.node_names() {
        std::fs::remove_dir_all(cluster.node_dir(&node).join("agent")).unwrap();
    }
    assert_refused(&mut cluster, &["node n", "ours", "theirs"]);

    std::fs::remove_dir_all(cluster.dir().join("authority")).unwrap();
    for node in cluster.node_names() {
        std::fs::remove_dir_all(cluster.node_dir(&node).join("agent")).unwrap();
    }
    cluster.respecify(ours("ours"));
    cluster.up();
    cluster.wait_ready();
    stub.reset_counters();
    assert_eq!(sha256(&cluster.read("n1", "data", "file").unwrap()), hash);
    assert_eq!(stub.counters().gets, 0, "the refusal left the cache as it was");
}

#[test]
fn a_store_of_a_newer_format_is_refused() {
    let mut cluster = Cluster::builder().nodes(1).replicas(1).start();
    cluster.down();
    let label = cluster.node_dir("n1").join("d0/larder.json");
    let text = std::fs::read_to_string(&label).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let format = json.as_object_mut().unwrap().iter_mut().find(|(name, _)| name.to_lowercase().contains("format"));
    *format.expect("the label holds its format").1 = 4711.into();
    std::fs::write(&label, json.to_string()).unwrap();

    assert_refused(&mut cluster, &["n1", "4711", "newer"]);
}
