//! Puts the agent together from its configuration, serves, and takes it apart again.
//!
//! Owns the order: what can be refused is refused before anything is made; ports are taken before stores are opened,
//! stores are open before peers may ask; mounts come last and go first.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use larder_proto::identity::{Identity, Trust};
use larder_proto::ids::ClusterId;
use tokio::sync::watch;

use crate::config::{self, CONFIG_BYTES_MAX, Capacity, Config, Overrides};
use crate::fs::Numbers;
use crate::fuse::Passthrough;
use crate::map::{AuthorityClient, AuthorityOptions, Hooks, MapHolder, NodeIdentity};
use crate::origin::{RealOrigins, Volumes, probe};
use crate::runtime::clock::RealClock;
use crate::runtime::disk::{BufferPool, RealDisk};
use crate::runtime::net::tls::{Credentials, TlsNet};
use crate::runtime::{Clock, Runtime, mounts as system, process};
use crate::store::{OpenError, StoreConfig, Stores, Watermarks};

pub(crate) mod below;
mod mounts;
mod node;
mod parts;
mod ports;
mod refuse;
mod report;
mod trust;

pub use refuse::StartError;

use mounts::Mounts;
use node::{Node, Pages};
use parts::{Ground, Parts, cache_bytes};
use refuse::{Prepared, prepare};
use report::Reporter;

/// Memory through which stores read for peers and copies, besides what the cache keeps of it: 32 segments of 1 MiB.
const STORE_BUFFERS_BYTES: u64 = 32 * 1024 * 1024;

/// How long closing may take; after it the stores are marked unclean and verified at the next start.
const CLOSE_DEADLINE: Duration = Duration::from_secs(15);

/// Reads and checks the configuration.
pub fn read_config(file: &Path, overrides: &Overrides) -> Result<Config, StartError> {
    let text = process::read_text(file, CONFIG_BYTES_MAX)
        .map_err(|error| StartError::ConfigFile { file: file.to_owned(), error })?;
    Ok(Config::parse(file, &text, overrides)?)
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(config: Config) -> Result<(), StartError> {
    let stop = process::asked_to_stop()?;
    // It may wait for the mounter.
    let prepared = tokio::task::block_in_place(|| prepare(&config))?;
    let node = assemble(config, prepared).await?;
    let ready = node.write_ready().await;
    tracing::info!(node = %node.config.node, peer_port = node.ports.peer, admin_port = node.ports.admin, "serving");
    if ready.is_ok() {
        stop.await;
    }
    take_apart(&node).await;
    Ok(ready?)
}

async fn assemble(config: Config, prepared: Prepared) -> Result<Node, StartError> {
    let Prepared { trust, descriptors, locks, hands } = prepared;
    let (identity, net) = identify(&config, &trust)?;
    let runtime = Runtime::real(net.clone());
    let numbers = Arc::new(Numbers::begin(runtime.disk.as_ref(), &config.state)?);
    let real_origins = Arc::new(RealOrigins::new(&runtime)?);
    let (listener, admin, ports) = ports::take(&runtime, &config).await?;
    let disks: Vec<StoreConfig> =
        config.stores.iter().map(|store| store_config(&runtime, store)).collect::<Result<_, _>>()?;
    let store_bytes = disks.iter().fold(0, |sum: u64, store| sum.saturating_add(store.capacity_bytes));
    let memory_bytes = config.memory_bytes.unwrap_or_else(|| process::memory_budget_bytes(store_bytes));
    let stores = open_stores(&runtime, &config, &disks, cache_bytes(memory_bytes)).await?;

    // Nothing is refused from here on.
    let map = MapHolder::open(&runtime, &config.state, config.cluster, config.node.clone(), trust.keys().clone()).await;
    let (volumes_in, volumes) = watch::channel(Volumes::default());
    let passthrough = passthrough(&runtime, &config, &stores, descriptors);
    let ground = Ground { runtime: runtime.clone(), net, map, stores, passthrough, volumes, memory_bytes };
    let parts = Parts::new(ground, real_origins);
    parts.serve_peers(listener);
    let own = report::own_address(&config, ports, runtime.clock.wall_ms());
    let meeting = parts.peers.announce(own.clone(), parts.ground.map.changed());
    let news = meeting.news();
    let mounts = Mounts::new((config.mounts.clone(), hands), numbers, &parts, news.clone());
    admin.serve(&runtime, Arc::new(Pages::new(&parts, &mounts, meeting.clone())));
    let reporter = Reporter::new(&config, (own, ports.admin, meeting), &parts, mounts.trees());
    let authority = converse(&config, trust, identity, &parts, reporter).await;
    runtime.tasks.spawn(forward_volumes(authority.volumes(), volumes_in));
    runtime.tasks.spawn(trust::follow(runtime.clone(), config.trust.clone(), authority));
    let (origins, volumes) = (parts.origins.clone(), parts.ground.volumes.clone());
    runtime.tasks.spawn(probe(runtime.clone(), origins, volumes, news));
    mounts.start(parts.ground.volumes.clone(), parts.ground.map.changed());
    Ok(Node { config, runtime, stores: parts.ground.stores, mounts, ports, _locks: locks })
}

/// Who this node is so far, and the net that shows it.
fn identify(config: &Config, trust: &Trust) -> Result<(Option<NodeIdentity>, Arc<TlsNet>), StartError> {
    let own = Identity::Node(config.cluster, config.node.clone());
    let loaded = NodeIdentity::load(&RealDisk, &config.state, &own, trust, RealClock.wall_ms());
    let identity = loaded.unwrap_or_else(|error| {
        tracing::warn!(%error, "the stored certificate can't be used; joining anew");
        None
    });
    let net = TlsNet::new(credentials(config.cluster, trust, identity.as_ref()))
        .map_err(|error| StartError::Tls { state: config.state.clone(), error })?;
    Ok((identity, Arc::new(net)))
}

fn credentials(cluster: ClusterId, trust: &Trust, identity: Option<&NodeIdentity>) -> Credentials {
    let own = identity.map(|identity| (identity.chain(), identity.key()));
    Credentials { cluster, trust: trust.clone(), own }
}

/// Begins the conversation with the authority.
async fn converse(
    config: &Config,
    trust: Trust,
    identity: Option<NodeIdentity>,
    parts: &Parts,
    reporter: Reporter,
) -> AuthorityClient {
    let options = AuthorityOptions {
        address: config.authority.clone(),
        cluster: config.cluster,
        name: config.node.clone(),
        trust,
        token: config.token.clone(),
        state: config.state.clone(),
    };
    let (cluster, net) = (config.cluster, parts.ground.net.clone());
    let hooks = Hooks {
        news: reporter.news(),
        report: Box::new(move || reporter.report()),
        install: Box::new(move |identity, trust| net.replace(credentials(cluster, trust, identity))),
    };
    let Ground { runtime, map, .. } = &parts.ground;
    AuthorityClient::start(runtime.clone(), options, map.clone(), identity, hooks).await
}

/// The list that the rest of the agent follows: empty until the authority, or the state folder, has told it.
async fn forward_volumes(mut from: watch::Receiver<Option<crate::map::Volumes>>, to: watch::Sender<Volumes>) {
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

async fn open_stores(
    runtime: &Runtime,
    config: &Config,
    disks: &[StoreConfig],
    cache_bytes: u64,
) -> Result<Stores, StartError> {
    let marks = Watermarks::new(config.watermarks.high, config.watermarks.low)
        .expect("the configuration's watermarks keep the same rule");
    // What the cache has read from a store stays in the store's buffers until the cache gives it up.
    let buffers = BufferPool::new(usize::try_from(cache_bytes + STORE_BUFFERS_BYTES).unwrap_or(usize::MAX));
    Ok(Stores::open(runtime, buffers, &config.cache_id, disks, marks).await?)
}

/// A store with its capacity in bytes, of the disk that it lies on.
fn store_config(runtime: &Runtime, store: &config::Store) -> Result<StoreConfig, OpenError> {
    let (name, path) = (store.name.to_string(), store.path.clone());
    let space = tokio::task::block_in_place(|| runtime.disk.space(&path));
    let disk_bytes = match space {
        Ok(space) => space.total_bytes,
        Err(source) => return Err(OpenError::Io { name, path, source }),
    };
    match (store.bytes_of(disk_bytes), store.capacity) {
        (Ok(capacity_bytes), _) => Ok(StoreConfig { name, path, capacity_bytes }),
        (Err(usable), Capacity::Bytes(capacity_bytes)) => {
            Err(OpenError::TooLarge { name, path, capacity_bytes, disk_bytes: usable })
        }
        (Err(usable), Capacity::Percent(_)) => Ok(StoreConfig { name, path, capacity_bytes: usable }),
    }
}

/// What the kernel may have of the stores' files: half of the descriptors that the agent doesn't need to serve at all.
fn passthrough(runtime: &Runtime, config: &Config, stores: &Stores, descriptors: u64) -> Passthrough {
    let files_max = descriptors.saturating_sub(process::DESCRIPTORS_MIN) / 2;
    // One that can't be asked isn't followed deeper: the kernel says so when it is given a file of it.
    let stacked = config.stores.iter().any(|store| system::is_stacked(&store.path).unwrap_or(false));
    Passthrough::new(runtime.clone(), stores.clone(), files_max, stacked)
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
