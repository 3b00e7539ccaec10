//! Whose store a folder is: `larder.json`, the folder's lock, and what is refused before anything is touched.
//!
//! ```text
//! { "format": 1, "cacheId": "<namespace>/<name>", "storeId": "<32 hex digits>", "createdBy": "larder-agent <version>" }
//! ```
//!
//! A folder without a label is taken only when it is empty: what lies in `objects/` without a catalog entry is
//! unlinked later, and that must never be somebody else's.

use std::io;
use std::path::{Path, PathBuf};

use larder_proto::ids::StoreId;
use serde::{Deserialize, Serialize};

use super::{OpenError, StoreConfig};
use crate::runtime::disk::{Disk, Lock};
use crate::runtime::{Rng, Runtime};

/// The layout that this program writes. A higher number on disk is refused, never guessed at.
const FORMAT: u32 = 1;

/// A label has four short fields.
const LABEL_BYTES_MAX: u64 = 64 * 1024;

/// What an empty folder may hold: what mkfs puts there, and a label that a crash left half made.
const NOT_OURS_BUT_HARMLESS: [&str; 2] = ["lost+found", "larder.json.new"];

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Label {
    format: u32,
    cache_id: String,
    store_id: String,
    created_by: String,
}

/// The one field that every format has.
#[derive(Deserialize)]
struct AnyLabel {
    format: u32,
}

/// A folder that was found fit, and is locked against everybody else.
pub(super) struct Claimed {
    pub lock: Box<dyn Lock>,
    /// Nothing in an empty folder.
    label: Option<StoreId>,
}

/// Checks a folder and locks it; makes it when it is missing, and changes nothing in it.
pub(super) fn claim(runtime: &Runtime, config: &StoreConfig, cache_id: &str) -> Result<Claimed, OpenError> {
    let disk = runtime.disk.as_ref();
    let io = |source| failed(config, source);
    let entries = match disk.list(&config.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            disk.create_dir_all(&config.path).map_err(io)?;
            Vec::new()
        }
        other => other.map_err(io)?,
    };
    let lock = disk.lock(&config.path).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { name: config.name.clone(), path: config.path.clone() },
        _ => io(source),
    })?;
    let label = read(disk, config, cache_id)?;
    let foreign = entries.iter().find(|entry| !NOT_OURS_BUT_HARMLESS.contains(&entry.name.as_str()));
    if let (None, Some(entry)) = (label, foreign) {
        let (name, path) = (config.name.clone(), config.path.clone());
        return Err(OpenError::NotEmpty { name, path, found: entry.name.clone() });
    }
    let disk_bytes = disk.space(&config.path).map_err(io)?.total_bytes;
    if config.capacity_bytes > disk_bytes {
        let (name, path) = (config.name.clone(), config.path.clone());
        return Err(OpenError::TooLarge { name, path, capacity_bytes: config.capacity_bytes, disk_bytes });
    }
    Ok(Claimed { lock, label })
}

impl Claimed {
    /// The store's id; an empty folder gets its label now.
    pub fn label(&self, runtime: &Runtime, config: &StoreConfig, cache_id: &str) -> Result<StoreId, OpenError> {
        if let Some(id) = self.label {
            return Ok(id);
        }
        let id = new_id(runtime.rng.as_ref());
        let label = Label {
            format: FORMAT,
            cache_id: cache_id.to_owned(),
            store_id: id.to_string(),
            created_by: concat!("larder-agent ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let text = serde_json::to_vec_pretty(&label).expect("four plain fields always serialise");
        runtime.disk.replace_small(&label_path(&config.path), &text).map_err(|source| failed(config, source))?;
        Ok(id)
    }
}

fn read(disk: &dyn Disk, config: &StoreConfig, cache_id: &str) -> Result<Option<StoreId>, OpenError> {
    let (name, path) = (config.name.clone(), label_path(&config.path));
    let bytes = match disk.read_small(&path, LABEL_BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(OpenError::BadLabel { name, path }),
        other => other.map_err(|source| failed(config, source))?,
    };
    let Ok(AnyLabel { format }) = serde_json::from_slice(&bytes) else {
        return Err(OpenError::BadLabel { name, path });
    };
    if format > FORMAT {
        return Err(OpenError::NewerFormat { name, path, found: format, known: FORMAT });
    }
    let label = serde_json::from_slice::<Label>(&bytes).ok();
    let Some((label, id)) = label.and_then(|label| StoreId::from_hex(&label.store_id).map(|id| (label, id))) else {
        return Err(OpenError::BadLabel { name, path });
    };
    if label.cache_id != cache_id {
        let path = config.path.clone();
        return Err(OpenError::AnotherCache { name, path, found: label.cache_id, ours: cache_id.to_owned() });
    }
    Ok(Some(id))
}

/// A random UUID (version 4, RFC 9562).
fn new_id(rng: &dyn Rng) -> StoreId {
    let random = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
    StoreId::from_bytes(uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid().into_bytes())
}

fn label_path(root: &Path) -> PathBuf {
    root.join("larder.json")
}

fn failed(config: &StoreConfig, source: io::Error) -> OpenError {
    let (name, path) = (config.name.clone(), config.path.clone());
    match source.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => OpenError::NotADirectory { name, path },
        _ => OpenError::Io { name, path, source },
    }
}
