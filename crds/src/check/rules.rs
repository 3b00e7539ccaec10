//! The CEL rules (`x-kubernetes-validations`).
//!
//! Owns the walk that pairs each value with its predecessor as the API server does: by field, by key in map lists and maps, never by
//! position. A rule that mentions `oldSelf` runs only where there is a predecessor.

use std::collections::BTreeMap;

use cel::{Context, Program, Value as CelValue};
use serde_json::Value;

use super::Violation;
use super::convert::{duration_ms, to_cel};
use super::structure::{list_key, map_values, member};

/// Evaluates every rule of the schema over a document whose structure is right.
pub(super) fn check(schema: &Value, document: &Value, old: Option<&Value>, found: &mut Vec<Violation>) {
    let mut walk = Walk { programs: BTreeMap::new(), found };
    walk.value(schema, document, old, "");
}

struct Walk<'a> {
    /// By rule, so that the rules of list items are compiled once.
    programs: BTreeMap<String, Program>,
    found: &'a mut Vec<Violation>,
}

impl Walk<'_> {
    fn value(&mut self, schema: &Value, value: &Value, old: Option<&Value>, path: &str) {
        if let Some(rules) = schema.get("x-kubernetes-validations").and_then(Value::as_array) {
            for rule in rules {
                self.rule(rule, value, old, path);
            }
        }
        match value {
            Value::Object(object) => {
                let properties = schema.get("properties").and_then(Value::as_object);
                let values = map_values(schema);
                for (key, inner) in object {
                    let property = properties.and_then(|properties| properties.get(key)).or(values);
                    let Some(property) = property else { continue };
                    self.value(property, inner, old.and_then(|old| old.get(key)), &member(path, key));
                }
            }
            Value::Array(items) => {
                let Some(inner) = schema.get("items") else {
                    return;
                };
                for (index, item) in items.iter().enumerate() {
                    let old = predecessor(schema, item, old);
                    self.value(inner, item, old, &format!("{path}[{index}]"));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn rule(&mut self, rule: &Value, value: &Value, old: Option<&Value>, path: &str) {
        let text = rule.get("rule").and_then(Value::as_str).expect("every rule of the schema has its text");
        if text.contains("oldSelf") && old.is_none() {
            return;
        }
        let program = self
            .programs
            .entry(text.to_owned())
            .or_insert_with(|| Program::compile(text).expect("every rule of the schema is compiled by a test"));
        let message = rule.get("message").and_then(Value::as_str).unwrap_or(text);
        let path = match rule.get("fieldPath").and_then(Value::as_str) {
            Some(field) => format!("{path}{field}"),
            None => path.to_owned(),
        };
        match program.execute(&context(value, old)) {
            Ok(CelValue::Bool(true)) => {}
            Ok(_) => self.found.push(Violation::new(path, message)),
            Err(error) => {
                self.found.push(Violation::new(path, format!("{error} evaluating rule: {message}")));
            }
        }
    }
}

fn context(value: &Value, old: Option<&Value>) -> Context<'static, 'static> {
    let mut context = Context::default();
    context.add_variable_from_value("self", to_cel(value));
    if let Some(old) = old {
        context.add_variable_from_value("oldSelf", to_cel(old));
    }
    context.add_function("duration", duration_ms).expect("the interpreter is built without durations");
    context
}

/// The item of the old list with the same key.
fn predecessor<'o>(schema: &Value, item: &Value, old: Option<&'o Value>) -> Option<&'o Value> {
    let key = list_key(schema, item)?;
    old?.as_array()?.iter().find(|old| list_key(schema, old).as_ref() == Some(&key))
}
