//! The envelope: `apiVersion`, `kind` and `metadata`.
//!
//! Checks what the API server checks before it looks at the schema: a wrong kind, a name that is no DNS-1123 subdomain, fields of
//! metadata that don't exist, labels and annotations that aren't texts. `generateName` needs a server, so a name is required.

use regex::Regex;
use serde_json::Value;

use super::{Violation, words};
use crate::kind::Kind;
use crate::schema::{DNS_LABEL_PATTERN, DNS_SUBDOMAIN_PATTERN};

const NAME_REQUIRED: &str = "Required value: give the object a name, as in metadata: {name: my-cache}";
const SUBDOMAIN_MESSAGE: &str = "must be lower-case letters, digits, '-' and '.', with a letter or digit at both ends of each part, \
     such as my-cache";
const LABEL_MESSAGE: &str =
    "must be lower-case letters, digits and '-', with a letter or digit at both ends, such as team-a";

/// The fields of ObjectMeta.
const METADATA_FIELDS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

pub(super) fn check(kind: Kind, document: &Value) -> Vec<Violation> {
    let mut found = Vec::new();
    let Some(object) = document.as_object() else {
        return vec![Violation::new("", "a document must be a mapping")];
    };
    expect_text(object.get("apiVersion"), "apiVersion", &Kind::api_version(), &mut found);
    expect_text(object.get("kind"), "kind", kind.name(), &mut found);
    let metadata = match object.get("metadata") {
        Some(Value::Object(metadata)) => metadata,
        None | Some(Value::Null) => {
            found.push(Violation::new("metadata.name", NAME_REQUIRED));
            return found;
        }
        Some(other) => {
            found.push(wrong_type("metadata", other, "a mapping, as in metadata: {name: my-cache}"));
            return found;
        }
    };
    for key in metadata.keys().filter(|key| !METADATA_FIELDS.contains(&key.as_str())) {
        let path = format!("metadata.{key}");
        found.push(Violation::new(&*path, format!("unknown field {path:?}")));
    }
    check_name(metadata.get("name"), &mut found);
    check_namespace(metadata.get("namespace"), &mut found);
    for field in ["labels", "annotations"] {
        check_texts(field, metadata.get(field), &mut found);
    }
    found
}

fn expect_text(value: Option<&Value>, path: &str, expected: &str, found: &mut Vec<Violation>) {
    match value {
        None | Some(Value::Null) => found.push(Violation::new(path, "Required value")),
        Some(Value::String(text)) if text == expected => {}
        Some(other) => {
            found.push(Violation::new(path, format!("Invalid value: {other}: must be {expected}")));
        }
    }
}

fn check_name(value: Option<&Value>, found: &mut Vec<Violation>) {
    const PATH: &str = "metadata.name";
    match value {
        None | Some(Value::Null) => {
            found.push(Violation::new(PATH, NAME_REQUIRED));
        }
        Some(Value::String(name)) if name.is_empty() => {
            found.push(Violation::new(PATH, NAME_REQUIRED));
        }
        Some(Value::String(name)) => {
            check_dns(PATH, name, 253, DNS_SUBDOMAIN_PATTERN, SUBDOMAIN_MESSAGE, found);
        }
        Some(other) => found.push(wrong_type(PATH, other, "a text (in quotes, if it looks like a number)")),
    }
}

fn check_namespace(value: Option<&Value>, found: &mut Vec<Violation>) {
    const PATH: &str = "metadata.namespace";
    match value {
        None | Some(Value::Null) => {}
        Some(Value::String(name)) => check_dns(PATH, name, 63, DNS_LABEL_PATTERN, LABEL_MESSAGE, found),
        Some(other) => found.push(wrong_type(PATH, other, "a text (in quotes, if it looks like a number)")),
    }
}

fn check_dns(path: &str, name: &str, max: usize, pattern: &str, message: &str, found: &mut Vec<Violation>) {
    let shown: String = name.chars().take(max).collect();
    if name.len() > max {
        found.push(Violation::new(path, format!("Invalid value: {shown:?}: must be no more than {max} bytes")));
    } else if !Regex::new(pattern).expect("a constant pattern").is_match(name) {
        found.push(Violation::new(path, format!("Invalid value: {shown:?}: {message}")));
    }
}

fn check_texts(field: &str, value: Option<&Value>, found: &mut Vec<Violation>) {
    let path = format!("metadata.{field}");
    match value {
        None | Some(Value::Null) => {}
        Some(Value::Object(texts)) => {
            for (key, value) in texts.iter().filter(|(_, value)| !value.is_string()) {
                found.push(wrong_type(
                    &format!("{path}[{key}]"),
                    value,
                    "a text (in quotes, if it looks like a number)",
                ));
            }
        }
        Some(other) => found.push(wrong_type(&path, other, "a mapping of texts")),
    }
}

fn wrong_type(path: &str, value: &Value, expected: &str) -> Violation {
    let shown = words::shown(value);
    Violation::new(path, format!("Invalid value: {shown}: must be {expected}"))
}
