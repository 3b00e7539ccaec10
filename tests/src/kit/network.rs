//! A network for nodes: a bridge on this machine, one for each Kubernetes that runs.
//!
//! Of 10.N.0.0/16 the machine has 10.N.255.1, node i 10.N.255.(10 + i), and its pods 10.N.i.0/24. N is claimed by a lock
//! that ends with the process; what an earlier one left behind by that number is removed first.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

/// Numbers that are claimed.
const NUMBERS: std::ops::RangeInclusive<u8> = 200..=239;

/// A claimed network; its bridge goes with it.
pub(super) struct Network {
    number: u8,
    _lock: File,
}

impl Network {
    /// Claims one; `locks` is a folder that everybody on this machine shares.
    pub(super) fn claim(locks: &Path) -> Self {
        let claimed = NUMBERS.into_iter().find_map(|number| {
            let lock = File::create(locks.join(format!("network-{number}.lock"))).expect("a lock");
            lock.try_lock().ok().map(|()| Self { number, _lock: lock })
        });
        let network = claimed.expect("fewer Kubernetes than numbers run on this machine");
        network.remove();
        let bridge = network.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"]);
        ip(&["addr", "add", &format!("{}/24", network.machine()), "dev", &bridge]);
        ip(&["link", "set", &bridge, "up"]);
        network
    }

    fn bridge(&self) -> String {
        format!("larder{}", self.number)
    }

    fn remove(&self) {
        // It is there only when somebody was killed.
        let _ = Command::new("ip").args(["link", "del", &self.bridge()]).output();
    }

    /// Which one.
    pub(super) fn number(&self) -> u8 {
        self.number
    }

    /// The machine's address in it.
    pub(super) fn machine(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number, 255, 1)
    }

    /// A node's address.
    pub(super) fn node(&self, node: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number, 255, 10 + node)
    }

    /// A node's pods.
    pub(super) fn pods(&self, node: u8) -> String {
        format!("10.{}.{node}.0/24", self.number)
    }

    /// All pods.
    pub(super) fn all_pods(&self) -> String {
        format!("10.{}.0.0/17", self.number)
    }

    /// Gives the process's network namespace its `eth0`, and the machine a route to the node's pods.
    pub(super) fn connect(&self, node: u8, process: u32) {
        let ours = format!("larder{}-{node}", self.number);
        let _ = Command::new("ip").args(["link", "del", &ours]).output();
        ip(&["link", "add", &ours, "type", "veth", "peer", "name", "eth0", "netns", &process.to_string()]);
        ip(&["link", "set", &ours, "master", &self.bridge(), "up"]);
        ip(&["route", "replace", &self.pods(node), "via", &self.node(node).to_string()]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.remove();
    }
}

fn ip(arguments: &[&str]) {
    let ran = Command::new("ip").args(arguments).output().expect("ip runs");
    assert!(ran.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
}
