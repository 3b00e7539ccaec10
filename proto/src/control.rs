//! Between an agent and the map authority, and between agents that say where they are: tonic's messages, and what they
//! mean once checked.
//!
//! [`message`] is generated; nothing outside this module and the two ends of the wire touches it. What comes in becomes
//! a [`NodeReport`], a [`NodeAddress`], a [`Volume`] or nothing: every list is bounded, every id and address parsed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::error::ErrorKind;
use crate::ids::{Epoch, NodeId, NodeName, StoreId, VolumeId};
use crate::limits::{
    ADDRESSES_MAX, DOMAIN_BYTES_MAX, EPOCH_MAX, NODES_MAX, STORE_NAME_BYTES_MAX, STORES_MAX, TRUST_ANCHORS_MAX,
    VOLUMES_MAX,
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
    /// The list of nodes that were not reached yet.
    Unmet,
    /// The list of CA certificates.
    Trusted,
    /// A node's name, or the list of nodes.
    Node,
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
    /// Whether a volume's chunks are kept where they are read.
    LocalCopies,
    /// What of a volume is worth keeping.
    Keeping,
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

/// Whether the kernel reads whole local files past the agent, or why it doesn't, or not all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Passthrough {
    /// It does.
    Active,
    /// The kernel can't: it is older than 6.9, or built without.
    NoKernel,
    /// The agent lacks CAP_SYS_ADMIN in the initial user namespace.
    NoCapability,
    /// The share of descriptors is used up.
    NoDescriptors,
    /// A store lies on file systems stacked too deep.
    Stacked,
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

/// What a node knows of a volume's origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OriginState {
    /// It hasn't been asked yet.
    #[default]
    NotAsked,
    /// It answers.
    Answers,
    /// What went wrong with the last request.
    Fails(ErrorKind),
}

/// One volume, as one node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeReport {
    /// Which.
    pub id: VolumeId,
    /// Whether it is mounted here.
    pub mounted: bool,
    /// What this node knows of the origin.
    pub origin: OriginState,
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
    /// When it began, in milliseconds since 1970 by its own clock.
    pub began_ms: u64,
    /// Serving nodes that it has not reached since it began.
    pub unmet: Vec<NodeId>,
    /// Passthrough; nothing when it doesn't say.
    pub passthrough: Option<Passthrough>,
    /// How far it has handed what it has to whom the map gives it.
    pub offers: OffersReport,
    /// The epoch of a stored map that no CA in its trust signed; 0 = none. Epochs go on above it.
    pub former_epoch: Epoch,
    /// The CA certificates that it trusts now.
    pub trusted: Vec<AnchorDigest>,
}

/// Names a CA certificate: the first 8 bytes of the SHA-256 of its DER.
pub type AnchorDigest = [u8; 8];

/// How far a node has offered what it has to its owners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffersReport {
    /// The highest epoch as of which everything here was offered to all its owners; 0 = none yet.
    pub settled: Epoch,
    /// Copies that owners lack and that this node could give, as far as it knows.
    pub lacking: u64,
    /// Of the offers that are going on: chunks here; 0 when none are.
    pub all: u64,
    /// And those that were looked at.
    pub done: u64,
}

/// Where a node is, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// Which.
    pub node: NodeName,
    /// Its addresses, the preferred one first.
    pub addresses: Vec<IpAddr>,
    /// Where its doors listen.
    pub ports: Ports,
    /// When its agent began, in milliseconds since 1970 by its own clock: of two answers the later one counts.
    pub began_ms: u64,
}

impl NodeAddress {
    /// The address of a message.
    pub fn parse(from: message::NodeAddress) -> Result<Self, BadMessage> {
        Ok(Self {
            node: NodeName::parse(&from.node).ok_or(BadMessage(Field::Node))?,
            addresses: parse_addresses(&from.addresses)?,
            ports: parse_ports(from.ports.unwrap_or_default())?,
            began_ms: from.began_ms,
        })
    }

    /// The message that says it.
    pub fn to_message(&self) -> message::NodeAddress {
        message::NodeAddress {
            node: self.node.as_str().to_owned(),
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            ports: Some(ports_message(self.ports, 0)),
            began_ms: self.began_ms,
        }
    }

    /// Where peers reach it, the preferred address first.
    pub fn peer_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let port = self.ports.peer;
        self.addresses.iter().filter(move |_| port != 0).map(move |address| SocketAddr::new(*address, port))
    }
}

/// The addresses of a message; fails as a whole when one of them is bad.
pub fn parse_whereabouts(from: message::Whereabouts) -> Result<Vec<NodeAddress>, BadMessage> {
    bounded(&from.nodes, NODES_MAX, Field::Node)?;
    from.nodes.into_iter().map(NodeAddress::parse).collect()
}

/// The message that says them.
pub fn whereabouts_message<'a>(nodes: impl IntoIterator<Item = &'a NodeAddress>) -> message::Whereabouts {
    message::Whereabouts { nodes: nodes.into_iter().map(NodeAddress::to_message).collect() }
}

impl NodeReport {
    /// The report of a message.
    pub fn parse(from: message::Report) -> Result<Self, BadMessage> {
        if Epoch(from.epoch.max(from.settled_epoch).max(from.former_epoch)) >= EPOCH_MAX {
            return Err(BadMessage(Field::Epoch));
        }
        bounded(&from.stores, STORES_MAX, Field::Store)?;
        bounded(&from.unreachable, NODES_MAX, Field::Unreachable)?;
        bounded(&from.unmet, NODES_MAX, Field::Unmet)?;
        bounded(&from.trusted, TRUST_ANCHORS_MAX, Field::Trusted)?;
        bounded(&from.volumes, VOLUMES_MAX, Field::Volume)?;
        if from.domain.len() > DOMAIN_BYTES_MAX {
            return Err(BadMessage(Field::Domain));
        }
        let ports = from.ports.unwrap_or_default();
        Ok(Self {
            epoch: Epoch(from.epoch),
            addresses: parse_addresses(&from.addresses)?,
            admin_port: parse_port(ports.admin)?,
            ports: parse_ports(ports)?,
            domain: from.domain.into(),
            stores: from.stores.into_iter().map(parse_store).collect::<Result<_, _>>()?,
            unreachable: from.unreachable.into_iter().map(NodeId).collect(),
            volumes: from.volumes.into_iter().map(parse_volume_report).collect::<Result<_, _>>()?,
            began_ms: from.began_ms,
            unmet: from.unmet.into_iter().map(NodeId).collect(),
            passthrough: parse_passthrough(from.passthrough),
            offers: OffersReport {
                settled: Epoch(from.settled_epoch),
                lacking: from.copies_lacking,
                all: from.offers,
                done: from.offered,
            },
            former_epoch: Epoch(from.former_epoch),
            trusted: from.trusted.iter().map(|digest| parse_digest(digest)).collect::<Result<_, _>>()?,
        })
    }

    /// The message that says it.
    pub fn to_message(&self) -> message::Report {
        message::Report {
            epoch: self.epoch.0,
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            ports: Some(ports_message(self.ports, self.admin_port)),
            domain: self.domain.to_string(),
            stores: self.stores.iter().map(store_message).collect(),
            unreachable: self.unreachable.iter().map(|node| node.0).collect(),
            volumes: self.volumes.iter().map(volume_report_message).collect(),
            began_ms: self.began_ms,
            unmet: self.unmet.iter().map(|node| node.0).collect(),
            passthrough: passthrough_message(self.passthrough).into(),
            settled_epoch: self.offers.settled.0,
            copies_lacking: self.offers.lacking,
            offers: self.offers.all,
            offered: self.offers.done,
            former_epoch: self.former_epoch.0,
            trusted: self.trusted.iter().map(|digest| digest.to_vec().into()).collect(),
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

fn parse_digest(from: &[u8]) -> Result<AnchorDigest, BadMessage> {
    from.try_into().map_err(|_| BadMessage(Field::Trusted))
}

fn bounded<T>(list: &[T], max: usize, field: Field) -> Result<(), BadMessage> {
    if list.len() > max { Err(BadMessage(field)) } else { Ok(()) }
}

fn parse_addresses(from: &[String]) -> Result<Vec<IpAddr>, BadMessage> {
    bounded(from, ADDRESSES_MAX, Field::Addresses)?;
    let addresses: Result<Vec<IpAddr>, _> = from.iter().map(|text| text.parse()).collect();
    addresses.map_err(|_| BadMessage(Field::Addresses))
}

fn parse_port(number: u32) -> Result<u16, BadMessage> {
    u16::try_from(number).map_err(|_| BadMessage(Field::Ports))
}

fn parse_ports(from: message::Ports) -> Result<Ports, BadMessage> {
    Ok(Ports { peer: parse_port(from.peer)?, s3: parse_port(from.s3)?, redis: parse_port(from.redis)? })
}

fn ports_message(Ports { peer, s3, redis }: Ports, admin: u16) -> message::Ports {
    message::Ports { peer: peer.into(), s3: s3.into(), redis: redis.into(), admin: admin.into() }
}

/// What isn't known isn't said: a newer agent's word is no reason to end its stream.
fn parse_passthrough(from: i32) -> Option<Passthrough> {
    match message::Passthrough::try_from(from).ok()? {
        message::Passthrough::Unspecified => None,
        message::Passthrough::Active => Some(Passthrough::Active),
        message::Passthrough::NoKernel => Some(Passthrough::NoKernel),
        message::Passthrough::NoCapability => Some(Passthrough::NoCapability),
        message::Passthrough::NoDescriptors => Some(Passthrough::NoDescriptors),
        message::Passthrough::Stacked => Some(Passthrough::Stacked),
    }
}

fn passthrough_message(from: Option<Passthrough>) -> message::Passthrough {
    match from {
        None => message::Passthrough::Unspecified,
        Some(Passthrough::Active) => message::Passthrough::Active,
        Some(Passthrough::NoKernel) => message::Passthrough::NoKernel,
        Some(Passthrough::NoCapability) => message::Passthrough::NoCapability,
        Some(Passthrough::NoDescriptors) => message::Passthrough::NoDescriptors,
        Some(Passthrough::Stacked) => message::Passthrough::Stacked,
    }
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
        origin: match (from.origin_asked, from.origin) {
            (false, _) => OriginState::NotAsked,
            (true, code) => ErrorKind::from_code(code).map_or(OriginState::Answers, OriginState::Fails),
        },
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
        origin: match from.origin {
            OriginState::NotAsked | OriginState::Answers => 0,
            OriginState::Fails(kind) => kind.code(),
        },
        origin_asked: from.origin != OriginState::NotAsked,
        cached_bytes: from.cached_bytes,
        origin_bytes: from.origin_bytes,
        read_bytes: from.read_bytes,
        objects: from.objects,
    }
}

#[cfg(test)]
mod tests;
