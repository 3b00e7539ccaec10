//! What is kept: what is never taken in, what leaves by age, what stays, and how much there is of it.

use std::path::Path;
use std::time::{Duration, Instant};

use larder_tests::harness::{Cluster, VolumeSpec};
use larder_tests::stub::{StubS3, pattern};
use serde_json::json;

const CHUNK: u64 = 64 * 1024;
/// The size of a file that no part of another has.
const EXCLUDED: u64 = CHUNK - 7;

/// Sizes of the files that the stores of all nodes hold.
fn kept(cluster: &Cluster) -> Vec<u64> {
    fn walk(folder: &Path, sizes: &mut Vec<u64>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => walk(&entry.path(), sizes),
                Ok(metadata) => sizes.push(metadata.len()),
                // It has just left.
                Err(_) => {}
            }
        }
    }
    let mut sizes = Vec::new();
    for node in cluster.node_names() {
        for store in std::fs::read_dir(cluster.node_dir(&node)).into_iter().flatten().flatten() {
            walk(&store.path().join("objects"), &mut sizes);
        }
    }
    sizes.sort_unstable();
    sizes
}

fn until(what: &str, cluster: &Cluster, holds: impl Fn(&[u64]) -> bool) {
    let began = Instant::now();
    while !holds(&kept(cluster)) {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}: {:?}", kept(cluster));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// K1. What `admission` excludes, and objects above its `maxObjectSize`, are never kept; a chunk is kept once the origin had to give it `afterReads` times before. What isn't kept is read all the same.
///
/// K2. What is kept of an object leaves when its first bytes are older than `ttl`; what `pin` names stays, whatever its age and whatever room is wanted.
#[test]
fn admission_age_and_pins_say_what_is_kept() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let sizes = [("a.tmp", EXCLUDED), ("big", 3 * CHUNK), ("keep/a", CHUNK + 1), ("plain", CHUNK + 2)];
    for (key, size) in sizes {
        stub.put_pattern(key, 1, size);
    }
    let volume = VolumeSpec::s3("data", &stub)
        .chunk_size("64Ki")
        .read_ahead("0")
        .with("admission", json!({"exclude": ["*.tmp"], "maxObjectSize": "128Ki"}))
        .with("ttl", "8s")
        .with("pin", json!(["keep/**"]));
    let cluster = Cluster::builder().volume(volume).up();
    for (key, _) in sizes {
        for node in ["n1", "n2"] {
            pattern::check_version(key, 1, 0, &cluster.read(node, "data", key).unwrap()).unwrap();
        }
    }
    let (keep, plain) = (CHUNK + 1, CHUNK + 2);
    // The parts of an object may lie on different owners: its file may be on all three.
    let has = |sizes: &[u64], size: u64| sizes.iter().any(|found| *found == size || *found == CHUNK);
    until("both are kept", &cluster, |sizes| sizes.len() >= 4 && has(sizes, keep) && has(sizes, plain));
    let before = kept(&cluster);
    assert!(
        before.iter().all(|size| *size < 2 * CHUNK && *size != EXCLUDED),
        "neither the excluded nor the large one: {before:?}"
    );
    until("only what is pinned stays", &cluster, |sizes| sizes.len() < before.len());
    std::thread::sleep(Duration::from_secs(12));
    let after = kept(&cluster);
    assert!((2..=3).contains(&after.len()) && after.iter().all(|size| *size <= keep), "{after:?}");
    for (key, _) in sizes {
        pattern::check_version(key, 1, 0, &cluster.read("n3", "data", key).unwrap()).unwrap();
    }
}

/// K3. A volume takes no more than its `quota` in the cluster, all copies together; each node keeps to its part, and what is read least leaves.
#[test]
fn a_volume_keeps_to_its_quota() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let keys: Vec<String> = (0..40).map(|number| format!("f{number}")).collect();
    for key in &keys {
        stub.put_pattern(key, 1, CHUNK);
    }
    let volume = VolumeSpec::s3("data", &stub).chunk_size("64Ki").read_ahead("0").with("quota", "1Mi");
    let cluster = Cluster::builder().volume(volume).up();
    for key in &keys {
        pattern::check_version(key, 1, 0, &cluster.read("n1", "data", key).unwrap()).unwrap();
        let used = cluster.sum("larder_store_chunks", &[]) * CHUNK;
        assert!(used <= 1 << 20, "{used}; what has left but may still be mapped comes on top");
    }
    until("it keeps to its quota", &cluster, |sizes| {
        let sum = sizes.iter().sum::<u64>();
        (256 << 10..=1 << 20).contains(&sum)
    });
}
