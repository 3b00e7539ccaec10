//! `larder-operator` as a process beside a control plane.

use std::fs::File;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::control_plane::{ControlPlane, spawn_ending_with_us};
use crate::harness::program;

/// Where the operator lives, and its Lease.
pub const NAMESPACE: &str = "larder-system";

/// An operator that runs, with the rights of the account that is shipped for it; it ends with this.
pub struct Operator {
    child: Child,
    log: PathBuf,
}

impl Operator {
    /// Starts one; `name` tells its log from others'.
    ///
    /// # Panics
    /// When its program isn't built.
    #[must_use]
    pub fn start(plane: &ControlPlane, name: &str) -> Self {
        Self::start_with(plane, name, &plane.as_account(NAMESPACE, "larder-operator"))
    }

    /// The same, with another way to the API server.
    ///
    /// # Panics
    /// When its program isn't built.
    #[must_use]
    pub fn start_with(plane: &ControlPlane, name: &str, kubeconfig: &Path) -> Self {
        let log = plane.folder().join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).expect("a log");
        let mut command = Command::new(program("larder-operator"));
        command
            .env("KUBECONFIG", kubeconfig)
            .args(["--agent-image", "example.com/larder-agent:test", "--namespace", NAMESPACE])
            .args(["--advertise", &own_address().to_string(), "--probes", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a log"))
            .stderr(out);
        Self { child: spawn_ending_with_us(&mut command), log }
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills it at once.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of this machine: the API server refuses endpoints on loopback.
fn own_address() -> IpAddr {
    // Nothing is sent: the kernel only says which of its addresses it would send from.
    let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("a socket");
    socket.connect(("192.0.2.1", 9)).expect("a route to somewhere");
    socket.local_addr().expect("bound").ip()
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.end();
    }
}
