//! What goes over Larder's wires, and what both sides must compute alike: ids, the cluster map, placement,
//! the peer protocol, control messages, limits and stable error kinds.
//!
//! Everything here is a contract: layouts and hashes are pinned by byte-exact tests that may never change.
//! The crate does no I/O, knows no clock and imports nothing else of Larder's.

pub mod checksum;
pub mod control;
pub mod error;
pub mod glob;
pub mod identity;
pub mod ids;
pub mod limits;
pub mod map;
pub mod names;
pub mod object;
pub mod placement;
pub mod range;
pub mod volume;
pub mod wire;
