//! An agent in a cgroup with a memory limit: under pressure requests wait, nothing is killed.
//!
//! Where this process may not make a group below its own, the scenario says that it was skipped.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use larder_tests::harness::{Cluster, MINUTE, VolumeSpec, open_uncached, wait_until, within};
use larder_tests::stub::{StubS3, pattern};

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 512 * MIB;
const READERS: usize = 16;
/// Together 2 GiB: far more than the agent may hold.
const FILE: u64 = 128 * MIB;

/// A memory cgroup below our own, gone when dropped.
struct Group {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy)]
enum Version {
    V1,
    V2,
}

impl Group {
    fn new(limit: u64) -> Option<Group> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let groups = own.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
            if controllers.split(',').any(|controller| controller == "memory") {
                return Some((Path::new("/sys/fs/cgroup/memory").join(path), Version::V1));
            }
            controllers.is_empty().then(|| (Path::new("/sys/fs/cgroup").join(path), Version::V2))
        });
        groups.filter_map(|(parent, version)| Group::below(&parent, version, limit).ok()).next()
    }

    fn below(parent: &Path, version: Version, limit: u64) -> io::Result<Group> {
        let file = match version {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        };
        let folder = parent.join(format!("larder-test-{}", std::process::id()));
        std::fs::create_dir(&folder)?;
        let group = Group { folder, version };
        std::fs::write(group.folder.join(file), limit.to_string())?;
        Ok(group)
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    }

    fn holds(&self, pid: i32) -> bool {
        self.read("cgroup.procs").lines().any(|line| line == pid.to_string())
    }

    /// Processes that were killed for its limit.
    fn killed(&self) -> u64 {
        let file = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = self.read(file);
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.expect("the kernel counts them").trim().parse().unwrap()
    }

    /// The most that was ever used of the limit.
    fn peak(&self) -> u64 {
        let file = match self.version {
            Version::V1 => "memory.max_usage_in_bytes",
            Version::V2 => "memory.peak",
        };
        self.read(file).trim().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel lets go of the last process a moment after it has ended.
        let gone = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            std::fs::remove_dir(&self.folder).is_ok()
        });
        if !gone {
            eprintln!("{} stays", self.folder.display());
        }
    }
}

/// Reads a file to its end; every byte is checked.
fn read_checked(path: &Path, key: &str) -> u64 {
    let mut file = open_uncached(path).unwrap();
    let (mut piece, mut at) = (vec![0; 1 << 20], 0);
    loop {
        let len = file.read(&mut piece).unwrap_or_else(|e| panic!("{key} at {at}: {e}"));
        if len == 0 {
            return at;
        }
        pattern::check_version(key, 1, at, &piece[..len]).unwrap();
        at += len as u64;
    }
}

#[test]
fn an_agent_at_its_cgroups_limit_reads_right_bytes_and_is_not_killed() {
    let Some(group) = Group::new(LIMIT) else {
        eprintln!("SKIPPED: no memory cgroup can be made below our own; nothing was tested");
        return;
    };
    let stub = StubS3::builder().start_blocking().unwrap();
    let keys: Vec<String> = (0..READERS).map(|number| format!("f{number}")).collect();
    keys.iter().for_each(|key| drop(stub.put_pattern(key, 1, FILE)));
    let volume = VolumeSpec::s3("data", &stub).read_deadline("2m");
    let builder = Cluster::builder().alone().nodes(1).replicas(1).capacity(3 << 30).volume(volume);
    let cluster = builder.cgroup(&group.folder).up();
    let pid = cluster.agent_pid("n1");
    assert!(group.holds(pid), "the agent is in the group");
    let budget = cluster.metrics("n1").sum("larder_memory_budget_bytes", &[]);
    assert!(budget > 0 && budget <= LIMIT / 4 * 3, "it knows its limit: {budget}");

    let began = Instant::now();
    let threads: Vec<_> = keys
        .into_iter()
        .map(|key| {
            let path = cluster.mount("n1", "data").join(&key);
            std::thread::spawn(move || read_checked(&path, &key))
        })
        .collect();
    let read: u64 = within(5 * MINUTE, "all are read", move || threads.into_iter().map(|t| t.join().unwrap()).sum());
    assert_eq!(read, READERS as u64 * FILE);
    let (peak, killed) = (group.peak(), group.killed());
    println!("2 GiB by {READERS} readers in {:?}; {} MiB of {} MiB at most", began.elapsed(), peak / MIB, LIMIT / MIB);
    assert_eq!(killed, 0, "the kernel killed nothing");
    assert_eq!(cluster.agent_pid("n1"), pid, "the same agent");
    assert!(peak > LIMIT / 4, "it was under load: {} MiB", peak / MIB);
    assert_eq!(cluster.sum("larder_reads_failed_total", &[]), 0);
    drop(cluster);
    wait_until(MINUTE, "the group is empty", || group.read("cgroup.procs").trim().is_empty());
}
