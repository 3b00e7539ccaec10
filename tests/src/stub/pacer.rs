//! A cap on bytes per second, shared by whoever sends through it.
//!
//! Each send books its time on one virtual line, so the sum keeps the cap whoever sends. A late wake-up is made good
//! from at most [`CREDIT`] of unused line, without which timer granularity would eat a fifth of a fast cap.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// Unused time that may be caught up: some timer ticks.
const CREDIT: Duration = Duration::from_millis(10);
/// Frames of a capped body last about this long, so that the stream is even.
const FRAME_MS: u64 = 10;

/// The line.
#[derive(Debug)]
pub(super) struct Pacer {
    /// 0 = no cap.
    bytes_per_s: AtomicU64,
    free_at: Mutex<Option<Instant>>,
}

impl Pacer {
    pub(super) fn new(bytes_per_s: Option<u64>) -> Pacer {
        Pacer { bytes_per_s: AtomicU64::new(bytes_per_s.unwrap_or(0)), free_at: Mutex::new(None) }
    }

    pub(super) fn set(&self, bytes_per_s: Option<u64>) {
        self.bytes_per_s.store(bytes_per_s.unwrap_or(0), Ordering::SeqCst);
        *self.free_at.lock() = None;
    }

    pub(super) fn cap(&self) -> Option<u64> {
        Some(self.bytes_per_s.load(Ordering::SeqCst)).filter(|cap| *cap > 0)
    }

    /// Largest frame that keeps a stream under this cap even; `u64::MAX` without a cap.
    pub(super) fn frame_bytes(&self) -> u64 {
        self.cap().map_or(u64::MAX, |cap| (cap / (1000 / FRAME_MS)).max(1))
    }

    /// Waits until `bytes` have had their time on the line.
    pub(super) async fn pass(&self, bytes: u64) {
        let Some(cap) = self.cap() else { return };
        let lasts = Duration::from_secs_f64(bytes as f64 / cap as f64);
        let behind = {
            let mut free_at = self.free_at.lock();
            let now = Instant::now();
            let earliest = now.checked_sub(CREDIT).unwrap_or(now);
            let begin = free_at.unwrap_or(now).max(earliest);
            *free_at.insert(begin + lasts)
        };
        sleep_until(behind).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_cap_holds_over_several_senders() {
        let pacer = Pacer::new(Some(1_000_000));
        let begin = Instant::now();
        let send = async || {
            for _ in 0..10 {
                pacer.pass(10_000).await;
            }
        };
        tokio::join!(send(), send());
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(185), "{took:?}");
    }

    #[tokio::test]
    async fn no_cap_no_wait() {
        let pacer = Pacer::new(None);
        pacer.pass(u64::MAX).await;
        assert_eq!(pacer.frame_bytes(), u64::MAX);
        pacer.set(Some(50));
        assert_eq!(pacer.frame_bytes(), 1);
    }
}
