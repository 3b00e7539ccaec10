//! Strict validation, as the API server does it, for documents that never meet one.
//!
//! [`check`] takes the same steps in the same order: envelope and metadata, unknown fields, nulls and defaults, the structural
//! schema, uniqueness in map lists, then every CEL rule. The first words are the API server's (`Required value`, `Invalid value`); what
//! follows them says what is expected, with an example. After them it parses what the schema can't bound (sizes of 2^64 bytes), as the operator would. Recursion follows the schema, never the document, so its depth is ours.

mod convert;
mod defaults;
mod metadata;
mod rules;
mod semantic;
mod structure;
#[cfg(test)]
mod tests;
mod words;

use std::fmt;

use serde_json::Value;

use crate::kind::Kind;
use crate::schema::object_schema;

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Where: `spec.pools[0].stores[1].capacity`; empty for the document as a whole.
    pub path: String,
    /// What, beginning with the API server's words: `Required value`, or a rule's message.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl Violation {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Violation {
        Violation { path: path.into(), message: message.into() }
    }
}

/// Checks a document as the API server would, against `old` too when it replaces one; returns it with its defaults filled in.
///
/// What is returned deserialises into the kind's Rust type. `old` is the object as it was returned before (or from the API
/// server): transition rules compare with it. Nulls of optional fields are dropped, as the API server drops them.
///
/// # Errors
/// Everything that is wrong, in the order of the steps. As in the API server the CEL rules wait until types, required fields,
/// enums and sizes are right.
pub fn check(kind: Kind, document: &Value, old: Option<&Value>) -> Result<Value, Vec<Violation>> {
    let mut found = metadata::check(kind, document);
    if !document.is_object() {
        return Err(found);
    }
    let named = !found.iter().any(|violation| violation.path == "metadata" || violation.path == "metadata.name");
    let schema = object_schema(kind);
    let mut document = document.clone();
    let meant = structure::unknown_fields(schema, &mut document, &mut found);
    defaults::fill(schema, &mut document);
    let blocked = structure::check(schema, &document, &meant, &mut found);
    // The rules of a kind read its name, and would miss a misspelt field.
    if !blocked && meant.is_empty() && named {
        rules::check(schema, &document, old, &mut found);
    }
    if found.is_empty() {
        semantic::check(kind, &document, &mut found);
    }
    if found.is_empty() { Ok(document) } else { Err(found) }
}
