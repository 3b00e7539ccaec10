//! The JSONPath that printer columns use: `.a.b`, `.a[0]`, `.a[?(@.k=="v")]`, and nothing else.

use serde_json::Value;

enum Step {
    Field(String),
    Index(usize),
    Where { field: String, equals: String },
}

/// A parsed path.
pub struct JsonPath(Vec<Step>);

impl JsonPath {
    /// The path, if it uses only what columns use.
    pub fn parse(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(field) = rest.strip_prefix('.') {
                let end = field.find(['.', '[']).unwrap_or(field.len());
                steps.push(Step::Field(field[..end].to_owned()));
                rest = &field[end..];
            } else {
                let (inside, after) = rest.strip_prefix('[')?.split_once(']')?;
                steps.push(Self::bracket(inside)?);
                rest = after;
            }
        }
        Some(Self(steps))
    }

    fn bracket(inside: &str) -> Option<Step> {
        if let Some(filter) = inside.strip_prefix("?(@.") {
            let (field, equals) = filter.strip_suffix(')')?.split_once("==")?;
            let equals = equals.trim().trim_matches(['"', '\'']).to_owned();
            return Some(Step::Where { field: field.trim().to_owned(), equals });
        }
        inside.parse().ok().map(Step::Index)
    }

    /// The first value the path leads to.
    pub fn find<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(object, |value, step| match step {
            Step::Field(name) => value.get(name),
            Step::Index(index) => value.get(index),
            Step::Where { field, equals } => {
                value.as_array()?.iter().find(|element| element.get(field).and_then(Value::as_str) == Some(equals))
            }
        })
    }
}
