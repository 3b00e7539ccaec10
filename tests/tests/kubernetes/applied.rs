//! From the example's YAML to what the operator makes of it, and back to nothing.

use std::time::{Duration, Instant};

use larder_tests::harness::MINUTE;
use larder_tests::kit::{ControlPlane, Kubectl, NAMESPACE, Operator, wait_until};

use super::{condition, pods, repository, three_nodes, wait_for_reason, wait_gone, with_crds};

const OWNED: [(&str, &str); 8] = [
    ("serviceaccount", "fast-agent"),
    ("secret", "fast-ca"),
    ("configmap", "fast-trust"),
    ("configmap", "fast-nvme"),
    ("service", "fast-authority"),
    ("endpointslice", "fast-authority"),
    ("networkpolicy", "fast-agents"),
    ("daemonset", "fast-nvme"),
];

fn example(kubectl: &Kubectl) {
    let file = repository().join("examples/s3.yaml");
    kubectl.run(&["apply", "-f", &file.display().to_string()]).out();
}

fn begin(folder: &std::path::Path) -> (ControlPlane, Operator) {
    let plane = with_crds(folder);
    three_nodes(&plane);
    let operator = Operator::start(&plane, "operator");
    (plane, operator)
}

fn version(kubectl: &Kubectl, kind: &str, name: &str) -> String {
    let object = kubectl.get(kind, name).unwrap_or_else(|| panic!("{kind} {name} is there"));
    object["metadata"]["resourceVersion"].as_str().expect("a version").to_owned()
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn an_example_becomes_agents_and_says_how_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let (plane, _operator) = begin(folder.path());
    let kubectl = plane.kubectl();
    example(kubectl);
    wait_for_reason(kubectl, "cc", "fast", "WaitingForNodes");
    for (kind, name) in OWNED {
        assert!(kubectl.get(kind, name).is_some(), "{kind} {name}");
    }
    wait_until(MINUTE, "a pod on each node", || {
        pods(kubectl, "larder.dev/cluster=fast").iter().filter(|pod| pod["spec"]["nodeName"].is_string()).count() == 3
    });
    let table = kubectl.run(&["get", "cc"]).out();
    let head: Vec<&str> = table.lines().next().expect("a head").split_whitespace().collect();
    assert_eq!(head, ["NAME", "READY", "REASON", "NODES", "MIN", "REPLICAS", "CAPACITY", "USED", "AGE"]);
    assert!(table.contains("WaitingForNodes") && table.contains("0/3"), "{table}");
    let nodes = kubectl.run(&["get", "cn"]).out();
    assert_eq!(nodes.lines().count(), 4, "{nodes}");
    wait_for_reason(kubectl, "cv", "models", "TooFewNodes");
    let cluster = kubectl.get("cc", "fast").expect("there");
    assert_eq!(cluster["status"]["observedGeneration"], cluster["metadata"]["generation"]);
    assert_eq!(cluster["status"]["cacheId"], "default/fast");
    let explained = kubectl.run(&["explain", "cc.spec.pools.stores.hostPath"]).out();
    assert!(explained.contains("mount point on the node"), "{explained}");
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn applying_twice_changes_nothing_and_what_people_change_is_mended() {
    let folder = tempfile::tempdir().expect("a folder");
    let (plane, operator) = begin(folder.path());
    let kubectl = plane.kubectl();
    example(kubectl);
    wait_for_reason(kubectl, "cc", "fast", "WaitingForNodes");
    let versions = || -> Vec<String> {
        let mut versions: Vec<String> = OWNED.iter().map(|(kind, name)| version(kubectl, kind, name)).collect();
        // The DaemonSet's status follows its pods; what is asked for is its generation.
        let set = kubectl.get("daemonset", "fast-nvme").expect("there");
        versions.pop();
        versions.push(set["metadata"]["generation"].to_string());
        versions.push(version(kubectl, "cc", "fast"));
        versions
    };
    let settled = versions();
    // A new process applies everything anew.
    operator.kill();
    let _operator = Operator::start(&plane, "again");
    let resumed = || {
        let lease = kubectl.get_in(NAMESPACE, "lease", "larder-operator").expect("there");
        lease["spec"]["leaseTransitions"].as_i64() >= Some(2)
    };
    wait_until(MINUTE, "the next operator leads", resumed);
    let endpoint = |versions: &[String]| versions[5].clone();
    wait_until(MINUTE, "it has applied its own address", || endpoint(&versions()) != endpoint(&settled));
    example(kubectl);
    let (mut now, mut before) = (versions(), settled.clone());
    now.remove(5);
    before.remove(5);
    assert_eq!(now, before, "applying twice writes nothing");

    kubectl
        .run(&[
            "patch",
            "daemonset",
            "fast-nvme",
            "--type=merge",
            "-p",
            r#"{"spec":{"updateStrategy":{"type":"RollingUpdate"}}}"#,
        ])
        .out();
    let mended =
        || kubectl.get("daemonset", "fast-nvme").is_some_and(|set| set["spec"]["updateStrategy"]["type"] == "OnDelete");
    wait_until(MINUTE, "the strategy is ours again", mended);
    kubectl.run(&["delete", "configmap", "fast-trust"]).out();
    wait_until(MINUTE, "what was deleted is back", || kubectl.get("configmap", "fast-trust").is_some());
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn pools_come_and_go_and_a_bad_spec_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let (plane, _operator) = begin(folder.path());
    let kubectl = plane.kubectl();
    example(kubectl);
    wait_for_reason(kubectl, "cc", "fast", "WaitingForNodes");
    plane.node("c1", &[("reads", "yes")]);
    let clients = r#"[{"op": "add", "path": "/spec/pools/-", "value": {"name": "clients", "selector": {"matchLabels": {"reads": "yes"}}}}]"#;
    kubectl.run(&["patch", "cc", "fast", "--type=json", "-p", clients]).out();
    wait_until(MINUTE, "the new pool has agents", || {
        pods(kubectl, "larder.dev/pool=clients").iter().any(|pod| pod["spec"]["nodeName"] == "c1")
    });
    wait_until(MINUTE, "and is counted", || {
        kubectl.get("cc", "fast").is_some_and(|cluster| cluster["status"]["nodes"]["text"] == "0/4")
    });
    kubectl.run(&["patch", "cc", "fast", "--type=json", "-p", r#"[{"op": "remove", "path": "/spec/pools/1"}]"#]).out();
    wait_gone(kubectl, "daemonset", "fast-clients");
    wait_gone(kubectl, "configmap", "fast-clients");
    wait_gone(kubectl, "cn", "fast.c1");

    let twin = r#"{"apiVersion": "larder.dev/v1alpha1", "kind": "CacheCluster", "metadata": {"name": "twin"},
        "spec": {"cacheId": "default/fast", "minNodes": 1, "replicas": 1, "pools": [{"name": "p", "selector": {"matchLabels": {"disk": "nvme"}},
        "stores": [{"name": "d0", "hostPath": "/mnt/d", "capacity": "1Gi"}]}]}}"#;
    kubectl.apply(twin);
    wait_for_reason(kubectl, "cc", "twin", "StoreConflict");
    assert!(kubectl.get("daemonset", "twin-p").is_none(), "nothing is made of it");
    let outside = twin.replace("/mnt/d", "/etc/d").replace("twin", "outside").replace("default/fast", "default/other");
    kubectl.apply(&outside);
    wait_for_reason(kubectl, "cc", "outside", "Invalid");
    let (_, _, message) = condition(&kubectl.get("cc", "outside").expect("there"), "Ready").expect("a condition");
    assert!(message.contains("spec.pools[0].stores[0].hostPath") && message.contains("/etc/d"), "{message}");
    let orphan = r#"{"apiVersion": "larder.dev/v1alpha1", "kind": "CacheVolume", "metadata": {"name": "orphan"},
        "spec": {"clusterRef": {"name": "nobody"}, "origin": {"s3": {"bucket": "data", "credentials": {"secretRef": {"name": "keys"}}}}}}"#;
    kubectl.apply(orphan);
    wait_for_reason(kubectl, "cv", "orphan", "ClusterNotFound");
    let keyless = orphan.replace("orphan", "keyless").replace("nobody", "fast");
    kubectl.apply(&keyless);
    wait_for_reason(kubectl, "cv", "keyless", "SecretNotFound");
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn a_cluster_waits_for_its_volumes_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = with_crds(folder.path());
    three_nodes(&plane);
    let kubectl = plane.kubectl();
    let everything = || -> Vec<String> {
        let kinds =
            "daemonsets,configmaps,secrets,services,endpointslices,networkpolicies,serviceaccounts,pods,cc,cv,cn";
        let mut names: Vec<String> =
            kubectl.run(&["get", kinds, "-o", "name"]).out().lines().map(str::to_owned).collect();
        // The controller-manager's own, which comes when it comes.
        names.retain(|name| name != "configmap/kube-root-ca.crt");
        names
    };
    let before = everything();
    let _operator = Operator::start(&plane, "operator");
    example(kubectl);
    wait_for_reason(kubectl, "cc", "fast", "WaitingForNodes");
    kubectl.run(&["delete", "cc", "fast", "--wait=false"]).out();
    wait_for_reason(kubectl, "cc", "fast", "Deleting");
    let (_, _, message) = condition(&kubectl.get("cc", "fast").expect("held"), "Ready").expect("a condition");
    assert!(message.contains("default/models"), "{message}");
    kubectl.run(&["delete", "cv", "models"]).out();
    wait_gone(kubectl, "cc", "fast");
    kubectl.run(&["delete", "secret", "models-keys"]).out();
    let until = Instant::now() + Duration::from_secs(120);
    let left = loop {
        // Pods without kubelets end only when they are forced to.
        drop(kubectl.try_run(&["delete", "pods", "--all", "--force", "--grace-period=0"]));
        let left: Vec<String> = everything().into_iter().filter(|name| !before.contains(name)).collect();
        if left.is_empty() || Instant::now() > until {
            break left;
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn events_tell_and_refused_pods_are_quoted() {
    let folder = tempfile::tempdir().expect("a folder");
    let (plane, _operator) = begin(folder.path());
    let kubectl = plane.kubectl();
    kubectl.run(&["label", "namespace", "default", "pod-security.kubernetes.io/enforce=restricted"]).out();
    example(kubectl);
    wait_for_reason(kubectl, "cc", "fast", "WaitingForNodes");
    let message = || condition(&kubectl.get("cc", "fast").expect("there"), "Ready").expect("a condition").2;
    wait_until(MINUTE * 2, "the refusal is quoted", || message().contains("violates PodSecurity"));
    assert!(message().contains("DaemonSet fast-nvme can't make pods"), "{}", message());
    kubectl.run(&["label", "namespace", "default", "pod-security.kubernetes.io/enforce-"]).out();
    wait_until(MINUTE * 3, "pods are made", || pods(kubectl, "larder.dev/cluster=fast").len() == 3);
    wait_until(MINUTE * 2, "and the refusal is forgotten", || !message().contains("PodSecurity"));
    let described = kubectl.run(&["describe", "cc", "fast"]).out();
    let events = described.split("Events:").nth(1).expect("describe shows Events");
    assert!(events.contains("WaitingForNodes") && events.contains("larder-operator"), "{described}");
    let quiet =
        kubectl.run(&["get", "events", "--field-selector=involvedObject.kind=CacheCluster", "-o", "name"]).out();
    assert!(quiet.lines().count() <= 5, "one Event for each change, no more: {quiet}");
}
