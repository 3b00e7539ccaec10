//! What a store holds, in memory: which chunks of which objects are here, who is writing, who leaves, and how many
//! bytes that takes. No I/O: the committer and the readers do what this says.
//!
//! ```text
//!            reserve               commit                doom (evicted, corrupt)         settle
//!   absent ----------> writing ----------------> here ---------------------------> leaving ------> absent
//!                         |                                                           ^
//!                         +------------------- abort ---------------------------------+
//! ```
//!
//! Invariants: `used + reserved + leaving <= capacity`; a chunk is in at most one of these states; an object that is
//! being unlinked takes no reservations. An object takes about 100 bytes (1 M objects: 100 MiB); its chunks are one bit
//! each. Objects are kept in the order of their last use.

use std::collections::{BTreeMap, BTreeSet};

use larder_proto::ids::{ObjectId, VolumeId};
use larder_proto::limits::BLOCK_BYTES;
use larder_proto::object::{Chunk, ChunkId, ChunkIndex};

use super::catalog::ObjectRow;
use super::{Bypass, Usage, Watermarks};
use crate::runtime::HashMap;
use crate::runtime::disk::PAGE_BYTES;

/// No entry.
const NONE: u32 = u32::MAX;

pub(super) struct Index {
    entries: Vec<Entry>,
    free: Vec<u32>,
    by_id: HashMap<ObjectId, u32>,
    /// Volumes seen since the start; a node knows at most `VOLUMES_MAX` at a time.
    volumes: Vec<(VolumeId, Usage)>,
    /// Ends of the list by last use.
    oldest: u32,
    newest: u32,
    /// Chunks that are being written or are leaving.
    busy: HashMap<ChunkId, Busy>,
    /// Chunks whose catalog rows and bytes are to be removed.
    doomed: BTreeSet<ChunkId>,
    /// Objects that doors have open, here or not: how many times.
    held: HashMap<ObjectId, u32>,
    /// Complete objects that are being verified, each with its ticket; one of which a chunk leaves is taken out.
    verifying: HashMap<ObjectId, u64>,
    tickets: u64,
    capacity_bytes: u64,
    high_bytes: u64,
    low_bytes: u64,
    used_bytes: u64,
    reserved_bytes: u64,
    leaving_bytes: u64,
    /// What somebody who found no room wants.
    wanted_bytes: u64,
    /// What the disk itself lacks, whatever the watermarks say.
    squeeze_bytes: u64,
    chunks: u64,
}

struct Entry {
    id: ObjectId,
    size: u64,
    here: Bits,
    older: u32,
    newer: u32,
    volume: u32,
    writers: u16,
    chunk_shift: u8,
    flags: u8,
}

/// The file was found at start.
const SEEN: u8 = 1;
/// The file is being unlinked.
const UNLINKING: u8 = 2;
/// The kernel was given the file: somebody may have it mapped, whatever handles say. Its bytes never change again.
const PASSED: u8 = 4;
/// The disk says so too.
const MARKED: u8 = 8;
/// Every byte was read back and checked since the store was opened.
const VERIFIED: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Busy {
    Writing,
    Leaving,
}

/// What [`Index::reserve`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserve {
    /// The room is taken. `Evict`: the store is above its high watermark now.
    Granted {
        evict: bool,
    },
    /// No room yet, or the chunk is just leaving: try again when the committer has settled something.
    Wait,
    Refused(Bypass),
}

/// One object of a batch of departures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Departure {
    pub object: ObjectId,
    pub chunks: Vec<ChunkIndex>,
    /// The whole file goes.
    pub unlink: bool,
    /// The kernel was given the file.
    pub passed: bool,
    pub chunk_size: u64,
    pub size: u64,
}

impl Index {
    pub fn new(capacity_bytes: u64, watermarks: Watermarks) -> Self {
        let percent = |percent: u8| {
            let bytes = u128::from(capacity_bytes) * u128::from(percent) / 100;
            u64::try_from(bytes).expect("a percentage of at most 100 of a u64")
        };
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::default(),
            volumes: Vec::new(),
            oldest: NONE,
            newest: NONE,
            busy: HashMap::default(),
            doomed: BTreeSet::new(),
            held: HashMap::default(),
            verifying: HashMap::default(),
            tickets: 0,
            capacity_bytes,
            high_bytes: percent(watermarks.high_percent),
            low_bytes: percent(watermarks.low_percent),
            used_bytes: 0,
            reserved_bytes: 0,
            leaving_bytes: 0,
            wanted_bytes: 0,
            squeeze_bytes: 0,
            chunks: 0,
        }
    }

    // ---- at start

    /// A row of the catalog: an object without chunks yet. False when it is there already.
    pub fn load_object(&mut self, row: ObjectRow) -> bool {
        !self.by_id.contains_key(&row.id) && row.size > 0 && {
            self.insert(row);
            true
        }
    }

    /// A row of the catalog: a chunk. False when it makes no sense.
    pub fn load_chunk(&mut self, id: ChunkId, blocks: usize) -> bool {
        let Some(&at) = self.by_id.get(&id.object) else { return false };
        let entry = self.entry(at);
        let len = entry.chunk_bytes(id.index);
        let sane = len > 0 && usize::try_from(len.div_ceil(u64::from(BLOCK_BYTES))) == Ok(blocks);
        if sane && self.entry_mut(at).here.set(id.index.0) {
            self.add_usage(at, id.index);
        }
        sane
    }

    /// A file of this object was found; false when the catalog doesn't know it.
    pub fn found_file(&mut self, id: ObjectId) -> bool {
        let Some(&at) = self.by_id.get(&id) else { return false };
        self.entry_mut(at).flags |= SEEN;
        !self.entry(at).here.is_empty()
    }

    /// The file was given to the kernel by an earlier agent; false when the catalog doesn't know it.
    pub fn was_passed(&mut self, id: ObjectId) -> bool {
        let Some(&at) = self.by_id.get(&id) else { return false };
        self.entry_mut(at).flags |= PASSED | MARKED;
        true
    }

    /// The disk says that the object is passed.
    pub fn marked(&mut self, object: &ObjectId) {
        if let Some(&at) = self.by_id.get(object) {
            self.entry_mut(at).flags |= MARKED;
        }
    }

    /// Forgets objects without chunks and those whose files were not found. Returns all of them, for the catalog, and
    /// how many should have had a file.
    pub fn drop_unseen(&mut self) -> (Vec<ObjectId>, u64) {
        let (mut dropped, mut missing) = (Vec::new(), 0);
        for at in self.by_id.values().copied().collect::<Vec<u32>>() {
            let entry = self.entry(at);
            let seen = entry.flags & SEEN != 0;
            if seen && !entry.here.is_empty() {
                continue;
            }
            dropped.push(entry.id);
            missing += u64::from(!entry.here.is_empty());
            while let Some(index) = self.entry(at).here.last() {
                self.entry_mut(at).here.clear(index);
                self.remove_usage(at, ChunkIndex(index));
            }
            self.remove(at);
        }
        (dropped, missing)
    }

    // ---- asking

    pub fn has(&self, id: &ChunkId) -> bool {
        self.by_id.get(&id.object).is_some_and(|at| self.entry(*at).here.get(id.index.0))
    }

    /// The object's size, if anything of it is here or on the way.
    pub fn size(&self, object: &ObjectId) -> Option<u64> {
        self.by_id.get(object).map(|at| self.entry(*at).size)
    }

    pub fn knows(&self, object: &ObjectId) -> bool {
        self.by_id.contains_key(object)
    }

    pub fn complete(&self, object: &ObjectId) -> bool {
        let Some(&at) = self.by_id.get(object) else { return false };
        let entry = self.entry(at);
        entry.here.count() == entry.chunks()
    }

    /// Whether the whole object is here and verified; then it is passed from now on, and only ever leaves whole. The second says
    /// whether the disk has to be told first.
    pub fn pass(&mut self, object: &ObjectId) -> (bool, bool) {
        if !self.is_verified(object) {
            return (false, false);
        }
        let at = self.by_id[object];
        self.entry_mut(at).flags |= PASSED;
        self.make_newest(at);
        (true, self.entry(at).flags & MARKED == 0)
    }

    /// Whether every byte of it is here and was read back and checked since the store was opened.
    pub fn is_verified(&self, object: &ObjectId) -> bool {
        self.complete(object) && self.entry(self.by_id[object]).flags & VERIFIED != 0
    }

    /// Begins to verify a complete object: a ticket for [`end_verifying`](Self::end_verifying). Nothing when it isn't
    /// complete, is verified, or somebody verifies it already.
    pub fn begin_verifying(&mut self, object: &ObjectId) -> Option<u64> {
        if !self.complete(object) || self.is_verified(object) || self.verifying.contains_key(object) {
            return None;
        }
        self.tickets += 1;
        self.verifying.insert(*object, self.tickets);
        Some(self.tickets)
    }

    /// Ends it; with `checked`, the object is verified if nothing of it has left meanwhile.
    pub fn end_verifying(&mut self, object: &ObjectId, ticket: u64, checked: bool) -> bool {
        if self.verifying.get(object) != Some(&ticket) {
            return false;
        }
        self.verifying.remove(object);
        let verified = checked && self.complete(object);
        if verified {
            let at = self.by_id[object];
            self.entry_mut(at).flags |= VERIFIED;
        }
        verified
    }

    /// A door has opened the object: unless it is passed its chunks stay until [`release`](Self::release).
    pub fn hold(&mut self, object: ObjectId) {
        *self.held.entry(object).or_default() += 1;
    }

    /// A door has closed the object.
    pub fn release(&mut self, object: ObjectId) {
        if let Some(count) = self.held.get_mut(&object) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&object);
            }
        }
    }

    /// Whether the chunk is here; then its object is the most recently used one.
    pub fn touch(&mut self, id: &ChunkId) -> bool {
        let Some(&at) = self.by_id.get(&id.object) else { return false };
        let here = self.entry(at).here.get(id.index.0);
        if here {
            self.make_newest(at);
        }
        here
    }

    pub fn objects(&self) -> u64 {
        self.by_id.len() as u64
    }

    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Bytes that are here or reserved, in whole pages.
    pub fn taken_bytes(&self) -> u64 {
        self.used_bytes + self.reserved_bytes
    }

    /// Bytes of chunks whose removal isn't finished.
    pub fn leaving_bytes(&self) -> u64 {
        self.leaving_bytes
    }

    pub fn usage(&self) -> impl Iterator<Item = (VolumeId, Usage)> + '_ {
        self.volumes.iter().copied().filter(|(_, usage)| *usage != Usage::default())
    }

    // ---- filling

    pub fn reserve(&mut self, chunk: &Chunk) -> Reserve {
        let id = chunk.id();
        let bytes = pages(u64::from(chunk.len()));
        match self.busy.get(&id) {
            Some(Busy::Writing) => return Reserve::Refused(Bypass::Already),
            Some(Busy::Leaving) => return Reserve::Wait,
            None if self.has(&id) => return Reserve::Refused(Bypass::Already),
            None => {}
        }
        if bytes > self.high_bytes {
            return Reserve::Refused(Bypass::Full);
        }
        let known = self.by_id.get(&id.object).copied();
        let unlinking = known.is_some_and(|at| self.entry(at).flags & UNLINKING != 0);
        let taken = self.taken_bytes() + bytes;
        if unlinking {
            return Reserve::Wait;
        }
        if taken + self.leaving_bytes > self.capacity_bytes {
            self.wanted_bytes = self.wanted_bytes.max(bytes);
            return Reserve::Wait;
        }
        let at = known.unwrap_or_else(|| self.insert(ObjectRow::of(chunk)));
        let Some(writers) = self.entry(at).writers.checked_add(1) else { return Reserve::Refused(Bypass::Full) };
        self.entry_mut(at).writers = writers;
        self.make_newest(at);
        self.busy.insert(id, Busy::Writing);
        self.reserved_bytes += bytes;
        Reserve::Granted { evict: taken > self.high_bytes }
    }

    /// The chunk was written and is in the catalog: it is here.
    pub fn commit(&mut self, id: ChunkId) {
        let at = self.end_writing(id);
        if self.entry_mut(at).here.set(id.index.0) {
            self.add_usage(at, id.index);
        }
    }

    /// The writer gave up: what it may have written leaves.
    pub fn abort(&mut self, id: ChunkId) {
        let at = self.end_writing(id);
        let bytes = pages(self.entry(at).chunk_bytes(id.index));
        self.busy.insert(id, Busy::Leaving);
        self.leaving_bytes += bytes;
        self.doomed.insert(id);
    }

    fn end_writing(&mut self, id: ChunkId) -> u32 {
        let was = self.busy.remove(&id);
        debug_assert_eq!(was, Some(Busy::Writing));
        let at = self.by_id[&id.object];
        let bytes = pages(self.entry(at).chunk_bytes(id.index));
        self.reserved_bytes -= bytes;
        self.entry_mut(at).writers -= 1;
        at
    }

    // ---- leaving

    /// Dooms a chunk that is here, and with it the whole object if that was passed; returns how many chunks were doomed.
    pub fn doom(&mut self, id: ChunkId) -> u64 {
        let Some(&at) = self.by_id.get(&id.object) else { return 0 };
        if !self.entry(at).here.get(id.index.0) {
            return 0;
        }
        if self.entry(at).flags & PASSED == 0 {
            self.doom_one(at, id.index.0);
            return 1;
        }
        let mut count = 0;
        while let Some(index) = self.entry(at).here.last() {
            self.doom_one(at, index);
            count += 1;
        }
        count
    }

    fn doom_one(&mut self, at: u32, index: u32) {
        let id = ChunkId { object: self.entry(at).id, index: ChunkIndex(index) };
        self.entry_mut(at).here.clear(index);
        self.entry_mut(at).flags &= !VERIFIED;
        self.verifying.remove(&id.object);
        let bytes = self.remove_usage(at, id.index);
        self.leaving_bytes += bytes;
        self.busy.insert(id, Busy::Leaving);
        self.doomed.insert(id);
    }

    /// The disk is full though the store isn't: the next eviction gives so much back.
    pub fn squeeze(&mut self, bytes: u64) {
        self.squeeze_bytes = self.squeeze_bytes.max(bytes);
    }

    /// Above the high watermark, dooms chunks of the objects used longest ago until the store is at the low one. Of an
    /// object the last chunks go first: whoever reads it from the start again finds its beginning. Returns chunks and
    /// bytes that were doomed.
    pub fn evict(&mut self) -> (u64, u64) {
        let wanted = std::mem::take(&mut self.wanted_bytes);
        let squeeze = std::mem::take(&mut self.squeeze_bytes);
        let (mut chunks, before) = (0, self.used_bytes);
        let mut target = u64::MAX;
        if self.taken_bytes() + wanted > self.high_bytes {
            target = self.low_bytes.saturating_sub(wanted);
        }
        if squeeze > 0 {
            target = target.min(self.taken_bytes().saturating_sub(squeeze));
        }
        let mut at = self.oldest;
        while at != NONE && self.taken_bytes() > target {
            let entry = self.entry(at);
            let held = entry.flags & PASSED == 0 && self.held.contains_key(&entry.id);
            match entry.here.last().filter(|_| !held) {
                Some(index) => {
                    let object = self.entry(at).id;
                    chunks += self.doom(ChunkId { object, index: ChunkIndex(index) });
                }
                None => at = self.entry(at).newer,
            }
        }
        (chunks, before - self.used_bytes)
    }

    /// Whether [`departures`](Self::departures) has something to say.
    pub fn has_doomed(&self) -> bool {
        !self.doomed.is_empty()
    }

    /// At most `max` doomed chunks, by object. What is returned must come back through [`settle`](Self::settle).
    pub fn departures(&mut self, max: usize) -> Vec<Departure> {
        let mut by_object: BTreeMap<ObjectId, Vec<ChunkIndex>> = BTreeMap::new();
        for _ in 0..max {
            let Some(id) = self.doomed.pop_first() else { break };
            by_object.entry(id.object).or_default().push(id.index);
        }
        if let Some(mut last) = by_object.last_entry()
            && self.entry(self.by_id[last.key()]).flags & PASSED != 0
        {
            // A passed file is never punched: all of its chunks go with it, however many they are.
            let object = *last.key();
            let of = |index| ChunkId { object, index: ChunkIndex(index) };
            let rest: Vec<ChunkId> = self.doomed.range(of(0)..=of(u32::MAX)).copied().collect();
            for id in rest {
                self.doomed.remove(&id);
                last.get_mut().push(id.index);
            }
        }
        let mut departures = Vec::with_capacity(by_object.len());
        for (object, chunks) in by_object {
            let at = self.by_id[&object];
            let entry = self.entry_mut(at);
            let unlink = entry.here.is_empty() && entry.writers == 0;
            if unlink {
                entry.flags |= UNLINKING;
            }
            let (chunk_size, size, passed) = (1 << entry.chunk_shift, entry.size, entry.flags & PASSED != 0);
            departures.push(Departure { object, chunks, unlink, passed, chunk_size, size });
        }
        departures
    }

    /// The departure's rows and bytes are gone.
    pub fn settle(&mut self, departure: &Departure) {
        let at = self.by_id[&departure.object];
        for index in &departure.chunks {
            self.busy.remove(&ChunkId { object: departure.object, index: *index });
            self.leaving_bytes -= pages(self.entry(at).chunk_bytes(*index));
        }
        let entry = self.entry_mut(at);
        entry.flags &= !UNLINKING;
        let of = |index| ChunkId { object: departure.object, index: ChunkIndex(index) };
        if departure.unlink && self.doomed.range(of(0)..=of(u32::MAX)).next().is_none() {
            self.remove(at);
        }
    }

    // ---- the arena and its list

    fn entry(&self, at: u32) -> &Entry {
        &self.entries[at as usize]
    }

    fn entry_mut(&mut self, at: u32) -> &mut Entry {
        &mut self.entries[at as usize]
    }

    fn insert(&mut self, row: ObjectRow) -> u32 {
        let volume = self.volume(row.volume);
        let entry = Entry {
            id: row.id,
            size: row.size,
            here: Bits::default(),
            older: NONE,
            newer: NONE,
            volume,
            writers: 0,
            chunk_shift: u8::try_from(row.chunk_size.bytes().trailing_zeros()).expect("at most 31"),
            flags: 0,
        };
        let at = match self.free.pop() {
            Some(at) => {
                *self.entry_mut(at) = entry;
                at
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).expect("a store has fewer than 2^32 objects")
            }
        };
        self.by_id.insert(row.id, at);
        self.volumes[volume as usize].1.objects += 1;
        self.link_newest(at);
        at
    }

    fn remove(&mut self, at: u32) {
        self.unlink(at);
        let volume = self.entry(at).volume as usize;
        self.volumes[volume].1.objects -= 1;
        let id = self.entry(at).id;
        self.by_id.remove(&id);
        self.entry_mut(at).here = Bits::default();
        self.free.push(at);
    }

    fn volume(&mut self, id: VolumeId) -> u32 {
        let known = self.volumes.iter().position(|(volume, _)| *volume == id);
        let at = known.unwrap_or_else(|| {
            self.volumes.push((id, Usage::default()));
            self.volumes.len() - 1
        });
        u32::try_from(at).expect("few volumes")
    }

    fn add_usage(&mut self, at: u32, index: ChunkIndex) {
        let bytes = pages(self.entry(at).chunk_bytes(index));
        let volume = self.entry(at).volume as usize;
        let usage = &mut self.volumes[volume].1;
        usage.chunks += 1;
        usage.bytes += bytes;
        self.chunks += 1;
        self.used_bytes += bytes;
    }

    fn remove_usage(&mut self, at: u32, index: ChunkIndex) -> u64 {
        let bytes = pages(self.entry(at).chunk_bytes(index));
        let volume = self.entry(at).volume as usize;
        let usage = &mut self.volumes[volume].1;
        usage.chunks -= 1;
        usage.bytes -= bytes;
        self.chunks -= 1;
        self.used_bytes -= bytes;
        bytes
    }

    fn make_newest(&mut self, at: u32) {
        if self.newest != at {
            self.unlink(at);
            self.link_newest(at);
        }
    }

    fn link_newest(&mut self, at: u32) {
        let before = std::mem::replace(&mut self.newest, at);
        let entry = self.entry_mut(at);
        (entry.older, entry.newer) = (before, NONE);
        match before {
            NONE => self.oldest = at,
            before => self.entry_mut(before).newer = at,
        }
    }

    fn unlink(&mut self, at: u32) {
        let (older, newer) = (self.entry(at).older, self.entry(at).newer);
        match older {
            NONE => self.oldest = newer,
            older => self.entry_mut(older).newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.entry_mut(newer).older = older,
        }
    }
}

impl ObjectRow {
    pub fn of(chunk: &Chunk) -> Self {
        let object = chunk.object();
        Self { id: object.id(), volume: object.volume(), size: object.size(), chunk_size: object.chunk_size() }
    }
}

impl Entry {
    fn chunks(&self) -> u64 {
        self.size.div_ceil(1 << self.chunk_shift)
    }

    /// A chunk's length; 0 past the end.
    fn chunk_bytes(&self, index: ChunkIndex) -> u64 {
        let chunk = 1u64 << self.chunk_shift;
        self.size.saturating_sub(u64::from(index.0).saturating_mul(chunk)).min(chunk)
    }
}

/// Bytes on disk: whole pages.
fn pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE_BYTES as u64)
}

/// A set of chunk indexes; up to 64 chunks (256 MiB at 4 MiB) need no memory of their own.
enum Bits {
    Small(u64),
    Large(Vec<u64>),
}

impl Default for Bits {
    fn default() -> Self {
        Self::Small(0)
    }
}

impl Bits {
    fn words(&self) -> &[u64] {
        match self {
            Self::Small(word) => std::slice::from_ref(word),
            Self::Large(words) => words,
        }
    }

    fn word_mut(&mut self, word: usize) -> &mut u64 {
        if let Self::Small(small) = self
            && word > 0
        {
            *self = Self::Large(vec![*small]);
        }
        match self {
            Self::Small(small) => small,
            Self::Large(words) => {
                if words.len() <= word {
                    words.resize(word + 1, 0);
                }
                &mut words[word]
            }
        }
    }

    fn get(&self, index: u32) -> bool {
        self.words().get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// True when it wasn't set.
    fn set(&mut self, index: u32) -> bool {
        let new = !self.get(index);
        *self.word_mut(index as usize / 64) |= 1 << (index % 64);
        new
    }

    /// True when it was set.
    fn clear(&mut self, index: u32) -> bool {
        let was = self.get(index);
        if was {
            *self.word_mut(index as usize / 64) &= !(1 << (index % 64));
        }
        was
    }

    fn count(&self) -> u64 {
        self.words().iter().map(|word| u64::from(word.count_ones())).sum()
    }

    fn is_empty(&self) -> bool {
        self.words().iter().all(|word| *word == 0)
    }

    /// The highest index that is set.
    fn last(&self) -> Option<u32> {
        let words = self.words();
        let word = words.iter().rposition(|word| *word != 0)?;
        let base = u32::try_from(word).expect("2^32 chunks are 2^26 words") * 64;
        Some(base + words[word].ilog2())
    }
}

const _: () = assert!(size_of::<Entry>() <= 72, "a million objects would take more memory than promised");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_are_a_set(steps in prop::collection::vec((0u32..300, any::<bool>()), 0..100)) {
            let (mut bits, mut model) = (Bits::default(), std::collections::BTreeSet::new());
            for (index, set) in steps {
                if set {
                    prop_assert_eq!(bits.set(index), model.insert(index));
                } else {
                    prop_assert_eq!(bits.clear(index), model.remove(&index));
                }
                prop_assert_eq!(bits.last(), model.last().copied());
                prop_assert_eq!(bits.count(), model.len() as u64);
                prop_assert_eq!(bits.is_empty(), model.is_empty());
                prop_assert_eq!(bits.get(index), model.contains(&index));
            }
        }
    }

    #[test]
    fn a_million_objects_take_less_than_200_mib() {
        let mut index = Index::new(u64::MAX, Watermarks::default());
        for n in 0..1_000_000u32 {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_le_bytes());
            let id = ObjectId::from_bytes(id);
            let chunk_size = larder_proto::object::ChunkSize::new(4 << 20).expect("4 MiB");
            let row = ObjectRow { id, volume: VolumeId::from_bytes([1; 16]), size: 100 << 20, chunk_size };
            assert!(index.load_object(row) && index.load_chunk(ChunkId { object: id, index: ChunkIndex(3) }, 64));
        }
        // hashbrown keeps a byte of control beside each bucket.
        let buckets = index.by_id.capacity() * 8 / 7;
        let map_bytes = buckets * (size_of::<(ObjectId, u32)>() + 1);
        let entries_bytes = index.entries.capacity() * size_of::<Entry>();
        assert!(map_bytes + entries_bytes < 200 << 20, "{map_bytes} + {entries_bytes}");
        assert_eq!((index.chunks(), index.taken_bytes()), (1_000_000, 1_000_000 * (4 << 20)));
    }
}
