//! The mounts of agents that are gone, or ask for it: taken away with the folders they were on.

use std::fs;
use std::io;
use std::path::Path;

use larder_mounter::mounts::{Mounted, is_ours, mounted, set_read_ahead, unmount};

/// Takes the topmost mount at `at` away, at once for new users, and its folder.
pub fn take_away(at: &Path) -> io::Result<()> {
    unmount(at)?;
    // It stays when somebody else has mounted there; nothing is lost by it.
    let _stays = fs::remove_dir(at);
    Ok(())
}

/// Takes away every mount of ours below `folder`: their agent is gone, and reading them would hang or fail.
pub fn take_away_below(folder: &Path) -> io::Result<()> {
    ours()?.rev().filter(|mount| mount.at.starts_with(folder)).try_for_each(|mount| take_away(&mount.at))
}

/// Sets how far the kernel reads ahead on our mount at `at`.
pub fn read_ahead(at: &Path, bytes: u64) -> io::Result<()> {
    set_read_ahead(&ours()?.rfind(|mount| mount.at == at).ok_or(io::ErrorKind::NotFound)?, bytes)
}

/// Whether something of ours is mounted at `at`.
pub fn is_mounted(at: &Path) -> io::Result<bool> {
    Ok(ours()?.any(|mount| mount.at == at))
}

fn ours() -> io::Result<impl DoubleEndedIterator<Item = Mounted>> {
    Ok(mounted()?.into_iter().filter(is_ours))
}
