//! The processes of a control plane, and `kubectl` against it.

use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::pki::Pki;
use super::wait_until;

/// An API server answers 2 s after its start on an idle machine.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// For one kubectl, which may have been told to wait for up to three minutes.
const COMMAND_WITHIN: Duration = Duration::from_secs(240);

/// A control plane that runs; its processes end with it.
pub struct ControlPlane {
    folder: PathBuf,
    bin: PathBuf,
    pki: Pki,
    kubectl: Kubectl,
    server: String,
    // In the order of their ends: the API server's clients first.
    processes: Vec<Process>,
}

/// Who reaches the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Programs of this machine; no kubelet says that nodes are well.
    Machine,
    /// Nodes of their own network, in which the machine has this address.
    Nodes(Ipv4Addr),
}

impl Reach {
    fn address(self) -> Ipv4Addr {
        match self {
            Self::Machine => Ipv4Addr::LOCALHOST,
            Self::Nodes(address) => address,
        }
    }
}

struct Process {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Child,
}

impl Process {
    fn spawn(name: &'static str, program: PathBuf, arguments: Vec<String>, log: PathBuf) -> Self {
        let child = Self::start(&program, &arguments, &log);
        Self { name, program, arguments, log, child }
    }

    fn start(program: &Path, arguments: &[String], log: &Path) -> Child {
        let log = File::options().create(true).append(true).open(log).expect("a log");
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        spawn_ending_with_us(&mut command)
    }

    fn kill(&mut self) {
        // It may have ended by itself; there is nothing to save in it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `kubectl` as the administrator of a control plane.
#[derive(Clone)]
pub struct Kubectl {
    program: PathBuf,
    config: PathBuf,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Whether it succeeded.
    pub ok: bool,
    /// On its standard output.
    pub out: String,
    /// On its standard error.
    pub err: String,
}

impl Said {
    /// What it put out.
    ///
    /// # Panics
    /// When it failed.
    pub fn out(self) -> String {
        assert!(self.ok, "it failed: {}{}", self.out, self.err);
        self.out
    }
}

/// Where `tests/kit/build` has put the programs; it builds what is missing.
///
/// # Panics
/// When they can't be built.
#[must_use]
pub fn programs() -> PathBuf {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("kit/build");
    let built = Command::new(build).stderr(Stdio::inherit()).output().expect("the kit's script runs");
    assert!(built.status.success(), "the kit can't be built");
    let text = String::from_utf8(built.stdout).expect("a path");
    PathBuf::from(text.lines().last().expect("the kit's folder").trim()).join("bin")
}

impl ControlPlane {
    /// Starts one in `folder`, on free ports of this machine, and waits until it serves.
    ///
    /// # Panics
    /// When it doesn't.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        Self::start_for(folder, Reach::Machine)
    }

    /// The same for nodes, in whose network the machine has `address`; their names are answered there too.
    #[must_use]
    pub(super) fn start_for_nodes(folder: &Path, address: Ipv4Addr) -> Self {
        let mut plane = Self::start_for(folder, Reach::Nodes(address));
        plane.names(address);
        plane
    }

    fn start_for(folder: &Path, reach: Reach) -> Self {
        let bin = programs();
        let [etcd, peer, port] = free_ports();
        let server = format!("https://{}:{port}", reach.address());
        let pki = Pki::create(folder, reach.address()).expect("keys and certificates");
        let kubectl = Kubectl { program: bin.join("kubectl"), config: PathBuf::new() };
        let processes = Vec::new();
        let mut plane = Self { folder: folder.to_owned(), bin, pki, kubectl, server, processes };
        plane.kubectl.config = plane.user("admin", "kit-admin", Some("system:masters"), Vec::new());
        plane.etcd(etcd, peer);
        plane.api_server(etcd, port, reach);
        plane.wait_until_ready();
        plane.controller_manager(reach);
        plane.scheduler();
        let default = || plane.kubectl.try_run(&["get", "serviceaccount", "default"]).ok;
        wait_until(READY_WITHIN, "the controller-manager has made the default account", default);
        plane
    }

    /// Waits until the API server serves.
    pub fn wait_until_ready(&self) {
        let ready = || self.kubectl.try_run(&["get", "--raw", "/readyz"]).ok;
        wait_until(READY_WITHIN, "the API server is ready", ready);
    }

    /// A certificate for `user`, and `<name>.kubeconfig` with it.
    pub(super) fn user(&self, name: &str, user: &str, group: Option<&str>, addresses: Vec<IpAddr>) -> PathBuf {
        self.pki.kubeconfig(name, user, group, addresses, &self.server).expect("a kubeconfig")
    }

    /// Where the kit's programs are.
    pub(super) fn bin(&self) -> &Path {
        &self.bin
    }

    /// Kills one of its processes, by its program's name.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn stop(&mut self, name: &str) {
        self.process(name).kill();
    }

    /// Starts again what was stopped.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn resume(&mut self, name: &str) {
        let process = self.process(name);
        process.child = Process::start(&process.program, &process.arguments, &process.log);
    }

    fn process(&mut self, name: &str) -> &mut Process {
        let found = self.processes.iter_mut().find(|process| process.name == name);
        found.unwrap_or_else(|| panic!("the kit runs no {name}"))
    }

    /// `kubectl`.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// Where the API server listens.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A kubeconfig of an account, with a token that outlives the test.
    #[must_use]
    pub fn as_account(&self, namespace: &str, account: &str) -> PathBuf {
        let token = self.kubectl.run(&["create", "token", account, "-n", namespace, "--duration=24h"]).out();
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "kit",
            "clusters": [{"name": "kit", "cluster": {
                "server": self.server, "certificate-authority": self.file("ca.crt"),
            }}],
            "users": [{"name": "kit", "user": {"token": token.trim()}}],
            "contexts": [{"name": "kit", "context": {"cluster": "kit", "user": "kit"}}],
        });
        let path = self.folder.join(format!("{namespace}.{account}.kubeconfig"));
        std::fs::write(&path, config.to_string()).expect("written");
        path
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn etcd(&mut self, clients: u16, peers: u16) {
        let (clients, peers) = (format!("http://127.0.0.1:{clients}"), format!("http://127.0.0.1:{peers}"));
        let arguments = vec![
            format!("--data-dir={}", self.file("etcd")),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
            // Nothing here outlives the test.
            "--unsafe-no-fsync".into(),
        ];
        self.spawn("etcd", arguments);
    }

    fn api_server(&mut self, etcd: u16, port: u16, reach: Reach) {
        let mut arguments = vec![
            format!("--etcd-servers=http://127.0.0.1:{etcd}"),
            format!("--secure-port={port}"),
            format!("--bind-address={}", reach.address()),
            format!("--advertise-address={}", reach.address()),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            format!("--tls-cert-file={}", self.file("apiserver.crt")),
            format!("--tls-private-key-file={}", self.file("apiserver.key")),
            format!("--client-ca-file={}", self.file("ca.crt")),
            format!("--service-account-key-file={}", self.file("tokens.pub")),
            format!("--service-account-signing-key-file={}", self.file("tokens.key")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--cert-dir={}", self.file("made")),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged=true".into(),
        ];
        match reach {
            // The API server publishes its own address as a Service's endpoint, which loopback may not be.
            Reach::Machine => arguments.push("--endpoint-reconciler-type=none".into()),
            Reach::Nodes(_) => arguments.extend([
                format!("--kubelet-client-certificate={}", self.file("admin.crt")),
                format!("--kubelet-client-key={}", self.file("admin.key")),
                "--kubelet-preferred-address-types=InternalIP".into(),
            ]),
        }
        self.spawn("kube-apiserver", arguments);
    }

    fn controller_manager(&mut self, reach: Reach) {
        let config = self.user("controller-manager", "system:kube-controller-manager", None, Vec::new());
        let mut arguments = vec![
            format!("--kubeconfig={}", config.display()),
            format!("--service-account-private-key-file={}", self.file("tokens.key")),
            format!("--root-ca-file={}", self.file("ca.crt")),
            "--use-service-account-credentials".into(),
            // Nobody asks it anything, and a port may be taken by others.
            "--secure-port=0".into(),
            "--leader-elect=false".into(),
        ];
        if reach == Reach::Machine {
            arguments.push("--node-monitor-grace-period=24h".into());
        }
        self.spawn("kube-controller-manager", arguments);
    }

    fn scheduler(&mut self) {
        let config = self.user("scheduler", "system:kube-scheduler", None, Vec::new());
        let arguments =
            vec![format!("--kubeconfig={}", config.display()), "--secure-port=0".into(), "--leader-elect=false".into()];
        self.spawn("kube-scheduler", arguments);
    }

    /// CoreDNS, for the names of Services.
    fn names(&mut self, address: Ipv4Addr) {
        let config = self.kubectl.config.display();
        let text = format!(
            ".:53 {{\n    bind {address}\n    errors\n    kubernetes cluster.local {{\n        kubeconfig {config}\n    }}\n}}\n"
        );
        std::fs::write(self.folder.join("Corefile"), text).expect("written");
        self.spawn("coredns", vec!["-conf".into(), self.file("Corefile")]);
    }

    fn spawn(&mut self, name: &'static str, arguments: Vec<String>) {
        let log = self.folder.join(format!("{name}.log"));
        self.processes.insert(0, Process::spawn(name, self.bin.join(name), arguments, log));
    }

    /// The end of every process's log, for a test that failed.
    #[must_use]
    pub fn logs(&self) -> String {
        let end = |process: &Process| {
            let text = std::fs::read_to_string(self.folder.join(format!("{}.log", process.name))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(10).collect();
            format!("== {}\n{}\n", process.name, lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        };
        self.processes.iter().map(end).collect()
    }

    /// A node without a kubelet: Ready, with room for pods.
    pub fn node(&self, name: &str, labels: &[(&str, &str)]) {
        let labels: serde_json::Map<String, Value> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
        let node = serde_json::json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        });
        self.kubectl.apply(&node.to_string());
        let room = serde_json::json!({"cpu": "8", "memory": "16Gi", "pods": "110"});
        let status = serde_json::json!({"status": {
            "capacity": room, "allocatable": room,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Kit", "message": "no kubelet stands behind it",
                            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        }});
        let patch = status.to_string();
        drop(self.kubectl.run(&["patch", "node", name, "--subresource=status", "--type=merge", "-p", &patch]).out());
    }
}

/// Starts a program that the kernel kills when we end, however we end.
pub(super) fn spawn_ending_with_us(command: &mut Command) -> Child {
    // SAFETY: prctl is async-signal-safe, and touches nothing but the new process.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(std::io::Error::from)
        });
    }
    command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()))
}

pub(super) fn free_ports<const N: usize>() -> [u16; N] {
    // All at once, so that they are distinct; a moment later they are free again.
    let listeners: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("bound").port())
}

/// Runs a command to its end.
fn said(mut command: Command, input: &str) -> Said {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let what = format!("{:?}", command.get_program());
    let mut child = spawn_ending_with_us(&mut command);
    // Who doesn't read it says so by failing.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let began = Instant::now();
    let output = crate::harness::within(COMMAND_WITHIN, &what, move || child.wait_with_output());
    let output = output.unwrap_or_else(|error| panic!("{what} after {:?}: {error}", began.elapsed()));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
}

impl Kubectl {
    /// The administrator's configuration.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Runs it; it may fail.
    #[must_use]
    pub fn try_run(&self, arguments: &[&str]) -> Said {
        self.with_input(arguments, "")
    }

    /// Runs it.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Said {
        let said = self.try_run(arguments);
        assert!(said.ok, "kubectl {arguments:?}: {}{}", said.out, said.err);
        said
    }

    /// Runs it with a text on its standard input.
    ///
    /// # Panics
    /// When it doesn't end in time.
    #[must_use]
    pub fn with_input(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.config).args(arguments);
        said(command, input)
    }

    /// Runs `helm` as the same user; it may fail.
    #[must_use]
    pub fn helm(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(self.program.with_file_name("helm"));
        let home = self.config.with_file_name("helm");
        for part in ["CACHE", "CONFIG", "DATA"] {
            command.env(format!("HELM_{part}_HOME"), home.join(part));
        }
        command.arg("--kubeconfig").arg(&self.config).args(arguments);
        said(command, "")
    }

    /// `kubectl port-forward`, and the port on which it listens; it ends with this process at the latest.
    ///
    /// # Panics
    /// When it doesn't begin.
    #[must_use]
    pub fn port_forward(&self, whom: &[&str], port: u16) -> (Child, u16) {
        let [local] = free_ports();
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.config).arg("port-forward").args(whom);
        command.arg(format!("{local}:{port}")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        (spawn_ending_with_us(&mut command), local)
    }

    /// Runs one of our programs as the same user; it may fail.
    #[must_use]
    pub fn own(&self, program: &Path, arguments: &[&str]) -> Said {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", &self.config).args(arguments);
        said(command, "")
    }

    /// `kubectl apply -f -`.
    pub fn apply(&self, manifest: &str) {
        let said = self.with_input(&["apply", "-f", "-"], manifest);
        assert!(said.ok, "kubectl apply: {}{}\n{manifest}", said.out, said.err);
    }

    /// An object as JSON; nothing when it isn't there.
    #[must_use]
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let said = self.try_run(&["get", kind, name, "-o", "json"]);
        said.ok.then(|| serde_json::from_str(&said.out).expect("kubectl prints JSON"))
    }
    /// The same in a namespace.
    #[must_use]
    pub fn get_in(&self, namespace: &str, kind: &str, name: &str) -> Option<Value> {
        let said = self.try_run(&["get", "-n", namespace, kind, name, "-o", "json"]);
        said.ok.then(|| serde_json::from_str(&said.out).expect("kubectl prints JSON"))
    }
}
