//! A network of a scenario's own, and cuts in it. The kernel drops the packets, and counts them.

use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use super::run::run;

const SOON: Duration = Duration::from_secs(10);

/// Runs `work` in a network namespace that has nothing but a loopback, so that what is cut there is cut nowhere else.
/// Threads and processes that it starts are in it too.
///
/// # Panics
/// As `work` does, or when the kernel says no.
pub fn in_network_of_its_own<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let name = std::thread::current().name().unwrap_or("unnamed").to_owned();
    std::thread::scope(|scope| {
        let inside = move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may have a network of its own");
            run(Command::new("ip").args(["link", "set", "lo", "up"]), SOON).ok();
            work()
        };
        let thread =
            std::thread::Builder::new().name(name).spawn_scoped(scope, inside).expect("a test may start threads");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Packets that the kernel drops, until this is dropped.
#[derive(Debug)]
pub struct Cut {
    rule: Vec<String>,
}

impl Cut {
    /// What is sent to this port doesn't arrive: nobody reaches who listens there.
    pub fn to(port: u16) -> Cut {
        Cut::new("--dport", port)
    }

    /// What is sent from this port doesn't arrive: who listens there hears, and nobody hears its answers.
    pub fn from(port: u16) -> Cut {
        Cut::new("--sport", port)
    }

    /// Of what is sent to this port, so many packets of a hundred don't arrive.
    pub fn some_to(port: u16, percent: u32) -> Cut {
        let probability = (f64::from(percent) / 100.0).to_string();
        let statistic = ["-m", "statistic", "--mode", "random", "--probability", &probability];
        Cut::when("--dport", port, &statistic)
    }

    fn new(which: &str, port: u16) -> Cut {
        Cut::when(which, port, &[])
    }

    fn when(which: &str, port: u16, condition: &[&str]) -> Cut {
        let port = port.to_string();
        let rule = [&["-p", "tcp", which, &port], condition, &["-j", "DROP"]].concat();
        let rule: Vec<String> = rule.into_iter().map(str::to_owned).collect();
        iptables("-I", &rule);
        Cut { rule }
    }

    /// Packets that were dropped so far, by all cuts.
    pub fn dropped() -> u64 {
        let table = run(Command::new("iptables").args(["-w", "-nvxL", "INPUT"]), SOON).ok();
        let counts =
            table.lines().filter(|line| line.contains("DROP")).filter_map(|line| line.split_whitespace().next());
        counts.filter_map(|count| count.parse::<u64>().ok()).sum()
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        iptables("-D", &self.rule);
    }
}

fn iptables(what: &str, rule: &[String]) {
    run(Command::new("iptables").args(["-w", what, "INPUT"]).args(rule), SOON).ok();
}
