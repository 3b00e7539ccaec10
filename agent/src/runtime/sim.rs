//! The simulated outside: tokio's paused clock, seeded randomness, disks in memory, pools that run inline.
//!
//! Runs on a current-thread tokio runtime with `start_paused`; two runs with one seed then take the same steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::clock::SimClock;
use super::disk::SimDisk;
use super::net::Net;
use super::tasks::Tasks;
use super::{Rng, Runtime};

impl Runtime {
    /// The simulated outside of one node. Nodes of one simulation get different seeds made from the run's.
    pub fn sim(seed: u64, net: Arc<dyn Net>, disk: SimDisk) -> Self {
        Self {
            clock: Arc::new(SimClock::new()),
            rng: Arc::new(SimRng::new(seed)),
            net,
            disk: Arc::new(disk),
            tasks: Tasks::inline(),
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug)]
pub struct SimRng {
    state: AtomicU64,
}

/// The generator's increment: 2^64 / golden ratio, odd.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl SimRng {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }

    /// A number below `bound`; 0 when `bound` is 0. Its bias is below 2^-32 for bounds below 2^32.
    pub fn below(&self, bound: u64) -> u64 {
        self.next_u64().checked_rem(bound).unwrap_or(0)
    }
}

impl Rng for SimRng {
    fn next_u64(&self) -> u64 {
        let mut z = self.state.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        let rng = SimRng::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
