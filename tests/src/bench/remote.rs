//! P4, P4b, P14: reads of what only other nodes have, by a node without stores, against loopback TCP and TLS.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::figure::{Recorder, Round, Target};
use super::network::{tcp, tls, tls_ping};
use super::process::{agents_cpu, thread_cpu};
use super::reading::{check_whole, random_4k, read_through};
use crate::harness::{Cluster, VolumeSpec};
use crate::stub::StubS3;

const SIZE: u64 = 1 << 30;
const RANDOM_FOR: Duration = Duration::from_secs(2);
const PINGS: usize = 2_000;
const MIB: f64 = 1048576.0;

pub(super) fn measure(recorder: &mut Recorder) -> Result<()> {
    let stub = StubS3::builder().bucket("bench").start_blocking()?;
    stub.put_pattern("big", 1, SIZE);
    let volume = VolumeSpec::s3("v", &stub).freshness("1h");
    let cluster = Cluster::builder().nodes(2).clients(1).replicas(1).capacity(2 << 30).volume(volume).alone().up();
    let file = cluster.mount("c1", "v").join("big");
    check_whole(&file, "big", SIZE)?;
    let before = stub.counters().gets;
    sequential_figures(recorder, &cluster, &file)?;
    random_figures(recorder, &file)?;
    anyhow::ensure!(stub.counters().gets == before, "a warm read asked the origin");
    Ok(())
}

fn sequential_figures(recorder: &mut Recorder, cluster: &Cluster, file: &Path) -> Result<()> {
    if !["P4.seq-1m.tcp", "P4.seq-1m.tls", "P14.cpu"].iter().any(|id| recorder.wants(id)) {
        return Ok(());
    }
    let (mut against_tcp, mut against_tls, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    let mut piece = vec![0; 1 << 20];
    for _round in 0..recorder.rounds() {
        forget(file)?;
        let (agents, own, begun) = (agents_cpu(cluster)?, thread_cpu()?, std::time::Instant::now());
        read_through(file, &mut piece)?;
        let ours = SIZE as f64 / begun.elapsed().as_secs_f64() / MIB;
        let spent = (agents_cpu(cluster)? - agents) + (thread_cpu()? - own);
        let (plain, sealed) = (tcp(SIZE)?, tls(SIZE)?);
        against_tcp.push(Round::against(ours, plain.bytes_per_s / MIB));
        against_tls.push(Round::against(ours, sealed.bytes_per_s / MIB));
        cpu.push(Round::against(spent.as_secs_f64(), plain.cpu.as_secs_f64()));
    }
    let sequential = "remote sequential 1 MiB, mTLS";
    recorder.record(
        Target::high("P4.seq-1m.tcp", &format!("{sequential}, of one TCP stream"), "MiB/s").must(0.5),
        &against_tcp,
    );
    recorder.record(
        Target::high("P4.seq-1m.tls", &format!("{sequential}, of one TLS stream"), "MiB/s").aim(0.8),
        &against_tls,
    );
    recorder.record(Target::low("P14.cpu", "CPU of warm remote reads, both sides", "s/GiB").must(1.5).aim(1.2), &cpu);
    Ok(())
}

/// The kernel forgets the file's pages and keeps their memory for the next ones. Dropping all caches would give it back to
/// the machine's host, and who reads next would pay for getting it again, 1 to 2 CPU-seconds per GiB.
fn forget(file: &Path) -> Result<()> {
    let file = std::fs::File::open(file)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

fn random_figures(recorder: &mut Recorder, file: &Path) -> Result<()> {
    for readers in [1, 4] {
        let name = format!("remote random 4 KiB p50, {readers} reader(s)");
        let target = Target::low(&format!("P4b.rand-4k.{readers}"), &name, "us").must(1.5).aim(1.2);
        recorder.measure(target, |round| {
            forget(file)?;
            let ours = random_4k(file, SIZE, readers, RANDOM_FOR, round as u64)?.p50;
            Ok(Round::against(ours.as_secs_f64() * 1e6, tls_ping(PINGS)?.as_secs_f64() * 1e6))
        })?;
    }
    Ok(())
}
