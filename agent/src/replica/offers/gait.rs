//! How fast copies are given: as fast as disks and net like while nobody reads, a quarter of it under load.
//!
//! Never nothing: a hand-over that waits for readers to go away would leave them without the bytes when it ends.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::runtime::Clock;

/// Per second and node, while the disks are left alone by readers; a tenth of what a usual NVMe disk reads.
const BYTES_PER_S: u64 = 256 << 20;

/// The same under load.
const LOADED_BYTES_PER_S: u64 = 64 << 20;

/// More pieces than this read from the disks in a second, by others, are load.
const LOAD_READS_PER_S: u64 = 50;

/// Load is counted over so long at least.
const LOAD_OVER: Duration = Duration::from_millis(250);

/// A timer is no finer.
const REST_MIN: Duration = Duration::from_millis(2);

pub(super) struct Gait {
    state: Mutex<State>,
}

struct State {
    /// Bytes given since the last rest.
    given_bytes: u64,
    /// Pieces read for copies since `at`.
    own_reads: u64,
    /// Pieces read in all, as of `at`.
    reads: u64,
    at: Instant,
    loaded: bool,
}

impl Gait {
    pub(super) fn new(now: Instant, reads: u64) -> Self {
        // Loaded until it is known.
        Self { state: Mutex::new(State { given_bytes: 0, own_reads: 0, reads, at: now, loaded: true }) }
    }

    /// So many pieces were read for a copy.
    pub(super) fn has_read(&self, pieces: u64) {
        self.state.lock().own_reads += pieces;
    }

    /// So many bytes were given.
    pub(super) fn has_given(&self, bytes: u64) {
        self.state.lock().given_bytes += bytes;
    }

    /// Rests for what was given.
    pub(super) async fn rest(&self, clock: &dyn Clock, reads: impl Fn() -> u64) {
        let rest = self.state.lock().rest(clock.now(), reads());
        if !rest.is_zero() {
            sleep(rest).await;
        }
    }
}

impl State {
    fn rest(&mut self, now: Instant, reads: u64) -> Duration {
        if now - self.at >= LOAD_OVER {
            let passed_ms = u64::try_from((now - self.at).as_millis()).unwrap_or(u64::MAX).max(1);
            let others = reads.saturating_sub(self.reads).saturating_sub(self.own_reads);
            self.loaded = others.saturating_mul(1_000) / passed_ms > LOAD_READS_PER_S;
            (self.reads, self.own_reads, self.at) = (reads, 0, now);
        }
        let rate = if self.loaded { LOADED_BYTES_PER_S } else { BYTES_PER_S };
        let rest = Duration::from_micros(self.given_bytes.saturating_mul(1_000_000) / rate);
        if rest < REST_MIN {
            return Duration::ZERO;
        }
        self.given_bytes = 0;
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock::RealClock;

    #[test]
    fn under_load_it_is_four_times_slower_and_never_stands() {
        let began = RealClock.now();
        let gait = Gait::new(began, 0);
        let rest = |after_ms: u64, reads: u64| gait.state.lock().rest(began + Duration::from_millis(after_ms), reads);
        gait.has_given(64 << 20);
        assert_eq!(rest(1, 0), Duration::from_secs(1), "loaded until it is known");
        gait.has_given(64 << 20);
        gait.has_read(100);
        assert_eq!(rest(1_001, 110), Duration::from_millis(250), "its own reads are no load");
        gait.has_given(64 << 20);
        assert_eq!(rest(2_001, 200), Duration::from_secs(1), "ninety of others are");
        gait.has_given(1 << 16);
        assert_eq!(rest(2_002, 200), Duration::ZERO, "small chunks add up");
        gait.has_given((64 << 20) - (1 << 16));
        assert_eq!(rest(2_003, 200), Duration::from_secs(1));
    }
}
