//! What this node tells the authority each second. From memory only.

use std::sync::Arc;

use larder_proto::control::{
    NodeAddress, NodeReport, OriginState, Passthrough, StoreHealth, StoreReport, VolumeReport,
};
use larder_proto::map::Ports;
use tokio::sync::{Notify, watch};

use super::parts::Parts;
use crate::config::{self, Config};
use crate::fuse::{self, Standing};
use crate::metrics::Trees;
use crate::origin::{Origins, Volumes};
use crate::peer::{Client, Meeting};
use crate::replica::Replicator;
use crate::store::{Health, StoreStatus, Stores};

/// Where this node is from now on.
pub(super) fn own_address(config: &Config, ports: config::Ports, began_ms: u64) -> NodeAddress {
    let ports = Ports { peer: ports.peer, s3: 0, redis: 0 };
    NodeAddress { node: config.node.clone(), addresses: vec![config.address], ports, began_ms }
}

pub(super) struct Reporter {
    own: NodeAddress,
    admin_port: u16,
    meeting: Meeting,
    domain: Arc<str>,
    stores: Stores,
    replicator: Replicator,
    origins: Origins,
    peers: Client,
    trees: Trees,
    passthrough: fuse::Passthrough,
    volumes: watch::Receiver<Volumes>,
}

impl Reporter {
    pub(super) fn new(
        config: &Config,
        (own, admin_port, meeting): (NodeAddress, u16, Meeting),
        parts: &Parts,
        trees: Trees,
    ) -> Self {
        Self {
            own,
            admin_port,
            meeting,
            domain: config.domain.clone(),
            stores: parts.ground.stores.clone(),
            replicator: parts.cache.replicator().clone(),
            origins: parts.origins.clone(),
            peers: parts.peers.clone(),
            trees,
            passthrough: parts.ground.passthrough.clone(),
            volumes: parts.ground.volumes.clone(),
        }
    }

    /// Rung when a report shouldn't wait for its second.
    pub(super) fn news(&self) -> Arc<Notify> {
        self.meeting.news()
    }

    /// The report of this moment; the epoch is the sender's to fill in.
    pub(super) fn report(&self) -> NodeReport {
        NodeReport {
            addresses: self.own.addresses.clone(),
            ports: self.own.ports,
            admin_port: self.admin_port,
            began_ms: self.own.began_ms,
            unmet: self.meeting.unmet(),
            domain: self.domain.clone(),
            stores: self.stores.status().iter().map(store).collect(),
            unreachable: self.peers.unreachable(),
            volumes: self.volumes(),
            passthrough: Some(passthrough(&self.passthrough)),
            offers: self.replicator.offers(),
            ..NodeReport::default()
        }
    }

    fn volumes(&self) -> Vec<VolumeReport> {
        let (volumes, usage, trees) = (self.volumes.borrow().clone(), self.stores.usage(), self.trees.current());
        volumes
            .keys()
            .map(|id| {
                let used = usage.get(id).copied().unwrap_or_default();
                let origin = self.origins.get(*id).map(|origin| origin.snapshot());
                let read_bytes = trees.get(id).map_or(0, |tree| tree.read_bytes());
                let origin_bytes = origin.as_ref().map_or(0, |origin| origin.bytes);
                VolumeReport {
                    id: *id,
                    mounted: trees.contains_key(id),
                    origin: origin.map_or(OriginState::NotAsked, |origin| origin.known),
                    cached_bytes: used.bytes,
                    origin_bytes,
                    read_bytes,
                    objects: used.objects,
                }
            })
            .collect()
    }
}

fn passthrough(of: &fuse::Passthrough) -> Passthrough {
    match of.refusal() {
        None => Passthrough::Active,
        Some(Standing::Kernel) => Passthrough::NoKernel,
        Some(Standing::Capability) => Passthrough::NoCapability,
        Some(Standing::Descriptors) => Passthrough::NoDescriptors,
        Some(Standing::Stacked) => Passthrough::Stacked,
    }
}

fn store(status: &StoreStatus) -> StoreReport {
    StoreReport {
        name: status.name.as_str().into(),
        id: status.id,
        capacity_bytes: status.capacity_bytes,
        used_bytes: status.used_bytes,
        health: match status.health {
            Health::Healthy => StoreHealth::Ok,
            Health::Slow => StoreHealth::Slow,
            Health::Failing => StoreHealth::Fenced,
        },
    }
}
