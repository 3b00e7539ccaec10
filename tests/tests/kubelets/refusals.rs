//! Stores that are refused, with the words that people find; and clusters that aren't well, as kubectl shows them.

use larder_tests::kit::wait_until;
use serde_json::{Value, json};

use super::world::{PODS_WITHIN, World};

/// A CacheCluster of the same nodes, whose store lies at `path`.
fn another(name: &str, path: &str, mount_point: &str) -> String {
    let store = json!({"name": "d0", "hostPath": path, "capacity": "1Gi", "reserve": 0, "mountPoint": mount_point});
    json!({"apiVersion": "larder.dev/v1alpha1", "kind": "CacheCluster", "metadata": {"name": name},
           "spec": {"minNodes": 3, "pools": [{"name": "p", "selector": {"matchLabels": {"disk": "nvme"}}, "stores": [store]}]}})
    .to_string()
}

/// Waits until each node's problem quotes its agent's last words.
fn wait_quoted(world: &World, name: &str, words: &str) {
    wait_until(PODS_WITHIN, &format!("{name} quotes: {words}"), || {
        let cluster = world.kubectl().get("cc", name).unwrap_or_default();
        let problems = cluster["status"]["problems"].as_array().cloned().unwrap_or_default();
        let quotes = |problem: &Value| {
            problem["reason"] == "AgentEnded" && problem["message"].as_str().is_some_and(|said| said.contains(words))
        };
        problems.iter().filter(|problem| quotes(problem)).count() == 3
    });
}

fn show(world: &World, state: &str, name: &str) {
    let wide = world.kubectl().run(&["get", "cc", name, "-o", "wide"]).out();
    println!("==== {state}\n$ kubectl get cc {name} -o wide\n{wide}\n$ kubectl describe cc {name}");
    println!("{}", world.kubectl().run(&["describe", "cc", name]).out());
}

#[test]
#[ignore = "needs kubelets: make test-k8s"]
fn stores_that_are_refused_say_why_and_leave_others_alone() {
    let mut world = World::begin();
    world.stub.put_pattern("llm/a", 1, 3_000_000);
    world.apply_example();
    let pod = world.reader("n2");
    let read = world.sha256_in(&pod, "/data/models/a");
    show(&world, "healthy", "fast");

    // The same disk; a path at which no disk is mounted.
    world.kubectl().apply(&another("second", "/mnt/nvme0", "Any"));
    world.kubectl().apply(&another("unmounted", "/mnt/nvme1", "Required"));
    wait_quoted(&world, "second", "holds the store of another cluster");
    wait_quoted(&world, "unmounted", "is no mount point");
    show(&world, "unhealthy 1: its stores are refused", "second");
    let agent = world.agent_pod("n1");
    world.kubectl().run(&["delete", "pod", &agent]).out();
    wait_until(PODS_WITHIN, "the first one's agents begin as ever", || {
        let now = world.agent_pod("n1");
        let pod = world.kubectl().get("pod", &now).unwrap_or_default();
        now != agent && pod.pointer("/status/containerStatuses/0/ready") == Some(&json!(true))
    });
    world.kubectl().run(&["delete", "cc", "second", "unmounted", "--timeout=60s"]).out();
    world.wait_ready();
    assert_eq!(world.sha256_in(&pod, "/data/models/a"), read);

    let image = r#"{"spec":{"agent":{"image":"example.com/not/allowed:1"}}}"#;
    world.kubectl().run(&["patch", "cc", "fast", "--type=merge", "-p", image]).out();
    let ready = |reason: &str| {
        let cluster = world.kubectl().get("cc", "fast").unwrap_or_default();
        let conditions = cluster["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["reason"] == reason)
    };
    wait_until(PODS_WITHIN, "it is refused", || ready("Invalid"));
    show(&world, "unhealthy 2: its spec is refused", "fast");
    let image = r#"{"spec":{"agent":{"image":null}}}"#;
    world.kubectl().run(&["patch", "cc", "fast", "--type=merge", "-p", image]).out();
    wait_until(PODS_WITHIN, "and taken back", || ready("Serving"));

    world.kubernetes.kill_node("n3");
    let is_below = || {
        let cluster = world.kubectl().get("cc", "fast").unwrap_or_default();
        let conditions = cluster["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["reason"] == "BelowMinNodes")
    };
    wait_until(PODS_WITHIN, "a node is missed", is_below);
    show(&world, "unhealthy 3: a node is gone", "fast");
}
