//! Whether what is brought ahead of a volume's readers is read: the recent past of all its handles.
//!
//! Most readers of a volume are one program, which opens file after file in the same way: what was brought in vain for
//! the last files would be brought in vain for the next. Only chunks ahead of their reader count; the one it is in has
//! had its use.

use parking_lot::Mutex;

/// Outcomes that are remembered; at that number both counts are halved.
const REMEMBERED_MAX: u32 = 64;

/// Fewer say nothing.
const JUDGED_MIN: u32 = 16;

/// The first window, in chunks.
pub(super) const WINDOW_FIRST: u32 = 2;

/// What became of chunks that were brought ahead.
#[derive(Debug, Default)]
pub(crate) struct Waste {
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    used: u32,
    wasted: u32,
}

/// What became of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its reader came.
    Used,
    /// It was given up unread.
    Wasted,
}

impl Waste {
    pub(super) fn count(&self, outcome: Outcome) {
        let mut recent = self.recent.lock();
        match outcome {
            Outcome::Used => recent.used += 1,
            Outcome::Wasted => recent.wasted += 1,
        }
        if recent.used + recent.wasted >= REMEMBERED_MAX {
            recent.used /= 2;
            recent.wasted /= 2;
        }
    }

    /// Chunks to bring ahead of a reader that has shown nothing yet: none where most were brought in vain. A reader that
    /// goes on gets its window all the same, one chunk later, and what it reads then speaks for the next.
    pub(super) fn first_window(&self) -> u32 {
        let recent = self.recent.lock();
        let judged = recent.used + recent.wasted >= JUDGED_MIN;
        if judged && recent.wasted > recent.used { 0 } else { WINDOW_FIRST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_in_vain_is_none_for_the_next_until_what_is_brought_is_read_again() {
        let waste = Waste::default();
        (0..JUDGED_MIN - 1).for_each(|_| waste.count(Outcome::Wasted));
        assert_eq!(waste.first_window(), WINDOW_FIRST, "too few to judge");
        waste.count(Outcome::Wasted);
        assert_eq!(waste.first_window(), 0);
        (0..1_000).for_each(|_| waste.count(Outcome::Wasted));
        (0..REMEMBERED_MAX).for_each(|_| waste.count(Outcome::Used));
        assert_eq!(waste.first_window(), WINDOW_FIRST, "the past is forgotten");
    }
}
