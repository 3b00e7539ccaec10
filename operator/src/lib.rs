//! The control plane's parts: the manifest people write, the map authority, local mode, and the operator on Kubernetes.
//!
//! Feature `kubernetes` (on by default) brings the operator and its client; local mode builds without.
//!
//! Nothing here touches user data: no byte of an object passes through.

pub mod authority;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod local;
pub mod manifest;
#[cfg(feature = "kubernetes")]
pub mod plugin;
pub mod print;
pub mod status;
