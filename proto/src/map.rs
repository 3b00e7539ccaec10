//! The cluster map: nodes, their states, and the owners of each of 16,384 slots, stamped with an epoch.
//!
//! The table is explicit and never recomputed by its readers. A [`ClusterMap`] that exists is consistent: ids and names
//! are distinct, every slot is there, a slot's owners are distinct nodes of the map. Bytes from a wire or a disk become
//! a map only through [`SignedMap::verify`] or, what changed since another, [`MapDelta::apply`]; the wire layout is in
//! `codec.rs`, the signature in `signed.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::ids::{ClusterId, Epoch, NodeId, NodeName, Slot};
use crate::limits::{ADDRESSES_MAX, DOMAIN_BYTES_MAX, EPOCH_MAX, NODES_MAX, OWNERS_MAX, SLOTS};

mod codec;
mod delta;
mod packed;
mod signed;

pub use delta::MapDelta;
pub use signed::{MapKey, SignedMap, TrustedKeys};

/// What a node does, as the authority sees it. The numbers are part of the wire and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum NodeState {
    /// It has joined; nothing is placed there yet.
    Joining = 1,
    /// It reports and owns slots.
    Serving = 2,
    /// It has been silent, or half of its peers can't reach it: it keeps its slots and leads none of them.
    Suspect = 3,
    /// It reports again after having been Suspect: still no lead, until it has kept reporting.
    Returning = 4,
    /// It is leaving: its slots move to others.
    Draining = 5,
    /// It has been silent for `lossGrace`: its slots are replaced.
    Down = 6,
    /// It owns nothing any more; its entry stays until its agent is gone.
    Gone = 7,
}

impl NodeState {
    /// Every state, in the order of its number.
    pub const ALL: [Self; 7] =
        [Self::Joining, Self::Serving, Self::Suspect, Self::Returning, Self::Draining, Self::Down, Self::Gone];

    /// The number on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The state of a number from the wire.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    /// The stable CamelCase name, used in status, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "Joining",
            Self::Serving => "Serving",
            Self::Suspect => "Suspect",
            Self::Returning => "Returning",
            Self::Draining => "Draining",
            Self::Down => "Down",
            Self::Gone => "Gone",
        }
    }
}

impl std::fmt::Display for NodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a node's doors listen; 0 = not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Between agents.
    pub peer: u16,
    /// The S3 door.
    pub s3: u16,
    /// The Redis door.
    pub redis: u16,
}

/// One node of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number; never reused in this cluster.
    pub id: NodeId,
    /// Its name, as in its certificate.
    pub name: NodeName,
    /// Where it was last seen, the preferred address first. Placement isn't address: a node may have moved since.
    pub addresses: Vec<IpAddr>,
    /// Where its doors listen.
    pub ports: Ports,
    /// Its failure domain; owners of a slot lie in distinct ones where they can.
    pub domain: Arc<str>,
    /// Its share of the slots, relative to the others'; 0 = a client, which owns nothing.
    pub weight: u32,
    /// What it does.
    pub state: NodeState,
}

impl Node {
    /// Where peers reach it, if it has said so.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        let address = self.addresses.first()?;
        (self.ports.peer != 0).then(|| SocketAddr::new(*address, self.ports.peer))
    }
}

/// For a while after a slot has moved, its new owner asks the former one before the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handover {
    /// The slot.
    pub slot: Slot,
    /// Who owned it.
    pub from: NodeId,
}

/// Why bytes are not a map, or a map is not believed. Such a map is dropped and counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The bytes end early.
    #[error("the map ends early, at byte {at}")]
    Truncated {
        /// Where more was needed.
        at: usize,
    },
    /// Bytes follow the end.
    #[error("{bytes} bytes follow the map")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// Another format, or no map at all.
    #[error("this is not a map of a known format")]
    Format,
    /// The packed bytes aren't what they say.
    #[error("the map can't be unpacked")]
    Packed,
    /// A delta over a map that isn't the current one.
    #[error("the delta is over the map of epoch {0}, which isn't the current one")]
    OtherBase(Epoch),
    /// A number is above its limit.
    #[error("{field} is {value}, above its limit")]
    TooLarge {
        /// Which.
        field: Field,
        /// What was said.
        value: u64,
    },
    /// A field has a value that it can't have.
    #[error("{0} has an impossible value")]
    Invalid(Field),
    /// Two nodes have this id or name, or ids don't rise.
    #[error("node {0} is there twice, or out of order")]
    DuplicateNode(NodeId),
    /// A slot names one owner twice.
    #[error("slot {slot:?} names node {node} twice")]
    DuplicateOwner {
        /// The slot.
        slot: Slot,
        /// The owner.
        node: NodeId,
    },
    /// A slot or hand-over names a node that isn't in the map.
    #[error("node {0} isn't in the map")]
    UnknownNode(NodeId),
    /// Not every slot is there.
    #[error("the map covers {0} slots instead of 16,384")]
    Slots(usize),
    /// No trusted key made the signature.
    #[error("the signature is by no trusted key")]
    Forged,
    /// The map of another cluster.
    #[error("the map belongs to cluster {0}")]
    WrongCluster(ClusterId),
}

/// A field of the map, for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The whole.
    Bytes,
    /// The epoch; believed below 2^48.
    Epoch,
    /// The number of nodes.
    Nodes,
    /// A node's name.
    Name,
    /// A node's failure domain.
    Domain,
    /// A node's state.
    State,
    /// A node's addresses.
    Addresses,
    /// The number of distinct lists of owners.
    Rows,
    /// The number of a slot's owners.
    Owners,
    /// A slot's number, or a run of slots.
    Slot,
    /// The number of hand-overs.
    Handovers,
    /// The number of stretches of slots that a delta changes.
    Stretches,
    /// The signature.
    Signature,
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bytes => "the map's size",
            Self::Epoch => "the epoch",
            Self::Nodes => "the number of nodes",
            Self::Name => "a node's name",
            Self::Domain => "a node's failure domain",
            Self::State => "a node's state",
            Self::Addresses => "the number of a node's addresses",
            Self::Rows => "the number of owner lists",
            Self::Owners => "the number of owners",
            Self::Slot => "a slot",
            Self::Handovers => "the number of hand-overs",
            Self::Stretches => "the number of changed stretches of slots",
            Self::Signature => "the signature's length",
        })
    }
}

/// Who owns what, at one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterMap {
    epoch: Epoch,
    cluster: ClusterId,
    nodes: Vec<Node>,
    by_name: BTreeMap<NodeName, usize>,
    /// Distinct lists of owners, in the order of the first slot that has them.
    rows: Vec<Vec<NodeId>>,
    /// For each slot, which row; 16,384 entries.
    slots: Vec<u16>,
    handover: Vec<Handover>,
}

impl ClusterMap {
    /// The map with these owners: one list per slot, in slot order, the lead first. Nodes may come in any order.
    pub fn new(
        epoch: Epoch,
        cluster: ClusterId,
        nodes: Vec<Node>,
        owners: &[impl AsRef<[NodeId]>],
        handover: Vec<Handover>,
    ) -> Result<Self, MapError> {
        let mut rows: Vec<Vec<NodeId>> = Vec::new();
        let mut known: BTreeMap<&[NodeId], u16> = BTreeMap::new();
        let mut slots = Vec::with_capacity(owners.len().min(usize::from(SLOTS)));
        for list in owners.iter().take(usize::from(SLOTS)).map(AsRef::as_ref) {
            let next = u16::try_from(rows.len()).expect("at most one row per slot");
            let row = *known.entry(list).or_insert_with(|| {
                rows.push(list.to_vec());
                next
            });
            slots.push(row);
        }
        if owners.len() != usize::from(SLOTS) {
            return Err(MapError::Slots(owners.len()));
        }
        let mut nodes = nodes;
        nodes.sort_by_key(|node| node.id);
        Self::checked(epoch, cluster, nodes, rows, slots, handover)
    }

    /// The one place where a map comes into being.
    fn checked(
        epoch: Epoch,
        cluster: ClusterId,
        nodes: Vec<Node>,
        rows: Vec<Vec<NodeId>>,
        slots: Vec<u16>,
        mut handover: Vec<Handover>,
    ) -> Result<Self, MapError> {
        if epoch >= EPOCH_MAX {
            return Err(MapError::TooLarge { field: Field::Epoch, value: epoch.0 });
        }
        let by_name = check_nodes(&nodes)?;
        check_rows(&nodes, &rows, &slots)?;
        for entry in &handover {
            find(&nodes, entry.from).ok_or(MapError::UnknownNode(entry.from))?;
        }
        handover.sort_unstable();
        handover.dedup();
        Ok(Self { epoch, cluster, nodes, by_name, rows, slots, handover })
    }

    /// The epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The nodes, by id.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        find(&self.nodes, id)
    }

    /// The node with this name.
    pub fn node_named(&self, name: &NodeName) -> Option<&Node> {
        self.by_name.get(name).map(|index| &self.nodes[*index])
    }

    /// The owners of a slot in order, the lead first. Empty when no node could take it.
    pub fn owners(&self, slot: Slot) -> &[NodeId] {
        &self.rows[usize::from(self.slots[slot.index()])]
    }

    /// The first owner of a slot.
    pub fn lead(&self, slot: Slot) -> Option<NodeId> {
        self.owners(slot).first().copied()
    }

    /// Hand-overs that are still going on, by slot.
    pub fn handover(&self) -> &[Handover] {
        &self.handover
    }

    /// The slot's former owners that are asked before the origin while it is handed over.
    pub fn former(&self, slot: Slot) -> impl Iterator<Item = NodeId> + '_ {
        let first = self.handover.partition_point(|entry| entry.slot < slot);
        self.handover[first..].iter().take_while(move |entry| entry.slot == slot).map(|entry| entry.from)
    }

    /// For each node that owns or leads anything: slots owned and slots led.
    pub fn shares(&self) -> BTreeMap<NodeId, Share> {
        let mut shares: BTreeMap<NodeId, Share> = BTreeMap::new();
        for slot in Slot::all() {
            for (position, owner) in self.owners(slot).iter().enumerate() {
                let share = shares.entry(*owner).or_default();
                share.owned += 1;
                share.led += u32::from(position == 0);
            }
        }
        shares
    }

    /// The same map at another epoch (an authority that has lost its own starts above what agents report).
    pub fn at_epoch(&self, epoch: Epoch) -> Result<Self, MapError> {
        if epoch >= EPOCH_MAX {
            return Err(MapError::TooLarge { field: Field::Epoch, value: epoch.0 });
        }
        Ok(Self { epoch, ..self.clone() })
    }
}

/// How many slots a node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Slots it owns, at any place in their order.
    pub owned: u32,
    /// Slots it is the first owner of.
    pub led: u32,
}

fn find(nodes: &[Node], id: NodeId) -> Option<&Node> {
    nodes.binary_search_by_key(&id, |node| node.id).ok().map(|index| &nodes[index])
}

fn check_nodes(nodes: &[Node]) -> Result<BTreeMap<NodeName, usize>, MapError> {
    if nodes.len() > NODES_MAX {
        return Err(MapError::TooLarge { field: Field::Nodes, value: nodes.len() as u64 });
    }
    let mut by_name = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        let rises = index == 0 || nodes[index - 1].id < node.id;
        if !rises || by_name.insert(node.name.clone(), index).is_some() {
            return Err(MapError::DuplicateNode(node.id));
        }
        if node.domain.len() > DOMAIN_BYTES_MAX {
            return Err(MapError::TooLarge { field: Field::Domain, value: node.domain.len() as u64 });
        }
        if node.addresses.len() > ADDRESSES_MAX {
            return Err(MapError::TooLarge { field: Field::Addresses, value: node.addresses.len() as u64 });
        }
    }
    Ok(by_name)
}

fn check_rows(nodes: &[Node], rows: &[Vec<NodeId>], slots: &[u16]) -> Result<(), MapError> {
    if slots.len() != usize::from(SLOTS) {
        return Err(MapError::Slots(slots.len()));
    }
    for (row, owners) in rows.iter().enumerate() {
        if owners.len() > OWNERS_MAX {
            return Err(MapError::TooLarge { field: Field::Owners, value: owners.len() as u64 });
        }
        let mut seen = BTreeSet::new();
        for owner in owners {
            find(nodes, *owner).ok_or(MapError::UnknownNode(*owner))?;
            if !seen.insert(owner) {
                let first = slots.iter().position(|r| usize::from(*r) == row).and_then(|at| u16::try_from(at).ok());
                let slot = first.and_then(Slot::new).ok_or(MapError::Invalid(Field::Rows))?;
                return Err(MapError::DuplicateOwner { slot, node: *owner });
            }
        }
    }
    if slots.iter().any(|row| usize::from(*row) >= rows.len()) {
        return Err(MapError::Invalid(Field::Rows));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
