//! A whole zone dies: readers elsewhere see no error, and the copies that are left are made two again.

use larder_tests::harness::{Cluster, Copies, MINUTE, Readers, VolumeSpec, wait_until};
use larder_tests::stub::StubS3;

const CHUNK: u64 = 64 * 1024;
const FILE: u64 = 4 * CHUNK;
const FILES: u64 = 100;

fn short(cluster: &Cluster) -> (i64, i64) {
    let status = &cluster.get("cc")[0]["status"];
    (status["slots"]["short"].as_i64().unwrap_or(-1), status["shortCopies"].as_i64().unwrap_or(-1))
}

/// docs/FAULTS.md, rows 1 and 2.
#[test]
fn a_zone_is_lost_and_the_copies_that_are_left_become_two_again() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let keys: Vec<String> = (0..FILES).map(|number| format!("f{number}")).collect();
    for key in &keys {
        stub.put_pattern(key, 1, FILE);
    }
    let volume = VolumeSpec::s3("data", &stub).chunk_size("64Ki").read_ahead("0");
    let cluster = Cluster::builder().alone().nodes(6).loss_grace("8s").volume(volume).up();
    cluster.wait_settled(&["n1", "n2", "n3", "n4", "n5", "n6"]);
    let readers = Readers::start(vec![cluster.mount("n1", "data")], &keys);
    readers.wait_for_more(FILES);
    readers.end();
    cluster.wait_copies(Copies { chunks: FILES * FILE / CHUNK, replicas: 2 });
    stub.reset_counters();

    // Zone c is n3 and n6.
    let readers = Readers::start(vec![cluster.mount("n1", "data"), cluster.mount("n2", "data")], &keys);
    readers.wait_for_more(10);
    cluster.kill("n3");
    cluster.kill("n6");
    wait_until(MINUTE, "slots are seen to be short", || short(&cluster).0 > 0);
    readers.wait_for_more(FILES);
    cluster.wait_settled(&["n1", "n2", "n4", "n5"]);
    wait_until(MINUTE, "nothing is short", || short(&cluster) == (0, 0));
    cluster.wait_condition("cc", cluster.cluster_name(), "Degraded", "AllCopies");
    readers.wait_for_more(FILES);
    readers.end();
    assert!(cluster.sum_of(&["n1", "n2", "n4", "n5"], "larder_copies_given_bytes_total") > 0, "copies were made");

    // Zone b dies too: what zone a has is everything.
    cluster.kill("n2");
    cluster.kill("n5");
    let readers = Readers::start(vec![cluster.mount("n1", "data"), cluster.mount("n4", "data")], &keys);
    readers.wait_for_more(2 * FILES);
    readers.end();
    assert_eq!(stub.counters().gets, 0, "the origin was asked for nothing again");
}
