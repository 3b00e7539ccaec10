//! The operator against a real API server, controller-manager and scheduler. `make test-k8s` builds them and runs these.
//!
//! Nodes have no kubelets here: pods are created and bound, and run nowhere. Where agents are needed they run as
//! processes, with the tokens of their pods. With kubelets: `kubelets.rs`.

#[path = "../../crds/tests/kinds/cases.rs"]
#[allow(dead_code, reason = "the tests of the crate itself use all of it")]
mod cases;

#[path = "kubernetes/agents.rs"]
mod agents;
#[path = "kubernetes/applied.rs"]
mod applied;
#[path = "kubernetes/charts.rs"]
mod charts;
#[path = "kubernetes/joins.rs"]
mod joins;
#[path = "kubernetes/leaders.rs"]
mod leaders;
#[path = "kubernetes/life.rs"]
mod life;
#[path = "kubernetes/rules.rs"]
mod rules;
#[path = "kubernetes/sanity.rs"]
mod sanity;
#[path = "kubernetes/spec.rs"]
mod spec;
#[path = "kubernetes/stored.rs"]
mod stored;

use std::path::Path;

use larder_tests::harness::MINUTE;
use larder_tests::kit::{ControlPlane, Kubectl, NAMESPACE, wait_until};
use serde_json::Value;

/// A control plane with the CRDs and the operator's rights, as `kubectl apply -k` brings them.
fn with_crds(folder: &Path) -> ControlPlane {
    let plane = ControlPlane::start(folder);
    let applied = install(plane.kubectl());
    for kind in ["cacheclusters", "cachevolumes", "cachenodes"] {
        assert!(applied.contains(&format!("{kind}.larder.dev created")), "{applied}");
    }
    plane
}

/// Brings them; returns what kubectl says of it.
fn install(kubectl: &Kubectl) -> String {
    let shipped = repository().join("charts/kustomize").display().to_string();
    let applied = kubectl.run(&["apply", "-k", &shipped]).out();
    // No kubelet would run them; the tests run the programs.
    kubectl.run(&["delete", "deployment", "larder-operator", "-n", NAMESPACE]).out();
    kubectl.run(&["delete", "daemonset", "larder-node", "-n", "larder-node"]).out();
    let waited = kubectl.run(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"]);
    assert!(waited.out.contains("condition met"), "{}", waited.out);
    applied
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the repository")
}

/// Three nodes with a disk, in zones a, b, c.
fn three_nodes(plane: &ControlPlane) {
    for (name, zone) in [("n1", "a"), ("n2", "b"), ("n3", "c")] {
        plane.node(name, &[("disk", "nvme"), ("topology.kubernetes.io/zone", zone), ("kubernetes.io/hostname", name)]);
    }
}

/// What a condition says: status, reason, message.
fn condition(object: &Value, type_: &str) -> Option<(String, String, String)> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == type_)?;
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

/// Waits until an object's Ready condition has this reason.
fn wait_for_reason(kubectl: &Kubectl, kind: &str, name: &str, reason: &str) {
    let mut last = None;
    let mut has = || {
        last = kubectl.get(kind, name).and_then(|object| condition(&object, "Ready"));
        last.as_ref().is_some_and(|(_, found, _)| found == reason)
    };
    let until = std::time::Instant::now() + MINUTE;
    while !has() {
        assert!(std::time::Instant::now() < until, "{kind} {name} isn't {reason}: {last:?}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// Waits until an object is gone.
fn wait_gone(kubectl: &Kubectl, kind: &str, name: &str) {
    wait_until(MINUTE, &format!("{kind} {name} is gone"), || kubectl.get(kind, name).is_none());
}

/// The pods of a label.
fn pods(kubectl: &Kubectl, label: &str) -> Vec<Value> {
    let listed = kubectl.run(&["get", "pods", "-l", label, "-o", "json"]).out();
    let listed: Value = serde_json::from_str(&listed).expect("kubectl prints JSON");
    listed["items"].as_array().cloned().unwrap_or_default()
}
