//! A peer's circuit: whether it is worth asking. Sans-IO; who drives it brings the time.
//!
//! ```text
//!            3rd failure in a row              1 s later, somebody asks
//!  Closed ------------------------> Open -------------------------------> HalfOpen
//!    ^                               ^                                     |    |
//!    |                               '------------- failure ---------------'    |
//!    '------------------------------- success ----------------------------------'
//! ```
//!
//! In HalfOpen one probe is under way and everybody else is refused; a probe that nobody hears of again (its asker
//! went away) is replaced after another second.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open a circuit.
const FAILURES: u8 = 3;

/// How long an open circuit refuses, and how long a probe may take before another one is let through.
const OPEN_FOR: Duration = Duration::from_secs(1);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Somebody wants to ask.
    Ask,
    /// The peer answered, whatever it said.
    Success,
    /// No connection, no answer in time, or one that broke off.
    Failure,
}

/// What an `Ask` may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Go on (also the answer to the other events).
    Pass,
    /// Take the next owner.
    Refuse,
}

/// Whether a peer is worth asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Circuit {
    /// It is; so many failures in a row were seen.
    Closed { failures: u8 },
    /// It isn't, until then.
    Open { until: Instant },
    /// One probe may find out; another one from then.
    HalfOpen { until: Instant },
}

impl Circuit {
    pub(super) fn new() -> Self {
        Self::Closed { failures: 0 }
    }

    /// The only thing that changes the state.
    pub(super) fn step(&mut self, event: Event, now: Instant) -> Verdict {
        let (next, verdict) = match (*self, event) {
            (Self::Closed { .. }, Event::Ask) => (*self, Verdict::Pass),
            (Self::Closed { failures }, Event::Failure) if failures + 1 >= FAILURES => {
                (Self::Open { until: now + OPEN_FOR }, Verdict::Pass)
            }
            (Self::Closed { failures }, Event::Failure) => (Self::Closed { failures: failures + 1 }, Verdict::Pass),
            (Self::Open { until } | Self::HalfOpen { until }, Event::Ask) if now < until => (*self, Verdict::Refuse),
            (Self::Open { .. } | Self::HalfOpen { .. }, Event::Ask) => {
                (Self::HalfOpen { until: now + OPEN_FOR }, Verdict::Pass)
            }
            // A request that was under way when the circuit opened says nothing new.
            (Self::Open { .. }, Event::Failure) => (*self, Verdict::Pass),
            (Self::HalfOpen { .. }, Event::Failure) => (Self::Open { until: now + OPEN_FOR }, Verdict::Pass),
            (Self::Closed { .. } | Self::Open { .. } | Self::HalfOpen { .. }, Event::Success) => {
                (Self::Closed { failures: 0 }, Verdict::Pass)
            }
        };
        *self = next;
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_in_a_row_open_it() {
        let now = Instant::now();
        let mut circuit = Circuit::new();
        for event in [Event::Failure, Event::Failure, Event::Success, Event::Failure, Event::Failure] {
            circuit.step(event, now);
        }
        assert_eq!(circuit.step(Event::Ask, now), Verdict::Pass, "a success in between starts the count again");
        circuit.step(Event::Failure, now);
        assert_eq!(circuit.step(Event::Ask, now), Verdict::Refuse);
        assert_eq!(circuit.step(Event::Ask, now + OPEN_FOR - Duration::from_millis(1)), Verdict::Refuse);
    }

    #[test]
    fn one_probe_decides() {
        let start = Instant::now();
        let mut circuit = Circuit::Open { until: start };
        assert_eq!(circuit.step(Event::Ask, start), Verdict::Pass);
        assert_eq!(circuit.step(Event::Ask, start), Verdict::Refuse, "one probe at a time");
        circuit.step(Event::Failure, start);
        assert_eq!(circuit, Circuit::Open { until: start + OPEN_FOR });
        assert_eq!(circuit.step(Event::Ask, start + OPEN_FOR), Verdict::Pass);
        circuit.step(Event::Success, start + OPEN_FOR);
        assert_eq!(circuit, Circuit::new());
    }

    #[test]
    fn a_lost_probe_is_replaced() {
        let start = Instant::now();
        let mut circuit = Circuit::Open { until: start };
        assert_eq!(circuit.step(Event::Ask, start), Verdict::Pass);
        assert_eq!(circuit.step(Event::Ask, start + OPEN_FOR), Verdict::Pass);
        assert_eq!(circuit.step(Event::Ask, start + OPEN_FOR), Verdict::Refuse);
    }
}
