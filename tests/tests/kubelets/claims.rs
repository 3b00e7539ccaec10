//! Pods that ask for a PersistentVolumeClaim and get files, and what is left when they are gone.

use std::time::Duration;

use larder_tests::harness::sha256;
use larder_tests::kit::wait_until;
use larder_tests::stub::pattern;
use serde_json::{Value, json};

use super::world::{PODS_WITHIN, World, repository};

const CLASS: &str = "larder.default.models";

/// What is applied, for how long it takes to be seen.
const SOON: Duration = Duration::from_secs(60);

fn claim(name: &str, namespace: &str, annotations: &Value) -> String {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
        "spec": {
            "storageClassName": CLASS, "accessModes": ["ReadOnlyMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    })
    .to_string()
}

/// A pod that has the claim at /data, and does nothing until it is told to.
fn pod(name: &str, node: &str, claim: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsUser": 1000, "fsGroup": 2000},
            "containers": [{
                "name": "shell", "image": "larder.test/shell:1", "imagePullPolicy": "IfNotPresent",
                "command": ["sleep", "100000"],
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "data", "mountPath": "/part", "subPath": "deep/er"},
                ],
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        },
    })
    .to_string()
}

impl World {
    fn start_pod(&self, name: &str, node: &str, claim: &str) {
        self.kubectl().apply(&pod(name, node, claim));
        let said = self.kubectl().try_run(&["wait", &format!("pod/{name}"), "--for=condition=Ready", "--timeout=120s"]);
        assert!(said.ok, "{}{}\n{}", said.out, said.err, self.told());
    }

    /// Waits for an Event about an object whose words are these.
    fn wait_event(&self, about: &str, words: &str) {
        let chosen = format!("--field-selector=involvedObject.name={about}");
        let query = "-o=jsonpath={range .items[*]}{.reason}: {.message}{'\\n'}{end}";
        let said = || self.kubectl().run(&["get", "events", "-A", &chosen, query]).out();
        let until = std::time::Instant::now() + SOON;
        while !said().contains(words) {
            assert!(std::time::Instant::now() < until, "{about}: no Event says {words:?}:\n{}", said());
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Volumes of ours in pods of a node, as its mounter sees them.
    fn binds(&self, node: &str) -> Vec<String> {
        let mounter = self.kubernetes.processes(node, "larder-mounter --run");
        let text =
            mounter.first().and_then(|process| std::fs::read_to_string(format!("/proc/{process}/mountinfo")).ok());
        let text = text.expect("the node's mounter runs");
        let ours = text.lines().filter(|line| line.contains("kubernetes.io~csi") && line.contains("fuse.larder"));
        ours.map(str::to_owned).collect()
    }

    fn exists(&self, kind: &str, name: &str) -> bool {
        self.kubectl().get(kind, name).is_some()
    }

    fn wait_gone(&self, kind: &str, name: &str) {
        let gone = || !self.exists(kind, name);
        let until = std::time::Instant::now() + SOON;
        while !gone() {
            assert!(std::time::Instant::now() < until, "{kind} {name} is still there\n{}", self.told());
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

#[test]
#[ignore = "needs kubelets: make test-k8s"]
fn a_pod_that_asks_for_a_volume_gets_its_files_and_leaves_nothing() {
    let mut world = World::begin();
    let files = [("a", 1), ("deep/er/b", 4 << 20), ("c", 9_000_001)];
    for (name, size) in files {
        world.stub.put_pattern(&format!("llm/{name}"), 1, size);
    }
    world.apply_example();
    wait_until(SOON, "the volume has a StorageClass", || world.exists("storageclass", CLASS));

    world.kubectl().apply(&claim("data", "default", &json!({})));
    let said = world.kubectl().try_run(&["wait", "pvc/data", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s"]);
    assert!(said.ok, "{}{}\n{}", said.out, said.err, world.told());
    let bound = world.kubectl().get("pvc", "data").expect("there");
    let persistent = bound["spec"]["volumeName"].as_str().expect("bound").to_owned();
    assert_eq!(persistent, format!("pvc-{}", bound["metadata"]["uid"].as_str().expect("an object has one")));

    for (number, node) in ["n1", "n2"].into_iter().enumerate() {
        let name = format!("p{number}");
        world.start_pod(&name, node, "data");
        for (file, size) in files {
            let mut wanted = vec![0; usize::try_from(size).expect("small")];
            pattern::fill(&format!("llm/{file}"), 1, 0, &mut wanted);
            assert_eq!(world.sha256_in(&name, &format!("/data/{file}")), sha256(&wanted), "{file} on {node}");
        }
        assert_eq!(world.sha256_in(&name, "/part/b"), world.sha256_in(&name, "/data/deep/er/b"), "by subPath");
        let written = world.kubectl().try_run(&["exec", &name, "--", "sh", "-c", "echo x > /data/new"]);
        assert!(!written.ok && written.err.contains("Read-only file system"), "{}", written.err);
        let binds = world.binds(node);
        assert!(binds.len() == 1 && binds[0].contains(" ro,"), "{binds:?}");
    }
    the_example_reads(&world);
    others_are_refused(&world);
    a_node_without_an_agent_says_so(&world);
    a_mounter_that_ends_disturbs_no_pod(&world);
    a_volume_waits_for_its_claims(&world);

    let uid = |name: &str| {
        let pod = world.kubectl().get("pod", name).expect("there");
        pod["metadata"]["uid"].as_str().expect("an object has one").to_owned()
    };
    let uids = [("n1", uid("p0")), ("n2", uid("p1"))];
    world.kubectl().run(&["delete", "pod", "p0", "p1", "--timeout=60s"]).out();
    for (node, uid) in uids {
        wait_until(SOON, "nothing is mounted for pods", || world.binds(node).is_empty());
        let folder = world.kubernetes.node_folder(node).join("var/lib/kubelet/pods").join(uid);
        wait_until(SOON, "the pod's folder is gone", || !folder.exists());
    }
    world.kubectl().run(&["delete", "pvc", "data", "--timeout=60s"]).out();
    world.wait_gone("pv", &persistent);
    // It was deleted above, and waited for this.
    world.wait_gone("cv", "models");
    world.wait_gone("storageclass", CLASS);
}

/// As it is shipped, but for the image: the nodes have no other shell.
fn the_example_reads(world: &World) {
    let text = std::fs::read_to_string(repository().join("examples/pod.yaml")).expect("the example");
    let image = "busybox:1.37";
    assert!(text.contains(image));
    world.kubectl().apply(&text.replace(image, "larder.test/shell:1"));
    let said = world.kubectl().try_run(&["wait", "pod/reader", "--for=condition=Ready", "--timeout=120s"]);
    assert!(said.ok, "{}{}\n{}", said.out, said.err, world.told());
    wait_until(SOON, "it lists the files", || world.kubectl().run(&["logs", "reader"]).out().contains("deep"));
    world.kubectl().run(&["delete", "pod/reader", "pvc/models", "--grace-period=0", "--timeout=60s"]).out();
}

/// A claim of another namespace, and one of a part of a volume.
fn others_are_refused(world: &World) {
    world.kubectl().run(&["create", "namespace", "other"]).out();
    world.kubectl().apply(&claim("theirs", "other", &json!({})));
    world.wait_event(
        "theirs",
        "NamespaceNotAllowed: CacheVolume default/models may be used by claims of its own namespace",
    );
    world.kubectl().apply(&claim("part", "default", &json!({"larder.dev/prefix": "deep"})));
    world.wait_event("part", "PrefixNotSupported");
    for (name, namespace) in [("theirs", "other"), ("part", "default")] {
        let claim = world.kubectl().get_in(namespace, "pvc", name).expect("there");
        assert_eq!(claim["status"]["phase"], "Pending", "{name}");
        world.kubectl().run(&["delete", "pvc", name, "-n", namespace]).out();
    }
}

fn a_node_without_an_agent_says_so(world: &World) {
    world.kubectl().run(&["label", "node", "n3", "disk-"]).out();
    wait_until(PODS_WITHIN, "its agent is gone", || world.agent_pod("n3").is_empty());
    world.kubectl().apply(&pod("waits", "n3", "data"));
    world.wait_event("waits", "node n3 has no agent that has CacheVolume default/models mounted");
    world.kubectl().run(&["label", "node", "n3", "disk=nvme"]).out();
    let said = world.kubectl().try_run(&["wait", "pod/waits", "--for=condition=Ready", "--timeout=180s"]);
    assert!(said.ok, "{}{}\n{}", said.out, said.err, world.told());
    world.kubectl().run(&["delete", "pod", "waits", "--timeout=60s"]).out();
}

/// The agent has the connection; the next mounter mounts for those that come.
fn a_mounter_that_ends_disturbs_no_pod(world: &World) {
    let before = world.kubernetes.processes("n1", "larder-mounter --run");
    world.kubernetes.kill("n1", "larder-mounter --run");
    wait_until(PODS_WITHIN, "another mounter is there", || {
        let now = world.kubernetes.processes("n1", "larder-mounter --run");
        !now.is_empty() && now != before
    });
    world.start_pod("after", "n1", "data");
    assert_eq!(world.sha256_in("after", "/data/c"), world.sha256_in("p0", "/data/c"));
    assert_eq!(world.binds("n1").len(), 2);
    world.kubectl().run(&["delete", "pod", "after", "--timeout=60s"]).out();
    wait_until(SOON, "only the first pod's is left", || world.binds("n1").len() == 1);
}

fn a_volume_waits_for_its_claims(world: &World) {
    world.kubectl().run(&["delete", "cv", "models", "--wait=false"]).out();
    wait_until(SOON, "it says what it waits for", || {
        let volume = world.kubectl().get("cv", "models").expect("it is held");
        let conditions = volume["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| {
            condition["reason"] == "Deleting"
                && condition["message"].as_str().is_some_and(|said| said.contains("default/data"))
        })
    });
    assert_eq!(world.sha256_in("p0", "/data/c"), world.sha256_in("p1", "/data/c"), "it is read as before");
}
