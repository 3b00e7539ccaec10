//! What an `up` that was killed left behind: mounts without an agent, agents without a parent.
//!
//! Decided from /proc alone. A mount is never touched by path look-ups that could wait for a dead agent: only
//! `umount2` with UMOUNT_NOFOLLOW.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use larder_mounter::mounts;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::folder::Folder;

/// How long an agent may take to unmount and close its stores.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// How long the kernel may take to end a killed agent; one that waits for a hung disk takes as long as the disk.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// Larder's mounts below `root`, innermost first. Whatever else is mounted there is the user's.
pub fn mounts_below(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let ours = mounts::mounted()?.into_iter().filter(mounts::is_ours).map(|mount| mount.at);
    let mut mounts: Vec<PathBuf> = ours.filter(|at| at != root && at.starts_with(root)).collect();
    mounts.sort_by_key(|mount| std::cmp::Reverse(mount.components().count()));
    Ok(mounts)
}

/// Unmounts everything below `root`; returns what was unmounted.
pub fn unmount_below(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mounts = mounts_below(root)?;
    for mount in &mounts {
        mounts::unmount(mount)?;
    }
    Ok(mounts)
}

/// What was cleaned.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    mounts: usize,
    agents: usize,
}

impl Cleaned {
    /// Whether there was nothing.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Display for Cleaned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cleaned up what an earlier run left: {} agents stopped, {} mounts removed", self.agents, self.mounts)
    }
}

/// Removes what an earlier run left in `folder`. The caller holds the folder's lock.
pub fn clean(folder: &Folder) -> std::io::Result<Cleaned> {
    let agents = stop_agents_below(folder.root())?;
    let mounts = unmount_below(folder.root())?.len();
    match std::fs::remove_file(folder.socket()) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(Cleaned { mounts, agents }),
    }
}

/// Agents that run with a configuration below `root`.
pub fn agents_below(root: &Path) -> std::io::Result<Vec<Pid>> {
    let mut agents = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // A process may end while we read; then it isn't one of ours to stop.
        let Ok(command) = std::fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        if is_agent_of(&command, root) {
            agents.push(Pid::from_raw(pid));
        }
    }
    Ok(agents)
}

fn is_agent_of(command: &[u8], root: &Path) -> bool {
    let words: Vec<&str> = command.split(|b| *b == 0).filter_map(|word| std::str::from_utf8(word).ok()).collect();
    matches!(words.as_slice(), [_, "serve", "--config", config, ..] if Path::new(config).starts_with(root))
}

/// Asks leftover agents to stop, then kills those that don't. Returns how many there were; an error when one can't be
/// killed (it waits for a disk).
pub fn stop_agents_below(root: &Path) -> std::io::Result<usize> {
    let agents = agents_below(root)?;
    for (signal, patience) in [(Signal::SIGTERM, STOP_DEADLINE), (Signal::SIGKILL, KILL_DEADLINE)] {
        for agent in agents_below(root)? {
            // ESRCH: it has just ended.
            let _ = kill(agent, signal);
        }
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if agents_below(root)?.is_empty() {
                return Ok(agents.len());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let left: Vec<String> = agents_below(root)?.iter().map(ToString::to_string).collect();
    Err(std::io::Error::other(format!("agents that can't be killed (a disk that hangs?): pid {}", left.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_agents_of_this_folder_are_ours() {
        let root = Path::new("/d");
        assert!(is_agent_of(b"/usr/bin/larder-agent\0serve\0--config\0/d/n1/agent.yaml\0", root));
        assert!(!is_agent_of(b"/usr/bin/larder-agent\0serve\0--config\0/e/n1/agent.yaml\0", root));
        assert!(is_agent_of(b"/x/another-name\0serve\0--config\0/d/n1/agent.yaml\0", root));
        assert!(!is_agent_of(b"/usr/bin/vi\0/d/n1/agent.yaml\0", root));
    }
}
