//! The demonstration: a real directory in a bucket with 20 ms of latency, three agents, and what reading costs.
//!
//! Everything is as a user would have it: the programs `larder` and `larder-agent`, mounts, and the S3 protocol. Each
//! phase reads every file, past the kernel's page cache, and compares its SHA-256 with that of the upload.

use std::fmt;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::harness::{Cluster, Copies, VolumeSpec};
use crate::s3client::{Uploaded, upload_dir};
use crate::stub::{Counters, StubS3};

mod progress;
mod reading;

use progress::bar;
use reading::{Phase, read_everything};

/// First-byte latency of the bucket: a region's.
const LATENCY: Duration = Duration::from_millis(20);

/// Uploads that run at once.
const UPLOADS: usize = 8;

/// The volumes' chunk size, the default.
const CHUNK_BYTES: u64 = 4 * 1024 * 1024;

/// The volume's name.
const VOLUME: &str = "files";

/// What the last line says.
pub struct Outcome {
    files: u64,
    bytes: u64,
    wrong: u64,
    gets: u64,
    chunks: u64,
}

impl Outcome {
    /// Whether every byte was right and every chunk was asked for once.
    pub fn is_ok(&self) -> bool {
        self.wrong == 0 && self.gets == self.chunks && self.files > 0
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_ok() { "ok" } else { "failed" };
        let per_chunk = self.gets as f64 / self.chunks.max(1) as f64;
        write!(
            f,
            "demo: {verdict}, {} files, {} bytes, {} wrong, {per_chunk:.2} GETs per chunk",
            self.files, self.bytes, self.wrong
        )
    }
}

/// Runs the demonstration on the files below `dir`.
pub fn run(dir: &Path) -> Result<Outcome> {
    check_machine(dir)?;
    let stub = StubS3::builder().bucket("demo").start_blocking().context("the S3 double doesn't start")?;
    let uploaded = upload(&stub, dir)?;
    stub.set_latency(LATENCY);
    stub.reset_counters();
    let chunks: u64 = uploaded.sizes.values().map(|size| size.div_ceil(CHUNK_BYTES)).sum();
    println!("starting three agents (zones a, b, c), two copies of each chunk");
    let store_bytes = uploaded.bytes * 2 + (1 << 30);
    let cluster =
        Cluster::builder().nodes(3).replicas(2).capacity(store_bytes).volume(VolumeSpec::s3(VOLUME, &stub)).up();
    println!("{}", cluster.larder(&["get", "cc"], Duration::from_secs(30)).ok());

    println!("{}", Phase::HEADER);
    let mut wrong = 0;
    let mut show = |title: &str, node: &str| -> Result<()> {
        let phase = read_everything(title, &cluster.mount(node, VOLUME), &uploaded, &stub)?;
        println!("{phase}");
        wrong += phase.wrong;
        Ok(())
    };
    show("cold, node n1", "n1")?;
    show("warm, node n1", "n1")?;
    show("warm, node n2", "n2")?;
    cluster.wait_copies(Copies { chunks, replicas: 2 });
    cluster.kill("n3");
    show("n3 killed, node n1", "n1")?;
    show("n3 killed, node n2", "n2")?;
    println!("{}", cluster.larder(&["get", "cn"], Duration::from_secs(30)).ok());
    let counters = stub.counters();
    let outcome = Outcome { files: uploaded.files, bytes: uploaded.bytes, wrong, gets: counters.gets, chunks };
    if !outcome.is_ok() {
        show_twice(&counters);
        println!("what the agents say is kept in {}", cluster.keep_artifacts().display());
    }
    look_around(&cluster);
    Ok(outcome)
}

fn check_machine(dir: &Path) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "mounting needs root: run it with sudo");
    ensure!(Path::new("/dev/fuse").exists(), "there is no /dev/fuse: load the kernel's fuse module (modprobe fuse)");
    ensure!(dir.is_dir(), "{} is not a directory", dir.display());
    Ok(())
}

fn upload(stub: &StubS3, dir: &Path) -> Result<Uploaded> {
    println!("uploading {} into a bucket", dir.display());
    let bar = bar(reading::bytes_below(dir)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let uploaded = runtime.block_on(upload_dir(&stub.client(), dir, "", UPLOADS, |bytes| bar.inc(bytes)))?;
    bar.finish_and_clear();
    if uploaded.files == 0 {
        bail!("{} holds no files", dir.display());
    }
    println!("{} files, {} MiB", uploaded.files, uploaded.bytes >> 20);
    Ok(uploaded)
}

/// Names what the bucket was asked for more than once.
fn show_twice(counters: &Counters) {
    for (key, asked) in &counters.keys {
        for ((begin, end), times) in asked.ranges.iter().filter(|(_, times)| **times > 1) {
            println!("asked {times} times: bytes {begin}..{end} of {key}");
        }
    }
}

/// On a terminal the cluster stays until Enter.
fn look_around(cluster: &Cluster) {
    let dir = cluster.dir();
    let larder = std::env::current_exe().map(|demo| demo.with_file_name("larder")).unwrap_or_else(|_| "larder".into());
    println!("look around while it runs:");
    println!("  {} status --dir {}", larder.display(), dir.display());
    println!("  {} get cv -o yaml --dir {}", larder.display(), dir.display());
    println!("  {} map --dir {}", larder.display(), dir.display());
    println!("  ls {}", cluster.mount("n1", VOLUME).display());
    if std::io::stdin().is_terminal() {
        println!("Enter stops it.");
        // End of file is as good as Enter.
        let _ = std::io::stdin().read_line(&mut String::new());
    }
}
