//! What a node's reports, and their absence, make of it. Sans-IO; times are milliseconds since the authority began.
//!
//! ```text
//!            report           3 s silence           report
//!  Joining ---------> Serving ----------> Suspect ---------> Returning
//!                        ^                   ^                 |    |
//!                        |                   +-- 3 s silence --+    |
//!                        +------------ 3 s of reports --------------+
//! ```
//!
//! Returning keeps a node that comes and goes from costing an epoch and its leads each time.

use larder_proto::map::NodeState;

/// Three missed reports.
pub(super) const SILENCE_MS: u64 = 3_000;

/// A node that was Suspect leads again after reporting for this long.
pub(super) const STEADY_MS: u64 = 3_000;

/// Where a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It has joined and not reported yet.
    Joining,
    /// Its last report.
    Serving { last_ms: u64 },
    /// It is silent.
    Suspect,
    /// Since when it reports again, and its last report.
    Returning { since_ms: u64, last_ms: u64 },
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It reported.
    Report,
    /// Time passed.
    Tick,
}

impl Health {
    pub(super) fn step(self, event: Event, now_ms: u64) -> Self {
        let silent = |last_ms: u64| now_ms.saturating_sub(last_ms) >= SILENCE_MS;
        match (self, event) {
            (Self::Joining, Event::Tick) => Self::Joining,
            (Self::Joining, Event::Report) => Self::Serving { last_ms: now_ms },
            (Self::Serving { last_ms }, Event::Report) => Self::Serving { last_ms: last_ms.max(now_ms) },
            (Self::Serving { last_ms }, Event::Tick) if silent(last_ms) => Self::Suspect,
            (Self::Serving { last_ms }, Event::Tick) => Self::Serving { last_ms },
            (Self::Suspect, Event::Tick) => Self::Suspect,
            (Self::Suspect, Event::Report) => Self::Returning { since_ms: now_ms, last_ms: now_ms },
            (Self::Returning { last_ms, .. }, Event::Tick) if silent(last_ms) => Self::Suspect,
            (Self::Returning { since_ms, last_ms }, Event::Tick) => Self::Returning { since_ms, last_ms },
            (Self::Returning { since_ms, .. }, Event::Report) if now_ms.saturating_sub(since_ms) >= STEADY_MS => {
                Self::Serving { last_ms: now_ms }
            }
            (Self::Returning { since_ms, .. }, Event::Report) => Self::Returning { since_ms, last_ms: now_ms },
        }
    }

    pub(super) fn state(self) -> NodeState {
        match self {
            Self::Joining => NodeState::Joining,
            Self::Serving { .. } => NodeState::Serving,
            Self::Suspect => NodeState::Suspect,
            Self::Returning { .. } => NodeState::Returning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_suspects_and_steady_reports_restore() {
        let mut health = Health::Joining.step(Event::Tick, 100_000);
        assert_eq!(health, Health::Joining, "a node that never reported isn't missed");
        health = health.step(Event::Report, 1_000).step(Event::Tick, 3_999);
        assert_eq!(health.state(), NodeState::Serving);
        health = health.step(Event::Tick, 4_000);
        assert_eq!(health, Health::Suspect);
        health = health.step(Event::Report, 5_000).step(Event::Report, 7_999).step(Event::Tick, 8_500);
        assert_eq!(health.state(), NodeState::Returning);
        health = health.step(Event::Report, 8_600);
        assert_eq!(health.state(), NodeState::Serving);
    }

    #[test]
    fn a_node_that_comes_and_goes_does_not_serve() {
        let mut health = Health::Suspect;
        for round in 0..10 {
            health = health.step(Event::Report, round * 5_000).step(Event::Tick, round * 5_000 + 3_000);
            assert_eq!(health, Health::Suspect);
        }
    }

    #[test]
    fn a_report_from_before_the_grace_does_not_shorten_it() {
        let health = Health::Serving { last_ms: 30_000 }.step(Event::Report, 10);
        assert_eq!(health, Health::Serving { last_ms: 30_000 });
    }
}
