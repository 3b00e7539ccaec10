//! One node's agent seen from outside: its process, its admin port, its files.

use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use super::metrics::{Metrics, fetch};
use super::patience::{MINUTE, wait_for, wait_until};
use super::traces::is_alive;

/// What an agent writes when it serves.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ready {
    pid: i32,
    admin_port: u16,
    peer_port: u16,
}

/// A node of a cluster.
#[derive(Clone, Debug)]
pub(super) struct Node {
    dir: PathBuf,
}

impl Node {
    pub(super) fn new(cluster: &Path, name: &str) -> Node {
        Node { dir: cluster.join(name) }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn try_ready(&self) -> Option<Ready> {
        serde_json::from_slice(&std::fs::read(self.dir.join("agent/ready.json")).ok()?).ok()
    }

    fn ready(&self) -> Ready {
        wait_for(MINUTE, &format!("{} has an agent", self.dir.display()), || self.try_ready())
    }

    pub(super) fn peer_port(&self) -> u16 {
        self.ready().peer_port
    }

    pub(super) fn admin_port(&self) -> u16 {
        self.ready().admin_port
    }

    pub(super) fn pid(&self) -> i32 {
        self.ready().pid
    }

    pub(super) fn is_alive(&self) -> bool {
        self.try_ready().is_some_and(|ready| is_alive(ready.pid))
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = self.pid();
        kill(Pid::from_raw(pid), signal).unwrap_or_else(|e| panic!("{signal} to {}: {e}", self.dir.display()));
    }

    /// SIGCONT, if there is anything to wake.
    pub(super) fn wake(&self) {
        if let Some(ready) = self.try_ready() {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(ready.pid), Signal::SIGCONT);
        }
    }

    /// Ends the agent by `signal`, and waits until it has.
    pub(super) fn end(&self, signal: Signal) {
        let pid = self.pid();
        self.signal(signal);
        wait_until(MINUTE, &format!("the agent of {} ends by {signal}", self.dir.display()), || !is_alive(pid));
    }

    /// A page of the admin port; `None` when it doesn't answer.
    pub(super) fn page(&self, path: &str) -> Option<String> {
        fetch(self.try_ready()?.admin_port, path)
    }

    pub(super) fn metrics(&self) -> Metrics {
        let text = wait_for(MINUTE, &format!("{} answers with metrics", self.dir.display()), || self.page("/metrics"));
        Metrics::parse(&text)
    }

    pub(super) fn log(&self) -> String {
        let bytes = std::fs::read(self.dir.join("agent.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
