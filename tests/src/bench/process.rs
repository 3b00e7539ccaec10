//! CPU time and memory of processes and threads, from /proc and getrusage.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};

use crate::harness::Cluster;

/// User and system time of all agents of a cluster.
pub(crate) fn agents_cpu(cluster: &Cluster) -> Result<Duration> {
    cluster.node_names().iter().map(|node| process_cpu(cluster.agent_pid(node))).sum()
}

fn process_cpu(pid: i32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name may hold spaces; the fields after it don't. proc(5): utime and stime are fields 14 and 15.
    let fields = stat.rsplit_once(") ").context("proc(5)'s form")?.1;
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap_or(0)).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("ticks per second")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// User and system time of the calling thread.
pub(crate) fn thread_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let span =
        |time: nix::sys::time::TimeVal| Duration::from_secs_f64(time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6);
    Ok(span(usage.user_time()) + span(usage.system_time()))
}

/// A line of /proc/PID/status in MiB, such as `VmHWM`.
pub(crate) fn memory_mib(pid: i32, line: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let kib: f64 = found.and_then(|text| text.split_whitespace().next()).context("a size in kB")?.parse()?;
    Ok(kib / 1024.0)
}

/// Open descriptors.
pub(crate) fn descriptors(pid: i32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Threads.
pub(crate) fn threads(pid: i32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/task"))?.count())
}
