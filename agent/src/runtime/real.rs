//! The real outside: the machine's clock, randomness, threads and disks; the net is given.

use std::sync::Arc;

use super::clock::RealClock;
use super::disk::RealDisk;
use super::net::Net;
use super::tasks::Tasks;
use super::{Rng, Runtime};

impl Runtime {
    /// The real outside, on the current tokio runtime.
    pub fn real(net: Arc<dyn Net>) -> Self {
        Self {
            clock: Arc::new(RealClock),
            rng: Arc::new(SystemRng),
            net,
            disk: Arc::new(RealDisk),
            tasks: Tasks::new(),
        }
    }
}

/// The system's random numbers.
#[derive(Debug, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        aws_lc_rs::rand::fill(&mut bytes).expect("the system has random numbers once it has booted");
        u64::from_le_bytes(bytes)
    }
}
