//! A cluster whose agents are processes. No kubelet runs the pods: each agent is a process of the user that its pod would
//! have, given what the kubelet would have given it, beside a mounter of its node.

use std::fs::{File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use larder_tests::harness::{MINUTE, program, shared_program};
use larder_tests::kit::{ControlPlane, Kubectl, Operator, serve_service, wait_for, wait_until};
use larder_tests::stub::StubS3;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use tempfile::TempDir;

use super::{pods, three_nodes, wait_for_reason, with_crds};

/// The agents' user.
const USER: u32 = 65_532;

/// A node's mounter and folders, as processes would find them on a node of their own.
pub struct Node {
    name: String,
    folder: PathBuf,
    mounter: Child,
}

/// A pod's agent, as a process.
pub struct Agent {
    child: Child,
    log: PathBuf,
    pub mounts: PathBuf,
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
    pub fn agent(&self, kubectl: &Kubectl, authority: SocketAddr, cluster: &str, token: &str) -> Agent {
        let map = |name: &str, key: &str| -> String {
            let map = kubectl.get("configmap", name).expect("planned");
            map["data"][key].as_str().expect("planned").to_owned()
        };
        let mut config: serde_json::Map<String, Value> =
            serde_yaml::from_str(&map("fast-nvme", "agent.yaml")).expect("YAML");
        let run = self.folder.join("run").join(cluster);
        let at = |path: PathBuf| json!(path.display().to_string());
        let replaced = [
            ("authority", json!(authority.to_string())),
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
        self.deliver_trust(kubectl);
        write("token", token);
        let root = self.folder.parent().expect("the test's folder");
        let mut command = Command::new(shared_program(root, "larder-agent"));
        command.args(["serve", "--node", &self.name, "--address", "127.0.0.1", "--config"]);
        command.arg(self.folder.join("agent.yaml")).uid(USER).gid(USER);
        let log = self.folder.join("agent.log");
        Agent { child: logged(&mut command, &log), log, mounts: run.join("mnt") }
    }
}

impl Node {
    /// What the kubelet does with the CA certificates, at the start and whenever they change.
    fn deliver_trust(&self, kubectl: &Kubectl) {
        let map = kubectl.get("configmap", "fast-trust").expect("planned");
        let (aside, file) = (self.folder.join("trust.new"), self.folder.join("trust.pem"));
        std::fs::write(&aside, map["data"]["ca.pem"].as_str().expect("planned")).expect("written");
        std::fs::rename(aside, file).expect("renamed");
    }
}

impl Agent {
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

pub fn token(kubectl: &Kubectl, pod: &Value, audience: &str, account: &str) -> String {
    let name = pod["metadata"]["name"].as_str().expect("named");
    let uid = pod["metadata"]["uid"].as_str().expect("named");
    let bound = ["--bound-object-kind=Pod", "--bound-object-name", name, "--bound-object-uid", uid];
    let arguments = [&["create", "token", account, "--audience", audience][..], &bound[..]].concat();
    kubectl.run(&arguments).out().trim().to_owned()
}

/// The manifests; `more` is merged into the CacheCluster's spec.
fn manifests(stub: &StubS3, more: &Value) -> String {
    let mut spec = json!({"minNodes": 3, "replicas": 2, "pools": [{
        "name": "nvme", "selector": {"matchLabels": {"disk": "nvme"}},
        "stores": [{"name": "d0", "hostPath": "/mnt/nvme0", "capacity": "90%"}]}]});
    let more = more.as_object().cloned().unwrap_or_default();
    spec.as_object_mut().expect("an object").extend(more);
    [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
               "stringData": {"accessKeyId": stub.access_key(), "secretAccessKey": stub.secret_key()}}),
        json!({"apiVersion": "larder.dev/v1alpha1", "kind": "CacheCluster", "metadata": {"name": "fast"},
               "spec": spec}),
        json!({"apiVersion": "larder.dev/v1alpha1", "kind": "CacheVolume", "metadata": {"name": "data"},
               "spec": {"clusterRef": {"name": "fast"}, "origin": {"s3": {
                   "bucket": stub.bucket(), "endpoint": stub.endpoint(),
                   "credentials": {"secretRef": {"name": "keys"}}}}}}),
    ]
    .map(|document| document.to_string())
    .join("\n---\n")
}

/// What the kubelet would ask the agents' join token for.
pub fn audience(pod: &Value) -> String {
    let volumes = pod["spec"]["volumes"].as_array().expect("planned");
    let projected = |volume: &Value| volume.pointer("/projected/sources/0/serviceAccountToken/audience").cloned();
    let audience = volumes.iter().find_map(projected).expect("a join token is mounted");
    audience.as_str().expect("a text").to_owned()
}

pub fn bound_pods(kubectl: &Kubectl) -> Vec<Value> {
    wait_for(MINUTE, "a pod on each node", || {
        let pods = pods(kubectl, "larder.dev/cluster=fast");
        (pods.len() == 3 && pods.iter().all(|pod| pod["spec"]["nodeName"].is_string())).then_some(pods)
    })
}

/// A control plane, an operator, a bucket, and three nodes with their agents.
pub struct Agents {
    // In the order of their ends.
    agents: Vec<Option<Agent>>,
    pub nodes: Vec<Node>,
    pub operator: Option<Operator>,
    pub plane: ControlPlane,
    pub stub: StubS3,
    /// The Service through which agents find the authority.
    pub authority: SocketAddr,
    more: Value,
    folder: TempDir,
}

impl Agents {
    /// Everything but the agents; `more` is merged into the CacheCluster's spec.
    pub fn without_agents(more: Value) -> Self {
        let stub = StubS3::builder().start_blocking().expect("a bucket");
        stub.put_pattern("a/file", 1, 3_000_000);
        let folder = tempfile::tempdir().expect("a folder");
        // The agents' user passes through.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("ours");
        let plane = with_crds(folder.path());
        three_nodes(&plane);
        let operator = Some(Operator::start(&plane, "operator"));
        let agents = vec![None, None, None];
        let authority = serve_service(plane.kubectl(), "fast-authority");
        let mut world = Self { agents, nodes: Vec::new(), operator, plane, stub, authority, more, folder };
        world.apply();
        let id = world.id();
        world.nodes = ["n1", "n2", "n3"].map(|name| Node::start(world.folder.path(), name, &id)).into();
        world
    }

    /// The same with agents, once it serves.
    pub fn begin(more: Value) -> Self {
        let mut world = Self::without_agents(more);
        world.start_agents();
        world.wait_serving();
        world
    }

    pub fn kubectl(&self) -> &Kubectl {
        self.plane.kubectl()
    }

    /// Applies the manifests, and waits until there are pods, and an authority.
    pub fn apply(&self) {
        self.kubectl().apply(&manifests(&self.stub, &self.more));
        bound_pods(self.kubectl());
        wait_until(MINUTE, "the authority has an address", || {
            self.kubectl().get("endpointslice", "fast-authority").is_some()
        });
    }

    /// The cluster's uuid.
    pub fn id(&self) -> String {
        let audience = audience(&bound_pods(self.kubectl())[0]);
        audience.rsplit('/').next().expect("the cluster's uuid").to_owned()
    }

    /// The pod that is bound to a node.
    pub fn pod_of(&self, node: &str) -> Value {
        wait_for(MINUTE, "a pod on the node", || {
            let is_its =
                |pod: &Value| pod["spec"]["nodeName"] == node && pod["metadata"]["deletionTimestamp"].is_null();
            pods(self.kubectl(), "larder.dev/cluster=fast").into_iter().find(is_its)
        })
    }

    /// Starts the agent of node `n<number>`, with its pod's token.
    pub fn start_agent(&mut self, number: usize) {
        let node = &self.nodes[number - 1];
        let pod = self.pod_of(&node.name);
        let token = token(self.kubectl(), &pod, &audience(&pod), "fast-agent");
        let agent = node.agent(self.kubectl(), self.authority, &self.id(), &token);
        self.agents[number - 1] = Some(agent);
    }

    pub fn start_agents(&mut self) {
        (1..=3).for_each(|number| self.start_agent(number));
    }

    /// Ends it as the kubelet does.
    pub fn stop_agent(&mut self, number: usize) {
        self.agents[number - 1] = None;
    }

    pub fn agent(&self, number: usize) -> &Agent {
        self.agents[number - 1].as_ref().expect("it runs")
    }

    /// What the kubelets do now and then.
    pub fn deliver_trust(&self) {
        self.nodes.iter().for_each(|node| node.deliver_trust(self.kubectl()));
    }

    pub fn wait_serving(&self) {
        let told = || {
            let logs: String = self.agents.iter().flatten().map(Agent::log).collect();
            format!("{logs}\n{}", self.operator.as_ref().map(Operator::log).unwrap_or_default())
        };
        let is_ready = |kind: &str, name: &str| {
            let object = self.kubectl().get(kind, name).unwrap_or_default();
            super::condition(&object, "Ready").is_some_and(|(status, _, _)| status == "True")
        };
        let until = std::time::Instant::now() + MINUTE * 2;
        while !(is_ready("cc", "fast") && is_ready("cv", "data")) {
            assert!(std::time::Instant::now() < until, "it doesn't serve: {}", told());
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        wait_for_reason(self.kubectl(), "cc", "fast", "Serving");
    }

    /// The status of a node's CacheNode.
    pub fn status(&self, node: &str) -> Value {
        self.kubectl().get("cn", &format!("fast.{node}")).unwrap_or_default()["status"].clone()
    }

    /// The epoch that the CacheCluster's status names.
    pub fn epoch(&self) -> u64 {
        self.kubectl().get("cc", "fast").unwrap_or_default()["status"]["epoch"].as_u64().unwrap_or(0)
    }

    /// The published map, as the plugin shows it.
    pub fn map(&self) -> Value {
        let said = self.kubectl().own(&program("kubectl-larder"), &["map", "-o", "json"]).out();
        serde_json::from_str(&said).expect("JSON")
    }
}
