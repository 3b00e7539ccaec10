//! How many clusters run at a time: agents of more than two on a small machine are slower than their deadlines.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

const CLUSTERS_MAX: usize = 2;

static RUNNING: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

/// The right to run a cluster, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(());

fn running() -> MutexGuard<'static, usize> {
    // A count has no state in between that a panic could leave.
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a turn. A test that holds one must not ask for another.
pub(super) fn take() -> Turn {
    let mut count = running();
    while *count >= CLUSTERS_MAX {
        count = FREED.wait(count).unwrap_or_else(PoisonError::into_inner);
    }
    *count += 1;
    Turn(())
}

impl Drop for Turn {
    fn drop(&mut self) {
        *running() -= 1;
        FREED.notify_one();
    }
}
