//! Buckets that can't be read: what programs see, what the volume's conditions say, and that other volumes don't care.

use std::time::{Duration, Instant};

use larder_tests::harness::{Cluster, SOON, VolumeSpec, errno, list, within};
use larder_tests::stub::StubS3;
use nix::errno::Errno;

#[test]
fn each_way_to_miss_a_bucket_has_its_errno_and_its_reason() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put("file", "content");
    let endpoint = stub.endpoint();
    // A port that was ours a moment ago: nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // An address that answers nothing: RFC 5737's documentation network.
    let silent = "http://192.0.2.1:9000";
    let right = (stub.access_key(), stub.secret_key());
    let deadline = |volume: VolumeSpec| volume.read_deadline("2s");
    let cluster = Cluster::builder()
        .volume(deadline(VolumeSpec::s3("good", &stub)))
        .volume(deadline(VolumeSpec::bucket("wrong-secret", &endpoint, stub.bucket()).keys(right.0, "wrong")))
        .volume(deadline(VolumeSpec::bucket("wrong-key", &endpoint, stub.bucket()).keys("NOBODY", right.1)))
        .volume(deadline(VolumeSpec::bucket("no-bucket", &endpoint, "not-there").keys(right.0, right.1)))
        .volume(deadline(VolumeSpec::bucket("refused", &format!("http://{nobody}"), "bucket").keys("a", "b")))
        .volume(deadline(VolumeSpec::bucket("silent", silent, "bucket").keys("a", "b")))
        .up();
    for (volume, wanted, reason) in [
        ("wrong-secret", Errno::EACCES, "BadCredentials"),
        ("wrong-key", Errno::EACCES, "BadCredentials"),
        ("no-bucket", Errno::EIO, "NoSuchBucket"),
        ("refused", Errno::EIO, "Unreachable"),
        ("silent", Errno::EIO, "Unreachable"),
    ] {
        let began = Instant::now();
        let error = cluster.read("n1", volume, "file").expect_err("the bucket can't be read");
        assert_eq!(errno(&error), wanted, "{volume}");
        assert!(began.elapsed() < Duration::from_secs(6), "{volume}: {:?}", began.elapsed());
        let root = cluster.mount("n2", volume);
        let error = within(SOON, "a listing that fails", move || list(&root)).expect_err("nor listed");
        assert_eq!(errno(&error), wanted, "listing {volume}");
        cluster.wait_condition("cv", volume, "OriginReachable", reason);
        assert_eq!(cluster.condition("cv", volume, "OriginReachable").unwrap().0, "False");
        assert_eq!(cluster.read("n1", "good", "file").unwrap(), b"content", "beside {volume}");
    }
    assert_eq!(cluster.condition("cv", "good", "OriginReachable").unwrap().0, "True");
    assert_eq!(cluster.condition("cc", cluster.cluster_name(), "Ready").unwrap().0, "True");
    let status = cluster.larder(&["status"], SOON).ok();
    assert!(status.contains("NoSuchBucket") && status.contains("BadCredentials"), "{status}");
    for node in cluster.node_names() {
        assert!(!cluster.log(&node).contains(right.1), "a secret in the log of {node}");
    }
}

/// Access that is granted or mended later is picked up without a restart.
#[test]
fn mended_credentials_are_picked_up() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put("file", "content");
    let volume = |secret: &str| VolumeSpec::s3("data", &stub).keys(stub.access_key(), secret).read_deadline("2s");
    let mut cluster = Cluster::builder().nodes(1).replicas(1).volume(volume("wrong")).up();
    let error = cluster.read("n1", "data", "file").expect_err("wrong secret");
    assert_eq!(errno(&error), Errno::EACCES);
    let right = volume(stub.secret_key());
    cluster.apply(|_| Cluster::builder().nodes(1).replicas(1).volume(right)).ok();
    larder_tests::harness::wait_until(SOON, "the new secret is used", || {
        cluster.read("n1", "data", "file").is_ok_and(|bytes| bytes == b"content")
    });
    cluster.wait_condition("cv", "data", "OriginReachable", "Reachable");
}
