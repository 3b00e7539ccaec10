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
//! being unlinked takes no reservations, nor does a passed one; a passed object leaves whole. An object takes about 150 bytes (1 M objects:
//! 150 MiB); its chunks are one bit each. `evict` says who leaves, `load` what was here before the start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use larder_proto::ids::{ObjectId, Slot, VolumeId};
use larder_proto::limits::CHUNKS_PER_RUN;
use larder_proto::object::{Chunk, ChunkId, ChunkIndex};

use self::evict::{Crowd, Pressure};
use self::fifo::{Fifo, Place, USE_SECONDS, USES_MAX, WHOLE};
use super::rank::{Alone, Rank, Standing};
use super::{Bypass, Usage, Watermarks};
use crate::runtime::HashMap;
use crate::runtime::disk::PAGE_BYTES;

mod bits;
mod evict;
mod fifo;
mod load;
mod verify;

pub(super) use self::bits::Bits;
pub(super) use self::load::Loaded;
pub(super) use self::verify::Verifier;
use self::verify::Verifying;

pub(super) struct Index {
    entries: Vec<Entry>,
    free: Vec<u32>,
    by_id: HashMap<ObjectId, u32>,
    /// Volumes seen since the start; a node knows at most `VOLUMES_MAX` at a time.
    volumes: Vec<VolumeState>,
    fifo: Fifo,
    standing: Arc<dyn Standing>,
    /// Nothing is evicted while there is a freeze: who is pinned isn't known yet.
    frozen: Option<u64>,
    freezes: u64,
    /// Evictions that have begun.
    pressure: Option<Pressure>,
    crowd: Option<Crowd>,
    /// Chunks that are being written.
    writing: usize,
    /// Chunks that are being written or are leaving.
    busy: HashMap<ChunkId, Busy>,
    /// Chunks whose catalog rows and bytes are to be removed.
    doomed: BTreeSet<ChunkId>,
    /// Those of them that were given up before they were here: bytes that were written.
    aborted: HashMap<ChunkId, u64>,
    /// Objects that doors have open, here or not: how many times.
    held: HashMap<ObjectId, u32>,
    /// Complete objects that are being verified; one of which a chunk leaves is taken out.
    verifying: HashMap<ObjectId, Verifying>,
    tickets: u64,
    /// Entries made so far.
    births: u32,
    /// A file that nobody knows is being unlinked: it must not be made anew meanwhile.
    sweeping: Option<ObjectId>,
    capacity_bytes: u64,
    watermarks: Watermarks,
    used_bytes: u64,
    reserved_bytes: u64,
    leaving_bytes: u64,
    /// Bytes of files that were unlinked while somebody may have had them mapped, and that the disk doesn't have back.
    lingering_bytes: u64,
    /// What somebody who found no room wants.
    wanted_bytes: u64,
    /// What the disk itself lacks, whatever the watermarks say.
    squeeze_bytes: u64,
    /// Files that must go because the disk has no room for names.
    squeeze_files: u64,
    chunks: u64,
}

struct VolumeState {
    id: VolumeId,
    usage: Usage,
    reserved_bytes: u64,
    limits: Limits,
    /// Somebody found the quota used up.
    crowded: bool,
}

/// What a volume's policies mean to this store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub ttl_s: Option<u64>,
    /// This store's part of the quota.
    pub quota_bytes: Option<u64>,
}

struct Entry {
    id: ObjectId,
    size: u64,
    here: Bits,
    /// The first run, which most objects have alone.
    first: Run,
    /// The others, and the whole file's.
    #[expect(clippy::box_collection, reason = "8 bytes of each entry instead of 24")]
    more: Option<Box<BTreeMap<u32, Run>>>,
    volume: u32,
    /// Wall clock, in seconds: when the first chunk came.
    filled_s: u32,
    /// Tells it from what the same object was here before: another file.
    born: u32,
    /// Its file's stamp when the verification began that found every byte right.
    stamp: u32,
    writers: u16,
    chunk_shift: u8,
    flags: u8,
}

/// Four chunks that share owners; they stand in line as one.
#[derive(Clone, Copy)]
struct Run {
    slot: Slot,
    place: Place,
    uses: u8,
    /// When it was last used, in seconds of the store's clock.
    used_s: u32,
    ticket: u32,
}

impl Run {
    fn new(slot: Slot) -> Self {
        Self { slot, place: Place::None, uses: 0, used_s: 0, ticket: 0 }
    }
}

/// The file was found, or made, since the start.
const SEEN: u8 = 1;
/// The file is being unlinked.
const UNLINKING: u8 = 2;
/// The kernel was given the file: somebody may have it mapped, whatever handles say. Its bytes never change again.
const PASSED: u8 = 4;
/// The disk says so too.
const MARKED: u8 = 8;
/// It stays, whatever room is wanted.
const PINNED: u8 = 16;
/// What is here was not verified since the store was left unclean.
const UNSURE: u8 = 32;
/// Every byte was read back and checked since the store was opened.
const VERIFIED: u8 = 64;

/// Chunks that are being written at once, at most. Small ones hold little memory: no other bound would stop them, and all
/// would wait until their deadline.
const WRITING_MAX: usize = 4_096;

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

/// What [`Index::pass`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    NotHere,
    Unverified,
    /// It is passed from now on; `unmarked`: the disk has to be told first. Once its file is open,
    /// [`is_passed`](Index::is_passed) must say that it is still `born`'s.
    Ready {
        unmarked: bool,
        born: u32,
    },
}

/// What [`Index::is_passed`] says of the file that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It is the one that was verified.
    Right,
    /// The object has left.
    Gone,
    /// Somebody else has put another in its place, or has written to it.
    Touched,
}

/// One object of a batch of departures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Departure {
    pub object: ObjectId,
    pub chunks: Vec<ChunkIndex>,
    /// Bytes of chunks that were given up before they were written whole.
    pub aborted: BTreeMap<ChunkIndex, u64>,
    /// The whole file goes.
    pub unlink: bool,
    /// The kernel was given the file.
    pub passed: bool,
    pub chunk_size: u64,
    pub size: u64,
}

impl Departure {
    /// Bytes that leave, in whole pages.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|index| self.bytes_of(*index)).sum()
    }

    /// Bytes of a chunk that leaves, in whole pages.
    pub fn bytes_of(&self, index: ChunkIndex) -> u64 {
        let start = u64::from(index.0) * self.chunk_size;
        let whole = pages(self.size.saturating_sub(start).min(self.chunk_size));
        self.aborted.get(&index).copied().unwrap_or(whole)
    }
}

impl Index {
    pub fn new(capacity_bytes: u64, watermarks: Watermarks) -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::default(),
            volumes: Vec::new(),
            fifo: Fifo::default(),
            standing: Arc::new(Alone),
            frozen: None,
            freezes: 0,
            pressure: None,
            crowd: None,
            writing: 0,
            busy: HashMap::default(),
            doomed: BTreeSet::new(),
            aborted: HashMap::default(),
            held: HashMap::default(),
            verifying: HashMap::default(),
            tickets: 0,
            births: 0,
            sweeping: None,
            capacity_bytes,
            watermarks,
            used_bytes: 0,
            reserved_bytes: 0,
            leaving_bytes: 0,
            lingering_bytes: 0,
            wanted_bytes: 0,
            squeeze_bytes: 0,
            squeeze_files: 0,
            chunks: 0,
        }
    }

    pub fn watermarks(&self) -> Watermarks {
        self.watermarks
    }

    // ---- asking

    pub fn has(&self, id: &ChunkId) -> bool {
        self.by_id.get(&id.object).is_some_and(|at| self.entry(*at).here.get(id.index.0))
    }

    /// Some chunk that is here, another one for another seed.
    pub fn some_chunk(&self, seed: u64) -> Option<ChunkId> {
        let len = self.entries.len();
        let start = usize::try_from(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).ok()?.checked_rem(len)?;
        let near = (0..len.min(1_024)).map(|step| &self.entries[(start + step) % len]);
        near.filter_map(|entry| Some(ChunkId { object: entry.id, index: ChunkIndex(entry.here.last()?) })).next()
    }

    /// Where the chunk lies in its file.
    pub fn offset(&self, id: &ChunkId) -> Option<u64> {
        self.by_id.get(&id.object).map(|at| u64::from(id.index.0) << self.entry(*at).chunk_shift)
    }

    pub fn knows(&self, object: &ObjectId) -> bool {
        self.by_id.contains_key(object)
    }

    pub fn complete(&self, object: &ObjectId) -> bool {
        let Some(&at) = self.by_id.get(object) else { return false };
        let entry = self.entry(at);
        entry.here.count() == entry.chunks()
    }

    /// Whether the chunk is here; then its run is used now.
    pub fn touch(&mut self, id: &ChunkId, now_s: u32) -> bool {
        let Some(&at) = self.by_id.get(&id.object) else { return false };
        let here = self.entry(at).here.get(id.index.0);
        if here {
            let entry = self.entry_mut(at);
            let run = entry.unit_of(id.index);
            entry.use_run(run, now_s);
        }
        here
    }

    /// Whether the whole object may be read by the kernel; then it is passed from now on, and only ever leaves whole.
    pub fn pass(&mut self, object: &ObjectId, now_s: u32) -> Pass {
        if !self.complete(object) {
            return Pass::NotHere;
        }
        let at = self.by_id[object];
        if self.entry(at).flags & VERIFIED == 0 {
            return Pass::Unverified;
        }
        if self.entry(at).flags & PASSED == 0 {
            self.become_whole(at);
        }
        let entry = self.entry_mut(at);
        entry.use_run(WHOLE, now_s);
        Pass::Ready { unmarked: entry.flags & MARKED == 0, born: entry.born }
    }

    /// The disk says that the object is passed, and its file is open: whether it is whole and the one that
    /// [`pass`](Self::pass) spoke of, as it was verified. A file of that name may have been removed and made anew
    /// meanwhile, or somebody may have touched it.
    pub fn is_passed(&mut self, object: &ObjectId, born: u32, stamp: u32) -> Found {
        if !self.is_verified(object) {
            return Found::Gone;
        }
        let at = self.by_id[object];
        let entry = self.entry_mut(at);
        if entry.born != born || entry.flags & PASSED == 0 {
            return Found::Gone;
        }
        entry.flags |= MARKED;
        if entry.stamp == stamp { Found::Right } else { Found::Touched }
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

    pub fn objects(&self) -> u64 {
        self.by_id.len() as u64
    }

    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Bytes that are here or reserved, in whole pages, and those that the disk doesn't have back.
    pub fn taken_bytes(&self) -> u64 {
        self.used_bytes + self.reserved_bytes + self.lingering_bytes
    }

    /// Bytes that are here, in whole pages.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// The map's number, as far as ranks go.
    pub fn generation(&self) -> u64 {
        self.standing.generation()
    }

    /// Bytes that can be taken without coming above the low watermark.
    pub fn room_below_low_bytes(&self) -> u64 {
        self.low_bytes().saturating_sub(self.taken_bytes() + self.leaving_bytes)
    }

    /// Bytes of chunks whose removal isn't finished.
    pub fn leaving_bytes(&self) -> u64 {
        self.leaving_bytes
    }

    /// Bytes of unlinked files that somebody may still have.
    pub fn lingering_bytes(&self) -> u64 {
        self.lingering_bytes
    }

    /// A file was unlinked and the disk doesn't have so many of its bytes back; or now it has.
    pub fn linger(&mut self, bytes: u64) {
        self.lingering_bytes = bytes;
    }

    pub fn usage(&self) -> impl Iterator<Item = (VolumeId, Usage)> + '_ {
        self.volumes.iter().map(|volume| (volume.id, volume.usage)).filter(|(_, usage)| *usage != Usage::default())
    }

    /// When the object's first chunk came; now, when none has.
    pub fn filled_s(&self, object: &ObjectId, wall_s: u32) -> u32 {
        let filled = self.by_id.get(object).map(|at| self.entry(*at).filled_s);
        filled.filter(|filled| *filled > 0).unwrap_or(wall_s)
    }

    // ---- filling

    /// Room for a chunk; an object that is new here is pinned or not as the caller says.
    pub fn reserve(&mut self, chunk: &Chunk, pinned: bool) -> Reserve {
        let id = chunk.id();
        let bytes = pages(u64::from(chunk.len()));
        match self.busy.get(&id) {
            Some(Busy::Writing) => return Reserve::Refused(Bypass::Already),
            Some(Busy::Leaving) => return Reserve::Wait,
            None if self.has(&id) => return Reserve::Refused(Bypass::Already),
            None => {}
        }
        if bytes > self.high_bytes() {
            return Reserve::Refused(Bypass::Full);
        }
        if self.writing >= WRITING_MAX {
            return Reserve::Refused(Bypass::Busy);
        }
        let known = self.by_id.get(&id.object).copied();
        // A passed object is whole or on its way out, and is never written again.
        let leaving = known.is_some_and(|at| self.entry(at).flags & (UNLINKING | PASSED) != 0);
        if leaving || self.sweeping == Some(id.object) {
            return Reserve::Wait;
        }
        let volume = self.volume(chunk.object().volume());
        if let Some(refused) = self.within_quota(volume, bytes) {
            return refused;
        }
        let taken = self.taken_bytes() + bytes;
        if taken + self.leaving_bytes > self.capacity_bytes {
            self.wanted_bytes = self.wanted_bytes.max(bytes);
            return Reserve::Wait;
        }
        let at = known.unwrap_or_else(|| self.insert(chunk, pinned));
        let Some(writers) = self.entry(at).writers.checked_add(1) else { return Reserve::Refused(Bypass::Full) };
        let entry = self.entry_mut(at);
        entry.writers = writers;
        entry.run_of_slot(id.index.0 / CHUNKS_PER_RUN, chunk.slot());
        self.busy.insert(id, Busy::Writing);
        self.writing += 1;
        self.reserved_bytes += bytes;
        self.volumes[volume as usize].reserved_bytes += bytes;
        Reserve::Granted { evict: taken > self.high_bytes() }
    }

    fn within_quota(&mut self, volume: u32, bytes: u64) -> Option<Reserve> {
        let state = &mut self.volumes[volume as usize];
        let quota = state.limits.quota_bytes?;
        if bytes > quota {
            return Some(Reserve::Refused(Bypass::Full));
        }
        if state.usage.bytes + state.reserved_bytes + bytes <= quota {
            return None;
        }
        state.crowded = true;
        Some(Reserve::Wait)
    }

    /// The chunk was written and is in the catalog: it is here.
    pub fn commit(&mut self, id: ChunkId, now_s: u32, wall_s: u32) {
        let at = self.end_writing(id);
        if self.entry_mut(at).here.set(id.index.0) {
            let entry = self.entry_mut(at);
            entry.flags |= SEEN;
            if entry.filled_s == 0 {
                entry.filled_s = wall_s.max(1);
            }
            self.add_usage(at, id.index);
            self.line_up(at, id.index, now_s);
        }
    }

    /// The writer gave up: what it may have written, so many bytes, leaves.
    pub fn abort(&mut self, id: ChunkId, written_bytes: u64) {
        let at = self.end_writing(id);
        let bytes = pages(self.entry(at).chunk_bytes(id.index));
        self.aborted.insert(id, written_bytes);
        self.busy.insert(id, Busy::Leaving);
        self.leaving_bytes += bytes;
        self.doomed.insert(id);
    }

    fn end_writing(&mut self, id: ChunkId) -> u32 {
        let was = self.busy.remove(&id);
        debug_assert_eq!(was, Some(Busy::Writing));
        self.writing -= 1;
        let at = self.by_id[&id.object];
        let bytes = pages(self.entry(at).chunk_bytes(id.index));
        self.reserved_bytes -= bytes;
        let volume = self.entry(at).volume as usize;
        self.volumes[volume].reserved_bytes -= bytes;
        self.entry_mut(at).writers -= 1;
        at
    }

    // ---- leaving

    /// Dooms a chunk that is here, and with it the whole object if that was passed; returns what was doomed.
    pub fn doom(&mut self, id: ChunkId) -> Bits {
        let known = self.by_id.get(&id.object).copied();
        let Some(at) = known.filter(|at| self.entry(*at).here.get(id.index.0)) else { return Bits::default() };
        if self.entry(at).flags & PASSED != 0 {
            return self.doom_object(&id.object);
        }
        self.doom_one(at, id.index.0);
        Bits::one(id.index.0)
    }

    /// Dooms all of an object; returns what was doomed.
    pub fn doom_object(&mut self, object: &ObjectId) -> Bits {
        let Some(&at) = self.by_id.get(object) else { return Bits::default() };
        let doomed = self.entry(at).here.clone();
        self.doom_all(at);
        doomed
    }

    fn doom_all(&mut self, at: u32) -> u64 {
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
        self.step_out(at, id.index, bytes);
        if self.entry(at).here.is_empty() {
            self.entry_mut(at).filled_s = 0;
        }
        self.leaving_bytes += bytes;
        self.busy.insert(id, Busy::Leaving);
        self.doomed.insert(id);
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
            let written = |index: &ChunkIndex| Some((*index, self.aborted.remove(&ChunkId { object, index: *index })?));
            let aborted = chunks.iter().filter_map(written).collect();
            let at = self.by_id[&object];
            let entry = self.entry_mut(at);
            let unlink = entry.here.is_empty() && entry.writers == 0;
            if unlink {
                entry.flags |= UNLINKING;
            }
            let (chunk_size, size, passed) = (1 << entry.chunk_shift, entry.size, entry.flags & PASSED != 0);
            departures.push(Departure { object, chunks, aborted, unlink, passed, chunk_size, size });
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

    // ---- the arena

    fn entry(&self, at: u32) -> &Entry {
        &self.entries[at as usize]
    }

    fn entry_mut(&mut self, at: u32) -> &mut Entry {
        &mut self.entries[at as usize]
    }

    fn insert(&mut self, chunk: &Chunk, pinned: bool) -> u32 {
        let object = chunk.object();
        // The first run's slot is known when its first chunk comes.
        let entry = Entry {
            id: object.id(),
            size: object.size(),
            here: Bits::default(),
            first: Run::new(chunk.slot()),
            more: None,
            volume: self.volume(object.volume()),
            filled_s: 0,
            born: 0,
            stamp: 0,
            writers: 0,
            chunk_shift: chunk_shift(object.chunk_size()),
            flags: SEEN | if pinned { PINNED } else { 0 },
        };
        self.put_entry(entry)
    }

    fn put_entry(&mut self, mut entry: Entry) -> u32 {
        let (id, volume) = (entry.id, entry.volume);
        self.births = self.births.wrapping_add(1);
        entry.born = self.births;
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
        self.by_id.insert(id, at);
        self.volumes[volume as usize].usage.objects += 1;
        at
    }

    fn remove(&mut self, at: u32) {
        let volume = self.entry(at).volume as usize;
        self.volumes[volume].usage.objects -= 1;
        let id = self.entry(at).id;
        self.by_id.remove(&id);
        let entry = self.entry_mut(at);
        (entry.here, entry.more) = (Bits::default(), None);
        self.free.push(at);
    }

    fn volume(&mut self, id: VolumeId) -> u32 {
        let known = self.volumes.iter().position(|volume| volume.id == id);
        let at = known.unwrap_or_else(|| {
            let (usage, limits) = (Usage::default(), Limits::default());
            self.volumes.push(VolumeState { id, usage, reserved_bytes: 0, limits, crowded: false });
            self.volumes.len() - 1
        });
        u32::try_from(at).expect("few volumes")
    }

    fn add_usage(&mut self, at: u32, index: ChunkIndex) {
        let bytes = pages(self.entry(at).chunk_bytes(index));
        let volume = self.entry(at).volume as usize;
        let usage = &mut self.volumes[volume].usage;
        usage.chunks += 1;
        usage.bytes += bytes;
        self.chunks += 1;
        self.used_bytes += bytes;
    }

    fn remove_usage(&mut self, at: u32, index: ChunkIndex) -> u64 {
        let bytes = pages(self.entry(at).chunk_bytes(index));
        let volume = self.entry(at).volume as usize;
        let usage = &mut self.volumes[volume].usage;
        usage.chunks -= 1;
        usage.bytes -= bytes;
        self.chunks -= 1;
        self.used_bytes -= bytes;
        bytes
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

    /// What the chunk stands in line with.
    fn unit_of(&self, index: ChunkIndex) -> u32 {
        if self.flags & PASSED == 0 { index.0 / CHUNKS_PER_RUN } else { WHOLE }
    }

    fn run(&self, run: u32) -> Option<&Run> {
        if run == 0 { Some(&self.first) } else { self.more.as_ref()?.get(&run) }
    }

    fn run_mut(&mut self, run: u32) -> Option<&mut Run> {
        if run == 0 { Some(&mut self.first) } else { self.more.as_mut()?.get_mut(&run) }
    }

    /// The run, made when it is new.
    fn run_of_slot(&mut self, run: u32, slot: Slot) -> &mut Run {
        if run == 0 {
            self.first.slot = slot;
            return &mut self.first;
        }
        self.more.get_or_insert_default().entry(run).or_insert_with(|| Run::new(slot))
    }

    fn use_run(&mut self, run: u32, now_s: u32) {
        if let Some(run) = self.run_mut(run)
            && now_s.saturating_sub(run.used_s) >= USE_SECONDS
        {
            run.uses = (run.uses + 1).min(USES_MAX);
            run.used_s = now_s;
        }
    }
}

/// Bytes on disk: whole pages.
fn pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE_BYTES as u64)
}

fn chunk_shift(size: larder_proto::object::ChunkSize) -> u8 {
    u8::try_from(size.bytes().trailing_zeros()).expect("at most 31")
}

const _: () = assert!(size_of::<Entry>() <= 96, "a million objects would take more memory than promised");
