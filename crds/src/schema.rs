//! The CustomResourceDefinitions, as Kubernetes wants them.
//!
//! Owns what derived schemas lack: rules over `metadata.name`, no `nullable`, no format that Kubernetes doesn't know. Refuses to
//! hold a field's own rules: they stand beside the field. The result is structural; a test walks it for bounds.

use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::cluster::CacheCluster;
use crate::kind::Kind;
use crate::node::CacheNode;
use crate::volume::CacheVolume;

/// A DNS-1123 label.
pub(crate) const DNS_LABEL_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// A DNS-1123 subdomain.
pub(crate) const DNS_SUBDOMAIN_PATTERN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// One line of text.
pub(crate) const PLAIN_TEXT_PATTERN: &str = "^[^[:cntrl:]]*$";

/// A label's key, with or without a prefix.
pub(crate) const LABEL_KEY_PATTERN: &str =
    r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$";

/// A label's value; may be empty.
pub(crate) const LABEL_VALUE_PATTERN: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";

/// A CEL rule for `x-kubernetes-validations`; `message` is what the user reads.
pub(crate) fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

/// A CEL rule whose failure is reported at `field_path`, relative to where the rule stands.
pub(crate) fn rule_at(rule: &str, message: &str, field_path: &str) -> Value {
    json!({"rule": rule, "message": message, "fieldPath": field_path})
}

/// The CustomResourceDefinition of a kind; what `charts/larder-crds` holds.
#[must_use]
pub fn definition(kind: Kind) -> CustomResourceDefinition {
    let derived = match kind {
        Kind::CacheCluster => CacheCluster::crd(),
        Kind::CacheVolume => CacheVolume::crd(),
        Kind::CacheNode => CacheNode::crd(),
    };
    let mut crd = serde_json::to_value(derived).expect("a derived CRD is JSON");
    let schema = crd
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema")
        .expect("a derived CRD has one version with a schema");
    tidy(schema);
    if let Some(rules) = name_rules(kind) {
        schema["x-kubernetes-validations"] = rules;
    }
    crd["metadata"]["annotations"] = json!({"helm.sh/resource-policy": "keep"});
    serde_json::from_value(crd).expect("it was one, and keeps its shape")
}

/// The CustomResourceDefinition as JSON. Kubernetes' types hold bounds as floats; here whole ones are integers again.
pub(crate) fn definition_json(kind: Kind) -> Value {
    let mut crd = serde_json::to_value(definition(kind)).expect("a CRD is JSON");
    whole_numbers(&mut crd);
    crd
}

/// The structural schema of a kind's objects, made once.
pub(crate) fn object_schema(kind: Kind) -> &'static Value {
    static CLUSTER: LazyLock<Value> = LazyLock::new(|| schema_of(Kind::CacheCluster));
    static VOLUME: LazyLock<Value> = LazyLock::new(|| schema_of(Kind::CacheVolume));
    static NODE: LazyLock<Value> = LazyLock::new(|| schema_of(Kind::CacheNode));
    match kind {
        Kind::CacheCluster => &CLUSTER,
        Kind::CacheVolume => &VOLUME,
        Kind::CacheNode => &NODE,
    }
}

fn schema_of(kind: Kind) -> Value {
    definition_json(kind)
        .pointer("/spec/versions/0/schema/openAPIV3Schema")
        .cloned()
        .expect("a definition has one version with a schema")
}

/// Limits on names that Kubernetes itself doesn't have. A cluster's name becomes part of Services, DaemonSets and labels; a
/// volume's becomes a label. A node's is cut and hashed by the operator.
fn name_rules(kind: Kind) -> Option<Value> {
    match kind {
        Kind::CacheCluster => Some(json!([rule(
            "size(self.metadata.name) <= 40 && !self.metadata.name.contains('.')",
            "the name of a CacheCluster must have at most 40 characters and no dots",
        )])),
        Kind::CacheVolume => Some(json!([rule(
            "size(self.metadata.name) <= 63",
            "the name of a CacheVolume must have at most 63 characters",
        )])),
        Kind::CacheNode => None,
    }
}

/// Removes what the derived schema says and Kubernetes shouldn't read: `nullable` (an absent field is absent, never null), and the
/// alternatives that stand for it; formats of unsigned numbers; titles.
fn tidy(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    object.remove("nullable");
    object.remove("title");
    collapse_null_alternative(object);
    let format = object.get("format").and_then(Value::as_str);
    if format.is_some_and(|format| !["int32", "int64", "date-time"].contains(&format)) {
        object.remove("format");
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(key) {
            tidy(inner);
        }
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        for property in properties.values_mut() {
            tidy(property);
        }
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
}

/// `anyOf: [X, null]` becomes X; what stands beside it (a description) wins.
fn collapse_null_alternative(object: &mut Map<String, Value>) {
    let Some(Value::Array(alternatives)) = object.get("anyOf") else {
        return;
    };
    let is_null = |value: &Value| value.get("enum") == Some(&json!([null]));
    if !alternatives.iter().any(is_null) {
        return;
    }
    let rest: Vec<Value> = alternatives.iter().filter(|value| !is_null(value)).cloned().collect();
    object.remove("anyOf");
    for (key, value) in rest.into_iter().filter_map(|value| value.as_object().cloned()).flatten() {
        object.entry(key).or_insert(value);
    }
}

/// Writes 40 for 40.0, which JSON numbers up to 2^53 allow without loss.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Ok(whole) = number.to_string().trim_end_matches(".0").parse::<i64>() {
                *number = whole.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(object) => object.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
