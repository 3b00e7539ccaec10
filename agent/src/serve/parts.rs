//! The parts of a serving agent, from the ground up, each made of those before it.

use std::sync::Arc;

use tokio::sync::watch;

use super::below::Members;
use crate::cache::{self, Cache};
use crate::fs::NameRoom;
use crate::fs::names::Homes;
use crate::fuse::{Ops, Passthrough};
use crate::map::MapHolder;
use crate::origin::{Open, Origins, Volumes};
use crate::peer;
use crate::replica::Replicator;
use crate::runtime::Runtime;
use crate::runtime::net::Listener;
use crate::runtime::net::tls::TlsNet;
use crate::store::Stores;

/// What the other parts stand on.
pub(super) struct Ground {
    pub(super) runtime: Runtime,
    pub(super) net: Arc<TlsNet>,
    pub(super) map: MapHolder,
    pub(super) stores: Stores,
    pub(super) passthrough: Passthrough,
    pub(super) volumes: watch::Receiver<Volumes>,
    /// What the agent may use: a quarter for flights (at most what they need), a quarter for names.
    pub(super) memory_bytes: u64,
}

pub(super) struct Parts {
    pub(super) ground: Ground,
    pub(super) peers: peer::Client,
    pub(super) origins: Origins,
    pub(super) cache: Cache,
    pub(super) names: Homes,
    /// Memory for names.
    pub(super) room: Arc<NameRoom>,
    pub(super) ops: Arc<Ops>,
}

impl Parts {
    pub(super) fn new(ground: Ground, open: Arc<dyn Open>) -> Self {
        let Ground { runtime, map, stores, volumes, memory_bytes, .. } = &ground;
        let peers = peer::Client::new(runtime.clone(), Arc::new(Members(map.clone())));
        let origins = Origins::new(runtime.clone(), volumes.clone(), open);
        let maps = Arc::new(map.clone());
        let replicator = Replicator::new(runtime.clone(), stores.clone(), peers.clone(), maps, volumes.clone());
        let cache = Cache::new(
            runtime.clone(),
            stores.clone(),
            peers.clone(),
            origins.clone(),
            replicator,
            cache_bytes(*memory_bytes),
        );
        let room = NameRoom::new(usize::try_from(memory_bytes / 4).unwrap_or(usize::MAX));
        let names = Homes::new(runtime.clone(), map.clone(), peers.clone(), origins.clone(), &room);
        Self { ground, peers, origins, cache, names, room, ops: Arc::default() }
    }

    /// Answers the peers that come to `listener`.
    pub(super) fn serve_peers(&self, listener: Box<dyn Listener>) {
        let runtime = &self.ground.runtime;
        let routes = self.names.routes(peer::ControlRoutes::new());
        let routes = peer::announcements(routes, Arc::new(Members(self.ground.map.clone())));
        let server = peer::Server::new(runtime.clone(), self.peers.clone(), Arc::new(self.cache.clone()), routes);
        runtime.tasks.spawn(server.serve(listener));
    }
}

/// What flights may hold of the agent's memory.
pub(super) fn cache_bytes(memory_bytes: u64) -> u64 {
    (memory_bytes / 4).min(cache::BUDGET_BYTES)
}
