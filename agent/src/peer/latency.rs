//! How fast peers answer: the time from a request for bytes to the head of its answer. Sans-IO.
//!
//! Heads come before the origin is asked, so this measures the peer and its net, never the origin. A peer that was given
//! up counts with the time it was waited for. What is older than a few seconds says nothing: a peer that was slow is
//! then tried again.

use std::collections::BTreeMap;
use std::time::Duration;

use larder_proto::ids::NodeId;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Answers remembered of each peer.
const SAMPLES: usize = 64;

/// Fewer say nothing.
const SAMPLES_MIN: usize = 8;

/// How long an answer says something.
const FRESH: Duration = Duration::from_secs(5);

/// A hedge is never sent sooner.
const HEDGE_MIN: Duration = Duration::from_millis(1);

/// A hedge where nothing is known yet: far above what a healthy peer takes.
const HEDGE_UNKNOWN: Duration = Duration::from_millis(50);

/// Late is later than usual, not as late as usual: clocks are coarse.
const LATER: Duration = Duration::from_micros(1);

/// Below this no peer is slow, however fast the others are.
const SLOW_MIN: Duration = Duration::from_millis(5);

/// The peers' answers; at most one entry for each node that was ever asked.
#[derive(Default)]
pub(super) struct Latencies {
    peers: Mutex<BTreeMap<NodeId, Window>>,
}

struct Window {
    samples: [Duration; SAMPLES],
    count: usize,
    next: usize,
    last: Instant,
    p95: Duration,
}

impl Window {
    fn add(&mut self, took: Duration, now: Instant) {
        if now.saturating_duration_since(self.last) > FRESH {
            (self.count, self.next) = (0, 0);
        }
        self.samples[self.next] = took;
        self.next = (self.next + 1) % SAMPLES;
        self.count = (self.count + 1).min(SAMPLES);
        self.last = now;
        let mut sorted = self.samples;
        let sorted = &mut sorted[..self.count];
        sorted.sort_unstable();
        self.p95 = sorted[(self.count * 95).div_ceil(100) - 1];
    }

    fn p95(&self, now: Instant) -> Option<Duration> {
        let fresh = now.saturating_duration_since(self.last) <= FRESH;
        (fresh && self.count >= SAMPLES_MIN).then_some(self.p95)
    }
}

impl Latencies {
    /// A head came, or was waited for, so long.
    pub(super) fn add(&self, node: NodeId, took: Duration, now: Instant) {
        let mut peers = self.peers.lock();
        let window = peers.entry(node).or_insert_with(|| Window {
            samples: [Duration::ZERO; SAMPLES],
            count: 0,
            next: 0,
            last: now,
            p95: Duration::ZERO,
        });
        window.add(took, now);
    }

    /// When a request to `node` is late enough for another owner to be asked as well: after the smaller of its own 95th
    /// percentile and three times the median of all peers' 95th percentiles.
    pub(super) fn hedge_after(&self, node: NodeId, now: Instant) -> Duration {
        let peers = self.peers.lock();
        let own = peers.get(&node).and_then(|window| window.p95(now));
        let usual = usual(&peers, now).map(|usual| 3 * usual);
        own.into_iter().chain(usual).min().unwrap_or(HEDGE_UNKNOWN).max(HEDGE_MIN) + LATER
    }

    /// Whether `node` is so much slower than its like that another is better asked first.
    pub(super) fn is_slow(&self, node: NodeId, now: Instant) -> bool {
        let peers = self.peers.lock();
        let Some(own) = peers.get(&node).and_then(|window| window.p95(now)) else { return false };
        usual(&peers, now).is_some_and(|usual| own > SLOW_MIN.max(3 * usual))
    }
}

/// The lower median of all peers' 95th percentiles.
fn usual(peers: &BTreeMap<NodeId, Window>, now: Instant) -> Option<Duration> {
    let mut all: Vec<Duration> = peers.values().filter_map(|window| window.p95(now)).collect();
    all.sort_unstable();
    all.get(all.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn seen(node: u32, took: Duration, latencies: &Latencies, now: Instant) {
        (0..20).for_each(|_| latencies.add(NodeId(node), took, now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_peer_is_told_by_the_others_and_forgotten_when_it_was_not_asked() {
        let (latencies, now) = (Latencies::default(), Instant::now());
        assert_eq!(latencies.hedge_after(NodeId(1), now), HEDGE_UNKNOWN + LATER);
        seen(1, 2 * MS, &latencies, now);
        assert!(!latencies.is_slow(NodeId(1), now), "nobody is slow alone");
        seen(2, 2 * MS, &latencies, now);
        seen(3, 80 * MS, &latencies, now);
        assert!(latencies.is_slow(NodeId(3), now));
        assert_eq!(latencies.hedge_after(NodeId(3), now), 6 * MS + LATER, "three times the median");
        assert_eq!(latencies.hedge_after(NodeId(1), now), 2 * MS + LATER, "its own 95th percentile");
        let later = now + FRESH + MS;
        assert!(!latencies.is_slow(NodeId(3), later));
        seen(4, Duration::from_micros(90), &latencies, later);
        assert_eq!(latencies.hedge_after(NodeId(4), later), HEDGE_MIN + LATER);
    }
}
