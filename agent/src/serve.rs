//! Puts the agent together from its configuration, serves, and takes it apart again.
//!
//! Owns the order: what can be refused is refused before anything is made; stores open before peers may ask; mounts
//! come last and go first. Each reason not to start is one line that says what to do.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use larder_proto::identity::{Identity, NoIdentity, Trust};
use tokio::sync::watch;

use crate::admin;
use crate::cache::{self, Cache};
use crate::config::{CONFIG_BYTES_MAX, Config, ConfigError};
use crate::fs::names::Homes;
use crate::fs::{Numbers, NumbersError};
use crate::fuse::Ops;
use crate::map::{AuthorityClient, AuthorityOptions, Hooks, MapHolder, NodeIdentity};
use crate::metrics::{self, Metrics};
use crate::origin::{Origins, RealOrigins};
use crate::peer;
use crate::replica::Replicator;
use crate::runtime::clock::RealClock;
use crate::runtime::disk::{BufferPool, Disk, Lock, RealDisk};
use crate::runtime::net::Listener;
use crate::runtime::net::tls::{Credentials, TlsNet};
use crate::runtime::{Clock, Runtime, mounts as system, process};
use crate::store::{OpenError, StoreConfig, Stores, Watermarks};

pub(crate) mod below;
mod mounts;
mod node;
mod report;

use below::Members;
use mounts::Mounts;
use node::Node;

/// Certificates that a trust file may hold are few; more than this isn't one.
const TRUST_BYTES_MAX: u64 = 256 * 1024;

/// Memory through which stores read for peers and copies, besides what the cache keeps of it: 32 segments of 1 MiB.
const STORE_BUFFERS_BYTES: u64 = 32 * 1024 * 1024;

/// What a known name takes in memory: itself, its version, and its place in the tables.
const NAME_BYTES: usize = 256;

/// How long closing may take; after it the stores are marked unclean and verified at the next start.
const CLOSE_DEADLINE: Duration = Duration::from_secs(15);

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
    #[error("the agent must run as root, because it mounts: run it with sudo")]
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

/// Reads and checks the configuration.
pub fn read_config(file: &Path) -> Result<Config, StartError> {
    let text = process::read_text(file, CONFIG_BYTES_MAX)
        .map_err(|error| StartError::ConfigFile { file: file.to_owned(), error })?;
    Ok(Config::parse(file, &text)?)
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(config: Config) -> Result<(), StartError> {
    let stop = process::asked_to_stop()?;
    let prepared = prepare(&config)?;
    let node = assemble(config, prepared).await?;
    let ready = node.write_ready().await;
    tracing::info!(node = %node.config.node, peer_port = node.peer_port, "serving");
    if ready.is_ok() {
        stop.await;
    }
    take_apart(&node).await;
    Ok(ready?)
}

/// What is claimed before anything is made.
struct Prepared {
    trust: Trust,
    _locks: Vec<Box<dyn Lock>>,
}

/// Refuses what can be refused without changing anything, then makes and locks the folders.
fn prepare(config: &Config) -> Result<Prepared, StartError> {
    if !process::is_root() {
        return Err(StartError::NotRoot);
    }
    if !system::has_device() {
        return Err(StartError::NoFuse);
    }
    let limit = process::raise_descriptors()?;
    if limit < process::DESCRIPTORS_MIN {
        return Err(StartError::Descriptors { limit });
    }
    let pem = RealDisk.read_small(&config.trust, TRUST_BYTES_MAX).map_err(|error| StartError::Folder {
        field: "trust",
        path: config.trust.clone(),
        error,
    })?;
    let trust = Trust::from_pem(&pem).map_err(|error| StartError::Trust { path: config.trust.clone(), error })?;
    let mut locks = Vec::new();
    for (field, path) in [("state", &config.state), ("mounts", &config.mounts)] {
        let refuse = |error| StartError::Folder { field, path: path.clone(), error };
        RealDisk.create_dir_all(path).map_err(refuse)?;
        locks.push(RealDisk.lock(path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => StartError::InUse { field, path: path.clone() },
            _ => refuse(error),
        })?);
    }
    mounts::clean(&config.mounts)?;
    Ok(Prepared { trust, _locks: locks })
}

async fn assemble(config: Config, prepared: Prepared) -> Result<Node, StartError> {
    let trust = prepared.trust.clone();
    let own = Identity::Node(config.cluster, config.node.clone());
    let net_of = |identity: Option<&NodeIdentity>| Credentials {
        cluster: config.cluster,
        trust: trust.clone(),
        own: identity.map(|identity| (identity.chain(), identity.key())),
    };
    let wall_ms = RealClock.wall_ms();
    let identity = NodeIdentity::load(&RealDisk, &config.state, &own, &trust, wall_ms).unwrap_or_else(|error| {
        tracing::warn!(%error, "the stored certificate can't be used; joining anew");
        None
    });
    let net = TlsNet::new(net_of(identity.as_ref()))
        .map_err(|error| StartError::Tls { state: config.state.clone(), error })?;
    let net = Arc::new(net);
    let runtime = Runtime::real(net.clone());
    let numbers = Arc::new(Numbers::begin(runtime.disk.as_ref(), &config.state)?);
    let map = MapHolder::open(&runtime, &config.state, config.cluster, config.node.clone(), trust.keys().clone()).await;
    let (peer_address, listener) = listen(&runtime, &config).await?;
    let memory_bytes = config.memory_bytes.unwrap_or_else(process::memory_budget_bytes);
    let cache_bytes = (memory_bytes / 4).min(cache::BUDGET_BYTES);
    let stores = open_stores(&runtime, &config, cache_bytes).await?;
    let (volumes_in, volumes) = watch::channel(crate::origin::Volumes::default());
    let members = Arc::new(Members(map.clone()));
    let peers = peer::Client::new(runtime.clone(), members);
    let origins = Origins::new(runtime.clone(), volumes.clone(), Arc::new(RealOrigins::new(&runtime)?));
    let replicator =
        Replicator::new(runtime.clone(), stores.clone(), peers.clone(), Arc::new(map.clone()), volumes.clone());
    let cache = Cache::new(runtime.clone(), stores.clone(), peers.clone(), origins.clone(), replicator, cache_bytes);
    let names_bytes = usize::try_from(memory_bytes / 8).unwrap_or(usize::MAX);
    let names = Homes::new(runtime.clone(), map.clone(), peers.clone(), origins.clone(), names_bytes);
    let routes = names.routes(peer::ControlRoutes::new());
    let server = peer::Server::new(runtime.clone(), peers.clone(), Arc::new(cache.clone()), routes);
    runtime.tasks.spawn(server.clone().serve(listener));
    let ops = Arc::new(Ops::default());
    let mounts = Mounts::new(
        runtime.clone(),
        config.mounts.clone(),
        mounts::Parts {
            names: Arc::new(names.clone()),
            cache: cache.clone(),
            stores: stores.clone(),
            numbers,
            names_max: names_bytes / NAME_BYTES,
            ops: ops.clone(),
        },
    );
    let sources = metrics::Sources {
        cache: cache.clone(),
        names,
        stores: stores.clone(),
        origins: origins.clone(),
        peers: peers.clone(),
        map: map.clone(),
        net: net.clone(),
        ops,
        trees: mounts.trees(),
    };
    let authority_options = AuthorityOptions {
        address: config.authority.clone(),
        cluster: config.cluster,
        name: config.node.clone(),
        trust: trust.clone(),
        token: config.token.clone(),
        state: config.state.clone(),
    };
    let metrics = Metrics::new(Arc::new(sources));
    let page = Arc::new(node::Pages { map: map.clone(), cache: cache.clone(), stores: stores.clone(), metrics });
    let admin_address = SocketAddr::new(config.address, config.ports.admin);
    let admin_port = admin::serve(&runtime, admin_address, page)
        .await
        .map_err(|error| listen_error("admin", admin_address, error))?;
    let reporter = report::Reporter {
        address: config.address,
        peer_port: peer_address.port(),
        admin_port,
        domain: config.domain.clone(),
        stores: stores.clone(),
        origins,
        peers,
        trees: mounts.trees(),
        volumes: volumes.clone(),
    };
    let (cluster, trust, installed) = (config.cluster, trust.clone(), net);
    let hooks = Hooks {
        report: Box::new(move || reporter.report()),
        install: Box::new(move |identity| {
            let own = Some((identity.chain(), identity.key()));
            installed.replace(Credentials { cluster, trust: trust.clone(), own })
        }),
    };
    let authority = AuthorityClient::start(runtime.clone(), authority_options, map.clone(), identity, hooks).await;
    runtime.tasks.spawn(forward_volumes(authority.volumes(), volumes_in));
    mounts.start(volumes, map.changed());
    let peer_port = peer_address.port();
    Ok(Node { config, runtime, stores, mounts, peer_port, admin_port, _locks: prepared._locks })
}

/// The list that the rest of the agent follows: empty until the authority, or the state folder, has told it.
async fn forward_volumes(
    mut from: watch::Receiver<Option<crate::map::Volumes>>,
    to: watch::Sender<crate::origin::Volumes>,
) {
    loop {
        let volumes = from.borrow_and_update().clone();
        if let Some(volumes) = volumes {
            to.send_replace(volumes);
        }
        if from.changed().await.is_err() {
            return;
        }
    }
}

async fn listen(runtime: &Runtime, config: &Config) -> Result<(SocketAddr, Box<dyn Listener>), StartError> {
    let address = SocketAddr::new(config.address, config.ports.peer);
    let listener = runtime.net.listen(address).await.map_err(|error| listen_error("peer", address, error))?;
    Ok((listener.local_addr(), listener))
}

fn listen_error(field: &'static str, address: SocketAddr, error: io::Error) -> StartError {
    match error.kind() {
        io::ErrorKind::AddrInUse => StartError::PortInUse { field, address },
        _ => StartError::Listen { field, address, error },
    }
}

async fn open_stores(runtime: &Runtime, config: &Config, cache_bytes: u64) -> Result<Stores, StartError> {
    let configs: Vec<StoreConfig> = config
        .stores
        .iter()
        .map(|store| StoreConfig {
            name: store.name.to_string(),
            path: store.path.clone(),
            capacity_bytes: store.capacity_bytes,
        })
        .collect();
    let marks = Watermarks::new(config.watermarks.high, config.watermarks.low)
        .expect("the configuration's watermarks keep the same rule");
    // What the cache has read from a store stays in the store's buffers until the cache gives it up.
    let buffers = BufferPool::new(usize::try_from(cache_bytes + STORE_BUFFERS_BYTES).unwrap_or(usize::MAX));
    Ok(Stores::open(runtime, buffers, &config.cache_id, &configs, marks).await?)
}

/// Mounts first, so that no reader sees the rest go; then the stores, so that they are marked clean.
async fn take_apart(node: &Node) {
    tracing::info!("stopping");
    node.remove_ready().await;
    node.mounts.stop().await;
    if tokio::time::timeout(CLOSE_DEADLINE, node.stores.close()).await.is_err() {
        tracing::warn!("the stores didn't close in time; they are verified at the next start");
    }
    if tokio::time::timeout(CLOSE_DEADLINE, node.runtime.tasks.shut_down()).await.is_err() {
        tracing::warn!("not every task has ended in time");
    }
}
