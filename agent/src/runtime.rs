//! Everything outside: clock, randomness, tasks, net and disk, real or simulated.
//!
//! Nothing else in the agent touches sockets, files, threads, the wall clock or an unseeded random source, so the
//! whole agent runs on seeded time, network and disks. Waiting is tokio's (`sleep`, `timeout`, `interval`): its clock
//! is paused in a simulation. Reading the time goes through [`Clock`].

use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

pub mod circuit;
pub mod clock;
pub mod crowd;
pub mod disk;
pub mod mounts;
pub mod net;
pub mod process;
pub mod real;
pub mod sim;
pub mod tasks;
pub mod tree;

/// A map whose order is the same in every run. Keys from outside are bounded in number where they are inserted.
pub type HashMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// A set whose order is the same in every run.
pub type HashSet<K> = std::collections::HashSet<K, BuildHasherDefault<DefaultHasher>>;

/// The time, read.
pub trait Clock: Send + Sync {
    /// Monotonic time, for deadlines and ages.
    fn now(&self) -> tokio::time::Instant;

    /// Milliseconds since the epoch, for what people read and for mtimes; may jump.
    fn wall_ms(&self) -> u64;
}

/// A source of random numbers: the system's, or a seeded one.
pub trait Rng: Send + Sync {
    /// The next number.
    fn next_u64(&self) -> u64;
}

/// The handle to everything outside. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub rng: Arc<dyn Rng>,
    /// Byte streams to and from peers.
    pub net: Arc<dyn net::Net>,
    /// Files below the node's own folders.
    pub disk: Arc<dyn disk::Disk>,
    /// Tasks, blocking pools and shutdown.
    pub tasks: tasks::Tasks,
}
