//! The map's bytes. All numbers are little-endian.
//!
//! | field | bytes | why here |
//! |---|---|---|
//! | cluster | 16 | a foreign map is told apart before anything else is read |
//! | epoch | 8 | so is an old one |
//! | nodes: count, then per node | 4 | owners refer to them, so they come first |
//! | . id, weight | 4 + 4 | |
//! | . state | 1 | |
//! | . ports peer, s3, redis | 2 + 2 + 2 | |
//! | . name, domain: length, UTF-8 | 1 + n, 1 + n | |
//! | . addresses: count, then 4 or 6 and 4 or 16 bytes | 1 + n x (1 + 4 or 16) | |
//! | rows: count, then per row: count, node ids | 4, n x (1 + 4 n) | each distinct list of owners once |
//! | slots: count of runs, then per run: slots, row | 4, n x (2 + 2) | leads are contiguous, so runs are few |
//! | hand-overs: count, then slot, node id | 4, n x (2 + 4) | |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::{ClusterMap, Field, Handover, MapError, Node, NodeState, Ports};
use crate::ids::{ClusterId, Epoch, NodeId, NodeName, Slot};
use crate::limits::{
    ADDRESSES_MAX, DOMAIN_BYTES_MAX, HANDOVERS_MAX, MAP_BYTES_MAX, NODE_NAME_BYTES_MAX, NODES_MAX, OWNERS_MAX, SLOTS,
};

impl ClusterMap {
    /// The bytes that are signed.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + 64 * self.nodes.len() + 9 * self.rows.len());
        out.extend_from_slice(self.cluster.as_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        put_count(&mut out, self.nodes.len());
        for node in &self.nodes {
            put_node(&mut out, node);
        }
        put_count(&mut out, self.rows.len());
        for row in &self.rows {
            put_row(&mut out, row);
        }
        let runs: Vec<&[u16]> = self.slots.chunk_by(|a, b| a == b).collect();
        put_count(&mut out, runs.len());
        for run in runs {
            let len = u16::try_from(run.len()).expect("at most 16,384 slots");
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(&run[0].to_le_bytes());
        }
        put_count(&mut out, self.handover.len());
        for entry in &self.handover {
            put_handover(&mut out, entry);
        }
        out
    }

    /// The map of bytes whose signature was checked; every count is compared with its limit before it allocates.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, MapError> {
        if bytes.len() > MAP_BYTES_MAX {
            return Err(MapError::TooLarge { field: Field::Bytes, value: bytes.len() as u64 });
        }
        let mut reader = Reader::new(bytes);
        let cluster = reader.cluster()?;
        let epoch = reader.epoch()?;
        let count = reader.count(Field::Nodes, NODES_MAX)?;
        let nodes = (0..count).map(|_| reader.node()).collect::<Result<Vec<_>, _>>()?;
        let count = reader.count(Field::Rows, usize::from(SLOTS))?;
        let rows = (0..count).map(|_| reader.row()).collect::<Result<Vec<_>, _>>()?;
        let slots = reader.slots()?;
        let count = reader.count(Field::Handovers, HANDOVERS_MAX)?;
        let handover = (0..count).map(|_| reader.handover()).collect::<Result<Vec<_>, _>>()?;
        reader.end()?;
        Self::checked(epoch, cluster, nodes, rows, slots, handover)
    }
}

pub(super) fn put_row(out: &mut Vec<u8>, row: &[NodeId]) {
    out.push(small(row.len()));
    for owner in row {
        out.extend_from_slice(&owner.0.to_le_bytes());
    }
}

pub(super) fn put_handover(out: &mut Vec<u8>, entry: &Handover) {
    out.extend_from_slice(&u16::try_from(entry.slot.index()).expect("below 16,384").to_le_bytes());
    out.extend_from_slice(&entry.from.0.to_le_bytes());
}

pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("counts of a checked map are below their limits");
    out.extend_from_slice(&count.to_le_bytes());
}

fn small(len: usize) -> u8 {
    u8::try_from(len).expect("limits of short fields are below 256")
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(small(text.len()));
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn put_node(out: &mut Vec<u8>, node: &Node) {
    out.extend_from_slice(&node.id.0.to_le_bytes());
    out.extend_from_slice(&node.weight.to_le_bytes());
    out.push(node.state.code());
    for port in [node.ports.peer, node.ports.s3, node.ports.redis] {
        out.extend_from_slice(&port.to_le_bytes());
    }
    put_text(out, node.name.as_str());
    put_text(out, &node.domain);
    out.push(small(node.addresses.len()));
    for address in &node.addresses {
        match address {
            IpAddr::V4(v4) => {
                out.push(4);
                out.extend_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => {
                out.push(6);
                out.extend_from_slice(&v6.octets());
            }
        }
    }
}

/// Reads what `ClusterMap::encode` and `MapDelta::encode` write.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Nothing may follow.
    pub(super) fn end(self) -> Result<(), MapError> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            bytes => Err(MapError::Trailing { bytes }),
        }
    }

    pub(super) fn cluster(&mut self) -> Result<ClusterId, MapError> {
        Ok(ClusterId::from_slice(self.take(16)?).expect("16 bytes"))
    }

    pub(super) fn epoch(&mut self) -> Result<Epoch, MapError> {
        self.array().map(u64::from_le_bytes).map(Epoch)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], MapError> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..len).ok_or(MapError::Truncated { at: self.at })?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MapError> {
        self.take(N).map(|slice| slice.try_into().expect("N bytes were taken"))
    }

    fn byte(&mut self) -> Result<u8, MapError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, MapError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, MapError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn count(&mut self, field: Field, max: usize) -> Result<usize, MapError> {
        let value = self.u32()?;
        let too_large = MapError::TooLarge { field, value: value.into() };
        usize::try_from(value).ok().filter(|count| *count <= max).ok_or(too_large)
    }

    fn small_count(&mut self, field: Field, max: usize) -> Result<usize, MapError> {
        let count = usize::from(self.byte()?);
        if count > max { Err(MapError::TooLarge { field, value: count as u64 }) } else { Ok(count) }
    }

    fn text(&mut self, field: Field, max: usize) -> Result<&'a str, MapError> {
        let len = self.small_count(field, max)?;
        std::str::from_utf8(self.take(len)?).map_err(|_| MapError::Invalid(field))
    }

    pub(super) fn node(&mut self) -> Result<Node, MapError> {
        let id = NodeId(self.u32()?);
        let weight = self.u32()?;
        let state = NodeState::from_code(self.byte()?).ok_or(MapError::Invalid(Field::State))?;
        let ports = Ports { peer: self.u16()?, s3: self.u16()?, redis: self.u16()? };
        let name = self.text(Field::Name, NODE_NAME_BYTES_MAX)?;
        let name = NodeName::parse(name).ok_or(MapError::Invalid(Field::Name))?;
        let domain = Arc::from(self.text(Field::Domain, DOMAIN_BYTES_MAX)?);
        let count = self.small_count(Field::Addresses, ADDRESSES_MAX)?;
        let addresses = (0..count).map(|_| self.address()).collect::<Result<Vec<_>, _>>()?;
        Ok(Node { id, name, addresses, ports, domain, weight, state })
    }

    fn address(&mut self) -> Result<IpAddr, MapError> {
        match self.byte()? {
            4 => Ok(Ipv4Addr::from(self.array::<4>()?).into()),
            6 => Ok(Ipv6Addr::from(self.array::<16>()?).into()),
            _ => Err(MapError::Invalid(Field::Addresses)),
        }
    }

    pub(super) fn row(&mut self) -> Result<Vec<NodeId>, MapError> {
        let count = self.small_count(Field::Owners, OWNERS_MAX)?;
        (0..count).map(|_| self.u32().map(NodeId)).collect()
    }

    fn slots(&mut self) -> Result<Vec<u16>, MapError> {
        let all = usize::from(SLOTS);
        let runs = self.count(Field::Slot, all)?;
        let mut slots = Vec::with_capacity(all);
        for _ in 0..runs {
            let (len, row) = (usize::from(self.u16()?), self.u16()?);
            if len == 0 {
                return Err(MapError::Invalid(Field::Slot));
            }
            if slots.len() + len > all {
                return Err(MapError::Slots(slots.len() + len));
            }
            slots.resize(slots.len() + len, row);
        }
        Ok(slots)
    }

    pub(super) fn handover(&mut self) -> Result<Handover, MapError> {
        let slot = Slot::new(self.u16()?).ok_or(MapError::Invalid(Field::Slot))?;
        Ok(Handover { slot, from: NodeId(self.u32()?) })
    }
}
