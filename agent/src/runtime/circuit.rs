//! Whether a peer or an origin is asked at all. Sans-IO: time comes in with each call.
//!
//! ```text
//!          3 failures in a row, or one silence      1 s after it opened, the next request
//!   Closed ---------------------------> Open ---------------------------------------> Probing
//!     ^                                  ^                                              |  |
//!     |                                  +----------------------------- it failed ------+  |
//!     +-------------------------------------------------------- any answer ----------------+
//! ```
//!
//! While `Open` nobody asks; while `Probing` one request does, and another one if that isn't heard of for a second. An
//! answer is anything that shows the other side alive, also a refusal. A probe that was given up counts as neither: the
//! next request probes.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the circuit: one may be a lost packet, two a restart.
pub const FAILURES_TO_OPEN: u32 = 3;

/// How long an open circuit asks nothing, and how long a probe may take before another one is let through.
pub const OPEN_FOR: Duration = Duration::from_secs(1);

/// The same after a long silence: by then the map authority has noticed it too, and others come first in its map.
pub const HUNG_FOR: Duration = Duration::from_secs(3);

/// What a request showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There was an answer, if only a refusal.
    Alive,
    /// There was none, or it asked for less.
    Failed,
    /// There was none for so long that nobody should wait for it again: this alone opens the circuit.
    Hung,
    /// The request was given up before one could tell.
    Unknown,
}

/// A circuit's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Requests pass.
    Closed {
        /// Failures since the last answer.
        failures: u32,
    },
    /// Requests are refused.
    Open {
        /// When the next one may probe.
        until: Instant,
    },
    /// One request is on its way, the others are refused.
    Probing {
        /// When another one may probe.
        until: Instant,
    },
}

impl Default for Circuit {
    fn default() -> Self {
        Self::new()
    }
}

impl Circuit {
    /// A circuit that lets requests pass.
    pub fn new() -> Self {
        Self::Closed { failures: 0 }
    }

    /// Whether a request may go out; if so, its [`Verdict`] must follow.
    pub fn admit(&mut self, now: Instant) -> bool {
        match *self {
            Self::Closed { .. } => true,
            Self::Open { until } | Self::Probing { until } if now < until => false,
            Self::Open { .. } | Self::Probing { .. } => {
                *self = Self::Probing { until: now + OPEN_FOR };
                true
            }
        }
    }

    /// Takes in what a request showed; true when this opened the circuit from closed.
    pub fn settle(&mut self, verdict: Verdict, now: Instant) -> bool {
        let (next, opened) = match (*self, verdict) {
            (_, Verdict::Alive) => (Self::new(), false),
            (Self::Closed { failures }, Verdict::Failed) if failures + 1 >= FAILURES_TO_OPEN => {
                (Self::Open { until: now + OPEN_FOR }, true)
            }
            (Self::Closed { .. }, Verdict::Hung) => (Self::Open { until: now + HUNG_FOR }, true),
            (Self::Probing { .. }, Verdict::Hung) => (Self::Open { until: now + HUNG_FOR }, false),
            (Self::Closed { failures }, Verdict::Failed) => (Self::Closed { failures: failures + 1 }, false),
            (Self::Probing { .. }, Verdict::Failed) => (Self::Open { until: now + OPEN_FOR }, false),
            (Self::Probing { .. }, Verdict::Unknown) => (Self::Open { until: now }, false),
            // A request from before it opened: nothing new.
            (Self::Open { .. }, Verdict::Failed | Verdict::Hung | Verdict::Unknown)
            | (Self::Closed { .. }, Verdict::Unknown) => (*self, false),
        };
        *self = next;
        opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn opens_after_three_and_lets_one_probe_pass() {
        let start = Instant::now();
        let mut circuit = Circuit::new();
        assert!(!circuit.settle(Verdict::Failed, start));
        assert!(!circuit.settle(Verdict::Failed, start));
        assert!(circuit.admit(start));
        assert!(circuit.settle(Verdict::Failed, start), "the third opens it");
        assert!(!circuit.admit(start + OPEN_FOR - Duration::from_millis(1)));
        assert!(circuit.admit(start + OPEN_FOR), "one probe");
        assert!(!circuit.admit(start + OPEN_FOR), "not two");
        circuit.settle(Verdict::Unknown, start + OPEN_FOR);
        assert!(circuit.admit(start + OPEN_FOR), "a probe that was given up makes room for the next");
        circuit.settle(Verdict::Failed, start + OPEN_FOR);
        assert!(!circuit.admit(start + OPEN_FOR));
        assert!(circuit.admit(start + OPEN_FOR * 2));
        circuit.settle(Verdict::Alive, start + OPEN_FOR * 2);
        assert_eq!(circuit, Circuit::new());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_between_failures_keeps_it_closed() {
        let now = Instant::now();
        let mut circuit = Circuit::new();
        for _ in 0..10 {
            assert!(!circuit.settle(Verdict::Failed, now));
            assert!(!circuit.settle(Verdict::Failed, now));
            assert!(!circuit.settle(Verdict::Alive, now));
        }
        assert!(circuit.admit(now));
    }

    #[tokio::test(start_paused = true)]
    async fn one_long_silence_is_enough() {
        let now = Instant::now();
        let mut circuit = Circuit::new();
        assert!(circuit.settle(Verdict::Hung, now));
        assert!(!circuit.admit(now + OPEN_FOR));
        assert!(circuit.admit(now + HUNG_FOR));
        circuit.settle(Verdict::Hung, now + HUNG_FOR);
        assert!(!circuit.admit(now + HUNG_FOR + OPEN_FOR));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_probe_is_replaced() {
        let start = Instant::now();
        let mut circuit = Circuit::Open { until: start };
        assert!(circuit.admit(start));
        assert!(!circuit.admit(start + OPEN_FOR - Duration::from_millis(1)));
        assert!(circuit.admit(start + OPEN_FOR));
        assert!(!circuit.admit(start + OPEN_FOR));
    }
}
