//! Whether an origin is asked at all. Sans-IO: time comes in with each call.
//!
//! ```text
//!              3 failures in a row              1 s after it opened, the next request
//!   Closed ---------------------------> Open ---------------------------------------> Probing
//!     ^                                  ^                                              |  |
//!     |                                  +----------------------------- it failed ------+  |
//!     +-------------------------------------------------------- any answer ----------------+
//! ```
//!
//! While `Open` nobody asks; while `Probing` one request does. An answer is anything that shows the origin alive, also a
//! refusal. A probe that was given up counts as neither: the next request probes.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the circuit: one may be a lost packet, two a restart; data-plane §4.
pub const FAILURES_TO_OPEN: u32 = 3;

/// How long an open circuit asks nothing.
pub const OPEN_FOR: Duration = Duration::from_secs(1);

/// What a request showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The origin answered, if only to refuse.
    Alive,
    /// It didn't, or asked for less.
    Failed,
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
    Probing,
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
            Self::Open { until } if now < until => false,
            Self::Open { .. } => {
                *self = Self::Probing;
                true
            }
            Self::Probing => false,
        }
    }

    /// Takes in what a request showed; true when this opened the circuit from closed.
    pub fn settle(&mut self, verdict: Verdict, now: Instant) -> bool {
        let opened = matches!((&*self, verdict), (Self::Closed { failures }, Verdict::Failed) if failures + 1 >= FAILURES_TO_OPEN);
        *self = match (*self, verdict) {
            (_, Verdict::Alive) => Self::new(),
            (Self::Closed { failures }, Verdict::Failed) if failures + 1 < FAILURES_TO_OPEN => {
                Self::Closed { failures: failures + 1 }
            }
            (Self::Closed { .. } | Self::Probing, Verdict::Failed) => Self::Open { until: now + OPEN_FOR },
            (Self::Probing, Verdict::Unknown) => Self::Open { until: now },
            // A request from before it opened: nothing new.
            (Self::Open { until }, Verdict::Failed | Verdict::Unknown) => Self::Open { until },
            (Self::Closed { failures }, Verdict::Unknown) => Self::Closed { failures },
        };
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
}
