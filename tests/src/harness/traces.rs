//! What a cluster may leave behind: mounts and processes below its folder. Read from /proc, which no dead mount can block.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::patience::SOON;

/// Larder's mount points below `dir`, the last mounted first.
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("Linux lists its mounts");
    let ours = table.lines().filter(|line| line.contains(" - fuse.larder "));
    let points = ours.filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    points.reverse();
    points
}

/// Processes, other than this one, whose command line names `dir`; ended ones that nobody has waited for don't count.
pub fn processes_naming(dir: &Path) -> Vec<i32> {
    let needle = dir.as_os_str().as_bytes();
    let entries = std::fs::read_dir("/proc").expect("Linux lists its processes");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let own = i32::try_from(std::process::id()).expect("pids are small");
    let names = |pid: &i32| {
        // A zombie's command line is empty; a process may end while we look.
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.windows(needle.len()).any(|part| part == needle)
    };
    pids.filter(|pid| *pid != own && names(pid)).collect()
}

/// Whether the process runs, or is stopped; not when it has ended and nobody has waited for it. While a thread of it runs,
/// nobody can: its first thread's end isn't its own.
pub(super) fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold anything.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    state.is_some_and(|state| !matches!(state, 'Z' | 'X') || threads() > 1)
}

/// Kills and unmounts what is below `dir`. Says what there was.
pub fn remove_traces(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for pid in processes_naming(dir) {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        found.push(format!("process {pid}: {}", String::from_utf8_lossy(&command).replace('\0', " ")));
        // It may have ended meanwhile.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    // No panic here: this also runs while a test panics.
    let until = Instant::now() + SOON;
    while !processes_naming(dir).is_empty() && Instant::now() < until {
        thread::sleep(Duration::from_millis(10));
    }
    for mount in mounts_below(dir) {
        found.push(format!("mount {}", mount.display()));
        // It may have gone with its agent.
        let _ = umount2(&mount, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    }
    found
}
