//! What was read back and checked: whole objects before the kernel has them, and what an unclean stop left unsure.

use larder_proto::ids::ObjectId;
use larder_proto::object::ChunkIndex;

use super::{Index, UNSURE, VERIFIED};

/// Who verifies an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Verifier {
    /// A door waits for it.
    Door,
    /// The keeper, which has time: a door does it again rather than wait.
    Keeper,
}

impl Index {
    /// Whether every byte of it is here and was read back and checked since the store was opened.
    pub fn is_verified(&self, object: &ObjectId) -> bool {
        self.complete(object) && self.entry(self.by_id[object]).flags & VERIFIED != 0
    }

    /// Begins to verify a complete object: a ticket for [`end_verifying`](Self::end_verifying). Nothing when it isn't
    /// complete, is verified, or a door verifies it already.
    pub fn begin_verifying(&mut self, object: &ObjectId, by: Verifier) -> Option<u64> {
        let busy = self.verifying.get(object).is_some_and(|(_, other)| by == Verifier::Keeper || *other == by);
        if busy || !self.complete(object) || self.is_verified(object) {
            return None;
        }
        self.tickets += 1;
        self.verifying.insert(*object, (self.tickets, by));
        Some(self.tickets)
    }

    /// Ends it; with `checked`, the stamp of the file before its bytes were read, the object is verified if nothing of it
    /// has left meanwhile.
    pub fn end_verifying(&mut self, object: &ObjectId, ticket: u64, checked: Option<u32>) -> bool {
        if self.verifying.get(object).is_none_or(|(valid, _)| *valid != ticket) {
            return false;
        }
        self.verifying.remove(object);
        let Some(stamp) = checked.filter(|_| self.complete(object)) else { return false };
        let at = self.by_id[object];
        let entry = self.entry_mut(at);
        entry.flags = (entry.flags | VERIFIED) & !UNSURE;
        entry.stamp = stamp;
        true
    }

    /// Some objects whose bytes must be verified, from `cursor` on, and where to go on.
    pub fn unsure(&self, cursor: usize, count: usize) -> (Vec<ObjectId>, Option<usize>) {
        let end = cursor.saturating_add(count).min(self.entries.len());
        let unsure = self.entries[cursor.min(end)..end].iter();
        let unsure = unsure.filter(|entry| entry.flags & UNSURE != 0 && !entry.here.is_empty());
        (unsure.map(|entry| entry.id).collect(), (end < self.entries.len()).then_some(end))
    }

    /// Whether something of it must be verified because of an unclean stop.
    pub fn is_unsure(&self, object: &ObjectId) -> bool {
        self.by_id.get(object).is_some_and(|at| self.entry(*at).flags & UNSURE != 0)
    }

    /// Every chunk that is here of the object was verified; what came meanwhile was written since the start.
    pub fn sure(&mut self, object: &ObjectId) {
        if let Some(&at) = self.by_id.get(object) {
            self.entry_mut(at).flags &= !UNSURE;
        }
    }

    /// The object's first chunk that is here and not before `from`.
    pub fn next_chunk(&self, object: &ObjectId, from: u32) -> Option<ChunkIndex> {
        let at = self.by_id.get(object)?;
        self.entry(*at).here.first_from(from).map(ChunkIndex)
    }
}
