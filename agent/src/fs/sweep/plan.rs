//! Which files of a directory to bring, and how many. Sans-IO.

use std::sync::Arc;

use larder_proto::object::EntryName;

use super::super::Looked;
use super::super::listings::Listing;
use crate::origin::ObjectInfo;

/// Files asked for at once, and their bytes: one request of 8 MiB to each of three owners.
const STEP_FILES: usize = 256;
const STEP_BYTES: u64 = 24 * 1024 * 1024;

/// How far a reader that goes in the order of names may stray: the threads of one program overtake each other.
const STRAY: usize = 64;

/// How far ahead of such a reader files are brought, at most.
const AHEAD_MAX: usize = 2_048;

/// Reads after which a guess is judged.
const JUDGED_AFTER: u32 = 64;

/// Files that owners didn't keep, after which they are judged.
const REFUSED_MIN: u32 = 16;

/// Files read a second time that show a reader at the directory's beginning again: so many, and a sixteenth of all.
const AGAIN_MIN: u32 = 8;

/// Names looked at in one step: the lock is short.
const LOOKED_MAX: usize = 8_192;

/// A set of positions.
struct Marks {
    words: Vec<u64>,
    count: u32,
}

impl Marks {
    fn new(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)], count: 0 }
    }

    fn has(&self, at: usize) -> bool {
        self.words[at / 64] >> (at % 64) & 1 == 1
    }

    /// Whether it is new.
    fn add(&mut self, at: usize) -> bool {
        let new = !self.has(at);
        self.words[at / 64] |= 1 << (at % 64);
        self.count += u32::from(new);
        new
    }
}

/// The sweep of a directory whose names are known.
pub(super) struct Plan {
    listing: Arc<Listing>,
    small_bytes: u64,
    read: Marks,
    /// Read when they had been read before.
    again: Marks,
    begun: Marks,
    /// Whether nothing is left to begin.
    all_begun: bool,
    /// Files that owners have answered for, and those they don't have.
    answered: u32,
    refused: u32,
    /// Files read, those before the names were known included.
    reads: u32,
    /// Where the next file to bring is looked for.
    cursor: usize,
    /// The furthest position that was read, and the first one.
    furthest: Option<usize>,
    first: usize,
    /// Reads near or behind the furthest position, in the order of names.
    ordered: u32,
    /// Reads while something was brought; how many of them had been brought; how many a blind guess would have met.
    judged: u32,
    hits: u32,
    expected: f64,
    unread_hits: u32,
}

impl Plan {
    pub(super) fn new(listing: Arc<Listing>, read_before: u32, small_bytes: u64) -> Self {
        let len = listing.len();
        Self {
            read: Marks::new(len),
            again: Marks::new(len),
            begun: Marks::new(len),
            all_begun: false,
            answered: 0,
            refused: 0,
            listing,
            small_bytes,
            reads: read_before,
            cursor: 0,
            furthest: None,
            first: 0,
            ordered: 0,
            judged: 0,
            hits: 0,
            expected: 0.0,
            unread_hits: 0,
        }
    }

    /// A file was read from its beginning.
    pub(super) fn read(&mut self, name: &EntryName) {
        let Some(at) = self.listing.position(name) else { return };
        if !self.read.add(at) {
            self.again.add(at);
            return;
        }
        self.reads = self.reads.saturating_add(1);
        if self.begun.count > 0 {
            self.judged += 1;
            self.hits += u32::from(self.begun.has(at));
            self.expected += f64::from(self.begun.count) / self.listing.len() as f64;
        }
        if self.begun.has(at) {
            self.unread_hits += 1;
        }
        match self.furthest {
            None => {
                (self.furthest, self.first, self.cursor) = (Some(at), at, at);
            }
            Some(furthest) if at + STRAY >= furthest && at <= furthest.saturating_add(STRAY) => {
                self.ordered += 1;
                self.furthest = Some(furthest.max(at));
            }
            Some(furthest) => self.furthest = Some(furthest.max(at)),
        }
    }

    /// Owners were asked for so many files, and have so many of them.
    pub(super) fn brought(&mut self, asked: usize, kept: usize) {
        let count = |files: usize| u32::try_from(files).unwrap_or(u32::MAX);
        self.answered = self.answered.saturating_add(count(asked));
        self.refused = self.refused.saturating_add(count(asked.saturating_sub(kept)));
    }

    /// Whether owners keep so little of what they are asked for that asking is waste.
    pub(super) fn is_refused(&self) -> bool {
        self.refused >= REFUSED_MIN && self.refused.saturating_mul(2) > self.answered
    }

    /// Whether this plan has had its use: all was brought and read, or the directory is being read once more.
    pub(super) fn is_over(&self) -> bool {
        let all_read = self.all_begun && self.unread_hits == self.begun.count;
        all_read || self.again.count >= AGAIN_MIN.max(self.read.count / 16)
    }

    /// Files to bring now, of those that `kept` says are worth it; empty while no more may be.
    pub(super) fn next(&mut self, kept: impl Fn(&EntryName, &ObjectInfo) -> bool) -> Vec<(EntryName, Looked)> {
        let len = self.listing.len();
        let mut files = Vec::new();
        let mut bytes = 0;
        let (mut looked, end) = (0, self.ahead_end());
        let mut allowed = self.allowance().saturating_sub(self.begun.count);
        while allowed > 0 && files.len() < STEP_FILES && bytes < STEP_BYTES && looked < len.min(LOOKED_MAX) {
            let at = self.cursor % len;
            if end.is_some_and(|end| at >= end || self.cursor >= len) {
                break;
            }
            self.cursor += 1;
            looked += 1;
            let (name, what) = self.listing.at(at);
            let Looked::File(info) = what else { continue };
            let is_small = info.size > 0 && info.size <= self.small_bytes;
            if !is_small || self.read.has(at) || self.begun.has(at) || !kept(name, info) {
                continue;
            }
            self.begun.add(at);
            bytes += info.size;
            allowed -= 1;
            files.push((name.clone(), what.clone()));
        }
        let over = self.cursor >= len.saturating_mul(2) || looked == len;
        self.all_begun |= over && files.is_empty();
        files
    }

    /// Files that were brought, and those of them that weren't read.
    pub(super) fn swept(&self) -> (u32, u32) {
        (self.begun.count, self.begun.count - self.unread_hits)
    }

    fn is_ordered(&self) -> bool {
        let known = self.read.count;
        known >= 4 && u64::from(self.ordered) * 10 >= u64::from(known) * 9
    }

    /// Where bringing ends for now, for a reader in the order of names.
    fn ahead_end(&self) -> Option<usize> {
        let furthest = self.furthest.filter(|_| self.is_ordered())?;
        let ahead = usize::try_from(self.reads).unwrap_or(usize::MAX).saturating_mul(4).min(AHEAD_MAX);
        Some((furthest + ahead).min(self.listing.len()))
    }

    /// How many files may have been brought in all.
    fn allowance(&self) -> u32 {
        if let Some(furthest) = self.furthest.filter(|_| self.is_ordered()) {
            let span = u32::try_from(furthest - self.first.min(furthest)).unwrap_or(u32::MAX).max(1);
            // Most of what lies between was left out: the rest will be too.
            return if self.read.count >= span / 2 { u32::MAX } else { self.begun.count };
        }
        if self.judged >= JUDGED_AFTER && f64::from(self.hits) * 2.0 < self.expected {
            return self.begun.count;
        }
        let factor = match self.reads {
            0..32 => 4,
            32..128 => 8,
            _ => 16,
        };
        self.reads.saturating_mul(factor)
    }
}

#[cfg(test)]
mod tests {

    use larder_proto::object::Version;
    use tokio::time::Instant;

    use super::super::super::Part;
    use super::*;
    use crate::runtime::sim::SimRng;

    fn name(number: usize) -> EntryName {
        EntryName::parse(&format!("f{number:05}")).expect("a name")
    }

    fn plan(files: usize) -> Plan {
        let version = Version::of_etag("1").expect("plain");
        let info = |size| Looked::File(ObjectInfo { size, version: version.clone(), mtime_ms: 0 });
        let entries = (0..files).map(|number| (name(number), info(100_000))).collect();
        let part = Part { entries, next: None };
        Plan::new(Listing::of(vec![Arc::new(part)], Instant::now()), 8, 1 << 20)
    }

    /// Reads `order` and brings all that may be brought after each; how many reads met a file that had been brought.
    fn run(plan: &mut Plan, order: impl IntoIterator<Item = usize>) -> u32 {
        let mut met = 0;
        for number in order {
            met += u32::from(plan.begun.has(number));
            plan.read(&name(number));
            while !plan.next(|_, _| true).is_empty() {}
        }
        met
    }

    fn shuffled(len: usize) -> Vec<usize> {
        let rng = SimRng::new(7);
        let mut order: Vec<usize> = (0..len).collect();
        for last in (1..len).rev() {
            order.swap(last, usize::try_from(rng.below(last as u64 + 1)).expect("small"));
        }
        order
    }

    #[test]
    fn a_reader_of_all_files_in_any_order_gets_the_rest_and_wastes_nothing() {
        let mut plan = plan(5_000);
        let met = run(&mut plan, shuffled(5_000));
        assert!(met > 4_000, "{met} of 5,000 had been brought");
        assert_eq!(plan.swept().1, 0, "everything that was brought was read");
        assert!(plan.next(|_, _| true).is_empty() && plan.is_over(), "nothing is left");
    }

    #[test]
    fn a_reader_in_the_order_of_names_gets_what_lies_ahead() {
        let mut plan = plan(5_000);
        let met = run(&mut plan, 1_000..3_000);
        assert!(met >= 1_990, "{met} of 2,000 had been brought");
        assert!(plan.swept().1 as usize <= AHEAD_MAX, "{:?}", plan.swept());
        assert!(!plan.begun.has(500), "nothing behind it");
    }

    #[test]
    fn who_reads_few_files_wastes_little() {
        let mut few = plan(5_000);
        run(&mut few, shuffled(5_000).into_iter().take(20));
        assert!(few.swept().0 <= 4 * 28, "{:?}", few.swept());
        let mut sparse = plan(20_000);
        run(&mut sparse, (0..20_000).step_by(10));
        assert!(sparse.swept().1 < 200, "every tenth file: {:?}", sparse.swept());
    }

    #[test]
    fn a_guess_that_meets_nothing_is_given_up() {
        let mut plan = plan(20_000);
        // In any order, but only the second half, while the first is brought.
        run(&mut plan, [0].into_iter().chain(shuffled(10_000).into_iter().map(|at| at + 10_000).take(2_000)));
        assert!(plan.swept().0 < 3_000, "{:?}", plan.swept());
    }

    #[test]
    fn large_and_empty_files_and_directories_are_left_alone() {
        let version = Version::of_etag("1").expect("plain");
        let info = |size| Looked::File(ObjectInfo { size, version: version.clone(), mtime_ms: 0 });
        let what = [info(0), info(1), info(1 << 20), info((1 << 20) + 1), Looked::Dir];
        let entries = what.into_iter().enumerate().map(|(number, what)| (name(number), what)).collect();
        let listing = Listing::of(vec![Arc::new(Part { entries, next: None })], Instant::now());
        let files = Plan::new(listing, 8, 1 << 20).next(|_, _| true);
        assert_eq!(files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["f00001", "f00002"]);
    }

    #[test]
    fn what_owners_would_not_keep_is_left_alone() {
        let mut plan = plan(5_000);
        let kept = |name: &EntryName, _: &ObjectInfo| name.as_str().ends_with('7');
        let files = plan.next(kept);
        assert!(!files.is_empty() && files.iter().all(|(name, _)| name.as_str().ends_with('7')), "{files:?}");
        assert_eq!(plan.swept().0 as usize, files.len(), "the others don't count as brought");
    }

    #[test]
    fn owners_that_keep_little_are_not_asked_again() {
        let mut plan = plan(5_000);
        plan.brought(15, 0);
        assert!(!plan.is_refused(), "too few to judge");
        plan.brought(100, 100);
        plan.brought(50, 0);
        assert!(!plan.is_refused(), "most were kept");
        plan.brought(60, 0);
        assert!(plan.is_refused());
    }

    #[test]
    fn a_directory_read_once_more_is_swept_anew() {
        let mut plan = plan(1_000);
        run(&mut plan, shuffled(1_000).into_iter().take(900));
        assert!(!plan.is_over(), "some are still to be read");
        run(&mut plan, (0..40).cycle().take(4_000));
        assert!(!plan.is_over(), "the same few files over and over");
        run(&mut plan, shuffled(1_000).into_iter().take(60));
        assert!(plan.is_over());
    }
}
