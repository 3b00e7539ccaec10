//! Larder's data path: one node's stores, its peers, its mounts.
//!
//! A module imports only what stands below it, and a test reads the imports to keep that true:
//!
//! ```text
//! serve                     puts the parts together, takes them apart; beside it config, telemetry, metrics, admin
//! fuse                      doors: translate a protocol, hold no state of their own
//! fs                        names, attributes, handles, homes
//! cache                     one chunk from the nearest place: local, peer, origin; single flight; prefetch
//! replica     origin        copies  |  object_store with retries, limits, credentials
//! store  peer  map          this node's disks  |  bytes between agents  |  which epoch do I believe
//! runtime                   clock, randomness, net, disk, spawn, shutdown: real or simulated
//! ```

pub mod admin;
pub mod cache;
pub mod config;
pub mod fs;
pub mod fuse;
pub mod map;
pub mod metrics;
pub mod origin;
pub mod peer;
pub mod replica;
pub mod runtime;
pub mod serve;
pub mod store;
pub mod telemetry;

#[cfg(test)]
mod world;
