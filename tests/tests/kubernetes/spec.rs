//! Fields of a CacheCluster's spec, seen in what they change; and what is refused, with the words that people read.

use larder_tests::harness::MINUTE;
use larder_tests::kit::{ControlPlane, Kubectl, Operator, wait_until};
use serde_json::{Value, json};

use super::{condition, pods, repository, three_nodes, wait_for_reason, with_crds};

fn begin(folder: &std::path::Path) -> (ControlPlane, Operator) {
    let plane = with_crds(folder);
    three_nodes(&plane);
    let operator = Operator::start(&plane, "operator");
    let file = repository().join("examples/s3.yaml");
    plane.kubectl().run(&["apply", "-f", &file.display().to_string()]).out();
    wait_for_reason(plane.kubectl(), "cc", "fast", "WaitingForNodes");
    (plane, operator)
}

fn merge(kubectl: &Kubectl, spec: &Value) {
    let patch = json!({"spec": spec}).to_string();
    kubectl.run(&["patch", "cc", "fast", "--type=merge", "-p", &patch]).out();
}

fn is_observed(kubectl: &Kubectl) -> bool {
    let cluster = kubectl.get("cc", "fast").expect("there");
    cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"]
}

fn says(kubectl: &Kubectl, kind: &str, name: &str, type_: &str) -> (String, String, String) {
    condition(&kubectl.get(kind, name).unwrap_or_default(), type_).unwrap_or_default()
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn agents_pods_are_made_as_the_spec_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let (plane, _operator) = begin(folder.path());
    let kubectl = plane.kubectl();
    kubectl.run(&["create", "priorityclass", "important", "--value=1000"]).out();
    let agent = json!({
        "image": "example.com/larder-agent:test",
        "imagePullSecrets": [{"name": "pull"}],
        "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": 2, "memory": "2Gi"}},
        "priorityClassName": "important",
        "hostNetwork": true,
        "ports": {"peer": 17710, "admin": 17711},
        "podLabels": {"team": "a"},
        "podAnnotations": {"example.com/scrape": "yes"},
        "logLevel": "Debug",
    });
    merge(kubectl, &json!({"agent": agent}));
    let tolerations = r#"[{"op": "add", "path": "/spec/pools/0/tolerations", "value": [{"key": "gpu", "operator": "Equal", "value": "a", "effect": "NoExecute"}]},
        {"op": "add", "path": "/spec/pools/0/stores/0/mountPoint", "value": "Any"}]"#;
    kubectl.run(&["patch", "cc", "fast", "--type=json", "-p", tolerations]).out();
    wait_until(MINUTE, "it is done", || is_observed(kubectl));
    let set = kubectl.get("daemonset", "fast-nvme").expect("there");
    let pod = |pointer: &str| set.pointer(&format!("/spec/template{pointer}")).cloned().unwrap_or_default();
    let container = |pointer: &str| pod(&format!("/spec/containers/0{pointer}"));
    assert_eq!(container("/image"), "example.com/larder-agent:test");
    assert_eq!(pod("/spec/imagePullSecrets"), json!([{"name": "pull"}]));
    let limits = json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}});
    assert_eq!(container("/resources"), limits);
    assert_eq!(pod("/spec/priorityClassName"), "important");
    assert_eq!((pod("/spec/hostNetwork"), pod("/spec/dnsPolicy")), (json!(true), json!("ClusterFirstWithHostNet")));
    assert_eq!(
        (container("/ports/0/containerPort"), container("/ports/1/containerPort")),
        (json!(17710), json!(17711))
    );
    assert_eq!(
        (pod("/metadata/labels/team"), pod("/metadata/labels/larder.dev~1cluster")),
        (json!("a"), json!("fast"))
    );
    assert_eq!(pod("/metadata/annotations/example.com~1scrape"), "yes");
    let bears = pod("/spec/tolerations");
    let bears = bears.as_array().expect("a list");
    assert!(
        bears.contains(&json!({"key": "gpu", "operator": "Equal", "value": "a", "effect": "NoExecute"})),
        "{bears:?}"
    );
    assert!(bears.contains(&json!({"key": "karpenter.sh/disrupted", "operator": "Exists"})), "{bears:?}");
    let map = kubectl.get("configmap", "fast-nvme").expect("there");
    let text = map["data"]["agent.yaml"].as_str().expect("planned");
    for line in ["logLevel: debug", "peer: 17710", "admin: 17711", "isMountPoint: false"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let policy = kubectl.get("networkpolicy", "fast-agents").expect("there");
    assert_eq!(policy["spec"]["ingress"][0]["ports"][0]["port"], 17710);
    wait_until(MINUTE * 2, "pods are made anew", || {
        // Pods without kubelets end only when they are forced to.
        drop(kubectl.try_run(&[
            "delete",
            "pods",
            "-l",
            "larder.dev/cluster=fast,team!=a",
            "--force",
            "--grace-period=0",
        ]));
        pods(kubectl, "team=a").len() == 3
    });
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn what_is_not_allowed_is_said_and_what_the_server_refuses_is_quoted() {
    let folder = tempfile::tempdir().expect("a folder");
    let (plane, _operator) = begin(folder.path());
    let kubectl = plane.kubectl();
    let refused = |spec: Value, words: &str| {
        merge(kubectl, &spec);
        let ready = || says(kubectl, "cc", "fast", "Ready");
        wait_until(MINUTE, words, || ready().1 == "Invalid" && ready().2.contains(words));
        let stalled = says(kubectl, "cc", "fast", "Stalled");
        assert_eq!((stalled.0.as_str(), stalled.1.as_str()), ("True", "Invalid"));
    };
    refused(json!({"agent": {"image": "evil.example.com/a:1"}}), "agent.allowedImages");
    refused(
        json!({"agent": {"image": null, "podLabels": {"larder.dev/cluster": "x"}}}),
        "larder.dev/cluster is one of",
    );
    let odd =
        r#"[{"op": "add", "path": "/spec/pools/0/tolerations", "value": [{"operator": "Exists", "value": "a"}]}]"#;
    merge(kubectl, &json!({"agent": {"podLabels": null}}));
    kubectl.run(&["patch", "cc", "fast", "--type=json", "-p", odd]).out();
    let ready = || says(kubectl, "cc", "fast", "Ready");
    wait_until(MINUTE, "the API server's refusal is quoted", || ready().2.contains("value must be empty"));
    kubectl
        .run(&[
            "patch",
            "cc",
            "fast",
            "--type=json",
            "-p",
            r#"[{"op": "remove", "path": "/spec/pools/0/tolerations"}]"#,
        ])
        .out();
    wait_for_reason(kubectl, "cc", "fast", "WaitingForNodes");
    assert_eq!(says(kubectl, "cc", "fast", "Stalled").0, "", "nobody must act any more");

    let quota = ["create", "quota", "none", "--hard=pods=0"];
    kubectl.run(&quota).out();
    drop(kubectl.try_run(&["delete", "pods", "--all", "--force", "--grace-period=0"]));
    wait_until(MINUTE * 2, "the quota is quoted", || {
        says(kubectl, "cc", "fast", "Ready").2.contains("exceeded quota: none")
    });
    kubectl.run(&["delete", "quota", "none"]).out();
    wait_until(MINUTE * 5, "pods are made", || pods(kubectl, "larder.dev/cluster=fast").len() == 3);
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn a_paused_cluster_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (plane, _operator) = begin(folder.path());
    let kubectl = plane.kubectl();
    let high = || -> bool {
        let map = kubectl.get("configmap", "fast-nvme").expect("there");
        map["data"]["agent.yaml"].as_str().is_some_and(|text| text.contains("high: 97"))
    };
    let paused = || says(kubectl, "cc", "fast", "Paused").1;
    assert_eq!(paused(), "NotPaused");
    merge(kubectl, &json!({"paused": true, "watermarks": {"high": 97}}));
    wait_until(MINUTE, "it is paused", || paused() == "Paused" && is_observed(kubectl));
    kubectl.run(&["delete", "configmap", "fast-trust"]).out();
    // Another look of the operator, which says so.
    merge(kubectl, &json!({"minNodes": 2}));
    wait_until(MINUTE, "it has looked again", || is_observed(kubectl));
    assert!(!high() && kubectl.get("configmap", "fast-trust").is_none(), "nothing was changed");
    let fresh = kubectl.get("cc", "fast").expect("there")["spec"].clone();
    let twin = json!({"apiVersion": "larder.dev/v1alpha1", "kind": "CacheCluster", "metadata": {"name": "later"}, "spec": fresh});
    kubectl.apply(&twin.to_string());
    wait_until(MINUTE, "one that is paused from the beginning says so", || {
        says(kubectl, "cc", "later", "Ready").2.contains("spec.paused is true")
    });
    assert!(kubectl.get("secret", "later-ca").is_none() && kubectl.get("daemonset", "later-nvme").is_none());
    kubectl.run(&["delete", "cc", "later", "--timeout=60s"]).out();
    merge(kubectl, &json!({"paused": false}));
    wait_until(MINUTE, "what was asked for is done", || {
        high() && kubectl.get("configmap", "fast-trust").is_some() && paused() == "NotPaused"
    });
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn volumes_come_from_chosen_namespaces_with_their_secrets() {
    let folder = tempfile::tempdir().expect("a folder");
    let (plane, _operator) = begin(folder.path());
    let kubectl = plane.kubectl();
    let reason = |namespace: &str| {
        let volume = kubectl.get_in(namespace, "cv", "data").unwrap_or_default();
        condition(&volume, "Ready").map(|(_, reason, message)| (reason, message)).unwrap_or_default()
    };
    let wait = |what: &str, wanted: &str| {
        wait_until(MINUTE * 3, what, || reason("other").0 == wanted);
    };
    kubectl.run(&["create", "namespace", "other"]).out();
    let volume = json!({"apiVersion": "larder.dev/v1alpha1", "kind": "CacheVolume", "metadata": {"name": "data", "namespace": "other"},
        "spec": {"clusterRef": {"name": "fast", "namespace": "default"},
                 "origin": {"s3": {"bucket": "data", "credentials": {"secretRef": {"name": "keys"}}}}}});
    kubectl.apply(&volume.to_string());
    wait("it isn't allowed", "NamespaceNotAllowed");
    merge(kubectl, &json!({"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}}));
    wait("nor without the label", "NamespaceNotAllowed");
    kubectl.run(&["label", "namespace", "other", "team=a"]).out();
    wait("with it its Secret is missed", "SecretNotFound");
    kubectl.run(&["create", "secret", "generic", "keys", "-n", "other", "--from-literal=accessKeyId=a"]).out();
    wait_until(MINUTE * 3, "a key is missed", || reason("other").1.contains("has no key secretAccessKey"));
    let whole = r#"{"stringData": {"secretAccessKey": "s"}}"#;
    kubectl.run(&["patch", "secret", "keys", "-n", "other", "--type=merge", "-p", whole]).out();
    wait("nothing is missed but nodes", "TooFewNodes");
    kubectl.run(&["delete", "secret", "keys", "-n", "other"]).out();
    wait("its Secret is gone", "SecretNotFound");
    kubectl.run(&["label", "namespace", "other", "team-"]).out();
    wait("and it is allowed no more", "NamespaceNotAllowed");
    merge(kubectl, &json!({"allowedNamespaces": {"from": "All", "selector": null}}));
    wait("now everybody is", "SecretNotFound");

    let mut wide = volume.clone();
    wide["metadata"] = json!({"name": "wide", "namespace": "default"});
    wide["spec"]["replicas"] = json!(5);
    kubectl.apply(&wide.to_string());
    wait_for_reason(kubectl, "cv", "wide", "TooFewNodes");
    assert!(says(kubectl, "cv", "wide", "Ready").2.contains("minNodes"), "{:?}", says(kubectl, "cv", "wide", "Ready"));
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn names_at_their_limits_work_and_kubectl_shows_what_it_shows_of_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let (plane, _operator) = begin(folder.path());
    let kubectl = plane.kubectl();
    let (cluster, pool, volume, node) = ("c".repeat(40), "p".repeat(20), "v".repeat(63), "n".repeat(63));
    plane.node(&node, &[("disk", "long")]);
    let long = [
        json!({"apiVersion": "larder.dev/v1alpha1", "kind": "CacheCluster", "metadata": {"name": cluster},
               "spec": {"minNodes": 1, "replicas": 1, "pools": [{"name": pool, "selector": {"matchLabels": {"disk": "long"}},
               "stores": [{"name": "s".repeat(32), "hostPath": "/mnt/long", "capacity": "1Gi"}]}]}}),
        json!({"apiVersion": "larder.dev/v1alpha1", "kind": "CacheVolume", "metadata": {"name": volume},
               "spec": {"clusterRef": {"name": cluster}, "origin": {"s3": {"bucket": "b".repeat(63),
               "credentials": {"secretRef": {"name": "models-keys"}}}}}}),
    ];
    long.iter().for_each(|document| kubectl.apply(&document.to_string()));
    wait_for_reason(kubectl, "cc", &cluster, "WaitingForNodes");
    wait_for_reason(kubectl, "cv", &volume, "TooFewNodes");
    wait_until(MINUTE, "a pod is bound", || {
        pods(kubectl, &format!("larder.dev/cluster={cluster}"))
            .iter()
            .any(|pod| pod["spec"]["nodeName"] == node.as_str())
    });
    assert!(kubectl.get("cn", &format!("{cluster}.{node}")).is_some());

    let file = repository().join("examples/s3.yaml").display().to_string();
    let same = kubectl.try_run(&["diff", "-f", &file]);
    assert!(same.ok && same.out.is_empty(), "what is applied is what is there: {}{}", same.out, same.err);
    merge(kubectl, &json!({"minNodes": 2}));
    let other = kubectl.try_run(&["diff", "-f", &file]);
    assert!(!other.ok && other.out.contains("minNodes"), "{}{}", other.out, other.err);
    let waited = kubectl.run(&[
        "wait",
        "cc/fast",
        "--for=jsonpath={.status.conditions[?(@.type=='Ready')].reason}=WaitingForNodes",
        "--timeout=30s",
    ]);
    assert!(waited.out.contains("condition met"), "{}", waited.out);
    for field in ["cc.spec.paused", "cc.spec.agent.resources.limits.memory", "cv.spec.pin", "cn.status.target.reason"] {
        let explained = kubectl.run(&["explain", field]).out();
        assert!(explained.contains("DESCRIPTION"), "{explained}");
    }
}
