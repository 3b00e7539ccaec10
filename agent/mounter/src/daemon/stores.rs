//! A store's folder: `<hostPath>/larder-<cluster>`, 0700, the agent's own. Made step by step below an allowed prefix, never
//! through a link, nothing in it touched. Another cluster's folder beside it is a refusal: nothing is wiped by itself.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use larder_mounter::AGENT_USER;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchown};

/// Entries of a disk's top folder that are looked at.
const ENTRIES_MAX: usize = 10_000;

const PREFIX: &str = "larder-";

/// Why a store isn't prepared.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Not absolute, or with `..`.
    #[error("{path:?} is not an absolute path without ..")]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// Elsewhere than stores may be.
    #[error("{path:?} lies outside the paths where stores are allowed")]
    Outside {
        /// The path.
        path: PathBuf,
    },
    /// Nothing is mounted there.
    #[error("{path:?} is no mount point: mount the disk there, or say mountPoint: Any")]
    NotMounted {
        /// The path.
        path: PathBuf,
    },
    /// Another cluster's.
    #[error("{path:?} holds the store of another cluster, {other}: remove that, or take another path")]
    Another {
        /// The path.
        path: PathBuf,
        /// Its folder.
        other: String,
    },
    /// The system refuses.
    #[error("{path:?}: {error}")]
    System {
        /// The path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Makes the folder of `cluster` below `host_path`; with `is_mount_point` only on another device than the folder above it.
pub fn prepare(host_path: &Path, is_mount_point: bool, cluster: &str, allowed: &[PathBuf]) -> Result<(), Refusal> {
    let path = host_path.to_owned();
    let plain = |component: Component<'_>| matches!(component, Component::RootDir | Component::Normal(_));
    if !host_path.is_absolute() || !host_path.components().all(plain) {
        return Err(Refusal::Path { path });
    }
    if !allowed.iter().any(|prefix| host_path.starts_with(prefix)) {
        return Err(Refusal::Outside { path });
    }
    let system = |error: Errno| Refusal::System { path: path.clone(), error: error.into() };
    let parent = open(AT_FDCWD, host_path, ResolveFlag::RESOLVE_NO_SYMLINKS).map_err(system)?;
    // An allowed prefix is a mount here, whatever it is on the node: it can't be told.
    let is_prefix = allowed.iter().any(|prefix| prefix == host_path);
    if is_mount_point && (is_prefix || !is_another_device(&parent).map_err(system)?) {
        return Err(Refusal::NotMounted { path });
    }
    let own = format!("{PREFIX}{cluster}");
    if let Some(other) =
        others(host_path, &parent, &own).map_err(|error| Refusal::System { path: path.clone(), error })?
    {
        return Err(Refusal::Another { path, other });
    }
    match mkdirat(&parent, own.as_str(), Mode::from_bits_truncate(0o700)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(system(error)),
    }
    let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV;
    let folder = open(&parent, Path::new(&own), resolve).map_err(system)?;
    let found = fstat(&folder).map_err(system)?;
    if found.st_uid != AGENT_USER || found.st_gid != AGENT_USER {
        fchown(&folder, Some(Uid::from_raw(AGENT_USER)), Some(Gid::from_raw(AGENT_USER))).map_err(system)?;
    }
    fchmod(&folder, Mode::from_bits_truncate(0o700)).map_err(system)
}

fn open(at: impl AsFd, path: &Path, resolve: ResolveFlag) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    openat2(at, path, OpenHow::new().flags(flags).resolve(resolve))
}

/// Whether a folder lies on another device than the one above it.
fn is_another_device(folder: &OwnedFd) -> Result<bool, Errno> {
    let above = open(folder, Path::new(".."), ResolveFlag::RESOLVE_NO_SYMLINKS)?;
    Ok(fstat(folder)?.st_dev != fstat(&above)?.st_dev)
}

/// Another cluster's folder there.
fn others(path: &Path, parent: &OwnedFd, own: &str) -> io::Result<Option<String>> {
    // By the descriptor, so that it is the folder that was checked.
    let entries = std::fs::read_dir(format!("/proc/self/fd/{}", parent.as_raw_fd()))?;
    for entry in entries.take(ENTRIES_MAX) {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_store = name.strip_prefix(PREFIX).is_some_and(super::is_cluster);
        // A kubelet makes an empty folder for each cluster that tries; one that was prepared is its agents' own.
        let is_prepared = || {
            std::fs::symlink_metadata(path.join(name)).is_ok_and(|found| found.is_dir() && found.uid() == AGENT_USER)
        };
        if is_store && name != own && is_prepared() {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const CLUSTER: &str = "75f83916-399c-5d55-ab38-eab123e3805f";
    const OTHER: &str = "00000000-399c-5d55-ab38-eab123e3805f";

    #[test]
    fn a_store_is_the_agents_own_and_nothing_else_is_touched() {
        let disk = tempfile::tempdir().expect("a folder");
        let root = disk.path().canonicalize().expect("a path");
        let allowed = [root.clone()];
        let nvme = root.join("nvme0");
        std::fs::create_dir(&nvme).expect("made");
        std::fs::write(nvme.join("mine"), "kept").expect("written");
        for _ in 0..2 {
            prepare(&nvme, false, CLUSTER, &allowed).expect("prepared, as often as it is asked for");
        }
        let made = std::fs::metadata(nvme.join(format!("larder-{CLUSTER}"))).expect("made");
        assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (AGENT_USER, AGENT_USER, 0o700));
        assert_eq!(std::fs::metadata(nvme.join("mine")).expect("kept").uid(), 0);
        std::fs::create_dir(nvme.join(format!("larder-{OTHER}"))).expect("as a kubelet makes it");
        prepare(&nvme, false, CLUSTER, &allowed).expect("one that tried in vain is in nobody's way");
        let refusal = prepare(&nvme, false, OTHER, &allowed).expect_err("another cluster's");
        assert!(matches!(&refusal, Refusal::Another { other, .. } if other.contains(CLUSTER)), "{refusal}");
    }

    #[test]
    fn links_and_other_places_are_refused() {
        let disk = tempfile::tempdir().expect("a folder");
        let root = disk.path().canonicalize().expect("a path");
        let (inside, outside) = (root.join("mnt"), root.join("etc"));
        std::fs::create_dir(&inside).expect("made");
        std::fs::create_dir(&outside).expect("made");
        symlink(&outside, inside.join("link")).expect("made");
        let allowed = [inside.clone()];
        let refusal = |path: &Path| prepare(path, false, CLUSTER, &allowed).expect_err("refused");
        assert!(matches!(refusal(&outside), Refusal::Outside { .. }));
        assert!(matches!(refusal(&inside.join("../etc")), Refusal::Path { .. }));
        assert!(matches!(refusal(Path::new("mnt")), Refusal::Path { .. }));
        assert!(matches!(refusal(&inside.join("link")), Refusal::System { .. }));
        std::fs::create_dir(inside.join("d")).expect("made");
        symlink(&outside, inside.join("d").join(format!("larder-{CLUSTER}"))).expect("made");
        assert!(matches!(refusal(&inside.join("d")), Refusal::System { .. }), "the folder itself is no link either");
        assert_eq!(std::fs::read_dir(&outside).expect("readable").count(), 0);
    }

    #[test]
    fn a_disk_that_is_not_mounted_is_told_from_one_that_is() {
        let disk = tempfile::tempdir().expect("a folder");
        let root = disk.path().canonicalize().expect("a path");
        let nvme = root.join("nvme0");
        std::fs::create_dir(&nvme).expect("made");
        let refused = prepare(&nvme, true, CLUSTER, std::slice::from_ref(&root));
        assert!(matches!(refused, Err(Refusal::NotMounted { .. })), "{refused:?}");
        assert_eq!(std::fs::read_dir(&nvme).expect("readable").count(), 0, "nothing was made");
        // /proc lies on another device than the folder above it, wherever this runs.
        let parent = open(AT_FDCWD, Path::new("/proc"), ResolveFlag::empty()).expect("opens");
        assert_eq!(is_another_device(&parent), Ok(true));
        let whole = prepare(&root, true, CLUSTER, std::slice::from_ref(&root));
        assert!(matches!(whole, Err(Refusal::NotMounted { .. })), "a prefix is a mount here in any case: {whole:?}");
    }
}
