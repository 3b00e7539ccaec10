//! Objects that are replaced or deleted while they are read (docs/FAULTS.md, row 13).

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use larder_tests::harness::{Cluster, MINUTE, VolumeSpec, errno, open_uncached, within};
use larder_tests::stub::{StubS3, pattern};
use nix::errno::Errno;

const CHUNK: usize = 64 * 1024;
const CHUNKS: usize = 16;
const SIZE: u64 = (CHUNK * CHUNKS) as u64;

fn cluster(stub: &StubS3) -> Cluster {
    let volume = VolumeSpec::s3("data", stub).chunk_size("64Ki").read_ahead("0").freshness("OnOpen");
    Cluster::builder().volume(volume).up()
}

fn open(path: &Path) -> io::Result<File> {
    let path = path.to_owned();
    within(MINUTE, "open", move || open_uncached(&path))
}

/// Reads one chunk; which version it has.
fn read_chunk(file: &File, key: &str, chunk: usize) -> io::Result<u64> {
    let (file, key) = (file.try_clone()?, key.to_owned());
    within(MINUTE, "read a chunk", move || {
        let (mut bytes, offset) = (vec![0; CHUNK], (chunk * CHUNK) as u64);
        file.read_exact_at(&mut bytes, offset)?;
        Ok(pattern::check(&key, offset, &bytes).unwrap())
    })
}

/// R1. A handle reads one version of the object from open to close. If that version disappears from the origin before all its chunks are cached, reads of the missing part give ESTALE; never a mixture.
#[test]
fn a_handle_reads_one_version_or_estale() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put_pattern("replaced", 1, SIZE);
    stub.put_pattern("deleted", 1, SIZE);
    let cluster = cluster(&stub);
    for key in ["replaced", "deleted"] {
        for node in ["n1", "n2"] {
            // Far from what the other node's turn has left in the cache.
            let version = if node == "n1" { 1 } else { 11 };
            stub.put_pattern(key, version, SIZE);
            let file = open(&cluster.mount(node, "data").join(key)).unwrap();
            assert_eq!(read_chunk(&file, key, 0).unwrap(), version, "{key} on {node}");
            match key {
                "replaced" => drop(stub.put_pattern(key, version + 1, SIZE)),
                _ => assert!(stub.delete(key)),
            }
            assert_eq!(read_chunk(&file, key, 0).unwrap(), version, "the part that is cached stays readable");
            let gone = read_chunk(&file, key, CHUNKS - 1).expect_err("that part of the version is nowhere");
            assert_eq!(errno(&gone), Errno::ESTALE, "{key} on {node}");
            let again = open(&cluster.mount(node, "data").join(key));
            match key {
                "replaced" => assert_eq!(read_chunk(&again.unwrap(), key, CHUNKS - 1).unwrap(), version + 1),
                _ => assert_eq!(errno(&again.expect_err("the object is gone")), Errno::ENOENT),
            }
        }
    }
}

/// What one open-to-close saw: the version it read to its end, or nothing when it ended with ESTALE.
fn read_whole(path: &Path, key: &str) -> Option<u64> {
    let mut file = open_uncached(path).unwrap_or_else(|e| panic!("{e}"));
    let (mut version, mut offset, mut bytes) = (None, 0, vec![0; CHUNK / 2]);
    loop {
        let read = match file.read(&mut bytes) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) => {
                assert_eq!(errno(&e), Errno::ESTALE, "{e}");
                return None;
            }
        };
        let found = pattern::check(key, offset, &bytes[..read]).expect("no mixture within a read");
        assert_eq!(*version.get_or_insert(found), found, "no mixture within a handle, at {offset}");
        offset += read as u64;
    }
    assert_eq!(offset, SIZE);
    version
}

#[test]
fn no_reader_ever_sees_two_versions_while_an_object_is_replaced_again_and_again() {
    let stub = Arc::new(StubS3::builder().latency(Duration::from_millis(5)).start_blocking().unwrap());
    stub.put_pattern("hot", 1, SIZE);
    let cluster = cluster(&stub);
    let until = Instant::now() + Duration::from_secs(6);
    let (whole, stale) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut threads = Vec::new();
    let paths: Vec<PathBuf> = cluster.node_names().iter().map(|node| cluster.mount(node, "data").join("hot")).collect();
    for path in paths.iter().cloned().chain(paths.iter().cloned()) {
        let (whole, stale) = (whole.clone(), stale.clone());
        threads.push(thread::spawn(move || {
            let mut newest = 0;
            while Instant::now() < until {
                match read_whole(&path, "hot") {
                    Some(version) => {
                        assert!(version >= newest, "version {version} after {newest}");
                        newest = version;
                        whole.fetch_add(1, Ordering::SeqCst);
                    }
                    None => drop(stale.fetch_add(1, Ordering::SeqCst)),
                }
            }
        }));
    }
    let writer = stub.clone();
    threads.push(thread::spawn(move || {
        let mut version = 1;
        while Instant::now() < until {
            version += 1;
            writer.put_pattern("hot", version, SIZE);
            // The pace of the replacements, chosen so that some handles read to their end and some don't.
            thread::sleep(Duration::from_millis(if version % 4 == 0 { 400 } else { 30 }));
        }
    }));
    within(MINUTE, "readers end", move || threads.into_iter().for_each(|thread| thread.join().unwrap()));
    let (whole, stale) = (whole.load(Ordering::SeqCst), stale.load(Ordering::SeqCst));
    println!("{whole} handles read to their end, {stale} ended with ESTALE");
    assert!(whole > 0 && stale > 0, "{whole} whole, {stale} stale: the replacements came in between");
}
