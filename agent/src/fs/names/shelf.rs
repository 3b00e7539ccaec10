//! What a home remembers of its directories, in its part of the room for names: whole listings and single answers. Sans-IO.
//!
//! Nothing here expires: who asks says how old an answer may be, and an old one is what is served when the origin is
//! down. The directory that wasn't asked for the longest is given up first. An older answer never replaces a newer one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use larder_proto::ids::VolumeId;
use larder_proto::object::{DirPath, EntryName};
use tokio::time::Instant;

use super::listing::Listing;
use crate::fs::room::{NameRoom, Share};
use crate::fs::{Dated, Looked};

/// Lookups within [`BUSY_WITHIN`] that make a listing cheaper than going on one by one.
pub(super) const BUSY_LOOKUPS: u32 = 32;

/// The time they come in.
const BUSY_WITHIN: Duration = Duration::from_secs(1);

/// Single answers of one directory; above, they are forgotten together. Busier directories have a listing.
const SINGLES_MAX: usize = 4_096;

/// What a single answer costs, text and version included, and what a directory costs.
const SINGLE_BYTES: usize = 512;
const DIR_BYTES: usize = 2_048;

/// Which directory.
pub(super) type DirKey = (VolumeId, DirPath);

pub(super) struct Shelf {
    share: Share,
    bytes: usize,
    dirs: BTreeMap<DirKey, Dir>,
    by_use: BTreeMap<u64, DirKey>,
    uses: u64,
    evicted: u64,
}

#[derive(Default)]
struct Dir {
    used: u64,
    listing: Option<Arc<Listing>>,
    /// When it was found to be too large to be held.
    large: Option<Instant>,
    singles: BTreeMap<EntryName, Dated<Looked>>,
    busy: Option<(Instant, u32)>,
}

impl Dir {
    fn bytes(&self) -> usize {
        DIR_BYTES + self.singles.len() * SINGLE_BYTES + self.listing.as_ref().map_or(0, |listing| listing.bytes())
    }
}

impl Shelf {
    pub(super) fn new(room: &Arc<NameRoom>) -> Self {
        Self { share: room.share(), bytes: 0, dirs: BTreeMap::new(), by_use: BTreeMap::new(), uses: 0, evicted: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn dirs(&self) -> usize {
        self.dirs.len()
    }

    /// Directories that were forgotten to make room.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The newest answer about a name, of any age.
    pub(super) fn find(&mut self, key: &DirKey, name: &EntryName) -> Option<Dated<Looked>> {
        self.touch(key);
        let dir = self.dirs.get(key)?;
        let listed = dir.listing.as_ref().map(|listing| Dated { value: listing.find(name), as_of: listing.as_of() });
        match (dir.singles.get(name), listed) {
            (Some(single), Some(listed)) if single.as_of < listed.as_of => Some(listed),
            (Some(single), _) => Some(single.clone()),
            (None, listed) => listed,
        }
    }

    /// The listing, of any age.
    pub(super) fn listing(&mut self, key: &DirKey) -> Option<Arc<Listing>> {
        self.touch(key);
        self.dirs.get(key)?.listing.clone()
    }

    /// When the directory was found to be too large to be held.
    pub(super) fn large(&self, key: &DirKey) -> Option<Instant> {
        self.dirs.get(key)?.large
    }

    /// Counts a lookup that must ask the origin; true when there are so many that a listing is due.
    pub(super) fn is_busy(&mut self, key: &DirKey, now: Instant) -> bool {
        self.change(key, |dir| {
            let (since, lookups) = match dir.busy {
                Some((since, lookups)) if now.saturating_duration_since(since) < BUSY_WITHIN => (since, lookups + 1),
                Some(_) | None => (now, 1),
            };
            dir.busy = Some((since, lookups));
            lookups >= BUSY_LOOKUPS
        })
    }

    pub(super) fn learn(&mut self, key: &DirKey, name: &EntryName, answer: Dated<Looked>) {
        self.change(key, |dir| {
            if dir.singles.get(name).is_some_and(|known| known.as_of > answer.as_of) {
                return;
            }
            if dir.singles.len() >= SINGLES_MAX {
                dir.singles.clear();
            }
            dir.singles.insert(name.clone(), answer);
        });
    }

    pub(super) fn learn_listing(&mut self, key: &DirKey, listing: Arc<Listing>) {
        self.change(key, |dir| {
            if dir.listing.as_ref().is_some_and(|known| known.as_of() > listing.as_of()) {
                return;
            }
            dir.singles.retain(|_, answer| answer.as_of > listing.as_of());
            dir.large = None;
            dir.listing = Some(listing);
        });
    }

    pub(super) fn learn_large(&mut self, key: &DirKey, now: Instant) {
        self.change(key, |dir| {
            dir.listing = None;
            dir.large = Some(now);
        });
    }

    fn touch(&mut self, key: &DirKey) {
        self.uses += 1;
        if let Some(dir) = self.dirs.get_mut(key) {
            self.by_use.remove(&dir.used);
            dir.used = self.uses;
            self.by_use.insert(self.uses, key.clone());
        }
    }

    fn change<T>(&mut self, key: &DirKey, change: impl FnOnce(&mut Dir) -> T) -> T {
        let before = self.dirs.get(key).map_or(0, Dir::bytes);
        let dir = self.dirs.entry(key.clone()).or_default();
        let result = change(dir);
        self.bytes = self.bytes - before + dir.bytes();
        self.touch(key);
        self.share.set(self.bytes);
        result
    }

    /// Forgets directories until so many bytes are free, the one used last included.
    pub(super) fn give_up(&mut self, bytes: usize) {
        let most = self.bytes.saturating_sub(bytes);
        while self.bytes > most {
            let Some((_, key)) = self.by_use.pop_first() else { break };
            if let Some(dir) = self.dirs.remove(&key) {
                self.bytes -= dir.bytes();
                self.evicted += 1;
            }
        }
        self.share.set(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> DirKey {
        (VolumeId::from_bytes([1; 16]), DirPath::parse(path).expect("plain"))
    }

    fn name(text: &str) -> EntryName {
        EntryName::parse(text).expect("plain")
    }

    #[tokio::test(start_paused = true)]
    async fn the_directory_not_asked_for_goes_first() {
        let now = Instant::now();
        let room = NameRoom::new(1 << 20);
        let mut shelf = Shelf::new(&room);
        let answer = Dated { value: Looked::Dir, as_of: now };
        for dir in ["a", "b", "c"] {
            shelf.learn(&key(dir), &name("x"), answer.clone());
        }
        assert!(shelf.find(&key("a"), &name("x")).is_some());
        shelf.learn(&key("d"), &name("x"), answer);
        shelf.give_up(1);
        assert_eq!((shelf.dirs(), shelf.evicted()), (3, 1));
        assert!(shelf.find(&key("b"), &name("x")).is_none());
        assert!(shelf.find(&key("a"), &name("x")).is_some());
        assert_eq!((shelf.bytes(), room.used_bytes()), (3 * (DIR_BYTES + SINGLE_BYTES), shelf.bytes()));
    }

    #[tokio::test(start_paused = true)]
    async fn thirty_two_lookups_in_a_second_are_busy() {
        let start = Instant::now();
        let mut shelf = Shelf::new(&NameRoom::new(1 << 20));
        for lookup in 1..BUSY_LOOKUPS {
            assert!(!shelf.is_busy(&key("a"), start), "{lookup}");
        }
        assert!(shelf.is_busy(&key("a"), start));
        assert!(!shelf.is_busy(&key("a"), start + BUSY_WITHIN), "a new second");
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_answer_replaces_nothing() {
        let old = Instant::now();
        let new = old + Duration::from_secs(1);
        let mut shelf = Shelf::new(&NameRoom::new(1 << 20));
        shelf.learn(&key("a"), &name("x"), Dated { value: Looked::Dir, as_of: new });
        shelf.learn(&key("a"), &name("x"), Dated { value: Looked::Absent, as_of: old });
        assert_eq!(shelf.find(&key("a"), &name("x")).map(|answer| answer.value), Some(Looked::Dir));
    }
}
