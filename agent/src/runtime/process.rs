//! The process itself: its rights, limits and signals.

use std::io;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors an agent needs to serve at all: stores, peers, mounts and admin connections together.
pub const DESCRIPTORS_MIN: u64 = 1_024;

/// Memory an agent takes for granted where no cgroup says otherwise.
const MEMORY_DEFAULT_BYTES: u64 = 1 << 30;

/// Raises the limit of open descriptors to what the system allows and returns it.
pub fn raise_descriptors() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Processors this process may run on.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Whether the process is root, as mounting in the process needs.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// This process's id.
pub fn id() -> u32 {
    std::process::id()
}

/// The memory budget: three quarters of the cgroup's limit (v2 or v1), of 1 GiB where there is none.
pub fn memory_budget_bytes() -> u64 {
    let limit = cgroup_limit_bytes().unwrap_or(MEMORY_DEFAULT_BYTES);
    limit / 4 * 3
}

fn cgroup_limit_bytes() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    cgroup_files(&own).into_iter().find_map(|file| limit_of(&std::fs::read_to_string(file).ok()?))
}

/// The files that may hold the limit, nearest first. In a container the cgroup file system begins at our own group, so
/// its root is tried too.
fn cgroup_files(own: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        if controllers.is_empty() {
            files.push(format!("/sys/fs/cgroup{path}/memory.max"));
        } else if controllers.split(',').any(|controller| controller == "memory") {
            files.push(format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"));
        }
    }
    files.push("/sys/fs/cgroup/memory.max".into());
    files.push("/sys/fs/cgroup/memory/memory.limit_in_bytes".into());
    files
}

/// The limit in a cgroup's file; none for `max` and for v1's "unlimited" (a number near 2^63).
fn limit_of(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

/// What the allocator says of itself, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocator {
    /// What the program holds.
    pub allocated: u64,
    /// Pages that hold something.
    pub active: u64,
    /// Pages that the kernel has given memory for.
    pub resident: u64,
    /// Address space that was given back to the kernel and is kept for later.
    pub retained: u64,
}

/// jemalloc's statistics of this moment; nothing where it doesn't keep them.
pub fn allocator() -> Option<Allocator> {
    use tikv_jemalloc_ctl::{epoch, stats};
    // The numbers are those of the last epoch.
    epoch::advance().ok()?;
    let bytes = |read: tikv_jemalloc_ctl::Result<usize>| read.ok().and_then(|bytes| u64::try_from(bytes).ok());
    Some(Allocator {
        allocated: bytes(stats::allocated::read())?,
        active: bytes(stats::active::read())?,
        resident: bytes(stats::resident::read())?,
        retained: bytes(stats::retained::read())?,
    })
}

/// Reads a small text file that a person named on the command line; an error when it is longer than `max_bytes`.
pub fn read_text(file: &Path, max_bytes: u64) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(file)?.take(max_bytes + 1).read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read <= max_bytes) {
        Ok(text)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than {max_bytes} bytes")))
    }
}

/// Catches SIGTERM and SIGINT from now on; what is returned ends with the first one.
pub fn asked_to_stop() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! { biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allocator_knows_what_is_held() {
        let known = allocator().expect("statistics are built in");
        assert!(known.resident > 0 && known.allocated <= known.active && known.active <= known.resident, "{known:?}");
    }

    #[test]
    fn both_kinds_of_cgroup_are_found() {
        let files = cgroup_files("12:memory:/kubepods/a\n1:name=systemd:/x\n0::/kubepods/b\n");
        assert_eq!(files[0], "/sys/fs/cgroup/memory/kubepods/a/memory.limit_in_bytes");
        assert_eq!(files[1], "/sys/fs/cgroup/kubepods/b/memory.max");
        assert_eq!(files.len(), 4);
    }

    #[test]
    fn no_limit_is_no_limit() {
        assert_eq!(limit_of("max\n"), None);
        assert_eq!(limit_of("9223372036854771712\n"), None);
        assert_eq!(limit_of("1073741824\n"), Some(1 << 30));
    }
}
