//! The charts: linted, rendered, taken by the API server, and the same as what `kubectl apply -k` brings.

use std::collections::BTreeMap;

use larder_tests::kit::{ControlPlane, Kubectl};
use serde::Deserialize as _;
use serde_json::Value;

use super::repository;

fn chart(name: &str) -> String {
    repository().join("charts").join(name).display().to_string()
}

/// Objects by kind, namespace and name.
fn objects(text: &str) -> BTreeMap<String, Value> {
    let documents =
        serde_yaml::Deserializer::from_str(text).map(|document| Value::deserialize(document).expect("YAML"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let named = |object: Value| {
        let metadata = &object["metadata"];
        (format!("{} {}/{}", text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"])), object)
    };
    documents.filter(|document| !document.is_null()).map(named).collect()
}

/// A helm that is built from its module believes in an old Kubernetes.
fn template(chart: &str) -> [&str; 5] {
    ["template", "larder", chart, "--kube-version", "1.34.4"]
}

fn rendered(kubectl: &Kubectl, more: &[&str]) -> BTreeMap<String, Value> {
    let larder = chart("larder");
    let arguments = [&template(&larder)[..], &["--namespace", "larder-system"], more].concat();
    objects(&kubectl.helm(&arguments).out())
}

/// The paths of a value's leaves; what users write maps or lists into is a leaf.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    let free = ["nodeSelector", "tolerations", "resources"];
    match value {
        Value::Object(fields) if !free.iter().any(|name| path.ends_with(name)) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(value, &path, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn the_chart_is_what_kustomize_brings() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = ControlPlane::start(folder.path());
    let kubectl = plane.kubectl();
    for name in ["larder", "larder-crds"] {
        let said = kubectl.helm(&["lint", "--strict", &chart(name)]);
        assert!(said.ok, "{}{}", said.out, said.err);
    }
    let mut kustomized = objects(&kubectl.run(&["kustomize", &chart("kustomize")]).out());
    kustomized.retain(|name, _| !name.starts_with("CustomResourceDefinition"));
    kustomized.remove("Namespace /larder-system").expect("helm makes the release's namespace");
    let mut helmed = rendered(kubectl, &[]);
    // What only helm runs.
    helmed.retain(|_, object| object["metadata"]["annotations"]["helm.sh/hook"].is_null());
    let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&helmed), names(&kustomized));
    for (name, object) in &helmed {
        assert_eq!(object, &kustomized[name], "{name}");
    }
    kubectl.run(&["create", "namespace", "larder-system"]).out();
    let server = kubectl.helm(&["install", "larder", &chart("larder"), "-n", "larder-system", "--dry-run=server"]);
    assert!(server.ok, "{}{}", server.out, server.err);
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn nobody_but_the_mounter_is_privileged() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = ControlPlane::start(folder.path());
    let objects = rendered(plane.kubectl(), &[]);
    let mut privileged = Vec::new();
    for (name, object) in &objects {
        let Some(pod) = object.pointer("/spec/template/spec") else { continue };
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod[field].is_null(), "{name}: {field}");
        }
        for container in pod["containers"].as_array().expect("a pod has containers") {
            let own = &container["securityContext"];
            if own["privileged"] == true {
                privileged.push(container["name"].as_str().expect("named"));
                continue;
            }
            assert_eq!(own["allowPrivilegeEscalation"], false, "{name}: {container}");
            assert_eq!(own["capabilities"]["drop"], serde_json::json!(["ALL"]), "{name}: {container}");
            assert_eq!(own["readOnlyRootFilesystem"], true, "{name}: {container}");
        }
    }
    assert_eq!(privileged, ["mounter"]);
    let rules = objects["ClusterRole /larder-operator"]["rules"].as_array().expect("rules").clone();
    for rule in rules {
        let has = |field: &str, word: &str| rule[field].as_array().is_some_and(|all| all.iter().any(|one| one == word));
        assert!(!["apiGroups", "resources", "verbs"].iter().any(|field| has(field, "*")), "{rule}");
        let of_secrets = has("resources", "secrets") && (has("verbs", "list") || has("verbs", "watch"));
        let of_nodes = has("resources", "nodes") && (has("verbs", "patch") || has("verbs", "update"));
        assert!(!of_secrets && !of_nodes, "{rule}");
    }
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn values_do_what_they_say_and_wrong_ones_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = ControlPlane::start(folder.path());
    let kubectl = plane.kubectl();
    let values = std::fs::read_to_string(repository().join("charts/larder/values.yaml")).expect("values");
    let readme = std::fs::read_to_string(repository().join("charts/larder/README.md")).expect("a table");
    let mut paths = Vec::new();
    leaves(&serde_yaml::from_str(&values).expect("YAML"), "", &mut paths);
    for path in paths {
        assert!(readme.contains(&format!("`{path}`")), "{path} isn't in the table");
    }
    // What is set, where it is seen, and what is seen there.
    let (operator, node) = ("Deployment larder-system/larder-operator", "DaemonSet larder-node/larder-node");
    let (pod, container) = ("/spec/template/spec", "/spec/template/spec/containers/0");
    let cases = [
        ("images.operator=example.com/o:1", operator, format!("{container}/image"), "example.com/o:1"),
        (
            "images.agent=example.com/a@sha256:00",
            operator,
            format!("{container}/env/0/value"),
            "example.com/a@sha256:00",
        ),
        ("images.node=example.com:5000/n:1", node, format!("{container}/image"), "example.com:5000/n:1"),
        ("images.csi=example.com/c:1", node, format!("{pod}/containers/1/image"), "example.com/c:1"),
        ("images.pullPolicy=Always", node, format!("{pod}/containers/1/imagePullPolicy"), "Always"),
        ("images.pullPolicy=Always", node, format!("{container}/imagePullPolicy"), "Always"),
        ("imagePullSecrets[0].name=keys", operator, format!("{pod}/imagePullSecrets/0/name"), "keys"),
        ("imagePullSecrets[0].name=keys", node, format!("{pod}/imagePullSecrets/0/name"), "keys"),
        ("operator.logLevel=debug", operator, format!("{container}/env/1/value"), "debug"),
        ("operator.priorityClassName=low", operator, format!("{pod}/priorityClassName"), "low"),
        ("operator.nodeSelector.a=b", operator, format!("{pod}/nodeSelector/a"), "b"),
        ("operator.tolerations[0].key=t", operator, format!("{pod}/tolerations/0/key"), "t"),
        ("operator.resources.limits.memory=1Gi", operator, format!("{container}/resources/limits/memory"), "1Gi"),
        ("node.priorityClassName=low", node, format!("{pod}/priorityClassName"), "low"),
        ("node.nodeSelector.a=b", node, format!("{pod}/nodeSelector/a"), "b"),
        ("node.tolerations[0].key=t", node, format!("{pod}/tolerations/0/key"), "t"),
        ("node.resources.limits.memory=1Gi", node, format!("{container}/resources/limits/memory"), "1Gi"),
        ("node.kubelet=/k", node, format!("{container}/args/7"), "/k"),
        ("node.kubelet=/k", node, format!("{pod}/containers/1/args/3"), "/k"),
        ("node.kubelet=/k", node, format!("{pod}/containers/1/volumeMounts/0/mountPath"), "/k/plugins/csi.larder.dev"),
        ("node.csi.resources.limits.memory=1Gi", node, format!("{pod}/containers/1/resources/limits/memory"), "1Gi"),
        ("node.namespace=other", "DaemonSet other/larder-node", "/metadata/name".into(), "larder-node"),
        ("stores.allowedPrefixes={/disks}", node, format!("{container}/args/3"), "/disks"),
        ("stores.allowedPrefixes={/disks}", node, format!("{container}/volumeMounts/2/mountPath"), "/disks"),
        ("stores.allowedPrefixes={/a,/b}", operator, format!("{container}/args/0"), "--allowed-prefixes=/a,/b"),
        ("agent.allowedImages={a/*,b:1}", operator, format!("{container}/args/1"), "--allowed-images=a/*,b:1"),
        ("operator.drainTaints={a,b/c}", operator, format!("{container}/args/2"), "--drain-taints=a,b/c"),
    ];
    for (set, object, pointer, wanted) in cases {
        let objects = rendered(kubectl, &["--set", set]);
        let seen = objects.get(object).and_then(|object| object.pointer(&pointer));
        assert_eq!(seen, Some(&Value::from(wanted)), "{set}: {object} {pointer}");
    }
    let three = rendered(kubectl, &["--set", "operator.replicas=3"]);
    assert_eq!(three[operator]["spec"]["replicas"], 3);
    for wrong in [
        "operator.replicas=99",
        "operator.logLevel=loud",
        "images.agent=untagged",
        "stores.allowedPrefixes={relative}",
        "stores.allowedPrefixes={/a/../b}",
        "node.namespace=Upper",
        "node.kubelet=relative",
        "unknown=1",
    ] {
        let said = kubectl.helm(&[&template(&chart("larder"))[..], &["--set", wrong]].concat());
        let field = wrong.split(['=', '.', '[']).next().expect("a name");
        assert!(!said.ok && said.err.contains(field), "{wrong}: {}{}", said.out, said.err);
    }
}
