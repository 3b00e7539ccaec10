//! The walker: each kind of violation once, in the API server's words.

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
                "stores": [{"name": "d0", "hostPath": "/mnt/nvme0", "capacity": "90%", "reserve": "1Gi"}],
            }],
            "replicas": 2,
            "failureDomain": "topology.kubernetes.io/zone",
            "watermarks": {"high": 90, "low": 80},
            "allowedNamespaces": {"from": "Same"},
        })
    );
}

#[test]
fn each_kind_of_violation_has_the_api_server_s_words() {
    let store = "/spec/pools/0/stores/0";
    let cases: Vec<(&str, Value, &str)> = vec![
        (
            "/spec/minNodes",
            json!("3"),
            "spec.minNodes: Invalid value: \"string\": spec.minNodes in body must be of type integer: \"string\"",
        ),
        ("/spec/minNodes", json!(null), "spec.minNodes: Required value"),
        (
            "/spec/minNodes",
            json!(0),
            "spec.minNodes: Invalid value: 0: spec.minNodes in body should be greater than or equal to 1",
        ),
        (
            "/spec/minNodes",
            json!(1001),
            "spec.minNodes: Invalid value: 1001: spec.minNodes in body should be less than or equal to 1000",
        ),
        (
            "/spec/minNodes",
            json!(2.5),
            "spec.minNodes: Invalid value: \"number\": spec.minNodes in body must be of type integer: \"number\"",
        ),
        ("/spec/pools", json!([]), "spec.pools: Invalid value: 0: spec.pools in body should have at least 1 items"),
        ("/spec/pools/0/name", json!("a".repeat(21)), "spec.pools[0].name: Too long: may not be more than 20 bytes"),
        (
            "/spec/pools/0/name",
            json!("A"),
            "spec.pools[0].name: Invalid value: \"A\": spec.pools[0].name in body should match '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'",
        ),
        (
            "/spec/pools/0/selector/matchLabels",
            json!({}),
            "spec.pools[0].selector.matchLabels: Invalid value: 0: spec.pools[0].selector.matchLabels in body should have at least 1 properties",
        ),
        (
            "/spec/pools/0/selector/matchLabels",
            json!({"a": 1}),
            "spec.pools[0].selector.matchLabels.a: Invalid value: \"integer\": spec.pools[0].selector.matchLabels.a in body must be of type string: \"integer\"",
        ),
    ];
    for (pointer, value, expected) in cases {
        let mut document = cluster();
        *document.pointer_mut(pointer).expect("a field of the document") = value;
        let found = violations(&document);
        assert!(found.contains(&expected.to_owned()), "expected {expected}\nfound {found:#?}");
    }
    let mut document = cluster();
    document.pointer_mut(store).expect("a store")["capacity"] = json!(true);
    assert_eq!(
        violations(&document),
        [
            "spec.pools[0].stores[0].capacity: Invalid value: \"boolean\": spec.pools[0].stores[0].capacity in body must be of type integer,string: \"boolean\""
        ]
    );
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
fn enums_name_their_values() {
    let mut document = cluster();
    document["spec"]["allowedNamespaces"] = json!({"from": "x"});
    assert_eq!(
        violations(&document),
        ["spec.allowedNamespaces.from: Unsupported value: \"x\": supported values: \"Same\", \"All\""]
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
        ("/metadata", json!({}), "metadata.name: Required value: name or generateName is required"),
        ("/metadata/name", json!("n".repeat(254)), "must be no more than 253 bytes"),
        (
            "/metadata/name",
            json!("Fast"),
            "metadata.name: Invalid value: \"Fast\": a lowercase RFC 1123 subdomain must consist of",
        ),
        (
            "/metadata/namespace",
            json!("a.b"),
            "metadata.namespace: Invalid value: \"a.b\": a lowercase RFC 1123 label must consist of",
        ),
    ] {
        let mut document = cluster();
        *document.pointer_mut(pointer).expect("a field of the document") = value;
        let found = violations(&document);
        assert!(found.iter().any(|found| found.contains(expected)), "expected {expected}\nfound {found:#?}");
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
