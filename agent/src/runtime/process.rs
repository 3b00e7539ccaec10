//! The process itself: its rights, limits and signals.

use std::io;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors an agent needs to serve at all: stores, peers, mounts and admin connections together.
pub const DESCRIPTORS_MIN: u64 = 1_024;

/// Memory an agent takes for granted where no cgroup says otherwise.
const MEMORY_DEFAULT_BYTES: u64 = 1 << 30;

/// What each TiB of store adds to it: chunks are known by bitmaps and checksums.
const MEMORY_PER_TIB_BYTES: u64 = 16 << 20;

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

/// The memory budget of an agent whose stores may hold so much: three quarters of the smallest limit of its cgroup (v2 or
/// v1) and all that contain it; of 1 GiB and 16 MiB per TiB of store where none limits it.
pub fn memory_budget_bytes(store_bytes: u64) -> u64 {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    budget_of(cgroup_limit_bytes(&own, |file| std::fs::read_to_string(file).ok()), store_bytes)
}

fn budget_of(limit: Option<u64>, store_bytes: u64) -> u64 {
    let of_stores = (u128::from(store_bytes) * u128::from(MEMORY_PER_TIB_BYTES)) >> 40;
    let default = MEMORY_DEFAULT_BYTES.saturating_add(u64::try_from(of_stores).unwrap_or(u64::MAX));
    limit.unwrap_or(default) / 4 * 3
}

/// The smallest of all limits that hold for us: a pod's or a slice's may be less than the container's own.
fn cgroup_limit_bytes(own: &str, read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    cgroup_files(own).iter().filter_map(|file| limit_of(&read(file)?)).min()
}

/// The files that may hold a limit: those of our group and of each that contains it, up to the root. In a container the
/// cgroup file system may begin at our own group: then its root is ours.
fn cgroup_files(own: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (root, name) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        let groups = Path::new(path).ancestors().filter_map(Path::to_str).map(|group| group.trim_end_matches('/'));
        files.extend(groups.map(|group| format!("{root}{group}/{name}")));
    }
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

/// Reads a small text file that others put there and the configuration names, through links as Kubernetes makes them; an
/// error when it is longer than `max_bytes`.
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
    fn a_file_of_a_config_map_is_read_through_its_links() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("..2026_01")).expect("made");
        std::fs::write(at("..2026_01/ca.pem"), "text").expect("written");
        std::os::unix::fs::symlink("..2026_01", at("..data")).expect("linked");
        std::os::unix::fs::symlink("..data/ca.pem", at("ca.pem")).expect("linked");
        assert_eq!(read_text(&at("ca.pem"), 4).expect("reads"), "text");
        assert_eq!(read_text(&at("ca.pem"), 3).expect_err("too long").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_allocator_knows_what_is_held() {
        let known = allocator().expect("statistics are built in");
        assert!(known.resident > 0 && known.allocated <= known.active && known.active <= known.resident, "{known:?}");
    }

    #[test]
    fn both_kinds_of_cgroup_are_found_with_all_that_contain_them() {
        let files = cgroup_files("12:cpu,memory:/kubepods/a\n1:name=systemd:/x\n0::/kubepods/b/c\n");
        let expected = [
            "/sys/fs/cgroup/memory/kubepods/a/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/kubepods/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/kubepods/b/c/memory.max",
            "/sys/fs/cgroup/kubepods/b/memory.max",
            "/sys/fs/cgroup/kubepods/memory.max",
            "/sys/fs/cgroup/memory.max",
        ];
        assert_eq!(files, expected);
        assert_eq!(cgroup_files("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
    }

    #[test]
    fn the_smallest_limit_counts_whoever_set_it() {
        let limit = |own: &'static str, slice: &'static str| {
            cgroup_limit_bytes("0::/slice/pod/own\n", move |file| {
                Some(match file {
                    "/sys/fs/cgroup/slice/pod/own/memory.max" => own.into(),
                    "/sys/fs/cgroup/slice/memory.max" => slice.into(),
                    "/sys/fs/cgroup/slice/pod/memory.max" => "max\n".into(),
                    // The root of all has none.
                    _ => return None,
                })
            })
        };
        assert_eq!(limit("2147483648\n", "1073741824\n"), Some(1 << 30), "the slice's");
        assert_eq!(limit("1073741824\n", "2147483648\n"), Some(1 << 30), "its own");
        assert_eq!(limit("max\n", "1073741824\n"), Some(1 << 30));
        assert_eq!(limit("max\n", "max\n"), None);
    }

    #[test]
    fn the_default_grows_with_the_stores() {
        assert_eq!(budget_of(Some(4 << 30), 100 << 40), 3 << 30);
        assert_eq!(budget_of(None, 0), 768 << 20);
        assert_eq!(budget_of(None, 4 << 40), (768 + 48) << 20);
        assert_eq!(budget_of(None, 1 << 39), (768 + 6) << 20);
    }

    #[test]
    fn no_limit_is_no_limit() {
        assert_eq!(limit_of("max\n"), None);
        assert_eq!(limit_of("9223372036854771712\n"), None);
        assert_eq!(limit_of("1073741824\n"), Some(1 << 30));
    }
}
