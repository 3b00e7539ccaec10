//! The names of one directory, whole or still growing, in the order of their keys. Sans-IO.
//!
//! A directory's key ends in `/`, so `a-` lies between the file `a` and the directory `a`. Where both exist the
//! directory wins and is counted; while a listing grows, a file is shown only once no directory of its name can follow.
//! A position is a key: it means the same in every listing of the directory, held by whichever home.

use std::cmp::Ordering;
use std::sync::Arc;

use larder_proto::limits::PAGE_NAMES_MAX;
use larder_proto::object::EntryName;
use tokio::time::Instant;

use crate::fs::{Looked, Part};
use crate::origin::Page;

/// What a name costs in memory besides its text and version: the entry itself and two counted strings.
const NAME_OVERHEAD_BYTES: usize = 128;

/// A name and what it is; never `Absent`.
type Named = (EntryName, Looked);

/// A whole listing.
#[derive(Debug)]
pub(super) struct Listing {
    names: Vec<Named>,
    as_of: Instant,
    bytes: usize,
}

/// A listing whose pages are still coming.
#[derive(Debug)]
pub(super) struct Growing {
    names: Vec<Named>,
    /// The last key seen so far: nothing before it can still come.
    horizon: String,
    /// The origin lists in the order of keys; one that doesn't is only shown whole.
    ordered: bool,
    bytes: usize,
    clashes: u64,
}

impl Listing {
    pub(super) fn as_of(&self) -> Instant {
        self.as_of
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What a name is.
    pub(super) fn find(&self, name: &EntryName) -> Looked {
        find(&self.names, name).cloned().unwrap_or(Looked::Absent)
    }

    /// The names after a position.
    pub(super) fn part(&self, after: Option<&str>) -> Part {
        part(&self.names, after, self.names.len(), false)
    }
}

impl Growing {
    pub(super) fn new() -> Self {
        Self { names: Vec::new(), horizon: String::new(), ordered: true, bytes: 0, clashes: 0 }
    }

    pub(super) fn names(&self) -> usize {
        self.names.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Names that were both a file and a directory so far.
    pub(super) fn clashes(&self) -> u64 {
        self.clashes
    }

    /// Takes in the next page.
    pub(super) fn push(&mut self, page: Page) {
        let settled = self.certain();
        for named in in_order(page) {
            let key = key(&named);
            self.ordered &= self.horizon.as_str() <= key.as_str();
            self.bytes += cost(&named);
            self.horizon = key;
            self.names.push(named);
        }
        if self.ordered {
            self.clashes += settle_clashes(&mut self.names, settled);
        }
    }

    /// The whole listing, with the number of clashes it had.
    pub(super) fn finish(mut self, as_of: Instant) -> (Arc<Listing>, u64) {
        if !self.ordered {
            self.names.sort_by(compare);
            self.names.dedup_by(|later, earlier| compare(later, earlier) == Ordering::Equal);
            self.clashes += settle_clashes(&mut self.names, 0);
        }
        self.names.shrink_to_fit();
        (Arc::new(Listing { names: self.names, as_of, bytes: self.bytes }), self.clashes)
    }

    /// The names after a position that are certain by now; nothing when there are none yet.
    pub(super) fn part(&self, after: Option<&str>) -> Option<Part> {
        let certain = if self.ordered { self.certain() } else { 0 };
        let part = part(&self.names, after, certain, true);
        (!part.entries.is_empty()).then_some(part)
    }

    /// What a name is, if that is certain by now.
    pub(super) fn find(&self, name: &EntryName) -> Option<Looked> {
        let passed = self.ordered && directory_key(name).as_str() <= self.horizon.as_str();
        passed.then(|| find(&self.names, name).cloned().unwrap_or(Looked::Absent))
    }

    /// How many names, from the beginning, can't be taken back by a directory of the same name.
    fn certain(&self) -> usize {
        uncertain(&self.names, &self.horizon).next().unwrap_or(self.names.len())
    }
}

/// Positions of files whose directory, if there is one, lies behind `horizon`: those whose name the horizon begins with,
/// going on below `/`.
pub(super) fn uncertain<'a>(names: &'a [Named], horizon: &'a str) -> impl Iterator<Item = usize> + 'a {
    let ends = horizon.char_indices().skip(1).map(|(end, next)| (end, next < '/')).chain([(horizon.len(), true)]);
    ends.filter(|(_, open)| *open).filter_map(|(end, _)| {
        let found = names.binary_search_by(|named| compare_key(named, &horizon[..end])).ok()?;
        matches!(names[found].1, Looked::File(_)).then_some(found)
    })
}

/// A page's names in the order of their keys.
pub(super) fn in_order(page: Page) -> Vec<Named> {
    let files = page.files.into_iter().map(|(name, info)| (name, Looked::File(info)));
    let mut names: Vec<Named> = files.chain(page.dirs.into_iter().map(|name| (name, Looked::Dir))).collect();
    names.sort_by(compare);
    names
}

/// The key of a name, relative to its directory.
pub(super) fn key((name, looked): &Named) -> String {
    match looked {
        Looked::Dir => directory_key(name),
        Looked::File(_) | Looked::Absent => name.as_str().to_owned(),
    }
}

pub(super) fn directory_key(name: &EntryName) -> String {
    format!("{}/", name.as_str())
}

/// Removes files that have a directory of their name behind them, from position `from` on; says how many.
pub(super) fn settle_clashes(names: &mut Vec<Named>, from: usize) -> u64 {
    // What lies between a file and its directory begins with the file's name: only such files are still open.
    let mut open: Vec<usize> = Vec::new();
    let mut lost = Vec::new();
    for (position, (name, looked)) in names.iter().enumerate().skip(from) {
        open.retain(|file| name.as_str().starts_with(names[*file].0.as_str()));
        match looked {
            Looked::Dir => lost.extend(open.iter().copied().filter(|file| names[*file].0 == *name)),
            Looked::File(_) | Looked::Absent => open.push(position),
        }
    }
    lost.sort_unstable();
    for position in lost.iter().rev() {
        names.remove(*position);
    }
    u64::try_from(lost.len()).expect("a length fits u64")
}

fn part(names: &[Named], after: Option<&str>, certain: usize, more: bool) -> Part {
    let begin = after.map_or(0, |after| names.partition_point(|named| compare_key(named, after) != Ordering::Greater));
    let end = certain.min(begin.saturating_add(PAGE_NAMES_MAX)).max(begin);
    let entries = names[begin..end].to_vec();
    let next = entries.last().filter(|_| more || end < names.len()).map(|last| key(last).into());
    Part { entries, next }
}

fn find<'a>(names: &'a [Named], name: &EntryName) -> Option<&'a Looked> {
    let at = |key: &str| names.binary_search_by(|named| compare_key(named, key)).ok();
    let found = at(&directory_key(name)).or_else(|| at(name.as_str()))?;
    Some(&names[found].1)
}

fn compare(a: &Named, b: &Named) -> Ordering {
    bytes(a).cmp(bytes(b))
}

fn compare_key(named: &Named, key: &str) -> Ordering {
    bytes(named).cmp(key.bytes())
}

fn bytes((name, looked): &Named) -> impl Iterator<Item = u8> {
    name.as_str().bytes().chain(matches!(looked, Looked::Dir).then_some(b'/'))
}

fn cost((name, looked): &Named) -> usize {
    let version = match looked {
        Looked::File(info) => info.version.as_str().len(),
        Looked::Dir | Looked::Absent => 0,
    };
    NAME_OVERHEAD_BYTES + name.as_str().len() + version
}

#[cfg(test)]
mod tests;
