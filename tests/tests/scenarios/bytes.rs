//! The bytes of every file on every mount are the bucket's: cold, warm, after restarts, after losses, after bit rot.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use larder_tests::harness::{Cluster, Copies, SOON, VolumeSpec, errno, sha256, wait_until};
use larder_tests::stub::{StubS3, pattern};
use nix::errno::Errno;

const CHUNK: u64 = 256 * 1024;

/// Sizes around every edge: block, chunk, and several chunks.
const SIZES: [u64; 9] = [1, 4095, 65_536, 65_537, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 8 * CHUNK + 12_345];

fn volume(stub: &StubS3) -> VolumeSpec {
    VolumeSpec::s3("data", stub).chunk_size("256Ki")
}

fn pattern_sha256(key: &str, size: u64) -> String {
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    pattern::fill(key, 1, 0, &mut bytes);
    sha256(&bytes)
}

/// Puts a file of each size; returns names, hashes, and how many chunks they have.
fn fill_bucket(stub: &StubS3) -> (Vec<(String, String)>, u64) {
    let mut files = Vec::new();
    for (number, size) in SIZES.into_iter().enumerate() {
        let key = format!("dir{}/file{number}", number % 2);
        stub.put_pattern(&key, 1, size);
        files.push((key.clone(), pattern_sha256(&key, size)));
    }
    (files, SIZES.iter().map(|size| size.div_ceil(CHUNK)).sum())
}

fn assert_all_right(cluster: &Cluster, files: &[(String, String)]) {
    for node in cluster.node_names() {
        for (key, wanted) in files {
            let bytes = cluster.read(&node, "data", key).unwrap_or_else(|e| panic!("{key} on {node}: {e}"));
            assert_eq!(&sha256(&bytes), wanted, "{key} on {node}, {} bytes", bytes.len());
        }
    }
}

/// S1. A file is an object, under its own key, byte for byte. Anyone may read it from the bucket without Larder.
#[test]
fn every_mount_has_the_buckets_bytes_cold_warm_and_after_a_restart() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let (files, chunks) = fill_bucket(&stub);
    let cluster = Cluster::builder().volume(volume(&stub)).up();

    assert_all_right(&cluster, &files);
    assert_eq!(stub.counters().gets, chunks, "cold: each chunk once for the whole cluster");
    cluster.wait_copies(Copies { chunks, replicas: 2 });

    assert_all_right(&cluster, &files);
    assert_eq!(stub.counters().gets, chunks, "warm: no GET");

    cluster.restart(&["n1", "n2", "n3"]);
    assert_all_right(&cluster, &files);
    assert_eq!(stub.counters().gets, chunks, "a restart keeps the cache: no GET");
}

/// R5. Losing all cached copies of a clean chunk is a miss. The reader gets an error only if the origin can't be read either, and then it is EIO after the volume's `readDeadline` (30 s).
#[test]
fn losing_every_copy_is_a_miss_and_an_error_only_without_the_origin() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put_pattern("kept", 1, 3 * CHUNK);
    stub.put_pattern("never-read", 1, 3 * CHUNK);
    let deadline = Duration::from_secs(2);
    let volume = volume(&stub).read_deadline("2s").freshness("Forever").read_ahead("0");
    let mut cluster = Cluster::builder().volume(volume).up();
    let right = pattern_sha256("kept", 3 * CHUNK);
    assert_eq!(sha256(&cluster.read("n1", "data", "kept").unwrap()), right);

    cluster.down();
    for node in cluster.node_names() {
        std::fs::remove_dir_all(cluster.node_dir(&node).join("d0")).unwrap();
    }
    cluster.up();
    cluster.wait_ready();
    assert_eq!(stub.counters().gets, 3);
    assert_eq!(sha256(&cluster.read("n1", "data", "kept").unwrap()), right);
    assert_eq!(stub.counters().gets, 6, "all copies were lost, so each chunk is asked for once more");

    let unread = cluster.mount("n1", "data").join("never-read");
    let unread = File::open(unread).expect("the name is known while the origin answers");
    stub.stop();
    let began = Instant::now();
    let error = larder_tests::harness::within(SOON, "a read without an origin", move || {
        unread.read_at(&mut [0; 4096], 0).expect_err("there is neither copy nor origin")
    });
    assert_eq!(errno(&error), Errno::EIO);
    assert!(began.elapsed() < deadline + Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(sha256(&cluster.read("n2", "data", "kept").unwrap()), right, "what is cached is served");
}

/// The files below a store's `objects/`.
fn store_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { store_files(&path) } else { vec![path] }).collect()
}

/// R7. Bytes are checked from the moment of the fill to the door. The one exception is a file that the kernel reads past the agent (passthrough): every byte of it was read back from the disk and checked before that, since the agent started; in between the kernel reads it.
#[test]
fn bytes_that_rot_on_a_disk_never_reach_a_reader() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let (files, chunks) = fill_bucket(&stub);
    let mut cluster = Cluster::builder().volume(volume(&stub)).up();
    assert_all_right(&cluster, &files);
    cluster.wait_copies(Copies { chunks, replicas: 2 });

    // Stopped meanwhile: what is in memory isn't read from the disk.
    cluster.down();
    let mut flipped = 0;
    for path in store_files(&cluster.node_dir("n1").join("d0/objects")) {
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], 0).unwrap();
        file.sync_all().unwrap();
        flipped += 1;
    }
    assert!(flipped > 0, "n1 keeps chunks");
    cluster.up();
    cluster.wait_ready();
    assert_all_right(&cluster, &files);
    wait_until(SOON, "the rot is counted", || cluster.sum("larder_corrupt_blocks_total", &[]) > 0);
}
