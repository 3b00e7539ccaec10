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

/// A verification that is under way.
pub(super) struct Verifying {
    ticket: u64,
    by: Verifier,
    /// The file's stamp before its bytes were read; nothing while that isn't known: then it proves nothing.
    stamp: Option<u32>,
}

impl Index {
    /// Whether every byte of it is here and was read back and checked since the store was opened.
    pub fn is_verified(&self, object: &ObjectId) -> bool {
        self.complete(object) && self.entry(self.by_id[object]).flags & VERIFIED != 0
    }

    /// Begins to verify a complete object: a ticket for [`end_verifying`](Self::end_verifying). Nothing when it isn't
    /// complete, is verified, or a door verifies it already.
    pub fn begin_verifying(&mut self, object: &ObjectId, by: Verifier) -> Option<u64> {
        let busy = self.verifying.get(object).is_some_and(|other| by == Verifier::Keeper || other.by == by);
        if busy || !self.complete(object) || self.is_verified(object) {
            return None;
        }
        self.tickets += 1;
        self.verifying.insert(*object, Verifying { ticket: self.tickets, by, stamp: None });
        Some(self.tickets)
    }

    /// The object's file bears this stamp, and none of its bytes was read for the verification yet.
    pub fn stamp_verifying(&mut self, object: &ObjectId, ticket: u64, stamp: u32) {
        if let Some(verifying) = self.verifying.get_mut(object).filter(|verifying| verifying.ticket == ticket) {
            verifying.stamp = Some(stamp);
        }
    }

    /// Ends it. Where every byte is `right`, the object is verified, if nothing of it has left meanwhile and its file was
    /// stamped before.
    pub fn end_verifying(&mut self, object: &ObjectId, ticket: u64, right: bool) -> bool {
        let Some(verifying) = self.verifying.remove(object) else { return false };
        if verifying.ticket != ticket {
            self.verifying.insert(*object, verifying);
            return false;
        }
        let Some(stamp) = verifying.stamp.filter(|_| right && self.complete(object)) else { return false };
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
