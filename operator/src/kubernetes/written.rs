//! The statuses written last, so that a status is written when it says something new and not otherwise.
//!
//! What moves all the time (bytes, ratios) is written at most once a minute unless something else changes too.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

/// Numbers alone wait this long.
const NUMBERS_EVERY: Duration = Duration::from_secs(60);

/// Fields that move by themselves, wherever they stand.
const NUMBERS: [&str; 5] = ["used", "capacity", "cached", "hitRatio", "objects"];

/// Statuses by object.
#[derive(Default)]
pub struct Written {
    statuses: Mutex<BTreeMap<String, (Value, Instant)>>,
}

impl Written {
    /// Whether `status` of `object` is to be written now.
    pub fn is_news(&self, object: &str, status: &Value, now: Instant) -> bool {
        let statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.get(object).is_none_or(|(before, at)| {
            let late = now.saturating_duration_since(*at) >= NUMBERS_EVERY;
            if late { before != status } else { without_numbers(before) != without_numbers(status) }
        })
    }

    /// It was written.
    pub fn remember(&self, object: &str, status: Value, now: Instant) {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).insert(object.to_owned(), (status, now));
    }

    /// What it was is unknown now: the next one is written whatever it says.
    pub fn forget(&self, object: &str) {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }
}

/// A copy without what moves by itself. Statuses are ours: two levels deep.
fn without_numbers(status: &Value) -> Value {
    let mut status = status.clone();
    let strip = |value: &mut Value| {
        if let Some(object) = value.as_object_mut() {
            NUMBERS.iter().for_each(|field| drop(object.remove(*field)));
        }
    };
    strip(&mut status);
    if let Some(stores) = status.get_mut("stores").and_then(Value::as_array_mut) {
        stores.iter_mut().for_each(strip);
    }
    status
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_alone_wait_and_everything_else_does_not() {
        let (written, now) = (Written::default(), Instant::now());
        let first = json!({"used": "1Gi", "stores": [{"name": "d0", "used": "1Gi"}], "state": "Serving"});
        assert!(written.is_news("a", &first, now));
        written.remember("a", first.clone(), now);
        let mut moved = first.clone();
        moved["used"] = json!("2Gi");
        moved["stores"][0]["used"] = json!("2Gi");
        assert!(!written.is_news("a", &moved, now), "numbers wait");
        assert!(written.is_news("a", &moved, now + NUMBERS_EVERY), "and not for ever");
        assert!(!written.is_news("a", &first, now + NUMBERS_EVERY), "nothing new is never written");
        moved["state"] = json!("Suspect");
        assert!(written.is_news("a", &moved, now));
    }
}
