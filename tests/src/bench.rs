//! `make bench`: what Larder costs and gives, each figure beside what the same machine does without it.
//!
//! A figure and its limit are measured in turns (A B A B) in one run, because machines are shared and noisy: the ratio of
//! a round is what counts, and the median of the rounds is the result. Every byte that a timed loop reads carries its block
//! number, which the loop checks; whole contents are checked before. Nothing here fails because a machine is slow; wrong
//! bytes fail.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

mod cold;
mod daemon;
mod death;
mod figure;
mod local;
mod memory;
mod million;
mod names;
mod network;
pub(crate) mod process;
mod raw;
pub(crate) mod reading;
mod remote;
mod report;
mod small;

pub use figure::Figure;
pub use report::Report;

use figure::Recorder;

/// What is measured, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// Prefixes of figures' ids, such as `P1`; empty: all of them.
    pub only: Vec<String>,
    /// Rounds of each figure, at least 1.
    pub rounds: usize,
}

type Group = fn(&mut Recorder) -> Result<()>;

/// What shares a cluster is a group; each begins with a cluster and a cache of its own.
const GROUPS: &[(&[&str], Group)] = &[
    (&["P1", "P2", "P3"], local::measure),
    (&["P4", "P4b", "P14"], remote::measure),
    (&["P5", "P5b", "P6"], cold::measure),
    (&["P7", "P8"], small::measure),
    (&["P9"], names::measure),
    (&["P15"], memory::measure),
    (&["P17", "P15.idle-1m"], million::measure),
    (&["P16"], death::measure),
];

/// Measures; prints each figure when it is known.
///
/// Errors: a machine that can't mount, and wrong bytes.
pub fn run(options: &Options) -> Result<Report> {
    let scratch = scratch_folder()?;
    let mut recorder = Recorder::new(options.clone(), scratch.path().to_owned());
    println!("{}", Figure::HEADER);
    for (ids, group) in GROUPS {
        if ids.iter().any(|id| recorder.wants(id)) {
            group(&mut recorder).with_context(|| format!("while measuring {}", ids.join(", ")))?;
        }
    }
    Ok(Report::new(recorder.into_figures()))
}

/// On the file system that the harness gives stores, so that a raw file is held against the same disk.
fn scratch_folder() -> Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix("larder-bench-").tempdir_in("/var/tmp");
    folder.context("a folder in /var/tmp for the files that Larder is held against")
}

/// Forgets what the kernel keeps of files and names.
fn drop_page_cache() -> Result<()> {
    nix::unistd::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the page cache needs root")
}

/// `folder/name`, created.
fn subfolder(folder: &Path, name: &str) -> Result<PathBuf> {
    let folder = folder.join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
