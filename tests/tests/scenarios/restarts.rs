//! Agents that all restart at once: Ready says when they have found each other again.

use std::time::{Duration, Instant};

use larder_tests::harness::{Cluster, Copies, MINUTE, VolumeSpec, mounts_below, wait_until};
use larder_tests::stub::{StubS3, pattern};

const CHUNK: u64 = 64 * 1024;
const FILES: u64 = 12;

/// Once an agent serves again, everything is as warm as it was.
const WARM_WITHIN: Duration = Duration::from_secs(10);

/// Whether agents come back on the ports they had.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Back {
    OnTheirPorts,
    Elsewhere,
}

fn peer_ports(cluster: &Cluster) -> Vec<u16> {
    cluster.node_names().iter().map(|node| cluster.peer_port(node)).collect()
}

#[test]
fn once_ready_again_no_read_goes_past_the_peers_to_the_origin() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let keys: Vec<String> = (0..FILES).map(|number| format!("f{number}")).collect();
    for key in &keys {
        stub.put_pattern(key, 1, 4 * CHUNK);
    }
    let volume = VolumeSpec::s3("data", &stub).chunk_size("64Ki").read_ahead("0");
    let cluster = Cluster::builder().alone().volume(volume).up();
    let nodes = cluster.node_names();
    let read_all = |node: &str| {
        for key in &keys {
            pattern::check_version(key, 1, 0, &cluster.read(node, "data", key).unwrap()).unwrap();
        }
    };
    read_all("n1");
    cluster.wait_copies(Copies { chunks: FILES * 4, replicas: 2 });
    for back in [Back::Elsewhere, Back::OnTheirPorts, Back::Elsewhere] {
        let (ports, epoch) = (peer_ports(&cluster), cluster.map()["epoch"].clone());
        if back == Back::Elsewhere {
            for node in &nodes {
                std::fs::remove_file(cluster.node_dir(node).join("agent/ports.json")).unwrap();
            }
        }
        stub.reset_counters();
        cluster.restart(&nodes.iter().map(String::as_str).collect::<Vec<_>>());
        let again = peer_ports(&cluster);
        match back {
            Back::OnTheirPorts => assert_eq!(again, ports),
            Back::Elsewhere => assert_ne!(again, ports),
        }
        let back = Instant::now();
        nodes.iter().for_each(|node| read_all(node));
        assert_eq!(stub.counters().gets, 0, "every chunk has two copies, and every peer is known");
        assert!(back.elapsed() < WARM_WITHIN, "{:?}", back.elapsed());
        println!("epoch {epoch} before, {} after", cluster.map()["epoch"]);
    }
}

/// docs/FAULTS.md, row 24.
#[test]
fn without_the_authority_agents_restart_elsewhere_and_cold_and_warm_reads_work() {
    let stub = StubS3::builder().start_blocking().unwrap();
    for key in ["warm", "cold"] {
        stub.put_pattern(key, 1, 4 * CHUNK);
    }
    let volume = VolumeSpec::s3("data", &stub).chunk_size("64Ki").read_ahead("0");
    let mut cluster = Cluster::builder().volume(volume).up();
    let nodes = cluster.node_names();
    let read = |cluster: &Cluster, node: &str, key: &str| {
        pattern::check_version(key, 1, 0, &cluster.read(node, "data", key).unwrap()).unwrap();
    };
    read(&cluster, "n1", "warm");
    cluster.wait_copies(Copies { chunks: 4, replicas: 2 });
    let ports = peer_ports(&cluster);
    cluster.crash();
    for node in &nodes {
        std::fs::remove_file(cluster.node_dir(node).join("agent/ports.json")).unwrap();
        std::fs::remove_file(cluster.node_dir(node).join("agent/ready.json")).unwrap_or_default();
    }
    let agents = cluster.start_agents();
    wait_until(MINUTE, "every agent serves what it had mounted", || {
        let served = |node: &String| std::fs::metadata(cluster.mount(node, "data").join("warm")).is_ok();
        mounts_below(&cluster.dir()).len() >= nodes.len() && nodes.iter().all(served)
    });
    assert_ne!(peer_ports(&cluster), ports, "they are elsewhere");
    for node in &nodes {
        read(&cluster, node, "warm");
        read(&cluster, node, "cold");
    }
    assert!(stub.counters().key(stub.bucket(), "cold").gets >= 4);
    for mut agent in agents {
        agent.kill().and_then(|()| agent.wait()).expect("our own child");
    }
    larder_tests::harness::remove_traces(&cluster.dir());
}
