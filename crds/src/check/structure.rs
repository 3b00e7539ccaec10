//! The structural schema: unknown fields, types, required fields, enums, patterns, ranges, sizes, unique keys.
//!
//! The words are those of Kubernetes' field errors. [`check`] says whether CEL must wait: the API server doesn't evaluate rules
//! over a document whose types, required fields, enums or sizes are wrong.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;
use regex::Regex;
use serde_json::{Map, Value};

use super::{Violation, words};

/// Paths of absent fields that were misspelt: they aren't said to be missing too.
pub(super) type Meant = BTreeSet<String>;

/// Reports fields that the schema doesn't have and removes them, so that no rule stumbles over them again. Metadata has no schema
/// here; `metadata` checks it.
pub(super) fn unknown_fields(schema: &Value, document: &mut Value, found: &mut Vec<Violation>) -> Meant {
    let mut meant = Meant::new();
    unknown_within(schema, document, "", &mut Unknown { found, meant: &mut meant });
    meant
}

/// What was found of unknown fields.
struct Unknown<'a> {
    found: &'a mut Vec<Violation>,
    meant: &'a mut Meant,
}

impl Unknown<'_> {
    /// Reports `key`; `absent` are the fields that the object could have and hasn't.
    fn report<'f>(&mut self, path: &str, key: &str, absent: impl Iterator<Item = &'f String>) {
        let here = member(path, key);
        let mut message = format!("unknown field {here:?}");
        if let Some(field) = words::meant(key, absent) {
            message.push_str(&format!(": did you mean {field}?"));
            self.meant.insert(member(path, field));
        }
        self.found.push(Violation::new(here, message));
    }
}

fn unknown_within(schema: &Value, value: &mut Value, path: &str, unknown: &mut Unknown<'_>) {
    match value {
        Value::Object(object) => {
            if let Some(values) = map_values(schema) {
                for (key, inner) in object {
                    unknown_within(values, inner, &member(path, key), unknown);
                }
                return;
            }
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
                return;
            };
            let written: BTreeSet<String> = object.keys().cloned().collect();
            object.retain(|key, inner| {
                if let Some(property) = properties.get(key) {
                    unknown_within(property, inner, &member(path, key), unknown);
                    return true;
                }
                let envelope = ["apiVersion", "kind", "metadata"].contains(&key.as_str());
                if path.is_empty() && envelope {
                    return true;
                }
                unknown.report(path, key, properties.keys().filter(|field| !written.contains(*field)));
                false
            });
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (index, item) in items.iter_mut().enumerate() {
                unknown_within(schema, item, &format!("{path}[{index}]"), unknown);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Checks values; true when what is wrong keeps the CEL rules from being evaluated. Fields of `meant` aren't said to be missing.
pub(super) fn check(schema: &Value, document: &Value, meant: &Meant, found: &mut Vec<Violation>) -> bool {
    let mut walk = Walk { found, meant, blocked: false };
    walk.value(schema, document, "");
    walk.blocked
}

struct Walk<'a> {
    found: &'a mut Vec<Violation>,
    meant: &'a Meant,
    blocked: bool,
}

impl Walk<'_> {
    fn report(&mut self, path: &str, message: String) {
        self.found.push(Violation::new(path, message));
    }

    fn block(&mut self, path: &str, message: String) {
        self.report(path, message);
        self.blocked = true;
    }

    fn value(&mut self, schema: &Value, value: &Value, path: &str) {
        if !has_type(schema, value) {
            self.block(path, invalid(schema, value));
            return;
        }
        self.enumeration(schema, value, path);
        match value {
            Value::Object(object) => self.object(schema, object, path),
            Value::Array(items) => self.array(schema, items, path),
            Value::String(text) => self.text(schema, text, path),
            Value::Number(_) => self.number(schema, value, path),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn enumeration(&mut self, schema: &Value, value: &Value, path: &str) {
        let Some(allowed) = schema.get("enum").and_then(Value::as_array) else {
            return;
        };
        if !allowed.contains(value) {
            let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
            self.block(path, format!("Unsupported value: {value}: supported values: {}", allowed.join(", ")));
        }
    }

    fn object(&mut self, schema: &Value, object: &Map<String, Value>, path: &str) {
        for key in texts(schema.get("required")).filter(|key| !object.contains_key(*key)) {
            let path = member(path, key);
            if self.meant.contains(&path) {
                self.blocked = true;
                continue;
            }
            let property = schema.get("properties").and_then(|properties| properties.get(key));
            let expected = property.map(|property| format!(": {}", words::expected(property))).unwrap_or_default();
            self.block(&path, format!("Required value{expected}"));
        }
        if let Some(least) = limit(schema, "minProperties").filter(|least| object.len() < *least) {
            self.report(
                path,
                format!("Invalid value: {}: {path} in body should have at least {least} properties", object.len()),
            );
        }
        if let Some(most) = limit(schema, "maxProperties").filter(|most| object.len() > *most) {
            self.block(path, format!("Too many: {}: must have at most {most} items", object.len()));
        }
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            for (key, property) in properties {
                if let Some(inner) = object.get(key) {
                    self.value(property, inner, &member(path, key));
                }
            }
        }
        if let Some(values) = map_values(schema) {
            for (key, inner) in object {
                self.value(values, inner, &member(path, key));
            }
        }
    }

    fn array(&mut self, schema: &Value, items: &[Value], path: &str) {
        if let Some(least) = limit(schema, "minItems").filter(|least| items.len() < *least) {
            self.report(
                path,
                format!("Invalid value: {}: {path} in body should have at least {least} items", items.len()),
            );
        }
        if let Some(most) = limit(schema, "maxItems").filter(|most| items.len() > *most) {
            // Whatever the list holds beyond its maximum isn't looked at.
            self.block(path, format!("Too many: {}: must have at most {most} items", items.len()));
            return;
        }
        if let Some(schema) = schema.get("items") {
            for (index, item) in items.iter().enumerate() {
                self.value(schema, item, &format!("{path}[{index}]"));
            }
        }
        self.duplicates(schema, items, path);
    }

    fn duplicates(&mut self, schema: &Value, items: &[Value], path: &str) {
        let mut seen = BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            let Some(key) = list_key(schema, item) else {
                continue;
            };
            if !seen.insert(key.clone()) {
                self.report(&format!("{path}[{index}]"), format!("Duplicate value: {key}"));
            }
        }
    }

    fn text(&mut self, schema: &Value, text: &str, path: &str) {
        let length = text.chars().count();
        let shown = || text.chars().take(64).collect::<String>();
        if let Some(least) = limit(schema, "minLength").filter(|least| length < *least) {
            let shown = shown();
            self.report(
                path,
                format!("Invalid value: {shown:?}: {path} in body should be at least {least} chars long"),
            );
            return;
        }
        if let Some(most) = limit(schema, "maxLength").filter(|most| length > *most) {
            self.block(path, format!("Too long: may not be more than {most} bytes"));
            return;
        }
        if schema.get("format").and_then(Value::as_str) == Some("date-time") && text.parse::<Timestamp>().is_err() {
            let shown = shown();
            self.report(path, format!("Invalid value: {shown:?}: {path} in body must be of type date-time: {shown:?}"));
        }
        let Some(pattern) = schema.get("pattern").and_then(Value::as_str) else {
            return;
        };
        let matches = Regex::new(pattern).expect("every pattern of the schema is compiled by a test").is_match(text);
        if !matches {
            self.report(path, invalid(schema, &Value::from(text)));
        }
    }

    fn number(&mut self, schema: &Value, value: &Value, path: &str) {
        // Every range of the schema is within i64; a number beyond that was refused as no integer of its format.
        let bound = |key| schema.get(key).and_then(Value::as_i64);
        let is_int32 = schema.get("format").and_then(Value::as_str) == Some("int32");
        let fits = value.as_i64().is_some_and(|number| {
            bound("minimum").is_none_or(|least| number >= least)
                && bound("maximum").is_none_or(|most| number <= most)
                && (!is_int32 || i32::try_from(number).is_ok())
        });
        if !fits {
            self.report(path, invalid(schema, value));
        }
    }
}

/// What a user reads about a value that isn't what the schema expects.
fn invalid(schema: &Value, value: &Value) -> String {
    format!("Invalid value: {}: must be {}", words::shown(value), words::expected(schema))
}

/// Whether a value has the type that it should have.
fn has_type(schema: &Value, value: &Value) -> bool {
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return value.is_string() || is_integer(value);
    }
    match schema.get("type").and_then(Value::as_str) {
        None => true,
        Some("integer") => is_integer(value),
        Some("number") => value.is_number(),
        Some(other) => type_name(value) == other,
    }
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64()
}

/// The type of a value in OpenAPI's words.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_integer(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The schema of a map's values, where the schema is one of a map.
pub(super) fn map_values(schema: &Value) -> Option<&Value> {
    schema.get("additionalProperties").filter(|values| values.is_object())
}

/// The path of a member.
pub(super) fn member(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The key of an item of a map list, as JSON; `None` in other lists, or when the item lacks its key.
pub(super) fn list_key(schema: &Value, item: &Value) -> Option<String> {
    if schema.get("x-kubernetes-list-type").and_then(Value::as_str) != Some("map") {
        return None;
    }
    let key: Option<Map<String, Value>> = texts(schema.get("x-kubernetes-list-map-keys"))
        .map(|key| Some((key.to_owned(), item.get(key)?.clone())))
        .collect();
    key.map(|key| Value::Object(key).to_string())
}

fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn limit(schema: &Value, key: &str) -> Option<usize> {
    schema.get(key).and_then(Value::as_u64).and_then(|limit| usize::try_from(limit).ok())
}
