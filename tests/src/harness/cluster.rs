//! A running cluster.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::builder::ClusterBuilder;
use super::disks::Disk;
use super::nodes::Node;
use super::patience::{MINUTE, SOON, wait_for, wait_until};
use super::programs::larder_program;
use super::reading::read_uncached;
use super::run::{Ran, run};
use super::traces::remove_traces;
use super::turns::{self, Turn};

/// `larder up` and its agents.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    pub(super) spec: ClusterBuilder,
    up: Option<Child>,
    // Before the folder that they are in.
    disks: BTreeMap<String, Disk>,
    folder: TempDir,
    _turn: Turn,
}

impl Cluster {
    /// A cluster to be.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::new()
    }

    pub(super) fn start(spec: ClusterBuilder) -> Cluster {
        let turn = turns::take(spec.company);
        // Not in target/: a Unix socket's path has at most 107 bytes. Not in /tmp: that may be memory.
        let folder = tempfile::Builder::new().prefix("larder-").tempdir_in("/var/tmp").expect("a folder in /var/tmp");
        let name = std::thread::current().name().unwrap_or("unnamed").to_owned();
        let disk = |(node, mebibytes): &(String, u64)| {
            let image = folder.path().join(format!("{node}.image"));
            (node.clone(), Disk::new(&image, &folder.path().join(format!("c/{node}/d0")), *mebibytes))
        };
        let disks = spec.disks.iter().map(disk).collect();
        let mut cluster = Cluster { name, folder, spec, up: None, disks, _turn: turn };
        cluster.up();
        cluster
    }

    /// Starts `larder up` in the foreground of its own, after the first start or after [`Cluster::down`].
    ///
    /// # Panics
    /// If it says no.
    pub fn up(&mut self) {
        if let Err(words) = self.try_up() {
            panic!("larder up: {words}");
        }
    }

    /// Starts `larder up`; what it says when it refuses. The process has ended then.
    pub fn try_up(&mut self) -> Result<(), String> {
        self.write_yaml();
        let log = |name: &str| File::create(self.folder().join(name)).expect("the folder is ours");
        let mut command = self.program();
        command.arg("up").arg(self.yaml_file()).args(["--nodes", &self.spec.nodes.to_string()]);
        command.args(["--clients", &self.spec.clients.to_string()]);
        command.arg("--dir").arg(self.dir()).args(&self.spec.up_args);
        command.stdin(Stdio::null()).stdout(log("up.out")).stderr(log("up.err"));
        let descriptors = self.spec.descriptors;
        // SAFETY: prctl(PR_SET_PDEATHSIG) and setrlimit are async-signal-safe and touch only the new process. A test that
        // is killed takes its cluster with it.
        unsafe {
            command.pre_exec(move || {
                if let Some(limit) = descriptors {
                    setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?;
                }
                Ok(set_pdeathsig(Signal::SIGTERM)?)
            });
        }
        let mut child = command.spawn().expect("larder starts");
        let said = |name: &str| std::fs::read_to_string(self.folder().join(name)).unwrap_or_default();
        let outcome = wait_for(MINUTE, "larder up says that it is up, or ends", || {
            if said("up.out").contains("is up: ") {
                return Some(Ok(()));
            }
            child.try_wait().expect("our own child").map(|_| Err(said("up.err")))
        });
        if outcome.is_ok() {
            self.up = Some(child);
        }
        outcome
    }

    /// The program, in the cgroup that the cluster is to be in.
    fn program(&self) -> Command {
        let Some(group) = &self.spec.cgroup else { return Command::new(larder_program()) };
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(group.join("cgroup.procs")).arg(larder_program());
        shell
    }

    fn write_yaml(&self) {
        std::fs::write(self.yaml_file(), self.spec.yaml()).expect("the folder is ours");
    }

    fn yaml_file(&self) -> PathBuf {
        self.folder().join("cluster.yaml")
    }

    /// Changes what the cluster is to be, and lets the running `larder up` apply it; ended agents start again.
    pub fn apply(&mut self, change: impl FnOnce(ClusterBuilder) -> ClusterBuilder) -> Ran {
        self.spec = change(self.spec.clone());
        self.up_again()
    }

    /// Changes what the next [`Cluster::try_up`] starts with.
    pub fn respecify(&mut self, change: impl FnOnce(ClusterBuilder) -> ClusterBuilder) {
        self.spec = change(self.spec.clone());
    }

    /// `larder up` beside the one that runs: applies the difference and starts agents that have ended.
    pub fn up_again(&self) -> Ran {
        self.write_yaml();
        let yaml = self.yaml_file();
        let nodes = self.spec.nodes.to_string();
        self.larder(&["up", yaml.to_str().expect("made of text"), "--nodes", &nodes], MINUTE)
    }

    /// `larder ARGS --dir ...`.
    pub fn larder(&self, args: &[&str], deadline: Duration) -> Ran {
        run(Command::new(larder_program()).args(args).arg("--dir").arg(self.dir()), deadline)
    }

    /// `larder down`; the cache stays.
    pub fn down(&mut self) {
        self.larder(&["down"], MINUTE).ok();
        self.reap();
        let left = remove_traces(self.dir().as_path());
        assert!(left.is_empty(), "larder down left behind: {left:?}");
    }

    /// SIGINT to `larder up`, as Ctrl-C sends; waits until it has ended.
    pub fn interrupt(&mut self) {
        let pid = self.up.as_ref().expect("the cluster is up").id();
        kill(Pid::from_raw(i32::try_from(pid).expect("pids are small")), Signal::SIGINT).expect("our own child");
        self.reap();
    }

    /// Kills `larder up` and all agents without a word, as a crash of the machine's session would.
    pub fn crash(&mut self) {
        let pids: Vec<i32> = self.node_names().iter().map(|name| self.node(name).pid()).collect();
        let mut up = self.up.take().expect("the cluster is up");
        // Agents first: they would stop in order when their parent dies.
        for name in self.node_names() {
            self.node(&name).signal(Signal::SIGKILL);
        }
        up.kill().and_then(|()| up.wait()).expect("our own child");
        wait_until(SOON, "killed agents are gone", || !pids.iter().any(|pid| super::traces::is_alive(*pid)));
    }

    /// Starts the agents alone, each from the configuration that it had, without an authority; after
    /// [`Cluster::crash`]. Whoever gets them ends them.
    pub fn start_agents(&self) -> Vec<Child> {
        let start = |name: String| {
            let log = File::create(self.folder().join(format!("{name}.alone"))).expect("the folder is ours");
            let mut command = Command::new(super::programs::agent_program());
            command.args(["serve", "--config"]).arg(self.node_dir(&name).join("agent.yaml"));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            // SAFETY: prctl is async-signal-safe and touches only the new process. A test that is killed takes it along.
            unsafe {
                command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?));
            }
            command.spawn().expect("the agent starts")
        };
        self.node_names().into_iter().map(start).collect()
    }

    fn reap(&mut self) {
        let Some(mut up) = self.up.take() else { return };
        wait_until(MINUTE, "larder up ends", || up.try_wait().expect("our own child").is_some());
    }

    /// The test's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The `--dir` of `larder up`.
    pub fn dir(&self) -> PathBuf {
        self.folder().join("c")
    }

    /// `n1`, `n2`, ..., then `c1`, `c2`, ...
    pub fn node_names(&self) -> Vec<String> {
        let named = |letter: char, count: u32| (1..=count).map(move |number| format!("{letter}{number}"));
        named('n', self.spec.nodes).chain(named('c', self.spec.clients)).collect()
    }

    pub(super) fn node(&self, name: &str) -> Node {
        Node::new(&self.dir(), name)
    }

    /// The process of a node's agent.
    pub fn agent_pid(&self, node: &str) -> i32 {
        self.node(node).pid()
    }

    /// Where peers reach a node's agent.
    pub fn peer_port(&self, node: &str) -> u16 {
        self.node(node).peer_port()
    }

    /// Where a node's agent answers with its health.
    pub fn admin_port(&self, node: &str) -> u16 {
        self.node(node).admin_port()
    }

    /// The disk of a node that has one of its own.
    pub fn disk(&self, node: &str) -> &Disk {
        &self.disks[node]
    }

    /// The folder of a node.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.node(node).dir().to_owned()
    }

    /// Where a volume is mounted.
    pub fn mount(&self, node: &str, volume: &str) -> PathBuf {
        self.node_dir(node).join("mnt").join(volume)
    }

    /// A file of a volume, asked of that node's agent.
    pub fn read(&self, node: &str, volume: &str, path: &str) -> std::io::Result<Vec<u8>> {
        let file = self.mount(node, volume).join(path);
        super::within(MINUTE, &format!("read {}", file.display()), move || read_uncached(&file))
    }

    /// SIGKILL.
    pub fn kill(&self, node: &str) {
        self.node(node).end(Signal::SIGKILL);
    }

    /// SIGSTOP.
    pub fn stop(&self, node: &str) {
        self.node(node).signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn cont(&self, node: &str) {
        self.node(node).signal(Signal::SIGCONT);
    }

    /// Ends agents in order (those that still run), lets `larder up` start them again, and waits until all is mounted.
    pub fn restart(&self, nodes: &[&str]) {
        for node in nodes.iter().map(|name| self.node(name)).filter(Node::is_alive) {
            node.end(Signal::SIGTERM);
        }
        self.up_again().ok();
        self.wait_ready();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} failed; what its cluster left is in {}", self.name, self.keep_artifacts().display());
        }
        for node in self.node_names().iter().map(|name| self.node(name)).filter(Node::is_alive) {
            // A stopped agent can't end.
            node.wake();
        }
        if self.up.is_some() {
            let stopped = std::thread::scope(|scope| scope.spawn(|| self.larder(&["down"], MINUTE)).join());
            let said = stopped.map_or_else(|_| "no answer".to_owned(), |ran| ran.err);
            let mut up = self.up.take().expect("looked at above");
            let ended = (0..3000).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                matches!(up.try_wait(), Ok(Some(_)))
            });
            if !ended {
                let _ = up.kill();
                let _ = up.wait();
                eprintln!("larder up did not end by larder down: {said}");
            }
        }
        let left = remove_traces(&self.dir());
        if !left.is_empty() && !std::thread::panicking() {
            panic!("the cluster left behind: {left:?}");
        }
    }
}
