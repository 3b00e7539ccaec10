//! A node that serves: what must stay until the end, what it tells people, and its `ready.json`.

use std::io;
use std::sync::Arc;

use serde_json::{Value, json};

use super::mounts::Mounts;
use super::parts::Parts;
use crate::admin::{DebugPage, Sources};
use crate::cache::Cache;
use crate::config::{Config, Ports};
use crate::map::MapHolder;
use crate::metrics::{self, Metrics};
use crate::peer::Meeting;
use crate::runtime::disk::Lock;
use crate::runtime::{Runtime, process};
use crate::store::Stores;

/// Written into the state folder while the agent serves.
const READY: &str = "ready.json";

pub(super) struct Node {
    pub(super) config: Config,
    pub(super) runtime: Runtime,
    pub(super) stores: Stores,
    pub(super) mounts: Mounts,
    pub(super) ports: Ports,
    pub(super) _locks: Vec<Box<dyn Lock>>,
}

impl Node {
    /// Tells whoever started the agent that its ports answer. Mounts follow once there is a map.
    pub(super) async fn write_ready(&self) -> io::Result<()> {
        let ready = json!({ "pid": process::id(), "adminPort": self.ports.admin, "peerPort": self.ports.peer });
        let file = self.config.state.join(READY);
        tokio::task::block_in_place(|| self.runtime.disk.replace_small(&file, format!("{ready}\n").as_bytes()))
    }

    pub(super) async fn remove_ready(&self) {
        let file = self.config.state.join(READY);
        if let Err(error) = tokio::task::block_in_place(|| self.runtime.disk.unlink(&file)) {
            tracing::warn!(%error, "ready.json can't be removed");
        }
    }
}

/// What the admin port answers.
pub(super) struct Pages {
    map: MapHolder,
    cache: Cache,
    stores: Stores,
    metrics: Metrics,
    meeting: Meeting,
}

impl Pages {
    pub(super) fn new(parts: &Parts, mounts: &Mounts, meeting: Meeting) -> Self {
        let (map, stores, cache) = (parts.ground.map.clone(), parts.ground.stores.clone(), parts.cache.clone());
        let sources = metrics::Sources {
            cache: cache.clone(),
            names: parts.names.clone(),
            stores: stores.clone(),
            origins: parts.origins.clone(),
            peers: parts.peers.clone(),
            map: map.clone(),
            net: parts.ground.net.clone(),
            ops: parts.ops.clone(),
            passthrough: parts.ground.passthrough.clone(),
            trees: mounts.trees(),
            memory_bytes: parts.ground.memory_bytes,
        };
        Self { map, cache, stores, metrics: Metrics::new(Arc::new(sources)), meeting }
    }
}

impl Sources for Pages {
    fn ready(&self) -> Result<(), &'static str> {
        // The stores are open before the admin port is.
        if self.map.current().is_none() {
            return Err("no map yet: waiting for the authority");
        }
        if self.meeting.is_over() { Ok(()) } else { Err("not every serving peer was reached yet") }
    }

    fn metrics(&self) -> String {
        self.metrics.text()
    }

    fn debug(&self, page: DebugPage) -> Value {
        match page {
            DebugPage::Map => self.map_page(),
            DebugPage::Stores => json!({ "stores": self.stores.debug() }),
            DebugPage::Flights => {
                let (held_bytes, budget_bytes) = self.cache.memory();
                json!({
                    "flights": self.cache.flights(),
                    "heldBytes": held_bytes,
                    "budgetBytes": budget_bytes,
                    "counters": self.cache.snapshot(),
                    "copies": self.cache.replicator().snapshot(),
                })
            }
        }
    }
}

impl Pages {
    fn map_page(&self) -> Value {
        let Some(map) = self.map.current() else { return json!({ "epoch": 0, "nodes": [] }) };
        let shares = map.shares();
        let nodes: Vec<Value> = map
            .nodes()
            .iter()
            .map(|node| {
                let share = shares.get(&node.id);
                json!({
                    "id": node.id.0,
                    "name": node.name.as_str(),
                    "state": node.state.as_str(),
                    "domain": *node.domain,
                    "weight": node.weight,
                    "peer": self.map.locate(node.id).and_then(|(_, at)| Some(at.first()?.to_string())),
                    "slots": share.map_or(0, |share| share.owned),
                    "leads": share.map_or(0, |share| share.led),
                })
            })
            .collect();
        json!({
            "cluster": map.cluster().to_string(),
            "epoch": map.epoch().0,
            "heardOfEpoch": self.map.heard().0,
            "this": self.map.self_name().as_str(),
            "handover": map.handover().len(),
            "nodes": nodes,
        })
    }
}
