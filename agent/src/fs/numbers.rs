//! Numbers for files and directories that no agent of this node gave out before.
//!
//! A number is 24 bits of start counter and 40 bits of sequence. The counter lies in the state folder and is raised,
//! durably, before the first number is given out, so a number of an earlier start is unknown rather than wrong.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Ino;
use crate::runtime::disk::Disk;

const SEQUENCE_BITS: u32 = 40;
const STARTS_MAX: u64 = 1 << 24;

/// Why no numbers can be given out.
#[derive(Debug, thiserror::Error)]
pub enum NumbersError {
    /// The counter can't be read or written.
    #[error("can't keep the start counter {}: {error}", file.display())]
    Io {
        /// The counter's file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file holds no counter.
    #[error("{} holds no start counter: remove the file", file.display())]
    Unreadable {
        /// The counter's file.
        file: PathBuf,
    },
    /// 2^24 starts.
    #[error("{} has reached its end: remove the state folder while no mount of this node is in use", file.display())]
    Exhausted {
        /// The counter's file.
        file: PathBuf,
    },
}

/// The source of numbers of one agent.
#[derive(Debug)]
pub struct Numbers {
    start: u64,
    next: AtomicU64,
}

impl Numbers {
    /// Raises the counter in the state folder. Blocks.
    pub fn begin(disk: &dyn Disk, state: &Path) -> Result<Self, NumbersError> {
        let file = state.join("starts");
        let before = match disk.read_small(&file, 32) {
            Ok(bytes) => std::str::from_utf8(&bytes)
                .ok()
                .and_then(|text| text.trim().parse::<u64>().ok())
                .ok_or_else(|| NumbersError::Unreadable { file: file.clone() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(NumbersError::Io { file, error }),
        };
        let start = before.saturating_add(1);
        if start >= STARTS_MAX {
            return Err(NumbersError::Exhausted { file });
        }
        disk.replace_small(&file, format!("{start}\n").as_bytes()).map_err(|error| NumbersError::Io { file, error })?;
        Ok(Self { start, next: AtomicU64::new(0) })
    }

    /// Which start of the agent this is.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// A number that was never given out; none after 2^40 of them.
    pub fn next(&self) -> Option<Ino> {
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        (sequence >> SEQUENCE_BITS == 0).then_some(Ino(self.start << SEQUENCE_BITS | sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::disk::RealDisk;

    #[test]
    fn no_number_comes_back_after_a_restart() {
        let state = tempfile::tempdir().expect("a folder");
        let first = Numbers::begin(&RealDisk, state.path()).expect("begins");
        let a = first.next().expect("a number");
        assert_eq!(a, Ino(1 << 40));
        let second = Numbers::begin(&RealDisk, state.path()).expect("begins again");
        let b = second.next().expect("a number");
        assert_eq!((b.0 >> 40, second.start()), (2, 2));
        assert_ne!(a, b);
        assert!(a > Ino::ROOT && b > Ino::ROOT);
    }

    #[test]
    fn a_broken_counter_is_refused() {
        let state = tempfile::tempdir().expect("a folder");
        RealDisk.replace_small(&state.path().join("starts"), b"many").expect("written");
        assert!(matches!(Numbers::begin(&RealDisk, state.path()), Err(NumbersError::Unreadable { .. })));
        RealDisk.replace_small(&state.path().join("starts"), b"16777215").expect("written");
        assert!(matches!(Numbers::begin(&RealDisk, state.path()), Err(NumbersError::Exhausted { .. })));
    }
}
