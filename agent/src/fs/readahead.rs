//! What to bring before it is asked for, per open file.
//!
//! [`Detector`] is sans-IO: told each read, it says which chunks to begin, which are behind the reader, and when to
//! give all up. A reader that begins at 0, or goes on where it left off, is sequential: the window doubles with each
//! chunk it enters, from 2 chunks to 64 MiB. A seek empties the window. [`Ahead`] holds what was begun.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use larder_proto::object::{ChunkIndex, Object};
use larder_proto::wire::RequestId;

use super::{Chunks, Prefetched, ReadPattern};

/// The largest window: 16 chunks of the usual size. Twice what 8 parallel 8 MiB reads of a direct client hold.
const WINDOW_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The first window, in chunks.
const WINDOW_FIRST: u32 = 2;

/// How far a read may lie from where the last one ended: the kernel has several reads of 1 MiB on their way, and the
/// threads that serve them overtake each other.
const SLACK_BYTES: u64 = 4 * 1024 * 1024;

/// What a read means for the chunks around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Advice {
    /// Give up everything that was begun.
    pub(super) cancel: bool,
    /// Chunks below this one aren't needed any more.
    pub(super) passed: u32,
    /// Begin these.
    pub(super) begin: Range<u32>,
}

/// How a file is read.
///
/// ```text
///            read at 0, or where the last ended             enters a new chunk
///   Unknown ----------------------------------> Sequential --------------------> Sequential (window doubles)
///      ^                                            |
///      +--------------------------------------------+  a read elsewhere: cancel
/// ```
#[derive(Debug)]
pub(super) struct Detector {
    chunk_bytes: u64,
    chunks: u32,
    window_max: u32,
    pattern: Pattern,
    expected: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pattern {
    Unknown,
    Sequential { chunk: u32, window: u32, begun: u32 },
}

impl Detector {
    pub(super) fn new(chunk_bytes: u64, chunks: u32) -> Self {
        let window_max = u32::try_from(WINDOW_BYTES_MAX / chunk_bytes).unwrap_or(u32::MAX).max(WINDOW_FIRST);
        Self { chunk_bytes, chunks, window_max, pattern: Pattern::Unknown, expected: 0 }
    }

    /// A read of `len` bytes at `offset`, which lies within the file.
    pub(super) fn read(&mut self, offset: u64, len: u64) -> Advice {
        let end = offset.saturating_add(len);
        let here = self.index(offset);
        let passed = here.saturating_sub(self.index(SLACK_BYTES).max(1));
        let near = offset.abs_diff(self.expected) <= SLACK_BYTES;
        let (cancel, next) = match self.pattern {
            Pattern::Sequential { chunk, window, begun } if near => {
                let window = if here > chunk { window.saturating_mul(2).min(self.window_max) } else { window };
                (false, Pattern::Sequential { chunk: here.max(chunk), window, begun })
            }
            Pattern::Sequential { .. } => (true, Pattern::Unknown),
            // The first read at 0 and the second of two that follow each other.
            Pattern::Unknown if offset == self.expected => {
                (false, Pattern::Sequential { chunk: here, window: WINDOW_FIRST, begun: here })
            }
            Pattern::Unknown => (false, Pattern::Unknown),
        };
        self.pattern = next;
        self.expected = if cancel || !near { end } else { self.expected.max(end) };
        Advice { cancel, passed, begin: self.begin() }
    }

    /// How the file is read, as far as is known.
    pub(super) fn pattern(&self) -> ReadPattern {
        match self.pattern {
            Pattern::Sequential { .. } => ReadPattern::Sequential,
            // A file of one chunk is brought whole.
            Pattern::Unknown if self.chunks <= 1 => ReadPattern::Sequential,
            Pattern::Unknown => ReadPattern::Random,
        }
    }

    /// Takes back what could not be begun: `from` and what follows are asked for again by a later read.
    pub(super) fn not_begun(&mut self, from: u32) {
        if let Pattern::Sequential { begun, .. } = &mut self.pattern {
            *begun = (*begun).min(from);
        }
    }

    /// The chunks that enter the window. A file of one chunk is brought whole by its first read.
    fn begin(&mut self) -> Range<u32> {
        let Pattern::Sequential { chunk, window, begun } = &mut self.pattern else { return 0..0 };
        let end = chunk.saturating_add(1).saturating_add(*window).min(self.chunks);
        let start = (*begun).max(*chunk);
        if start >= end {
            return 0..0;
        }
        *begun = end;
        start..end
    }

    fn index(&self, offset: u64) -> u32 {
        u32::try_from(offset / self.chunk_bytes).unwrap_or(u32::MAX)
    }
}

/// A detector and what was begun on its advice.
pub(super) struct Ahead {
    detector: Detector,
    begun: VecDeque<(u32, Prefetched)>,
}

impl Ahead {
    pub(super) fn new(object: &Object) -> Self {
        let detector = Detector::new(u64::from(object.chunk_size().bytes()), object.chunks());
        Self { detector, begun: VecDeque::new() }
    }

    /// Acts on a read. Never blocks.
    pub(super) fn read(
        &mut self,
        request: RequestId,
        object: &Arc<Object>,
        offset: u64,
        len: u64,
        chunks: &dyn Chunks,
    ) {
        let advice = self.detector.read(offset, len);
        if advice.cancel {
            self.begun.clear();
        }
        while self.begun.front().is_some_and(|(index, _)| *index < advice.passed) {
            self.begun.pop_front();
        }
        for index in advice.begin {
            let begun = object.chunk(ChunkIndex(index)).and_then(|chunk| chunks.prefetch(request, &chunk));
            match begun {
                Some(prefetched) => self.begun.push_back((index, prefetched)),
                None => return self.detector.not_begun(index),
            }
        }
    }

    /// How the file is read, as far as is known.
    pub(super) fn pattern(&self) -> ReadPattern {
        self.detector.pattern()
    }

    /// Gives up what was begun.
    pub(super) fn cancel(&mut self) {
        self.begun.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_sequential_reader_gets_a_window_that_doubles_to_64_mib() {
        let mut detector = Detector::new(4 * MIB, 1000);
        assert_eq!(detector.read(0, MIB), Advice { cancel: false, passed: 0, begin: 0..3 });
        assert_eq!(detector.read(MIB, MIB).begin, 0..0);
        let mut windows = Vec::new();
        for chunk in 1..8 {
            let begin = detector.read(chunk * 4 * MIB, 4 * MIB).begin;
            windows.push(begin.end - 1 - u32::try_from(chunk).expect("small"));
        }
        assert_eq!(windows, [4, 8, 16, 16, 16, 16, 16]);
    }

    #[test]
    fn a_seek_cancels_and_two_reads_in_a_row_begin_again() {
        let mut detector = Detector::new(4 * MIB, 1000);
        detector.read(0, MIB);
        let seek = detector.read(400 * MIB, 4096);
        assert_eq!((seek.cancel, seek.begin), (true, 0..0));
        assert_eq!(detector.read(800 * MIB, 4096).begin, 0..0, "random readers bring nothing");
        assert_eq!(detector.read(800 * MIB + 4096, 4096).begin, 200..203);
    }

    #[test]
    fn reads_that_overtake_each_other_are_still_sequential() {
        let mut detector = Detector::new(4 * MIB, 1000);
        detector.read(0, MIB);
        assert!(!detector.read(2 * MIB, MIB).cancel);
        assert!(!detector.read(MIB, MIB).cancel);
        assert!(!detector.read(3 * MIB, MIB).cancel);
        assert_eq!(detector.read(4 * MIB, MIB).begin, 3..6);
    }

    #[test]
    fn the_window_ends_with_the_file_and_what_was_refused_is_asked_again() {
        let mut detector = Detector::new(4 * MIB, 4);
        assert_eq!(detector.read(0, MIB).begin, 0..3);
        detector.not_begun(1);
        assert_eq!(detector.read(MIB, MIB).begin, 1..3);
        assert_eq!(detector.read(4 * MIB, MIB).begin, 3..4);
        assert_eq!(detector.read(8 * MIB, MIB).begin, 0..0);
    }

    #[test]
    fn chunks_behind_the_reader_are_let_go() {
        let mut detector = Detector::new(4 * MIB, 1000);
        detector.read(0, MIB);
        for chunk in 1..10 {
            let passed = detector.read(chunk * 4 * MIB, 4 * MIB).passed;
            assert_eq!(u64::from(passed), chunk - 1);
        }
    }
}
