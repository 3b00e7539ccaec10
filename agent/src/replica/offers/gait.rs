//! How fast copies are given: as fast as disks and net like while nobody reads, a quarter of it under load.
//!
//! One rate for all lanes together: each gives when the bytes given before are paid for. Load is whatever others ask of
//! this node: pieces read from its disks or out of its memory, a disk that is slow, and files that the kernel reads past
//! the agent. How much of those is read nobody sees, so one that is open is load. Never nothing: a hand-over that waits
//! for readers to go away would leave them without the bytes when it ends.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::runtime::Clock;
use crate::store::ByKernel;

/// Per second and node, while the disks are left alone by readers; a tenth of what a usual NVMe disk reads.
const BYTES_PER_S: u64 = 256 << 20;

/// The same under load.
const LOADED_BYTES_PER_S: u64 = 64 << 20;

/// More pieces than this in a second, read by others, are load.
const LOAD_PIECES_PER_S: u64 = 50;

/// Load is counted over so long at least.
const LOAD_OVER: Duration = Duration::from_millis(250);

/// A timer is no finer: less than this is waited for together with what comes next, and as much that one was late is made
/// up for.
const REST_MIN: Duration = Duration::from_millis(2);

/// What this node is asked for, as of a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::replica) struct Asked {
    /// Pieces read from its disks or out of its memory since the start, by whomever.
    pub pieces: u64,
    /// Files that the kernel reads by itself.
    pub by_kernel: ByKernel,
    /// A disk is slow.
    pub is_slow: bool,
}

pub(super) struct Gait {
    state: Mutex<State>,
}

struct State {
    /// When all that was given is paid for.
    free_at: Instant,
    /// Pieces read for copies since `at`.
    own_pieces: u64,
    /// What was asked for as of `at`.
    asked: Asked,
    at: Instant,
    is_loaded: bool,
}

impl Gait {
    pub(super) fn new(now: Instant) -> Self {
        // Loaded until it is known.
        let (free_at, at) = (now, now);
        Self { state: Mutex::new(State { free_at, own_pieces: 0, asked: Asked::default(), at, is_loaded: true }) }
    }

    /// Looks what this node is asked for, also while it gives nothing.
    pub(super) fn look(&self, now: Instant, asked: Asked) {
        self.state.lock().look(now, asked);
    }

    /// So many pieces were read for a copy.
    pub(super) fn has_read(&self, pieces: u64) {
        self.state.lock().own_pieces += pieces;
    }

    /// Waits until so many bytes more may be given; they count as given.
    pub(super) async fn turn(&self, clock: &dyn Clock, bytes: u64, asked: impl Fn() -> Asked) {
        let now = clock.now();
        let due = self.state.lock().due(now, bytes, asked());
        if due.saturating_duration_since(now) >= REST_MIN {
            sleep_until(due).await;
        }
    }
}

impl State {
    fn due(&mut self, now: Instant, bytes: u64, asked: Asked) -> Instant {
        self.look(now, asked);
        let rate = if self.is_loaded { LOADED_BYTES_PER_S } else { BYTES_PER_S };
        let takes = Duration::from_micros(bytes.saturating_mul(1_000_000) / rate);
        self.free_at = self.free_at.max(now.checked_sub(REST_MIN).unwrap_or(now)) + takes;
        self.free_at
    }

    fn look(&mut self, now: Instant, asked: Asked) {
        if now - self.at < LOAD_OVER {
            return;
        }
        let passed_ms = u64::try_from((now - self.at).as_millis()).unwrap_or(u64::MAX).max(1);
        let others = asked.pieces.saturating_sub(self.asked.pieces).saturating_sub(self.own_pieces);
        let by_kernel = asked.by_kernel.open > 0 || asked.by_kernel.opened != self.asked.by_kernel.opened;
        self.is_loaded = asked.is_slow || by_kernel || others.saturating_mul(1_000) / passed_ms > LOAD_PIECES_PER_S;
        (self.asked, self.own_pieces, self.at) = (asked, 0, now);
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;
    use crate::runtime::clock::RealClock;

    const MIB: u64 = 1 << 20;

    fn pieces(pieces: u64) -> Asked {
        Asked { pieces, ..Asked::default() }
    }

    /// When `bytes` may be given that are asked for after `after_ms`, in milliseconds of the same clock.
    fn due_ms(gait: &Gait, began: Instant, after_ms: u64, bytes: u64, asked: Asked) -> u128 {
        let due = gait.state.lock().due(began + Duration::from_millis(after_ms), bytes, asked);
        (due - began).as_millis()
    }

    #[test]
    fn under_load_it_is_four_times_slower_and_never_stands() {
        let began = RealClock.now();
        let gait = Gait::new(began);
        let due = |after_ms, bytes, asked| due_ms(&gait, began, after_ms, bytes, asked);
        let late_ms = REST_MIN.as_millis();
        assert_eq!(due(0, 64 * MIB, pieces(0)), 1_000, "loaded until it is known");
        gait.has_read(100);
        assert_eq!(due(1_000, 64 * MIB, pieces(110)), 1_250, "its own reads are no load");
        assert_eq!(due(2_250, 64 * MIB, pieces(200)), 3_250 - late_ms, "ninety of others are");
        assert_eq!(due(3_240, 64 * MIB, pieces(200)), 3_500 - late_ms, "what was given is paid for first");
    }

    #[test]
    fn what_the_kernel_reads_is_load_and_so_is_a_slow_disk() {
        let began = RealClock.now();
        let kernel = |opened, open| Asked { by_kernel: ByKernel { opened, open }, ..Asked::default() };
        let slow = Asked { is_slow: true, ..Asked::default() };
        let gait = Gait::new(began);
        let takes_ms = |after_s: u64, asked| {
            let due_ms = due_ms(&gait, began, after_s * 1_000, 64 * MIB, asked) + REST_MIN.as_millis();
            due_ms - u128::from(after_s) * 1_000
        };
        assert_eq!(takes_ms(2, kernel(0, 0)), 250, "nobody reads");
        assert_eq!(takes_ms(4, kernel(1, 1)), 1_000, "a file is open");
        assert_eq!(takes_ms(6, kernel(1, 1)), 1_000, "and stays so");
        assert_eq!(takes_ms(8, kernel(2, 0)), 1_000, "one was open meanwhile");
        assert_eq!(takes_ms(10, kernel(2, 0)), 250);
        assert_eq!(takes_ms(12, slow), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_over_all_lanes_together() {
        let began = RealClock.now();
        let gait = Gait::new(began);
        gait.state.lock().is_loaded = false;
        let lane = || async {
            for _ in 0..32 {
                gait.turn(&RealClock, 4 * MIB, Asked::default).await;
            }
        };
        join_all([lane(), lane()]).await;
        let took = RealClock.now() - began;
        assert!(took >= Duration::from_secs(1), "256 MiB in {took:?}");
        assert!(took < Duration::from_millis(1_050), "and no lane stands without need: {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn small_chunks_add_up() {
        let began = RealClock.now();
        let gait = Gait::new(began);
        gait.state.lock().is_loaded = false;
        for _ in 0..4_096 {
            gait.turn(&RealClock, MIB / 16, Asked::default).await;
        }
        let took = RealClock.now() - began;
        assert!((Duration::from_millis(990)..Duration::from_millis(1_050)).contains(&took), "256 MiB in {took:?}");
    }
}
