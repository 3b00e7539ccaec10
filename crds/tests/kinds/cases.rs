//! Every CEL rule: a document that passes and one that fails, with the message the user reads.
//!
//! Included by the tests of `check` here and by those of a real API server, so that both are held to the same cases.

use larder_crds::Kind;
use serde_json::{Value, json};

/// What a case does with the good document of its kind.
pub struct Case {
    pub kind: Kind,
    /// Where the violation is reported, and its words.
    pub violation: (&'static str, &'static str),
    /// Where the rule stands in the schema, when it isn't where the violation is reported.
    pub rule_path: Option<&'static str>,
    /// Replaces `old` and `new` parts of the document: creation when `old` is `None`.
    pub pointer: &'static str,
    pub old: Option<Value>,
    pub good: Value,
    pub bad: Value,
}

pub fn base(kind: Kind) -> Value {
    match kind {
        Kind::CacheCluster => json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "CacheCluster", "metadata": {"name": "fast"},
            "spec": {
                "minNodes": 3,
                "pools": [{
                    "name": "nvme", "selector": {"matchLabels": {"disk": "nvme"}},
                    "stores": [
                        {"name": "d0", "hostPath": "/mnt/nvme0", "capacity": "90%"},
                        {"name": "d1", "hostPath": "/mnt/nvme1", "capacity": "90%"},
                    ],
                }],
            },
        }),
        Kind::CacheVolume => json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "CacheVolume", "metadata": {"name": "models"},
            "spec": {"clusterRef": {"name": "fast"}, "origin": origin()},
        }),
        Kind::CacheNode => json!({
            "apiVersion": "larder.dev/v1alpha1", "kind": "CacheNode", "metadata": {"name": "fast.n1"},
            "spec": {"clusterName": "fast", "nodeName": "n1"},
        }),
    }
}

fn origin() -> Value {
    json!({"s3": {"bucket": "models", "prefix": "", "credentials": {"secretRef": {"name": "keys"}}}})
}

pub fn azure() -> Value {
    json!({"azure": {"account": "lake", "container": "models", "prefix": "", "credentials": {"secretRef": {"name": "keys"}}}})
}

fn local() -> Value {
    json!({"local": {"path": "/srv/data"}})
}

/// A rule about the document itself.
fn create(
    kind: Kind,
    pointer: &'static str,
    path: &'static str,
    message: &'static str,
    good: Value,
    bad: Value,
) -> Case {
    Case { kind, violation: (path, message), rule_path: None, pointer, old: None, good, bad }
}

/// A rule about a change; `old` stays as it is in the good case, and becomes `bad` in the bad one.
fn update(
    kind: Kind,
    pointer: &'static str,
    path: &'static str,
    message: &'static str,
    old: Value,
    bad: Value,
) -> Case {
    Case { kind, violation: (path, message), rule_path: None, pointer, good: old.clone(), old: Some(old), bad }
}

fn cluster_cases() -> Vec<Case> {
    const NAME: &str = "the name of a CacheCluster must have at most 40 characters and no dots";
    const ID: &str = "cacheId is immutable: it names the data on the disks";
    let kind = Kind::CacheCluster;
    let with_id = |id: Option<&str>| {
        let mut spec = base(kind)["spec"].clone();
        if let Some(id) = id {
            spec["cacheId"] = json!(id);
        }
        spec
    };
    let at_spec = |case: Case| Case { rule_path: Some("spec"), ..case };
    vec![
        create(kind, "/metadata/name", "", NAME, json!("n".repeat(40)), json!("n".repeat(41))),
        create(kind, "/metadata/name", "", NAME, json!("a-b"), json!("a.b")),
        create(kind, "/spec/minNodes", "spec", "replicas must not be larger than minNodes", json!(2), json!(1)),
        at_spec(update(kind, "/spec", "spec.cacheId", ID, with_id(Some("a/b")), with_id(Some("a/c")))),
        at_spec(update(kind, "/spec", "spec.cacheId", ID, with_id(Some("a/b")), with_id(None))),
        at_spec(update(kind, "/spec", "spec.cacheId", ID, with_id(None), with_id(Some("a/b")))),
        create(
            kind,
            "/spec/watermarks",
            "spec.watermarks",
            "low must be less than high",
            json!({"high": 81}),
            json!({"high": 80}),
        ),
    ]
    .into_iter()
    .chain(allowed_cases())
    .chain([create(
        kind,
        "/spec/agent",
        "spec.agent.ports",
        "peer and admin must differ",
        json!({"ports": {"admin": 7712}}),
        json!({"ports": {"admin": 7710}}),
    )])
    .chain(patience_cases())
    .collect()
}

fn allowed_cases() -> impl Iterator<Item = Case> {
    let (path, message) = ("spec.allowedNamespaces", "selector must be set when from is Selector, and only then");
    let selector = json!({"from": "Selector", "selector": {"matchLabels": {"team": "a"}}});
    let wrong = [json!({"from": "Selector"}), json!({"selector": {"matchLabels": {"team": "a"}}})];
    let case = move |bad| create(Kind::CacheCluster, "/spec/allowedNamespaces", path, message, selector.clone(), bad);
    wrong.into_iter().map(case)
}

/// How long nodes may be silent, and slow to hand over.
fn patience_cases() -> impl Iterator<Item = Case> {
    let fields = [
        ("/spec/lossGrace", "spec.lossGrace", "lossGrace must be between 5s and 24h"),
        ("/spec/join", "spec.join.warmup", "warmup must be between 5s and 24h"),
        ("/spec/drain", "spec.drain.timeout", "timeout must be between 5s and 24h"),
        ("/spec/drain", "spec.drain.afterCordon", "afterCordon must be between 5s and 24h"),
    ];
    let texts = [("5s", "4999ms"), ("24h", "24h1ms"), ("4m60s", "9999999999999s")];
    fields.into_iter().flat_map(move |(pointer, path, message)| {
        let value = move |text: &str| match path.rsplit_once('.') {
            Some((_, "lossGrace")) | None => json!(text),
            Some((_, field)) => json!({ field: text }),
        };
        texts.map(|(good, bad)| create(Kind::CacheCluster, pointer, path, message, value(good), value(bad)))
    })
}

fn store_cases() -> Vec<Case> {
    const PATH: &str = "hostPath must be absolute and must not contain ..";
    const FIXED: &str = "hostPath is immutable: add a store with another name, then remove this one";
    let kind = Kind::CacheCluster;
    let stores = |path0: &str, path1: &str| {
        json!([
            {"name": "d0", "hostPath": path0, "capacity": "90%"},
            {"name": "d1", "hostPath": path1, "capacity": "90%"},
        ])
    };
    // The same stores in another order: paired by name, not by place.
    let reversed = json!([
        {"name": "d1", "hostPath": "/b", "capacity": "90%"},
        {"name": "d0", "hostPath": "/a", "capacity": "90%"},
        {"name": "d2", "hostPath": "/c", "capacity": "90%"},
    ]);
    let (all, first, second) =
        ("/spec/pools/0/stores", "spec.pools[0].stores[0].hostPath", "spec.pools[0].stores[1].hostPath");
    vec![
        create(kind, all, "spec.pools", "at least one pool must have stores", stores("/a", "/b"), json!([])),
        create(kind, "/spec/pools/0/stores/1/hostPath", second, PATH, json!("/mnt/..data"), json!("/mnt/..")),
        create(kind, "/spec/pools/0/stores/0/hostPath", first, PATH, json!("/mnt/a..b/c"), json!("mnt/nvme0")),
        update(kind, all, second, FIXED, stores("/a", "/b"), stores("/a", "/c")),
        Case {
            kind,
            violation: (first, FIXED),
            rule_path: None,
            pointer: all,
            old: Some(stores("/a", "/b")),
            good: reversed,
            bad: stores("/b", "/b"),
        },
    ]
}

fn volume_cases() -> Vec<Case> {
    const FRESHNESS: &str = "freshness must be OnOpen, Forever, or a duration between 1s and 720h, such as 60s";
    const DEADLINE: &str = "readDeadline must be between 1s and 1h";
    let kind = Kind::CacheVolume;
    let mut cases = vec![
        create(
            kind,
            "/metadata/name",
            "",
            "the name of a CacheVolume must have at most 63 characters",
            json!("n".repeat(63)),
            json!("n".repeat(64)),
        ),
        update(
            kind,
            "/spec/clusterRef",
            "spec.clusterRef",
            "clusterRef is immutable: make a new CacheVolume",
            json!({"name": "fast"}),
            json!({"name": "fast", "namespace": "other"}),
        ),
        update(
            kind,
            "/spec/chunkSize",
            "spec.chunkSize",
            "chunkSize is immutable: make a new CacheVolume",
            json!("8Mi"),
            json!("4Mi"),
        ),
    ];
    for (good, bad) in
        [("1s", "999ms"), ("1h", "1h1ms"), ("30s", "0s"), ("1m", "99999999h"), ("1800000ms", "9999999999999ms")]
    {
        cases.push(create(kind, "/spec/readDeadline", "spec.readDeadline", DEADLINE, json!(good), json!(bad)));
    }
    for (good, bad) in [
        ("OnOpen", "onOpen"),
        ("Forever", "60"),
        ("720h", "721h"),
        ("1s", "500ms"),
        ("1m", ""),
        ("9h", "99999999999999h"),
    ] {
        cases.push(create(kind, "/spec/freshness", "spec.freshness", FRESHNESS, json!(good), json!(bad)));
    }
    for (good, bad) in [("1s", "999ms"), ("87600h", "87601h"), ("30m", "99999999999h")] {
        let message = "ttl must be between 1s and 87600h";
        cases.push(create(kind, "/spec/ttl", "spec.ttl", message, json!(good), json!(bad)));
    }
    cases
}

fn origin_cases() -> Vec<Case> {
    const ONE: &str = "exactly one of s3, azure and local must be set";
    const KIND: &str = "the kind of origin is immutable: make a new CacheVolume";
    let kind = Kind::CacheVolume;
    let path = |path: &str| json!({"local": {"path": path}});
    let both = json!({"s3": origin()["s3"], "local": local()["local"]});
    let all = json!({"s3": origin()["s3"], "azure": azure()["azure"], "local": local()["local"]});
    let mut cases = vec![
        create(kind, "/spec/origin", "spec.origin", ONE, local(), json!({})),
        create(kind, "/spec/origin", "spec.origin", ONE, origin(), both),
        create(
            kind,
            "/spec/origin",
            "spec.origin",
            ONE,
            azure(),
            json!({"s3": origin()["s3"], "azure": azure()["azure"]}),
        ),
        create(kind, "/spec/origin", "spec.origin", ONE, azure(), all),
        update(kind, "/spec/origin", "spec.origin", KIND, origin(), local()),
        update(kind, "/spec/origin", "spec.origin", KIND, origin(), azure()),
        update(kind, "/spec/origin", "spec.origin", KIND, azure(), local()),
        create(
            kind,
            "/spec/origin",
            "spec.origin.local.path",
            "path must be absolute and must not contain ..",
            local(),
            path("/srv/../etc"),
        ),
        update(
            kind,
            "/spec/origin",
            "spec.origin.local.path",
            "path is immutable: make a new CacheVolume",
            local(),
            path("/srv/other"),
        ),
    ];
    cases.extend(s3_cases());
    cases.extend(azure_cases());
    cases
}

fn s3_cases() -> Vec<Case> {
    const BUCKET: &str =
        "bucket must be 3 to 63 lower-case letters, digits, dots and hyphens, and begin and end with a letter or digit";
    const ENDPOINT: &str = "endpoint must be http(s)://host or http(s)://host:port, in lower case and without a path";
    const PREFIX: &str = "prefix must not begin with /, nor contain an empty, . or .. part";
    let (kind, s3) = (Kind::CacheVolume, "/spec/origin/s3");
    let with = |field: &str, value: Value| {
        let mut s3 = origin()["s3"].clone();
        s3[field] = value;
        s3
    };
    let bucket = "spec.origin.s3.bucket";
    let mut cases =
        vec![create(kind, "/spec/origin/s3/bucket", bucket, BUCKET, json!("my.bucket-1"), json!("My_Bucket"))];
    for (field, path, message, old, bad) in [
        ("bucket", bucket, "bucket is immutable: make a new CacheVolume", json!("models"), json!("others")),
        ("prefix", "spec.origin.s3.prefix", "prefix is immutable: make a new CacheVolume", json!("a"), json!("")),
    ] {
        cases.push(update(kind, s3, path, message, with(field, old), with(field, bad)));
    }
    let endpoint = |url: &str| with("endpoint", json!(url));
    for (old, bad) in [
        (endpoint("http://a:9000"), endpoint("http://b:9000")),
        (endpoint("http://a:9000"), origin()["s3"].clone()),
        (origin()["s3"].clone(), endpoint("http://a:9000")),
    ] {
        let case =
            update(kind, s3, "spec.origin.s3.endpoint", "endpoint is immutable: make a new CacheVolume", old, bad);
        cases.push(Case { rule_path: Some("spec.origin.s3"), ..case });
    }
    for (good, bad) in [
        ("https://minio.example.com:9000", "minio.example.com:9000"),
        ("http://127.0.0.1:80", "http://127.0.0.1:80/"),
        ("http://[::1]:9000", "http://MINIO"),
        ("https://s3", "ftp://s3"),
    ] {
        cases.push(create(kind, s3, "spec.origin.s3.endpoint", ENDPOINT, endpoint(good), endpoint(bad)));
    }
    for (good, bad) in [("a/b/", "/a"), ("a..b", "a/../b"), (".a", "./a"), ("a/b", "a//b"), ("", "..")] {
        let [good, bad] = [good, bad].map(|prefix| with("prefix", json!(prefix)));
        cases.push(create(kind, s3, "spec.origin.s3.prefix", PREFIX, good, bad));
    }
    cases
}

fn azure_cases() -> Vec<Case> {
    const ACCOUNT: &str = "account must be 3 to 24 lower-case letters and digits";
    const CONTAINER: &str = "container must be 3 to 63 lower-case letters, digits and single hyphens between them";
    const ENDPOINT: &str = "endpoint must be http(s)://host or http(s)://host:port, in lower case, with /account at its end where the host isn't the account's own";
    const PREFIX: &str = "prefix must not begin with /, nor contain an empty, . or .. part";
    let (kind, place) = (Kind::CacheVolume, "/spec/origin");
    let with = |field: &str, value: Value| {
        let mut origin = azure();
        origin["azure"][field] = value;
        origin
    };
    let mut cases = Vec::new();
    for (field, path, message, old, bad) in [
        ("account", "spec.origin.azure.account", "account is immutable: make a new CacheVolume", "lake", "pond"),
        (
            "container",
            "spec.origin.azure.container",
            "container is immutable: make a new CacheVolume",
            "models",
            "data",
        ),
        ("prefix", "spec.origin.azure.prefix", "prefix is immutable: make a new CacheVolume", "a", ""),
    ] {
        cases.push(update(kind, place, path, message, with(field, json!(old)), with(field, json!(bad))));
    }
    let endpoint = |url: &str| with("endpoint", json!(url));
    for (old, bad) in [
        (endpoint("http://a:1"), endpoint("http://b:1")),
        (endpoint("http://a:1"), azure()),
        (azure(), endpoint("http://a:1")),
    ] {
        let message = "endpoint is immutable: make a new CacheVolume";
        let case = update(kind, place, "spec.origin.azure.endpoint", message, old, bad);
        cases.push(Case { rule_path: Some("spec.origin.azure"), ..case });
    }
    for (field, path, message, good, bad) in [
        ("account", "spec.origin.azure.account", ACCOUNT, "lake2", "la"),
        ("account", "spec.origin.azure.account", ACCOUNT, "123", "my-lake"),
        ("container", "spec.origin.azure.container", CONTAINER, "a-b-c", "a--b"),
        ("container", "spec.origin.azure.container", CONTAINER, "abc", "ab"),
        ("container", "spec.origin.azure.container", CONTAINER, "1models", "-models"),
        ("container", "spec.origin.azure.container", CONTAINER, "models", "Models"),
        (
            "endpoint",
            "spec.origin.azure.endpoint",
            ENDPOINT,
            "http://127.0.0.1:10000/lake",
            "http://127.0.0.1:10000/lake/models",
        ),
        (
            "endpoint",
            "spec.origin.azure.endpoint",
            ENDPOINT,
            "https://lake.blob.core.chinacloudapi.cn",
            "lake.blob.core.windows.net",
        ),
        ("endpoint", "spec.origin.azure.endpoint", ENDPOINT, "http://[::1]:10000/lake", "https://LAKE.example.com"),
        ("prefix", "spec.origin.azure.prefix", PREFIX, "a/b/", "/a"),
        ("prefix", "spec.origin.azure.prefix", PREFIX, ".a", "a//b"),
    ] {
        cases.push(create(kind, place, path, message, with(field, json!(good)), with(field, json!(bad))));
    }
    cases
}

fn node_cases() -> Vec<Case> {
    let kind = Kind::CacheNode;
    vec![
        update(kind, "/spec/clusterName", "spec.clusterName", "clusterName is immutable", json!("fast"), json!("slow")),
        update(kind, "/spec/nodeName", "spec.nodeName", "nodeName is immutable", json!("n1"), json!("n2")),
    ]
}

pub fn cases() -> Vec<Case> {
    [cluster_cases(), store_cases(), volume_cases(), origin_cases(), node_cases()].into_iter().flatten().collect()
}

/// The good document with `value` at `pointer`; the member is made if it is absent.
pub fn document(kind: Kind, pointer: &str, value: &Value) -> Value {
    let mut document = base(kind);
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer to a member");
    match document.pointer_mut(parent).expect("the parent is there") {
        Value::Array(items) => items[key.parse::<usize>().expect("an index")] = value.clone(),
        object => object[key] = value.clone(),
    }
    document
}
