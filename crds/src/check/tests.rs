//! The walker: each kind of violation once, in the words that a user reads.

use serde_json::{Value, json};

use super::{Violation, check};
use crate::kind::Kind;

pub(super) fn cluster() -> Value {
    json!({
        "apiVersion": "larder.dev/v1alpha1",
        "kind": "CacheCluster",
        "metadata": {"name": "fast", "namespace": "team-a"},
        "spec": {
            "minNodes": 3,
            "pools": [{
                "name": "nvme",
                "selector": {"matchLabels": {"disk": "nvme"}},
                "stores": [{"name": "d0", "hostPath": "/mnt/nvme0", "capacity": "90%"}],
            }],
        },
    })
}

fn violations(document: &Value) -> Vec<String> {
    check(Kind::CacheCluster, document, None).expect_err("a bad document").iter().map(Violation::to_string).collect()
}

#[test]
fn a_minimal_cluster_gets_its_defaults() {
    let checked = check(Kind::CacheCluster, &cluster(), None).expect("a good document");
    assert_eq!(
        checked["spec"],
        json!({
            "minNodes": 3,
            "pools": [{
                "name": "nvme",
                "selector": {"matchLabels": {"disk": "nvme"}},
                "stores": [{"name": "d0", "hostPath": "/mnt/nvme0", "capacity": "90%", "mountPoint": "Required", "reserve": "1Gi"}],
            }],
            "agent": {
                "resources": {"requests": {}, "limits": {}},
                "hostNetwork": false,
                "ports": {"peer": 7710, "admin": 7711},
                "logLevel": "Info",
            },
            "paused": false,
            "rollout": {"maxUnavailable": 1},
            "replicas": 2,
            "failureDomain": "topology.kubernetes.io/zone",
            "watermarks": {"high": 90, "low": 80},
            "join": {"warmup": "10m"},
            "drain": {"timeout": "1h", "afterCordon": "30m"},
            "lossGrace": "5m",
            "allowedNamespaces": {"from": "Same"},
        })
    );
}

#[test]
fn each_kind_of_violation_says_what_is_expected() {
    let store = "/spec/pools/0/stores/0";
    let cases: Vec<(&str, Value, &str)> = vec![
        (
            "/spec/minNodes",
            json!("three"),
            "spec.minNodes: Invalid value: \"three\": must be an integer from 1 to 1000, such as 1",
        ),
        ("/spec/minNodes", json!(null), "spec.minNodes: Required value: an integer from 1 to 1000, such as 1"),
        ("/spec/minNodes", json!(0), "spec.minNodes: Invalid value: 0: must be an integer from 1 to 1000, such as 1"),
        (
            "/spec/minNodes",
            json!(1001),
            "spec.minNodes: Invalid value: 1001: must be an integer from 1 to 1000, such as 1",
        ),
        (
            "/spec/minNodes",
            json!(2.5),
            "spec.minNodes: Invalid value: 2.5: must be an integer from 1 to 1000, such as 1",
        ),
        ("/spec/pools", json!([]), "spec.pools: Invalid value: 0: spec.pools in body should have at least 1 items"),
        ("/spec/pools/0/name", json!("a".repeat(21)), "spec.pools[0].name: Too long: may not be more than 20 bytes"),
        (
            "/spec/pools/0/name",
            json!("A"),
            "spec.pools[0].name: Invalid value: \"A\": must be lower-case letters, digits and hyphens, such as my-cache",
        ),
        (
            "/spec/pools/0/selector/matchLabels",
            json!({}),
            "spec.pools[0].selector.matchLabels: Invalid value: 0: spec.pools[0].selector.matchLabels in body should have at least 1 properties",
        ),
        (
            "/spec/pools/0/selector/matchLabels",
            json!({"a": 1}),
            "spec.pools[0].selector.matchLabels.a: Invalid value: 1: must be a label's value: at most 63 letters, digits, hyphens, dots and underscores, such as nvme",
        ),
    ];
    for (pointer, value, expected) in cases {
        let mut document = cluster();
        *document.pointer_mut(pointer).expect("a field of the document") = value;
        let found = violations(&document);
        assert!(found.contains(&expected.to_owned()), "expected {expected}\nfound {found:#?}");
    }
    let mut document = cluster();
    for (value, shown) in [(json!(true), "true"), (json!("lots"), "\"lots\""), (json!({"a": 1}), "a mapping")] {
        document.pointer_mut(store).expect("a store")["capacity"] = value;
        let expected = "must be a size such as 900Gi, or a percentage of the disk from 1% to 99%";
        assert_eq!(
            violations(&document),
            [format!("spec.pools[0].stores[0].capacity: Invalid value: {shown}: {expected}")]
        );
    }
}

#[test]
fn unknown_fields_are_named() {
    let mut document = cluster();
    document["spec"]["foo"] = json!(1);
    document["spec"]["pools"][0]["stores"][0]["bar"] = json!(null);
    document["baz"] = json!({});
    document["metadata"]["qux"] = json!(1);
    assert_eq!(
        violations(&document),
        [
            "metadata.qux: unknown field \"metadata.qux\"",
            "spec.pools[0].stores[0].bar: unknown field \"spec.pools[0].stores[0].bar\"",
            "spec.foo: unknown field \"spec.foo\"",
            "baz: unknown field \"baz\"",
        ]
    );
}

#[test]
fn a_misspelt_field_is_one_mistake() {
    let mut document = cluster();
    let spec = document["spec"].as_object_mut().expect("a mapping");
    let nodes = spec.remove("minNodes").expect("there");
    spec.insert("minNode".into(), nodes);
    spec.insert("replcias".into(), json!(2));
    assert_eq!(
        violations(&document),
        [
            "spec.minNode: unknown field \"spec.minNode\": did you mean minNodes?",
            "spec.replcias: unknown field \"spec.replcias\": did you mean replicas?",
        ]
    );
    // What is there already wasn't meant.
    document = cluster();
    document["spec"]["minNode"] = json!(1);
    assert_eq!(violations(&document), ["spec.minNode: unknown field \"spec.minNode\""]);
}

#[test]
fn a_freshness_without_a_unit_gets_an_example() {
    let mut document = json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "CacheVolume", "metadata": {"name": "data"},
        "spec": {"clusterRef": {"name": "fast"}, "origin": {"local": {"path": "/srv"}}, "freshness": 10},
    });
    let expected = "OnOpen, Forever, or a duration between 1s and 720h, such as 60s";
    let said = |document: &Value| {
        let found = check(Kind::CacheVolume, document, None).expect_err("a bad document");
        found.iter().map(Violation::to_string).collect::<Vec<_>>()
    };
    assert_eq!(said(&document), [format!("spec.freshness: Invalid value: 10: must be {expected}")]);
    document["spec"]["freshness"] = json!("10");
    assert_eq!(said(&document), [format!("spec.freshness: freshness must be {expected}")]);
}

#[test]
fn enums_name_their_values() {
    let mut document = cluster();
    document["spec"]["allowedNamespaces"] = json!({"from": "x"});
    assert_eq!(
        violations(&document),
        ["spec.allowedNamespaces.from: Unsupported value: \"x\": supported values: \"Same\", \"All\", \"Selector\""]
    );
}

#[test]
fn two_items_of_one_name_are_duplicates() {
    let mut document = cluster();
    let pool = document["spec"]["pools"][0].clone();
    document["spec"]["pools"] = json!([pool, pool]);
    assert_eq!(violations(&document), ["spec.pools[1]: Duplicate value: {\"name\":\"nvme\"}"]);
}

#[test]
fn lists_have_a_maximum() {
    let mut document = cluster();
    let pools: Vec<Value> = (0..17)
        .map(|n| {
            let mut pool = document["spec"]["pools"][0].clone();
            pool["name"] = json!(format!("p{n}"));
            pool
        })
        .collect();
    document["spec"]["pools"] = json!(pools);
    assert_eq!(violations(&document), ["spec.pools: Too many: 17: must have at most 16 items"]);
}

#[test]
fn nulls_of_optional_fields_are_absent() {
    let mut document = cluster();
    document["spec"]["cacheId"] = json!(null);
    document["spec"]["replicas"] = json!(null);
    let checked = check(Kind::CacheCluster, &document, None).expect("a good document");
    assert_eq!(checked["spec"].get("cacheId"), None);
    assert_eq!(checked["spec"]["replicas"], 2);
}

#[test]
fn the_envelope_is_checked() {
    for (pointer, value, expected) in [
        (
            "/apiVersion",
            json!("larder.dev/v1"),
            "apiVersion: Invalid value: \"larder.dev/v1\": must be larder.dev/v1alpha1",
        ),
        ("/kind", json!("CacheVolume"), "kind: Invalid value: \"CacheVolume\": must be CacheCluster"),
        ("/metadata", json!({}), "metadata.name: Required value: give the object a name"),
        ("/metadata/name", json!("n".repeat(254)), "must be no more than 253 bytes"),
        ("/metadata/name", json!("Fast"), "metadata.name: Invalid value: \"Fast\": must be lower-case letters"),
        ("/metadata/namespace", json!("a.b"), "metadata.namespace: Invalid value: \"a.b\": must be lower-case letters"),
    ] {
        let mut document = cluster();
        *document.pointer_mut(pointer).expect("a field of the document") = value;
        let found = violations(&document);
        assert!(found.iter().any(|found| found.contains(expected)), "expected {expected}\nfound {found:#?}");
        assert_eq!(found.len(), 1, "one fault, one line: {found:#?}");
    }
    assert!(check(Kind::CacheCluster, &json!([]), None).is_err());
    let mut labelled = cluster();
    labelled["metadata"]["labels"] = json!({"a": true});
    assert_eq!(violations(&labelled).len(), 1);
}

#[test]
fn sizes_that_no_schema_refuses_are_refused() {
    for (field, value, expected) in [
        ("capacity", "99Ei", "spec.pools[0].stores[0].capacity: \"99Ei\" is more than 2^64 bytes"),
        ("capacity", "0Gi", "spec.pools[0].stores[0].capacity: must be more than 0"),
        ("reserve", "1e30", "spec.pools[0].stores[0].reserve: \"1e30\" is more than 2^64 bytes"),
    ] {
        let mut document = cluster();
        document["spec"]["pools"][0]["stores"][0][field] = json!(value);
        assert_eq!(violations(&document), [expected]);
    }
}

#[test]
fn one_fault_is_said_once() {
    let old = check(Kind::CacheCluster, &cluster(), None).expect("a good document");
    let mut document = cluster();
    document["spec"]["pools"][0]["stores"][0]["later"] = json!(1);
    document["spec"]["pools"][0]["name"] = json!("");
    document["spec"]["minNodes"] = json!(1_i64 << 40);
    let found: Vec<String> = check(Kind::CacheCluster, &document, Some(&old))
        .expect_err("a bad document")
        .iter()
        .map(|violation| violation.path.clone())
        .collect();
    assert_eq!(found, ["spec.pools[0].stores[0].later", "spec.minNodes", "spec.pools[0].name"]);
}

#[test]
fn times_are_times() {
    let mut document = cluster();
    document["status"] = json!({"problems": [{"node": "n", "reason": "R", "message": "m", "since": "yesterday"}]});
    assert_eq!(
        violations(&document),
        [
            "status.problems[0].since: Invalid value: \"yesterday\": status.problems[0].since in body must be of type date-time: \"yesterday\""
        ]
    );
}
