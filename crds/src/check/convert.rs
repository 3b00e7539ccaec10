//! JSON as CEL sees it: whole numbers are ints, as in the API server; durations are counted in milliseconds.
//!
//! Called only for values whose structure was checked, so the depth is the schema's.

use std::collections::HashMap;

use cel::Value as CelValue;
use serde_json::Value;

use crate::duration::parse_duration;

/// A JSON value as a CEL value.
pub(super) fn to_cel(value: &Value) -> CelValue {
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(flag) => CelValue::Bool(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(int) => CelValue::Int(int),
            None => CelValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => CelValue::from(text.as_str()),
        Value::Array(items) => CelValue::from(items.iter().map(to_cel).collect::<Vec<CelValue>>()),
        Value::Object(object) => {
            let members: HashMap<String, CelValue> =
                object.iter().map(|(key, inner)| (key.clone(), to_cel(inner))).collect();
            CelValue::from(members)
        }
    }
}

/// CEL's `duration()`. The rules only compare durations with one another, so an int of milliseconds does; the interpreter's own
/// needs a calendar library.
pub(super) fn duration_ms(text: std::sync::Arc<String>) -> Result<i64, cel::ExecutionError> {
    let fail = |message: String| cel::ExecutionError::function_error("duration", message);
    let duration = parse_duration(&text).map_err(|error| fail(error.to_string()))?;
    i64::try_from(duration.as_millis()).map_err(|_| fail(format!("{text:?} is too long a time")))
}
