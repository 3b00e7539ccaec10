//! Reads of every length and place, and what is as large as it comes: an object of 200 GiB, a directory of many names.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use larder_tests::harness::{Cluster, MINUTE, VolumeSpec, list, open_uncached, within};
use larder_tests::stub::{StubS3, pattern};
use nix::fcntl::OFlag;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const CHUNK: u64 = 256 * 1024;

fn bytes(key: &str, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    pattern::fill(key, 1, offset, &mut bytes);
    bytes
}

#[test]
fn reads_of_any_length_and_place_are_the_bytes_that_lie_there() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let size = 9 * MIB + 12_345;
    stub.put_pattern("f", 1, size);
    let cluster = Cluster::builder().volume(VolumeSpec::s3("data", &stub).chunk_size("256Ki")).up();
    let whole = bytes("f", 0, size);
    let places = [0, 1, 4095, 4096, 65_537, CHUNK - 1, CHUNK + 1, 3 * MIB + 777, size - MIB, size - 1, size, size + 1];
    let lengths = [0, 1, 4095, 4096, 65_537, MIB - 1, MIB, MIB + 1, 2 * MIB + 3];
    // O_DIRECT: the kernel asks the agent for just these bytes, at most a MiB at a time.
    for (node, flags) in [("n1", OFlag::O_DIRECT), ("n2", OFlag::empty()), ("n1", OFlag::empty())] {
        let file = cluster.mount(node, "data").join("f");
        let whole = whole.clone();
        within(MINUTE, "reads", move || {
            let file = File::options().read(true).custom_flags(flags.bits()).open(file).unwrap();
            for (place, len) in places.iter().flat_map(|place| lengths.map(|len| (*place, len))) {
                let mut piece = vec![0xee; usize::try_from(len).unwrap()];
                let got = file.read_at(&mut piece, place).unwrap_or_else(|e| panic!("{len} at {place}: {e}"));
                let start = usize::try_from(place.min(size)).unwrap();
                let wanted = &whole[start..usize::try_from((place + len).min(size)).unwrap().max(start)];
                assert_eq!(got, wanted.len(), "{len} at {place} on {node}, {flags:?}");
                assert!(piece[..got] == *wanted, "{len} at {place} on {node}, {flags:?}: other bytes");
                assert!(piece[got..].iter().all(|byte| *byte == 0xee), "nothing behind them is touched");
            }
        });
    }
}

/// The device and the options of what is mounted at a path.
fn mounted(at: &Path) -> (String, String) {
    let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = info.lines().find(|line| line.split(' ').nth(4) == at.to_str()).expect("it is mounted");
    (line.split(' ').nth(2).unwrap().to_owned(), line.split(' ').next_back().unwrap().to_owned())
}

#[test]
fn the_kernel_reads_ahead_what_the_volume_says_and_asks_for_a_mebibyte_at_most() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let volume = |name: &str| VolumeSpec::s3(name, &stub);
    let cluster = Cluster::builder()
        .nodes(1)
        .replicas(1)
        .volume(volume("usual"))
        .volume(volume("none").read_ahead("0"))
        .volume(volume("little").read_ahead("256Ki"))
        .volume(volume("much").read_ahead("4Mi"))
        .up();
    for (name, kib) in [("usual", "1024"), ("none", "0"), ("little", "256"), ("much", "4096")] {
        let (device, options) = mounted(&cluster.mount("n1", name));
        let read_ahead = std::fs::read_to_string(format!("/sys/class/bdi/{device}/read_ahead_kb")).unwrap();
        assert_eq!(read_ahead.trim(), kib, "{name}");
        assert!(options.split(',').any(|option| option == "max_read=1048576"), "{name}: {options}");
    }
}

#[test]
fn an_object_of_200_gib_is_read_at_its_ends_and_in_its_middle() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let size = 200 * GIB;
    stub.put_pattern("huge", 1, size);
    let cluster = Cluster::builder().volume(VolumeSpec::s3("data", &stub)).up();
    for node in ["n1", "n3"] {
        let path = cluster.mount(node, "data").join("huge");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
        for place in [size - MIB, 0, size / 2 - 333, size - 5] {
            let path = path.clone();
            let len = MIB.min(size - place);
            let piece = within(MINUTE, "a piece of it", move || {
                let mut piece = vec![0; usize::try_from(len).unwrap()];
                open_uncached(&path).and_then(|file| file.read_exact_at(&mut piece, place)).map(|()| piece)
            });
            assert!(piece.unwrap() == bytes("huge", place, len), "{place} on {node}");
        }
        let past = File::open(&path).unwrap().read_at(&mut [0; 10], size).unwrap();
        assert_eq!(past, 0, "the end is the end");
    }
    let gets = stub.counters().gets;
    assert!(gets < 100, "{gets} GETs of 51,200 chunks");
}

/// More names than one listing may hold: it is paged. A million take too long for `make test` with a debug build.
#[test]
fn a_directory_of_220_000_keys_is_listed_whole_within_the_room_for_names() {
    const KEYS: usize = 220_000;
    let stub = StubS3::builder().start_blocking().unwrap();
    let names: BTreeSet<String> = (0..KEYS).map(|number| format!("{number:07}")).collect();
    names.iter().for_each(|name| drop(stub.put_pattern(&format!("large/{name}"), 1, 10)));
    let cluster = Cluster::builder().alone().nodes(1).replicas(1).volume(VolumeSpec::s3("data", &stub)).up();
    let peak = || memory_bytes(cluster.agent_pid("n1"), "VmHWM");
    let (before, began) = (peak(), Instant::now());
    let dir = cluster.mount("n1", "data").join("large");
    let listed = within(5 * MINUTE, "a listing", move || list(&dir)).unwrap();
    let (took, grown) = (began.elapsed(), peak() - before);
    println!("{KEYS} names in {took:?}; the agent's peak grew by {} MiB", grown / MIB);
    assert_eq!(listed.len(), KEYS);
    assert!(listed == names, "each name once");
    let room = cluster.metrics("n1").sum("larder_memory_budget_bytes", &[]) / 4;
    assert!(grown < room, "{} MiB for names, of {} MiB", grown / MIB, room / MIB);
    assert!(took < Duration::from_secs(240), "{took:?}");
}

fn memory_bytes(pid: i32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
