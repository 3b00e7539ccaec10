//! How often each operation was asked for, and how it was answered.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the kernel asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A name in a directory.
    Lookup,
    /// Attributes.
    Getattr,
    /// Opening a file.
    Open,
    /// Bytes of a file.
    Read,
    /// Closing a file or directory.
    Release,
    /// Opening a directory.
    Opendir,
    /// Names.
    Readdir,
    /// Names with attributes.
    Readdirplus,
    /// Room.
    Statfs,
    /// Anything that would write.
    Write,
}

impl Op {
    /// Every operation.
    pub const ALL: [Self; 10] = [
        Self::Lookup,
        Self::Getattr,
        Self::Open,
        Self::Read,
        Self::Release,
        Self::Opendir,
        Self::Readdir,
        Self::Readdirplus,
        Self::Statfs,
        Self::Write,
    ];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Getattr => "getattr",
            Self::Open => "open",
            Self::Read => "read",
            Self::Release => "release",
            Self::Opendir => "opendir",
            Self::Readdir => "readdir",
            Self::Readdirplus => "readdirplus",
            Self::Statfs => "statfs",
            Self::Write => "write",
        }
    }
}

/// How an operation was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpCounts {
    /// From memory, on the FUSE thread.
    pub at_once: u64,
    /// After waiting for another place.
    pub waited: u64,
    /// With an error (a missing name isn't one); counted besides.
    pub failed: u64,
}

/// Counters of all mounts of an agent.
#[derive(Debug, Default)]
pub struct Ops {
    counts: [[AtomicU64; 3]; Op::ALL.len()],
    read_bytes: AtomicU64,
}

impl Ops {
    /// The counts of one operation.
    pub fn of(&self, op: Op) -> OpCounts {
        let [at_once, waited, failed] = &self.counts[op as usize];
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        OpCounts { at_once: get(at_once), waited: get(waited), failed: get(failed) }
    }

    /// Bytes given to the kernel.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn at_once(&self, op: Op) {
        self.counts[op as usize][0].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn waited(&self, op: Op) {
        self.counts[op as usize][1].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, op: Op) {
        self.counts[op as usize][2].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, bytes: usize) {
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
