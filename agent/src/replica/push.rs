//! The task that pushes copies: takes what is due, asks the map who lacks it, hands it over.
//!
//! The bytes come from the finished flight while it is in memory, else from the store. A chunk that is in neither any
//! more needs no copies. At most [`PUSHES_MAX`] chunks are pushed at a time, so readers keep the disk and the net.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use larder_proto::checksum::Checksummed;
use larder_proto::control::OffersReport;
use larder_proto::error::ErrorKind;
use larder_proto::ids::{NodeId, NodeName, VolumeId};
use larder_proto::limits::SEGMENT_BYTES;
use larder_proto::object::{Chunk, ChunkId};
use larder_proto::range::ByteRange;
use larder_proto::volume::{LocalCopies, Volume};
use larder_proto::wire::{BatchEvent, BatchRequest, PutRequest, RequestId};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::sleep_until;

use super::offers::{self, Asked, Offers};
use super::pending::{Entry, Outcome, Pending};
use super::standing::ByMap;
use super::{Maps, Owners};
use crate::peer::{Client, PeerError};
use crate::runtime::{HashMap, Runtime};
use crate::store::Stores;

/// Chunks on their way to other owners at a time: 16 MiB of memory, and enough to keep a 10 Gbit/s link busy.
const PUSHES_MAX: usize = 4;

/// When owners that read a chunk from us are asked whether they have it: what they read is stored within milliseconds.
const READERS_STORE: Duration = Duration::from_millis(500);

/// How long one copy may take. 4 MiB at 1 MiB/s fit well; a chunk of 64 MiB needs a link of 2 MiB/s.
const PUSH_WITHIN: Duration = Duration::from_secs(30);

/// What a volume's readers wait unless it says otherwise.
const READ_DEADLINE: Duration = Duration::from_secs(30);

/// The volumes of this cluster, as the operator last said.
pub type Volumes = watch::Receiver<Arc<BTreeMap<VolumeId, Arc<Volume>>>>;

/// Gives the chunk's pieces while they are still in memory.
pub type FromMemory = Box<dyn Fn() -> Option<Vec<Checksummed>> + Send + Sync>;

/// Pieces that readers have had of this node without its disks, since the start.
pub type ReadsBesideDisks = Box<dyn Fn() -> u64 + Send + Sync>;

/// Pushes copies. Cheap to clone.
#[derive(Clone)]
pub struct Replicator {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) runtime: Runtime,
    pub(super) stores: Stores,
    pub(super) peers: Client,
    pub(super) maps: Arc<dyn Maps>,
    volumes: Volumes,
    pub(super) offers: Offers,
    reads: OnceLock<ReadsBesideDisks>,
    pending: Mutex<Pending>,
    memory: Mutex<HashMap<ChunkId, FromMemory>>,
    wake: Notify,
    permits: Arc<Semaphore>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    pushed: AtomicU64,
    read: AtomicU64,
    failed: AtomicU64,
    overflowed: AtomicU64,
    lost: AtomicU64,
}

/// Copies at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Snapshot {
    /// Copies that wait for their first attempt, or are being pushed.
    pub copies_pending: u64,
    /// Copies whose owner could not take them when it was last asked; tried again.
    pub copies_short: u64,
    /// Copies handed over.
    pub copies_pushed: u64,
    /// Copies that owners made by themselves of what they read.
    pub copies_read: u64,
    /// Attempts that failed.
    pub copies_failed: u64,
    /// Chunks whose copies were given up because too many waited.
    pub copies_overflowed: u64,
    /// Chunks that were gone here before they could be copied.
    pub copies_lost: u64,
    /// Copies that owners lack and this node could give, as far as it knows.
    pub copies_lacking: u64,
    /// Copies that owners lacked and took when they were offered.
    pub copies_given: u64,
    /// Their bytes.
    pub copies_given_bytes: u64,
    /// Copies for which an owner had no room when they were offered.
    pub copies_declined: u64,
    /// Rounds of offers that came to their end.
    pub offer_rounds: u64,
}

impl Replicator {
    /// Starts the task that pushes, and tells the stores what their chunks are worth.
    pub fn new(runtime: Runtime, stores: Stores, peers: Client, maps: Arc<dyn Maps>, volumes: Volumes) -> Self {
        let inner = Arc::new(Inner {
            runtime: runtime.clone(),
            stores,
            peers,
            maps,
            volumes,
            offers: Offers::default(),
            reads: OnceLock::new(),
            pending: Mutex::default(),
            memory: Mutex::default(),
            wake: Notify::new(),
            permits: Arc::new(Semaphore::new(PUSHES_MAX)),
            counts: Counts::default(),
        });
        runtime.tasks.spawn(inner.clone().run());
        runtime.tasks.spawn(offers::run(inner.clone()));
        let standing = ByMap { maps: inner.maps.clone(), volumes: inner.volumes.clone() };
        inner.stores.govern(Arc::new(standing), inner.volumes.clone());
        Self { inner }
    }

    /// The owners of a chunk as the map of now and the chunk's volume say.
    pub fn owners(&self, chunk: &Chunk) -> Owners {
        self.inner.owners(chunk)
    }

    /// Whether chunks of the volume are kept where they are read; not when it isn't known.
    pub fn local_copies(&self, volume: VolumeId) -> LocalCopies {
        self.inner.volumes.borrow().get(&volume).map_or(LocalCopies::Never, |volume| volume.local_copies)
    }

    /// How long the volume's readers wait; the default where it isn't known.
    pub fn read_deadline(&self, volume: VolumeId) -> Duration {
        self.inner.volumes.borrow().get(&volume).map_or(READ_DEADLINE, |volume| volume.read_deadline)
    }

    /// The node of this name, by the map of now.
    pub fn node_named(&self, name: &NodeName) -> Option<NodeId> {
        self.inner.maps.current()?.node_named(name).map(|node| node.id)
    }

    /// Whether this node owns the chunk's slot, whatever number of copies the volume wants.
    pub fn may_own(&self, chunk: &Chunk) -> bool {
        Owners::of(&*self.inner.maps, chunk, None).includes_this()
    }

    /// Hands the chunk to the slot's other owners, soon. Those named in `readers` are sent all its bytes by this node
    /// as they read it, and store them by themselves: they are only asked, a moment later. Returns at once.
    pub fn push(&self, chunk: Chunk, readers: &[NodeName], memory: FromMemory) {
        let owners = self.inner.owners(&chunk);
        let missing = owners.others().count();
        if missing == 0 {
            return;
        }
        let readers: Vec<NodeId> = readers.iter().filter_map(|name| self.node_named(name)).collect();
        let now = self.inner.runtime.clock.now();
        let due = if owners.others().all(|owner| readers.contains(&owner)) { now + READERS_STORE } else { now };
        let id = chunk.id();
        // Before the entry: whoever takes it takes this with it.
        self.inner.memory.lock().insert(id, memory);
        if !self.inner.pending.lock().add(chunk, missing, readers, due) {
            self.inner.memory.lock().remove(&id);
            self.inner.counts.overflowed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.inner.wake.notify_one();
    }

    /// How far what is here was offered to its owners, as the authority is told.
    pub fn offers(&self) -> OffersReport {
        self.inner.offers.report()
    }

    /// Who keeps chunks in memory tells how much is read of them: readers are left the net, too. Counts once.
    pub fn count_reads(&self, reads: ReadsBesideDisks) {
        let first = self.inner.reads.set(reads).is_ok();
        debug_assert!(first, "one cache has this");
    }

    /// The numbers of this moment.
    pub fn snapshot(&self) -> Snapshot {
        let counts = &self.inner.counts;
        let (copies_pending, copies_short) = self.inner.pending.lock().missing();
        let offers = self.inner.offers.counts();
        Snapshot {
            copies_pending,
            copies_short,
            copies_pushed: counts.pushed.load(Ordering::Relaxed),
            copies_read: counts.read.load(Ordering::Relaxed),
            copies_failed: counts.failed.load(Ordering::Relaxed),
            copies_overflowed: counts.overflowed.load(Ordering::Relaxed),
            copies_lost: counts.lost.load(Ordering::Relaxed),
            copies_lacking: self.inner.offers.report().lacking,
            copies_given: offers.given,
            copies_given_bytes: offers.given_bytes,
            copies_declined: offers.declined,
            offer_rounds: offers.rounds,
        }
    }
}

impl Inner {
    fn owners(&self, chunk: &Chunk) -> Owners {
        let replicas = self.volumes.borrow().get(&chunk.object().volume()).and_then(|volume| volume.replicas);
        Owners::of(&*self.maps, chunk, replicas)
    }

    /// What readers ask of this node.
    pub(super) fn asked(&self) -> Asked {
        Asked {
            pieces: self.stores.reads() + self.reads.get().map_or(0, |reads| reads()),
            by_kernel: self.stores.by_kernel(),
            is_slow: self.stores.has_slow(),
        }
    }

    /// How many owners keep the chunk, as its volume wants.
    pub(super) fn replicas(&self, chunk: &Chunk) -> usize {
        let replicas = self.volumes.borrow().get(&chunk.object().volume()).and_then(|volume| volume.replicas);
        replicas.map_or(usize::MAX, |replicas| usize::try_from(replicas.max(1)).unwrap_or(usize::MAX))
    }

    async fn run(self: Arc<Self>) {
        loop {
            let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
            let entry = self.next().await;
            self.runtime.tasks.spawn(self.clone().attempt(entry, permit));
        }
    }

    /// The next entry that is due.
    async fn next(&self) -> Entry {
        loop {
            let due = {
                let mut pending = self.pending.lock();
                if let Some(entry) = pending.take_due(self.runtime.clock.now()) {
                    return entry;
                }
                pending.next_due()
            };
            let idle = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! { biased;
                () = self.wake.notified() => {}
                () = idle => {}
            }
        }
    }

    async fn attempt(self: Arc<Self>, entry: Entry, _permit: OwnedSemaphorePermit) {
        let id = entry.chunk.id();
        let memory = self.memory.lock().remove(&id);
        let outcome = self.hand_over(entry, memory).await;
        if outcome == Outcome::Lost {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
        self.pending.lock().settle(id, outcome, self.runtime.clock.now());
        self.wake.notify_one();
    }

    async fn hand_over(&self, entry: Entry, memory: Option<FromMemory>) -> Outcome {
        let owners = self.owners(&entry.chunk);
        let mut done = entry.done.clone();
        let lacking: Vec<NodeId> = owners.others().filter(|owner| !done.contains(owner)).collect();
        if lacking.is_empty() {
            return Outcome::Complete;
        }
        if let Some(outcome) = self.readers_have(&entry, &owners, &lacking).await {
            return outcome;
        }
        let remembered = memory.and_then(|pieces| pieces());
        let pieces = match remembered {
            Some(pieces) => pieces,
            None => match self.read_pieces(&entry.chunk).await {
                Ok(pieces) => pieces,
                Err(Gone::Now) => return Outcome::Missing { done, missing: lacking.len() },
                Err(Gone::ForEver) => return Outcome::Lost,
            },
        };
        let request = RequestId(self.runtime.rng.next_u64());
        let put = PutRequest { request, epoch: owners.epoch, chunk: entry.chunk };
        let mut missing = 0;
        for owner in lacking {
            let deadline = self.runtime.clock.now() + PUSH_WITHIN;
            match self.peers.put(owner, &put, pieces.clone(), deadline).await {
                Ok(()) => {
                    self.counts.pushed.fetch_add(1, Ordering::Relaxed);
                    done.push(owner);
                }
                Err(error) => {
                    missing += 1;
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    self.log(&put, owner, &error);
                }
            }
        }
        if missing == 0 { Outcome::Complete } else { Outcome::Missing { done, missing } }
    }

    /// Where all who lack the chunk have read it from us: whether they have it now, or bring it from here by themselves.
    async fn readers_have(&self, entry: &Entry, owners: &Owners, lacking: &[NodeId]) -> Option<Outcome> {
        if !lacking.iter().all(|owner| entry.readers.contains(owner)) {
            return None;
        }
        let request = RequestId(self.runtime.rng.next_u64());
        let batch = BatchRequest::keep(request, owners.epoch, vec![entry.chunk.clone()])?;
        for owner in lacking {
            let deadline = self.runtime.clock.now() + PUSH_WITHIN;
            let mut answer = self.peers.read_batch(*owner, &batch, deadline).await.ok()?;
            let Some(Ok(BatchEvent::Complete(_))) = answer.next().await else { return None };
            // To its end, so that the connection carries the next one.
            while let Some(Ok(_)) = answer.next().await {}
            self.counts.read.fetch_add(1, Ordering::Relaxed);
        }
        Some(Outcome::Complete)
    }

    /// The chunk in pieces of 1 MiB, checked.
    pub(super) async fn read_pieces(&self, chunk: &Chunk) -> Result<Vec<Checksummed>, Gone> {
        let len = u64::from(chunk.len());
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < len {
            let range = ByteRange::at(at, u64::from(SEGMENT_BYTES)).clamp(len);
            let piece = match self.stores.read(chunk, range).await {
                Ok(Some(piece)) => piece,
                Ok(None) => return Err(Gone::ForEver),
                Err(error) => {
                    tracing::debug!(%error, chunk = ?chunk.id(), "a copy waits: its chunk can't be read now");
                    return Err(Gone::Now);
                }
            };
            if let Err(corrupt) = piece.clone().verify() {
                tracing::warn!(%corrupt, "a chunk in the store is corrupt; it is dropped and will be filled again");
                self.stores.drop_chunk(chunk);
                return Err(Gone::ForEver);
            }
            at = range.end();
            pieces.push(piece);
        }
        Ok(pieces)
    }

    pub(super) fn log(&self, put: &PutRequest, owner: NodeId, error: &PeerError) {
        let id = put.chunk.id();
        match error {
            PeerError::Kind(ErrorKind::NoSpace) => {
                tracing::debug!(%owner, chunk = ?id, "an owner has no room for its copy");
            }
            PeerError::Kind(_)
            | PeerError::Connect(_)
            | PeerError::UnknownNode(_)
            | PeerError::CircuitOpen(_)
            | PeerError::Refused(_)
            | PeerError::Broken
            | PeerError::Deadline => {
                tracing::debug!(request = %put.request, %owner, chunk = ?id, %error, "a copy was not taken");
            }
        }
    }
}

/// Why the bytes of a copy are not at hand.
pub(super) enum Gone {
    /// The disk gave none this time.
    Now,
    /// The chunk isn't here any more.
    ForEver,
}
