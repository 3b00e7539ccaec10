//! What can be refused is refused here, before anything is made: each reason is one line that says what to do.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use larder_proto::identity::{NoIdentity, Trust};

use super::mounts;
use crate::config::{Config, ConfigError};
use crate::fs::NumbersError;
use crate::runtime::disk::{Disk, Lock, RealDisk};
use crate::runtime::mounts::Hands;
use crate::runtime::{mounts as system, process};
use crate::store::OpenError;

/// Certificates that a trust file may hold are few; more than this isn't one.
pub(super) const TRUST_BYTES_MAX: u64 = 256 * 1024;

/// Why the agent doesn't start, in one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration can't be read.
    #[error("can't read the configuration {}: {error}", file.display())]
    ConfigFile {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Mounting needs root.
    #[error("the agent must run as root, because it mounts: run it with sudo, or give it a mounter")]
    NotRoot,
    /// There is no FUSE.
    #[error("there is no /dev/fuse: load the kernel's module with `modprobe fuse`, or give the container the device")]
    NoFuse,
    /// Too few open files are allowed.
    #[error("only {limit} open files are allowed: raise the limit to {} (ulimit -n)", process::DESCRIPTORS_MIN)]
    Descriptors {
        /// The limit.
        limit: u64,
    },
    /// A folder can't be made or used.
    #[error("{field}: can't use {}: {error}", path.display())]
    Folder {
        /// The field of the configuration.
        field: &'static str,
        /// The folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another agent runs with this folder.
    #[error("{field}: {} is in use by another agent: stop it first", path.display())]
    InUse {
        /// The field of the configuration.
        field: &'static str,
        /// The folder.
        path: PathBuf,
    },
    /// No CA certificates.
    #[error("trust: {} holds no usable CA certificates: {error}", path.display())]
    Trust {
        /// The file.
        path: PathBuf,
        /// Why.
        error: NoIdentity,
    },
    /// TLS can't be set up.
    #[error("the node's key and certificate don't fit: remove {}/identity.pem to join anew: {error}", state.display())]
    Tls {
        /// The state folder.
        state: PathBuf,
        /// Why.
        error: rustls::Error,
    },
    /// A port is taken.
    #[error(
        "ports.{field}: {address} is in use: stop what listens there, or configure another port (0 = any free one)"
    )]
    PortInUse {
        /// The field.
        field: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// A port can't be listened on for another reason.
    #[error("ports.{field}: can't listen on {address}: {error}")]
    Listen {
        /// The field.
        field: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// No numbers for files.
    #[error(transparent)]
    Numbers(#[from] NumbersError),
    /// A store is refused.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The connector to origins can't be made.
    #[error("can't prepare connections to origins: {0}")]
    Origins(#[from] crate::origin::OriginError),
    /// Something else is mounted where mounts belong.
    #[error("mounts: {} is mounted at {}: unmount it, or configure another folder", kind, at.display())]
    ForeignMount {
        /// Where.
        at: PathBuf,
        /// What.
        kind: String,
    },
    /// The process can't do what it must.
    #[error("the system refuses: {0}")]
    System(#[from] io::Error),
}

/// What is claimed before anything is made.
pub(super) struct Prepared {
    pub(super) trust: Trust,
    /// Descriptors this process may have.
    pub(super) descriptors: u64,
    pub(super) locks: Vec<Box<dyn Lock>>,
    /// Who mounts.
    pub(super) hands: Hands,
}

/// Refuses what can be refused without changing anything, then makes and locks the folders.
pub(super) fn prepare(config: &Config) -> Result<Prepared, StartError> {
    let hands = hands(config)?;
    let limit = process::raise_descriptors()?;
    if limit < process::DESCRIPTORS_MIN {
        return Err(StartError::Descriptors { limit });
    }
    let pem = process::read_text(&config.trust, TRUST_BYTES_MAX).map_err(|error| StartError::Folder {
        field: "trust",
        path: config.trust.clone(),
        error,
    })?;
    let trust =
        Trust::from_pem(pem.as_bytes()).map_err(|error| StartError::Trust { path: config.trust.clone(), error })?;
    let mut locks = Vec::new();
    // The mounter makes the folder of mounts, and lets one agent in at a time.
    let mounts = matches!(hands, Hands::Own).then_some(("mounts", &config.mounts));
    for (field, path) in [("state", &config.state)].into_iter().chain(mounts) {
        let refuse = |error| StartError::Folder { field, path: path.clone(), error };
        RealDisk.create_dir_all(path).map_err(refuse)?;
        locks.push(RealDisk.lock(path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => StartError::InUse { field, path: path.clone() },
            _ => refuse(error),
        })?);
    }
    if matches!(hands, Hands::Own) {
        mounts::clean(&config.mounts)?;
    }
    Ok(Prepared { trust, descriptors: limit, locks, hands })
}

/// Who mounts. A mounter also prepares the stores, which lie where this process may make nothing.
fn hands(config: &Config) -> Result<Hands, StartError> {
    let Some(socket) = &config.mounter else {
        if !process::is_root() {
            return Err(StartError::NotRoot);
        }
        if !system::has_device() {
            return Err(StartError::NoFuse);
        }
        return Ok(Hands::Own);
    };
    let refuse = |error| StartError::Folder { field: "mounter", path: socket.clone(), error };
    let hands = Hands::of_mounter(socket).map_err(refuse)?;
    for store in &config.stores {
        if let (Hands::Mounter(mounter), Some(host_path)) = (&hands, &store.host_path) {
            let refuse = |error| StartError::Folder { field: "stores", path: host_path.into(), error };
            mounter.prepare(host_path, store.is_mount_point).map_err(|error| refuse(error.into()))?;
        }
    }
    Ok(hands)
}
