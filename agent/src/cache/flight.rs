//! The flight of one chunk into memory, as a state machine without I/O: which place is asked, what a failure means,
//! when a place that makes no progress is abandoned, and when to give up.
//!
//! Bytes that have landed stay landed when a place fails: the next one is asked for the rest, for a chunk never
//! changes. The shell (`drive.rs`) owns sockets, memory and time, and does what [`Action`] says.
//!
//! ```text
//!               Routed                Bytes, Hedged
//!   Resting ------------> Asking{hop} ------------> Streaming{hop} ------------> Landed
//!      ^                   ^   |  refused, silent        |  broke off, stalled
//!      |                   |   v                         v
//!      |                   +--(next hop)<----------------+
//!      |    hops run out       |
//!      +-----------------------+-------> Failed(kind)    a final kind, or nobody waits any more
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use larder_proto::error::ErrorKind;
use larder_proto::ids::NodeId;
use tokio::time::Instant;

use super::route::{Hop, Keep};
use super::table::Leading;

/// How long an owner may take to begin its answer to a Have: far above a round trip, far below an origin.
pub const HAVE_PATIENCE: Duration = Duration::from_millis(250);

/// The same for an owner that has begun to send what it has.
pub const HAVE_STALL_PATIENCE: Duration = HAVE_PATIENCE.saturating_mul(4);

/// How long the origin or the store may go without landing a byte before it is abandoned. Longer than their own retries:
/// three attempts of 5 s.
pub const STALL_PATIENCE: Duration = Duration::from_secs(18);

/// The same for a Fill, whose filler abandons its own places earlier; waiting in line for a connection is in it. A peer
/// that is dead or hangs is found out within a second, by its head's deadline and by probes (`hops.rs`).
const FILL_PATIENCE_MAX: Duration = Duration::from_secs(30);

/// How long each kind of place may go without landing a byte, in parts of what the volume's readers wait: a peer that
/// lives and brings nothing costs its patience, and leaves time for the next owner and for the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// A Fill's: two thirds, for behind a flight that lives its readers wait, and the origin gets one GET.
    pub fill: Duration,
    /// What a filler waits for memory before it tells its followers that it is busy: a sixth. They ask the next owner.
    pub memory: Duration,
}

impl Waits {
    /// Of a flight whose readers wait for `read_deadline`.
    pub fn of(read_deadline: Duration, leading: Leading) -> Self {
        let short = (read_deadline / 6).min(FILL_PATIENCE_MAX / 4);
        let fill = match leading {
            Leading::Map | Leading::Passed => 4 * short,
            // Whoever sent its Fill here has waited for the owners before us, and has a third left.
            Leading::Asked => short,
        };
        Self { fill, memory: short }
    }
}

/// The first pause after every place failed; it doubles up to [`REST_MAX`].
const REST_MIN: Duration = Duration::from_millis(50);

/// The longest pause between two rounds.
const REST_MAX: Duration = Duration::from_secs(1);

/// Where a flight is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Before the first round of hops, and between rounds; `kind` is why the last round failed.
    Resting {
        /// Why the last round failed.
        kind: Option<ErrorKind>,
    },
    /// A place was asked and has sent nothing yet.
    Asking {
        /// The place.
        hop: Hop,
        /// When it was asked.
        since: Instant,
    },
    /// A place sends.
    Streaming {
        /// The place.
        hop: Hop,
        /// When its last byte came.
        since: Instant,
    },
    /// All bytes are in memory.
    Landed,
    /// No place gave them.
    Failed(ErrorKind),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new round of hops was computed from the map of now.
    Routed(Vec<Hop>),
    /// So many bytes of the chunk are in memory, checked.
    Bytes(u64),
    /// The place asked failed.
    Failed(HopFailure),
    /// The place asked is late, and this owner sends what it has in its stead.
    Hedged(NodeId),
    /// Time passed.
    Tick,
    /// No reader waits any more.
    Unwanted,
}

/// Why a place gave nothing, or not all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopFailure {
    /// It can't be connected, or its circuit is open.
    Unreachable,
    /// It answered why not.
    Refused(ErrorKind),
    /// The body broke off, failed its checksums, or nothing came for too long.
    Broken,
}

/// What the shell does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask this place for the bytes that are missing.
    Ask(Hop),
    /// Go on with the place that was asked.
    Continue,
    /// Every place failed: pause, then compute the hops again; give up instead if nobody waits.
    Rest(Duration),
    /// The flight is over; its readers have all they want.
    Finish,
    /// The flight is over; its readers get this kind.
    GiveUp(ErrorKind),
}

/// What follows a failure of a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The next hop of the round.
    Hop,
    /// The origin itself, skipping the owners that are left: the filler can't reach it, perhaps this node can.
    Origin,
    /// A pause, then a new round.
    Rest,
    /// No place can answer otherwise.
    Final,
}

/// A flight.
#[derive(Debug)]
pub struct Machine {
    state: State,
    hops: VecDeque<Hop>,
    landed: u64,
    len: u64,
    rounds: u32,
    waits: Waits,
    hedging: Hedging,
}

/// Whether a late place may be hedged: once in a flight, so that a second owner that begins and stalls costs once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hedging {
    /// It may.
    Allowed,
    /// It was.
    Used,
}

impl Machine {
    /// A flight of `len` bytes, before its first route.
    pub fn new(len: u64, waits: Waits) -> Self {
        let (state, hops) = (State::Resting { kind: None }, VecDeque::new());
        Self { state, hops, landed: 0, len, rounds: 0, waits, hedging: Hedging::Allowed }
    }

    /// Whether the place that is asked may be hedged.
    pub fn hedging(&self) -> Hedging {
        self.hedging
    }

    /// Where it is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// When the place that was asked is abandoned unless something lands before.
    pub fn expires(&self) -> Option<Instant> {
        match &self.state {
            State::Asking { hop, since } => Some(*since + self.first_patience(hop)),
            State::Streaming { hop, since } => Some(*since + self.stall_patience(hop)),
            State::Resting { .. } | State::Landed | State::Failed(_) => None,
        }
    }

    /// Whether its bytes are kept whoever leaves: they are this node's own copy, from the origin, which would be asked
    /// again, or from another owner, which heals what was lost here.
    pub fn keeps_what_it_asked(&self) -> bool {
        match &self.state {
            State::Asking { hop, .. } | State::Streaming { hop, .. } => {
                matches!(hop, Hop::Origin(Keep::Owned) | Hop::OwnersHave(_))
            }
            State::Resting { .. } | State::Landed | State::Failed(_) => false,
        }
    }

    /// Takes one event; the only thing that changes the state.
    pub fn step(&mut self, event: Event, now: Instant) -> Action {
        match (self.state.clone(), event) {
            (State::Resting { .. }, Event::Routed(hops)) => {
                self.hops = hops.into();
                self.next_hop(ErrorKind::Internal, now)
            }
            (State::Asking { hop, .. } | State::Streaming { hop, .. }, Event::Bytes(landed)) => {
                self.landed = landed;
                if landed >= self.len {
                    self.state = State::Landed;
                    Action::Finish
                } else {
                    self.state = State::Streaming { hop, since: now };
                    Action::Continue
                }
            }
            (State::Asking { hop, .. } | State::Streaming { hop, .. }, Event::Failed(failure)) => {
                self.after(&hop, failure, now)
            }
            (State::Asking { hop, .. }, Event::Hedged(node)) => {
                // The late place has time to think: it is asked again when the other one stalls.
                self.hops.push_front(hop);
                self.hedging = Hedging::Used;
                self.state = State::Streaming { hop: Hop::Have(node), since: now };
                Action::Continue
            }
            (State::Asking { hop, .. } | State::Streaming { hop, .. }, Event::Tick) => {
                let expired = self.expires().is_some_and(|expires| now >= expires);
                if expired { self.after(&hop, HopFailure::Broken, now) } else { Action::Continue }
            }
            (State::Asking { .. } | State::Streaming { .. }, Event::Unwanted) if self.keeps_what_it_asked() => {
                Action::Continue
            }
            (State::Asking { .. } | State::Streaming { .. }, Event::Unwanted) => {
                self.give_up(ErrorKind::DeadlineExceeded)
            }
            (State::Resting { kind }, Event::Unwanted) => self.give_up(kind.unwrap_or(ErrorKind::DeadlineExceeded)),
            (State::Landed, _) => Action::Finish,
            (State::Failed(kind), _) => Action::GiveUp(kind),
            (State::Resting { .. }, Event::Bytes(_) | Event::Failed(_) | Event::Hedged(_) | Event::Tick)
            | (State::Asking { .. } | State::Streaming { .. }, Event::Routed(_))
            | (State::Streaming { .. }, Event::Hedged(_)) => Action::Continue,
        }
    }

    fn after(&mut self, hop: &Hop, failure: HopFailure, now: Instant) -> Action {
        let kind = kind_of(failure);
        match next_after(hop, failure) {
            Next::Hop => self.next_hop(kind, now),
            Next::Origin => {
                self.hops.retain(|hop| matches!(hop, Hop::Origin(_)));
                self.next_hop(kind, now)
            }
            Next::Rest => self.rest(kind),
            Next::Final => self.give_up(kind),
        }
    }

    fn next_hop(&mut self, kind: ErrorKind, now: Instant) -> Action {
        match self.hops.pop_front() {
            Some(hop) => {
                self.state = State::Asking { hop: hop.clone(), since: now };
                Action::Ask(hop)
            }
            None => self.rest(kind),
        }
    }

    fn rest(&mut self, kind: ErrorKind) -> Action {
        self.hops.clear();
        self.state = State::Resting { kind: Some(kind) };
        let pause = REST_MIN.saturating_mul(1 << self.rounds.min(10)).min(REST_MAX);
        self.rounds += 1;
        Action::Rest(pause)
    }

    fn give_up(&mut self, kind: ErrorKind) -> Action {
        self.hops.clear();
        self.state = State::Failed(kind);
        Action::GiveUp(kind)
    }

    fn first_patience(&self, hop: &Hop) -> Duration {
        match hop {
            Hop::Have(_) | Hop::OwnersHave(_) => HAVE_PATIENCE,
            Hop::Fill(_) => self.waits.fill,
            Hop::Store | Hop::Origin(_) => STALL_PATIENCE,
        }
    }

    fn stall_patience(&self, hop: &Hop) -> Duration {
        match hop {
            Hop::Have(_) | Hop::OwnersHave(_) => HAVE_STALL_PATIENCE,
            Hop::Fill(_) => self.waits.fill,
            Hop::Store | Hop::Origin(_) => STALL_PATIENCE,
        }
    }
}

fn kind_of(failure: HopFailure) -> ErrorKind {
    match failure {
        HopFailure::Unreachable | HopFailure::Broken => ErrorKind::DeadlineExceeded,
        HopFailure::Refused(kind) => kind,
    }
}

/// Whether the filler's answer is everybody's: no place can answer otherwise.
pub fn is_final(kind: ErrorKind) -> bool {
    next_after(&Hop::Origin(Keep::Passing), HopFailure::Refused(kind)) == Next::Final
}

/// The table of what follows. A Have or the store may fail for any reason: the next place knows better.
fn next_after(hop: &Hop, failure: HopFailure) -> Next {
    match (hop, failure) {
        (Hop::Store | Hop::Have(_) | Hop::OwnersHave(_), _) => Next::Hop,
        (Hop::Fill(_), HopFailure::Unreachable | HopFailure::Broken) => Next::Hop,
        (Hop::Origin(_), HopFailure::Unreachable | HopFailure::Broken) => Next::Rest,
        (Hop::Origin(_), HopFailure::Refused(ErrorKind::OriginUnreachable)) => Next::Rest,
        (Hop::Fill(_) | Hop::Origin(_), HopFailure::Refused(kind)) => match kind {
            ErrorKind::AccessDenied
            | ErrorKind::BadCredentials
            | ErrorKind::NoSuchBucket
            | ErrorKind::Changed
            | ErrorKind::NotFound => Next::Final,
            ErrorKind::Throttled => Next::Rest,
            ErrorKind::OriginUnreachable => Next::Origin,
            ErrorKind::NotHere
            | ErrorKind::StaleEpoch
            | ErrorKind::NoSpace
            | ErrorKind::UnknownVolume
            | ErrorKind::Busy
            | ErrorKind::BadRequest
            | ErrorKind::DeadlineExceeded
            | ErrorKind::OriginProtocol
            | ErrorKind::Internal => Next::Hop,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Clock;
    use crate::runtime::clock::RealClock;

    const DEADLINE: Duration = Duration::from_secs(30);

    fn waits() -> Waits {
        Waits::of(DEADLINE, Leading::Map)
    }

    fn start(hops: Vec<Hop>) -> (Machine, Instant) {
        let now = RealClock.now();
        let mut machine = Machine::new(100, waits());
        let first = hops[0].clone();
        assert_eq!(machine.step(Event::Routed(hops), now), Action::Ask(first));
        (machine, now)
    }

    fn fill(id: u32) -> Hop {
        Hop::Fill(NodeId(id))
    }

    const ORIGIN: Hop = Hop::Origin(Keep::Passing);

    #[test]
    fn bytes_land_until_the_end() {
        let (mut machine, now) = start(vec![fill(1), ORIGIN]);
        assert_eq!(machine.step(Event::Bytes(60), now), Action::Continue);
        assert_eq!(machine.step(Event::Bytes(100), now), Action::Finish);
        assert_eq!(machine.state(), &State::Landed);
        assert_eq!(machine.step(Event::Unwanted, now), Action::Finish, "landed stays landed");
    }

    #[test]
    fn a_place_without_progress_is_abandoned_and_the_next_one_asked() {
        let (mut machine, now) = start(vec![fill(1), fill(2), ORIGIN]);
        machine.step(Event::Bytes(10), now);
        assert_eq!(machine.step(Event::Tick, now + waits().fill / 2), Action::Continue);
        assert_eq!(machine.step(Event::Tick, now + waits().fill), Action::Ask(fill(2)));
        let later = now + waits().fill;
        assert_eq!(machine.expires(), Some(later + waits().fill), "the next place has its own patience");
    }

    #[test]
    fn owners_that_bring_nothing_leave_time_for_the_origin() {
        for deadline in [Duration::from_secs(1), DEADLINE, Duration::from_secs(600)] {
            let (reader, asked) = (Waits::of(deadline, Leading::Map), Waits::of(deadline, Leading::Asked));
            // The lead brings nothing; the next owner waits for the lead as well, then asks the origin.
            assert!(reader.fill + asked.fill <= deadline * 5 / 6, "{deadline:?}");
            assert!(asked.fill < reader.fill && reader.memory < reader.fill);
        }
        assert!(waits().fill > STALL_PATIENCE, "the filler abandons its places before it is abandoned");
    }

    #[test]
    fn who_stalls_after_a_hedge_is_left_for_the_one_that_was_late() {
        let (mut machine, now) = start(vec![fill(1), fill(2), ORIGIN]);
        assert_eq!(machine.hedging(), Hedging::Allowed);
        assert_eq!(machine.step(Event::Hedged(NodeId(2)), now), Action::Continue);
        assert_eq!(machine.expires(), Some(now + HAVE_STALL_PATIENCE), "it sends what it has");
        assert_eq!(machine.step(Event::Bytes(10), now), Action::Continue);
        assert_eq!(machine.step(Event::Tick, now + HAVE_STALL_PATIENCE), Action::Ask(fill(1)));
        assert_eq!(machine.hedging(), Hedging::Used, "it would stall again");
        assert_eq!(machine.step(Event::Failed(HopFailure::Broken), now), Action::Ask(fill(2)));
    }

    #[test]
    fn errors_of_the_origin_are_final_through_a_filler() {
        for kind in [ErrorKind::AccessDenied, ErrorKind::Changed, ErrorKind::NotFound, ErrorKind::NoSuchBucket] {
            let (mut machine, now) = start(vec![fill(1), fill(2), ORIGIN]);
            assert_eq!(machine.step(Event::Failed(HopFailure::Refused(kind)), now), Action::GiveUp(kind));
            assert_eq!(machine.state(), &State::Failed(kind));
        }
    }

    #[test]
    fn a_filler_without_origin_sends_us_there_once() {
        let (mut machine, now) = start(vec![fill(1), fill(2), ORIGIN]);
        let unreachable = Event::Failed(HopFailure::Refused(ErrorKind::OriginUnreachable));
        assert_eq!(machine.step(unreachable.clone(), now), Action::Ask(ORIGIN));
        assert_eq!(machine.step(unreachable.clone(), now), Action::Rest(REST_MIN));
        machine.step(Event::Routed(vec![ORIGIN]), now);
        assert_eq!(machine.step(unreachable, now), Action::Rest(2 * REST_MIN), "pauses grow");
        assert_eq!(machine.step(Event::Unwanted, now), Action::GiveUp(ErrorKind::OriginUnreachable));
    }

    #[test]
    fn a_fill_from_the_origin_outlives_its_readers() {
        let (mut machine, now) = start(vec![Hop::Origin(Keep::Owned)]);
        assert_eq!(machine.step(Event::Unwanted, now), Action::Continue);
        let (mut machine, now) = start(vec![fill(1)]);
        assert_eq!(machine.step(Event::Unwanted, now), Action::GiveUp(ErrorKind::DeadlineExceeded));
    }

    #[test]
    fn have_is_given_little_time() {
        let (machine, now) = start(vec![Hop::OwnersHave(vec![NodeId(1)]), ORIGIN]);
        assert_eq!(machine.expires(), Some(now + HAVE_PATIENCE));
    }
}
