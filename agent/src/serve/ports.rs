//! The agent's ports: those of the configuration, or those it had before.
//!
//! A port of 0 takes any free one; at the next start the same one again, if it can still be had. So agents that all
//! restart at once, with nobody to tell them where the others are, find each other where the last map has them.

use std::io;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::StartError;
use crate::admin::{self, Bound};
use crate::config::{Config, Ports};
use crate::runtime::Runtime;
use crate::runtime::net::Listener;

/// In the state folder.
const FILE: &str = "ports.json";

/// Two numbers.
const FILE_BYTES_MAX: u64 = 256;

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Kept {
    peer: u16,
    admin: u16,
}

/// Listens on both.
pub(super) async fn take(runtime: &Runtime, config: &Config) -> Result<(Box<dyn Listener>, Bound, Ports), StartError> {
    let file = config.state.join(FILE);
    let kept = runtime.disk.read_small(&file, FILE_BYTES_MAX).ok();
    let kept: Kept = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let at = |port| SocketAddr::new(config.address, port);
    let (wanted, before) = (at(config.ports.peer), at(kept.peer));
    let listener = match runtime.net.listen(if wanted.port() == 0 { before } else { wanted }).await {
        Err(_) if wanted.port() == 0 => runtime.net.listen(wanted).await,
        listening => listening,
    };
    let listener = listener.map_err(|error| listen_error("peer", wanted, error))?;
    let (wanted, before) = (at(config.ports.admin), at(kept.admin));
    let admin = match admin::bind(runtime, if wanted.port() == 0 { before } else { wanted }).await {
        Err(_) if wanted.port() == 0 => admin::bind(runtime, wanted).await,
        bound => bound,
    };
    let admin = admin.map_err(|error| listen_error("admin", wanted, error))?;
    let ports = Ports { peer: listener.local_addr().port(), admin: admin.port() };
    let taken = Kept { peer: ports.peer, admin: ports.admin };
    let text = serde_json::to_vec(&taken).expect("two numbers are JSON");
    if let Err(error) = runtime.disk.replace_small(&file, &text) {
        tracing::warn!(%error, "the ports can't be kept for the next start");
    }
    Ok((listener, admin, ports))
}

fn listen_error(field: &'static str, address: SocketAddr, error: io::Error) -> StartError {
    match error.kind() {
        io::ErrorKind::AddrInUse => StartError::PortInUse { field, address },
        _ => StartError::Listen { field, address, error },
    }
}
