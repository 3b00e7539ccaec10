//! When a change made in the bucket by others is seen, and what is served when the bucket can't be asked.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use larder_tests::harness::{Cluster, MINUTE, SOON, VolumeSpec, errno, list, wait_until, within};
use larder_tests::stub::StubS3;
use nix::errno::Errno;
use nix::libc;

/// `freshness: 1s`, and as much again for a machine under load.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

fn cluster(stub: &StubS3) -> Cluster {
    Cluster::builder()
        .volume(VolumeSpec::s3("second", stub).freshness("1s").read_deadline("2s"))
        .volume(VolumeSpec::s3("open", stub).freshness("OnOpen").read_deadline("2s"))
        .volume(VolumeSpec::s3("never", stub).freshness("Forever").read_deadline("2s"))
        .up()
}

fn read(cluster: &Cluster, node: &str, volume: &str) -> Vec<u8> {
    cluster.read(node, volume, "file").unwrap_or_else(|e| panic!("{volume} on {node}: {e}"))
}

/// R3. A change made in the bucket by others is seen at the latest `freshness` after it happened (60 s by default; `OnOpen` = each open asks the origin; `Forever` = never asks again).
#[test]
fn a_change_in_the_bucket_is_seen_as_freshness_says() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put("file", "version 1");
    let cluster = cluster(&stub);
    for node in cluster.node_names() {
        for volume in ["second", "open", "never"] {
            assert_eq!(read(&cluster, &node, volume), b"version 1", "{volume} on {node}");
        }
    }
    for version in 2..=4 {
        // Another length each time: a stale size would show.
        let content = format!("version {version}{}", ".".repeat(version * 100));
        stub.put("file", content.clone());
        let changed = Instant::now();
        for node in cluster.node_names() {
            assert_eq!(read(&cluster, &node, "open"), content.as_bytes(), "OnOpen, at once on {node}");
            let size = std::fs::metadata(cluster.mount(&node, "open").join("file")).unwrap().len();
            assert_eq!(size, content.len() as u64, "and stat goes with it on {node}");
        }
        for node in cluster.node_names() {
            wait_until(SOON, "the change is seen", || read(&cluster, &node, "second") == content.as_bytes());
            assert!(changed.elapsed() < SEEN_WITHIN, "{node}: {:?}", changed.elapsed());
        }
        for node in cluster.node_names() {
            assert_eq!(read(&cluster, &node, "never"), b"version 1", "Forever on {node}");
        }
    }
}

/// R4. A listing is complete as of some moment not older than `freshness`.
#[test]
fn a_listing_is_complete_and_fresh() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let names = |count: usize| (0..count).map(|number| format!("f{number:03}")).collect::<BTreeSet<_>>();
    for name in names(50) {
        stub.put(&format!("dir/{name}"), name.clone());
    }
    let cluster = Cluster::builder().volume(VolumeSpec::s3("data", &stub).freshness("1s")).up();
    let dir = |node: &str| cluster.mount(node, "data").join("dir");
    let listed = |node: &str| {
        let dir = dir(node);
        within(SOON, "a listing", move || list(&dir).unwrap())
    };
    for node in cluster.node_names() {
        assert_eq!(listed(&node), names(50), "{node}");
    }
    for count in [51, 60] {
        for name in names(count) {
            stub.put(&format!("dir/{name}"), name.clone());
        }
        let changed = Instant::now();
        for node in cluster.node_names() {
            wait_until(SOON, "new names are listed", || listed(&node) == names(count));
            assert!(changed.elapsed() < SEEN_WITHIN, "{node}: {:?}", changed.elapsed());
        }
    }
    // A directory that stays open shows what is there after rewinddir.
    let mut open = OpenDir::open(&dir("n1"));
    assert_eq!(open.rewound(), names(60));
    for name in names(60).difference(&names(10)) {
        stub.delete(&format!("dir/{name}"));
    }
    for node in cluster.node_names() {
        wait_until(SOON, "removed names are gone", || listed(&node) == names(10));
    }
    wait_until(SOON, "removed names are gone after rewinddir", || open.rewound() == names(10));
}

/// A directory that stays open, as the C library reads it.
struct OpenDir(*mut libc::DIR);

impl OpenDir {
    fn open(path: &Path) -> Self {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a string that ends with its NUL.
        let dir = unsafe { libc::opendir(path.as_ptr()) };
        assert!(!dir.is_null(), "{path:?}: {}", Errno::last());
        Self(dir)
    }

    /// What it lists from its beginning.
    fn rewound(&mut self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        // SAFETY: the stream is open, and nobody else has it; an entry is copied before the next call.
        unsafe {
            libc::rewinddir(self.0);
            while let Some(entry) = libc::readdir(self.0).as_ref() {
                names.insert(CStr::from_ptr(entry.d_name.as_ptr()).to_str().unwrap().to_owned());
            }
        }
        names.retain(|name| name != "." && name != "..");
        names
    }
}

impl Drop for OpenDir {
    fn drop(&mut self) {
        // SAFETY: it was opened, and is closed once.
        unsafe { libc::closedir(self.0) };
    }
}

/// R6. With the origin down, what is cached is served, as old as it is (a counter says how often), unless `freshness: OnOpen`.
#[test]
fn what_is_cached_is_served_while_the_origin_is_down() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put("file", "version 1");
    let cluster = cluster(&stub);
    for node in cluster.node_names() {
        for volume in ["second", "open", "never"] {
            assert_eq!(read(&cluster, &node, volume), b"version 1");
            let dir = cluster.mount(&node, volume);
            assert!(within(SOON, "a listing", move || list(&dir).unwrap()).contains("file"));
        }
    }
    stub.stop();
    let down = Instant::now();
    // Past `freshness`, so that names have expired everywhere, and past the opening of every circuit.
    while down.elapsed() < 3 * SEEN_WITHIN {
        for node in cluster.node_names() {
            for volume in ["second", "never"] {
                assert_eq!(read(&cluster, &node, volume), b"version 1", "{volume} on {node}");
                let dir = cluster.mount(&node, volume);
                assert!(within(SOON, "a listing", move || list(&dir).unwrap()).contains("file"));
            }
        }
    }
    assert!(cluster.sum("larder_names_stale_total", &[]) > 0, "the counter says how often");
    let error = cluster.read("n1", "open", "file").expect_err("OnOpen asks the origin");
    assert_eq!(errno(&error), Errno::EIO);
    cluster.wait_condition("cv", "second", "OriginReachable", "Unreachable");

    stub.resume().unwrap();
    stub.put("file", "version 2");
    for node in cluster.node_names() {
        wait_until(MINUTE, "the change is seen", || read(&cluster, &node, "second") == b"version 2");
        let opened = || cluster.read(&node, "open", "file").is_ok_and(|bytes| bytes == b"version 2");
        wait_until(MINUTE, "OnOpen serves again", opened);
    }
    cluster.wait_condition("cv", "second", "OriginReachable", "Reachable");
}
