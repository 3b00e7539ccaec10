//! The machine's clock and the simulation's.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::Clock;

/// The machine's clock.
#[derive(Debug, Default)]
pub struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_ms(&self) -> u64 {
        millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
    }
}

/// tokio's clock, which is paused in a simulation; the wall clock is a fixed start plus what has passed on it, plus how
/// far it has jumped.
#[derive(Debug)]
pub struct SimClock {
    began: Instant,
    jumped_ms: AtomicI64,
}

/// 2026-01-01T00:00:00Z, when every simulation begins.
const SIM_BEGINS_MS: u64 = 1_767_225_600_000;

impl SimClock {
    /// A clock that begins now.
    pub fn new() -> Self {
        Self { began: Instant::now(), jumped_ms: AtomicI64::new(0) }
    }

    /// The machine's time jumps, ahead or back; the monotonic one doesn't.
    pub fn jump(&self, by_ms: i64) {
        self.jumped_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

impl Default for SimClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_ms(&self) -> u64 {
        (SIM_BEGINS_MS + millis(self.began.elapsed())).saturating_add_signed(self.jumped_ms.load(Ordering::Relaxed))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
