//! What every scenario begins with: a Kubernetes with three nodes, a bucket, and Larder installed on it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use larder_tests::harness::program;
use larder_tests::kit::{Kubectl, Kubernetes, NAMESPACE, wait_for, wait_until};
use larder_tests::stub::StubS3;
use serde_json::{Value, json};
use tempfile::TempDir;

/// For pods to start, on a machine that has other things to do.
pub const PODS_WITHIN: Duration = Duration::from_secs(180);

/// A Kubernetes on which Larder is installed; everything ends with it.
pub struct World {
    pub kubernetes: Kubernetes,
    pub stub: StubS3,
    _folder: TempDir,
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the repository")
}

/// Archives of the images, made from the programs that are built.
fn images() -> PathBuf {
    let programs = program("larder-agent").parent().expect("it lies in a folder").to_owned();
    let out = programs.join("kit-images");
    let script = repository().join("tests/kit/images");
    let ran = Command::new(script).arg(&programs).arg(&out).status().expect("the script runs");
    assert!(ran.success(), "the images can't be made");
    out
}

impl World {
    /// Three nodes, and Larder as helm installs it.
    pub fn begin() -> Self {
        let world = Self::without_larder();
        world.install();
        world
    }

    /// Three nodes and a bucket.
    pub fn without_larder() -> Self {
        let images = images();
        let folder = tempfile::tempdir().expect("a folder");
        let kubernetes = Kubernetes::start(folder.path(), &images, 3);
        let stub = StubS3::builder().listen((kubernetes.machine(), 0).into()).start_blocking().expect("a bucket");
        Self { kubernetes, stub, _folder: folder }
    }

    /// `helm install`, the kinds first.
    pub fn install(&self) {
        let chart = |name: &str| repository().join("charts").join(name).display().to_string();
        self.kubectl().helm(&["install", "larder-crds", &chart("larder-crds")]).out();
        let (namespace, larder) = (["--namespace", NAMESPACE, "--create-namespace"], chart("larder"));
        let said = self
            .kubectl()
            .helm(&[&["install", "larder", &larder, "--wait", "--timeout=180s"], &namespace[..]].concat());
        assert!(said.ok, "{}{}\n{}", said.out, said.err, self.told());
        self.wait_for_operator();
    }

    pub fn kubectl(&self) -> &Kubectl {
        self.kubernetes.kubectl()
    }

    pub fn wait_for_operator(&self) {
        self.wait_for("deployment", NAMESPACE, "larder-operator", "/status/readyReplicas", &json!(2));
        self.wait_for("daemonset", "larder-node", "larder-node", "/status/numberReady", &json!(3));
    }

    fn wait_for(&self, kind: &str, namespace: &str, name: &str, pointer: &str, value: &Value) {
        wait_until(PODS_WITHIN, &format!("{kind} {name}: {pointer} is {value}"), || {
            self.kubectl().get_in(namespace, kind, name).is_some_and(|object| object.pointer(pointer) == Some(value))
        });
    }

    /// The example's manifests, for this bucket.
    pub fn example(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(repository().join("examples/s3.yaml")).expect("the example");
        let documents = serde_yaml::Deserializer::from_str(&text);
        let documents = documents.map(|document| serde::Deserialize::deserialize(document).expect("YAML"));
        documents.map(|document| self.with_bucket(document)).collect()
    }

    fn with_bucket(&self, mut document: Value) -> Value {
        match document["kind"].as_str() {
            Some("Secret") => {
                document["stringData"] =
                    json!({"accessKeyId": self.stub.access_key(), "secretAccessKey": self.stub.secret_key()});
            }
            Some("CacheCluster") => {
                // The kit's nodes have folders, not disks.
                for store in document["spec"]["pools"][0]["stores"].as_array_mut().into_iter().flatten() {
                    store["mountPoint"] = json!("Any");
                }
            }
            Some("CacheVolume") => {
                let origin = &mut document["spec"]["origin"]["s3"];
                origin["bucket"] = json!(self.stub.bucket());
                origin["endpoint"] = json!(self.stub.endpoint());
            }
            _ => {}
        }
        document
    }

    /// Applies the example and waits until it serves.
    pub fn apply_example(&self) {
        for document in self.example() {
            self.kubectl().apply(&document.to_string());
        }
        self.wait_ready();
    }

    /// `kubectl wait`, as people do.
    pub fn wait_ready(&self) {
        for what in ["cc/fast", "cv/models"] {
            let said = self.kubectl().try_run(&["wait", what, "--for=condition=Ready", "--timeout=180s"]);
            assert!(said.ok, "{what}: {}{}\n{}", said.out, said.err, self.told());
        }
    }

    /// What there is to know when something isn't as it should be.
    pub fn told(&self) -> String {
        let asked: [&[&str]; 5] = [
            &["get", "cc,cv,cn", "-A", "-o", "wide"],
            &["get", "pods", "-A", "-o", "wide"],
            &["get", "events", "-A", "--field-selector=type=Warning"],
            &["logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator", "--tail=20", "--prefix"],
            &["logs", "-l", "larder.dev/cluster=fast", "--tail=15", "--prefix"],
        ];
        let told = asked.iter().map(|arguments| {
            let said = self.kubectl().try_run(arguments);
            format!("$ kubectl {}\n{}{}", arguments.join(" "), said.out, said.err)
        });
        told.collect::<String>() + &self.kubernetes.logs()
    }

    /// A pod on `node` that sees the cluster's mounts at /data, and does nothing until it is told to.
    pub fn reader(&self, node: &str) -> String {
        let name = format!("reader-{node}");
        let cluster = self.cluster_id();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "reader"}},
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "shell", "image": "larder.test/shell:1", "imagePullPolicy": "IfNotPresent",
                    "command": ["sleep", "100000"],
                    "volumeMounts": [{"name": "data", "mountPath": "/data", "mountPropagation": "HostToContainer"}],
                }],
                "volumes": [{"name": "data", "hostPath": {"path": format!("/run/larder/{cluster}/mnt")}}],
            },
        });
        self.kubectl().apply(&pod.to_string());
        let said = self.kubectl().try_run(&["wait", &format!("pod/{name}"), "--for=condition=Ready", "--timeout=120s"]);
        assert!(said.ok, "{}{}\n{}", said.out, said.err, self.told());
        name
    }

    /// The cluster's id on the disks, from its agents' configuration.
    pub fn cluster_id(&self) -> String {
        let map = wait_for(PODS_WITHIN, "the agents' configuration", || self.kubectl().get("configmap", "fast-nvme"));
        let text = map["data"]["agent.yaml"].as_str().expect("planned");
        let config: Value = serde_yaml::from_str(text).expect("YAML");
        config["cluster"].as_str().expect("planned").to_owned()
    }

    /// What `sha256sum` says of a file in a reader's pod.
    pub fn sha256_in(&self, pod: &str, file: &str) -> String {
        let said = self.kubectl().try_run(&["exec", pod, "--", "sha256sum", file]);
        assert!(said.ok, "{file} in {pod}: {}{}\n{}", said.out, said.err, self.told());
        said.out.split_whitespace().next().expect("a digest").to_owned()
    }
}

impl World {
    /// The node's CacheNode.
    pub fn cache_node(&self, node: &str) -> Value {
        self.kubectl().get("cn", &format!("fast.{node}")).unwrap_or_default()
    }

    /// The epoch that the CacheCluster's status names.
    pub fn epoch(&self) -> u64 {
        let cluster = self.kubectl().get("cc", "fast").expect("there");
        cluster["status"]["epoch"].as_u64().expect("a map is published")
    }

    /// The node's agent's pod; none while there is none.
    pub fn agent_pod(&self, node: &str) -> String {
        let on = format!("--field-selector=spec.nodeName={node}");
        let query = "-o=jsonpath={.items[*].metadata.name}";
        self.kubectl().run(&["get", "pods", "-l", "larder.dev/cluster=fast", &on, query]).out()
    }

    /// How often the node's agent was started again in its pod.
    pub fn restarts(&self, node: &str) -> u64 {
        let pod = self.kubectl().get("pod", &self.agent_pod(node)).unwrap_or_default();
        pod.pointer("/status/containerStatuses/0/restartCount").and_then(Value::as_u64).unwrap_or(0)
    }
}
