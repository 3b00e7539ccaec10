//! How many clusters run at a time: agents of more than two on a small machine are slower than their deadlines.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

const CLUSTERS_MAX: usize = 2;

static RUNNING: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

/// The right to run a cluster, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    places: usize,
}

/// Who else may run meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Company {
    Others,
    Nobody,
}

fn running() -> MutexGuard<'static, usize> {
    // A count has no state in between that a panic could leave.
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a turn. A test that holds one must not ask for another.
pub(super) fn take(company: Company) -> Turn {
    let places = match company {
        Company::Others => 1,
        Company::Nobody => CLUSTERS_MAX,
    };
    let mut count = running();
    while *count + places > CLUSTERS_MAX {
        count = FREED.wait(count).unwrap_or_else(PoisonError::into_inner);
    }
    *count += places;
    Turn { places }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *running() -= self.places;
        // Who waits for more than was freed goes back to waiting; the others must hear of it too.
        FREED.notify_all();
    }
}
