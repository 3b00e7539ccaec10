//! Directories of small files: what reading them asks of the origin.

use std::time::Duration;

use larder_tests::harness::{Cluster, VolumeSpec};
use larder_tests::stub::{Operation, StubS3, pattern};

const FILES: usize = 600;
const SIZE: usize = 20_000;

fn key(number: usize) -> String {
    format!("train/sample-{number:04}")
}

/// Every position once, far from its neighbours.
fn shuffled() -> impl Iterator<Item = usize> {
    (0..FILES).map(|step| step * 223 % FILES)
}

fn read(cluster: &Cluster, node: &str, number: usize) {
    let mut wanted = vec![0; SIZE];
    pattern::fill(&key(number), 1, 0, &mut wanted);
    assert!(cluster.read(node, "data", &key(number)).unwrap() == wanted, "{}", key(number));
}

#[test]
fn shuffled_readers_of_a_directory_cost_one_get_a_file_and_no_head_a_file() {
    let stub = StubS3::builder().latency(Duration::from_millis(20)).start_blocking().unwrap();
    (0..FILES).for_each(|number| drop(stub.put_pattern(&key(number), 1, SIZE as u64)));
    let cluster = Cluster::builder().alone().volume(VolumeSpec::s3("data", &stub)).up();
    let order: Vec<usize> = shuffled().collect();
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let (cluster, order) = (&cluster, &order);
            scope.spawn(move || order.iter().skip(reader).step_by(4).for_each(|number| read(cluster, "n1", *number)));
        }
    });
    let counters = stub.counters();
    assert_eq!(counters.gets, FILES as u64, "each file once");
    assert!(counters.of(Operation::HeadObject) <= 100, "{} HEADs", counters.of(Operation::HeadObject));
    for node in cluster.node_names() {
        order.iter().step_by(50).for_each(|number| read(&cluster, &node, *number));
    }
    assert_eq!(stub.counters().gets, FILES as u64, "nothing is fetched again, on any node");
}
