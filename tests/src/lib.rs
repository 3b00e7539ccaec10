//! What Larder's tests stand on: the origin double, a small S3 client, and the harness over real processes.
//!
//! Nothing here is shipped; nothing here is imported by the crates that are.

pub mod azurite;
pub mod bench;
pub mod demo;
pub mod harness;
pub mod kit;
pub mod s3client;
pub mod sigv4;
pub mod soak;
pub mod stub;
mod xml;
