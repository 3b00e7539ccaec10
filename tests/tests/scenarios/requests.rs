//! One read, one request id, on every agent it touches.

use std::collections::BTreeSet;

use larder_tests::harness::{Cluster, SOON, VolumeSpec, wait_for};
use larder_tests::stub::StubS3;

/// The request ids in an agent's log.
fn requests(log: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()) {
        let spans = line["spans"].as_array().cloned().unwrap_or_default();
        let ids = std::iter::once(&line).chain(&spans).filter_map(|part| part["request"].as_str());
        found.extend(ids.map(str::to_owned));
    }
    found
}

#[test]
fn a_read_has_one_request_id_on_all_agents_it_touches() {
    let stub = StubS3::builder().start_blocking().unwrap();
    // Many chunks: some belong to each node, whichever the map gives them to.
    stub.put_pattern("file", 1, 64 * 64 * 1024);
    let volume = VolumeSpec::s3("data", &stub).chunk_size("64Ki");
    let cluster = Cluster::builder().agent_log("debug").volume(volume).up();
    cluster.read("n1", "data", "file").unwrap();
    let (door, owner) = wait_for(SOON, "a request id that two agents logged", || {
        let door = requests(&cluster.log("n1"));
        let owners = ["n2", "n3"].map(|node| (node, requests(&cluster.log(node))));
        owners.into_iter().find_map(|(node, ids)| Some((ids.intersection(&door).next()?.clone(), node)))
    });
    assert_eq!(door.len(), 16, "16 hexadecimal digits, on n1 and {owner}: {door}");
    assert!(door.chars().all(|digit| digit.is_ascii_hexdigit()), "{door}");
}
