//! Files on the stores' file system, with the same content as the objects.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Result;

use crate::stub::pattern;

/// Writes the pattern of `key` into `path`, and waits until it is on the disk.
pub(super) fn write(path: &Path, key: &str, size: u64) -> Result<()> {
    write_unsynced(path, key, size)?;
    Ok(File::open(path)?.sync_all()?)
}

/// Writes the pattern of `key` into `path`.
pub(super) fn write_unsynced(path: &Path, key: &str, size: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut piece = vec![0; usize::try_from(size.min(1 << 20))?];
    let mut at = 0;
    while at < size {
        let len = usize::try_from((size - at).min(piece.len() as u64))?;
        pattern::fill(key, 1, at, &mut piece[..len]);
        file.write_all(&piece[..len])?;
        at += len as u64;
    }
    Ok(())
}
