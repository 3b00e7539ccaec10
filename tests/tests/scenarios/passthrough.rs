//! Whole local files that the kernel reads past the agent: the same bytes as through it, whatever happens underneath.
//!
//! Where the kernel is older than 6.9 the files are read through the agent, and these scenarios say that they proved
//! less.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::slice;

use larder_tests::harness::{Cluster, ClusterBuilder, SOON, VolumeSpec, errno, wait_for, wait_until, within};
use larder_tests::stub::{StubS3, pattern};
use nix::errno::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap};

const MIB: u64 = 1 << 20;
const CHUNK: u64 = 256 << 10;

fn one_node(stub: &StubS3) -> ClusterBuilder {
    let volume = VolumeSpec::s3("data", stub).chunk_size("256Ki").freshness("1s");
    Cluster::builder().nodes(1).replicas(1).volume(volume)
}

/// Whether the kernel can do it; says so when it can't.
fn kernel_passes() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 9) {
        eprintln!("SKIPPED: kernel {} has no passthrough; only reads through the agent were tested", release.trim());
    }
    version >= (6, 9)
}

fn passed(cluster: &Cluster) -> u64 {
    cluster.sum("larder_passthrough_opens_total", &[])
}

fn refused(cluster: &Cluster, reason: &str) -> u64 {
    cluster.sum("larder_passthrough_refused_total", &[("reason", reason)])
}

fn path(cluster: &Cluster, key: &str) -> PathBuf {
    cluster.mount("n1", "data").join(key)
}

/// What the node's status says.
fn says(cluster: &Cluster) -> String {
    let nodes = cluster.get("cachenodes");
    nodes[0]["status"]["passthrough"].as_str().unwrap_or_default().to_owned()
}

/// The file is `version`'s, whole.
fn assert_is(file: &File, key: &str, version: u64, size: u64) {
    let mut bytes = vec![0; usize::try_from(size + 10).unwrap()];
    let (file, key) = (file.try_clone().unwrap(), key.to_owned());
    let (read, bytes) = within(SOON, "a whole file", move || {
        let mut read = 0;
        loop {
            match file.read_at(&mut bytes[read..], read as u64).unwrap() {
                0 => break (read, bytes),
                count => read += count,
            }
        }
    });
    assert_eq!(read as u64, size, "{key}");
    assert_eq!(pattern::check(&key, 0, &bytes[..read]), Ok(version));
}

/// Opens a file that is here whole, until it is passed through (it is read back first).
fn open_passed(cluster: &Cluster, key: &str) -> File {
    wait_for(SOON, "a file is passed through", || {
        let before = passed(cluster);
        let file = File::open(path(cluster, key)).unwrap();
        (passed(cluster) > before).then_some(file)
    })
}

/// Reads a file that isn't here yet, until all of it is.
fn bring(cluster: &Cluster, key: &str, version: u64, size: u64) {
    let fills = || cluster.debug("n1", "stores")["stores"][0]["counters"]["fills"].as_u64().unwrap();
    let wanted = fills() + size.div_ceil(CHUNK);
    assert_is(&File::open(path(cluster, key)).unwrap(), key, version, size);
    wait_until(SOON, "the store has taken all in", || fills() >= wanted);
}

/// Pushes what was cached before out of a store of 24 MiB.
fn evict_everything(cluster: &Cluster, stub: &StubS3, round: &str) {
    for number in 0..12 {
        let key = format!("filler-{round}-{number}");
        stub.put_pattern(&key, 1, 4 * MIB);
        bring(cluster, &key, 1, 4 * MIB);
    }
}

/// A mapping of a whole file; never unmapped: the test ends with its process.
fn map(file: &File, size: u64) -> &'static [u8] {
    let len = usize::try_from(size).unwrap();
    // SAFETY: a new read-only mapping of a file that nobody writes.
    unsafe {
        let start = mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, file, 0).unwrap();
        slice::from_raw_parts(start.cast::<u8>(), len)
    }
}

#[test]
fn whole_files_of_a_mebibyte_are_passed_through_and_smaller_ones_are_not() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let sizes = [MIB - 1, MIB, MIB + 1, 5 * MIB + 123, 16 * MIB];
    for size in sizes {
        stub.put_pattern(&format!("file-{size}"), 1, size);
    }
    let cluster = one_node(&stub).up();
    for size in sizes {
        let key = format!("file-{size}");
        bring(&cluster, &key, 1, size);
        if size >= MIB && kernel_passes() {
            let file = open_passed(&cluster, &key);
            let through_the_agent = cluster.sum("larder_fuse_read_bytes_total", &[]);
            assert_is(&file, &key, 1, size);
            assert_eq!(file.read_at(&mut [0; 8], size).unwrap(), 0, "nothing lies past the end");
            assert_eq!(map(&file, size)[usize::try_from(size - 1).unwrap()], pattern_byte(&key, size - 1));
            assert_eq!(cluster.sum("larder_fuse_read_bytes_total", &[]), through_the_agent, "{key}: the kernel itself");
            assert_eq!(cluster.sum("larder_passthrough_files", &[]), 1);
            assert_is(&File::open(path(&cluster, &key)).unwrap(), &key, 1, size);
            drop(file);
            wait_until(SOON, "the kernel gives the file back", || cluster.sum("larder_passthrough_files", &[]) == 0);
        }
        let before = passed(&cluster);
        for _ in 0..3 {
            assert_is(&File::open(path(&cluster, &key)).unwrap(), &key, 1, size);
        }
        assert_eq!(passed(&cluster) - before, if size >= MIB && kernel_passes() { 3 } else { 0 }, "{key}");
    }
    let writes = File::options().write(true).open(path(&cluster, &format!("file-{MIB}")));
    assert_eq!(errno(&writes.expect_err("a read-only volume")), Errno::EROFS);
}

fn pattern_byte(key: &str, offset: u64) -> u8 {
    let mut byte = [0; 1];
    pattern::fill(key, 1, offset, &mut byte);
    byte[0]
}

fn mappings_outlive_eviction(cluster: &Cluster, stub: &StubS3, open: impl Fn(&Cluster, &str) -> File) {
    let size = 3 * MIB + 77;
    stub.put_pattern("mapped", 1, size);
    bring(cluster, "mapped", 1, size);
    let mapping = map(&open(cluster, "mapped"), size);
    let evicted = || cluster.sum("larder_store_evicted_bytes_total", &[]);
    let before = evicted();
    evict_everything(cluster, stub, "mapped");
    assert!(evicted() > before + size, "everything was evicted");
    within(SOON, "the mapping's pages", move || assert_eq!(pattern::check("mapped", 0, mapping), Ok(1)));
    let again = File::open(path(cluster, "mapped")).unwrap();
    assert_is(&again, "mapped", 1, size);
}

#[test]
fn a_mapping_outlives_its_handle_and_its_file_in_the_store() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let cluster = one_node(&stub).capacity(24 * MIB).up();
    if kernel_passes() {
        mappings_outlive_eviction(&cluster, &stub, open_passed);
        assert!(passed(&cluster) > 0);
    }
}

#[test]
fn without_passthrough_everything_is_the_same_through_the_agent() {
    let stub = StubS3::builder().start_blocking().unwrap();
    // The smallest limit that an agent takes leaves no share for passthrough.
    let cluster = one_node(&stub).capacity(24 * MIB).descriptors(1024).up();
    mappings_outlive_eviction(&cluster, &stub, |cluster, key| {
        let open = || drop(File::open(path(cluster, key)).unwrap());
        if kernel_passes() {
            wait_until(SOON, "an open is refused for want of descriptors", || {
                open();
                refused(cluster, "descriptors") > 0
            });
        }
        File::open(path(cluster, key)).unwrap()
    });
    assert_eq!(passed(&cluster), 0);
}

#[test]
fn beyond_the_share_of_descriptors_files_are_read_through_the_agent() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let keys: Vec<String> = (0..5).map(|number| format!("file-{number}")).collect();
    for key in &keys {
        stub.put_pattern(key, 1, MIB + 5);
    }
    let cluster = one_node(&stub).descriptors(1024 + 4).up();
    keys.iter().for_each(|key| bring(&cluster, key, 1, MIB + 5));
    if !kernel_passes() {
        return;
    }
    keys.iter().for_each(|key| drop(open_passed(&cluster, key)));
    wait_until(SOON, "all are closed", || cluster.sum("larder_passthrough_files", &[]) == 0);
    let files: Vec<File> = keys.iter().map(|key| File::open(path(&cluster, key)).unwrap()).collect();
    assert_eq!(cluster.sum("larder_passthrough_files", &[]), 2, "the share");
    assert_eq!(refused(&cluster, "descriptors"), 3);
    wait_until(SOON, "the node says so", || says(&cluster) == "NoDescriptors");
    for (key, file) in keys.iter().zip(&files) {
        assert_is(file, key, 1, MIB + 5);
        // A handle more of an inode is read as the first one is: a mixture would be EIO.
        assert_is(&File::open(path(&cluster, key)).unwrap(), key, 1, MIB + 5);
    }
    drop(files);
    wait_until(SOON, "all are closed", || cluster.sum("larder_passthrough_files", &[]) == 0);
    drop(open_passed(&cluster, &keys[4]));
    wait_until(SOON, "the node says that all is well", || says(&cluster) == "Active");
}

#[test]
fn an_open_file_stays_what_it_was_when_its_object_is_replaced_or_its_agent_dies() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put_pattern("replaced", 1, 2 * MIB);
    let cluster = one_node(&stub).up();
    bring(&cluster, "replaced", 1, 2 * MIB);
    if !kernel_passes() {
        return;
    }
    let old = open_passed(&cluster, "replaced");
    stub.put_pattern("replaced", 2, 2 * MIB + 1);
    let new = wait_for(SOON, "the new version is seen", || {
        let file = File::open(path(&cluster, "replaced")).unwrap();
        (file.metadata().unwrap().len() > 2 * MIB).then_some(file)
    });
    assert_is(&new, "replaced", 2, 2 * MIB + 1);
    assert_is(&old, "replaced", 1, 2 * MIB);
    drop(new);
    cluster.kill("n1");
    assert_is(&old, "replaced", 1, 2 * MIB);
}

/// Opens and closes while the object becomes whole, from several threads: no open is ever a mixture of modes.
#[test]
fn files_become_whole_while_they_are_open() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let (size, rounds) = (4 * MIB, 6);
    for round in 0..rounds {
        stub.put_pattern(&format!("file-{round}"), 1, size);
    }
    let cluster = one_node(&stub).up();
    for round in 0..rounds {
        let key = format!("file-{round}");
        let readers = || {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..15).for_each(|_| read_some(&path(&cluster, &key), &key, size)));
                }
            });
        };
        readers();
        if kernel_passes() {
            let file = open_passed(&cluster, &key);
            readers();
            drop(file);
        }
        readers();
    }
    if kernel_passes() {
        assert!(passed(&cluster) > 0 && refused(&cluster, "unverified") > 0, "both ways were taken");
    }
}

fn read_some(path: &Path, key: &str, size: u64) {
    let file = File::open(path).unwrap();
    for offset in (0..size).step_by(128 * 1024) {
        let mut bytes = vec![0; 4096];
        file.read_exact_at(&mut bytes, offset).unwrap();
        assert_eq!(pattern::check(key, offset, &bytes), Ok(1));
    }
}
