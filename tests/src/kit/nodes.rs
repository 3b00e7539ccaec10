//! Nodes with kubelets: each a process 1 of namespaces of its own (`tests/kit/node`), with containerd, the kubelet and
//! kube-proxy below it. Killing it is pulling its plug; starting it again with the same folder is booting it.

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::control_plane::{ControlPlane, Kubectl, programs, spawn_ending_with_us};
use super::network::Network;
use super::{wait_for, wait_until};
use crate::harness::MINUTE;

/// A kubelet registers 5 s after its start on an idle machine.
const READY_WITHIN: Duration = Duration::from_secs(180);

/// A Kubernetes with nodes that run pods.
pub struct Kubernetes {
    // In the order of their ends.
    nodes: Vec<Node>,
    plane: ControlPlane,
    images: PathBuf,
    network: Network,
}

/// One node.
struct Node {
    number: u8,
    name: String,
    labels: String,
    folder: PathBuf,
    cgroup: String,
    running: Option<Child>,
}

impl Kubernetes {
    /// Starts one in `folder` with `count` nodes `n1..`, in zones a, b, c in turn, with the label disk=nvme, and waits
    /// until they are Ready. `images` is a folder of archives that each node has.
    ///
    /// # Panics
    /// When it doesn't come up.
    #[must_use]
    pub fn start(folder: &Path, images: &Path, count: u8) -> Self {
        let shared = programs();
        let network = Network::claim(shared.parent().expect("the kit's folder"));
        let plane = ControlPlane::start_for_nodes(folder, network.machine());
        drop(plane.user("proxy", "kit-proxy", Some("system:masters"), Vec::new()));
        let mut kubernetes = Self { nodes: Vec::new(), plane, images: images.to_owned(), network };
        (1..=count).for_each(|number| kubernetes.add_node(number));
        for number in 1..=count {
            kubernetes.wait_until_ready(&format!("n{number}"));
        }
        kubernetes
    }

    /// The control plane.
    pub fn plane(&mut self) -> &mut ControlPlane {
        &mut self.plane
    }

    /// `kubectl`.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        self.plane.kubectl()
    }

    /// The address at which nodes and pods reach this machine.
    #[must_use]
    pub fn machine(&self) -> IpAddr {
        self.network.machine().into()
    }

    /// Adds node `n<number>`.
    pub fn add_node(&mut self, number: u8) {
        let name = format!("n{number}");
        let address = self.network.node(number).into();
        let user = format!("system:node:{name}");
        drop(self.plane.user(&name, &user, Some("system:nodes"), vec![address]));
        let zone = ["a", "b", "c"][usize::from(number - 1) % 3];
        let folder = self.plane.folder().join(&name);
        std::fs::create_dir_all(folder.join("mnt/nvme0")).expect("made");
        let cgroup = format!("larder-kit-{}-{name}", self.network.number());
        let labels = format!("disk=nvme,topology.kubernetes.io/zone={zone}");
        let mut node = Node { number, name, labels, folder, cgroup, running: None };
        node.boot(&self.plane, &self.network, &self.images);
        self.nodes.push(node);
    }

    /// Pulls a node's plug.
    pub fn kill_node(&mut self, name: &str) {
        self.node(name).kill();
    }

    /// Boots it again: its disks are as they were, its /run is empty.
    pub fn boot_node(&mut self, name: &str) {
        let position = self.nodes.iter().position(|node| node.name == name).expect("there is such a node");
        self.nodes[position].boot(&self.plane, &self.network, &self.images);
    }

    /// A node's folder: `mnt` is its /mnt.
    pub fn node_folder(&mut self, name: &str) -> PathBuf {
        self.node(name).folder.clone()
    }

    /// Processes of a node whose command line contains `words`; as the machine numbers them.
    #[must_use]
    pub fn processes(&self, name: &str, words: &str) -> Vec<u32> {
        let node = self.nodes.iter().find(|node| node.name == name).expect("there is such a node");
        let is_its = |process: &u32| {
            let read = |file: &str| std::fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
            let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            command.contains(words) && String::from_utf8_lossy(&read("cgroup")).contains(&format!("/{}/", node.cgroup))
        };
        let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_its).collect()
    }

    /// Kills them at once.
    ///
    /// # Panics
    /// When there are none: a fault that isn't injected proves nothing.
    pub fn kill(&self, name: &str, words: &str) {
        let found = self.processes(name, words);
        assert!(!found.is_empty(), "no process of {name} is called {words}");
        for process in found {
            let process = nix::unistd::Pid::from_raw(i32::try_from(process).expect("a pid"));
            // It may end by itself meanwhile.
            let _ = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL);
        }
    }

    /// A file as the container sees it whose process's command line contains `words`.
    #[must_use]
    pub fn read_in_container(&self, name: &str, words: &str, file: &str) -> Option<String> {
        // One may have been a child that is gone already; then another one is of the same container.
        let read = |process: u32| std::fs::read_to_string(format!("/proc/{process}/root{file}")).ok();
        self.processes(name, words).into_iter().find_map(read)
    }

    fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).expect("there is such a node")
    }

    /// Waits until a node is Ready.
    pub fn wait_until_ready(&self, name: &str) {
        let query = "-o=jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        wait_until(READY_WITHIN, &format!("node {name} is Ready"), || {
            self.kubectl().try_run(&["get", "node", name, query]).out == "True"
        });
    }

    /// The ends of all logs, for a test that failed.
    #[must_use]
    pub fn logs(&self) -> String {
        let of = |node: &Node, program: &str| {
            let text = std::fs::read_to_string(node.folder.join(format!("{program}.log"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(10).collect();
            format!("== {} {program}\n{}\n", node.name, lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        };
        let nodes =
            self.nodes.iter().flat_map(|node| ["node", "containerd", "kubelet"].map(|program| of(node, program)));
        self.plane.logs() + &nodes.collect::<String>()
    }
}

impl Node {
    fn boot(&mut self, plane: &ControlPlane, network: &Network, images: &Path) {
        self.kill();
        let log = File::create(self.folder.join("node.log")).expect("a log");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kit/node");
        let mut command = Command::new("unshare");
        command
            .args(["--fork", "--kill-child=KILL", "--pid", "--mount", "--propagation", "private", "--mount-proc"])
            .args(["--net", "--uts", "--"])
            .arg(script)
            .env("NODE", &self.name)
            .env("FOLDER", &self.folder)
            .env("ADDRESS", network.node(self.number).to_string())
            .env("GATEWAY", network.machine().to_string())
            .env("PODS", network.pods(self.number))
            .env("ALL_PODS", network.all_pods())
            .env("PLANE", plane.folder())
            .env("BIN", plane.bin())
            .env("IMAGES", images)
            .env("CGROUP", &self.cgroup)
            .env("LABELS", &self.labels)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        let outer = spawn_ending_with_us(&mut command);
        let id = outer.id();
        self.running = Some(outer);
        let first = wait_for(MINUTE, "the node has a process 1", || child_of(id));
        // Its network is there from its first moment on, or a little later.
        wait_until(MINUTE, "the node has a network of its own", || {
            let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
            of(&first.to_string()).is_some_and(|own| Some(own) != of("self"))
        });
        network.connect(self.number, first);
    }

    fn kill(&mut self) {
        if let Some(mut outer) = self.running.take() {
            if let Some(first) = child_of(outer.id()) {
                // Everything in its process namespace ends with it.
                let first = nix::unistd::Pid::from_raw(i32::try_from(first).expect("a pid"));
                let _ = nix::sys::signal::kill(first, nix::sys::signal::Signal::SIGKILL);
            }
            let _ = outer.wait();
        }
        remove_cgroups(&self.cgroup);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn child_of(process: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Removes a cgroup in every hierarchy. Its processes are killed; the kernel may still be about it.
fn remove_cgroups(name: &str) {
    let roots =
        std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path().join(name));
    let folders = roots.chain([Path::new("/sys/fs/cgroup").join(name)]).filter(|folder| folder.is_dir());
    for folder in folders {
        for _ in 0..50 {
            remove_folders(&folder);
            if !folder.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Removes folders, the innermost first; a cgroup's files can't be removed and needn't be. The kubelet nests them a few
/// levels deep.
fn remove_folders(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_folders(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(folder);
}
