//! What the authority must not forget: node ids and the last map. Both are in the ledger before anybody hears of them.
//!
//! The ids are JSON: names to ids, and the next id; an id is never given twice, also not to a node that left and came
//! back. A stored map that our CA didn't sign, or of another cluster, stops the start or is passed over.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use larder_proto::ids::{ClusterId, Epoch, NodeId, NodeName};
use larder_proto::limits::NODES_MAX;
use larder_proto::map::{ClusterMap, TrustedKeys};
use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use super::{StoredMap, believe};

/// Why the state can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Something can't be read.
    #[error("{place}: {error}")]
    Io {
        /// Where.
        place: String,
        /// Why.
        error: io::Error,
    },
    /// The ids aren't what we write.
    #[error("{place}: {error}")]
    Nodes {
        /// Where.
        place: String,
        /// Where it ends being that.
        error: serde_json::Error,
    },
    /// The map is another cluster's, or signed by another CA.
    #[error("{place}: the map is not of this cluster and CA; remove it to begin anew")]
    Map {
        /// Where.
        place: String,
    },
}

/// What becomes of a stored map that isn't this cluster's, or that its CA didn't sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignMap {
    /// It stops the start: somebody's folder was put in the place of another's.
    Refuse,
    /// It is passed over; the epoch floor says where the next map's epoch goes on.
    Discard,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ids {
    next: u32,
    nodes: BTreeMap<String, u32>,
}

impl Ids {
    /// With those nodes of the map that got their ids later: what was restored from a backup may be older than the map.
    fn with(mut self, map: &ClusterMap) -> Self {
        let known = self.next;
        for node in map.nodes().iter().filter(|node| node.id.0 >= known) {
            self.next = self.next.max(node.id.0.saturating_add(1));
            self.nodes.insert(node.name.as_str().to_owned(), node.id.0);
        }
        self
    }
}

/// Why a node gets no id.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoId {
    #[error("there are {NODES_MAX} nodes already")]
    Full,
    #[error("can't store the node's id: {0}")]
    Io(#[from] io::Error),
}

/// What was found.
pub(super) struct Stored {
    pub(super) map: Option<StoredMap>,
}

pub(super) struct State {
    ledger: Arc<dyn Ledger>,
    ids: Mutex<Ids>,
}

impl State {
    pub(super) fn open(
        ledger: Arc<dyn Ledger>,
        cluster: ClusterId,
        keys: &TrustedKeys,
        foreign: ForeignMap,
    ) -> Result<(Self, Stored), StateError> {
        let place = ledger.place();
        let failed = |error| StateError::Io { place: place.clone(), error };
        let ids: Ids = match ledger.load_ids().map_err(failed)? {
            Some(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| StateError::Nodes { place: place.clone(), error })?
            }
            None => Ids { next: 1, nodes: BTreeMap::new() },
        };
        let map = match ledger.load_map().map_err(failed)? {
            Some(bytes) => {
                let stored = believe(bytes.into(), keys).filter(|(map, _)| map.cluster() == cluster);
                match (stored, foreign) {
                    (Some(stored), _) => Some(stored),
                    (None, ForeignMap::Refuse) => return Err(StateError::Map { place }),
                    (None, ForeignMap::Discard) => {
                        tracing::warn!(place, "the stored map is not of this cluster and CA: it is made anew");
                        None
                    }
                }
            }
            None => None,
        };
        let ids = match &map {
            Some((map, _)) => ids.with(map),
            None => ids,
        };
        Ok((Self { ledger, ids: Mutex::new(ids) }, Stored { map }))
    }

    /// The id of a node, which gets one now if it has none. Blocks on the ledger.
    pub(super) fn id_of(&self, name: &NodeName) -> Result<NodeId, NoId> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = ids.nodes.get(name.as_str()) {
            return Ok(NodeId(*id));
        }
        if ids.nodes.len() >= NODES_MAX {
            return Err(NoId::Full);
        }
        let mut changed = ids.clone();
        let id = changed.next;
        changed.next = id.checked_add(1).ok_or(NoId::Full)?;
        changed.nodes.insert(name.as_str().to_owned(), id);
        self.store_ids(&changed)?;
        *ids = changed;
        Ok(NodeId(id))
    }

    /// The id of a node that has joined.
    pub(super) fn known(&self, name: &NodeName) -> Option<NodeId> {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.nodes.get(name.as_str()).copied().map(NodeId)
    }

    /// The name's id is used up. Blocks on the ledger.
    pub(super) fn forget(&self, name: &NodeName) -> io::Result<()> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = ids.clone();
        if changed.nodes.remove(name.as_str()).is_some() {
            self.store_ids(&changed)?;
            *ids = changed;
        }
        Ok(())
    }

    fn store_ids(&self, ids: &Ids) -> io::Result<()> {
        self.ledger.store_ids(&serde_json::to_vec_pretty(ids)?)
    }

    /// Blocks on the ledger.
    pub(super) fn store_map(&self, signed: &[u8], epoch: Epoch) -> io::Result<()> {
        self.ledger.store_map(signed, epoch)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use larder_proto::limits::SLOTS;
    use larder_proto::map::{Node, NodeState, Ports};

    use super::super::ledger::FolderLedger;
    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::parse(text).expect("a name")
    }

    fn open(folder: &Path) -> Result<State, StateError> {
        let keys = TrustedKeys::from_spkis([]);
        let ledger = Arc::new(FolderLedger::open(folder.to_owned()).expect("a folder"));
        State::open(ledger, ClusterId::of("a/a"), &keys, ForeignMap::Refuse).map(|(state, _)| state)
    }

    #[test]
    fn ids_outlive_a_restart_and_are_never_reused() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = open(folder.path()).expect("opens");
        let first = state.id_of(&name("n1")).expect("stored");
        let second = state.id_of(&name("n2")).expect("stored");
        assert_ne!(first, second);
        state.forget(&name("n2")).expect("stored");
        let state = open(folder.path()).expect("opens");
        assert_eq!(state.id_of(&name("n1")).expect("known"), first);
        assert_eq!(state.known(&name("n2")), None);
        assert!(state.id_of(&name("n2")).expect("stored") > second);
    }

    #[test]
    fn ids_older_than_the_map_give_no_id_twice() {
        let node = |id, text: &str| Node {
            id: NodeId(id),
            name: name(text),
            addresses: Vec::new(),
            ports: Ports::default(),
            domain: text.into(),
            weight: 1,
            state: NodeState::Serving,
        };
        let nodes = vec![node(1, "n1"), node(2, "removed"), node(3, "n3"), node(4, "n4")];
        let owners = vec![[NodeId(1)]; usize::from(SLOTS)];
        let map = ClusterMap::new(Epoch(9), ClusterId::of("a/a"), nodes, &owners, Vec::new()).expect("sound");
        let ids = Ids { next: 3, nodes: BTreeMap::from([("n1".to_owned(), 1)]) }.with(&map);
        assert_eq!(ids.next, 5);
        let expected = [("n1".to_owned(), 1), ("n3".to_owned(), 3), ("n4".to_owned(), 4)];
        assert_eq!(ids.nodes, BTreeMap::from(expected), "what was removed stays so");
    }

    #[test]
    fn broken_state_stops_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("map"), b"LMAP").expect("written");
        assert!(matches!(open(folder.path()), Err(StateError::Map { .. })));
        let (keys, ledger) =
            (TrustedKeys::from_spkis([]), FolderLedger::open(folder.path().to_owned()).expect("a folder"));
        let opened = State::open(Arc::new(ledger), ClusterId::of("a/a"), &keys, ForeignMap::Discard);
        assert!(opened.is_ok_and(|(_, stored)| stored.map.is_none()), "or is passed over, where that is asked for");
        fs::remove_file(folder.path().join("map")).expect("removed");
        fs::write(folder.path().join("nodes.json"), b"{}").expect("written");
        assert!(matches!(open(folder.path()), Err(StateError::Nodes { .. })));
    }
}
