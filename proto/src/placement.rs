//! Where things are placed: which slot a thing hashes to, and which nodes own each slot. Pure.
//!
//! Slots are alike on every node: xxh3_64 with seed 0, modulo 16,384. Owners are planned by the map authority alone
//! ([`next_map`]) and travel as an explicit table; nobody else computes them.

use xxhash_rust::xxh3::Xxh3;

use crate::ids::{Slot, VolumeId};
use crate::map::{ClusterMap, MapError};
use crate::object::{DirPath, ObjectKey, Version};

mod facts;
mod handover;
mod leads;
mod owners;
mod plan;
mod quota;

pub use facts::{Facts, NodeFact};

/// The map that follows from what is known, or nothing when the current one still says it all.
///
/// Pure; the order of `facts.nodes` doesn't matter. `now_ms` is any clock that `NodeFact::joined_ms` was read from.
/// Nodes with weight that are Serving, Suspect or Returning own slots; no first map comes before `min_nodes` of them
/// serve. Newcomers, and nodes that the current map has as Down or Gone, enter once they serve and nobody else has come for
/// 5 s (30 s while more keep coming). Who isn't Serving keeps slots, and takes one only where all who serve own it already. While nobody serves, all
/// slots stay where they are, also with Draining nodes; those of nodes that are lost go to who is Returning, else Draining,
/// else Suspect; and a node that is lost keeps slots only when there is none of these. Else it holds, in this order of
/// precedence:
///
/// 1. a slot's owners are distinct, and as many as `width` asks or nodes there are;
/// 2. no node is above 1.25 x its weight's share, unless (1), or that others take no slots, forces it;
/// 3. owners of a slot lie in distinct failure domains, as far as (2) leaves room and swaps of two slots find it;
/// 4. every node is within 5 % or one slot of its quota (its share, bent by (1) to (3)), where (3) lets it;
///    (3) and (4) are kept up by those who serve: while others don't, as far as those can;
/// 5. one node that comes or goes moves at most 1.1 x what its quota asks;
/// 6. Suspect owners come last, Returning ones don't lead; while all nodes serve, leads are within 10 % or one slot of
///    their share where the owners allow it;
/// 7. a first map has one run of slots per lead; up to eight nodes, joins and suspicions keep at most 8 per node on
///    average. Larger clusters with a long history can have more: membership itself is in pieces then.
///
/// A slot that loses an owner that can still give names it as its former one (`handover`), until the facts say that this
/// is over: with everybody's owners as they were, such a map moves nothing.
///
/// The same facts twice give no second map; nor does a node that is somewhere else now.
///
/// Fails when no map can say what the facts are: epochs or nodes above their limits, two nodes with one name.
pub fn next_map(current: Option<&ClusterMap>, facts: &Facts, now_ms: u64) -> Result<Option<ClusterMap>, MapError> {
    plan::next_map(current, facts, now_ms)
}

/// The slot of run `run` (`index / 4`) of an object's chunks.
pub fn slot_of_chunk(volume: VolumeId, key: &ObjectKey, version: &Version, run: u32) -> Slot {
    slot_of(&[volume.as_bytes(), key.as_str().as_bytes(), version.as_str().as_bytes(), &run.to_le_bytes()])
}

/// The slot whose lead is a directory's home.
pub fn slot_of_directory(volume: VolumeId, path: &DirPath) -> Slot {
    slot_of(&[volume.as_bytes(), path.as_str().as_bytes()])
}

fn slot_of(fields: &[&[u8]]) -> Slot {
    let mut hasher = Xxh3::new();
    for field in fields {
        let len = u32::try_from(field.len()).expect("hashed fields are bounded far below 4 GiB");
        hasher.update(&len.to_le_bytes());
        hasher.update(field);
    }
    Slot::of_hash(hasher.digest())
}

#[cfg(test)]
mod tests;
