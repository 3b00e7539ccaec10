//! Nulls and defaults.
//!
//! As the API server: a null of a known field, or in a map, is as good as absent (no field of ours is nullable); then absent fields
//! take the schema's default; then the same within. Only what the schema knows is descended into.

use serde_json::Value;

use super::structure::map_values;

/// Drops nulls and fills defaults, in place.
pub(super) fn fill(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
                for (key, property) in properties {
                    if object.get(key).is_some_and(Value::is_null) {
                        object.shift_remove(key);
                    }
                    if let (None, Some(default)) = (object.get(key), property.get("default")) {
                        object.insert(key.clone(), default.clone());
                    }
                    if let Some(inner) = object.get_mut(key) {
                        fill(property, inner);
                    }
                }
            }
            if let Some(values) = map_values(schema) {
                object.retain(|_, inner| !inner.is_null());
                object.values_mut().for_each(|inner| fill(values, inner));
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| fill(schema, item));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
