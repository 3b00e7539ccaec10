//! What the authority must not forget: node ids and the last map. Both are on disk before anybody hears of them.
//!
//! `nodes.json` maps names to ids and holds the next id; an id is never given twice, also not to a node that left and
//! came back. `map` is the last signed map; one that our CA didn't sign, or of another cluster, stops the start.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use larder_proto::ids::{ClusterId, NodeId, NodeName};
use larder_proto::limits::{MAP_BYTES_MAX, NODES_MAX};
use larder_proto::map::TrustedKeys;
use serde::{Deserialize, Serialize};

use super::{StoredMap, believe};

const NODES: &str = "nodes.json";
const MAP: &str = "map";

/// A file of ours is never larger: a map and its signature are the largest.
const FILE_BYTES_MAX: u64 = MAP_BYTES_MAX as u64 + 64 * 1024;

/// Why the state can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file can't be read or written.
    #[error("{}: {error}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// `nodes.json` isn't what we write.
    #[error("{}: {error}", file.display())]
    Nodes {
        /// The file.
        file: PathBuf,
        /// Where it ends being that.
        error: serde_json::Error,
    },
    /// The map is another cluster's, or signed by another CA.
    #[error("{}: the map is not of this cluster and CA; remove the folder to begin anew", file.display())]
    Map {
        /// The file.
        file: PathBuf,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ids {
    next: u32,
    nodes: BTreeMap<String, u32>,
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
    folder: PathBuf,
    ids: Mutex<Ids>,
}

impl State {
    pub(super) fn open(folder: PathBuf, cluster: ClusterId, keys: &TrustedKeys) -> Result<(Self, Stored), StateError> {
        let failed = |file: &Path| {
            let file = file.to_owned();
            move |error| StateError::Io { file, error }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed(&folder))?;
        let file = folder.join(NODES);
        let ids = match read_bounded(&file).map_err(failed(&file))? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| StateError::Nodes { file, error })?,
            None => Ids { next: 1, nodes: BTreeMap::new() },
        };
        let file = folder.join(MAP);
        let map = match read_bounded(&file).map_err(failed(&file))? {
            Some(bytes) => {
                let stored = believe(bytes.into(), keys).filter(|(map, _)| map.cluster() == cluster);
                Some(stored.ok_or(StateError::Map { file })?)
            }
            None => None,
        };
        Ok((Self { folder, ids: Mutex::new(ids) }, Stored { map }))
    }

    /// The id of a node, which gets one now if it has none. Blocks on an fsync.
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

    /// The name's id is used up. Blocks on an fsync.
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
        write_durably(&self.folder.join(NODES), &serde_json::to_vec_pretty(ids)?)
    }

    /// Blocks on an fsync.
    pub(super) fn store_map(&self, signed: &[u8]) -> io::Result<()> {
        write_durably(&self.folder.join(MAP), signed)
    }
}

/// A file's bytes, at most 4 MiB and a bit; nothing when it doesn't exist.
pub(super) fn read_bounded(file: &Path) -> io::Result<Option<Vec<u8>>> {
    let opened = match fs::File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(Some(bytes)) }
}

/// Replaces a file (0600) so that a crash leaves the old or the new one; makes its folder (0700).
pub(super) fn write_durably(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let aside = file.with_extension("new");
    let mut written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    written.write_all(bytes)?;
    written.sync_all()?;
    fs::rename(&aside, file)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::parse(text).expect("a name")
    }

    fn open(folder: &Path) -> Result<State, StateError> {
        let keys = TrustedKeys::from_spkis([]);
        State::open(folder.to_owned(), ClusterId::of("a/a"), &keys).map(|(state, _)| state)
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
    fn broken_state_stops_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(MAP), b"LMAP").expect("written");
        assert!(matches!(open(folder.path()), Err(StateError::Map { .. })));
        fs::remove_file(folder.path().join(MAP)).expect("removed");
        fs::write(folder.path().join(NODES), b"{}").expect("written");
        assert!(matches!(open(folder.path()), Err(StateError::Nodes { .. })));
    }
}
