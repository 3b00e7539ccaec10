//! Listing a directory: parts as they come, with offsets that mean the same until the handle is closed.
//!
//! Offset 0 is `.`, 1 is `..`, 2 the first name; who goes back to 0 sees the directory as one who opens it now does. A
//! handle shares a listing that is known and fresh; otherwise it asks for one part after the other, and what it has seen
//! whole becomes known to everybody. A handle holds at most
//! [`HELD_NAMES_MAX`] names; of a larger directory, or while there is no room for names, it holds the latest parts and
//! where the others begin.

use std::sync::Arc;

use larder_proto::object::EntryName;
use tokio::time::Instant;

use super::handles::DirHandle;
use super::room::{NAME_BYTES, NameRoom, Share};
use super::{Dated, Entry, Fh, Fs, FsError, Ino, Looked, Part, max_age};

/// Above this a listing is paged, never held.
const HELD_NAMES_MAX: u64 = 200_000;

/// The offset of the first name.
const FIRST_NAME: u64 = 2;

/// A whole listing.
#[derive(Debug)]
pub(super) struct Listing {
    parts: Vec<Arc<Part>>,
    /// (part, position) of each name, in the order of names.
    by_name: Vec<(u32, u32)>,
    as_of: Instant,
}

impl Listing {
    pub(super) fn of(parts: Vec<Arc<Part>>, as_of: Instant) -> Arc<Self> {
        let mut by_name: Vec<(u32, u32)> = (0u32..)
            .zip(&parts)
            .flat_map(|(number, part)| (0u32..).zip(&part.entries).map(move |(position, _)| (number, position)))
            .collect();
        let mut listing = Self { parts, by_name: Vec::new(), as_of };
        by_name.sort_unstable_by(|a, b| listing.name(*a).cmp(listing.name(*b)));
        listing.by_name = by_name;
        Arc::new(listing)
    }

    pub(super) fn as_of(&self) -> Instant {
        self.as_of
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// What a name is; absent when the listing doesn't hold it.
    pub(super) fn find(&self, name: &EntryName) -> Dated<Looked> {
        let value = self.position(name).map_or(Looked::Absent, |found| self.at(found).1.clone());
        Dated { value, as_of: self.as_of }
    }

    /// Where a name is, in the order of names.
    pub(super) fn position(&self, name: &EntryName) -> Option<usize> {
        self.by_name.binary_search_by(|place| self.name(*place).cmp(name)).ok()
    }

    /// The name at a position below [`len`](Self::len), in the order of names.
    pub(super) fn at(&self, position: usize) -> &(EntryName, Looked) {
        self.entry(self.by_name[position])
    }

    fn name(&self, place: (u32, u32)) -> &EntryName {
        &self.entry(place).0
    }

    fn entry(&self, (part, position): (u32, u32)) -> &(EntryName, Looked) {
        &self.parts[part as usize].entries[position as usize]
    }
}

/// A part of a listing, and the offset of its first name.
#[derive(Clone, Debug)]
pub struct PartAt {
    first: u64,
    part: Option<Arc<Part>>,
    as_of: Instant,
}

impl PartAt {
    /// The names from `offset` on, each with the offset that follows it. Nothing means the end of the directory.
    pub fn names(&self, offset: u64) -> impl Iterator<Item = (u64, &EntryName, &Looked)> {
        let skip = usize::try_from(offset.max(FIRST_NAME) - self.first).unwrap_or(usize::MAX);
        let entries = self.part.as_ref().map_or(&[][..], |part| part.entries.as_slice());
        (self.first + 1..).zip(entries).skip(skip).map(|(next, (name, looked))| (next, name, looked))
    }
}

/// What a directory's handle has seen.
pub(super) struct Snapshot {
    seen: Vec<Seen>,
    held: u64,
    next: Next,
    share: Share,
}

struct Seen {
    first: u64,
    len: u64,
    from: Option<Arc<str>>,
    part: Option<Arc<Part>>,
    as_of: Instant,
}

#[derive(Clone, Default)]
enum Next {
    #[default]
    Beginning,
    After(Arc<str>),
    End,
}

impl Snapshot {
    pub(super) fn new(room: &Arc<NameRoom>) -> Self {
        Self { seen: Vec::new(), held: 0, next: Next::Beginning, share: room.share() }
    }

    /// Forgets what was seen when it is read from its beginning: POSIX wants the directory of now after rewinddir.
    fn begin(&mut self, offset: u64) {
        if offset == 0 {
            *self = Self::new(self.share.room());
        }
    }

    /// The part that holds `offset`, if it is here; past the end, an empty one.
    fn at(&self, offset: u64) -> Option<PartAt> {
        let offset = offset.max(FIRST_NAME);
        let after = self.seen.partition_point(|seen| seen.first <= offset);
        let found = after.checked_sub(1).and_then(|found| self.seen.get(found));
        match found {
            Some(seen) if offset < seen.first + seen.len => {
                let part = Some(seen.part.clone()?);
                Some(PartAt { first: seen.first, part, as_of: seen.as_of })
            }
            Some(Seen { as_of, .. }) if matches!(self.next, Next::End) => {
                Some(PartAt { first: offset, part: None, as_of: *as_of })
            }
            Some(_) | None => None,
        }
    }

    fn end(&self) -> u64 {
        self.seen.last().map_or(FIRST_NAME, |seen| seen.first + seen.len)
    }

    fn push(&mut self, from: Option<Arc<str>>, part: Arc<Part>, as_of: Instant) {
        let len = part.entries.len() as u64;
        let first = self.end();
        self.next = part.next.clone().map_or(Next::End, Next::After);
        self.seen.push(Seen { first, len, from, part: Some(part), as_of });
        self.held += len;
        self.count();
        let mut oldest = 0;
        while oldest + 1 < self.seen.len() && (self.held > HELD_NAMES_MAX || !self.share.room().settle()) {
            if self.seen[oldest].part.take().is_some() {
                self.held -= self.seen[oldest].len;
                self.count();
            }
            oldest += 1;
        }
    }

    fn count(&mut self) {
        self.share.set(usize::try_from(self.held).unwrap_or(usize::MAX).saturating_mul(NAME_BYTES));
    }

    /// All of a listing that is known.
    fn share(&mut self, listing: &Listing) {
        let mut from = None;
        for part in &listing.parts {
            self.push(from.take(), part.clone(), listing.as_of);
            from.clone_from(&part.next);
        }
        self.next = Next::End;
    }

    /// The whole listing, when all of it was seen and is still held.
    fn whole(&self) -> Option<Arc<Listing>> {
        if !matches!(self.next, Next::End) {
            return None;
        }
        let parts = self.seen.iter().map(|seen| seen.part.clone()).collect::<Option<Vec<_>>>()?;
        let as_of = self.seen.iter().map(|seen| seen.as_of).min()?;
        Some(Listing::of(parts, as_of))
    }
}

impl Fs {
    /// The part of an open directory that holds `offset`, if it is in memory.
    pub fn list_now(&self, fh: Fh, offset: u64) -> Result<Option<PartAt>, FsError> {
        let handle = self.handles.dir(fh).ok_or(FsError::BadHandle)?;
        let Ok(mut snapshot) = handle.snapshot.try_lock() else { return Ok(None) };
        snapshot.begin(offset);
        self.share_known(&handle, &mut snapshot);
        Ok(snapshot.at(offset))
    }

    /// The part of an open directory that holds `offset`; an empty one past the end.
    pub async fn list(&self, fh: Fh, offset: u64) -> Result<PartAt, FsError> {
        let handle = self.handles.dir(fh).ok_or(FsError::BadHandle)?;
        let mut snapshot = handle.snapshot.lock().await;
        snapshot.begin(offset);
        self.share_known(&handle, &mut snapshot);
        loop {
            if let Some(found) = snapshot.at(offset) {
                return Ok(found);
            }
            let from = match &snapshot.next {
                _ if offset.max(FIRST_NAME) < snapshot.end() => {
                    return self.list_again(&handle, &snapshot, offset).await;
                }
                Next::Beginning => None,
                Next::After(from) => Some(from.clone()),
                Next::End => return Ok(PartAt { first: offset, part: None, as_of: self.runtime.clock.now() }),
            };
            let answer = match self.ask_part(&handle, from.as_ref()).await {
                Ok(answer) => answer,
                // Only from the beginning: a listing is of one moment.
                Err(error) if from.is_none() => {
                    let volume = self.volume();
                    let listing = self.stale(&volume, error, || self.known.listing(handle.path()))?;
                    snapshot.share(&listing);
                    continue;
                }
                Err(error) => return Err(error),
            };
            snapshot.push(from, Arc::new(answer.value), answer.as_of);
            if let Some(listing) = snapshot.whole() {
                self.known.learn_listing(handle.path(), listing);
            }
        }
    }

    /// The number of the directory that holds this one, for `..`.
    pub fn parent(&self, fh: Fh) -> Ino {
        let Some(handle) = self.handles.dir(fh) else { return Ino::ROOT };
        let path = handle.path().as_str();
        match path.rsplit_once('/') {
            None => Ino::ROOT,
            Some((parent, _)) => larder_proto::object::DirPath::parse(parent)
                .ok()
                .and_then(|parent| self.inodes.number_of_dir(&parent))
                .unwrap_or(Ino::ROOT),
        }
    }

    /// The entry of a listed name; counts a reference, as a lookup does.
    pub fn entry_in(&self, fh: Fh, part: &PartAt, name: &EntryName, looked: &Looked) -> Result<Entry, FsError> {
        let handle = self.handles.dir(fh).ok_or(FsError::BadHandle)?;
        self.entry(handle.path(), name, &Dated { value: looked.clone(), as_of: part.as_of })
    }

    /// A handle that has seen nothing yet begins with what is known, if that is fresh.
    fn share_known(&self, handle: &DirHandle, snapshot: &mut Snapshot) {
        if !matches!(snapshot.next, Next::Beginning) {
            return;
        }
        let Some(listing) = self.known.listing(handle.path()) else { return };
        if self.is_fresh(listing.as_of) {
            snapshot.share(&listing);
        }
    }

    /// The part with `offset` that was let go, asked for anew; the next one when it has become too short for that.
    async fn list_again(&self, handle: &DirHandle, snapshot: &Snapshot, offset: u64) -> Result<PartAt, FsError> {
        let offset = offset.max(FIRST_NAME);
        let after = snapshot.seen.partition_point(|seen| seen.first <= offset);
        let seen = after.checked_sub(1).and_then(|found| snapshot.seen.get(found)).ok_or(FsError::BadHandle)?;
        let (mut first, mut from) = (seen.first, seen.from.clone());
        loop {
            let answer = self.ask_part(handle, from.as_ref()).await?;
            let end = first + answer.value.entries.len() as u64;
            if offset < end || answer.value.next.is_none() {
                return Ok(PartAt { first, part: Some(Arc::new(answer.value)), as_of: answer.as_of });
            }
            (first, from) = (end, answer.value.next);
        }
    }

    async fn ask_part(&self, handle: &DirHandle, from: Option<&Arc<str>>) -> Result<Dated<Part>, FsError> {
        let volume = self.volume();
        let deadline = self.runtime.clock.now() + volume.read_deadline;
        let ask = self.below.names.list(volume.id, handle.path(), from, max_age(volume.freshness), deadline);
        self.until(deadline, ask).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shared_and_let_go_is_asked_for_where_it_begins() {
        let names = ["a", "b", "c"];
        let part = |place: usize| {
            let name = EntryName::parse(names[place]).expect("a name");
            let next = names.get(place + 1).map(|_| Arc::from(names[place]));
            Arc::new(Part { entries: vec![(name, Looked::Dir)], next })
        };
        let room = NameRoom::new(0);
        let mut others = room.share();
        others.set(1);
        let mut snapshot = Snapshot::new(&room);
        snapshot.share(&Listing::of((0..3).map(part).collect(), Instant::now()));
        let seen: Vec<_> =
            snapshot.seen.iter().map(|seen| (seen.first, seen.from.as_deref(), seen.part.is_some())).collect();
        assert_eq!(seen, [(2, None, false), (3, Some("a"), false), (4, Some("b"), true)]);
        assert!(snapshot.at(3).is_none() && snapshot.at(4).is_some());
    }
}
