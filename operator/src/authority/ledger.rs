//! Where the authority keeps node ids and the last map: a folder in local mode, ConfigMaps on Kubernetes.
//!
//! A ledger promises that what was stored is what is loaded later, whole or not at all, and refuses a write that another
//! writer has overtaken. Its calls block; none is made on the runtime's own threads.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use larder_proto::ids::Epoch;
use larder_proto::limits::MAP_BYTES_MAX;
use larder_proto::map::SignedMap;

const NODES: &str = "nodes.json";
const MAP: &str = "map";

/// A file of ours is never larger: a map and its signature are the largest.
const FILE_BYTES_MAX: u64 = MAP_BYTES_MAX as u64 + 64 * 1024;

/// Keeps node ids and the last map.
pub trait Ledger: Send + Sync {
    /// Where it lies, for people.
    fn place(&self) -> String;
    /// The ids that were stored last.
    fn load_ids(&self) -> io::Result<Option<Vec<u8>>>;
    /// The signed map that was stored last.
    fn load_map(&self) -> io::Result<Option<Vec<u8>>>;
    /// Stores the ids, durably.
    fn store_ids(&self, ids: &[u8]) -> io::Result<()>;
    /// Stores a signed map, durably. `epoch` is the map's.
    fn store_map(&self, signed: &[u8], epoch: Epoch) -> io::Result<()>;
}

/// A folder (0700) with a file for each.
pub struct FolderLedger {
    folder: PathBuf,
}

impl FolderLedger {
    /// The folder is made if it isn't there.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self { folder })
    }
}

impl Ledger for FolderLedger {
    fn place(&self) -> String {
        self.folder.display().to_string()
    }

    fn load_ids(&self) -> io::Result<Option<Vec<u8>>> {
        read_bounded(&self.folder.join(NODES))
    }

    fn load_map(&self) -> io::Result<Option<Vec<u8>>> {
        read_bounded(&self.folder.join(MAP))
    }

    fn store_ids(&self, ids: &[u8]) -> io::Result<()> {
        write_durably(&self.folder.join(NODES), ids)
    }

    fn store_map(&self, signed: &[u8], epoch: Epoch) -> io::Result<()> {
        let folder = fs::File::open(&self.folder)?;
        folder.lock()?;
        let stored = self.load_map()?.and_then(|bytes| SignedMap::decode(bytes.into()).ok()?.claims().ok());
        match stored {
            Some((_, stored)) if stored >= epoch => Err(io::Error::other(format!(
                "another authority has stored the map of epoch {stored} in {}: stop one of the two",
                self.place()
            ))),
            Some(_) | None => write_durably(&self.folder.join(MAP), signed),
        }
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
    use larder_proto::ids::{ClusterId, NodeId};
    use larder_proto::limits::SLOTS;
    use larder_proto::map::{ClusterMap, MapKey};

    use super::*;

    #[test]
    fn of_two_writers_the_one_that_was_overtaken_is_refused() {
        let pair = rcgen::KeyPair::generate().expect("entropy");
        let key = MapKey::from_pkcs8(pair.serialized_der()).expect("P-256");
        let signed = |epoch| {
            let owners = vec![[NodeId(0); 0]; usize::from(SLOTS)];
            let map = ClusterMap::new(Epoch(epoch), ClusterId::of("a/a"), Vec::new(), &owners, Vec::new());
            SignedMap::sign(&map.expect("sound"), &key).expect("small").encode()
        };
        let folder = tempfile::tempdir().expect("a folder");
        let open = || FolderLedger::open(folder.path().to_owned()).expect("a folder");
        let (one, other) = (open(), open());
        one.store_map(&signed(1), Epoch(1)).expect("the first");
        other.store_map(&signed(2), Epoch(2)).expect("newer");
        let refused = one.store_map(&signed(2), Epoch(2)).expect_err("overtaken");
        assert!(refused.to_string().contains("another authority"), "{refused}");
        one.store_map(&signed(3), Epoch(3)).expect("newer than what is there");
    }
}
