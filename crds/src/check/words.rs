//! What a field expects, in words with an example: what a person reads beside `Invalid value`.
//!
//! The API server names types and quotes regular expressions; here each pattern of the schema has words of its own, and a test
//! keeps it so.

use serde_json::Value;

use crate::duration::DURATION_PATTERN;
use crate::quantity::{CAPACITY_PATTERN, QUANTITY_PATTERN};
use crate::schema::{DNS_LABEL_PATTERN, DNS_SUBDOMAIN_PATTERN, LABEL_KEY_PATTERN, LABEL_VALUE_PATTERN};

/// Most characters of a wrong value that are shown.
const SHOWN_MAX: usize = 64;

/// The words of each pattern in the schemas.
const OF_PATTERNS: [(&str, &str); 15] = [
    (CAPACITY_PATTERN, "a size such as 900Gi, or a percentage of the disk from 1% to 99%"),
    (QUANTITY_PATTERN, "a size such as 10Gi, or a number of bytes"),
    (crate::volume::READ_AHEAD_PATTERN, "0, or a size up to 99Mi such as 512Ki or 4Mi"),
    (DURATION_PATTERN, "a duration such as 30s, 500ms or 1h30m"),
    (DNS_LABEL_PATTERN, "lower-case letters, digits and hyphens, such as my-cache"),
    (DNS_SUBDOMAIN_PATTERN, "lower-case letters, digits, hyphens and dots, such as my-cache or node-1.example.com"),
    (LABEL_KEY_PATTERN, "a label's key such as disk or example.com/disk"),
    (LABEL_VALUE_PATTERN, "a label's value: at most 63 letters, digits, hyphens, dots and underscores, such as nvme"),
    (crate::volume::MODE_PATTERN, "four octal digits in quotes, such as \"0644\""),
    (crate::cluster::CACHE_ID_PATTERN, "lower-case letters, digits and -._/ such as team-a/fast"),
    (crate::cluster::CPU_PATTERN, "a number of processors such as 2, 0.5 or 500m"),
    (crate::cluster::IMAGE_PATTERN, "an image with its tag or digest, such as example.com/larder-agent:0.1.0"),
    (crate::schema::PLAIN_TEXT_PATTERN, "a text without control characters"),
    (crate::volume::GLOB_PATTERN, "a pattern of keys such as *.tmp or models/**, without [ ] { } ! and backslashes"),
    (crate::volume::REGION_PATTERN, "letters, digits and hyphens, such as us-east-1"),
];

/// What the schema expects of a value, with an example.
pub(super) fn expected(schema: &Value) -> String {
    let pattern = schema.get("pattern").and_then(Value::as_str);
    if let Some((_, words)) = OF_PATTERNS.iter().find(|(known, _)| Some(*known) == pattern) {
        return (*words).to_owned();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("integer") => integer(schema),
        Some("string") => text(schema),
        Some("boolean") => "true or false".to_owned(),
        Some("array") => "a list, each element on a line that begins with -".to_owned(),
        Some("object") => "a mapping: fields with their values".to_owned(),
        Some(_) | None => "another value".to_owned(),
    }
}

fn integer(schema: &Value) -> String {
    let bound = |key| schema.get(key).and_then(Value::as_i64);
    let example = schema.get("default").and_then(Value::as_i64).or(bound("minimum"));
    let example = example.map(|number| format!(", such as {number}")).unwrap_or_default();
    match (bound("minimum"), bound("maximum")) {
        (Some(least), Some(most)) => format!("an integer from {least} to {most}{example}"),
        (Some(least), None) => format!("an integer of at least {least}{example}"),
        (None, Some(most)) => format!("an integer of at most {most}{example}"),
        (None, None) => "an integer".to_owned(),
    }
}

/// The values of an enum; else what a rule of the field says (`freshness must be OnOpen, Forever, or ...`).
fn text(schema: &Value) -> String {
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
        let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        return format!("one of {}", allowed.join(", "));
    }
    let rules = schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten();
    let about_itself = |rule: &&Value| !rule["rule"].as_str().unwrap_or_default().contains("oldSelf");
    let said = rules.filter(about_itself).find_map(|rule| rule["message"].as_str()?.split_once(" must be "));
    said.map_or_else(|| "a text (in quotes, if it looks like a number)".to_owned(), |(_, what)| what.to_owned())
}

/// A value as it is shown beside what was expected.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
        Value::String(text) => format!("{:?}", text.chars().take(SHOWN_MAX).collect::<String>()),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// The field that was meant by one that doesn't exist: the same but for upper and lower case, or for two letters at most.
pub(super) fn meant<'f>(written: &str, fields: impl Iterator<Item = &'f String>) -> Option<&'f str> {
    let near = fields.filter_map(|field| {
        let distance =
            if field.eq_ignore_ascii_case(written) { 0 } else { edits(written.as_bytes(), field.as_bytes()) };
        (distance <= 2 && distance * 2 < field.len().min(written.len())).then_some((distance, field.as_str()))
    });
    near.min().map(|(_, field)| field)
}

/// Letters to insert, remove or replace until `a` is `b`; not more than 64 letters of either are looked at.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let (a, b) = (&a[..a.len().min(SHOWN_MAX)], &b[..b.len().min(SHOWN_MAX)]);
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;
    use crate::schema::object_schema;

    fn patterns(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(object) => {
                found.extend(object.get("pattern").and_then(Value::as_str).map(str::to_owned));
                object.values().for_each(|inner| patterns(inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| patterns(inner, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_pattern_of_the_schema_has_words() {
        let mut found = Vec::new();
        Kind::ALL.iter().for_each(|kind| patterns(object_schema(*kind), &mut found));
        assert!(found.len() > 10);
        for pattern in found {
            assert!(OF_PATTERNS.iter().any(|(known, _)| *known == pattern), "no words for {pattern}");
        }
    }

    #[test]
    fn what_was_meant_is_near_what_was_written() {
        let fields: Vec<String> = ["minNodes", "replicas", "pools", "s3", "local"].map(str::to_owned).into();
        for (written, meant_is) in [
            ("minNode", Some("minNodes")),
            ("minnodes", Some("minNodes")),
            ("replcias", Some("replicas")),
            ("pool", Some("pools")),
            ("S3", Some("s3")),
            ("s4", None),
            ("shards", None),
            ("", None),
        ] {
            assert_eq!(meant(written, fields.iter()), meant_is, "{written}");
        }
    }
}
