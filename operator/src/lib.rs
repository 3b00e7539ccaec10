//! The control plane's parts: the map authority, and local mode.
//!
//! Nothing here touches user data: no byte of an object passes through.

pub mod authority;
