//! Guests: copies of objects that this node reads but doesn't own, so that they are read here again without a network.
//!
//! [`Watch`] is sans-IO: told which chunks were read here, it says which object is worth a copy of its own. One task
//! completes those, an object and a chunk at a time: from memory, else from an owner that has the chunk. It never asks the
//! origin, and never takes room above the stores' low watermark. Guests are the first to leave.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_proto::ids::ObjectId;
use larder_proto::object::{Chunk, ChunkIndex, Object};
use larder_proto::range::ByteRange;
use larder_proto::volume::LocalCopies;
use larder_proto::wire::{RequestId, Want};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::Inner;
use super::counters::{add, one};
use super::flight::{HAVE_STALL_PATIENCE, Hedging};
use super::hops::{Ask, Place};
use super::table::Leading;
use crate::store::{Giver, Reservation};

/// Reads count for so long.
const WINDOW: Duration = Duration::from_secs(3600);

/// Objects whose reads are remembered, and the chunks of them all: 2 MiB of bits. The oldest are forgotten.
const OBJECTS_MAX: usize = 4_096;
const CHUNKS_MAX: usize = 1 << 24;

/// Objects that wait to be completed, at most; one more is noticed again at its next reads.
const WAITING_MAX: usize = 64;

/// A peer that has a chunk sends all of it within this.
const CHUNK_WITHIN: Duration = Duration::from_secs(30);

/// Which objects were read here of late.
#[derive(Default)]
pub(super) struct Watch {
    seen: BTreeMap<ObjectId, Seen>,
    /// By the moment of their first read; ties by id.
    by_age: BTreeMap<(Instant, ObjectId), ()>,
    chunks: usize,
}

struct Seen {
    since: Instant,
    bits: Vec<u64>,
    read: u32,
    chunks: u32,
    asked: bool,
}

impl Watch {
    /// A chunk was read here: whether its object is worth a copy now, which is said once.
    fn read(&mut self, object: &Object, index: ChunkIndex, policy: LocalCopies, now: Instant) -> bool {
        let id = object.id();
        if self.seen.get(&id).is_some_and(|seen| now.saturating_duration_since(seen.since) >= WINDOW) {
            self.forget(&id);
        }
        if !self.seen.contains_key(&id) && !self.begin(object, now) {
            return false;
        }
        let Some(seen) = self.seen.get_mut(&id) else { return false };
        let (word, bit) = ((index.0 / 64) as usize, 1 << (index.0 % 64));
        let Some(word) = seen.bits.get_mut(word) else { return false };
        if *word & bit == 0 {
            *word |= bit;
            seen.read += 1;
        }
        let enough = match policy {
            LocalCopies::Never => false,
            LocalCopies::Auto => u64::from(seen.read) * 2 >= u64::from(seen.chunks),
            LocalCopies::Always => true,
        };
        enough && !std::mem::replace(&mut seen.asked, true)
    }

    /// Whether there is room to remember the object.
    fn begin(&mut self, object: &Object, now: Instant) -> bool {
        let chunks = object.chunks() as usize;
        if chunks > CHUNKS_MAX {
            return false;
        }
        while self.seen.len() >= OBJECTS_MAX || self.chunks + chunks > CHUNKS_MAX {
            let Some(((_, oldest), ())) = self.by_age.pop_first() else { break };
            self.forget(&oldest);
        }
        let bits = vec![0; chunks.div_ceil(64)];
        let seen = Seen { since: now, bits, read: 0, chunks: object.chunks(), asked: false };
        self.chunks += chunks;
        self.by_age.insert((now, object.id()), ());
        self.seen.insert(object.id(), seen);
        true
    }

    /// The object's reads count anew.
    fn forget(&mut self, id: &ObjectId) {
        if let Some(seen) = self.seen.remove(id) {
            self.by_age.remove(&(seen.since, *id));
            self.chunks -= seen.chunks as usize;
        }
    }
}

/// What the rest of the cache sees of guests.
pub(super) struct Guests {
    watch: Mutex<Watch>,
    worth: mpsc::Sender<Arc<Object>>,
}

impl Guests {
    /// With what [`Inner::complete_guests`] takes from.
    pub(super) fn new() -> (Self, mpsc::Receiver<Arc<Object>>) {
        let (worth, waiting) = mpsc::channel(WAITING_MAX);
        (Self { watch: Mutex::default(), worth }, waiting)
    }
}

/// How the completion of an object ended.
enum Ended {
    Complete,
    NoRoom,
    /// No owner had some chunk, or the store failed.
    NotHad,
}

impl Inner {
    /// A reader of this node had bytes of the chunk. From memory.
    pub(super) fn read_here(&self, chunk: &Chunk) {
        let object = chunk.object();
        let policy = self.replicator.local_copies(object.volume());
        if policy == LocalCopies::Never {
            return;
        }
        let worth = self.guests.watch.lock().read(object, chunk.index(), policy, self.now());
        if worth && !self.stores.object_complete(&object.id()) && self.guests.worth.try_send(object.clone()).is_err() {
            self.guests.watch.lock().forget(&object.id());
        }
    }

    /// Completes objects that are worth it, one after the other.
    pub(super) async fn complete_guests(self: Arc<Self>, mut worth: mpsc::Receiver<Arc<Object>>) {
        while let Some(object) = worth.recv().await {
            match self.complete(&object).await {
                Ended::Complete => one(&self.counters.guests_completed),
                ended => {
                    one(match ended {
                        Ended::NoRoom => &self.counters.guests_no_room,
                        Ended::Complete | Ended::NotHad => &self.counters.guests_not_had,
                    });
                    self.guests.watch.lock().forget(&object.id());
                }
            }
        }
    }

    async fn complete(&self, object: &Arc<Object>) -> Ended {
        let chunks = || (0..object.chunks()).filter_map(|index| object.chunk(ChunkIndex(index)));
        let missing: Vec<Chunk> = chunks().filter(|chunk| !self.stores.has(&chunk.id())).collect();
        let mut rest_bytes: u64 = missing.iter().map(|chunk| u64::from(chunk.len())).sum();
        for chunk in missing {
            if self.stores.room_below_low(&object.id()) < rest_bytes {
                return Ended::NoRoom;
            }
            if !self.stores.has(&chunk.id()) && self.copy(&chunk).await.is_none() {
                return Ended::NotHad;
            }
            rest_bytes -= u64::from(chunk.len());
        }
        Ended::Complete
    }

    /// One chunk into the store, from memory or from an owner that has it; `None` when it isn't there afterwards.
    async fn copy(&self, chunk: &Chunk) -> Option<()> {
        let landed = self.flights.get(&chunk.id()).and_then(|flight| flight.landing.all_checksummed());
        if let Some(pieces) = landed {
            let mut copy = Copy::begin(self, chunk).await?;
            for piece in pieces {
                let (bytes, crcs) = piece.verify().ok()?;
                copy.write(bytes, crcs).await?;
            }
            return copy.end().await;
        }
        let owners = self.replicator.owners(chunk);
        let request = RequestId(self.runtime.rng.next_u64());
        let ask = Ask { request, owners: &owners, leading: Leading::Map, hedging: Hedging::Allowed };
        let whole = ByteRange::at(0, u64::from(chunk.len()));
        let mut nodes: Vec<_> = owners.nodes.iter().filter(|owner| Some(owner.id) != owners.this).collect();
        nodes.sort_by_key(|owner| !owner.near);
        for owner in nodes {
            let Ok(place) = self.open_peer(owner.id, Want::Have, chunk, whole, &ask).await else { continue };
            if timeout(CHUNK_WITHIN, self.receive(place, chunk)).await == Ok(Some(())) {
                add(&self.counters.bytes_peer, whole.len());
                return Some(());
            }
        }
        None
    }

    /// A chunk from a peer, piece by piece; each was checked.
    async fn receive(&self, mut place: Place, chunk: &Chunk) -> Option<()> {
        let mut copy = Copy::begin(self, chunk).await?;
        while copy.at < u64::from(chunk.len()) {
            let piece = timeout(HAVE_STALL_PATIENCE, place.next(self, chunk)).await.ok()?.ok()?;
            copy.write(piece.bytes, piece.crcs?).await?;
        }
        copy.end().await
    }
}

/// A chunk that is being written.
struct Copy {
    reservation: Reservation,
    at: u64,
    crcs: Vec<u32>,
}

impl Copy {
    async fn begin(inner: &Inner, chunk: &Chunk) -> Option<Self> {
        Some(Self { reservation: inner.stores.reserve(chunk, Giver::Node).await.ok()?, at: 0, crcs: Vec::new() })
    }

    async fn write(&mut self, bytes: Bytes, crcs: Vec<u32>) -> Option<()> {
        let len = bytes.len() as u64;
        self.reservation.write(self.at, bytes).await.ok()?;
        self.at += len;
        self.crcs.extend(crcs);
        Some(())
    }

    async fn end(self) -> Option<()> {
        self.reservation.commit(self.crcs).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use larder_proto::ids::VolumeId;
    use larder_proto::object::{ChunkSize, ObjectKey, Version};

    use super::*;

    fn object(key: &str, chunks: u64) -> Arc<Object> {
        let size = ChunkSize::new(1 << 16).expect("64 KiB");
        let (key, version) = (ObjectKey::parse(key).expect("plain"), Version::of_etag("v").expect("plain"));
        Object::new(VolumeId::from_bytes([1; 16]), key, version, chunks << 16, size).expect("small")
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_is_worth_a_copy_once_half_of_it_was_read_within_the_hour() {
        let (mut watch, object, now) = (Watch::default(), object("a", 100), Instant::now());
        let mut read = |index, at| watch.read(&object, ChunkIndex(index), LocalCopies::Auto, at);
        assert!((0..49).all(|index| !read(index, now)));
        assert!(!read(48, now), "the same chunk counts once");
        assert!(!read(77, now + WINDOW), "an hour later it begins anew");
        assert!((0..48).all(|index| !read(index, now + WINDOW)));
        assert!(read(48, now + WINDOW));
        assert!(!read(49, now + WINDOW), "said once");
    }

    #[tokio::test(start_paused = true)]
    async fn always_is_the_first_read_and_never_is_never() {
        let (mut watch, object, now) = (Watch::default(), object("a", 100), Instant::now());
        assert!(!watch.read(&object, ChunkIndex(0), LocalCopies::Never, now));
        assert!(watch.read(&object, ChunkIndex(7), LocalCopies::Always, now));
        assert!(!watch.read(&object, ChunkIndex(8), LocalCopies::Always, now));
        watch.forget(&object.id());
        assert!(watch.read(&object, ChunkIndex(8), LocalCopies::Always, now), "forgotten, it is asked for again");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_the_oldest_is_forgotten() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        for number in 0..OBJECTS_MAX + 10 {
            let at = now + Duration::from_millis(number as u64);
            watch.read(&object(&format!("{number}"), 3), ChunkIndex(0), LocalCopies::Auto, at);
        }
        assert_eq!((watch.seen.len(), watch.by_age.len(), watch.chunks), (OBJECTS_MAX, OBJECTS_MAX, OBJECTS_MAX * 3));
        assert!(!watch.seen.contains_key(&object("9", 3).id()) && watch.seen.contains_key(&object("10", 3).id()));
    }
}
