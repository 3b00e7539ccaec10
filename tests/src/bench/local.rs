//! P1 to P3: warm reads of what this node's store has, against the same bytes in a file on the store's file system.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use super::figure::{Recorder, Round, Target};
use super::reading::{check_whole, mapped_4k, random_4k, read_through, sequential};
use super::{drop_page_cache, raw, subfolder};
use crate::harness::{Cluster, MINUTE, VolumeSpec, wait_until};
use crate::stub::StubS3;

const SIZE: u64 = 1 << 30;
const KEYS: [&str; 2] = ["big0", "big1"];
const AT_LEAST: Duration = Duration::from_secs(1);
const RANDOM_FOR: Duration = Duration::from_secs(2);
const MIB: f64 = 1048576.0;

struct Files {
    ours: Vec<PathBuf>,
    raw: Vec<PathBuf>,
}

pub(super) fn measure(recorder: &mut Recorder) -> Result<()> {
    let stub = StubS3::builder().bucket("bench").start_blocking()?;
    KEYS.iter().for_each(|key| drop(stub.put_pattern(key, 1, SIZE)));
    let volume = VolumeSpec::s3("v", &stub).freshness("1h");
    let cluster = Cluster::builder().nodes(1).replicas(1).capacity(4 << 30).volume(volume).alone().up();
    let files = prepare(recorder.scratch(), &cluster.mount("n1", "v"))?;
    settle(&cluster, &files)?;
    hot_sequential(recorder, &files)?;
    hot_random(recorder, &files)?;
    page_cache_dropped(recorder, &files)?;
    files.raw.iter().try_for_each(|file| Ok(std::fs::remove_file(file)?))
}

/// Fills the store and checks every byte, of both sides.
fn prepare(scratch: &Path, mount: &Path) -> Result<Files> {
    let folder = subfolder(scratch, "local")?;
    let files = Files { ours: KEYS.map(|key| mount.join(key)).into(), raw: KEYS.map(|key| folder.join(key)).into() };
    for (key, (ours, raw_file)) in KEYS.iter().zip(files.ours.iter().zip(&files.raw)) {
        raw::write(raw_file, key, SIZE)?;
        check_whole(raw_file, key, SIZE)?;
        check_whole(ours, key, SIZE)?;
    }
    // What the kernel kept of the cold read would hide the store.
    drop_page_cache()?;
    files.ours.iter().zip(KEYS).try_for_each(|(file, key)| check_whole(file, key, SIZE))?;
    Ok(files)
}

/// Waits until the kernel reads both files past the agent, which it does once the agent has checked every byte of them;
/// not for a kernel that can't.
fn settle(cluster: &Cluster, files: &Files) -> Result<()> {
    let given = |file: &PathBuf| -> Result<bool> {
        let before = cluster.sum("larder_passthrough_opens_total", &[]);
        drop(std::fs::File::open(file)?);
        Ok(cluster.sum("larder_passthrough_opens_total", &[]) > before)
    };
    if cluster.get("cn")[0]["status"]["passthrough"] != "Active" {
        println!("this kernel doesn't read past the agent: P1 to P3 are the agent's own");
        return Ok(());
    }
    for file in &files.ours {
        wait_until(MINUTE, "the kernel reads past the agent", || given(file).unwrap_or(false));
    }
    Ok(())
}

fn hot_sequential(recorder: &mut Recorder, files: &Files) -> Result<()> {
    for (piece, piece_name) in [(128 << 10, "128k"), (1 << 20, "1m")] {
        for readers in [1, 2] {
            let target = Target::high(
                &format!("P1.seq-{piece_name}.{readers}"),
                &format!("hot sequential {piece_name}, {readers} reader(s)"),
                "MiB/s",
            );
            recorder.measure(target.must(0.8).aim(0.95), |_round| {
                let ours = sequential(&files.ours[..readers], piece, AT_LEAST)? / MIB;
                let raw = sequential(&files.raw[..readers], piece, AT_LEAST)? / MIB;
                Ok(Round::against(ours, raw))
            })?;
        }
    }
    Ok(())
}

fn hot_random(recorder: &mut Recorder, files: &Files) -> Result<()> {
    for readers in [1, 4] {
        let target = Target::high(
            &format!("P2.rand-4k.{readers}"),
            &format!("hot random 4 KiB, {readers} reader(s)"),
            "reads/s",
        );
        recorder.measure(target.must(0.8).aim(0.95), |round| {
            let read = |file: &Path| random_4k(file, SIZE, readers, RANDOM_FOR, round as u64);
            // Both hot: the file is in the page cache after this.
            let mut piece = vec![0; 1 << 20];
            read_through(&files.ours[0], &mut piece)?;
            read_through(&files.raw[0], &mut piece)?;
            Ok(Round::against(read(&files.ours[0])?.reads_per_s, read(&files.raw[0])?.reads_per_s))
        })?;
    }
    Ok(())
}

fn page_cache_dropped(recorder: &mut Recorder, files: &Files) -> Result<()> {
    let target = Target::high("P3.seq-1m.1", "warm sequential 1 MiB, page cache dropped", "MiB/s");
    recorder.measure(target.must(0.85).aim(0.95), |_round| {
        let read = |files: &[PathBuf]| -> Result<f64> {
            drop_page_cache()?;
            Ok(sequential(&files[..1], 1 << 20, Duration::ZERO)? / MIB)
        };
        Ok(Round::against(read(&files.ours)?, read(&files.raw)?))
    })?;
    let target = Target::high("P3.rand-4k.1", "warm random 4 KiB, page cache dropped", "reads/s");
    recorder.measure(target.must(0.85).aim(0.95), |round| {
        let read = |file: &Path| -> Result<f64> {
            drop_page_cache()?;
            Ok(random_4k(file, SIZE, 1, RANDOM_FOR, round as u64)?.reads_per_s)
        };
        Ok(Round::against(read(&files.ours[0])?, read(&files.raw[0])?))
    })?;
    let target = Target::high("P3.mmap-4k.1", "warm mmap, random faults of 4 KiB, page cache dropped", "faults/s");
    recorder.measure(target.must(0.85).aim(0.95), |round| {
        let fault = |file: &Path| -> Result<f64> {
            drop_page_cache()?;
            Ok(mapped_4k(file, SIZE, RANDOM_FOR, round as u64)?.reads_per_s)
        };
        Ok(Round::against(fault(&files.ours[0])?, fault(&files.raw[0])?))
    })
}
