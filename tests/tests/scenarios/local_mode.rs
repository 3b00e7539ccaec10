//! What `larder up` says on its terminal and in conditions, without anybody reading a file; more and fewer nodes.

use std::collections::BTreeSet;
use std::time::SystemTime;

use larder_tests::harness::{Cluster, Copies, MINUTE, SOON, VolumeSpec, mounts_below, wait_until};
use larder_tests::stub::{StubS3, pattern};
use serde_json::Value;

#[test]
fn is_up_means_that_the_mounts_serve_and_a_bad_origin_is_told_at_once() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put("file", "content");
    let bad = VolumeSpec::bucket("nowhere", &stub.endpoint(), "not-there").keys(stub.access_key(), stub.secret_key());
    let cluster = Cluster::builder().volume(VolumeSpec::s3("good", &stub)).volume(bad).start();
    assert_eq!(mounts_below(&cluster.dir()).len(), 6, "both volumes on every node");
    assert_eq!(cluster.condition("cv", "good", "Ready"), Some(("True".into(), "Serving".into())));
    let up = seconds();
    // Nobody has read anything.
    assert_eq!(cluster.sum("larder_reads_total", &[]), 0);
    cluster.wait_condition("cv", "good", "OriginReachable", "Reachable");
    cluster.wait_condition("cv", "nowhere", "OriginReachable", "NoSuchBucket");
    let line =
        "volume default/nowhere: NoSuchBucket: the bucket, container or directory does not exist: mend spec.origin";
    wait_until(SOON, "the terminal names the volume", || cluster.terminal().contains(line));
    assert_eq!(cluster.terminal().matches(line).count(), 1, "once: {}", cluster.terminal());
    assert_eq!(cluster.condition("cv", "nowhere", "Ready").unwrap().0, "True", "still up");

    // The condition changed when it did, not when it was asked for.
    wait_until(SOON, "two seconds have passed", || seconds() >= up + 2);
    let ready = cluster.get("cc")[0].pointer("/status/conditions/0").cloned().unwrap_or(Value::Null);
    let since: String = ready["lastTransitionTime"].as_str().unwrap_or_default().to_owned();
    let since = humantime(&since);
    assert!(since <= up + 1, "Ready since {since}, up at {up}");
}

/// Seconds since the epoch, now.
fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// The same of a condition's time.
fn humantime(text: &str) -> u64 {
    let ran = std::process::Command::new("date").args(["-u", "+%s", "-d", text]).output().unwrap();
    String::from_utf8(ran.stdout).unwrap().trim().parse().unwrap_or_else(|_| panic!("a time: {text:?}"))
}

#[test]
fn an_origin_that_comes_back_is_known_to_be_back_without_a_read() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let volume = |secret: &str| VolumeSpec::s3("data", &stub).keys(stub.access_key(), secret);
    let mut cluster = Cluster::builder().nodes(1).replicas(1).volume(volume("wrong")).up();
    cluster.wait_condition("cv", "data", "OriginReachable", "BadCredentials");
    let right = volume(stub.secret_key());
    cluster.apply(|_| Cluster::builder().nodes(1).replicas(1).volume(right)).ok();
    cluster.wait_condition("cv", "data", "OriginReachable", "Reachable");
    wait_until(SOON, "the terminal says so", || {
        cluster.terminal().contains("volume default/data: the origin answers again")
    });
}

#[test]
fn a_death_and_a_return_are_told() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let cluster = Cluster::builder().min_nodes(2).volume(VolumeSpec::s3("data", &stub)).up();
    // Who comes after the first map waits for others that may come too.
    wait_until(MINUTE, "n3 has slots", || state(&cluster, "n3").as_deref() == Some("Serving"));
    cluster.kill("n3");
    let log = cluster.node_dir("n3").join("agent.log");
    let line = format!("node n3 is down: its agent was killed by SIGKILL; its log: {}", log.display());
    wait_until(SOON, "the terminal says who died, how, and where its log is", || cluster.terminal().contains(&line));
    let status = cluster.larder(&["status"], SOON).ok();
    assert!(status.contains("node n3: AgentEnded: its agent was killed by SIGKILL"), "{status}");
    // Silent for 3 s: others lead its slots.
    wait_until(SOON, "n3 is suspect", || state(&cluster, "n3").as_deref() == Some("Suspect"));
    cluster.up_again().ok();
    wait_until(MINUTE, "n3 serves again", || state(&cluster, "n3").as_deref() == Some("Serving"));
    wait_until(SOON, "the terminal says that it is back", || cluster.terminal().contains("node n3 is back (pid "));
}

/// A node's state in the map.
fn state(cluster: &Cluster, node: &str) -> Option<String> {
    let map = cluster.map();
    let found = map["nodes"].as_array()?.iter().find(|listed| listed["name"] == node)?;
    found["state"].as_str().map(str::to_owned)
}

/// Names of the nodes in the map, and of the owners of its slots.
fn in_map(map: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nodes = map["nodes"].as_array().into_iter().flatten().map(|node| text(&node["name"]));
    let slots = map["slots"].as_array().into_iter().flatten();
    let owners = slots.flat_map(|run| run["owners"].as_array().into_iter().flatten()).map(text);
    (nodes.collect(), owners.collect())
}

#[test]
fn a_node_that_is_no_longer_wanted_leaves_the_map() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put("file", "content");
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    let mut cluster = Cluster::builder().min_nodes(2).volume(VolumeSpec::s3("data", &stub)).up();
    // The first map takes minNodes; who comes a moment later enters 5 s after.
    wait_until(MINUTE, "all three own slots", || in_map(&cluster.map()).1.len() == 3);
    let few = cluster.apply(|spec| spec.nodes(1));
    assert_eq!(few.status.code(), Some(1), "{few:?}");
    assert!(few.err.contains("--nodes 1") && few.err.contains("minNodes, 2"), "{few:?}");
    assert_eq!(in_map(&cluster.map()).0, names(&["n1", "n2", "n3"]), "nothing was begun");

    // From a running cluster.
    cluster.apply(|spec| spec.nodes(2)).ok();
    wait_until(MINUTE, "n3 is out of the map, its slots are others'", || {
        in_map(&cluster.map()) == (names(&["n1", "n2"]), names(&["n1", "n2"]))
    });
    cluster.wait_ready();
    wait_until(SOON, "its mount is gone", || mounts_below(&cluster.dir()).len() == 2);
    assert!(cluster.terminal().contains("node n3 has left the map; its cache stays in "), "{}", cluster.terminal());
    assert_eq!(cluster.read("n2", "data", "file").unwrap(), b"content");

    // And at the next start; n3 is wanted again first.
    cluster.apply(|spec| spec.nodes(3)).ok();
    wait_until(MINUTE, "n3 owns slots again", || in_map(&cluster.map()).1.contains("n3"));
    cluster.wait_ready();
    cluster.down();
    cluster.respecify(|spec| spec.nodes(1));
    let words = cluster.try_up().expect_err("too few");
    assert!(words.contains("--nodes 1") && words.contains("minNodes, 2") && words.lines().count() == 1, "{words}");
    cluster.respecify(|spec| spec.nodes(2));
    cluster.up();
    cluster.wait_ready();
    let both = (names(&["n1", "n2"]), names(&["n1", "n2"]));
    wait_until(SOON, "n3 is out of the map again", || in_map(&cluster.map()) == both);
    assert_eq!(cluster.read("n1", "data", "file").unwrap(), b"content");
    // A bare `larder up FILE` keeps as many nodes as there are.
    let yaml = cluster.dir().parent().unwrap().join("cluster.yaml");
    cluster.larder(&["up", yaml.to_str().unwrap()], MINUTE).ok();
    assert_eq!(in_map(&cluster.map()).0, names(&["n1", "n2"]));
}

#[test]
fn a_client_reads_everything_and_stores_nothing() {
    let stub = StubS3::builder().bucket("data").start_blocking().unwrap();
    let keys: Vec<String> = (0..8).map(|file| format!("f{file}")).collect();
    keys.iter().for_each(|key| drop(stub.put_pattern(key, 1, 256 * 1024)));
    let volume = VolumeSpec::s3("data", &stub).chunk_size("64Ki").read_ahead("0");
    let cluster = Cluster::builder().nodes(2).clients(1).replicas(2).volume(volume).up();
    for key in &keys {
        let bytes = cluster.read("c1", "data", key).unwrap();
        pattern::check_version(key, 1, 0, &bytes).unwrap();
    }
    cluster.wait_copies(Copies { chunks: 32, replicas: 2 });
    assert_eq!(cluster.metrics("c1").sum("larder_store_chunks", &[]), 0);
    assert_eq!(stub.counters().gets, 32, "one GET per chunk");
    // minNodes, 2, counts the nodes with stores.
    cluster.kill("c1");
    wait_until(MINUTE, "the client is missed", || {
        cluster.get("cc")[0].pointer("/status/nodes/text").is_some_and(|text| text == "2/3")
    });
    assert_eq!(cluster.condition("cc", cluster.cluster_name(), "Ready").unwrap(), ("True".into(), "Serving".into()));
}
