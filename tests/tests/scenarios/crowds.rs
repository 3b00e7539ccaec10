//! Clients that connect and do nothing: whoever has something to do is served beside them.

use std::net::TcpStream;

use larder_tests::harness::{Cluster, Copies, MINUTE, Readers, VolumeSpec, wait_until};
use larder_tests::stub::StubS3;

const IDLE: usize = 10_000;
/// More than may shake hands, and than the admin port serves, at a time.
const LATEST: usize = 600;
const CHUNK: u64 = 64 * 1024;
const FILES: u64 = 40;

fn connect(port: u16, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect()
}

/// Descriptors and resident bytes of a node's agent.
fn holds(cluster: &Cluster, node: &str) -> (usize, u64) {
    let pid = cluster.agent_pid(node);
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    (descriptors, pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096)
}

/// docs/FAULTS.md, row 19.
#[test]
fn ten_thousand_idle_clients_hold_nobody_out() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let keys: Vec<String> = (0..FILES).map(|number| format!("f{number}")).collect();
    for key in &keys {
        stub.put_pattern(key, 1, CHUNK);
    }
    let volume = VolumeSpec::s3("data", &stub).chunk_size("64Ki");
    let cluster = Cluster::builder().alone().nodes(2).replicas(1).volume(volume).up();
    let read_all = || {
        let readers = Readers::start(vec![cluster.mount("n1", "data")], &keys);
        readers.wait_for_more(FILES);
        readers.end();
    };
    read_all();
    cluster.wait_copies(Copies { chunks: FILES, replicas: 1 });
    stub.reset_counters();
    let (descriptors, resident) = holds(&cluster, "n2");

    let (peers, admin) = (cluster.peer_port("n2"), cluster.admin_port("n2"));
    let mut idle = connect(peers, IDLE);
    idle.extend(connect(admin, LATEST));
    idle.extend(connect(peers, LATEST));
    // Its connections to n2 are new ones.
    cluster.restart(&["n1"]);
    read_all();
    assert_eq!(stub.counters().gets, 0, "n2 answered");
    let given_up = || {
        let handshakes = |outcome| cluster.metrics("n2").sum("larder_handshakes_total", &[("outcome", outcome)]);
        handshakes("crowded_out") + handshakes("timed_out")
    };
    wait_until(MINUTE, "all idle clients are given up", || given_up() >= (IDLE + LATEST) as u64);
    let (descriptors_after, resident_after) = holds(&cluster, "n2");
    println!("{descriptors} descriptors before, {descriptors_after} after; {resident} bytes, {resident_after}");
    assert!(descriptors_after < descriptors + 100, "{descriptors} descriptors before, {descriptors_after} after");
    assert!(resident_after < resident + (64 << 20), "{resident} bytes before, {resident_after} after");
}
