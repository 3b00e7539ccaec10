//! A Kubernetes Secret, as far as origins need it: text by key. Its values are never printed.

use std::collections::BTreeMap;

use larder_crds::Violation;
use serde_json::Value;

/// The data of a Secret, decoded. There is no `Debug`: the values must not reach a log.
pub struct SecretData {
    data: BTreeMap<String, String>,
}

impl SecretData {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.data.get(key).map(String::as_str)
    }

    /// Reads `data` (base64) and `stringData` (which wins, as on the API server).
    pub fn read(value: &Value) -> Result<Self, Vec<Violation>> {
        let mut data = BTreeMap::new();
        let mut violations = Vec::new();
        let mut refuse = |path: String, message: &str| violations.push(Violation { path, message: message.to_owned() });
        for (field, content) in value.as_object().into_iter().flatten() {
            match field.as_str() {
                "apiVersion" | "kind" | "metadata" | "type" | "immutable" => {}
                "data" | "stringData" => {
                    let Some(entries) = content.as_object() else {
                        refuse(
                            field.clone(),
                            "Invalid value: must be a mapping of texts, as in {accessKeyId: \"...\"}",
                        );
                        continue;
                    };
                    for (key, text) in entries {
                        let path = format!("{field}.{key}");
                        match decode(field, text) {
                            Ok(text) if field == "stringData" => drop(data.insert(key.clone(), text)),
                            Ok(text) => drop(data.entry(key.clone()).or_insert(text)),
                            Err(message) => refuse(path, message),
                        }
                    }
                }
                _ => refuse(field.clone(), "unknown field"),
            }
        }
        if value.pointer("/metadata/name").and_then(Value::as_str).is_none_or(str::is_empty) {
            refuse("metadata.name".into(), "Required value: give the Secret a name, as in metadata: {name: keys}");
        }
        if violations.is_empty() { Ok(Self { data }) } else { Err(violations) }
    }
}

fn decode(field: &str, text: &Value) -> Result<String, &'static str> {
    let text = text.as_str().ok_or("Invalid value: must be a text (in quotes, if it looks like a number)")?;
    if field == "stringData" {
        return Ok(text.to_owned());
    }
    let bytes = serde_json::from_value::<k8s_openapi::ByteString>(Value::String(text.to_owned()))
        .map_err(|_| "Invalid value: must be base64 (use stringData for plain text)")?;
    String::from_utf8(bytes.0).map_err(|_| "Invalid value: must be text")
}
