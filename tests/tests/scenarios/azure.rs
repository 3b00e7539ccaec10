//! A container of Azurite behind a mount: its bytes on every node, with an account key and with a token.

use std::path::Path;

use larder_tests::azurite::Azurite;
use larder_tests::harness::{Cluster, SOON, VolumeSpec, errno, list, sha256, wait_until, within};
use larder_tests::stub::pattern;
use nix::errno::Errno;

const CHUNK: u64 = 256 * 1024;

/// Sizes around every edge: nothing, block, chunk, and several chunks.
const SIZES: [u64; 7] = [0, 1, 65_537, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 12_345];

/// S1. A file is an object, under its own key, byte for byte. Anyone may read it from the bucket without Larder.
#[test]
fn every_mount_has_the_containers_bytes_with_key_and_with_token() {
    let azurite = Azurite::shared();
    azurite.create("bytes");
    let mut files = Vec::new();
    for (number, size) in SIZES.into_iter().enumerate() {
        let name = format!("dir {}/é+%{number}", number % 2);
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        pattern::fill(&name, 1, 0, &mut bytes);
        azurite.put("bytes", &format!("root/{name}"), &bytes);
        files.push((name, sha256(&bytes)));
    }
    azurite.put_stub("bytes", "root/empty");
    let token = azurite.token("bytes", "rl", 3600);
    let volume = |name: &str, key: (&str, &str)| {
        VolumeSpec::azure(name, azurite, ("bytes", "root"), key).chunk_size("256Ki").read_deadline("5s")
    };
    let mut cluster = Cluster::builder()
        .volume(volume("key", ("accountKey", azurite.key())))
        .volume(volume("token", ("sasToken", &token)))
        .volume(volume("wrong", ("sasToken", &azurite.token("bytes", "rl", -60))))
        .up();
    for (node, volume) in
        [("n1", "key"), ("n2", "key"), ("n3", "key"), ("n1", "token"), ("n2", "token"), ("n3", "token")]
    {
        for (name, wanted) in &files {
            let bytes =
                cluster.read(node, volume, name).unwrap_or_else(|e| panic!("{name} of {volume} on {node}: {e}"));
            assert_eq!(&sha256(&bytes), wanted, "{name} of {volume} on {node}, {} bytes", bytes.len());
        }
        for (at, wanted) in
            [("", vec!["dir 0", "dir 1", "empty"]), ("empty", vec![]), ("dir 1", vec!["é+%1", "é+%3", "é+%5"])]
        {
            let path = cluster.mount(node, volume).join(Path::new(at));
            let found: Vec<String> =
                within(SOON, "a listing", move || list(&path)).expect("lists").into_iter().collect();
            assert_eq!(found, wanted, "{at:?} of {volume} on {node}");
        }
    }
    let origin =
        cluster.get("cv").iter().find(|cv| cv["metadata"]["name"] == "token").unwrap()["status"]["origin"].clone();
    assert_eq!(origin, "azure://larder/bytes/root");

    let error = cluster.read("n1", "wrong", &files[1].0).expect_err("the token has expired");
    assert_eq!(errno(&error), Errno::EACCES);
    wait_until(SOON, "the condition says that the token is refused", || {
        let condition = cluster.condition("cv", "wrong", "OriginReachable");
        condition
            .is_some_and(|(status, reason)| status == "False" && ["AccessDenied", "BadCredentials"].contains(&&*reason))
    });
    // A new token is taken up without a restart.
    let mended = |name: &str| volume(name, ("sasToken", &token));
    let (right, wrong) = (mended("token"), mended("wrong"));
    let key = volume("key", ("accountKey", azurite.key()));
    cluster.apply(|_| Cluster::builder().volume(key).volume(right).volume(wrong)).ok();
    wait_until(SOON, "the new token is used", || {
        cluster.read("n1", "wrong", &files[1].0).is_ok_and(|bytes| sha256(&bytes) == files[1].1)
    });
    cluster.wait_condition("cv", "wrong", "OriginReachable", "Reachable");
    for node in cluster.node_names() {
        let log = cluster.log(&node);
        assert!(!log.contains(azurite.key()) && !log.contains("sig="), "a secret in the log of {node}");
    }
}
