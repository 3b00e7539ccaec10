//! Between an agent and the map authority: tonic's messages, and what they mean once checked.
//!
//! [`message`] is generated; nothing outside this module and the two ends of the wire touches it. What comes in becomes
//! a [`NodeReport`], a [`Volume`] or nothing: every list is bounded, every id and address parsed.

use std::net::IpAddr;
use std::sync::Arc;

use crate::error::ErrorKind;
use crate::ids::{Epoch, NodeId, StoreId, VolumeId};
use crate::limits::{
    ADDRESSES_MAX, DOMAIN_BYTES_MAX, EPOCH_MAX, NODES_MAX, STORE_NAME_BYTES_MAX, STORES_MAX, VOLUMES_MAX,
};
use crate::map::Ports;
use crate::volume::Volume;

mod volumes;

/// Messages and services as generated from `control.proto`.
#[allow(missing_docs, clippy::all)]
pub mod message {
    tonic::include_proto!("larder.control.v1");
}

/// A field of a message, for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The epoch.
    Epoch,
    /// The addresses.
    Addresses,
    /// The ports.
    Ports,
    /// The failure domain.
    Domain,
    /// A store.
    Store,
    /// The list of nodes that can't be reached.
    Unreachable,
    /// A volume's id.
    Volume,
    /// A volume's chunk size.
    ChunkSize,
    /// A volume's origin.
    Origin,
    /// A volume's freshness.
    Freshness,
    /// A volume's attributes.
    Attributes,
}

/// A message that can't be what it says: a bug or an attack. The stream ends; nothing of it is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message's {0:?} is missing, out of bounds or can't be parsed")]
pub struct BadMessage(pub Field);

/// How a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StoreHealth {
    /// It answers.
    Ok,
    /// It answers late: it loses reads until it recovers.
    Slow,
    /// A sync failed: nothing is written to it any more.
    Fenced,
}

/// One store of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreReport {
    /// Its name in the pool.
    pub name: Arc<str>,
    /// The id on its disk.
    pub id: StoreId,
    /// What it may hold.
    pub capacity_bytes: u64,
    /// What it holds.
    pub used_bytes: u64,
    /// How it is.
    pub health: StoreHealth,
}

/// One volume, as one node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeReport {
    /// Which.
    pub id: VolumeId,
    /// Whether it is mounted here.
    pub mounted: bool,
    /// What is wrong with the origin; none = it answers.
    pub origin: Option<ErrorKind>,
    /// Bytes of it in this node's stores.
    pub cached_bytes: u64,
    /// Bytes this node had from the origin, for whichever node's readers, since the agent began.
    pub origin_bytes: u64,
    /// Bytes read through the doors, since the agent began.
    pub read_bytes: u64,
    /// Objects of which this node holds something.
    pub objects: u64,
}

/// What an agent says each second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeReport {
    /// The epoch it runs on; 0 = none yet.
    pub epoch: Epoch,
    /// Where it is, the preferred address first.
    pub addresses: Vec<IpAddr>,
    /// Where its doors listen.
    pub ports: Ports,
    /// Its admin port.
    pub admin_port: u16,
    /// Its failure domain.
    pub domain: Arc<str>,
    /// Its stores; none = a client.
    pub stores: Vec<StoreReport>,
    /// Nodes it couldn't reach of late.
    pub unreachable: Vec<NodeId>,
    /// Its volumes.
    pub volumes: Vec<VolumeReport>,
}

impl NodeReport {
    /// The report of a message.
    pub fn parse(from: message::Report) -> Result<Self, BadMessage> {
        if Epoch(from.epoch) >= EPOCH_MAX {
            return Err(BadMessage(Field::Epoch));
        }
        bounded(&from.addresses, ADDRESSES_MAX, Field::Addresses)?;
        bounded(&from.stores, STORES_MAX, Field::Store)?;
        bounded(&from.unreachable, NODES_MAX, Field::Unreachable)?;
        bounded(&from.volumes, VOLUMES_MAX, Field::Volume)?;
        if from.domain.len() > DOMAIN_BYTES_MAX {
            return Err(BadMessage(Field::Domain));
        }
        let addresses: Result<Vec<IpAddr>, _> = from.addresses.iter().map(|text| text.parse()).collect();
        let ports = from.ports.unwrap_or_default();
        let port = |number: u32| u16::try_from(number).map_err(|_| BadMessage(Field::Ports));
        Ok(Self {
            epoch: Epoch(from.epoch),
            addresses: addresses.map_err(|_| BadMessage(Field::Addresses))?,
            ports: Ports { peer: port(ports.peer)?, s3: port(ports.s3)?, redis: port(ports.redis)? },
            admin_port: port(ports.admin)?,
            domain: from.domain.into(),
            stores: from.stores.into_iter().map(parse_store).collect::<Result<_, _>>()?,
            unreachable: from.unreachable.into_iter().map(NodeId).collect(),
            volumes: from.volumes.into_iter().map(parse_volume_report).collect::<Result<_, _>>()?,
        })
    }

    /// The message that says it.
    pub fn to_message(&self) -> message::Report {
        let Ports { peer, s3, redis } = self.ports;
        message::Report {
            epoch: self.epoch.0,
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            ports: Some(message::Ports {
                peer: peer.into(),
                s3: s3.into(),
                redis: redis.into(),
                admin: self.admin_port.into(),
            }),
            domain: self.domain.to_string(),
            stores: self.stores.iter().map(store_message).collect(),
            unreachable: self.unreachable.iter().map(|node| node.0).collect(),
            volumes: self.volumes.iter().map(volume_report_message).collect(),
        }
    }
}

/// The volumes of a directive; fails as a whole when one of them is bad.
pub fn parse_volumes(from: message::Volumes) -> Result<Vec<Volume>, BadMessage> {
    bounded(&from.volumes, VOLUMES_MAX, Field::Volume)?;
    from.volumes.into_iter().map(volumes::parse).collect()
}

/// The message that says them. Holds their credentials: for the stream only.
pub fn volumes_message<'a>(volumes: impl IntoIterator<Item = &'a Volume>) -> message::Volumes {
    message::Volumes { volumes: volumes.into_iter().map(volumes::message).collect() }
}

fn bounded<T>(list: &[T], max: usize, field: Field) -> Result<(), BadMessage> {
    if list.len() > max { Err(BadMessage(field)) } else { Ok(()) }
}

fn parse_store(from: message::Store) -> Result<StoreReport, BadMessage> {
    let bad = BadMessage(Field::Store);
    if from.name.len() > STORE_NAME_BYTES_MAX {
        return Err(bad);
    }
    let health = match message::StoreHealth::try_from(from.health).map_err(|_| bad)? {
        message::StoreHealth::Unspecified => return Err(bad),
        message::StoreHealth::Ok => StoreHealth::Ok,
        message::StoreHealth::Slow => StoreHealth::Slow,
        message::StoreHealth::Fenced => StoreHealth::Fenced,
    };
    Ok(StoreReport {
        name: from.name.into(),
        id: StoreId::from_slice(&from.id).ok_or(bad)?,
        capacity_bytes: from.capacity_bytes,
        used_bytes: from.used_bytes,
        health,
    })
}

fn store_message(from: &StoreReport) -> message::Store {
    let health = match from.health {
        StoreHealth::Ok => message::StoreHealth::Ok,
        StoreHealth::Slow => message::StoreHealth::Slow,
        StoreHealth::Fenced => message::StoreHealth::Fenced,
    };
    message::Store {
        name: from.name.to_string(),
        id: from.id.as_bytes().to_vec().into(),
        capacity_bytes: from.capacity_bytes,
        used_bytes: from.used_bytes,
        health: health.into(),
    }
}

fn parse_volume_report(from: message::VolumeReport) -> Result<VolumeReport, BadMessage> {
    Ok(VolumeReport {
        id: VolumeId::from_slice(&from.id).ok_or(BadMessage(Field::Volume))?,
        mounted: from.mounted,
        origin: ErrorKind::from_code(from.origin),
        cached_bytes: from.cached_bytes,
        origin_bytes: from.origin_bytes,
        read_bytes: from.read_bytes,
        objects: from.objects,
    })
}

fn volume_report_message(from: &VolumeReport) -> message::VolumeReport {
    message::VolumeReport {
        id: from.id.as_bytes().to_vec().into(),
        mounted: from.mounted,
        origin: from.origin.map_or(0, ErrorKind::code),
        cached_bytes: from.cached_bytes,
        origin_bytes: from.origin_bytes,
        read_bytes: from.read_bytes,
        objects: from.objects,
    }
}

#[cfg(test)]
mod tests;
