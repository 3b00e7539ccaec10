//! What an agent and the mounter of its node say to each other, over a SOCK_SEQPACKET socket: one request, one reply;
//! what the node's CSI plugin asks of the mounter, over another one; and the mounts themselves, which an agent that is
//! root makes with its own hands.
//!
//! The socket says who speaks: it lies in the cluster's folder below /run/larder, which only that cluster's agent has.
//! Whoever holds the connection is the agent; the mounts it asked for end with it. Imports nothing of Larder.

mod client;
mod message;
pub mod mounts;
mod packet;
mod plugin;

pub use client::{Client, ClientError};
pub use message::{Malformed, Reply, Request};
pub use packet::{receive, send};
pub use plugin::{BAD_TARGET, NOT_SERVED, PluginClient, PluginRequest};

/// The socket in a cluster's folder.
pub const SOCKET: &str = "mounter.sock";

/// The agent's own folder in a cluster's folder.
pub const AGENT: &str = "agent";

/// Where a cluster's volumes are mounted, in its folder.
pub const MOUNTS: &str = "mnt";

/// Agents run as this user and group.
pub const AGENT_USER: u32 = 65_532;
