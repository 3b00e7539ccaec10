//! What to bring before it is asked for, per open file.
//!
//! [`Detector`] is sans-IO: told each read, it says which chunks to begin, which are behind the reader, and when to
//! give all up. A reader that begins at 0, or goes on where it left off, is sequential: the window doubles with each
//! chunk it enters, from 2 chunks to 64 MiB. A seek empties the window, and halves what it may become if most of it was
//! unread. A reader here and there that has touched half of a small object's chunks gets all of it. [`Ahead`] holds what
//! was begun; [`Waste`] remembers for the whole volume whether it was read.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use larder_proto::object::{ChunkIndex, Object};
use larder_proto::wire::RequestId;

use super::{Chunks, Prefetched, ReadPattern};

mod waste;

pub(super) use waste::Waste;

use waste::{Outcome, WINDOW_FIRST};

/// The largest window: 16 chunks of the usual size. Twice what 8 parallel 8 MiB reads of a direct client hold.
const WINDOW_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Objects up to this size are brought whole for a reader here and there: the run of chunks that has the same owners.
const WHOLE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Reads here and there that say something: a reader of a file's head and tail makes fewer.
const WHOLE_READS_MIN: u32 = 8;

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
    window_first: u32,
    window_max: u32,
    window_limit: u32,
    pattern: Pattern,
    expected: u64,
    whole: Whole,
}

/// Whether a small object is brought whole for a reader here and there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    /// Not yet: chunks that were touched, one bit for each, and reads.
    Touched { chunks: u64, reads: u32 },
    /// It was, or is too large.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pattern {
    Unknown,
    Sequential { chunk: u32, window: u32, begun: u32 },
}

impl Detector {
    /// `window_first` is how many chunks are brought ahead of a reader that has shown nothing yet.
    pub(super) fn new(chunk_bytes: u64, chunks: u32, window_first: u32) -> Self {
        let window_max = u32::try_from(WINDOW_BYTES_MAX / chunk_bytes).unwrap_or(u32::MAX).max(WINDOW_FIRST);
        let small = chunks <= u64::BITS && u64::from(chunks) * chunk_bytes <= WHOLE_BYTES_MAX;
        let whole = if small { Whole::Touched { chunks: 0, reads: 0 } } else { Whole::Done };
        let (window_limit, pattern) = (window_max, Pattern::Unknown);
        Self { chunk_bytes, chunks, window_first, window_max, window_limit, pattern, expected: 0, whole }
    }

    /// A read of `len` bytes at `offset`, which lies within the file.
    pub(super) fn read(&mut self, offset: u64, len: u64) -> Advice {
        let end = offset.saturating_add(len);
        let here = self.index(offset);
        let passed = here.saturating_sub(self.index(SLACK_BYTES).max(1));
        let near = offset.abs_diff(self.expected) <= SLACK_BYTES;
        let (cancel, next) = match self.pattern {
            Pattern::Sequential { chunk, window, begun } if near => {
                let window = if here > chunk { (window * 2).clamp(1, self.window_limit) } else { window };
                (false, Pattern::Sequential { chunk: here.max(chunk), window, begun })
            }
            Pattern::Sequential { .. } => (true, Pattern::Unknown),
            // The first read at 0 and the second of two that follow each other.
            Pattern::Unknown if offset == self.expected => {
                let window = self.window_first.min(self.window_limit);
                (false, Pattern::Sequential { chunk: here, window, begun: here })
            }
            Pattern::Unknown => (false, Pattern::Unknown),
        };
        self.pattern = next;
        self.expected = if cancel || !near { end } else { self.expected.max(end) };
        let begin = if self.pattern == Pattern::Unknown { self.begin_whole(here) } else { self.begin() };
        Advice { cancel, passed, begin }
    }

    /// All of a small object, once a reader here and there has touched half of its chunks.
    fn begin_whole(&mut self, here: u32) -> Range<u32> {
        let Whole::Touched { chunks, reads } = &mut self.whole else { return 0..0 };
        *chunks |= 1_u64.checked_shl(here).unwrap_or(0);
        *reads += 1;
        if *reads < WHOLE_READS_MIN || chunks.count_ones() * 2 < self.chunks {
            return 0..0;
        }
        self.whole = Whole::Done;
        0..self.chunks
    }

    /// A chunk that was begun has left the window: what the window may become follows.
    fn settled(&mut self, outcome: Outcome) {
        self.window_limit = match outcome {
            Outcome::Used => (self.window_limit + 1).min(self.window_max),
            Outcome::Wasted => self.window_limit,
        };
    }

    /// A seek found most of the window unread.
    fn seek_in_vain(&mut self) {
        self.window_limit = (self.window_limit / 2).max(1);
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
    begun: VecDeque<Begun>,
    waste: Arc<Waste>,
}

/// A chunk that was begun.
struct Begun {
    index: u32,
    place: Place,
    prefetched: Prefetched,
}

/// Where a chunk lay when it was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Its reader was in it.
    Here,
    /// Its reader was not.
    Ahead,
}

impl Ahead {
    pub(super) fn new(object: &Object, waste: &Arc<Waste>) -> Self {
        let chunk_bytes = u64::from(object.chunk_size().bytes());
        let detector = Detector::new(chunk_bytes, object.chunks(), waste.first_window());
        Self { detector, begun: VecDeque::new(), waste: waste.clone() }
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
            self.seek();
        }
        while self.begun.front().is_some_and(|begun| begun.index < advice.passed) {
            if let Some(begun) = self.begun.pop_front() {
                let outcome = self.settle(&begun);
                self.detector.settled(outcome);
            }
        }
        let here = self.detector.index(offset);
        for index in advice.begin {
            let begun = object.chunk(ChunkIndex(index)).and_then(|chunk| chunks.prefetch(request, &chunk));
            let place = if index == here { Place::Here } else { Place::Ahead };
            match begun {
                Some(prefetched) => self.begun.push_back(Begun { index, place, prefetched }),
                None => return self.detector.not_begun(index),
            }
        }
    }

    /// Gives up the window.
    fn seek(&mut self) {
        let (all, wasted) = self.cancel();
        if wasted * 2 > all {
            self.detector.seek_in_vain();
        }
    }

    /// What became of a chunk that leaves the window; the volume remembers it.
    fn settle(&self, begun: &Begun) -> Outcome {
        let outcome = if begun.prefetched.is_wasted() { Outcome::Wasted } else { Outcome::Used };
        if begun.place == Place::Ahead {
            self.waste.count(outcome);
        }
        outcome
    }

    /// How the file is read, as far as is known.
    pub(super) fn pattern(&self) -> ReadPattern {
        self.detector.pattern()
    }

    /// Gives up what was begun: how many chunks, and how many of them nobody had read.
    pub(super) fn cancel(&mut self) -> (usize, usize) {
        let begun = std::mem::take(&mut self.begun);
        let wasted = begun.iter().filter(|begun| self.settle(begun) == Outcome::Wasted).count();
        (begun.len(), wasted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_sequential_reader_gets_a_window_that_doubles_to_64_mib() {
        let mut detector = Detector::new(4 * MIB, 1000, WINDOW_FIRST);
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
        let mut detector = Detector::new(4 * MIB, 1000, WINDOW_FIRST);
        detector.read(0, MIB);
        let seek = detector.read(400 * MIB, 4096);
        assert_eq!((seek.cancel, seek.begin), (true, 0..0));
        assert_eq!(detector.read(800 * MIB, 4096).begin, 0..0, "random readers bring nothing");
        assert_eq!(detector.read(800 * MIB + 4096, 4096).begin, 200..203);
    }

    #[test]
    fn reads_that_overtake_each_other_are_still_sequential() {
        let mut detector = Detector::new(4 * MIB, 1000, WINDOW_FIRST);
        detector.read(0, MIB);
        assert!(!detector.read(2 * MIB, MIB).cancel);
        assert!(!detector.read(MIB, MIB).cancel);
        assert!(!detector.read(3 * MIB, MIB).cancel);
        assert_eq!(detector.read(4 * MIB, MIB).begin, 3..6);
    }

    #[test]
    fn the_window_ends_with_the_file_and_what_was_refused_is_asked_again() {
        let mut detector = Detector::new(4 * MIB, 4, WINDOW_FIRST);
        assert_eq!(detector.read(0, MIB).begin, 0..3);
        detector.not_begun(1);
        assert_eq!(detector.read(MIB, MIB).begin, 1..3);
        assert_eq!(detector.read(4 * MIB, MIB).begin, 3..4);
        assert_eq!(detector.read(8 * MIB, MIB).begin, 0..0);
    }

    #[test]
    fn chunks_behind_the_reader_are_let_go() {
        let mut detector = Detector::new(4 * MIB, 1000, WINDOW_FIRST);
        detector.read(0, MIB);
        for chunk in 1..10 {
            let passed = detector.read(chunk * 4 * MIB, 4 * MIB).passed;
            assert_eq!(u64::from(passed), chunk - 1);
        }
    }

    #[test]
    fn a_reader_of_whom_nothing_good_is_known_gets_its_window_one_chunk_later() {
        let mut detector = Detector::new(4 * MIB, 1000, 0);
        assert_eq!(detector.read(0, MIB).begin, 0..1);
        let begun: Vec<_> = (1..8).map(|chunk| detector.read(chunk * 4 * MIB, 4 * MIB).begin).collect();
        assert_eq!(begun, [1..3, 3..5, 5..8, 8..13, 13..22, 22..23, 23..24]);
    }

    #[test]
    fn seeks_that_leave_the_window_unread_halve_it_and_reading_on_doubles_it_again() {
        let mut detector = Detector::new(4 * MIB, 10_000, WINDOW_FIRST);
        for number in 0..10 {
            let at = number * 400 * MIB;
            detector.read(at, 4096);
            detector.read(at + 4096, 4096);
            if detector.read(at + 200 * MIB, 4096).cancel {
                detector.seek_in_vain();
            }
        }
        let at = 8_000 * MIB;
        detector.read(at, 4096);
        assert_eq!(detector.read(at + 4096, 4096).begin, 2000..2002, "one ahead");
        assert_eq!(detector.read(at + 4 * MIB, MIB).begin, 2002..2003, "and no more, unread");
        (0..32).for_each(|_| detector.settled(Outcome::Used));
        let mut last = 0..0;
        for chunk in 2..8 {
            last = detector.read(at + chunk * 4 * MIB, MIB).begin;
        }
        assert_eq!(last.end, 2000 + 7 + 1 + 16);
    }

    #[test]
    fn a_small_object_read_here_and_there_is_brought_whole_once() {
        let mut detector = Detector::new(4 * MIB, 4, WINDOW_FIRST);
        for read in 0..7 {
            assert_eq!(detector.read((9 - read) * MIB + 77, 4096).begin, 0..0, "{read}");
        }
        assert_eq!(detector.read(77, 4096).begin, 0..4);
        assert_eq!(detector.read(5 * MIB, 4096).begin, 0..0);
        let mut one_chunk = Detector::new(4 * MIB, 4, WINDOW_FIRST);
        assert!((1..50).all(|read| one_chunk.read(4 * MIB - read * 10_000, 100).begin.is_empty()), "a quarter of it");
        let mut large = Detector::new(4 * MIB, 5, WINDOW_FIRST);
        assert!((0..19).all(|read| large.read((19 - read) * MIB + 77, 100).begin.is_empty()));
    }
}
