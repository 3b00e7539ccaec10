//! What an origin was asked and answered, in numbers. Relaxed atomics: each is exact, a snapshot of several is not.

use std::sync::atomic::{AtomicU64, Ordering};

use larder_proto::control::OriginState;
use larder_proto::error::ErrorKind;

use super::{LeftOut, Odd, OriginError};

/// The live numbers.
#[derive(Debug, Default)]
pub struct Counters {
    pub gets: AtomicU64,
    pub heads: AtomicU64,
    pub lists: AtomicU64,
    pub bytes: AtomicU64,
    pub retries: AtomicU64,
    pub retries_denied: AtomicU64,
    pub circuit_opened: AtomicU64,
    errors: [AtomicU64; ErrorKind::ALL.len()],
    left_out: [AtomicU64; Odd::ALL.len()],
}

/// Whether an origin is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It answers.
    Closed,
    /// It isn't asked, after several failures.
    Open,
}

/// The numbers of one moment, since the agent started. Attempts count, also those that repeat another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// GET attempts.
    pub gets: u64,
    /// HEAD attempts.
    pub heads: u64,
    /// LIST attempts.
    pub lists: u64,
    /// Bytes of bodies that were handed on.
    pub bytes: u64,
    /// Attempts that repeat another, or go on where a body broke.
    pub retries: u64,
    /// Retries that the budget didn't allow.
    pub retries_denied: u64,
    /// How often the circuit opened.
    pub circuit_opened: u64,
    /// The circuit.
    pub state: State,
    /// What the last request showed.
    pub known: OriginState,
    /// Failed attempts by kind; kinds that never came are left out.
    pub errors: Vec<(ErrorKind, u64)>,
    /// Keys left out of listings by reason; reasons that never came are left out.
    pub left_out: Vec<(Odd, u64)>,
}

impl Counters {
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub fn error(&self, error: OriginError) {
        let kind = error.kind();
        let place = ErrorKind::ALL.iter().position(|k| *k == kind).expect("ALL holds every kind");
        Self::add(&self.errors[place], 1);
    }

    pub fn left_out(&self, left_out: &LeftOut) {
        for odd in Odd::ALL {
            Self::add(&self.left_out[odd as usize], u64::from(left_out.of(odd)));
        }
    }

    pub fn snapshot(&self, state: State, known: OriginState) -> Snapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let errors = ErrorKind::ALL.into_iter().zip(self.errors.iter().map(get));
        let left_out = Odd::ALL.into_iter().zip(self.left_out.iter().map(get));
        Snapshot {
            gets: get(&self.gets),
            heads: get(&self.heads),
            lists: get(&self.lists),
            bytes: get(&self.bytes),
            retries: get(&self.retries),
            retries_denied: get(&self.retries_denied),
            circuit_opened: get(&self.circuit_opened),
            state,
            known,
            errors: errors.filter(|(_, n)| *n > 0).collect(),
            left_out: left_out.filter(|(_, n)| *n > 0).collect(),
        }
    }
}
