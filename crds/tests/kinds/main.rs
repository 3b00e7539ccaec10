//! The kinds as users, the chart and other versions meet them.
//!
//! `rules`: each CEL rule holds and fails. `mechanics`: what Kubernetes asks of a schema. `files`: the chart, the examples and the
//! stored fixtures agree with the types.

mod cases;
mod files;
mod mechanics;
mod rules;

use larder_crds::{Kind, definition};
use serde_json::Value;

/// The structural schema of a kind, as the API server reads it.
fn schema(kind: Kind) -> Value {
    let crd = serde_json::to_value(definition(kind)).expect("a CRD is JSON");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Calls `visit` for every schema within `schema`, with its path: `spec.pools[].name`, `spec.selector{}` for a map's values.
fn walk(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, schema);
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        walk(property, &path, visit);
    }
    if schema["items"].is_object() {
        walk(&schema["items"], &format!("{path}[]"), visit);
    }
    if schema["additionalProperties"].is_object() {
        walk(&schema["additionalProperties"], &format!("{path}{{}}"), visit);
    }
}
