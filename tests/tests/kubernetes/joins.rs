//! Agents join with their pods' tokens, and nobody else does; then the cluster is Ready and serves.

use larder_tests::harness::{MINUTE, sha256, within};
use larder_tests::kit::wait_until;
use larder_tests::stub::pattern;
use serde_json::json;

use super::agents::{Agents, audience, bound_pods, token};

/// A pod with the agents' account and labels that no DaemonSet of ours made, on a node of ours.
fn impostor() -> String {
    let container = json!({"name": "c", "image": "example.com/c:1"});
    json!({"apiVersion": "v1", "kind": "Pod",
           "metadata": {"name": "impostor", "labels": {"larder.dev/cluster": "fast"}},
           "spec": {"nodeName": "n1", "serviceAccountName": "fast-agent", "containers": [container]}})
    .to_string()
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn agents_join_with_their_pods_tokens_and_the_cluster_serves() {
    let mut world = Agents::without_agents(json!({}));
    let (id, pods) = (world.id(), bound_pods(world.kubectl()));
    let audience = audience(&pods[0]);
    let on = |node: &str| pods.iter().find(|pod| pod["spec"]["nodeName"] == node).expect("a pod on each node");
    // With all labels the DaemonSet's controller would adopt it.
    world.kubectl().apply(&impostor());
    let impostor = world.kubectl().get("pod", "impostor").expect("made");
    // One that was good until its pod was replaced.
    let replayed = token(world.kubectl(), on("n1"), &audience, "fast-agent");
    let name = on("n1")["metadata"]["name"].as_str().expect("named");
    world.kubectl().run(&["delete", "pod", name, "--force", "--grace-period=0"]).out();
    wait_until(MINUTE, "another pod is there", || world.pod_of("n1")["metadata"]["name"] != name);

    // For the API server instead of the join port; of another node's pod; of a pod that is gone; of one that isn't ours;
    // no token at all.
    let foreign = [
        token(world.kubectl(), &world.pod_of("n1"), "https://kubernetes.default.svc", "fast-agent"),
        token(world.kubectl(), on("n2"), &audience, "fast-agent"),
        replayed,
        token(world.kubectl(), &impostor, &audience, "fast-agent"),
        "nonsense".to_owned(),
    ];
    for (which, token) in foreign.iter().enumerate() {
        let agent = world.nodes[0].agent(world.kubectl(), world.authority, &id, token);
        wait_until(MINUTE, &format!("foreign token {which} is refused"), || agent.log().contains("refuses this node"));
    }
    assert!(world.kubectl().get("cc", "fast").is_some_and(|cc| cc["status"]["epoch"].is_null()));
    world.kubectl().run(&["delete", "pod", "impostor", "--force", "--grace-period=0"]).out();

    world.start_agents();
    world.wait_serving();
    let mut wanted = vec![0; 3_000_000];
    pattern::fill("a/file", 1, 0, &mut wanted);
    for number in 1..=3 {
        let file = world.agent(number).mounts.join("data/a/file");
        let read = within(MINUTE, "reading", move || std::fs::read(file)).expect("reads");
        assert_eq!(sha256(&read), sha256(&wanted));
    }
    let domains = || ["n1", "n2", "n3"].map(|name| world.status(name)["domain"].clone());
    wait_until(MINUTE, "the operator tells the zones", || domains() == ["a", "b", "c"]);
    for line in ["cc", "cv", "cn"] {
        println!("{}", world.kubectl().run(&["get", line, "-o", "wide"]).out());
    }
    let account = "--as=system:serviceaccount:default:fast-agent";
    let rights = world.kubectl().run(&["auth", "can-i", "--list", account]).out();
    for verb in ["get", "list", "watch", "create", "patch", "delete"] {
        for kind in ["pods", "secrets", "configmaps", "cc", "nodes"] {
            let may = world.kubectl().try_run(&["auth", "can-i", verb, kind, account]);
            assert_eq!(may.out.trim(), "no", "{verb} {kind}: {rights}");
        }
    }
}
