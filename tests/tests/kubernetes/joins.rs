//! Agents join with their pods' tokens, and nobody else does; then the cluster is Ready and serves.
//!
//! No kubelet runs the pods: each agent is a process of the user that its pod would have, given what the kubelet would
//! have given it, beside a mounter of its node.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use larder_tests::harness::{MINUTE, program, sha256, wait_for, wait_until, within};
use larder_tests::kit::{Kubectl, Operator};
use larder_tests::stub::{StubS3, pattern};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{pods, three_nodes, wait_for_reason, with_crds};

/// The agents' user.
const USER: u32 = 65_532;

/// A node's mounter and folders, as processes would find them on a node of their own.
struct Node {
    name: String,
    folder: PathBuf,
    mounter: Child,
}

/// A pod's agent, as a process.
struct Agent {
    child: Child,
    log: PathBuf,
    mounts: PathBuf,
}

fn end(child: &mut Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    // It may have ended by itself.
    let _ = kill(pid, signal);
    let _ = child.wait();
}

impl Drop for Agent {
    fn drop(&mut self) {
        end(&mut self.child, Signal::SIGTERM);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What its agent mounted is gone with the agent.
        end(&mut self.mounter, Signal::SIGKILL);
    }
}

/// Copies of the programs that another user may run: the build's folder may be ours alone.
fn shared_program(folder: &Path, name: &str) -> PathBuf {
    let copy = folder.join(name);
    if !copy.exists() {
        std::fs::copy(program(name), &copy).expect("copied");
        std::fs::set_permissions(&copy, Permissions::from_mode(0o755)).expect("ours");
    }
    copy
}

fn logged(command: &mut Command, log: &Path) -> Child {
    let log = File::create(log).expect("a log");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
    command.spawn().expect("the program starts")
}

impl Node {
    fn start(folder: &Path, name: &str, cluster: &str) -> Self {
        let node = folder.join(name);
        for part in ["disk", &format!("run/{cluster}")] {
            std::fs::create_dir_all(node.join(part)).expect("made");
        }
        let mut command = Command::new(program("larder-mounter"));
        command.arg("--run").arg(node.join("run")).arg("--allowed-prefixes").arg(&node);
        let mounter = logged(&mut command, &node.join("mounter.log"));
        Self { name: name.to_owned(), folder: node, mounter }
    }

    /// The agent of `pod`, with the ConfigMaps that it would mount, and `token`.
    fn agent(&self, kubectl: &Kubectl, cluster: &str, token: &str) -> Agent {
        let map = |name: &str, key: &str| -> String {
            let map = kubectl.get("configmap", name).expect("planned");
            map["data"][key].as_str().expect("planned").to_owned()
        };
        let mut config: serde_json::Map<String, Value> =
            serde_yaml::from_str(&map("fast-nvme", "agent.yaml")).expect("YAML");
        let slice = kubectl.get("endpointslice", "fast-authority").expect("planned");
        let host = slice["endpoints"][0]["addresses"][0].as_str().expect("one").to_owned();
        let run = self.folder.join("run").join(cluster);
        let at = |path: PathBuf| json!(path.display().to_string());
        let replaced = [
            ("authority", json!(format!("{host}:{}", slice["ports"][0]["port"]))),
            ("trust", at(self.folder.join("trust.pem"))),
            ("token", at(self.folder.join("token"))),
            ("state", at(run.join("agent"))),
            ("mounts", at(run.join("mnt"))),
            ("mounter", at(run.join("mounter.sock"))),
            ("ports", json!({"peer": 0, "admin": 0})),
            (
                "stores",
                json!([{"name": "d0", "path": self.folder.join("disk").join(format!("larder-{cluster}")),
                        "hostPath": self.folder.join("disk"), "capacityBytes": 256 << 20}]),
            ),
        ];
        config.extend(replaced.map(|(key, value)| (key.to_owned(), value)));
        let write = |name: &str, text: &str| std::fs::write(self.folder.join(name), text).expect("written");
        write("agent.yaml", &serde_json::to_string(&config).expect("JSON"));
        write("trust.pem", &map("fast-trust", "ca.pem"));
        write("token", token);
        let root = self.folder.parent().expect("the test's folder");
        let mut command = Command::new(shared_program(root, "larder-agent"));
        command.args(["serve", "--node", &self.name, "--address", "127.0.0.1", "--config"]);
        command.arg(self.folder.join("agent.yaml")).uid(USER).gid(USER);
        let log = self.folder.join("agent.log");
        Agent { child: logged(&mut command, &log), log, mounts: run.join("mnt") }
    }
}

impl Agent {
    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

fn token(kubectl: &Kubectl, pod: &Value, audience: &str, account: &str) -> String {
    let name = pod["metadata"]["name"].as_str().expect("named");
    let uid = pod["metadata"]["uid"].as_str().expect("named");
    let bound = ["--bound-object-kind=Pod", "--bound-object-name", name, "--bound-object-uid", uid];
    let arguments = [&["create", "token", account, "--audience", audience][..], &bound[..]].concat();
    kubectl.run(&arguments).out().trim().to_owned()
}

fn cluster(stub: &StubS3) -> String {
    [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
               "stringData": {"accessKeyId": stub.access_key(), "secretAccessKey": stub.secret_key()}}),
        json!({"apiVersion": "larder.dev/v1alpha1", "kind": "CacheCluster", "metadata": {"name": "fast"},
               "spec": {"minNodes": 3, "replicas": 2, "pools": [{
                   "name": "nvme", "selector": {"matchLabels": {"disk": "nvme"}},
                   "stores": [{"name": "d0", "hostPath": "/mnt/nvme0", "capacity": "90%"}]}]}}),
        json!({"apiVersion": "larder.dev/v1alpha1", "kind": "CacheVolume", "metadata": {"name": "data"},
               "spec": {"clusterRef": {"name": "fast"}, "origin": {"s3": {
                   "bucket": stub.bucket(), "endpoint": stub.endpoint(),
                   "credentials": {"secretRef": {"name": "keys"}}}}}}),
    ]
    .map(|document| document.to_string())
    .join("\n---\n")
}

/// What the kubelet would ask the agents' join token for.
fn audience(pod: &Value) -> String {
    let volumes = pod["spec"]["volumes"].as_array().expect("planned");
    let projected = |volume: &Value| volume.pointer("/projected/sources/0/serviceAccountToken/audience").cloned();
    let audience = volumes.iter().find_map(projected).expect("a join token is mounted");
    audience.as_str().expect("a text").to_owned()
}

fn bound_pods(kubectl: &Kubectl) -> Vec<Value> {
    wait_for(MINUTE, "a pod on each node", || {
        let pods = pods(kubectl, "larder.dev/cluster=fast");
        (pods.len() == 3 && pods.iter().all(|pod| pod["spec"]["nodeName"].is_string())).then_some(pods)
    })
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn agents_join_with_their_pods_tokens_and_the_cluster_serves() {
    let stub = StubS3::builder().start_blocking().expect("a bucket");
    stub.put_pattern("a/file", 1, 3_000_000);
    let folder = tempfile::tempdir().expect("a folder");
    let plane = with_crds(folder.path());
    three_nodes(&plane);
    let _operator = Operator::start(&plane, "operator");
    let kubectl = plane.kubectl();
    kubectl.apply(&cluster(&stub));
    let pods = bound_pods(kubectl);
    let audience = audience(&pods[0]);
    let id = audience.rsplit('/').next().expect("the cluster's uuid").to_owned();
    wait_until(MINUTE, "the authority has an address", || kubectl.get("endpointslice", "fast-authority").is_some());
    // The agents' user passes through.
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("ours");
    let node_of = |pod: &Value| pod["spec"]["nodeName"].as_str().expect("bound").to_owned();
    let nodes: Vec<Node> = pods.iter().map(|pod| Node::start(folder.path(), &node_of(pod), &id)).collect();

    // For the API server instead of the join port; of another node's pod; no token at all.
    let foreign = [
        token(kubectl, &pods[0], "https://kubernetes.default.svc", "fast-agent"),
        token(kubectl, &pods[1], &audience, "fast-agent"),
        "nonsense".to_owned(),
    ];
    for token in &foreign {
        let agent = nodes[0].agent(kubectl, &id, token);
        wait_until(MINUTE, "a foreign token is refused", || agent.log().contains("refuses this node"));
    }
    assert!(kubectl.get("cc", "fast").is_some_and(|cc| cc["status"]["epoch"].is_null()));

    let own = |pod: &Value| token(kubectl, pod, &audience, "fast-agent");
    let agents: Vec<Agent> = nodes.iter().zip(&pods).map(|(node, pod)| node.agent(kubectl, &id, &own(pod))).collect();
    wait_for_reason(kubectl, "cc", "fast", "Serving");
    wait_for_reason(kubectl, "cv", "data", "Serving");
    let mut wanted = vec![0; 3_000_000];
    pattern::fill("a/file", 1, 0, &mut wanted);
    for agent in &agents {
        let file = agent.mounts.join("data/a/file");
        let read = within(MINUTE, "reading", move || std::fs::read(file)).expect("reads");
        assert_eq!(sha256(&read), sha256(&wanted));
    }
    let domains: Vec<Value> = ["fast.n1", "fast.n2", "fast.n3"]
        .map(|name| kubectl.get("cn", name).expect("there")["status"]["domain"].clone())
        .into();
    assert_eq!(domains, ["a", "b", "c"], "the operator tells the zones");
    for line in ["cc", "cv", "cn"] {
        println!("{}", kubectl.run(&["get", line, "-o", "wide"]).out());
    }
    let account = "--as=system:serviceaccount:default:fast-agent";
    let rights = kubectl.run(&["auth", "can-i", "--list", account]).out();
    for verb in ["get", "list", "watch", "create", "patch", "delete"] {
        for kind in ["pods", "secrets", "configmaps", "cc", "nodes"] {
            let may = kubectl.try_run(&["auth", "can-i", verb, kind, account]);
            assert_eq!(may.out.trim(), "no", "{verb} {kind}: {rights}");
        }
    }
}
