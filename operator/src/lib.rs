//! The control plane's parts: the manifest people write, the map authority, and local mode.
//!
//! Nothing here touches user data: no byte of an object passes through.

pub mod authority;
pub mod local;
pub mod manifest;
pub mod print;
pub mod status;
