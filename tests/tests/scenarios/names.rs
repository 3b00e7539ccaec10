//! The tree that a bucket's keys make: large directories, odd keys, empty things.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use larder_tests::harness::{Cluster, MINUTE, VolumeSpec, errno, list, within};
use larder_tests::stub::StubS3;
use nix::errno::Errno;

#[test]
fn a_directory_of_ten_thousand_files_is_complete() {
    const FILES: usize = 10_000;
    let stub = StubS3::builder().start_blocking().unwrap();
    let names: BTreeSet<String> = (0..FILES).map(|number| format!("sample-{number:05}.json")).collect();
    for name in &names {
        stub.put(&format!("many/{name}"), name.clone());
    }
    let cluster = Cluster::builder().volume(VolumeSpec::s3("data", &stub)).up();
    for node in cluster.node_names() {
        let dir = cluster.mount(&node, "data").join("many");
        let listed = within(MINUTE, "list 10,000 names", move || list(&dir).unwrap());
        assert_eq!(listed.len(), FILES, "{node}");
        assert_eq!(listed, names, "{node}");
    }
    // 11 pages of 1,000 hold the directory; each node may ask for its own while it doesn't know the home's.
    let lists = stub.counters().lists();
    assert!(lists <= 3 * 11 + 10, "{lists} LISTs");
    for node in cluster.node_names() {
        let dir = cluster.mount(&node, "data").join("many");
        let names = names.clone();
        let asked = stub.counters().requests;
        within(MINUTE, "stat all", move || {
            for name in names.iter().step_by(7) {
                assert_eq!(std::fs::metadata(dir.join(name)).unwrap().len(), name.len() as u64, "{name}");
            }
        });
        assert_eq!(stub.counters().requests, asked, "a listed directory answers stat on {node}");
    }
    let last = names.last().unwrap();
    assert_eq!(cluster.read("n3", "data", &format!("many/{last}")).unwrap(), last.as_bytes());
}

#[test]
fn an_empty_object_is_an_empty_file() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put("empty", "");
    let cluster = Cluster::builder().nodes(1).replicas(1).volume(VolumeSpec::s3("data", &stub)).up();
    assert_eq!(cluster.read("n1", "data", "empty").unwrap(), b"");
    assert_eq!(std::fs::metadata(cluster.mount("n1", "data").join("empty")).unwrap().len(), 0);
    assert_eq!(stub.counters().gets, 0, "nothing to ask for");
    let missing = cluster.read("n1", "data", "missing").expect_err("there is no such object");
    assert_eq!(errno(&missing), Errno::ENOENT);
}

/// Keys that are files, each read byte for byte.
fn readable() -> Vec<String> {
    let component = "x".repeat(255);
    let long = [component.as_str(); 4].join("/");
    assert_eq!(long.len(), 1023);
    let plain = [
        "plain",
        "with space/and more  spaces",
        "percent%20sign",
        "100%",
        "a+b+c",
        "a+b/c d+e",
        "ünïcödé/日本語/🦀",
        "trailing.",
        ".hidden",
        "...",
        "..x/x..",
        "quote'\"",
        "back\\slash",
        "q?a=b&c#d",
        "tab\tinside",
        "new\nline",
        "control\u{1}",
        "~tilde",
        "$(shell)",
        "star*",
        "<xml>&amp;",
        "dir with marker/file",
        "emoji-👩‍👩‍👧",
        "-",
        "e\u{301}",
        "é",
    ];
    plain.into_iter().map(str::to_owned).chain([long]).collect()
}

/// Keys that can't be paths, by the reason they are counted under.
fn unreadable() -> Vec<(&'static str, Vec<String>)> {
    let (too_long, full) = ("y".repeat(256), "z".repeat(1024));
    let own = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
    vec![
        ("EmptyComponent", own(&["odd//b", "/leading", "//"])),
        ("DotComponent", own(&["../x", "odd/../x", "odd/./y", ".", ".."])),
        ("TooLong", vec![format!("odd/{too_long}"), too_long, full]),
    ]
}

/// Everything below a mount, as paths relative to it; directories end in a slash.
fn walk(root: PathBuf) -> BTreeSet<String> {
    let (mut found, mut open) = (BTreeSet::new(), vec![PathBuf::new()]);
    while let Some(dir) = open.pop() {
        for name in list(&root.join(&dir)).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = dir.join(name);
            let text = path.to_str().expect("keys are text").to_owned();
            if std::fs::symlink_metadata(root.join(&path)).unwrap_or_else(|e| panic!("{text}: {e}")).is_dir() {
                found.insert(format!("{text}/"));
                open.push(path);
            } else {
                found.insert(text);
            }
        }
    }
    found
}

#[test]
fn odd_keys_are_shown_or_left_out_and_counted_and_break_nothing() {
    let stub = StubS3::builder().start_blocking().unwrap();
    for key in readable() {
        stub.put(&key, format!("content of {key}"));
    }
    for key in unreadable().into_iter().flat_map(|(_, keys)| keys) {
        stub.put(&key, "never shown");
    }
    stub.put("empty-dir/", "");
    stub.put("dir with marker/", "");
    stub.put("odd/fine", "content of odd/fine");
    stub.put("both", "a file that its directory hides");
    stub.put("both/inside", "content of both/inside");
    let cluster = Cluster::builder().volume(VolumeSpec::s3("data", &stub)).up();

    let mut wanted: BTreeSet<String> = readable().into_iter().collect();
    wanted.extend(["odd/fine".to_owned(), "both/inside".to_owned()]);
    let files = wanted.clone();
    for key in &files {
        let slashes = key.match_indices('/').map(|(at, _)| key[..=at].to_owned());
        wanted.extend(slashes);
    }
    wanted.insert("empty-dir/".to_owned());
    for node in cluster.node_names() {
        let root = cluster.mount(&node, "data");
        assert_eq!(within(MINUTE, "walk the tree", move || walk(root)), wanted, "{node}");
        for key in &files {
            let bytes = cluster.read(&node, "data", key).unwrap_or_else(|e| panic!("{key:?} on {node}: {e}"));
            assert_eq!(String::from_utf8(bytes).unwrap(), format!("content of {key}"), "{node}");
        }
        let hidden = cluster.read(&node, "data", "both").expect_err("the directory wins");
        assert_eq!(errno(&hidden), Errno::EISDIR);
    }
    for (reason, keys) in unreadable() {
        let counted = cluster.sum("larder_odd_keys_total", &[("reason", reason)]);
        assert!(counted > 0, "{reason}: {keys:?}");
    }
    assert!(cluster.sum("larder_names_clash_total", &[]) > 0);
    let too_long = cluster.read("n1", "data", &"n".repeat(256)).expect_err("a component over 255 bytes");
    assert_eq!(errno(&too_long), Errno::ENAMETOOLONG);
    for node in cluster.node_names() {
        assert!(!cluster.log(&node).contains("panicked"), "{node}");
    }
}

/// A volume is a folder of the bucket: what lies beside it isn't seen, whatever it is called.
#[test]
fn a_prefix_is_the_root() {
    let stub = StubS3::builder().start_blocking().unwrap();
    for key in ["llm/a", "llm/dir/b", "llm", "llm-other/c", "other"] {
        stub.put(key, key.to_owned());
    }
    let mut volume = VolumeSpec::s3("data", &stub);
    let s3 = serde_json::json!({"bucket": stub.bucket(), "endpoint": stub.endpoint(), "prefix": "llm",
        "credentials": {"secretRef": {"name": "data-keys"}}});
    volume = volume.with("origin", serde_json::json!({ "s3": s3 }));
    let cluster = Cluster::builder().nodes(1).replicas(1).volume(volume).up();
    let root = cluster.mount("n1", "data");
    let found = within(Duration::from_secs(30), "walk the tree", move || walk(root));
    assert_eq!(found, ["a", "dir/", "dir/b"].map(str::to_owned).into());
    assert_eq!(cluster.read("n1", "data", "dir/b").unwrap(), b"llm/dir/b");
}
