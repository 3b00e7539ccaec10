//! P16: a reader while the owner of what it reads is killed.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::figure::{Recorder, Round, Target};
use super::reading::check_whole;
use crate::harness::{Cluster, Copies, VolumeSpec, open_uncached};
use crate::stub::{StubS3, pattern};

const SIZE: u64 = 256 << 20;
const CHUNK_BYTES: u64 = 4 << 20;
const WATCHED: Duration = Duration::from_secs(3);

/// What a reader met after the death.
struct Met {
    longest: Duration,
    errors: u64,
}

pub(super) fn measure(recorder: &mut Recorder) -> Result<()> {
    let stub = StubS3::builder().bucket("bench").start_blocking()?;
    stub.put_pattern("big", 1, SIZE);
    let volume = VolumeSpec::s3("v", &stub).freshness("1h");
    let cluster = Cluster::builder().nodes(3).replicas(2).volume(volume).alone().up();
    let file = cluster.mount("n1", "v").join("big");
    check_whole(&file, "big", SIZE)?;
    cluster.wait_copies(Copies { chunks: SIZE / CHUNK_BYTES, replicas: 2 });
    let (mut stalls, mut errors) = (Vec::new(), Vec::new());
    for _round in 0..recorder.rounds() {
        cluster.kill("n3");
        let met = watch(&file)?;
        stalls.push(Round::absolute(met.longest.as_secs_f64() * 1e3));
        errors.push(Round::absolute(met.errors as f64));
        cluster.restart(&[]);
    }
    recorder.record(
        Target::low("P16.stall", "longest read after kill -9 of an owner", "ms").must(250.0).aim(100.0),
        &stalls,
    );
    recorder.record(Target::low("P16.errors", "errors that the reader saw", "errors").must(0.0).aim(0.0), &errors);
    Ok(())
}

/// Reads one 4 KiB block of each chunk, over and over, past the page cache; the longest read bounds the first good one.
fn watch(path: &Path) -> Result<Met> {
    let (begun, mut met) = (Instant::now(), Met { longest: Duration::ZERO, errors: 0 });
    let mut block = [0; pattern::BLOCK_BYTES as usize];
    while begun.elapsed() < WATCHED {
        let file = open_uncached(path)?;
        for chunk in 0..SIZE / CHUNK_BYTES {
            let (at, before) = (chunk * CHUNK_BYTES, Instant::now());
            match file.read_exact_at(&mut block, at) {
                Ok(()) => pattern::check_version("big", 1, at, &block)?,
                Err(_counted) => met.errors += 1,
            }
            met.longest = met.longest.max(before.elapsed());
        }
    }
    Ok(met)
}
