//! Which chunks wait for which copies, and when each is tried next. Sans-IO and bounded.
//!
//! A chunk that is being pushed is not handed out again until its attempt is reported. Entries are tried in the order in
//! which they become due; a failure puts one back, twice as late as before, up to a bound.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use larder_proto::ids::NodeId;
use larder_proto::object::{Chunk, ChunkId};
use tokio::time::Instant;

/// Chunks that may wait: 64 GiB of chunks of 4 MiB, at less than 200 bytes each.
pub const PENDING_MAX: usize = 16_384;

/// The pause after a first failure.
const PAUSE_MIN: Duration = Duration::from_millis(250);

/// The longest pause: an owner that returns has its copies soon after.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// One chunk that waits for copies.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The chunk.
    pub chunk: Chunk,
    /// Owners that have taken it.
    pub done: Vec<NodeId>,
    /// Owners that had all its bytes from us as readers, and store them by themselves: they are asked, not sent it again.
    pub readers: Vec<NodeId>,
    /// Copies that are missing, as of the last look at the map.
    pub missing: usize,
    tries: u32,
    due: Option<Instant>,
}

/// Everything that waits.
#[derive(Debug, Default)]
pub struct Pending {
    entries: BTreeMap<ChunkId, Entry>,
    /// Every entry that isn't being pushed, by when it is due.
    by_due: BTreeSet<(Instant, ChunkId)>,
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every owner has it.
    Complete,
    /// Some owners haven't; these have.
    Missing {
        /// Owners that have taken it by now.
        done: Vec<NodeId>,
        /// How many haven't.
        missing: usize,
    },
    /// The chunk is no longer here: there is nothing to copy.
    Lost,
}

impl Pending {
    /// A chunk wants `missing` copies, from `due` on. `false` when the bound is reached: it is not remembered.
    pub fn add(&mut self, chunk: Chunk, missing: usize, readers: Vec<NodeId>, due: Instant) -> bool {
        let id = chunk.id();
        if let Some(entry) = self.entries.get_mut(&id) {
            if let Some(before) = entry.due.filter(|before| due < *before) {
                entry.due = Some(due);
                self.by_due.remove(&(before, id));
                self.by_due.insert((due, id));
            }
            return true;
        }
        if self.entries.len() >= PENDING_MAX {
            return false;
        }
        self.by_due.insert((due, id));
        self.entries.insert(id, Entry { chunk, done: Vec::new(), readers, missing, tries: 0, due: Some(due) });
        true
    }

    /// The entry that has been due longest; it is held until [`settle`](Self::settle).
    pub fn take_due(&mut self, now: Instant) -> Option<Entry> {
        let (due, id) = *self.by_due.first().filter(|(due, _)| *due <= now)?;
        self.by_due.remove(&(due, id));
        let entry = self.entries.get_mut(&id)?;
        entry.due = None;
        Some(entry.clone())
    }

    /// Reports the attempt of a chunk taken by [`take_due`](Self::take_due).
    pub fn settle(&mut self, id: ChunkId, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Complete | Outcome::Lost => {
                if let Some(due) = self.entries.remove(&id).and_then(|entry| entry.due) {
                    self.by_due.remove(&(due, id));
                }
            }
            Outcome::Missing { done, missing } => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    let pause = PAUSE_MIN.saturating_mul(1 << entry.tries.min(10)).min(PAUSE_MAX);
                    if let Some(before) = entry.due.replace(now + pause) {
                        self.by_due.remove(&(before, id));
                    }
                    self.by_due.insert((now + pause, id));
                    (entry.done, entry.missing) = (done, missing);
                    // Asked in vain: the next attempt sends the bytes.
                    entry.readers.clear();
                    entry.tries += 1;
                }
            }
        }
    }

    /// When the next entry is due; nothing when none waits.
    pub fn next_due(&self) -> Option<Instant> {
        self.by_due.first().map(|(due, _)| *due)
    }

    /// Copies that are missing: of chunks that wait for their first attempt or are being pushed, and of chunks whose
    /// owner could not take them when it was last asked.
    pub fn missing(&self) -> (u64, u64) {
        self.entries.values().fold((0, 0), |(fresh, short), entry| {
            let missing = entry.missing as u64;
            if entry.tries == 0 { (fresh + missing, short) } else { (fresh, short + missing) }
        })
    }
}

#[cfg(test)]
mod tests {
    use larder_proto::ids::VolumeId;
    use larder_proto::object::{ChunkIndex, ChunkSize, Object, ObjectKey, Version};

    use super::*;
    use crate::runtime::Clock;
    use crate::runtime::clock::RealClock;

    fn chunk(index: u32) -> Chunk {
        let size = ChunkSize::new(65_536).expect("64 KiB");
        let key = ObjectKey::parse("a").expect("plain");
        let version = Version::of_etag("v1").expect("plain");
        let object = Object::new(VolumeId::from_bytes([1; 16]), key, version, 1 << 40, size).expect("small");
        object.chunk(ChunkIndex(index)).expect("in it")
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_copy_comes_back_later_and_later() {
        let now = RealClock.now();
        let mut pending = Pending::default();
        assert!(pending.add(chunk(1), 1, vec![], now));
        let entry = pending.take_due(now).expect("due");
        assert!(pending.take_due(now).is_none(), "held while it is pushed");
        assert_eq!(pending.missing(), (1, 0));
        pending.settle(entry.chunk.id(), Outcome::Missing { done: vec![], missing: 1 }, now);
        assert_eq!(pending.missing(), (0, 1));
        assert_eq!(pending.next_due(), Some(now + PAUSE_MIN));
        assert!(pending.take_due(now).is_none());
        let entry = pending.take_due(now + PAUSE_MIN).expect("due again");
        pending.settle(entry.chunk.id(), Outcome::Missing { done: vec![], missing: 1 }, now + PAUSE_MIN);
        assert_eq!(pending.next_due(), Some(now + PAUSE_MIN + 2 * PAUSE_MIN));
        pending.settle(entry.chunk.id(), Outcome::Complete, now);
        assert_eq!((pending.missing(), pending.next_due()), ((0, 0), None));
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded() {
        let now = RealClock.now();
        let mut pending = Pending::default();
        let max = u32::try_from(PENDING_MAX).expect("small");
        assert!((0..max).all(|index| pending.add(chunk(index), 1, vec![], now)));
        assert!(!pending.add(chunk(max), 1, vec![], now));
        assert!(pending.add(chunk(3), 1, vec![], now), "one that is there already costs nothing");
    }
}
