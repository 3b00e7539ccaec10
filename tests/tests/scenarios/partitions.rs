//! Networks that are really cut: packets to a node, or from it, don't arrive, for a while or again and again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use larder_tests::harness::{Cluster, Copies, Cut, Readers, VolumeSpec, in_network_of_its_own};
use larder_tests::stub::StubS3;

const CHUNK: u64 = 64 * 1024;
const FILE: u64 = 4 * CHUNK;
const FILES: usize = 80;

/// Far above the two seconds that are promised, far below a read's deadline of 30 s: nothing fails because a machine is
/// slow.
const LONGEST: Duration = Duration::from_secs(10);

/// The port in a file of a node's folder.
fn peer_port(cluster: &Cluster, node: &str) -> u16 {
    let text = std::fs::read(cluster.node_dir(node).join("agent/ready.json")).unwrap();
    let ready: serde_json::Value = serde_json::from_slice(&text).unwrap();
    ready["peerPort"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap()
}

fn authority_port(cluster: &Cluster) -> u16 {
    let text = std::fs::read_to_string(cluster.node_dir("n1").join("agent.yaml")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("authority: ")).unwrap().to_owned();
    line.rsplit_once(':').unwrap().1.trim_matches('\'').parse().unwrap()
}

/// Reads on `nodes` while `cut` happens; the longest read of those that began meanwhile.
fn longest_during(cluster: &Cluster, nodes: &[&str], keys: &[String], cut: impl FnOnce(&Readers)) -> Duration {
    let mounts: Vec<PathBuf> = nodes.iter().map(|node| cluster.mount(node, "data")).collect();
    let readers = Readers::start(mounts, keys);
    readers.wait_for_more(4);
    let began = Instant::now();
    cut(&readers);
    readers.wait_for_more(keys.len() as u64);
    readers.stop(began).1
}

fn for_a_while(readers: &Readers, how_long: Duration) {
    let until = Instant::now() + how_long;
    while Instant::now() < until {
        readers.wait_for_more(10);
    }
}

/// docs/FAULTS.md, row 8.
#[test]
#[ignore = "iptables took more than ten seconds beside the readers on two cores: run by hand until that is understood"]
fn reads_go_on_while_packets_to_or_from_a_node_or_the_authority_are_lost() {
    in_network_of_its_own(|| {
        let stub = StubS3::builder().start_blocking().unwrap();
        let keys: Vec<String> = (0..FILES).map(|number| format!("f{number}")).collect();
        for key in &keys {
            stub.put_pattern(key, 1, FILE);
        }
        let volume = VolumeSpec::s3("data", &stub).chunk_size("64Ki").read_ahead("0");
        let cluster = Cluster::builder().alone().volume(volume).up();
        let readers = Readers::start(vec![cluster.mount("n1", "data")], &keys);
        readers.wait_for_more(FILES as u64);
        readers.end();
        cluster.wait_copies(Copies { chunks: FILES as u64 * FILE / CHUNK, replicas: 2 });
        cluster.restart(&["n1", "n2", "n3"]);
        stub.reset_counters();
        let n3 = peer_port(&cluster, "n3");

        let all = ["n1", "n2", "n3"];
        let to = longest_during(&cluster, &all, &keys, |readers| {
            let _cut = Cut::to(n3);
            for_a_while(readers, Duration::from_secs(8));
            assert!(Cut::dropped() > 0, "nobody asked n3");
        });
        let from = longest_during(&cluster, &all, &keys, |readers| {
            let _cut = Cut::from(n3);
            for_a_while(readers, Duration::from_secs(8));
            assert!(Cut::dropped() > 0, "n3 answered nobody");
        });
        let flapping = longest_during(&cluster, &all, &keys, |readers| {
            for _ in 0..5 {
                let cuts = (Cut::to(n3), Cut::from(n3));
                for_a_while(readers, Duration::from_millis(700));
                drop(cuts);
                for_a_while(readers, Duration::from_millis(700));
            }
        });
        let authority = longest_during(&cluster, &all, &keys, |readers| {
            let port = authority_port(&cluster);
            let _cuts = (Cut::to(port), Cut::from(port));
            for_a_while(readers, Duration::from_secs(8));
            assert!(Cut::dropped() > 0, "nobody reported");
        });
        println!(
            "the longest read while packets were lost: to n3 {to:?}, from n3 {from:?}, again and again {flapping:?}, to the authority {authority:?}"
        );
        for longest in [to, from, flapping, authority] {
            assert!(longest < LONGEST, "a read waited {longest:?}");
        }
        assert_eq!(stub.counters().gets, 0, "every chunk had a copy that could be reached");
        cluster.wait_settled(&all);
    });
}
