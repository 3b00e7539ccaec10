//! What was stored under an older schema, when the kinds have been upgraded: read, and what can't be read keeps nobody.

use larder_tests::harness::MINUTE;
use larder_tests::kit::{ControlPlane, Operator, wait_until};
use serde_json::{Value, json};

use super::{condition, install, repository, wait_for_reason};

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn objects_of_the_first_schema_live_on_and_a_malformed_one_keeps_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = ControlPlane::start(folder.path());
    let kubectl = plane.kubectl();
    let first = repository().join("crds/fixtures/first");
    kubectl.run(&["apply", "-f", &first.display().to_string()]).out();
    kubectl.run(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"]).out();
    let minimal = repository().join("crds/fixtures/v1alpha1-minimal.yaml").display().to_string();
    kubectl.run(&["apply", "-f", &minimal]).out();
    let before = kubectl.get("cc", "one").expect("stored");

    // One that no schema of ours has admitted: from before there was one.
    let text = std::fs::read_to_string(first.join("cacheclusters.larder.dev.yaml")).expect("a fixture");
    let mut loose: Value = serde_yaml::from_str(&text).expect("YAML");
    loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    kubectl.apply(&loose.to_string());
    let broken = json!({"apiVersion": "larder.dev/v1alpha1", "kind": "CacheCluster", "metadata": {"name": "broken"},
                        "spec": {"minNodes": "three", "pools": "none"}});
    wait_until(MINUTE, "anything is admitted", || kubectl.with_input(&["apply", "-f", "-"], &broken.to_string()).ok);

    let applied = install(kubectl);
    assert!(applied.contains("cacheclusters.larder.dev configured"), "{applied}");
    plane.node("n1", &[("kubernetes.io/os", "linux")]);
    let operator = Operator::start(&plane, "operator");
    wait_for_reason(kubectl, "cc", "one", "WaitingForNodes");
    wait_until(MINUTE, "the malformed one is told", || operator.log().contains("a CacheCluster can't be read"));
    let after = kubectl.get("cc", "one").expect("there");
    for field in ["/minNodes", "/replicas", "/pools/0/selector", "/pools/0/stores/0/hostPath"] {
        let at = |cluster: &Value| cluster.pointer(&format!("/spec{field}")).cloned();
        assert_eq!(at(&before), at(&after), "{field}");
    }
    // And what is new can be used.
    let patch = r#"{"spec":{"paused":true}}"#;
    wait_until(MINUTE, "the new schema is served", || {
        kubectl.try_run(&["patch", "cc", "one", "--type=merge", "-p", patch]).ok
            && kubectl.get("cc", "one").is_some_and(|cluster| cluster["spec"]["paused"] == true)
    });
    wait_until(MINUTE, "it is paused", || {
        let cluster = kubectl.get("cc", "one").unwrap_or_default();
        condition(&cluster, "Paused").is_some_and(|(status, _, _)| status == "True")
    });
    let listed = kubectl.run(&["get", "cc"]).out();
    assert!(listed.contains("broken") && listed.contains("one"), "{listed}");
    kubectl.run(&["delete", "cc", "broken", "--timeout=60s"]).out();
}
