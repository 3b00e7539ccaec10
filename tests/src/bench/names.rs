//! P9: a directory of ten thousand entries, warm: stat and readdir against ext4, open against a daemon that does nothing.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};

use super::daemon::NullDaemon;
use super::figure::{Recorder, Round, Target};
use super::subfolder;
use crate::harness::{Cluster, VolumeSpec};
use crate::stub::StubS3;

const ENTRIES: usize = 10_000;
/// Listings of one round: one is over in milliseconds.
const LISTINGS: usize = 20;

pub(super) fn measure(recorder: &mut Recorder) -> Result<()> {
    let stub = StubS3::builder().bucket("bench").start_blocking()?;
    for entry in 0..ENTRIES {
        stub.put(&format!("dir/{entry}"), vec![7; 4096]);
    }
    let volume = VolumeSpec::s3("v", &stub).freshness("1h");
    let cluster = Cluster::builder().nodes(1).replicas(1).volume(volume).alone().up();
    let ours = cluster.mount("n1", "v").join("dir");
    let raw = subfolder(recorder.scratch(), "names")?;
    for entry in 0..ENTRIES {
        std::fs::write(raw.join(entry.to_string()), [7; 4096])?;
    }
    let null = subfolder(recorder.scratch(), "null")?;
    let daemon = NullDaemon::mount(&null)?;
    let opened = compare(recorder, &ours, &raw, &null);
    daemon.unmount()?;
    opened
}

fn compare(recorder: &mut Recorder, ours: &Path, raw: &Path, null: &Path) -> Result<()> {
    for folder in [ours, raw, null] {
        stat(folder)?;
        open(folder)?;
    }
    let target = Target::high("P9.stat", "stat of 10,000 known files", "stat/s").must(0.5).aim(0.9);
    recorder.measure(target, |_round| Ok(Round::against(stat(ours)?, stat(raw)?)))?;
    let target = Target::high("P9.readdir", "readdir of 10,000 entries", "entries/s").must(0.3).aim(0.5);
    recorder.measure(target, |_round| Ok(Round::against(readdir(ours)?, readdir(raw)?)))?;
    let target = Target::high("P9.open", "open and close of 10,000 known files", "opens/s").must(0.7).aim(0.9);
    recorder.measure(target, |_round| Ok(Round::against(open(ours)?, open(null)?)))
}

fn paths(folder: &Path) -> Vec<PathBuf> {
    (0..ENTRIES).map(|entry| folder.join(entry.to_string())).collect()
}

fn stat(folder: &Path) -> Result<f64> {
    let (paths, begun) = (paths(folder), Instant::now());
    for path in &paths {
        std::fs::metadata(path)?;
    }
    Ok(ENTRIES as f64 / begun.elapsed().as_secs_f64())
}

fn readdir(folder: &Path) -> Result<f64> {
    let begun = Instant::now();
    for _ in 0..LISTINGS {
        let mut found = 0;
        for entry in std::fs::read_dir(folder)? {
            entry?;
            found += 1;
        }
        ensure!(found == ENTRIES, "{found} entries, not {ENTRIES}");
    }
    Ok((ENTRIES * LISTINGS) as f64 / begun.elapsed().as_secs_f64())
}

fn open(folder: &Path) -> Result<f64> {
    let (paths, begun) = (paths(folder), Instant::now());
    for path in &paths {
        std::fs::File::open(path)?;
    }
    Ok(ENTRIES as f64 / begun.elapsed().as_secs_f64())
}
