//! P7, P8: ten thousand files of 100 KiB in shuffled order; first from the origin, then warm.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};

use super::figure::{Recorder, Round, Target};
use super::reading::{Random, whole_files};
use super::{drop_page_cache, raw, subfolder};
use crate::harness::{Cluster, VolumeSpec};
use crate::stub::StubS3;

const FILES: usize = 10_000;
const SIZE: u64 = 100 * 1024;
const LATENCY: Duration = Duration::from_millis(20);
const DIRECT_GETS: usize = 64;

pub(super) fn measure(recorder: &mut Recorder) -> Result<()> {
    let stub = StubS3::builder().bucket("bench").start_blocking()?;
    let volume = VolumeSpec::s3("v", &stub).freshness("1h");
    let cluster = Cluster::builder().nodes(1).replicas(1).capacity(16 << 30).volume(volume).alone().up();
    let mount = cluster.mount("n1", "v");
    cold(recorder, &stub, &mount)?;
    warm(recorder, &stub, &mount)
}

fn put(stub: &StubS3, dir: &str) {
    for file in 0..FILES {
        stub.put_pattern(&key(dir, file), 1, SIZE);
    }
}

fn key(dir: &str, file: usize) -> String {
    format!("{dir}/{file:05}")
}

fn shuffled(folder: &Path, dir: &str, seed: u64) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = (0..FILES).map(|file| folder.join(key(dir, file))).collect();
    Random::new(seed).shuffle(&mut paths);
    paths
}

fn cold(recorder: &mut Recorder, stub: &StubS3, mount: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    for (readers, must) in [(8, Some(0.8)), (1, None)] {
        let name = format!("100 KiB files, cold, 20 ms, {readers} reader(s)");
        let mut target = Target::high(&format!("P8.files-100k.{readers}"), &name, "files/s").aim(1.0);
        if let Some(must) = must {
            target = target.must(must);
        }
        recorder.measure(target, |round| {
            let dir = format!("cold-{readers}-{round}");
            put(stub, &dir);
            stub.set_latency(LATENCY);
            drop_page_cache()?;
            let ours = whole_files(&shuffled(mount, &dir, round as u64), readers)?;
            let direct = runtime.block_on(direct(stub, &dir))?;
            stub.set_latency(Duration::ZERO);
            Ok(Round::against(ours, direct))
        })?;
    }
    Ok(())
}

/// Files per second of a client with many GETs at a time.
async fn direct(stub: &StubS3, dir: &str) -> Result<f64> {
    let (client, begun) = (stub.client(), Instant::now());
    let gets = stream::iter((0..FILES).map(|file| {
        let (client, key) = (client.clone(), key(dir, file));
        async move { client.get(&key).await }
    }));
    gets.buffer_unordered(DIRECT_GETS)
        .try_for_each(|bytes| async move {
            assert_eq!(bytes.len() as u64, SIZE, "the stub sends what was put");
            Ok(())
        })
        .await?;
    Ok(FILES as f64 / begun.elapsed().as_secs_f64())
}

fn warm(recorder: &mut Recorder, stub: &StubS3, mount: &Path) -> Result<()> {
    if !recorder.wants("P7") {
        return Ok(());
    }
    put(stub, "warm");
    let scratch = subfolder(recorder.scratch(), "small")?;
    subfolder(&scratch, "warm")?;
    for file in 0..FILES {
        raw::write_unsynced(&scratch.join(key("warm", file)), &key("warm", file), SIZE)?;
    }
    nix::unistd::sync();
    // The first epoch fills the cache, on both sides.
    whole_files(&shuffled(mount, "warm", 1), 8)?;
    whole_files(&shuffled(&scratch, "warm", 1), 8)?;
    for readers in [1, 8] {
        let name = format!("100 KiB files, second epoch, {readers} reader(s)");
        let target = Target::high(&format!("P7.files-100k.{readers}"), &name, "files/s").must(0.5).aim(0.8);
        recorder.measure(target, |round| {
            let ours = whole_files(&shuffled(mount, "warm", 2 + round as u64), readers)?;
            let raw = whole_files(&shuffled(&scratch, "warm", 2 + round as u64), readers)?;
            Ok(Round::against(ours, raw))
        })?;
    }
    Ok(std::fs::remove_dir_all(scratch)?)
}
