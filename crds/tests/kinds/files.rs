//! The chart, the examples and the stored fixtures.

use std::path::{Path, PathBuf};

use larder_crds::{CacheCluster, CacheNode, CacheVolume, Kind, REGENERATE_COMMAND, Violation, chart_files, check};
use serde::Deserialize;
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn documents(path: &Path) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(&read(path))
        .map(|document| Value::deserialize(document).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .collect()
}

#[test]
fn the_chart_is_what_the_types_say() {
    let chart = repository().join("charts/larder-crds");
    let files = chart_files();
    for (path, text) in &files {
        let stored = std::fs::read_to_string(chart.join(path)).unwrap_or_default();
        assert!(stored == *text, "{path} is not what the types say; run `{REGENERATE_COMMAND}`");
        assert!(!text.contains("{{"), "{path}: Helm would take this for a template");
    }
    let stored = std::fs::read_dir(chart.join("templates")).expect("templates/").count();
    assert_eq!(stored, files.len(), "templates/ holds a file that nothing generates");
}

#[test]
fn the_chart_keeps_the_kinds_when_it_is_uninstalled() {
    for (path, text) in chart_files() {
        let crd: Value = serde_yaml::from_str(&text).expect("YAML");
        assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep", "{path}");
        assert_eq!(path, format!("templates/{}.yaml", crd["metadata"]["name"].as_str().expect("a name")));
    }
    let chart: Value = serde_yaml::from_str(&read(&repository().join("charts/larder-crds/Chart.yaml"))).expect("YAML");
    assert_eq!(chart["name"], "larder-crds");
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
}

/// Checks every object of our kinds in a file, and returns how many there were of each.
fn check_file(path: &Path) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for document in documents(path) {
        let name = document["kind"].as_str().expect("every document has a kind");
        let Some(kind) = Kind::from_name(name) else { continue };
        let checked = check(kind, &document, None).unwrap_or_else(|found: Vec<Violation>| {
            let found: Vec<String> = found.iter().map(Violation::to_string).collect();
            panic!("{} {name}: {}", path.display(), found.join("\n"))
        });
        let parsed = match kind {
            Kind::CacheCluster => CacheCluster::deserialize(&checked).err(),
            Kind::CacheVolume => CacheVolume::deserialize(&checked).err(),
            Kind::CacheNode => CacheNode::deserialize(&checked).err(),
        };
        assert!(parsed.is_none(), "{} {name}: {parsed:?}", path.display());
        assert_eq!(check(kind, &checked, Some(&checked)).as_ref(), Ok(&checked), "what was checked stays as it is");
        kinds.push(kind);
    }
    kinds
}

const EXAMPLES: [&str; 3] = ["s3.yaml", "azure.yaml", "local.yaml"];

#[test]
fn the_examples_are_valid() {
    let examples = repository().join("examples");
    for file in EXAMPLES {
        assert_eq!(check_file(&examples.join(file)), [Kind::CacheCluster, Kind::CacheVolume], "{file}");
    }
}

/// References lead to objects of the same file, so that a file can be applied as it is.
#[test]
fn the_examples_are_whole() {
    for file in EXAMPLES {
        let documents = documents(&repository().join("examples").join(file));
        let has = |kind: &str, name: &Value| {
            documents.iter().any(|document| document["kind"] == kind && document["metadata"]["name"] == *name)
        };
        for volume in documents.iter().filter(|document| document["kind"] == "CacheVolume") {
            assert!(has("CacheCluster", &volume["spec"]["clusterRef"]["name"]), "{file}");
            for member in ["s3", "azure"] {
                let secret = &volume["spec"]["origin"][member]["credentials"]["secretRef"]["name"];
                assert!(secret.is_null() || has("Secret", secret), "{file}");
            }
        }
    }
}

/// Objects stored by every released version: they stay valid, and the types read them.
#[test]
fn the_stored_fixtures_are_read() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(&fixtures).expect("fixtures/") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            seen.extend(check_file(&path));
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen, Kind::ALL, "every kind has a stored fixture");
}

/// What a fixture says survives reading and writing: no field of the schema is missing in the types.
#[test]
fn the_types_hold_every_field_of_the_fixtures() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1alpha1-full.yaml");
    for document in documents(&fixture) {
        let kind = Kind::from_name(document["kind"].as_str().expect("a kind")).expect("our kind");
        let checked = check(kind, &document, None).expect("a good document");
        let written = match kind {
            Kind::CacheCluster => serde_json::to_value(CacheCluster::deserialize(&checked).expect("reads")),
            Kind::CacheVolume => serde_json::to_value(CacheVolume::deserialize(&checked).expect("reads")),
            Kind::CacheNode => serde_json::to_value(CacheNode::deserialize(&checked).expect("reads")),
        };
        assert_eq!(written.expect("writes"), checked);
    }
}

/// The full fixture sets every field that the schema has, so that the test above means what it says.
#[test]
fn the_full_fixture_is_full() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1alpha1-full.yaml");
    for kind in Kind::ALL {
        let mut missing = Vec::new();
        super::walk(&super::schema(kind), "", &mut |path, _| missing.push(path.to_owned()));
        for document in documents(&fixture).iter().filter(|document| document["kind"] == kind.name()) {
            missing.retain(|path| !present(document, path));
        }
        assert_eq!(missing, Vec::<String>::new(), "{kind:?}");
    }
}

/// Whether a path as `walk` writes them leads to something in any item of the lists on its way.
fn present(value: &Value, path: &str) -> bool {
    let Some((head, rest)) = path.split_once('.') else { return first(value, path).is_some() };
    match first(value, head) {
        Some(Value::Array(items)) => items.iter().any(|item| present(item, rest)),
        Some(inner) => present(inner, rest),
        None => false,
    }
}

/// The member of a path's part: `name`, `name[]`, `name{}`; empty is the value itself.
fn first<'v>(value: &'v Value, part: &str) -> Option<&'v Value> {
    let name = part.trim_end_matches("[]").trim_end_matches("{}");
    if name.is_empty() { Some(value) } else { value.get(name) }
}

/// An older operator reads a newer object: unknown fields are ignored, unknown words become `Unknown`.
#[test]
fn newer_objects_are_read() {
    let newer = serde_json::json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "CacheVolume", "metadata": {"name": "models"},
        "spec": {
            "clusterRef": {"name": "fast", "later": 1},
            "origin": {"gcs": {"bucket": "b"}},
            "access": "WriteBack", "copies": 2, "freshness": "Sometimes", "chunkSize": "5Mi",
        },
        "status": {"later": {}},
    });
    let volume = CacheVolume::deserialize(&newer).expect("reads");
    assert_eq!(volume.spec.access, larder_crds::Access::Unknown);
    assert_eq!(volume.spec.origin.member(), None);
    assert!(volume.spec.freshness().is_err());
    assert!(volume.spec.chunk_size.bytes().is_err());
    assert!(check(Kind::CacheVolume, &newer, None).is_err(), "only check is strict");
}

#[test]
fn the_effective_cache_id_and_cluster_reference() {
    let [cluster, volume] =
        ["team-a", "team-b"].map(|namespace| serde_json::json!({"name": "x", "namespace": namespace}));
    let mut cluster = CacheCluster::deserialize(serde_json::json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "CacheCluster", "metadata": cluster,
        "spec": {"minNodes": 1, "pools": []},
    }))
    .expect("reads");
    assert_eq!(cluster.cache_id(), "team-a/x");
    cluster.metadata.namespace = None;
    assert_eq!(cluster.cache_id(), "default/x");
    cluster.spec.cache_id = Some("kept".to_owned());
    assert_eq!(cluster.cache_id(), "kept");

    let mut volume = CacheVolume::deserialize(serde_json::json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "CacheVolume", "metadata": volume,
        "spec": {"clusterRef": {"name": "fast"}, "origin": {"local": {"path": "/srv"}}},
    }))
    .expect("reads");
    assert_eq!(volume.cluster_key(), ("team-b", "fast"));
    volume.spec.cluster_ref.namespace = Some("team-a".to_owned());
    assert_eq!(volume.cluster_key(), ("team-a", "fast"));
    let labels = std::collections::BTreeMap::from([("team".to_owned(), "b".to_owned())]);
    let mut allowed = cluster.spec.allowed_namespaces;
    assert!(!allowed.allows("team-a", "team-b", &labels));
    assert!(allowed.allows("team-a", "team-a", &labels));
    for (team, is_allowed) in [("b", true), ("c", false)] {
        allowed = serde_json::from_value(serde_json::json!({
            "from": "Selector", "selector": {"matchLabels": {"team": team}},
        }))
        .expect("reads");
        assert_eq!(allowed.allows("team-a", "team-b", &labels), is_allowed, "{team}");
        assert!(allowed.allows("team-a", "team-a", &Default::default()), "its own namespace is always allowed");
    }
}
