//! A node that is drained hands over what only it has, while it is read.

use larder_tests::harness::{Cluster, Copies, MINUTE, Readers, SOON, VolumeSpec, wait_until};
use larder_tests::stub::StubS3;

const CHUNK: u64 = 64 * 1024;
const FILE: u64 = 4 * CHUNK;
const FILES: u64 = 120;

fn state(cluster: &Cluster, node: &str) -> (String, i64) {
    let nodes = cluster.get("cn");
    let found = nodes.iter().find(|object| object["spec"]["nodeName"] == node).expect("it is shown");
    let status = &found["status"];
    (status["state"].as_str().unwrap_or_default().to_owned(), status["slots"].as_i64().unwrap_or_default())
}

/// docs/FAULTS.md, row 2.
#[test]
fn a_node_that_drains_under_load_hands_over_what_only_it_has() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let keys: Vec<String> = (0..FILES).map(|number| format!("f{number}")).collect();
    for key in &keys {
        stub.put_pattern(key, 1, FILE);
    }
    let volume = VolumeSpec::s3("data", &stub).chunk_size("64Ki").read_ahead("0");
    let cluster = Cluster::builder().alone().min_nodes(2).replicas(1).volume(volume).up();
    cluster.wait_settled(&["n1", "n2", "n3"]);
    let readers = Readers::start(vec![cluster.mount("n1", "data")], &keys);
    readers.wait_for_more(FILES);
    readers.end();
    let chunks = FILES * FILE / CHUNK;
    cluster.wait_copies(Copies { chunks, replicas: 1 });
    let on_it = cluster.metrics("n3").sum("larder_store_chunks", &[]);
    assert!(on_it > chunks / 5, "{on_it} of {chunks} chunks are on n3 alone");
    stub.reset_counters();

    let readers = Readers::start(vec![cluster.mount("n1", "data"), cluster.mount("n3", "data")], &keys);
    let told = cluster.larder(&["drain", "n3"], SOON).ok();
    assert!(told.contains("n3 hands over"), "{told}");
    wait_until(MINUTE, "n3 has handed over all and is Gone", || state(&cluster, "n3") == ("Gone".to_owned(), 0));
    readers.wait_for_more(FILES);
    readers.end();
    assert_eq!(cluster.metrics("n3").sum("larder_copies_total", &[("outcome", "given")]), on_it);
    // Without it nothing is missing.
    cluster.kill("n3");
    let readers = Readers::start(vec![cluster.mount("n1", "data"), cluster.mount("n2", "data")], &keys);
    readers.wait_for_more(2 * FILES);
    readers.end();
    assert_eq!(stub.counters().gets, 0, "nothing was asked of the origin again");

    cluster.up_again().ok();
    let told = cluster.larder(&["undrain", "n3"], SOON).ok();
    assert!(told.contains("n3 stays"), "{told}");
    wait_until(MINUTE, "n3 owns slots again", || {
        let (state, slots) = state(&cluster, "n3");
        state == "Serving" && slots > 4_000
    });
    cluster.wait_settled(&["n1", "n2", "n3"]);
}

#[test]
fn a_drain_is_cancelled_and_the_last_node_is_not_drained() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put("file", "content");
    let cluster = Cluster::builder().nodes(2).replicas(1).min_nodes(1).volume(VolumeSpec::s3("data", &stub)).up();
    wait_until(MINUTE, "both own slots", || (1..=2).all(|n| state(&cluster, &format!("n{n}")).1 > 8_000));
    assert_eq!(cluster.read("n1", "data", "file").unwrap(), b"content");
    let refused = cluster.larder(&["drain", "n9"], SOON);
    assert!(refused.status.code() == Some(1) && refused.err.contains("no node \"n9\""), "{refused:?}");
    cluster.larder(&["drain", "n2"], SOON).ok();
    let refused = cluster.larder(&["drain", "n1"], SOON);
    assert!(refused.status.code() == Some(1) && refused.err.contains("no other node"), "{refused:?}");
    wait_until(SOON, "n1 owns all slots", || state(&cluster, "n1").1 == 16_384);
    cluster.larder(&["undrain", "n2"], SOON).ok();
    wait_until(MINUTE, "n2 owns its part again", || {
        let (state, slots) = state(&cluster, "n2");
        state == "Serving" && slots > 8_000
    });
    assert_eq!(cluster.read("n2", "data", "file").unwrap(), b"content");
    assert_eq!(stub.counters().key(stub.bucket(), "file").gets, 1);
}
