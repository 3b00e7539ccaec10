//! What changed from one map to a later one, with the later one's signature. A way to travel, nothing more: who applies
//! it has the later map's own bytes, and believes them by their signature.
//!
//! | field | bytes | why here |
//! |---|---|---|
//! | magic `LMAD`, format 1 | 4 + 1 | |
//! | the later map's signature: length, ASN.1 | 1 + n | |
//! | length, zstd frame (see `packed.rs`) of what follows | 4 + n | |
//! | cluster, epoch before, epoch after | 16 + 8 + 8 | another base is told apart before anything else is read |
//! | nodes that left: count, ids | 4 + n x 4 | |
//! | nodes that came or changed: count, then each as in a map | 4 + n | |
//! | slots: count of stretches, then per stretch: first, length, owners | 4, n x (2 + 2 + 1 + 4 n) | in slot order |
//! | hand-overs that ended, that began: count, then slot, node id | twice 4, n x (2 + 4) | |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;

use super::codec::{Reader, put_count, put_handover, put_node, put_row};
use super::packed::{pack, unpack};
use super::signed::{check_signature, put_signature, take_signature};
use super::{ClusterMap, Field, Handover, MapError, Node, SignedMap, TrustedKeys};
use crate::ids::{ClusterId, Epoch, NodeId, Slot};
use crate::limits::{HANDOVERS_MAX, MAP_BYTES_MAX, NODES_MAX, SIGNATURE_BYTES_MAX, SLOTS};

const MAGIC: &[u8; 5] = b"LMAD\x01";

/// Neighbouring slots with the same new owners.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    first: Slot,
    len: u16,
    owners: Vec<NodeId>,
}

/// What changed from one map to a later one. Says nothing until it is applied.
#[derive(Clone, PartialEq, Eq)]
#[must_use = "a delta is believed by nobody before it is applied"]
pub struct MapDelta {
    cluster: ClusterId,
    base: Epoch,
    epoch: Epoch,
    pub(super) signature: Bytes,
    left: Vec<NodeId>,
    changed: Vec<Node>,
    stretches: Vec<Stretch>,
    ended: Vec<Handover>,
    began: Vec<Handover>,
}

impl MapDelta {
    /// From `base` to `next`, which is what `signed` says.
    pub fn between(base: &ClusterMap, next: &ClusterMap, signed: &SignedMap) -> Self {
        let handover = |map: &ClusterMap| map.handover.iter().copied().collect::<BTreeSet<_>>();
        let (before, after) = (handover(base), handover(next));
        Self {
            cluster: next.cluster,
            base: base.epoch,
            epoch: next.epoch,
            signature: signed.signature().clone(),
            left: base.nodes.iter().map(|node| node.id).filter(|id| next.node(*id).is_none()).collect(),
            changed: next.nodes.iter().filter(|node| base.node(node.id) != Some(node)).cloned().collect(),
            stretches: stretches(base, next),
            ended: before.difference(&after).copied().collect(),
            began: after.difference(&before).copied().collect(),
        }
    }

    /// The epoch of the map that it was made over.
    pub fn base(&self) -> Epoch {
        self.base
    }

    /// The epoch of the map that it leads to.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The later map, if `base` is what the delta was made over and one of `keys` signed what comes out.
    pub fn apply(&self, base: &ClusterMap, keys: &TrustedKeys) -> Result<(ClusterMap, SignedMap), MapError> {
        if self.cluster != base.cluster {
            return Err(MapError::WrongCluster(self.cluster));
        }
        if self.base != base.epoch {
            return Err(MapError::OtherBase(self.base));
        }
        let mut nodes: BTreeMap<NodeId, &Node> = base.nodes.iter().map(|node| (node.id, node)).collect();
        for id in &self.left {
            nodes.remove(id).ok_or(MapError::UnknownNode(*id))?;
        }
        nodes.extend(self.changed.iter().map(|node| (node.id, node)));
        let mut owners: Vec<&[NodeId]> = Slot::all().map(|slot| base.owners(slot)).collect();
        for stretch in &self.stretches {
            let first = stretch.first.index();
            owners[first..first + usize::from(stretch.len)].fill(&stretch.owners);
        }
        let ended: BTreeSet<&Handover> = self.ended.iter().collect();
        let kept = base.handover.iter().filter(|entry| !ended.contains(entry));
        let handover = kept.chain(&self.began).copied().collect();
        let nodes = nodes.into_values().cloned().collect();
        let map = ClusterMap::new(self.epoch, self.cluster, nodes, &owners, handover)?;
        let payload = map.encode();
        if payload.len() > MAP_BYTES_MAX {
            return Err(MapError::TooLarge { field: Field::Bytes, value: payload.len() as u64 });
        }
        check_signature(&payload, &self.signature, keys)?;
        Ok((map, SignedMap::with(payload.into(), self.signature.clone())))
    }

    /// The bytes for a wire; nothing when there are more than a map may have.
    pub fn encode(&self) -> Option<Bytes> {
        let body = self.encode_body();
        let fits = body.len() <= MAP_BYTES_MAX;
        fits.then(|| [MAGIC, &put_signature(&self.signature)[..], &pack(&body)].concat().into())
    }

    pub(super) fn encode_body(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(self.cluster.as_bytes());
        out.extend_from_slice(&self.base.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        put_count(&mut out, self.left.len());
        for id in &self.left {
            out.extend_from_slice(&id.0.to_le_bytes());
        }
        put_count(&mut out, self.changed.len());
        for node in &self.changed {
            put_node(&mut out, node);
        }
        put_count(&mut out, self.stretches.len());
        for stretch in &self.stretches {
            let first = u16::try_from(stretch.first.index()).expect("below 16,384");
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&stretch.len.to_le_bytes());
            put_row(&mut out, &stretch.owners);
        }
        for entries in [&self.ended, &self.began] {
            put_count(&mut out, entries.len());
            for entry in entries {
                put_handover(&mut out, entry);
            }
        }
        out
    }

    /// What came from a wire; every count is compared with its limit before it allocates.
    pub fn decode(bytes: Bytes) -> Result<Self, MapError> {
        if bytes.len() > MAP_BYTES_MAX + MAGIC.len() + 1 + SIGNATURE_BYTES_MAX {
            return Err(MapError::TooLarge { field: Field::Bytes, value: bytes.len() as u64 });
        }
        if !bytes.starts_with(MAGIC) {
            return Err(MapError::Format);
        }
        let (signature, packed) = take_signature(&bytes, MAGIC.len())?;
        let body = unpack(&packed)?;
        let mut reader = Reader::new(&body);
        let (cluster, base, epoch) = (reader.cluster()?, reader.epoch()?, reader.epoch()?);
        if epoch <= base {
            return Err(MapError::Invalid(Field::Epoch));
        }
        let count = reader.count(Field::Nodes, NODES_MAX)?;
        let left = (0..count).map(|_| reader.u32().map(NodeId)).collect::<Result<_, _>>()?;
        let count = reader.count(Field::Nodes, NODES_MAX)?;
        let changed = (0..count).map(|_| reader.node()).collect::<Result<_, _>>()?;
        let count = reader.count(Field::Stretches, usize::from(SLOTS))?;
        let stretches = (0..count).map(|_| stretch(&mut reader)).collect::<Result<_, _>>()?;
        let mut handovers = || {
            let count = reader.count(Field::Handovers, HANDOVERS_MAX)?;
            (0..count).map(|_| reader.handover()).collect::<Result<Vec<_>, MapError>>()
        };
        let (ended, began) = (handovers()?, handovers()?);
        reader.end()?;
        Ok(Self { cluster, base, epoch, signature, left, changed, stretches, ended, began })
    }
}

impl fmt::Debug for MapDelta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MapDelta({} to {})", self.base, self.epoch)
    }
}

/// One stretch, none of it beyond the last slot.
fn stretch(reader: &mut Reader<'_>) -> Result<Stretch, MapError> {
    let first = Slot::new(reader.u16()?).ok_or(MapError::Invalid(Field::Slot))?;
    let len = reader.u16()?;
    if len == 0 || first.index() + usize::from(len) > usize::from(SLOTS) {
        return Err(MapError::Invalid(Field::Slot));
    }
    Ok(Stretch { first, len, owners: reader.row()? })
}

fn stretches(base: &ClusterMap, next: &ClusterMap) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    for slot in Slot::all() {
        let owners = next.owners(slot);
        if base.owners(slot) == owners {
            continue;
        }
        match found.last_mut() {
            Some(last) if last.first.index() + usize::from(last.len) == slot.index() && last.owners == owners => {
                last.len += 1;
            }
            _ => found.push(Stretch { first: slot, len: 1, owners: owners.to_vec() }),
        }
    }
    found
}
