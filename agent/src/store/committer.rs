//! The one writer of a store's index: gathers finished chunks and departures into batches.
//!
//! A batch is one transaction that isn't durable; then the bytes of what left are given back, and only then the room.
//! Every five seconds, or after ten thousand files, a durable commit follows the sync of every file it names: one by one
//! when they are few, else with their file system. A failed sync or a failed transaction fences the store; nothing is
//! retried.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use larder_proto::ids::ObjectId;
use larder_proto::object::{ChunkId, ChunkIndex};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::StoreError;
use super::catalog::{Change, ObjectRow, Promise};
use super::directory::Directory;
use super::index::Departure;
use super::reservation::Pending;
use crate::runtime::disk::Open;

/// Changes wait at most this long for the disk: what a power failure may cost is five seconds of fills.
const DURABLE_AFTER: Duration = Duration::from_secs(5);

/// Files written since the last durable commit, at most: syncing them takes a second.
const UNSYNCED_MAX: usize = 10_000;

/// Files that are synced one by one, at most. Each costs a flush of the disk (2 to 3 ms measured); all together cost one,
/// and what others have left unwritten on the file system.
const SYNCED_EACH_MAX: usize = 16;

/// Chunks of one transaction: some milliseconds of work.
const BATCH_MAX: usize = 256;

/// A chunk whose bytes are written.
pub(super) struct Put {
    pub pending: Arc<Pending>,
    pub crcs: Vec<u32>,
    pub done: oneshot::Sender<Result<(), StoreError>>,
}

pub(super) struct Committer {
    directory: Arc<Directory>,
    /// Objects whose files a durable commit must sync first.
    unsynced: BTreeSet<ObjectId>,
    /// When the next durable commit is due; nothing when nothing changed.
    due: Option<Instant>,
}

impl Committer {
    pub fn new(directory: Arc<Directory>) -> Self {
        Self { directory, unsynced: BTreeSet::new(), due: None }
    }

    /// Works until the store is closed.
    pub async fn run(mut self, mut puts: mpsc::Receiver<Put>) {
        self.directory.wake.notify_one();
        loop {
            let mut batch = Vec::new();
            let due = self.due.unwrap_or_else(|| self.due_from_now());
            let more = self.has_more();
            tokio::select! { biased;
                _count = puts.recv_many(&mut batch, BATCH_MAX) => {}
                () = std::future::ready(()), if more => {}
                () = self.directory.wake.notified() => {}
                () = tokio::time::sleep_until(due), if self.due.is_some() => {}
            }
            self.step(batch).await;
            let overdue = self.due.is_some_and(|due| due <= self.directory.clock.now());
            if overdue || self.unsynced.len() >= UNSYNCED_MAX {
                self.make_durable(Promise::Durable).await;
            }
            let idle = puts.is_empty() && !self.has_more();
            if idle && self.close().await {
                return;
            }
        }
    }

    /// Whether something is to be evicted or removed.
    fn has_more(&self) -> bool {
        let index = self.directory.index.lock();
        index.has_doomed() || index.is_evicting()
    }

    /// One batch: the index, then the disk, then the room.
    async fn step(&mut self, batch: Vec<Put>) {
        let departures = {
            let mut index = self.directory.index.lock();
            let evicted = index.evict();
            self.directory.counters.evicted_chunks.add(evicted.chunks);
            self.directory.counters.evicted_bytes.add(evicted.bytes);
            self.directory.counters.over_quota.add(evicted.over_quota);
            index.departures(BATCH_MAX)
        };
        if batch.is_empty() && departures.is_empty() {
            // An eviction that only goes round lines leaves the others their turn.
            tokio::task::yield_now().await;
            return;
        }
        let (departures, result) = self.apply(&batch, departures).await;
        match result {
            Ok(()) => self.accept(batch, &departures),
            Err(_) => {
                for put in batch {
                    let _nobody_waits = put.done.send(Err(StoreError::Fenced));
                }
            }
        }
        let mut index = self.directory.index.lock();
        for departure in &departures {
            index.settle(departure);
        }
        drop(index);
        self.directory.settled.notify_waiters();
    }

    fn due_from_now(&self) -> Instant {
        self.directory.clock.now() + DURABLE_AFTER
    }

    fn accept(&mut self, batch: Vec<Put>, departures: &[Departure]) {
        for departure in departures.iter().filter(|departure| departure.unlink) {
            self.unsynced.remove(&departure.object);
        }
        for put in batch {
            self.unsynced.insert(put.pending.chunk.object().id());
            put.pending.settle();
            let _nobody_waits = put.done.send(Ok(()));
        }
        let due = self.due_from_now();
        self.due.get_or_insert(due);
    }

    async fn apply(&self, batch: &[Put], departures: Vec<Departure>) -> (Vec<Departure>, Result<(), StoreError>) {
        if self.directory.is_fenced() {
            return (departures, Err(StoreError::Fenced));
        }
        let changes = self.changes(batch, &departures);
        let directory = self.directory.clone();
        let kept = departures.clone();
        let work = move || -> Result<(), StoreError> {
            let applied = directory.syncing(|| directory.catalog.apply(&changes, Promise::Visible));
            applied.map_err(|error| StoreError::Io(error.into_io()))?;
            for departure in &departures {
                if let Err(error) = directory.syncing(|| free(&directory, departure)) {
                    if departure.passed {
                        // Filled again, it would be written under the eyes of whoever has it mapped.
                        return Err(StoreError::Io(error));
                    }
                    directory.counters.unfreed.one();
                    tracing::warn!(store = directory.name, object = %departure.object, %error, "bytes were not given back");
                }
            }
            Ok(())
        };
        let result = match self.directory.index_pool.run(work).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::Io(io::Error::other(error))),
        };
        if let Err(error) = &result {
            self.directory.fence(error);
        }
        (kept, result)
    }

    /// Syncs every file the index names since the last time, then the index.
    async fn make_durable(&mut self, promise: Promise) {
        self.due = None;
        if self.directory.is_fenced() {
            return;
        }
        let directory = self.directory.clone();
        let objects = std::mem::take(&mut self.unsynced);
        let work = move || -> Result<Option<BTreeSet<ObjectId>>, StoreError> {
            if let Err(error) = sync(&directory, &objects)? {
                tracing::warn!(store = directory.name, %error, "a file could not be opened to be synced: tried again");
                return Ok(Some(objects));
            }
            let applied = directory.syncing(|| directory.catalog.apply(&[], promise));
            applied.map_err(|error| StoreError::Io(error.into_io()))?;
            directory.check_space();
            Ok(None)
        };
        let result = match self.directory.index_pool.run(work).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::Io(io::Error::other(error))),
        };
        match result {
            Ok(None) => {
                self.directory.counters.durable_commits.one();
                if self.directory.is_low_on_space() {
                    // Nothing may change until there is room: look again.
                    self.due = Some(self.due_from_now());
                    self.directory.wake.notify_one();
                }
            }
            Ok(Some(objects)) => {
                self.unsynced.extend(objects);
                self.due = Some(self.due_from_now());
            }
            Err(error) => self.directory.fence(&error),
        }
    }

    /// When somebody asked for it: everything durable, and the clean mark. True when the store is closed.
    async fn close(&mut self) -> bool {
        let Some(closed) = self.directory.closing.lock().take() else { return false };
        self.make_durable(Promise::Clean).await;
        let _nobody_waits = closed.send(());
        true
    }

    fn changes(&self, batch: &[Put], departures: &[Departure]) -> Vec<Change> {
        let mut changes = Vec::with_capacity(batch.len() + departures.len());
        for departure in departures {
            let object = departure.object;
            if departure.unlink {
                changes.push(Change::RemoveObject(object));
            } else {
                let of = |index: &ChunkIndex| Change::RemoveChunk(ChunkId { object, index: *index });
                changes.extend(departure.chunks.iter().map(of));
            }
        }
        let (index, wall_s) = (self.directory.index.lock(), self.directory.wall_s());
        for put in batch {
            let chunk = &put.pending.chunk;
            let filled_s = index.filled_s(&chunk.object().id(), wall_s);
            let row = ObjectRow { object: chunk.object().clone(), filled_s };
            changes.push(Change::Put { row, index: chunk.index(), crcs: put.crcs.clone() });
        }
        changes
    }
}

/// Syncs every file. Outer error: a sync failed, what it left behind is unknown. Inner: a file could not be opened.
fn sync(directory: &Directory, objects: &BTreeSet<ObjectId>) -> Result<io::Result<()>, StoreError> {
    if objects.len() > SYNCED_EACH_MAX {
        return Ok(Ok(directory.sync_all()?));
    }
    for object in objects {
        match directory.files.get(*object, Open::Write) {
            Ok(file) => directory.syncing(|| file.sync_data())?,
            // Somebody removed it behind our back: reads will find out, and so would the next start.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(()))
}

/// Gives the bytes of a departure back to the disk.
fn free(directory: &Directory, departure: &Departure) -> io::Result<()> {
    if departure.passed {
        return directory.unlink_passed(departure.object, departure.bytes());
    }
    if departure.unlink {
        return freeing(directory, departure.bytes(), || directory.files.unlink(departure.object));
    }
    let file = match directory.files.get(departure.object, Open::Write) {
        // Somebody removed it behind our back.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return freeing(directory, departure.bytes(), || Ok(()));
        }
        other => other?,
    };
    for index in &departure.chunks {
        let start = u64::from(index.0) * departure.chunk_size;
        freeing(directory, departure.bytes_of(*index), || file.punch(start, departure.chunk_size))?;
    }
    Ok(())
}

/// Counts bytes as freed, unless the disk kept them. Before it has them back: what lingers is rather seen too long.
fn freeing(directory: &Directory, bytes: u64, free: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    directory.freed_bytes.fetch_add(bytes, Ordering::Relaxed);
    free().inspect_err(|_| {
        directory.freed_bytes.fetch_sub(bytes, Ordering::Relaxed);
    })
}
