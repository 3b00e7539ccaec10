//! Pods that read without pause, each file once, and count what goes wrong.

use std::collections::BTreeMap;

use larder_tests::harness::sha256;
use larder_tests::kit::wait_until;
use larder_tests::stub::pattern;
use serde_json::json;

use super::world::{PODS_WITHIN, World};

/// Files below `f/` of the volume; a reader that is through begins again.
const FILES: u64 = 4_000;

const BYTES: usize = 50_000;

/// One reader on each of some nodes.
pub struct Readers {
    nodes: Vec<&'static str>,
}

/// What a reader has seen.
pub struct Seen {
    /// Files read whole, and as the bucket has them.
    pub read: usize,
    /// Files that couldn't be opened or read.
    pub failed: Vec<String>,
}

impl Readers {
    /// Fills the bucket.
    pub fn fill(world: &World) {
        for file in 0..FILES {
            world.stub.put_pattern(&format!("llm/f/{file}"), 1, BYTES as u64);
        }
    }

    /// Starts them, and waits until each has read something.
    pub fn start(world: &World, nodes: &[&'static str]) -> Self {
        let cluster = world.cluster_id();
        // Readers begin at different files, so that they don't only read what another has just brought.
        let program = format!(
            "i=$START; while :; do i=$(((i + 1) % {FILES})); sha256sum /data/models/f/$i >> /tmp/read 2>> /tmp/failed || date +%s >> /tmp/failed_at; sleep 0.05; done"
        );
        for (number, node) in nodes.iter().enumerate() {
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("reads-{node}")},
                "spec": {
                    "nodeName": node,
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "shell", "image": "larder.test/shell:1", "imagePullPolicy": "IfNotPresent",
                        "command": ["sh", "-c", program],
                        "env": [{"name": "START", "value": (number * 1_300).to_string()}],
                        "volumeMounts": [{"name": "data", "mountPath": "/data", "mountPropagation": "HostToContainer"}],
                    }],
                    "volumes": [{"name": "data", "hostPath": {"path": format!("/run/larder/{cluster}/mnt")}}],
                },
            });
            world.kubectl().apply(&pod.to_string());
        }
        let readers = Self { nodes: nodes.to_vec() };
        readers.wait_for_progress(world);
        readers
    }

    /// Waits until each has read 20 files more than now.
    pub fn wait_for_progress(&self, world: &World) {
        let now: BTreeMap<&str, usize> =
            self.nodes.iter().map(|node| (*node, lines(world, node, "read").len())).collect();
        wait_until(PODS_WITHIN, "every reader goes on", || {
            now.iter().all(|(node, before)| lines(world, node, "read").len() > before + 20)
        });
    }

    /// What each has seen so far. Every digest is compared with the bucket's.
    pub fn seen(&self, world: &World) -> BTreeMap<&'static str, Seen> {
        let mut digests = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for node in &self.nodes {
            let read = lines(world, node, "read");
            for line in &read {
                let (digest, path) = line.split_once("  ").unwrap_or_else(|| panic!("{node}: {line}"));
                let name = path.trim_start_matches("/data/models/").to_owned();
                let wanted = digests.entry(name.clone()).or_insert_with(|| {
                    let mut bytes = vec![0; BYTES];
                    pattern::fill(&format!("llm/{name}"), 1, 0, &mut bytes);
                    sha256(&bytes)
                });
                assert_eq!(digest, wanted, "{node}: {name}");
            }
            seen.insert(*node, Seen { read: read.len(), failed: lines(world, node, "failed") });
        }
        seen
    }

    /// When reads failed on a node, in seconds since 1970.
    pub fn failed_at(&self, world: &World, node: &str) -> Vec<u64> {
        lines(world, node, "failed_at").iter().map(|line| line.parse().expect("a time")).collect()
    }

    /// Asserts that no reader on any other node than `excused` has seen an error; returns those of `excused`.
    pub fn assert_undisturbed(&self, world: &World, excused: &[&str]) -> Vec<String> {
        let mut allowed = Vec::new();
        for (node, seen) in self.seen(world) {
            println!("reader on {node}: {} files read, {} failed", seen.read, seen.failed.len());
            assert!(seen.read > 20, "the reader on {node} has hardly read: {}", seen.read);
            if excused.contains(&node) {
                allowed.extend(seen.failed);
            } else {
                assert!(seen.failed.is_empty(), "{node}: {:?}\n{}", seen.failed, world.told());
            }
        }
        allowed
    }
}

/// A reader's file, line by line; a last line that is being written is left out.
fn lines(world: &World, node: &str, file: &str) -> Vec<String> {
    // By the node's own files: the API server may be down.
    let text = world.kubernetes.read_in_container(node, "while :; do", &format!("/tmp/{file}")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}
