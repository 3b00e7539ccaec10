//! P17 and P15 with a million objects: how long a store takes to open, and what an idle agent holds.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::drop_page_cache;
use super::figure::{Recorder, Round, Target};
use super::process::memory_mib;
use super::reading::each_in_a_thread;
use crate::harness::{Cluster, Copies, VolumeSpec};
use crate::stub::{StubS3, pattern};

const FOLDERS: usize = 1_000;
const FILES: usize = 1_000;
const SIZE: u64 = 64;
const READERS: usize = 4;

pub(super) fn measure(recorder: &mut Recorder) -> Result<()> {
    let stub = StubS3::builder().bucket("bench").start_blocking()?;
    for folder in 0..FOLDERS {
        (0..FILES).for_each(|file| drop(stub.put_pattern(&format!("{folder:03}/{file:03}"), 1, SIZE)));
    }
    let volume = VolumeSpec::s3("v", &stub).freshness("1h");
    let mut cluster = Cluster::builder().nodes(1).replicas(1).capacity(16 << 30).volume(volume).alone().up();
    read_all(&cluster.mount("n1", "v"))?;
    cluster.wait_copies(Copies { chunks: (FOLDERS * FILES) as u64, replicas: 1 });
    let (mut clean, mut killed, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    for _round in 0..recorder.rounds() {
        cluster.down();
        drop_page_cache()?;
        cluster.up();
        clean.push(Round::absolute(opening_s(&cluster)?));
        idle.push(Round::absolute(memory_mib(cluster.agent_pid("n1"), "VmRSS")?));
        cluster.kill("n1");
        drop_page_cache()?;
        cluster.restart(&[]);
        killed.push(Round::absolute(opening_s(&cluster)?));
    }
    let open = |id, name| Target::low(id, name, "s").must(3.0).aim(1.0);
    recorder.record(open("P17.open-1m.clean", "a store of 1 M objects opens"), &clean);
    recorder.record(open("P17.open-1m.killed", "the same after kill -9"), &killed);
    let idle_target = Target::low("P15.idle-1m", "memory of an idle agent with 1 M objects", "MiB").must(300.0);
    recorder.record(idle_target, &idle);
    Ok(())
}

fn read_all(mount: &Path) -> Result<()> {
    let folders: Vec<usize> = (0..FOLDERS).collect();
    let shares: Vec<&[usize]> = folders.chunks(FOLDERS.div_ceil(READERS)).collect();
    each_in_a_thread(&shares, |share| {
        for (folder, file) in share.iter().flat_map(|folder| (0..FILES).map(move |file| (folder, file))) {
            let key = format!("{folder:03}/{file:03}");
            let bytes = std::fs::read(mount.join(&key)).with_context(|| key.clone())?;
            ensure!(bytes.len() as u64 == SIZE, "{key} has {} bytes", bytes.len());
            pattern::check_version(&key, 1, 0, &bytes).with_context(|| key.clone())?;
        }
        Ok(())
    })?;
    Ok(())
}

fn opening_s(cluster: &Cluster) -> Result<f64> {
    let page = cluster.debug("n1", "stores");
    let ms = page["stores"][0]["openingMs"].as_u64().with_context(|| format!("openingMs in {page}"))?;
    Ok(ms as f64 / 1e3)
}
