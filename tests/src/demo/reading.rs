//! One phase: every file read through one mount, checked, and what it cost the bucket.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use aws_lc_rs::digest::{Context, SHA256};

use super::progress::bar;
use crate::harness::open_uncached;
use crate::s3client::Uploaded;
use crate::stub::StubS3;

/// Files read at once.
const READERS: usize = 8;

/// Bytes of one read call.
const PIECE_BYTES: usize = 1024 * 1024;

/// What reading everything was like.
pub struct Phase {
    title: String,
    elapsed: Duration,
    bytes: u64,
    gets: u64,
    origin_bytes: u64,
    /// Files that differ from what was uploaded, or could not be read.
    pub wrong: u64,
}

impl Phase {
    /// The table's first line.
    pub const HEADER: &str = "phase                    time        MiB/s      GETs    hit     sha256";
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        let speed = self.bytes as f64 / (1 << 20) as f64 / seconds.max(0.001);
        let hit = 100.0 * self.bytes.saturating_sub(self.origin_bytes) as f64 / self.bytes.max(1) as f64;
        let verdict = if self.wrong == 0 { "all equal".to_owned() } else { format!("{} WRONG", self.wrong) };
        let (title, gets) = (&self.title, self.gets);
        write!(f, "{title:20} {seconds:>7.2} s {speed:>12.0} {gets:>9} {hit:>5.0}%    {verdict}")
    }
}

/// Reads every uploaded file below `mount` with several readers, past the kernel's page cache.
pub fn read_everything(title: &str, mount: &Path, uploaded: &Uploaded, stub: &StubS3) -> Result<Phase> {
    let before = stub.counters();
    let (wrong, begun) = (AtomicU64::new(0), Instant::now());
    let progress = bar(uploaded.bytes);
    let files = Mutex::new(uploaded.sha256.iter());
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let mut piece = vec![0; PIECE_BYTES];
                loop {
                    let Some((key, sha256)) = files.lock().expect("no reader panics").next() else { break };
                    let read = hash(&mount.join(key), &mut piece, |bytes| progress.inc(bytes));
                    if !matches!(&read, Ok(found) if found == sha256) {
                        progress.suspend(|| println!("wrong: {key}: {read:?}"));
                        wrong.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    progress.finish_and_clear();
    let after = stub.counters();
    Ok(Phase {
        title: title.to_owned(),
        elapsed: begun.elapsed(),
        bytes: uploaded.bytes,
        gets: after.gets - before.gets,
        origin_bytes: after.bytes_sent - before.bytes_sent,
        wrong: wrong.into_inner(),
    })
}

fn hash(path: &Path, piece: &mut [u8], mut read: impl FnMut(u64)) -> io::Result<String> {
    let mut file: File = open_uncached(path)?;
    let mut context = Context::new(&SHA256);
    loop {
        match file.read(piece)? {
            0 => return Ok(hex::encode(context.finish())),
            len => {
                context.update(&piece[..len]);
                read(len as u64);
            }
        }
    }
}

/// Bytes of the regular files below `dir`; links are not followed.
pub fn bytes_below(dir: &Path) -> io::Result<u64> {
    let (mut dirs, mut bytes) = (vec![dir.to_owned()], 0);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() {
                bytes += entry.metadata()?.len();
            }
        }
    }
    Ok(bytes)
}
