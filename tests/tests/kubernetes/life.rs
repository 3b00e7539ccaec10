//! A node's life as Kubernetes tells it: cordons, taints, deletion; and a cluster that is made again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder_tests::harness::{MINUTE, program, within};
use larder_tests::kit::{Operator, wait_for, wait_until};
use serde_json::{Value, json};

use super::agents::Agents;
use super::{pods, wait_gone};

fn target(world: &Agents, node: &str) -> (String, String) {
    let target = &world.status(node)["target"];
    let text = |field: &str| target[field].as_str().unwrap_or_default().to_owned();
    (text("state"), text("reason"))
}

fn is_target(world: &Agents, node: &str, state: &str, reason: &str) -> bool {
    target(world, node) == (state.to_owned(), reason.to_owned())
}

/// Slots that a node owns, by its status.
fn slots(world: &Agents, node: &str) -> u64 {
    world.status(node)["slots"].as_u64().unwrap_or(0)
}

fn is_serving(world: &Agents, node: &str) -> bool {
    world.status(node)["state"] == "Serving" && slots(world, node) > 1_000
}

/// Slots that a node leads, by the published map: each run of slots names its owners, the lead first.
fn leads(world: &Agents, node: &str) -> u64 {
    let map = world.map();
    let runs = map["slots"].as_array().cloned().unwrap_or_default();
    let led = runs.iter().filter(|run| run["owners"][0] == node);
    led.map(|run| run["last"].as_u64().expect("a slot") - run["first"].as_u64().expect("a slot") + 1).sum()
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn cordons_taints_and_requests_do_what_they_say() {
    let world = Agents::begin(json!({"minNodes": 2, "drain": {"afterCordon": "20s", "timeout": "1m"}}));
    let kubectl = world.kubectl();
    wait_until(MINUTE, "all serve", || ["n1", "n2", "n3"].iter().all(|node| is_serving(&world, node)));
    let owned = slots(&world, "n1");
    assert!(leads(&world, "n1") > 1_000);

    kubectl.run(&["cordon", "n1"]).out();
    wait_until(MINUTE, "it is known to be cordoned", || is_target(&world, "n1", "Serving", "Cordoned"));
    wait_until(MINUTE, "it leads nothing", || leads(&world, "n1") == 0);
    assert_eq!(slots(&world, "n1"), owned, "and keeps its slots");
    wait_until(MINUTE, "after a while it leaves", || is_target(&world, "n1", "Gone", "Cordoned"));
    wait_until(MINUTE, "it owns nothing", || world.status("n1")["state"] == "Gone" && slots(&world, "n1") == 0);
    kubectl.run(&["uncordon", "n1"]).out();
    wait_until(MINUTE, "it is back", || is_serving(&world, "n1") && target(&world, "n1").0.is_empty());

    // All at once: nobody leaves, since nobody would stay.
    kubectl.run(&["cordon", "n1", "n2", "n3"]).out();
    wait_until(MINUTE, "all are to leave", || {
        ["n1", "n2", "n3"].iter().all(|node| is_target(&world, node, "Gone", "Cordoned"))
    });
    world.wait_serving();
    assert!(["n1", "n2", "n3"].iter().all(|node| is_serving(&world, node)));
    kubectl.run(&["uncordon", "n1", "n2", "n3"]).out();
    wait_until(MINUTE, "all lead again", || ["n1", "n2", "n3"].iter().all(|node| leads(&world, node) > 1_000));

    for taint in ["ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted"] {
        kubectl.run(&["taint", "node", "n2", &format!("{taint}=:NoSchedule")]).out();
        wait_until(MINUTE, taint, || is_target(&world, "n2", "Gone", "AutoscalerTaint"));
        wait_until(MINUTE, "it owns nothing", || world.status("n2")["state"] == "Gone");
        kubectl.run(&["taint", "node", "n2", &format!("{taint}-")]).out();
        wait_until(MINUTE, "it is back", || is_serving(&world, "n2"));
    }

    let plugin = |arguments: &[&str]| kubectl.own(&program("kubectl-larder"), arguments).out();
    assert!(plugin(&["remove", "n3"]).contains("fast.n3: Remove is asked for"));
    wait_until(MINUTE, "it is Gone at once", || world.status("n3")["state"] == "Gone" && slots(&world, "n3") == 0);
    assert!(is_target(&world, "n3", "Gone", "Requested"));
    plugin(&["undrain", "n3"]);
    wait_until(MINUTE, "it serves again", || is_serving(&world, "n3"));
    world.wait_serving();
    let offered = kubectl.own(&program("kubectl-larder"), &["__complete", "drain", ""]).out();
    assert!(offered.contains("n1\nn2\nn3\n:4"), "{offered}");
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn a_node_that_is_made_again_has_its_bytes() {
    let mut world = Agents::begin(json!({"minNodes": 2}));
    wait_until(MINUTE, "the last node has mounted it too", || {
        world.kubectl().get("cv", "data").is_some_and(|volume| volume["status"]["mounts"] == "3/3")
    });
    let file = world.agent(3).mounts.join("data/a/file");
    let read = within(MINUTE, "reading", move || std::fs::read(file)).expect("reads");
    let cached = |world: &Agents| world.status("n3")["stores"][0]["used"].as_str().unwrap_or("0").to_owned();
    let known = || {
        let status = world.status("n3");
        Some((status["nodeUID"].as_str()?.to_owned(), status["nodeId"].as_u64()?))
    };
    let (uid, id) = wait_for(MINUTE, "it is known", known);
    wait_until(MINUTE * 2, "its store is counted", || !cached(&world).starts_with('0'));

    world.kubectl().run(&["delete", "node", "n3"]).out();
    wait_until(MINUTE, "it is to leave", || target(&world, "n3") == ("Gone".into(), "NodeDeleted".into()));
    world.stop_agent(3);
    // What the pod garbage collector does after a while.
    let is_its = |pod: &Value| pod["spec"]["nodeName"] == "n3";
    for pod in pods(world.kubectl(), "larder.dev/cluster=fast").iter().filter(|pod| is_its(pod)) {
        let name = pod["metadata"]["name"].as_str().expect("named");
        world.kubectl().run(&["delete", "pod", name, "--force", "--grace-period=0", "--ignore-not-found"]).out();
    }
    wait_gone(world.kubectl(), "cn", "fast.n3");
    world.plane.node("n3", &[("disk", "nvme"), ("topology.kubernetes.io/zone", "c")]);
    let gets = world.stub.counters().gets;
    world.start_agent(3);
    wait_until(MINUTE * 2, "it serves again", || is_serving(&world, "n3"));
    assert!(world.status("n3")["nodeUID"] != uid.as_str() && world.status("n3")["nodeId"].as_u64() > Some(id));
    world.wait_serving();
    let file = world.agent(3).mounts.join("data/a/file");
    let again = within(MINUTE, "reading", move || std::fs::read(file)).expect("reads");
    assert!(again == read);
    assert_eq!(world.stub.counters().gets, gets, "nothing is asked of the bucket twice");
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn a_cluster_that_is_made_again_goes_on_above_its_epochs_and_is_warm() {
    let mut world = Agents::begin(json!({}));
    let read = |world: &Agents| {
        let file = world.agent(1).mounts.join("data/a/file");
        within(MINUTE, "reading", move || std::fs::read(file)).expect("reads").len()
    };
    assert_eq!(read(&world), 3_000_000);
    // A few epochs more.
    for (change, leads_some) in [("cordon", false), ("uncordon", true)] {
        world.kubectl().run(&[change, "n1"]).out();
        wait_until(MINUTE, "the map follows", || (leads(&world, "n1") > 0) == leads_some);
    }
    wait_until(MINUTE, "the status follows", || world.epoch() >= 3);
    let epoch = world.epoch();
    let gets = world.stub.counters().gets;
    (1..=3).for_each(|number| world.stop_agent(number));
    world.kubectl().run(&["delete", "cv/data", "cc/fast", "--timeout=60s"]).out();
    drop(world.kubectl().try_run(&["delete", "pods", "--all", "--force", "--grace-period=0"]));
    for (kind, name) in [("secret", "fast-ca"), ("configmap", "fast-map"), ("daemonset", "fast-nvme")] {
        wait_gone(world.kubectl(), kind, name);
    }
    drop(world.kubectl().try_run(&["delete", "pods", "--all", "--force", "--grace-period=0"]));
    world.apply();
    world.start_agents();
    world.wait_serving();
    wait_until(MINUTE, "the status follows", || world.epoch() > 0);
    assert!(world.epoch() > epoch, "{} follows {epoch}", world.epoch());
    assert_eq!(read(&world), 3_000_000);
    assert_eq!(world.stub.counters().gets, gets, "what was cached is");
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn another_ca_takes_the_place_of_the_first_while_agents_serve() {
    let world = Agents::begin(json!({}));
    // One look: what is asked for key by key is of several moments.
    let secret = || world.kubectl().get("secret", "fast-ca").expect("there")["data"].clone();
    let first = secret()["ca.pem"].clone();
    let said = world.kubectl().own(&program("kubectl-larder"), &["rotate-ca"]).out();
    assert!(said.contains("another CA is asked for"), "{said}");
    let epoch = world.epoch();
    let mut last = String::new();
    let mut steps = Vec::new();
    wait_until(MINUTE * 4, "another CA signs, and the first is trusted no more", || {
        world.deliver_trust();
        let there = secret();
        let now =
            ["ca.pem", "next.pem", "former.pem"].map(|key| there[key].as_str().is_some_and(|pem| !pem.is_empty()));
        let step = format!("{now:?}");
        if step != last {
            steps.push(now);
            last = step;
        }
        now == [true, false, false] && there["ca.pem"] != first
    });
    let wanted = [[true, true, false], [true, false, true], [true, false, false]];
    assert!(
        steps.ends_with(&wanted),
        "a new one beside the first, the first beside the new one, the new one: {steps:?}"
    );
    world.deliver_trust();
    world.wait_serving();
    wait_until(MINUTE, "the status follows", || world.epoch() > epoch);
    for number in 1..=3 {
        let file = world.agent(number).mounts.join("data/a/file");
        assert_eq!(within(MINUTE, "reading", move || std::fs::read(file)).expect("reads").len(), 3_000_000);
    }
    wait_until(MINUTE, "all serve", || ["n1", "n2", "n3"].iter().all(|node| is_serving(&world, node)));
    assert!(world.map()["epoch"].as_u64() > Some(epoch), "the map is believed by the new CA's certificate");
}

/// Leaders come and go, and agents find the next one; nobody is taken for silent meanwhile.
#[test]
#[ignore = "needs the kit: make test-k8s"]
fn leaders_change_under_load_and_nobody_becomes_suspect() {
    let mut world = Agents::begin(json!({}));
    wait_until(MINUTE, "all serve", || ["n1", "n2", "n3"].iter().all(|node| is_serving(&world, node)));
    wait_until(MINUTE, "the status follows", || world.epoch() > 0);
    let (epoch, stop) = (world.epoch(), Arc::new(AtomicBool::new(false)));
    let file = world.agent(1).mounts.join("data/a/file");
    let stopped = stop.clone();
    let reader = std::thread::spawn(move || {
        let mut reads = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            assert_eq!(std::fs::read(&file).expect("reads go on").len(), 3_000_000);
            reads += 1;
        }
        reads
    });
    for change in 0..3 {
        let next = Operator::start(&world.plane, &format!("leader-{change}"));
        wait_until(MINUTE, "the next waits", || next.log().contains("waiting for the lease"));
        world.operator.replace(next).expect("one leads").kill();
        let leads =
            |world: &Agents| world.operator.as_ref().is_some_and(|next| next.log().contains("this replica leads"));
        wait_until(MINUTE, "it leads", || leads(&world));
        let heard = |world: &Agents| {
            let log = world.operator.as_ref().map(Operator::log).unwrap_or_default();
            log.contains("a map authority listens")
        };
        wait_until(MINUTE, "it has an authority", || heard(&world));
        // Longer than silence is borne, and than a new authority waits before it counts it.
        let until = Instant::now() + Duration::from_secs(35);
        while Instant::now() < until {
            for node in ["n1", "n2", "n3"] {
                assert_eq!(world.status(node)["state"], "Serving", "{node} after change {change}");
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        assert_eq!(world.epoch(), epoch, "no map was needed");
    }
    world.wait_serving();
    stop.store(true, Ordering::Relaxed);
    assert!(reader.join().expect("no read failed") > 0);
}
