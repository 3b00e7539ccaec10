//! What ends, and what goes on: agents, the operator, the API server, a node.

use std::time::Duration;

use larder_tests::kit::wait_until;
use serde_json::Value;

use super::readers::Readers;
use super::world::{PODS_WITHIN, World};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(120);

fn slots(world: &World) -> Vec<Value> {
    NODES.iter().map(|node| world.cache_node(node)["status"]["slots"].clone()).collect()
}

#[test]
#[ignore = "needs kubelets: make test-k8s"]
fn agents_and_nodes_end_and_others_read_on() {
    let mut world = World::begin();
    Readers::fill(&world);
    world.apply_example();
    let before = slots(&world);
    let readers = Readers::start(&world, &NODES);

    // A pod that is deleted is replaced by one with another address.
    let pod = world.agent_pod("n1");
    world.kubectl().run(&["delete", "pod", &pod]).out();
    wait_until(PODS_WITHIN, "the node has a new agent", || world.agent_pod("n1") != pod);
    world.wait_ready();
    readers.wait_for_progress(&world);
    let own = readers.assert_undisturbed(&world, &["n1"]);
    // A read that is under way when its mount goes is EIO: so says the kernel of a page that it waited for.
    let words = ["not connected", "No such file", "Input/output error"];
    let is_allowed = |line: &String| words.iter().any(|words| line.contains(words));
    assert!(own.iter().all(is_allowed), "{own:?}");

    // One that is killed is started again in its pod.
    world.kubernetes.kill("n2", "larder-agent serve");
    wait_until(PODS_WITHIN, "it is noticed", || world.restarts("n2") > 0);
    world.wait_ready();
    readers.wait_for_progress(&world);
    readers.assert_undisturbed(&world, &["n1", "n2"]);

    // The program that mounts: its node's mounts are made anew by the next one.
    world.kubernetes.kill("n2", "larder-mounter --run");
    wait_until(PODS_WITHIN, "another is there", || {
        !world.kubernetes.processes("n2", "larder-mounter --run").is_empty()
    });
    std::thread::sleep(Duration::from_secs(5));
    world.wait_ready();
    readers.wait_for_progress(&world);
    readers.assert_undisturbed(&world, &["n1", "n2"]);

    // A node whose plug is pulled, and which boots.
    let epoch = world.epoch();
    world.kubernetes.kill_node("n3");
    wait_until(PODS_WITHIN, "its silence is noticed", || world.cache_node("n3")["status"]["state"] == "Suspect");
    std::thread::sleep(Duration::from_secs(5));
    world.kubernetes.boot_node("n3");
    wait_until(PODS_WITHIN, "it serves again", || world.cache_node("n3")["status"]["state"] == "Serving");
    world.wait_ready();
    assert!(world.epoch() > epoch);
    assert_eq!(slots(&world), before, "a reboot moves no slot");
    // Its reader's pod was started again with it.
    readers.wait_for_progress(&world);
    readers.assert_undisturbed(&world, &["n1", "n2", "n3"]);
}

#[test]
#[ignore = "needs kubelets: make test-k8s"]
fn without_operator_and_api_server_reads_go_on() {
    let mut world = World::begin();
    Readers::fill(&world);
    world.apply_example();
    let readers = Readers::start(&world, &NODES);

    // Nobody leads, and every agent starts anew from what it has stored.
    world.kubectl().run(&["scale", "deployment", "larder-operator", "-n", "larder-system", "--replicas=0"]).out();
    wait_until(PODS_WITHIN, "no operator runs", || {
        NODES.iter().all(|node| world.kubernetes.processes(node, "/bin/larder-operator").is_empty())
    });
    for node in NODES {
        world.kubernetes.kill(node, "larder-agent serve");
    }
    readers.wait_for_progress(&world);
    wait_until(PODS_WITHIN, "every agent is there again", || {
        NODES
            .iter()
            .all(|node| world.restarts(node) > 0 && world.kubernetes.processes(node, "larder-agent serve").len() == 1)
    });
    readers.wait_for_progress(&world);
    let seen: usize = readers.seen(&world).values().map(|seen| seen.failed.len()).sum();
    println!("{seen} reads failed while every agent was killed");
    world.kubectl().run(&["scale", "deployment", "larder-operator", "-n", "larder-system", "--replicas=2"]).out();
    world.wait_for_operator();
    world.wait_ready();

    let before = readers.seen(&world);
    world.kubernetes.plane().stop("kube-apiserver");
    let until = std::time::Instant::now() + AWAY;
    while std::time::Instant::now() < until {
        readers.wait_for_progress(&world);
        std::thread::sleep(Duration::from_secs(1));
    }
    world.kubernetes.plane().resume("kube-apiserver");
    world.kubernetes.plane().wait_until_ready();
    for (node, seen) in readers.seen(&world) {
        assert_eq!(seen.failed.len(), before[node].failed.len(), "{node}: {:?}", seen.failed);
        println!("reader on {node}: {} files while the API server was away", seen.read - before[node].read);
    }
    world.wait_for_operator();
    let epoch = world.epoch();
    wait_until(PODS_WITHIN, "reports catch up", || {
        NODES.iter().all(|node| world.cache_node(node)["status"]["state"] == "Serving") && world.epoch() >= epoch
    });
    world.wait_ready();
    readers.assert_undisturbed(&world, &NODES);
}
