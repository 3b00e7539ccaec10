//! P5, P5b, P6: first reads of an object, against a parallel client of the same origin; and how often the origin is asked.

use std::path::PathBuf;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::drop_page_cache;
use super::figure::{Recorder, Round, Target};
use super::process::agents_cpu;
use super::reading::{check_whole, each_in_a_thread, read_through};
use crate::harness::{Cluster, VolumeSpec};
use crate::s3client::{Expect, direct_read};
use crate::stub::StubS3;

const SIZE: u64 = 512 << 20;
const SHARED_SIZE: u64 = 64 << 20;
const CHUNK_BYTES: u64 = 4 << 20;
const LATENCY: Duration = Duration::from_millis(20);
/// 2 Gbit/s.
const CAP_BYTES_PER_S: u64 = 250_000_000;
const MIB: f64 = 1048576.0;

pub(super) fn measure(recorder: &mut Recorder) -> Result<()> {
    let stub = StubS3::builder().bucket("bench").latency(LATENCY).start_blocking()?;
    stub.put_pattern("direct", 1, SIZE);
    let volume = VolumeSpec::s3("v", &stub).freshness("1h");
    let cluster = Cluster::builder().nodes(3).replicas(2).capacity(12 << 30).volume(volume).alone().up();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let direct = || -> Result<f64> {
        let client = stub.client();
        let read = direct_read(&client, "direct", SIZE, 8 << 20, 8, &Expect::Length);
        Ok(runtime.block_on(read)?.bytes_per_s() / MIB)
    };
    capped(recorder, &stub, &cluster, direct)?;
    uncapped(recorder, &stub, &cluster, direct)?;
    for readers in [1, 10, 100] {
        shared(recorder, &stub, &cluster, readers)?;
    }
    Ok(())
}

fn cold(stub: &StubS3, cluster: &Cluster, key: &str) -> Result<f64> {
    stub.put_pattern(key, 1, SIZE);
    let file = cluster.mount("n1", "v").join(key);
    drop_page_cache()?;
    let begun = Instant::now();
    read_through(&file, &mut vec![0; 1 << 20])?;
    let speed = SIZE as f64 / begun.elapsed().as_secs_f64() / MIB;
    check_whole(&file, key, SIZE)?;
    Ok(speed)
}

fn capped(recorder: &mut Recorder, stub: &StubS3, cluster: &Cluster, direct: impl Fn() -> Result<f64>) -> Result<()> {
    stub.set_bandwidth(Some(CAP_BYTES_PER_S), None);
    let target = Target::high("P5.seq-1m.1", "cold sequential, 20 ms, 2 Gbit/s", "MiB/s").must(0.95).aim(1.0);
    recorder.measure(target, |round| {
        let ours = cold(stub, cluster, &format!("capped-{round}"))?;
        Ok(Round::against(ours, direct()?))
    })?;
    stub.set_bandwidth(None, None);
    Ok(())
}

fn uncapped(recorder: &mut Recorder, stub: &StubS3, cluster: &Cluster, direct: impl Fn() -> Result<f64>) -> Result<()> {
    if !recorder.wants("P5b") {
        return Ok(());
    }
    let (mut speed, mut cpu) = (Vec::new(), Vec::new());
    for round in 0..recorder.rounds() {
        let before = agents_cpu(cluster)?;
        let ours = cold(stub, cluster, &format!("uncapped-{round}"))?;
        wait_for_copies(cluster);
        let spent = (agents_cpu(cluster)? - before).as_secs_f64();
        speed.push(Round::against(ours, direct()?));
        cpu.push(Round::absolute(spent / (SIZE as f64 / (1u64 << 30) as f64)));
    }
    recorder.record(Target::high("P5b.seq-1m.1", "cold sequential, 20 ms, uncapped", "MiB/s"), &speed);
    recorder
        .record(Target::low("P5b.cpu", "CPU of all agents, with the second copy", "s/GiB").must(2.0).aim(1.4), &cpu);
    Ok(())
}

fn wait_for_copies(cluster: &Cluster) {
    crate::harness::wait_until(crate::harness::MINUTE, "copies are pushed", || {
        cluster.sum("larder_copies_pending", &[]) == 0
    });
}

/// Many readers, on all nodes, of one object that nobody has.
fn shared(recorder: &mut Recorder, stub: &StubS3, cluster: &Cluster, readers: usize) -> Result<()> {
    let target =
        Target::low(&format!("P6.gets.{readers}"), &format!("GETs per chunk, {readers} cold reader(s)"), "GETs");
    recorder.measure(target.must(1.0).aim(1.0), |round| {
        let key = format!("shared-{readers}-{round}");
        stub.put_pattern(&key, 1, SHARED_SIZE);
        let files: Vec<PathBuf> =
            (0..readers).map(|reader| cluster.mount(&format!("n{}", reader % 3 + 1), "v").join(&key)).collect();
        let (before, together) = (stub.counters().gets, Barrier::new(readers));
        each_in_a_thread(&files, |file| {
            together.wait();
            read_through(file, &mut vec![0; 1 << 20])
        })?;
        Ok(Round::absolute((stub.counters().gets - before) as f64 / (SHARED_SIZE / CHUNK_BYTES) as f64))
    })
}
