//! `make soak`: mixed readers on all nodes for a long time; memory, descriptors and threads of the agents must stay flat.
//!
//! There is more data than the stores hold, so filling and evicting never end. The first third of the time is for growing;
//! the peaks of the second and of the last third are compared. Every block that is read is checked.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::bench::process::{descriptors, memory_mib, threads};
use crate::bench::reading::{Random, random_4k, read_through};
use crate::harness::{Cluster, VolumeSpec, open_uncached};
use crate::stub::StubS3;

const BIG: u64 = 24;
const BIG_BYTES: u64 = 128 << 20;
const SMALL: u64 = 5_000;
const SMALL_BYTES: u64 = 40 * 1024;
/// Two copies of everything are 6.4 GiB; three stores of this hold a third.
const STORE_BYTES: u64 = 700 << 20;
const LATENCY: Duration = Duration::from_millis(5);
const RANDOM_FOR: Duration = Duration::from_secs(1);
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// What an agent used at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    memory_mib: f64,
    descriptors: f64,
    threads: f64,
}

impl Use {
    fn of(pid: i32) -> Result<Use> {
        let (descriptors, threads) = (descriptors(pid)? as f64, threads(pid)? as f64);
        Ok(Use { memory_mib: memory_mib(pid, "VmRSS")?, descriptors, threads })
    }

    fn peak(self, other: Use) -> Use {
        Use {
            memory_mib: self.memory_mib.max(other.memory_mib),
            descriptors: self.descriptors.max(other.descriptors),
            threads: self.threads.max(other.threads),
        }
    }

    /// A tenth more, and what a pool may add by chance, is still flat.
    fn is_flat_after(self, before: Use) -> bool {
        let flat = |later: f64, earlier: f64, slack: f64| later <= earlier * 1.1 + slack;
        flat(self.memory_mib, before.memory_mib, 16.0)
            && flat(self.descriptors, before.descriptors, 16.0)
            && flat(self.threads, before.threads, 4.0)
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} MiB, {} descriptors, {} threads", self.memory_mib, self.descriptors, self.threads)
    }
}

/// What came of it.
pub struct Outcome {
    flat: bool,
    bytes: u64,
    took: Duration,
}

impl Outcome {
    /// Whether nothing grew; wrong bytes have ended the run before.
    pub fn is_ok(&self) -> bool {
        self.flat && self.bytes > 0
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_ok() { "ok" } else { "failed" };
        write!(f, "soak: {verdict}, {} GiB read in {} minutes, 0 wrong", self.bytes >> 30, self.took.as_secs() / 60)
    }
}

/// Reads for `duration`, and watches the agents.
///
/// Errors: wrong bytes, failed reads, a machine that can't mount.
pub fn run(duration: Duration) -> Result<Outcome> {
    let stub = StubS3::builder().bucket("soak").latency(LATENCY).start_blocking()?;
    (0..BIG).for_each(|file| drop(stub.put_pattern(&big(file), 1, BIG_BYTES)));
    (0..SMALL).for_each(|file| drop(stub.put_pattern(&small(file), 1, SMALL_BYTES)));
    let volume = VolumeSpec::s3("v", &stub).freshness("5s");
    let cluster = Cluster::builder().capacity(STORE_BYTES).volume(volume).alone().up();
    let (bytes, stop, begun) = (AtomicU64::new(0), AtomicBool::new(false), Instant::now());
    let flat = std::thread::scope(|scope| {
        let readers: Vec<_> = cluster
            .node_names()
            .into_iter()
            .enumerate()
            .map(|(seed, node)| {
                let (mount, bytes, stop) = (cluster.mount(&node, "v"), &bytes, &stop);
                scope.spawn(move || read_until(mount, seed as u64, bytes, stop))
            })
            .collect();
        let watched = watch(&cluster, begun, duration, || readers.iter().any(|reader| reader.is_finished()));
        stop.store(true, Ordering::SeqCst);
        readers.into_iter().try_for_each(|reader| reader.join().expect("readers return errors"))?;
        watched
    })?;
    Ok(Outcome { flat, bytes: bytes.into_inner(), took: begun.elapsed() })
}

fn big(file: u64) -> String {
    format!("big/{file}")
}

fn small(file: u64) -> String {
    format!("small/{}/{file}", file % 10)
}

/// One of the things that readers do, again and again.
fn read_until(mount: PathBuf, seed: u64, bytes: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let (mut random, mut piece) = (Random::new(seed + 1), vec![0; 1 << 20]);
    while !stop.load(Ordering::SeqCst) {
        let file = mount.join(big(random.below(BIG)));
        let read = match random.below(4) {
            0 => {
                drop(open_uncached(&file)?);
                read_through(&file, &mut piece)?
            }
            1 => (random_4k(&file, BIG_BYTES, 2, RANDOM_FOR, random.below(1 << 20))?.reads_per_s * 4096.0) as u64,
            2 => {
                let files = (0..200).map(|_| mount.join(small(random.below(SMALL)))).collect::<Vec<_>>();
                files.iter().map(|file| read_through(file, &mut piece)).sum::<Result<u64>>()?
            }
            _ => {
                let names = std::fs::read_dir(mount.join(format!("small/{}", random.below(10))))?;
                names.map(|entry| Ok(entry?.metadata()?.len())).sum::<Result<u64>>()?.min(1)
            }
        };
        bytes.fetch_add(read, Ordering::Relaxed);
    }
    Ok(())
}

/// Whether every agent stayed flat; ends early when `over`.
fn watch(cluster: &Cluster, begun: Instant, duration: Duration, over: impl Fn() -> bool) -> Result<bool> {
    let nodes = cluster.node_names();
    let mut peaks = vec![[Use::default(); 3]; nodes.len()];
    while begun.elapsed() < duration && !over() {
        let third = (begun.elapsed().as_secs_f64() / duration.as_secs_f64() * 3.0) as usize;
        for (node, peaks) in nodes.iter().zip(&mut peaks) {
            let now = Use::of(cluster.agent_pid(node))?;
            peaks[third.min(2)] = peaks[third.min(2)].peak(now);
        }
        std::thread::sleep(SAMPLE_EVERY.min(duration / 30));
    }
    for (node, [first, second, last]) in nodes.iter().zip(&peaks) {
        println!("{node}: peak of the first third {first}; of the second {second}; of the last {last}");
    }
    Ok(peaks.iter().all(|[_, second, last]| last.is_flat_after(*second)))
}
