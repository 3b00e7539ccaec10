//! Who leaves: guests, then copies, then first copies, each by S3-FIFO; what is too old; what is above its volume's quota.
//!
//! Pinned objects stand in no line. Chunks of an open file stay, unless the file was passed: then it is unlinked whole,
//! and whoever has it keeps it. Where everything is used all lines are gone round several times: an eviction goes in
//! steps, between which readers have the index.

use std::sync::Arc;

use larder_proto::ids::{ObjectId, VolumeId};
use larder_proto::limits::CHUNKS_PER_RUN;
use larder_proto::object::ChunkIndex;

use super::super::rank::{Rank, Standing};
use super::fifo::{Cursor, Place, Unit, WHOLE};
use super::{Index, Limits, PASSED, PINNED, Run, pages};

/// What an eviction doomed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Evicted {
    pub chunks: u64,
    pub bytes: u64,
    /// Chunks that left because their volume's quota was used up.
    pub over_quota: u64,
}

/// Units that one step of an eviction looks at: well below a millisecond.
pub(super) const LOOKS_AT_ONCE: usize = 2_048;

/// Chunks of a whole file that cost as much as one look.
const CHUNKS_PER_LOOK: u32 = 16;

/// What an eviction that has begun still has to do.
pub(super) struct Pressure {
    /// Bytes that may stay.
    target: u64,
    /// Whole objects that must leave besides.
    files: u64,
    /// Ranks that are done.
    done: usize,
    /// How many of the rank's main line are known to stay.
    stay: usize,
}

/// A volume above its quota, from which units are being taken.
pub(super) struct Crowd {
    volume: usize,
    /// Units with more uses are spared: first those that weren't used leave, then the others.
    spared: u8,
    cursor: Cursor,
}

impl Index {
    pub(super) fn high_bytes(&self) -> u64 {
        percent(self.capacity_bytes, self.watermarks.high_percent)
    }

    pub(super) fn low_bytes(&self) -> u64 {
        percent(self.capacity_bytes, self.watermarks.low_percent)
    }

    /// Who decides ranks from now on.
    pub fn stand(&mut self, standing: Arc<dyn Standing>) {
        self.standing = standing;
    }

    /// What a volume may take here.
    pub fn limit(&mut self, volume: VolumeId, limits: Limits) {
        let at = self.volume(volume) as usize;
        self.volumes[at].limits = limits;
        self.volumes[at].crowded |= limits.quota_bytes.is_some_and(|quota| self.volumes[at].usage.bytes > quota);
    }

    /// Volumes that limits were set for, or that have something here.
    pub fn known_volumes(&self) -> Vec<VolumeId> {
        self.volumes.iter().map(|volume| volume.id).collect()
    }

    /// Whether anything here grows too old.
    pub fn has_ttl(&self) -> bool {
        self.volumes.iter().any(|volume| volume.limits.ttl_s.is_some())
    }

    /// While it isn't known who is pinned, nobody is evicted: until [`thaw`](Self::thaw) is given what this returns.
    pub fn freeze(&mut self) -> u64 {
        self.freezes += 1;
        self.frozen = Some(self.freezes);
        self.freezes
    }

    /// Ends a freeze, unless there was another one since.
    pub fn thaw(&mut self, freeze: u64) {
        if self.frozen == Some(freeze) {
            self.frozen = None;
        }
    }

    /// The disk is full though the store isn't: the next eviction gives so much back.
    pub fn squeeze(&mut self, bytes: u64, files: u64) {
        self.squeeze_bytes = self.squeeze_bytes.max(bytes);
        self.squeeze_files = self.squeeze_files.max(files);
    }

    /// Whether [`evict`](Self::evict) has begun something that it must go on with.
    pub fn is_evicting(&self) -> bool {
        self.frozen.is_none() && (self.pressure.is_some() || self.crowd.is_some() || self.fifo.needs_sweep())
    }

    /// Above the high watermark, dooms chunks until the store is at the low one; above a quota likewise. One step of it:
    /// there is more to do while [`is_evicting`](Self::is_evicting).
    pub fn evict(&mut self) -> Evicted {
        let mut evicted = Evicted::default();
        if self.frozen.is_some() {
            return evicted;
        }
        let (chunks, bytes) = (self.chunks, self.used_bytes);
        let mut looks = LOOKS_AT_ONCE;
        self.evict_crowds(&mut looks);
        evicted.over_quota = chunks - self.chunks;
        if self.crowd.is_none() {
            let mut pressure = self.pressure.take().unwrap_or_else(|| self.new_pressure());
            if self.relieve(&mut pressure, &mut looks) {
                self.sweep_lines();
            } else {
                self.pressure = Some(pressure);
            }
        }
        (evicted.chunks, evicted.bytes) = (chunks - self.chunks, bytes - self.used_bytes);
        evicted
    }

    fn new_pressure(&mut self) -> Pressure {
        let wanted = std::mem::take(&mut self.wanted_bytes);
        let squeeze = std::mem::take(&mut self.squeeze_bytes);
        let files = std::mem::take(&mut self.squeeze_files);
        let mut target = u64::MAX;
        if self.taken_bytes() + wanted > self.high_bytes() {
            target = self.low_bytes().saturating_sub(wanted);
        }
        if squeeze > 0 {
            target = target.min(self.taken_bytes().saturating_sub(squeeze));
        }
        Pressure { target, files, done: 0, stay: 0 }
    }

    /// False when there is more to do.
    fn relieve(&mut self, pressure: &mut Pressure, looks: &mut usize) -> bool {
        while let Some(rank) = Rank::ALL.get(pressure.done) {
            if !self.evict_rank(*rank, pressure, looks) {
                return false;
            }
            (pressure.done, pressure.stay) = (pressure.done + 1, 0);
        }
        true
    }

    /// Looks at the lines of one rank until the store is at its target and enough whole objects have left, or everybody
    /// who is left there must stay. False when there is more to do.
    fn evict_rank(&mut self, rank: Rank, pressure: &mut Pressure, looks: &mut usize) -> bool {
        while self.taken_bytes() > pressure.target || pressure.files > 0 {
            if *looks == 0 {
                return false;
            }
            let Some((unit, place)) = self.fifo.first(rank, pressure.stay) else { return true };
            *looks = looks.saturating_sub(self.cost_of(unit));
            let Some(run) = self.valid(&unit, place) else { continue };
            let actual = self.rank_of(unit);
            if actual != rank {
                self.move_to(unit, place, moved(place, actual));
            } else if self.is_held(unit.at) {
                pressure.stay += usize::from(matches!(place, Place::Main(_)));
                self.move_to(unit, place, Place::Main(rank));
            } else if run.uses > 0 {
                self.move_to(unit, place, Place::Main(rank));
                let spent = if matches!(place, Place::Small(_)) { 0 } else { run.uses - 1 };
                if let Some(run) = self.entry_mut(unit.at).run_mut(unit.run) {
                    run.uses = spent;
                }
            } else {
                let object = self.entry(unit.at).id;
                if self.take_out(unit, pressure.target, pressure.files > 0) {
                    if matches!(place, Place::Small(_)) {
                        self.fifo.remember(fingerprint(object, unit.run));
                    }
                    let left = u64::from(self.entry(unit.at).here.is_empty());
                    pressure.files = pressure.files.saturating_sub(left);
                } else {
                    self.fifo.put_back(unit, place);
                }
            }
        }
        true
    }

    /// Looks that a unit costs.
    fn cost_of(&self, unit: Unit) -> usize {
        if unit.run != WHOLE {
            return 1;
        }
        1 + (self.entry(unit.at).here.end() / CHUNKS_PER_LOOK) as usize
    }

    /// Dooms a unit from its last chunk on, until `target` is reached; of an object the beginning stays longest. True
    /// when nothing of the unit is left.
    fn take_out(&mut self, unit: Unit, target: u64, whole: bool) -> bool {
        if unit.run == WHOLE {
            self.doom_all(unit.at);
            return true;
        }
        let start = unit.run * CHUNKS_PER_RUN;
        let end = start.saturating_add(CHUNKS_PER_RUN);
        while let Some(index) = self.entry(unit.at).here.last_in(start, end) {
            if self.taken_bytes() <= target && !whole {
                return false;
            }
            self.doom_one(unit.at, index);
        }
        true
    }

    /// Takes from volumes that are above their quotas, as far as the looks go.
    fn evict_crowds(&mut self, looks: &mut usize) {
        while *looks > 0 {
            let begun = self.crowd.take().or_else(|| {
                let volume = self.volumes.iter().position(|volume| volume.crowded)?;
                self.volumes[volume].crowded = false;
                Some(Crowd { volume, spared: 0, cursor: Cursor::default() })
            });
            let Some(mut crowd) = begun else { return };
            if !self.evict_volume(&mut crowd, looks) {
                self.crowd = Some(crowd);
            }
        }
    }

    /// Down to the quota's own low watermark: units that weren't used first, then the others, in the order of the lines.
    /// False when there is more to do.
    fn evict_volume(&mut self, crowd: &mut Crowd, looks: &mut usize) -> bool {
        let state = &self.volumes[crowd.volume];
        let Some(quota) = state.limits.quota_bytes else { return true };
        let low =
            u128::from(quota) * u128::from(self.watermarks.low_percent) / u128::from(self.watermarks.high_percent);
        let target = u64::try_from(low).expect("below the quota").saturating_sub(state.reserved_bytes);
        while self.volumes[crowd.volume].usage.bytes > target {
            if *looks == 0 {
                return false;
            }
            let Some(unit) = self.fifo.look(&mut crowd.cursor) else {
                if crowd.spared > 0 {
                    return true;
                }
                (crowd.spared, crowd.cursor) = (u8::MAX, Cursor::default());
                continue;
            };
            *looks = looks.saturating_sub(self.cost_of(unit));
            let entry = self.entry(unit.at);
            let live = entry.run(unit.run).filter(|run| run.ticket == unit.ticket && run.place != Place::None);
            let own = entry.volume as usize == crowd.volume && !self.is_held(unit.at);
            if own && live.is_some_and(|run| run.uses <= crowd.spared) {
                self.take_out(unit, 0, true);
            }
        }
        true
    }

    /// Looks at some entries from `cursor` on: what is too old leaves, and who changed its rank changes lines. Returns
    /// where to go on, nothing at the end, and how many chunks were too old.
    pub fn walk(&mut self, cursor: usize, count: usize, wall_s: u64) -> (Option<usize>, u64) {
        let mut old = 0;
        let end = cursor.saturating_add(count).min(self.entries.len());
        for at in cursor..end {
            let at = u32::try_from(at).expect("a store has fewer than 2^32 objects");
            let entry = self.entry(at);
            if entry.here.is_empty() {
                continue;
            }
            let ttl_s = self.volumes[entry.volume as usize].limits.ttl_s;
            let expired = ttl_s.is_some_and(|ttl| u64::from(entry.filled_s).saturating_add(ttl) <= wall_s);
            if expired && entry.flags & PINNED == 0 && !self.is_held(at) {
                old += self.doom_all(at);
            } else {
                self.rank_anew(at);
            }
        }
        ((end < self.entries.len()).then_some(end), old)
    }

    fn rank_anew(&mut self, at: u32) {
        for (run, state) in self.placed(at) {
            let unit = Unit { at, run, ticket: state.ticket };
            let to = moved(state.place, self.rank_of(unit));
            if to != state.place {
                self.move_to(unit, state.place, to);
            }
        }
    }

    /// Whether the object stays whatever room is wanted.
    pub fn pin(&mut self, object: &ObjectId, pinned: bool, now_s: u32) {
        let Some(&at) = self.by_id.get(object) else { return };
        if (self.entry(at).flags & PINNED != 0) == pinned {
            return;
        }
        if pinned {
            for (run, state) in self.placed(at) {
                let bytes = self.unit_bytes(at, run);
                self.fifo.leave(state.place, bytes);
                if let Some(run) = self.entry_mut(at).run_mut(run) {
                    run.place = Place::None;
                }
            }
            self.entry_mut(at).flags |= PINNED;
        } else {
            self.entry_mut(at).flags &= !PINNED;
            let here: Vec<u32> = self.entry(at).here.iter_in(0, u32::MAX).collect();
            for index in here {
                self.line_up(at, ChunkIndex(index), now_s);
            }
        }
    }

    /// The object's units that stand in line.
    fn placed(&self, at: u32) -> Vec<(u32, Run)> {
        let entry = self.entry(at);
        let more = entry.more.iter().flat_map(|more| more.iter().map(|(run, state)| (*run, *state)));
        std::iter::once((0, entry.first)).chain(more).filter(|(_, run)| run.place != Place::None).collect()
    }

    // ---- lines

    /// A chunk has come: its unit gets into line, or more of it stands there.
    pub(super) fn line_up(&mut self, at: u32, index: ChunkIndex, now_s: u32) {
        let entry = self.entry(at);
        if entry.flags & PINNED != 0 {
            return;
        }
        let (run, bytes, id) = (entry.unit_of(index), pages(entry.chunk_bytes(index)), entry.id);
        let place = entry.run(run).map_or(Place::None, |run| run.place);
        if place != Place::None {
            self.fifo.grow(place, bytes);
            return;
        }
        let rank = self.rank_of(Unit { at, run, ticket: 0 });
        let place = self.fifo.place_of_new(fingerprint(id, run), rank);
        self.enter(at, run, place, bytes);
        if let Some(run) = self.entry_mut(at).run_mut(run) {
            (run.uses, run.used_s) = (0, now_s);
        }
    }

    /// A chunk has left: less of its unit stands in line.
    pub(super) fn step_out(&mut self, at: u32, index: ChunkIndex, bytes: u64) {
        let entry = self.entry(at);
        let unit = entry.unit_of(index);
        let Some(place) = entry.run(unit).map(|run| run.place) else { return };
        let (start, end) = span(unit, entry.here.end());
        let last = if unit == WHOLE { entry.here.is_empty() } else { entry.here.last_in(start, end).is_none() };
        self.fifo.shrink(place, bytes);
        if last {
            self.fifo.leave(place, 0);
            if let Some(run) = self.entry_mut(at).run_mut(unit) {
                run.place = Place::None;
            }
        }
    }

    fn enter(&mut self, at: u32, run: u32, place: Place, bytes: u64) {
        let ticket = self.fifo.enter(at, run, place, bytes);
        if let Some(run) = self.entry_mut(at).run_mut(run) {
            (run.place, run.ticket) = (place, ticket);
        }
    }

    fn move_to(&mut self, unit: Unit, from: Place, to: Place) {
        let bytes = self.unit_bytes(unit.at, unit.run);
        self.fifo.leave(from, bytes);
        self.enter(unit.at, unit.run, to, bytes);
    }

    /// The kernel gets the file: its runs leave their lines, and the whole stands in one.
    pub(super) fn become_whole(&mut self, at: u32) {
        let mut whole = Run::new(self.entry(at).first.slot);
        for (run, state) in self.placed(at) {
            let bytes = self.unit_bytes(at, run);
            self.fifo.leave(state.place, bytes);
            (whole.uses, whole.used_s) = (whole.uses.max(state.uses), whole.used_s.max(state.used_s));
            if let Some(run) = self.entry_mut(at).run_mut(run) {
                run.place = Place::None;
            }
        }
        let entry = self.entry_mut(at);
        entry.flags |= PASSED;
        entry.more.get_or_insert_default().insert(WHOLE, whole);
        if entry.flags & PINNED == 0 {
            let place = Place::Small(self.rank_of(Unit { at, run: WHOLE, ticket: 0 }));
            let bytes = self.unit_bytes(at, WHOLE);
            self.enter(at, WHOLE, place, bytes);
        }
    }

    fn unit_bytes(&self, at: u32, unit: u32) -> u64 {
        let entry = self.entry(at);
        let (start, end) = span(unit, entry.here.end());
        entry.here.iter_in(start, end).map(|index| pages(entry.chunk_bytes(ChunkIndex(index)))).sum()
    }

    /// The unit's run, if its ticket is valid.
    fn valid(&self, unit: &Unit, place: Place) -> Option<Run> {
        let run = *self.entry(unit.at).run(unit.run)?;
        (run.ticket == unit.ticket && run.place == place).then_some(run)
    }

    /// A whole file's rank is that of most of its runs.
    fn rank_of(&self, unit: Unit) -> Rank {
        let entry = self.entry(unit.at);
        let volume = self.volumes[entry.volume as usize].id;
        let of = |run: &Run| self.standing.rank(volume, run.slot);
        if unit.run != WHOLE {
            return entry.run(unit.run).map_or(Rank::Guest, of);
        }
        let mut counts = [0u32; 3];
        let more = entry.more.iter().flat_map(|more| more.iter().filter(|(run, _)| **run != WHOLE).map(|(_, run)| run));
        for run in std::iter::once(&entry.first).chain(more) {
            counts[of(run).index()] += 1;
        }
        Rank::ALL.into_iter().max_by_key(|rank| counts[rank.index()]).expect("there are three")
    }

    fn is_held(&self, at: u32) -> bool {
        let entry = self.entry(at);
        entry.flags & PASSED == 0 && self.held.contains_key(&entry.id)
    }

    fn sweep_lines(&mut self) {
        let entries = &self.entries;
        self.fifo.sweep(|unit, place| {
            entries[unit.at as usize].run(unit.run).is_some_and(|run| run.ticket == unit.ticket && run.place == place)
        });
    }
}

/// The chunks of a unit, as far as there may be any.
fn span(unit: u32, here_end: u32) -> (u32, u32) {
    if unit == WHOLE {
        return (0, here_end);
    }
    let start = unit.saturating_mul(CHUNKS_PER_RUN);
    (start, start.saturating_add(CHUNKS_PER_RUN).min(here_end))
}

/// The same line of another rank.
fn moved(place: Place, rank: Rank) -> Place {
    match place {
        Place::None => Place::None,
        Place::Small(_) => Place::Small(rank),
        Place::Main(_) => Place::Main(rank),
    }
}

/// Ids are hashes already; the run is spread over all bits (the golden ratio's).
fn fingerprint(object: ObjectId, run: u32) -> u64 {
    let id = u64::from_le_bytes(object.as_bytes()[..8].try_into().expect("16 bytes"));
    id ^ u64::from(run).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn percent(bytes: u64, percent: u8) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(percent) / 100).expect("a percentage of at most 100 of a u64")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use larder_proto::ids::Slot;
    use larder_proto::object::{ChunkId, ChunkSize};

    use super::super::super::Watermarks;
    use super::super::Loaded;
    use super::super::fifo::USES_MAX;
    use super::*;

    const CHUNK: u64 = 4 << 20;

    /// A full store of objects of one chunk, all of them used as often as is counted.
    fn full(objects: u32) -> Index {
        let mut index = Index::new(u64::from(objects) * CHUNK, Watermarks::default());
        for n in 0..objects {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_le_bytes());
            let id = ObjectId::from_bytes(id);
            let chunk_size = ChunkSize::new(4 << 20).expect("4 MiB");
            let volume = VolumeId::from_bytes([1; 16]);
            let object = Loaded { id, volume, size: CHUNK, chunk_size, filled_s: 1 };
            let chunk = ChunkId { object: id, index: ChunkIndex(0) };
            assert!(index.load_object(&object) && index.load_chunk(chunk, 64, Slot::of_hash(n.into()), true));
            index.entry_mut(n).first.uses = USES_MAX;
        }
        index
    }

    /// How many steps an eviction takes, and how long the longest is.
    fn evict_all(index: &mut Index) -> (usize, Duration) {
        let (mut steps, mut longest) = (0, Duration::ZERO);
        loop {
            let began = Instant::now();
            index.evict();
            longest = longest.max(began.elapsed());
            steps += 1;
            if !index.is_evicting() {
                return (steps, longest);
            }
        }
    }

    #[test]
    fn an_eviction_among_used_objects_goes_in_steps() {
        let objects = 200_000;
        let mut index = full(objects);
        let (steps, longest) = evict_all(&mut index);
        println!("{objects} used objects: {steps} steps, the longest {longest:?}");
        assert!(steps >= 3 * objects as usize / LOOKS_AT_ONCE, "{steps}: three rounds before anybody leaves");
        assert_eq!(index.taken_bytes(), u64::from(objects) * CHUNK / 10 * 8, "down to the low watermark");
        assert!(index.has_doomed());
        assert_eq!(evict_all(&mut index).0, 1, "and nothing is left to do");
    }

    #[test]
    fn a_quota_is_kept_in_steps() {
        let objects = 20_000;
        let mut index = full(objects);
        let quota_bytes = u64::from(objects) * CHUNK / 2;
        let limits = Limits { quota_bytes: Some(quota_bytes), ..Limits::default() };
        index.limit(VolumeId::from_bytes([1; 16]), limits);
        let (steps, _) = evict_all(&mut index);
        assert!(steps >= objects as usize / LOOKS_AT_ONCE, "{steps}");
        assert!(index.taken_bytes() <= quota_bytes * 8 / 9, "{}", index.taken_bytes());
        assert!(index.taken_bytes() > quota_bytes * 8 / 9 - 2 * CHUNK, "and no further: {}", index.taken_bytes());
    }

    #[test]
    fn old_tickets_go_in_steps_and_the_order_stays() {
        let objects = 60_000;
        let mut index = full(objects);
        index.capacity_bytes *= 2;
        for n in (0..objects).filter(|n| n % 4 != 0) {
            let id = index.entry(n).id;
            index.pin(&id, true, 0);
            index.pin(&id, false, 0);
        }
        let (steps, _) = evict_all(&mut index);
        assert!(steps >= objects as usize / 4_096, "{steps}");
        let mut cursor = Cursor::default();
        let units: Vec<Unit> = std::iter::from_fn(|| index.fifo.look(&mut cursor)).collect();
        assert_eq!(units.len(), objects as usize, "no old ticket is left");
        let main = units.iter().filter(|unit| index.valid(unit, Place::Main(Rank::First)).is_some());
        assert!(main.map(|unit| unit.at).eq((0..objects).step_by(4)));
    }

    #[test]
    fn held_objects_end_an_eviction_that_goes_in_steps() {
        let objects = 3 * LOOKS_AT_ONCE as u32;
        let mut index = full(objects);
        for n in 0..objects {
            let id = index.entry(n).id;
            index.hold(id);
        }
        let (steps, _) = evict_all(&mut index);
        assert!((3..=8).contains(&steps), "{steps}");
        assert_eq!(index.taken_bytes(), u64::from(objects) * CHUNK, "nobody may leave");
    }
}
