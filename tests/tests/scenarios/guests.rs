//! Copies of what a node reads but doesn't own (`localCopies`).

use std::fs::File;

use larder_tests::harness::{Cluster, SOON, VolumeSpec, wait_until};
use larder_tests::stub::{StubS3, pattern};

const CHUNK: u64 = 256 << 10;
const CHUNKS: u64 = 48;
const SIZE: u64 = CHUNK * CHUNKS;

fn volume(name: &str, stub: &StubS3, local_copies: &str) -> VolumeSpec {
    VolumeSpec::s3(name, stub).chunk_size("256Ki").read_ahead("0").local_copies(local_copies)
}

fn chunks(cluster: &Cluster, node: &str) -> u64 {
    cluster.metrics(node).sum("larder_store_chunks", &[])
}

fn assert_right(bytes: &[u8], key: &str) {
    assert_eq!(bytes.len() as u64, SIZE);
    assert_eq!(pattern::check(key, 0, bytes), Ok(1));
}

#[test]
fn a_node_completes_what_it_has_read_half_of_from_its_peers_alone() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put_pattern("read", 1, SIZE);
    stub.put_pattern("touched", 1, SIZE);
    let cluster = Cluster::builder().replicas(1).volume(volume("data", &stub, "Auto")).up();
    let completed = || cluster.metrics("n2").sum("larder_guests_total", &[("outcome", "completed")]);

    // Everything is at its owners now, and n1 has read all of it: it gets a copy of its own.
    assert_right(&cluster.read("n1", "data", "read").unwrap(), "read");
    wait_until(SOON, "n1 has all chunks", || chunks(&cluster, "n1") == CHUNKS);
    assert_eq!(stub.counters().gets, CHUNKS, "the copy came from peers");
    assert!(chunks(&cluster, "n2") < CHUNKS && chunks(&cluster, "n3") < CHUNKS, "they own a part each");

    // A third of an object isn't half of it.
    assert_right(&cluster.read("n1", "data", "touched").unwrap(), "touched");
    let before = chunks(&cluster, "n2");
    let file = File::open(cluster.mount("n2", "data").join("touched")).unwrap();
    let read = |chunk: u64| {
        let mut bytes = [0; 4096];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, chunk * CHUNK).unwrap();
        assert_eq!(pattern::check("touched", chunk * CHUNK, &bytes), Ok(1));
    };
    (0..CHUNKS).step_by(3).for_each(read);
    assert_eq!((completed(), chunks(&cluster, "n2")), (0, before));
    (0..CHUNKS).filter(|chunk| chunk % 3 == 1).for_each(read);
    wait_until(SOON, "two thirds are enough", || completed() == 1);
    assert!(chunks(&cluster, "n2") > before);
    assert_eq!(stub.counters().gets, 2 * CHUNKS, "all from peers");

    // The local copy outlives the peers.
    cluster.kill("n1");
    cluster.kill("n3");
    assert_right(&cluster.read("n2", "data", "touched").unwrap(), "touched");
}

#[test]
fn always_is_at_the_first_read_and_never_is_never() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put_pattern("file", 1, SIZE);
    let volumes = [volume("always", &stub, "Always"), volume("never", &stub, "Never")];
    let [always, never] = volumes;
    let cluster = Cluster::builder().replicas(1).volume(always).volume(never).up();
    for volume in ["always", "never"] {
        assert_right(&cluster.read("n1", volume, "file").unwrap(), "file");
    }
    let held = |cluster: &Cluster| -> u64 { cluster.node_names().iter().map(|node| chunks(cluster, node)).sum() };
    wait_until(SOON, "n1 has all of one volume", || held(&cluster) > 2 * CHUNKS);
    let before = held(&cluster);
    cluster.read("n2", "always", "file").map(|bytes| assert_right(&bytes, "file")).unwrap();
    wait_until(SOON, "and n2", || held(&cluster) > before);
    let completed = |node: &str| cluster.metrics(node).sum("larder_guests_total", &[("outcome", "completed")]);
    wait_until(SOON, "two copies", || completed("n1") + completed("n2") == 2);
    let settled = held(&cluster);
    cluster.read("n2", "never", "file").map(|bytes| assert_right(&bytes, "file")).unwrap();
    assert_eq!((held(&cluster), completed("n2")), (settled, 1));
}

#[test]
fn a_guest_takes_no_room_above_the_low_watermark() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put_pattern("file", 1, SIZE);
    // The object's owners have room for their parts; no node has room for all of it below 80 %.
    let cluster = Cluster::builder().replicas(1).capacity(SIZE * 3 / 4).volume(volume("data", &stub, "Auto")).up();
    assert_right(&cluster.read("n1", "data", "file").unwrap(), "file");
    let outcome = |which| cluster.metrics("n1").sum("larder_guests_total", &[("outcome", which)]);
    wait_until(SOON, "the copy is refused", || outcome("no_room") > 0);
    assert_eq!(outcome("completed"), 0);
    assert_eq!(cluster.sum("larder_store_evicted_bytes_total", &[]), 0);
}
