//! Whether a disk is slow. Sans-IO: time and latencies come in with each call.
//!
//! ```text
//!             8 reads of 10 s have a median above the limit, or a call hangs
//!   Steady ------------------------------------------------------------------------------> Suspected (limit frozen)
//!     ^                                                                                        |
//!     +------------------- the last 8 probes have a median below half of the limit ------------+
//! ```
//!
//! The limit is ten times the median of the hour before, at least 10 ms; 200 ms until there were enough reads to know (a
//! median of 20 ms). Latencies are per MiB that was asked for, so that large reads don't look slow. While it is
//! suspected nothing of what is seen counts for the hour.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Reads that decide, and how recent they must be.
const RECENT: usize = 8;
const RECENT_WITHIN: Duration = Duration::from_secs(10);

/// One read or write that lasts so long is a disk that hangs.
const HANGS_AFTER: Duration = Duration::from_secs(1);

/// The same for what waits for others' bytes too: the file system's journal takes them all.
const SYNC_HANGS_AFTER: Duration = Duration::from_secs(5);

/// The same for what writes all that others have left unwritten on the same file system.
const SYNC_ALL_HANGS_AFTER: Duration = Duration::from_secs(20);

/// Times the median of the hour.
const SLOW_TIMES: u64 = 10;

/// Below this nobody cares: the network would cost as much.
const LIMIT_MIN_US: u64 = 10_000;

/// The median before there was one.
const MEDIAN_AT_START_US: u64 = 20_000;

/// Reads that make an hour's median worth believing.
const KNOWN_AFTER: u64 = 64;

/// The hour is counted in twelfths, the oldest of which is forgotten.
const PARTS: usize = 12;
const PART: Duration = Duration::from_secs(300);

/// Latencies are counted by powers of the square root of two: 1 us to 70 min.
const STEPS: usize = 64;

#[derive(Default)]
pub(super) struct Pace {
    hour: VecDeque<(Instant, Box<[u32]>)>,
    recent: VecDeque<(Instant, u64)>,
    running: BTreeMap<u64, (Instant, Kind)>,
    calls: u64,
    /// The limit at the moment of the suspicion.
    suspected: Option<u64>,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Reads or writes some bytes.
    Bytes,
    /// Syncs a file, or changes the index or names.
    Sync,
    /// Syncs the file system.
    SyncAll,
}

impl Kind {
    fn hangs_after(self) -> Duration {
        match self {
            Self::Bytes => HANGS_AFTER,
            Self::Sync => SYNC_HANGS_AFTER,
            Self::SyncAll => SYNC_ALL_HANGS_AFTER,
        }
    }
}

/// A call that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call(u64);

impl Pace {
    /// A call to the disk begins.
    pub fn begin(&mut self, kind: Kind, now: Instant) -> Call {
        self.calls += 1;
        self.running.insert(self.calls, (now, kind));
        Call(self.calls)
    }

    /// It ended; with how many bytes it read, if it was a read that counts.
    pub fn end(&mut self, call: Call, now: Instant, bytes: Option<u64>) {
        let Some((began, _)) = self.running.remove(&call.0) else { return };
        let Some(bytes) = bytes else { return };
        let us = u64::try_from((now - began).as_micros()).unwrap_or(u64::MAX) / bytes.div_ceil(1 << 20).max(1);
        self.recent.push_back((now, us));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        if self.suspected.is_none() {
            self.count(now, us);
        }
    }

    /// Looks at what is known now; true while the disk is suspected.
    pub fn look(&mut self, now: Instant) -> bool {
        let hangs = self.hangs(now);
        let recent = self.recent_median(now);
        match self.suspected {
            None => {
                let limit = self.limit_us();
                if hangs || recent.is_some_and(|median| median > limit) {
                    self.suspected = Some(limit);
                    self.recent.clear();
                }
            }
            Some(limit) => {
                if !hangs && recent.is_some_and(|median| median <= limit / 2) {
                    self.suspected = None;
                    self.recent.clear();
                }
            }
        }
        self.suspected.is_some()
    }

    /// Whether a call lasts so long that nobody should wait for the disk.
    pub fn hangs(&self, now: Instant) -> bool {
        self.running.values().any(|(began, kind)| now - *began >= kind.hangs_after())
    }

    /// Calls that run now.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Median of the hour, in microseconds per MiB or part of one.
    pub fn median_us(&self) -> u64 {
        let total: u64 = self.hour.iter().flat_map(|(_, part)| part.iter()).map(|count| u64::from(*count)).sum();
        if total < KNOWN_AFTER {
            return MEDIAN_AT_START_US;
        }
        let mut below = 0;
        for step in 0..STEPS {
            below += self.hour.iter().map(|(_, part)| u64::from(part[step])).sum::<u64>();
            if below * 2 >= total {
                return upper_us(step);
            }
        }
        upper_us(STEPS - 1)
    }

    fn limit_us(&self) -> u64 {
        (self.median_us() * SLOW_TIMES).max(LIMIT_MIN_US)
    }

    fn recent_median(&self, now: Instant) -> Option<u64> {
        let recent = self.recent.iter().filter(|(at, _)| now - *at <= RECENT_WITHIN);
        let mut latencies: Vec<u64> = recent.map(|(_, us)| *us).collect();
        latencies.sort_unstable();
        (latencies.len() >= RECENT).then(|| latencies[latencies.len() / 2])
    }

    fn count(&mut self, now: Instant, us: u64) {
        if self.hour.back().is_none_or(|(began, _)| now - *began >= PART) {
            self.hour.push_back((now, vec![0; STEPS].into_boxed_slice()));
            if self.hour.len() > PARTS {
                self.hour.pop_front();
            }
        }
        if let Some((_, part)) = self.hour.back_mut() {
            part[step_of(us)] += 1;
        }
    }
}

/// Two steps per power of two.
fn step_of(us: u64) -> usize {
    let us = us.max(1);
    let power = us.ilog2() as usize;
    let half = usize::from(us * 2 >= 3 << power);
    (power * 2 + half).min(STEPS - 1)
}

/// Above every latency of a step.
fn upper_us(step: usize) -> u64 {
    let power = step / 2;
    if step.is_multiple_of(2) { (3 << power) / 2 } else { 2 << power }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pace: &mut Pace, now: &mut Instant, latency: Duration) {
        let call = pace.begin(Kind::Bytes, *now);
        *now += latency;
        pace.end(call, *now, Some(65_536));
    }

    #[tokio::test(start_paused = true)]
    async fn ten_times_slower_is_slow_and_back_again_is_not() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..1_000 {
            read(&mut pace, &mut now, Duration::from_micros(200));
            assert!(!pace.look(now));
        }
        assert!((200..=400).contains(&pace.median_us()), "{}", pace.median_us());
        for _ in 0..20 {
            read(&mut pace, &mut now, Duration::from_millis(5));
            assert!(!pace.look(now), "slower, but not so slow that another place were faster");
        }
        let before = now;
        while !pace.look(now) {
            read(&mut pace, &mut now, Duration::from_millis(20));
            assert!(now - before < Duration::from_secs(1), "x 100 is noticed at once");
        }
        for _ in 0..100 {
            read(&mut pace, &mut now, Duration::from_millis(20));
            assert!(pace.look(now), "frozen: it doesn't get used to it");
        }
        for _ in 0..20 {
            read(&mut pace, &mut now, Duration::from_micros(200));
        }
        assert!(!pace.look(now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_is_enough_and_young_disks_get_time() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..20 {
            read(&mut pace, &mut now, Duration::from_millis(100));
            assert!(!pace.look(now), "nothing is known of it yet: up to 200 ms is fine");
        }
        let call = pace.begin(Kind::Bytes, now);
        assert!(!pace.look(now + Duration::from_millis(999)));
        assert!(pace.look(now + HANGS_AFTER));
        pace.end(call, now + Duration::from_secs(30), None);
        assert!(pace.look(now + Duration::from_secs(30)), "until probes say otherwise");
        assert_eq!(pace.running(), 0);
        let mut pace = Pace::default();
        let sync = pace.begin(Kind::Sync, now);
        assert!(!pace.look(now + Duration::from_millis(4_999)), "a sync waits for others' bytes too");
        assert!(pace.look(now + SYNC_HANGS_AFTER));
        pace.end(sync, now + SYNC_HANGS_AFTER, None);
    }

    #[test]
    fn steps_are_in_order() {
        for us in [1u64, 2, 3, 4, 5, 6, 7, 8, 100, 1_000, 123_456, u64::from(u32::MAX)] {
            let step = step_of(us);
            assert!(us <= upper_us(step) || step == STEPS - 1, "{us}");
            assert!(step == 0 || upper_us(step - 1) <= us, "{us}");
        }
    }
}
