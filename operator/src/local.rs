//! Local mode: the same resources and the same map authority, with agents as child processes instead of DaemonSets.
//!
//! `larder up` stays in the foreground and owns everything it started; the other commands talk to it through a socket
//! in its folder. Agents that die are not restarted by themselves: `larder up` again starts what is missing.
//! Selectors aren't evaluated: nodes are `n1..nN` in zones a, b, c in turn, all in the first pool that has stores.

pub mod cluster;
pub mod commands;
pub mod folder;
pub mod leftovers;
pub mod lock;
pub(crate) mod map_json;
pub mod nodes;
pub mod plan;
pub mod processes;
pub mod socket;
pub mod up;
