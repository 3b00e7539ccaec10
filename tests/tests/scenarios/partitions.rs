//! Networks that are really cut: packets to a node, or from it, or both, or between all, don't arrive, for a while or again
//! and again.
//!
//! What is promised is a bound of two seconds; what was measured is printed. A busy machine adds its own seconds: the bound
//! itself is judged by `make test-long`, which runs this alone, and on simulated time, for each read
//! (`agent/src/world/cuts.rs`).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use larder_tests::harness::{Cluster, Copies, Cut, Readers, VolumeSpec, in_network_of_its_own};
use larder_tests::stub::StubS3;

const CHUNK: u64 = 64 * 1024;
const FILE: u64 = 4 * CHUNK;
const FILES: usize = 80;

/// What is promised,
const PROMISED: Duration = Duration::from_secs(2);

/// and what is borne where others use the machine, too: far below a read's deadline of 30 s.
const BORNE: Duration = Duration::from_secs(10);

/// `LARDER_ALONE`: nothing else runs on this machine.
fn bound() -> Duration {
    if std::env::var_os("LARDER_ALONE").is_some() { PROMISED } else { BORNE }
}

/// Longer than the authority takes to suspect a node, and than a circuit is open.
const CUT_FOR: Duration = Duration::from_secs(5);

fn authority_port(cluster: &Cluster) -> u16 {
    let text = std::fs::read_to_string(cluster.node_dir("n1").join("agent.yaml")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("authority: ")).unwrap().to_owned();
    line.rsplit_once(':').unwrap().1.trim_matches('\'').parse().unwrap()
}

/// Reads on `nodes` while `cut` happens; the longest read of those that began meanwhile.
fn longest_during(cluster: &Cluster, nodes: &[&str], keys: &[String], cut: impl Fn(&Readers)) -> Duration {
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

/// Cuts, and mends, and waits until all is well again.
fn within_the_bound(cluster: &Cluster, keys: &[String], what: &str, cut: impl Fn(&Readers)) {
    // No memory holds anything: what isn't on a node's own disk comes from another.
    cluster.restart(&ALL);
    let longest = longest_during(cluster, &ALL, keys, &cut);
    println!("{what}: the longest read took {longest:?}");
    assert!(longest < bound(), "{what}: a read waited {longest:?}");
    cluster.wait_settled(&ALL);
}

const ALL: [&str; 3] = ["n1", "n2", "n3"];

/// What these cuts dropped while `work` was done is more than nothing.
fn while_cut(cuts: Vec<Cut>, readers: &Readers) {
    let before = Cut::dropped();
    for_a_while(readers, CUT_FOR);
    assert!(Cut::dropped() > before, "nobody met the cut");
    drop(cuts);
}

/// docs/FAULTS.md, rows 8 and 10.
#[test]
fn reads_go_on_while_packets_to_or_from_a_node_or_the_authority_are_lost() {
    in_network_of_its_own(|| {
        let stub = StubS3::builder().start_blocking().unwrap();
        let keys: Vec<String> = (0..FILES).map(|number| format!("f{number}")).collect();
        for key in &keys {
            stub.put_pattern(key, 1, FILE);
        }
        // Names are asked for again and again too.
        let volume = VolumeSpec::s3("data", &stub).chunk_size("64Ki").read_ahead("0").freshness("1s");
        let cluster = Cluster::builder().alone().volume(volume).up();
        let readers = Readers::start(vec![cluster.mount("n1", "data")], &keys);
        readers.wait_for_more(FILES as u64);
        readers.end();
        cluster.wait_copies(Copies { chunks: FILES as u64 * FILE / CHUNK, replicas: 2 });
        stub.reset_counters();
        let ports = ALL.map(|node| cluster.peer_port(node));
        let n3 = ports[2];

        within_the_bound(&cluster, &keys, "to n3", |readers| while_cut(vec![Cut::to(n3)], readers));
        within_the_bound(&cluster, &keys, "from n3", |readers| while_cut(vec![Cut::from(n3)], readers));
        within_the_bound(&cluster, &keys, "to and from n3", |readers| {
            while_cut(vec![Cut::to(n3), Cut::from(n3)], readers);
        });
        within_the_bound(&cluster, &keys, "to n3, again and again", |readers| {
            for _ in 0..5 {
                let cut = Cut::to(n3);
                for_a_while(readers, Duration::from_millis(700));
                drop(cut);
                for_a_while(readers, Duration::from_millis(700));
            }
        });
        within_the_bound(&cluster, &keys, "the authority", |readers| {
            let port = authority_port(&cluster);
            while_cut(vec![Cut::to(port), Cut::from(port)], readers);
        });
        within_the_bound(&cluster, &keys, "one packet of ten to n3", |readers| {
            while_cut(vec![Cut::some_to(n3, 10)], readers);
        });
        assert_eq!(stub.counters().gets, 0, "every chunk had a copy that could be reached");
        within_the_bound(&cluster, &keys, "everybody from everybody", |readers| {
            while_cut(ports.iter().flat_map(|port| [Cut::to(*port), Cut::from(*port)]).collect(), readers);
        });
        assert!(stub.counters().gets > 0, "then there is the origin");
    });
}
