//! A cluster of real processes for a scenario: `larder up` and its agents, with ports and folders of their own.
//!
//! Owns where programs are found, how a cluster starts and ends, how one waits (for conditions, with deadlines, never for
//! a guessed time), and what is kept when a scenario fails. A [`Cluster`] that is dropped leaves no process and no mount,
//! also when the test panicked; then its logs, configurations, objects and metrics are kept under
//! `target/test-artifacts/<test>`. At most two clusters run at a time; a test holds one at a time.

mod artifacts;
mod builder;
mod cluster;
mod disks;
mod metrics;
mod network;
mod nodes;
mod patience;
mod programs;
mod readers;
mod reading;
mod run;
mod traces;
mod turns;
mod words;

pub use builder::{ClusterBuilder, VolumeSpec};
pub use cluster::Cluster;
pub use disks::Disk;
pub use metrics::Metrics;
pub use network::{Cut, in_network_of_its_own};
pub use patience::{MINUTE, SOON, wait_for, wait_looking_every, wait_until, within};
pub use programs::{agent_program, larder_program, program, shared_program};
pub use readers::{Readers, Span};
pub use reading::{errno, list, open_uncached, read_uncached, sha256};
pub use run::{Ran, run};
pub use traces::{mounts_below, processes_naming, remove_traces};
pub use words::Copies;
