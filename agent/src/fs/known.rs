//! Names that this agent was told, so that most lookups are answered without asking anybody.
//!
//! Holds single answers and whole listings, each with the moment of which it is true; who asks decides whether that
//! is fresh enough. An older answer never replaces a newer one. Names take their part of the room that the process has for
//! them: directories that were not asked for the longest are given up first, at least a quarter at a time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use larder_proto::object::{DirPath, EntryName};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Dated;
use super::listings::Listing;
use super::room::{Holder, NAME_BYTES, NameRoom, Share};
use crate::origin::ObjectInfo;
use crate::runtime::HashMap;

/// What a name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// A file.
    File(ObjectInfo),
    /// A directory.
    Dir,
    /// Nothing.
    Absent,
}

/// Names of a directory that follow each other, in an order that stays the same while a listing is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The names; none is `Absent`.
    pub entries: Vec<(EntryName, Looked)>,
    /// Where the next part begins; nothing at the end.
    pub next: Option<Arc<str>>,
}

pub(super) struct Known {
    room: Arc<NameRoom>,
    dirs: Mutex<Dirs>,
}

struct Dirs {
    by_path: HashMap<DirPath, Dir>,
    names: usize,
    clock: u64,
    share: Share,
}

#[derive(Default)]
struct Dir {
    listing: Option<Arc<Listing>>,
    single: HashMap<EntryName, Told>,
    asked: u64,
}

#[derive(Clone)]
enum Told {
    Answer(Dated<Looked>),
    /// Somebody found the answer to be wrong at this moment: only what is newer counts.
    Distrusted(Instant),
}

impl Dir {
    fn names(&self) -> usize {
        1 + self.single.len() + self.listing.as_ref().map_or(0, |listing| listing.len())
    }
}

impl Known {
    pub(super) fn new(room: &Arc<NameRoom>) -> Arc<Self> {
        let dirs = Dirs { by_path: HashMap::default(), names: 0, clock: 0, share: room.share() };
        let known = Arc::new(Self { room: room.clone(), dirs: Mutex::new(dirs) });
        let weak: Weak<Self> = Arc::downgrade(&known);
        room.register(weak);
        known
    }

    /// The newest answer about a name.
    pub(super) fn find(&self, dir: &DirPath, name: &EntryName) -> Option<Dated<Looked>> {
        let mut dirs = self.dirs.lock();
        dirs.clock += 1;
        let clock = dirs.clock;
        let known = dirs.by_path.get_mut(dir)?;
        known.asked = clock;
        let single = known.single.get(name);
        let listing = known.listing.as_ref();
        match single {
            Some(Told::Answer(answer)) if listing.is_none_or(|listing| listing.as_of() <= answer.as_of) => {
                Some(answer.clone())
            }
            Some(Told::Distrusted(since)) if listing.is_none_or(|listing| listing.as_of() <= *since) => None,
            Some(_) | None => listing.map(|listing| listing.find(name)),
        }
    }

    /// The age that the next answer may have: `max_age`, unless a younger one is needed.
    pub(super) fn max_age(&self, dir: &DirPath, name: &EntryName, now: Instant, max_age: Duration) -> Duration {
        let dirs = self.dirs.lock();
        match dirs.by_path.get(dir).and_then(|known| known.single.get(name)) {
            Some(Told::Distrusted(since)) => now.saturating_duration_since(*since).min(max_age),
            Some(Told::Answer(_)) | None => max_age,
        }
    }

    pub(super) fn learn(&self, dir: &DirPath, name: &EntryName, answer: Dated<Looked>) {
        self.change(dir, |known| {
            let newer = match known.single.get(name) {
                Some(Told::Answer(known)) => known.as_of <= answer.as_of,
                Some(Told::Distrusted(since)) => *since <= answer.as_of,
                None => true,
            };
            if newer {
                known.single.insert(name.clone(), Told::Answer(answer));
            }
        });
    }

    pub(super) fn distrust(&self, dir: &DirPath, name: &EntryName, now: Instant) {
        self.change(dir, |known| {
            known.single.insert(name.clone(), Told::Distrusted(now));
        });
    }

    /// The whole listing of a directory, if it is known.
    pub(super) fn listing(&self, dir: &DirPath) -> Option<Arc<Listing>> {
        self.dirs.lock().by_path.get(dir)?.listing.clone()
    }

    pub(super) fn learn_listing(&self, dir: &DirPath, listing: Arc<Listing>) {
        if listing.len() * NAME_BYTES > self.room.listing_bytes_max() {
            return;
        }
        self.change(dir, |known| {
            if known.listing.as_ref().is_none_or(|known| known.as_of() <= listing.as_of()) {
                known.single.retain(|_, told| match told {
                    Told::Answer(answer) => answer.as_of > listing.as_of(),
                    Told::Distrusted(since) => *since > listing.as_of(),
                });
                known.listing = Some(listing);
            }
        });
    }

    fn change(&self, dir: &DirPath, change: impl FnOnce(&mut Dir)) {
        let mut dirs = self.dirs.lock();
        dirs.clock += 1;
        let clock = dirs.clock;
        let known = dirs.by_path.entry(dir.clone()).or_default();
        let before = if known.asked == 0 { 0 } else { known.names() };
        known.asked = clock;
        change(known);
        let after = known.names();
        dirs.names = dirs.names + after - before;
        dirs.count();
        drop(dirs);
        self.room.settle();
    }
}

impl Holder for Known {
    fn held_bytes(&self) -> usize {
        self.dirs.lock().names * NAME_BYTES
    }

    fn give_up(&self, bytes: usize) {
        let mut dirs = self.dirs.lock();
        // Finding the oldest costs a look at every directory: not for each name.
        let most = (dirs.names / 4 * 3).min(dirs.names.saturating_sub(bytes.div_ceil(NAME_BYTES)));
        dirs.shrink(most);
        dirs.count();
    }
}

impl Dirs {
    fn count(&mut self) {
        self.share.set(self.names * NAME_BYTES);
    }

    /// Forgets directories, those asked for the longest ago first, until `names` are left.
    fn shrink(&mut self, names: usize) {
        let mut order: Vec<(u64, DirPath)> = self.by_path.iter().map(|(path, dir)| (dir.asked, path.clone())).collect();
        order.sort_unstable_by_key(|(asked, _)| *asked);
        for (_, path) in order {
            if self.names <= names {
                return;
            }
            if let Some(dir) = self.by_path.remove(&path) {
                self.names -= dir.names();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(names: usize) -> Arc<Known> {
        Known::new(&NameRoom::new(names * NAME_BYTES))
    }

    fn dir(path: &str) -> DirPath {
        DirPath::parse(path).expect("a path")
    }

    fn name(name: &str) -> EntryName {
        EntryName::parse(name).expect("a name")
    }

    fn at(as_of: Instant, value: Looked) -> Dated<Looked> {
        Dated { value, as_of }
    }

    fn listing(as_of: Instant, names: &[&str]) -> Arc<Listing> {
        let entries = names.iter().map(|n| (name(n), Looked::Dir)).collect();
        Listing::of(vec![Arc::new(Part { entries, next: None })], as_of)
    }

    #[test]
    fn the_newest_answer_counts_whether_single_or_listed() {
        let (known, start) = (known(100), Instant::now());
        let later = start + Duration::from_secs(1);
        known.learn(&dir("a"), &name("x"), at(later, Looked::Absent));
        known.learn(&dir("a"), &name("x"), at(start, Looked::Dir));
        assert_eq!(known.find(&dir("a"), &name("x")), Some(at(later, Looked::Absent)));
        known.learn_listing(&dir("a"), listing(start, &["x", "y"]));
        assert_eq!(known.find(&dir("a"), &name("x")), Some(at(later, Looked::Absent)));
        assert_eq!(known.find(&dir("a"), &name("y")), Some(at(start, Looked::Dir)));
        assert_eq!(known.find(&dir("a"), &name("z")), Some(at(start, Looked::Absent)), "a listing is complete");
        let last = later + Duration::from_secs(1);
        known.learn_listing(&dir("a"), listing(last, &["x"]));
        assert_eq!(known.find(&dir("a"), &name("x")), Some(at(last, Looked::Dir)));
    }

    #[test]
    fn a_distrusted_answer_is_asked_for_anew() {
        let (known, start) = (known(100), Instant::now());
        let (wrong, now) = (start + Duration::from_secs(5), start + Duration::from_secs(7));
        known.learn_listing(&dir("a"), listing(start, &["x"]));
        known.distrust(&dir("a"), &name("x"), wrong);
        assert_eq!(known.find(&dir("a"), &name("x")), None);
        let minute = Duration::from_secs(60);
        assert_eq!(known.max_age(&dir("a"), &name("x"), now, minute), Duration::from_secs(2));
        assert_eq!(known.max_age(&dir("a"), &name("y"), now, minute), minute);
        known.learn(&dir("a"), &name("x"), at(start, Looked::Dir));
        assert_eq!(known.find(&dir("a"), &name("x")), None, "too old to be believed");
        known.learn(&dir("a"), &name("x"), at(now, Looked::Dir));
        assert_eq!(known.find(&dir("a"), &name("x")), Some(at(now, Looked::Dir)));
    }

    #[test]
    fn names_are_bounded_and_the_longest_unasked_go_first() {
        let (known, now) = (known(40), Instant::now());
        for number in 0..10 {
            known.learn_listing(&dir(&format!("d{number}")), listing(now, &["a", "b", "c"]));
            assert!(known.find(&dir("d0"), &name("a")).is_some(), "asked for all the time");
        }
        known.learn_listing(&dir("d10"), listing(now, &["a"]));
        assert!(known.dirs.lock().names <= 40);
        assert!(known.find(&dir("d0"), &name("a")).is_some());
        assert!(known.find(&dir("d1"), &name("a")).is_none());
        assert!(known.find(&dir("d10"), &name("a")).is_some());
        let counted: usize = known.dirs.lock().by_path.values().map(Dir::names).sum();
        assert_eq!(known.dirs.lock().names, counted);
        known.learn_listing(&dir("big"), listing(now, &["n"; 11]));
        assert!(known.find(&dir("big"), &name("n")).is_none(), "more than one listing may take");
    }

    #[test]
    fn two_mounts_together_know_no_more_names_than_one() {
        let (room, now) = (NameRoom::new(40 * NAME_BYTES), Instant::now());
        let (one, other) = (Known::new(&room), Known::new(&room));
        for number in 0..30 {
            one.learn_listing(&dir(&format!("d{number}")), listing(now, &["a", "b", "c"]));
            assert!(room.used_bytes() <= room.bytes_max());
        }
        assert!(one.held_bytes() > 25 * NAME_BYTES, "alone it has all the room");
        for number in 0..30 {
            other.learn_listing(&dir(&format!("d{number}")), listing(now, &["a", "b", "c"]));
            assert!(room.used_bytes() <= room.bytes_max());
        }
        assert!(other.held_bytes() >= one.held_bytes(), "whoever held most has given way");
        let held = one.held_bytes();
        drop(other);
        assert_eq!(room.used_bytes(), held);
    }
}
