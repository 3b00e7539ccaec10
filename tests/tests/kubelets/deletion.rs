//! What is deleted goes, and what is made again is warm.

use std::time::{Duration, Instant};

use larder_tests::kit::{NAMESPACE, wait_until};
use serde_json::{Value, json};

use super::world::{PODS_WITHIN, World};

/// A namespace with a cluster in it is gone after this long.
const GONE_WITHIN: Duration = Duration::from_secs(120);

#[test]
#[ignore = "needs kubelets: make test-k8s"]
fn what_is_made_again_is_warm_and_a_namespace_goes_at_once() {
    let world = World::without_larder();
    let before = everything(&world);
    world.install();
    for file in 0..8 {
        world.stub.put_pattern(&format!("llm/{file}"), 1, 3_000_000);
    }
    world.apply_example();
    let read_all = |pod: &str| -> Vec<String> {
        (0..8).map(|file| world.sha256_in(pod, &format!("/data/models/{file}"))).collect()
    };
    let first = read_all(&world.reader("n1"));
    // Copies are pushed after the read; what counts is what is on the disks.
    world.kubectl().run(&["delete", "cv/models", "cc/fast", "pod/reader-n1", "--timeout=60s"]).out();
    let agents = || world.kubectl().run(&["get", "pods", "-l", "larder.dev/cluster=fast", "-o", "name"]).out();
    wait_until(PODS_WITHIN, "no agent is left", || agents().is_empty());

    let gets = world.stub.counters().gets;
    world.apply_example();
    assert_eq!(read_all(&world.reader("n1")), first);
    assert_eq!(world.stub.counters().gets, gets, "nothing is asked of the bucket twice");
    world
        .kubectl()
        .run(&["delete", "pod/reader-n1", "cv/models", "cc/fast", "secret/models-keys", "--timeout=60s"])
        .out();

    // In a namespace of its own, with a volume from another one that holds it.
    let placed = |mut document: Value, namespace: &str| {
        document["metadata"]["namespace"] = json!(namespace);
        if document["kind"] == "CacheCluster" {
            document["spec"]["allowedNamespaces"] = json!({"from": "All"});
            document["spec"]["cacheId"] = json!("default/fast");
        }
        document
    };
    world.kubectl().run(&["create", "namespace", "team"]).out();
    for document in world.example() {
        world.kubectl().apply(&placed(document, "team").to_string());
    }
    for mut document in world.example().into_iter().filter(|document| document["kind"] != "CacheCluster") {
        if document["kind"] == "CacheVolume" {
            document["spec"]["clusterRef"]["namespace"] = json!("team");
        }
        world.kubectl().apply(&document.to_string());
    }
    let ready = |what: &str, namespace: &str| {
        let said = world.kubectl().try_run(&["wait", "-n", namespace, what, "--for=condition=Ready", "--timeout=180s"]);
        assert!(said.ok, "{what} in {namespace}: {}{}\n{}", said.out, said.err, world.told());
    };
    ready("cc/fast", "team");
    ready("cv/models", "default");
    let began = Instant::now();
    let said = world.kubectl().try_run(&["delete", "namespace", "team", "--timeout=120s"]);
    assert!(said.ok && began.elapsed() < GONE_WITHIN, "{}{}\n{}", said.out, said.err, world.told());
    wait_until(PODS_WITHIN, "the volume says so", || {
        let volume = world.kubectl().get("cv", "models").expect("it isn't in that namespace");
        let conditions = volume["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["reason"] == "ClusterNotFound")
    });

    let early = world.kubectl().helm(&["uninstall", "larder", "--namespace", NAMESPACE, "--wait"]);
    assert!(!early.ok, "a CacheVolume is left: {}", early.out);
    let told = world.kubectl().run(&["logs", "-n", NAMESPACE, "job/larder-uninstall"]).out();
    assert!(told.contains("CacheVolume default/models"), "{told}");
    world.kubectl().run(&["delete", "cv/models", "secret/models-keys"]).out();
    world.kubectl().helm(&["uninstall", "larder", "--namespace", NAMESPACE, "--wait"]).out();
    world.kubectl().helm(&["uninstall", "larder-crds", "--wait"]).out();
    // The kinds stay, since with them every CacheCluster would go; a person removes them.
    world
        .kubectl()
        .run(&["delete", "crd", "cacheclusters.larder.dev", "cachevolumes.larder.dev", "cachenodes.larder.dev"])
        .out();
    world.kubectl().run(&["delete", "namespace", NAMESPACE, "--timeout=120s"]).out();
    let mut left = Vec::new();
    let until = Instant::now() + GONE_WITHIN;
    while Instant::now() < until {
        left = everything(&world).into_iter().filter(|name| !before.contains(name)).collect();
        if left.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// Every object of every kind but what the cluster itself makes as time goes by.
fn everything(world: &World) -> Vec<String> {
    let kinds = world.kubectl().run(&["api-resources", "--verbs=list", "-o", "name"]).out();
    let passing = ["events", "leases.coordination.k8s.io"];
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !passing.iter().any(|name| kind.starts_with(name))).collect();
    let query = "-o=jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{'\\n'}{end}";
    let listed = world.kubectl().run(&["get", &kinds.join(","), "-A", query]).out();
    listed.lines().map(str::to_owned).collect()
}
