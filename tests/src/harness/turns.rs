//! How many clusters run at a time: agents of more than two on a small machine are slower than their deadlines.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

const CLUSTERS_MAX: usize = 2;

#[derive(Debug)]
struct Turns {
    /// Places taken.
    taken: usize,
    /// How many wait for all places; nobody else takes one meanwhile, or they would wait to the end.
    waiting_for_all: usize,
}

static TURNS: Mutex<Turns> = Mutex::new(Turns { taken: 0, waiting_for_all: 0 });
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

fn turns() -> MutexGuard<'static, Turns> {
    // Counts have no state in between that a panic could leave.
    TURNS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait(turns: MutexGuard<'static, Turns>) -> MutexGuard<'static, Turns> {
    FREED.wait(turns).unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a turn. A test that holds one must not ask for another.
pub(super) fn take(company: Company) -> Turn {
    let mut turns = turns();
    let places = match company {
        Company::Others => {
            while turns.taken >= CLUSTERS_MAX || turns.waiting_for_all > 0 {
                turns = wait(turns);
            }
            1
        }
        Company::Nobody => {
            turns.waiting_for_all += 1;
            while turns.taken > 0 {
                turns = wait(turns);
            }
            turns.waiting_for_all -= 1;
            CLUSTERS_MAX
        }
    };
    turns.taken += places;
    Turn { places }
}

impl Drop for Turn {
    fn drop(&mut self) {
        turns().taken -= self.places;
        FREED.notify_all();
    }
}
