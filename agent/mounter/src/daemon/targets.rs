//! Where pods' volumes are put: `<kubelet>/pods/<pod>/volumes/kubernetes.io~csi/<volume>/<folder>`, and nowhere else.
//!
//! The folder above the target is opened step by step below the kubelet's, never through a link; the target is made,
//! bound and removed by that descriptor. What is mounted is read from mountinfo: a mount of ours is never looked into.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use larder_mounter::mounts::{self, Mounted, is_ours, mounted_at};
use larder_mounter::{BAD_TARGET, NOT_SERVED};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// What the kubelet's paths of CSI volumes have in their middle.
const VOLUMES: &str = "volumes";
const PLUGIN: &str = "kubernetes.io~csi";

/// Mounts of ours on top of each other that one unpublish takes away: there should be one.
const STACKED_MAX: usize = 64;

/// Why a target isn't as was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Elsewhere than pods' volumes are.
    #[error("{path:?} is no pod's CSI volume below {kubelet:?}")]
    Outside {
        /// The path.
        path: String,
        /// The kubelet's folder.
        kubelet: PathBuf,
    },
    /// Somebody else has mounted something there.
    #[error("{kind} is mounted at {path:?}")]
    Foreign {
        /// The path.
        path: PathBuf,
        /// What.
        kind: String,
    },
    /// No agent has it mounted.
    #[error("no agent has {volume} mounted here")]
    NotServed {
        /// As `namespace/name`.
        volume: String,
    },
    /// Two agents say that they have.
    #[error("agents of two clusters say that {volume} is theirs")]
    Contradicted {
        /// As `namespace/name`.
        volume: String,
    },
    /// It was to be read-only, and the volume's mount isn't.
    #[error("{path:?} can't be made read-only")]
    Writable {
        /// The path.
        path: PathBuf,
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

impl Refusal {
    /// The number by which the plugin tells what to say; the system's own where it refused, 0 otherwise.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Outside { .. } => BAD_TARGET,
            Self::NotServed { .. } => NOT_SERVED,
            // Not BAD_TARGET, whatever the number: the target was right.
            Self::System { error, .. } => match error.raw_os_error().unwrap_or(0) {
                BAD_TARGET | NOT_SERVED => 0,
                errno => errno,
            },
            Self::Foreign { .. } | Self::Contradicted { .. } | Self::Writable { .. } => 0,
        }
    }
}

/// A place where a pod's volume may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pods: PathBuf,
    /// Below `pods`.
    above: PathBuf,
    name: PathBuf,
}

impl Target {
    /// Reads a path as the kubelet names it.
    pub fn parse(kubelet: &Path, path: &str) -> Result<Self, Refusal> {
        let outside = || Refusal::Outside { path: path.to_owned(), kubelet: kubelet.to_owned() };
        let pods = kubelet.join("pods");
        let below = Path::new(path).strip_prefix(&pods).map_err(|_| outside())?;
        let parts: Vec<Component<'_>> = below.components().collect();
        let all_plain = parts.iter().all(|part| matches!(part, Component::Normal(_)));
        let [pod, volumes, plugin, volume, name] = parts[..] else { return Err(outside()) };
        if !all_plain || volumes.as_os_str() != VOLUMES || plugin.as_os_str() != PLUGIN {
            return Err(outside());
        }
        let above = [pod, volumes, plugin, volume].iter().collect();
        Ok(Self { pods, above, name: name.as_os_str().into() })
    }

    /// As mountinfo names it.
    fn path(&self) -> PathBuf {
        self.pods.join(&self.above).join(&self.name)
    }

    /// The folder above, or nothing when there is none.
    fn above(&self) -> Result<Option<OwnedFd>, Refusal> {
        let pods = open(AT_FDCWD, &self.pods, ResolveFlag::empty()).map_err(|error| self.system(error))?;
        match open(&pods, &self.above, ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH) {
            Ok(folder) => Ok(Some(folder)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(self.system(error)),
        }
    }

    fn system(&self, error: impl Into<io::Error>) -> Refusal {
        Refusal::System { path: self.path(), error: error.into() }
    }

    fn mounted(&self) -> Result<Option<Mounted>, Refusal> {
        let there = mounted_at(&self.path()).map_err(|error| self.system(error))?;
        match there {
            Some(foreign) if !is_ours(&foreign) => Err(Refusal::Foreign { path: foreign.at, kind: foreign.kind }),
            there => Ok(there),
        }
    }

    /// Makes the target and binds there what is mounted at `source`, or finds that it is so already. A bind of an agent's
    /// mount that has ended gives way.
    pub fn publish(&self, source: &Mounted, is_read_only: bool) -> Result<(), Refusal> {
        let above = self.above()?.ok_or_else(|| self.system(Errno::ENOENT))?;
        match mkdirat(&above, &self.name, Mode::from_bits_truncate(0o750)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(self.system(error)),
        }
        if self.mounted()?.is_some_and(|there| there.device != source.device) {
            self.unmount(&above)?;
        }
        if self.mounted()?.is_none() {
            let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH;
            let folder = open(&above, &self.name, resolve).map_err(|error| self.system(error))?;
            mounts::bind(&source.at, &by_descriptor(&folder)).map_err(|error| self.system(error))?;
        }
        match self.mounted()? {
            // A bind is read-only as the volume's mount is, also where it is propagated to; a remount wouldn't be.
            Some(there) if is_read_only && !there.is_read_only => {
                self.unmount(&above)?;
                Err(Refusal::Writable { path: self.path() })
            }
            Some(_) => Ok(()),
            None => Err(self.system(Errno::ENOENT)),
        }
    }

    /// Takes everything of ours away, and the folder. Nothing there is fine.
    pub fn unpublish(&self) -> Result<(), Refusal> {
        let Some(above) = self.above()? else { return Ok(()) };
        self.unmount(&above)?;
        match unlinkat(&above, &self.name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(self.system(error)),
        }
    }

    fn unmount(&self, above: &OwnedFd) -> Result<(), Refusal> {
        for _ in 0..STACKED_MAX {
            if self.mounted()?.is_none() {
                return Ok(());
            }
            mounts::unmount(&by_descriptor(above).join(&self.name)).map_err(|error| self.system(error))?;
        }
        Err(self.system(Errno::EBUSY))
    }
}

fn open(at: impl AsFd, path: &Path, resolve: ResolveFlag) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    openat2(at, path, OpenHow::new().flags(flags).resolve(resolve))
}

fn by_descriptor(folder: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", folder.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const BELOW: &str = "pods/p/volumes/kubernetes.io~csi/v";

    fn target(kubelet: &Path, path: &str) -> Target {
        Target::parse(kubelet, &kubelet.join(path).display().to_string()).expect("a pod's")
    }

    #[test]
    fn only_pods_csi_volumes_are_targets() {
        let kubelet = Path::new("/var/lib/kubelet");
        let parsed = target(kubelet, &format!("{BELOW}/mount"));
        assert_eq!(parsed.path(), kubelet.join(BELOW).join("mount"));
        let again = "/var/lib/kubelet//pods/./p/volumes/kubernetes.io~csi/v/mount/";
        assert_eq!(Target::parse(kubelet, again).ok(), Some(parsed), "mountinfo's spelling");
        for path in [
            "",
            "/",
            "/etc",
            "/var/lib/kubelet",
            "/var/lib/kubelet/pods/p/volumes/kubernetes.io~csi/v",
            "/var/lib/kubelet/pods/p/volumes/kubernetes.io~csi/v/mount/etc",
            "/var/lib/kubelet/pods/p/volumes/kubernetes.io~empty-dir/v/mount",
            "/var/lib/kubelet/pods/p/plugins/kubernetes.io~csi/v/mount",
            "/var/lib/kubelet/pods/../volumes/kubernetes.io~csi/v/mount",
            "/var/lib/kubelet/pods/p/volumes/kubernetes.io~csi/v/..",
            "/var/lib/kubelet/plugins/p/volumes/kubernetes.io~csi/v/mount",
            "pods/p/volumes/kubernetes.io~csi/v/mount",
        ] {
            let refused = Target::parse(kubelet, path).expect_err(path);
            assert_eq!((refused.errno(), refused.to_string().contains("no pod's")), (BAD_TARGET, true), "{path}");
        }
    }

    #[test]
    fn links_lead_nowhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let kubelet = folder.path().canonicalize().expect("a path");
        let outside = kubelet.join("outside");
        fs::create_dir_all(&outside).expect("made");
        fs::create_dir_all(outside.join("mount")).expect("made");
        fs::create_dir_all(kubelet.join("pods/p/volumes/kubernetes.io~csi")).expect("made");
        symlink(&outside, kubelet.join(BELOW)).expect("made");
        let refused = target(&kubelet, &format!("{BELOW}/mount")).unpublish().expect_err("a link on the way");
        assert!(matches!(refused, Refusal::System { .. }), "{refused}");
        fs::remove_file(kubelet.join(BELOW)).expect("removed");
        fs::create_dir(kubelet.join(BELOW)).expect("made");
        symlink(&outside, kubelet.join(BELOW).join("mount")).expect("made");
        let source = Mounted { device: "0:1".into(), at: "/".into(), kind: "fuse.larder".into(), is_read_only: true };
        let refused =
            target(&kubelet, &format!("{BELOW}/mount")).publish(&source, true).expect_err("the target is a link");
        assert!(matches!(refused, Refusal::System { .. }), "{refused}");
        assert!(outside.join("mount").is_dir(), "nothing was touched");
    }

    #[test]
    fn what_isnt_there_is_unpublished_already() {
        let folder = tempfile::tempdir().expect("a folder");
        let kubelet = folder.path().canonicalize().expect("a path");
        fs::create_dir(kubelet.join("pods")).expect("made");
        let target = target(&kubelet, &format!("{BELOW}/mount"));
        target.unpublish().expect("no pod");
        fs::create_dir_all(kubelet.join(BELOW)).expect("made");
        target.unpublish().expect("no target");
        fs::create_dir_all(kubelet.join(BELOW).join("mount")).expect("made");
        target.unpublish().expect("an empty folder");
        assert!(!kubelet.join(BELOW).join("mount").exists());
        fs::create_dir_all(kubelet.join(BELOW).join("mount/full")).expect("made");
        let refused = target.unpublish().expect_err("what somebody has put there stays");
        assert_eq!(refused.errno(), 39, "{refused}");
    }
}
