//! How long an object that fails waits before it is tried again: 1 s, doubled up to 5 min, each object by itself.
//!
//! A success forgets the object's failures. Objects that are gone are forgotten when they are told to be.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

/// Failures in a row, by object.
#[derive(Default)]
pub struct Backoff {
    failures: Mutex<BTreeMap<String, u32>>,
}

impl Backoff {
    /// It failed once more: how long to wait.
    pub fn failed(&self, object: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(object.to_owned()).or_insert(0);
        let wait = FIRST.saturating_mul(1_u32.checked_shl(*count).unwrap_or(u32::MAX)).min(LONGEST);
        *count = count.saturating_add(1);
        wait
    }

    /// It succeeded, or is gone.
    pub fn forget(&self, object: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_waits_by_itself_and_a_success_forgets() {
        let backoff = Backoff::default();
        let waits: Vec<u64> = (0..11).map(|_| backoff.failed("a/a").as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(backoff.failed("a/b").as_secs(), 1);
        for _ in 0..40 {
            backoff.failed("a/a");
        }
        assert_eq!(backoff.failed("a/a").as_secs(), 300);
        backoff.forget("a/a");
        assert_eq!(backoff.failed("a/a").as_secs(), 1);
    }
}
