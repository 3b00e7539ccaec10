//! What was here before the start: the catalog's rows, then the files, which are looked at while the store already works.

use larder_proto::ids::{ObjectId, Slot, VolumeId};
use larder_proto::limits::{BLOCK_BYTES, CHUNKS_PER_RUN};
use larder_proto::object::{ChunkId, ChunkIndex, ChunkSize};

use super::bits::Bits;
use super::fifo::{Place, WHOLE};
use super::{Entry, Index, MARKED, Run, SEEN, UNSURE, chunk_shift};

/// An object as the catalog has it.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Loaded {
    pub id: ObjectId,
    pub volume: VolumeId,
    pub size: u64,
    pub chunk_size: ChunkSize,
    pub filled_s: u32,
}

impl Index {
    /// An object without chunks yet. False when it is there already.
    pub fn load_object(&mut self, object: &Loaded) -> bool {
        if self.by_id.contains_key(&object.id) || object.size == 0 {
            return false;
        }
        let no_slot = Slot::of_hash(0);
        let entry = Entry {
            id: object.id,
            size: object.size,
            here: Bits::default(),
            first: Run::new(no_slot),
            more: None,
            volume: self.volume(object.volume),
            filled_s: object.filled_s,
            born: 0,
            stamp: 0,
            writers: 0,
            chunk_shift: chunk_shift(object.chunk_size),
            flags: 0,
        };
        self.put_entry(entry);
        true
    }

    /// A chunk of a loaded object, in its run's slot; `sure`: it was here at the last clean close, or that is the last
    /// thing that happened. False when the row makes no sense. Nothing is known of its uses: it begins in main.
    pub fn load_chunk(&mut self, id: ChunkId, blocks: usize, slot: Slot, sure: bool) -> bool {
        let Some(&at) = self.by_id.get(&id.object) else { return false };
        let entry = self.entry(at);
        let len = entry.chunk_bytes(id.index);
        let sane = len > 0 && usize::try_from(len.div_ceil(u64::from(BLOCK_BYTES))) == Ok(blocks);
        if sane && self.entry_mut(at).here.set(id.index.0) {
            let entry = self.entry_mut(at);
            entry.run_of_slot(id.index.0 / CHUNKS_PER_RUN, slot);
            if !sure {
                entry.flags |= UNSURE;
            }
            self.add_usage(at, id.index);
            self.line_up_loaded(at, id.index);
        }
        sane
    }

    /// Forgets a loaded object without chunks.
    pub fn forget_empty(&mut self, id: ObjectId) -> bool {
        let Some(&at) = self.by_id.get(&id) else { return false };
        let empty = self.entry(at).here.is_empty() && self.entry(at).writers == 0;
        if empty {
            self.remove(at);
        }
        empty
    }

    /// The file was given to the kernel by an earlier agent; false when nothing of it is here. When the catalog has lost
    /// something of it the whole goes: its missing part must not be written again.
    pub fn was_passed(&mut self, id: ObjectId) -> bool {
        let Some(&at) = self.by_id.get(&id) else { return false };
        if self.entry(at).run(WHOLE).is_none() {
            self.become_whole(at);
        }
        self.entry_mut(at).flags |= MARKED;
        if !self.complete(&id) {
            self.doom_all(at);
        }
        true
    }

    /// A file of this object was found. False when nobody knows it: the caller unlinks it, and says
    /// [`swept`](Self::swept).
    pub fn found_file(&mut self, id: ObjectId) -> bool {
        let Some(&at) = self.by_id.get(&id) else {
            self.sweeping = Some(id);
            return false;
        };
        self.entry_mut(at).flags |= SEEN;
        true
    }

    pub fn swept(&mut self) {
        self.sweeping = None;
    }

    /// All files were looked at: dooms what should have had one, among some entries from `cursor` on. Returns where to
    /// go on, and how many objects that were.
    pub fn drop_unseen(&mut self, cursor: usize, count: usize) -> (Option<usize>, u64) {
        let end = cursor.saturating_add(count).min(self.entries.len());
        let mut missing = 0;
        for at in cursor..end {
            let at = u32::try_from(at).expect("a store has fewer than 2^32 objects");
            let entry = self.entry(at);
            if entry.flags & SEEN == 0 && !entry.here.is_empty() {
                self.doom_all(at);
                missing += 1;
            }
        }
        ((end < self.entries.len()).then_some(end), missing)
    }

    fn line_up_loaded(&mut self, at: u32, index: ChunkIndex) {
        let entry = self.entry(at);
        let (run, bytes) = (entry.unit_of(index), super::pages(entry.chunk_bytes(index)));
        match entry.run(run).map_or(Place::None, |run| run.place) {
            Place::None => {
                let place = Place::Main(super::Rank::First);
                let ticket = self.fifo.enter(at, run, place, bytes);
                if let Some(run) = self.entry_mut(at).run_mut(run) {
                    (run.place, run.ticket) = (place, ticket);
                }
            }
            place => self.fifo.grow(place, bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Watermarks;
    use super::*;

    #[test]
    fn a_million_objects_take_less_than_200_mib() {
        let mut index = Index::new(u64::MAX, Watermarks::default());
        for n in 0..1_000_000u32 {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_le_bytes());
            let id = ObjectId::from_bytes(id);
            let chunk_size = ChunkSize::new(4 << 20).expect("4 MiB");
            let volume = VolumeId::from_bytes([1; 16]);
            let object = Loaded { id, volume, size: 12 << 20, chunk_size, filled_s: 1 };
            let chunk = ChunkId { object: id, index: ChunkIndex(2) };
            assert!(index.load_object(&object) && index.load_chunk(chunk, 64, Slot::of_hash(7), true));
        }
        // hashbrown keeps a byte of control beside each bucket.
        let buckets = index.by_id.capacity() * 8 / 7;
        let map_bytes = buckets * (size_of::<(ObjectId, u32)>() + 1);
        let entries_bytes = index.entries.capacity() * size_of::<Entry>();
        let lines_bytes = index.fifo.capacity() * size_of::<super::super::fifo::Unit>();
        assert!(map_bytes + entries_bytes + lines_bytes < 200 << 20, "{map_bytes} + {entries_bytes} + {lines_bytes}");
        assert_eq!((index.chunks(), index.taken_bytes()), (1_000_000, 1_000_000 * (4 << 20)));
    }
}
