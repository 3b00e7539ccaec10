//! A node's life, as its reports, its silence and its owner's wishes make it. Sans-IO and total: nothing but
//! [`Life::step`] changes a state. Times are milliseconds since the authority began.
//!
//! ```text
//!            report        3 s silence, shunned       lossGrace of silence
//!  Joining ---------> Serving -----------> Suspect -----------------------> Down
//!   |  ^                ^  ^                | ^                              |
//!   |  |        3 s of  |  |         report | | 3 s silence, shunned         | report
//!   |  |        reports |  |                v |                              |
//!   |  |                +--|----------- Returning <--------------------------+
//!   |  |                   |
//!   |  | stay         stay |       (from Serving, Suspect, Returning: drain)
//!   |  |                   +------- Draining ------+
//!   |  |                                           | all is handed over, or its time is up, or it is silent
//!   |  |                                           v for lossGrace; never while it owns a slot
//!   |  +---------------------------------------- Gone
//!   +--------------- drain ----------------------> ^ <------- drain ------- Down
//!                                (leave: from any state, at once)
//! ```
//!
//! A node that reports is Suspect all the same while its peers say that they can't reach it: as if it were silent, except
//! that this never makes it Down.
//!
//! Returning keeps a node that comes and goes from costing an epoch and its leads each time. Draining owns nothing in the
//! next map, and is asked for what its slots' new owners don't have yet. Nobody becomes Down while many fall silent at
//! once without sharing a failure domain: then it is the network, or the authority's own end of it.

use larder_proto::ids::Epoch;
use larder_proto::map::NodeState;

/// Three missed reports.
pub(super) const SILENCE_MS: u64 = 3_000;

/// So long at least half of the others say that they can't reach a node, before they are believed.
pub(super) const SHUNNED_MS: u64 = 5_000;

/// Fewer reporters than this prove nothing: it may be they who are cut off.
pub(super) const REPORTERS_MIN: usize = 3;

/// A node that was Suspect leads again after reporting for this long.
pub(super) const STEADY_MS: u64 = 3_000;

/// How long a node may be silent or slow to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A silent node keeps its slots for so long.
    pub loss_grace_ms: u64,
    /// The new owner of a slot asks the former one before the origin for so long.
    pub warmup_ms: u64,
    /// A node that drains is Gone after so long, handed over or not.
    pub drain_ms: u64,
}

impl Default for Patience {
    /// Five minutes, ten minutes, an hour.
    fn default() -> Self {
        Self { loss_grace_ms: 300_000, warmup_ms: 600_000, drain_ms: 3_600_000 }
    }
}

/// Where a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It has joined and not reported yet.
    Joining,
    /// Its last report.
    Serving { last_ms: u64 },
    /// It is silent since its last report.
    Suspect { last_ms: u64 },
    /// Since when it reports again, and its last report.
    Returning { since_ms: u64, last_ms: u64 },
    /// It was silent for too long: its slots are others'.
    Down,
    /// It leaves: since when, its last report, and the first map in which it owned nothing any more.
    Draining { since_ms: u64, last_ms: u64, emptied: Option<Epoch> },
    /// It has left, and stays in the map until it is removed.
    Gone,
}

/// Whether a node's peers reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peers {
    /// Most of them, or nobody knows.
    ReachIt,
    /// At least half of at least [`REPORTERS_MIN`] don't, for [`SHUNNED_MS`].
    ShunIt,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It reported: as of which epoch it has handed over everything.
    Report { settled: Epoch, peers: Peers },
    /// Time passed; whether silence may cost a node its slots now.
    Tick { may_condemn: bool, peers: Peers },
    /// A map was published in which it owns nothing.
    Emptied(Epoch),
    /// A map was published in which it owns slots, or isn't listed.
    Filled,
    /// It is to leave.
    Drain,
    /// It won't come back.
    Leave,
    /// It is to stay, or to come back.
    Stay,
}

impl Life {
    pub(super) fn step(self, event: Event, now_ms: u64, patience: &Patience) -> Self {
        let since = |then_ms: u64| now_ms.saturating_sub(then_ms);
        let silent = |last_ms: u64| since(last_ms) >= SILENCE_MS;
        let draining = |last_ms: u64| Self::Draining { since_ms: now_ms, last_ms, emptied: None };
        match (self, event) {
            (_, Event::Leave) => Self::Gone,

            // Nobody else alive has what it was given back: the hand-over begins anew.
            (Self::Draining { since_ms, last_ms, .. }, Event::Filled) => {
                Self::Draining { since_ms, last_ms, emptied: None }
            }
            (_, Event::Filled) => self,

            (Self::Joining, Event::Report { .. }) => Self::Serving { last_ms: now_ms },
            (Self::Joining, Event::Drain) => Self::Gone,
            (Self::Joining, Event::Tick { .. } | Event::Emptied(_) | Event::Stay) => self,

            (Self::Serving { last_ms }, Event::Report { .. }) => Self::Serving { last_ms: last_ms.max(now_ms) },
            (Self::Serving { last_ms }, Event::Tick { peers: Peers::ShunIt, .. }) => Self::Suspect { last_ms },
            (Self::Serving { last_ms }, Event::Tick { .. }) if silent(last_ms) => Self::Suspect { last_ms },
            (Self::Serving { last_ms }, Event::Drain) => draining(last_ms),
            (Self::Serving { .. }, Event::Tick { .. } | Event::Emptied(_) | Event::Stay) => self,

            (Self::Suspect { .. }, Event::Report { peers: Peers::ShunIt, .. }) => Self::Suspect { last_ms: now_ms },
            (Self::Suspect { .. }, Event::Report { .. }) => Self::Returning { since_ms: now_ms, last_ms: now_ms },
            (Self::Suspect { last_ms }, Event::Tick { may_condemn: true, .. })
                if since(last_ms) >= patience.loss_grace_ms =>
            {
                Self::Down
            }
            (Self::Suspect { last_ms }, Event::Drain) => draining(last_ms),
            (Self::Suspect { .. }, Event::Tick { .. } | Event::Emptied(_) | Event::Stay) => self,

            (Self::Returning { last_ms, .. }, Event::Tick { peers: Peers::ShunIt, .. }) => Self::Suspect { last_ms },
            (Self::Returning { since_ms, .. }, Event::Report { .. }) if since(since_ms) >= STEADY_MS => {
                Self::Serving { last_ms: now_ms }
            }
            (Self::Returning { since_ms, .. }, Event::Report { .. }) => Self::Returning { since_ms, last_ms: now_ms },
            (Self::Returning { last_ms, .. }, Event::Tick { .. }) if silent(last_ms) => Self::Suspect { last_ms },
            (Self::Returning { last_ms, .. }, Event::Drain) => draining(last_ms),
            (Self::Returning { .. }, Event::Tick { .. } | Event::Emptied(_) | Event::Stay) => self,

            (Self::Down, Event::Report { .. }) => Self::Returning { since_ms: now_ms, last_ms: now_ms },
            (Self::Down, Event::Drain) => Self::Gone,
            (Self::Down, Event::Tick { .. } | Event::Emptied(_) | Event::Stay) => self,

            (Self::Draining { emptied: Some(emptied), .. }, Event::Report { settled, .. }) if settled >= emptied => {
                Self::Gone
            }
            (Self::Draining { since_ms, last_ms, emptied }, Event::Report { .. }) => {
                Self::Draining { since_ms, last_ms: last_ms.max(now_ms), emptied }
            }
            (Self::Draining { since_ms, last_ms, emptied: Some(_) }, Event::Tick { may_condemn, .. })
                if since(since_ms) >= patience.drain_ms
                    || (may_condemn && since(last_ms) >= patience.loss_grace_ms) =>
            {
                Self::Gone
            }
            (Self::Draining { since_ms, last_ms, emptied: None }, Event::Emptied(epoch)) => {
                Self::Draining { since_ms, last_ms, emptied: Some(epoch) }
            }
            (Self::Draining { last_ms, .. }, Event::Stay) => Self::Serving { last_ms },
            (Self::Draining { .. }, Event::Tick { .. } | Event::Emptied(_) | Event::Drain) => self,

            (Self::Gone, Event::Stay) => Self::Joining,
            (Self::Gone, Event::Report { .. } | Event::Tick { .. } | Event::Emptied(_) | Event::Drain) => self,
        }
    }

    pub(super) fn state(self) -> NodeState {
        match self {
            Self::Joining => NodeState::Joining,
            Self::Serving { .. } => NodeState::Serving,
            Self::Suspect { .. } => NodeState::Suspect,
            Self::Returning { .. } => NodeState::Returning,
            Self::Down => NodeState::Down,
            Self::Draining { .. } => NodeState::Draining,
            Self::Gone => NodeState::Gone,
        }
    }

    /// A node of a stored map, when the authority begins: as if it had reported at `last_ms`.
    pub(super) fn resumed(state: NodeState, last_ms: u64) -> Self {
        match state {
            NodeState::Joining => Self::Joining,
            NodeState::Serving => Self::Serving { last_ms },
            NodeState::Suspect => Self::Suspect { last_ms },
            NodeState::Returning => Self::Returning { since_ms: 0, last_ms },
            NodeState::Down => Self::Down,
            NodeState::Draining => Self::Draining { since_ms: 0, last_ms, emptied: None },
            NodeState::Gone => Self::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: Event = Event::Report { settled: Epoch(0), peers: Peers::ReachIt };
    const TICK: Event = Event::Tick { may_condemn: true, peers: Peers::ReachIt };
    const PATIENCE: Patience = Patience { loss_grace_ms: 60_000, warmup_ms: 1, drain_ms: 30_000 };

    /// What becomes of `life` by these events, each with its time.
    fn lived(life: Life, events: &[(Event, u64)]) -> Life {
        events.iter().fold(life, |life, (event, now_ms)| life.step(*event, *now_ms, &PATIENCE))
    }

    #[test]
    fn silence_suspects_and_steady_reports_restore() {
        let mut life = lived(Life::Joining, &[(TICK, 100_000)]);
        assert_eq!(life, Life::Joining, "a node that never reported isn't missed");
        life = lived(life, &[(REPORT, 1_000), (TICK, 3_999)]);
        assert_eq!(life.state(), NodeState::Serving);
        life = lived(life, &[(TICK, 4_000)]);
        assert_eq!(life, Life::Suspect { last_ms: 1_000 });
        life = lived(life, &[(REPORT, 5_000), (REPORT, 7_999), (TICK, 8_500)]);
        assert_eq!(life.state(), NodeState::Returning);
        life = lived(life, &[(REPORT, 8_600)]);
        assert_eq!(life.state(), NodeState::Serving);
    }

    #[test]
    fn whom_its_peers_shun_is_suspect_though_it_reports_and_never_down() {
        let shunned = Event::Report { settled: Epoch(0), peers: Peers::ShunIt };
        let tick = Event::Tick { may_condemn: true, peers: Peers::ShunIt };
        let mut life = lived(Life::Serving { last_ms: 900 }, &[(tick, 1_000)]);
        assert_eq!(life, Life::Suspect { last_ms: 900 });
        for now_ms in (2_000..200_000).step_by(1_000) {
            life = lived(life, &[(shunned, now_ms), (tick, now_ms + 250)]);
            assert_eq!(life, Life::Suspect { last_ms: now_ms });
        }
        life = lived(life, &[(REPORT, 200_000), (TICK, 200_250)]);
        assert_eq!(life.state(), NodeState::Returning);
        assert_eq!(lived(life, &[(tick, 201_000)]), Life::Suspect { last_ms: 200_000 });
        assert_eq!(lived(life, &[(REPORT, 203_000)]).state(), NodeState::Serving);
    }

    #[test]
    fn a_node_that_comes_and_goes_does_not_serve() {
        let mut life = Life::Suspect { last_ms: 0 };
        for round in 0..10 {
            life = lived(life, &[(REPORT, round * 5_000), (TICK, round * 5_000 + 3_000)]);
            assert_eq!(life, Life::Suspect { last_ms: round * 5_000 });
        }
    }

    #[test]
    fn a_report_from_before_the_grace_does_not_shorten_it() {
        assert_eq!(lived(Life::Serving { last_ms: 30_000 }, &[(REPORT, 10)]), Life::Serving { last_ms: 30_000 });
    }

    #[test]
    fn who_is_silent_for_the_grace_is_down_unless_everybody_is() {
        let suspect = Life::Suspect { last_ms: 1_000 };
        assert_eq!(lived(suspect, &[(TICK, 60_999)]), suspect);
        assert_eq!(lived(suspect, &[(Event::Tick { may_condemn: false, peers: Peers::ReachIt }, 100_000)]), suspect);
        assert_eq!(lived(suspect, &[(TICK, 61_000)]), Life::Down);
        assert_eq!(lived(Life::Down, &[(TICK, 90_000), (REPORT, 90_000)]).state(), NodeState::Returning);
    }

    #[test]
    fn a_drained_node_is_gone_once_all_is_handed_over_and_comes_back_when_told() {
        let serving = Life::Serving { last_ms: 0 };
        let settled = |epoch| Event::Report { settled: Epoch(epoch), peers: Peers::ReachIt };
        let draining = lived(serving, &[(Event::Drain, 100), (Event::Drain, 200), (settled(9), 300)]);
        assert_eq!(draining, Life::Draining { since_ms: 100, last_ms: 300, emptied: None }, "it may own slots");
        let emptied = lived(draining, &[(Event::Emptied(Epoch(5)), 400), (Event::Emptied(Epoch(6)), 500)]);
        assert_eq!(lived(emptied, &[(settled(4), 600)]).state(), NodeState::Draining);
        let gone = lived(emptied, &[(settled(5), 600)]);
        assert_eq!(gone, Life::Gone);
        assert_eq!(lived(gone, &[(REPORT, 700), (TICK, 70_000), (Event::Drain, 70_000)]), Life::Gone);
        assert_eq!(lived(gone, &[(Event::Stay, 700), (REPORT, 800)]), Life::Serving { last_ms: 800 });
        let filled = lived(emptied, &[(Event::Filled, 550), (settled(6), 600)]);
        assert_eq!(filled, Life::Draining { since_ms: 100, last_ms: 600, emptied: None }, "slots came back to it");
        assert_eq!(lived(emptied, &[(Event::Stay, 600)]).state(), NodeState::Serving);
    }

    #[test]
    fn a_drain_ends_in_time_and_never_while_slots_are_owned() {
        let draining = Life::Draining { since_ms: 0, last_ms: 0, emptied: None };
        assert_eq!(lived(draining, &[(TICK, 1_000_000)]), draining);
        let emptied = lived(draining, &[(Event::Emptied(Epoch(5)), 0), (REPORT, 29_000)]);
        assert_eq!(lived(emptied, &[(TICK, 29_999)]), emptied);
        assert_eq!(lived(emptied, &[(TICK, 30_000)]), Life::Gone);
        let dead = Life::Draining { since_ms: 50_000, last_ms: 0, emptied: Some(Epoch(5)) };
        let spared = Event::Tick { may_condemn: false, peers: Peers::ReachIt };
        assert_eq!(lived(dead, &[(spared, 60_000)]), dead, "everybody is silent");
        assert_eq!(lived(dead, &[(spared, 80_000)]), Life::Gone, "its time is up");
        assert_eq!(lived(dead, &[(TICK, 60_000)]), Life::Gone, "nobody will hear of it again");
    }

    #[test]
    fn who_will_not_come_back_is_gone_at_once() {
        for state in NodeState::ALL {
            assert_eq!(Life::resumed(state, 0).step(Event::Leave, 1, &PATIENCE), Life::Gone, "{state:?}");
        }
    }

    #[test]
    fn every_state_resumes_as_itself() {
        for state in NodeState::ALL {
            assert_eq!(Life::resumed(state, 30_000).state(), state);
        }
    }
}
