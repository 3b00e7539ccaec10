//! What a store does by itself, beside the committer: looks at its files after a start, verifies what an unclean stop
//! left unsure, scrubs, and follows the clock and the map.
//!
//! One task and one thread per store, in small steps. Verifying and scrubbing go chunk by chunk, however large an object
//! is, and pause while readers keep the disk busy; scrubbing catches up afterwards, and no longer pauses when it is a day
//! behind: every byte is read once a week.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use larder_proto::ids::ObjectId;
use larder_proto::limits::SEGMENT_BYTES;
use larder_proto::object::{Chunk, ChunkId, Object};
use larder_proto::range::ByteRange;
use tokio::time::Instant;

use super::catalog::{ObjectRow, ScrubAt};
use super::directory::Directory;
use super::index::Verifier;
use super::linger::Rebase;
use crate::runtime::disk::AlignedBuf;
use crate::runtime::tasks::Pool;

/// The first two digits of object ids: one folder of files each.
const FOLDERS: u32 = 256;

/// Entries that are looked at under one lock: well below a millisecond.
const ENTRIES_AT_ONCE: usize = 2_048;

/// How often ages and ranks are looked at, and what lingers.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How often the disk's free bytes become what lingering ones are compared with: others' files live shorter, or longer.
const REBASE_EVERY: Duration = Duration::from_secs(600);

/// The whole store is scrubbed in so long: two days of the week are left for pauses and restarts.
const SCRUB_WITHIN: Duration = Duration::from_secs(5 * 24 * 3600);

/// So much is read at once, when it is due: less of a small store, because a restart forgets what was due.
const SCRUB_BYTES: i64 = 1 << 20;
const SCRUB_PART: i64 = 64;

/// So far behind, scrubbing no longer pauses.
const SCRUB_LATE: Duration = Duration::from_secs(24 * 3600);

/// Bytes that are scrubbed or verified in a second, at most: a tenth of what a disk gives.
const BACKGROUND_BYTES_PER_S: u64 = 128 << 20;

/// Pauses between chunks are at least so long.
const REST_MIN: Duration = Duration::from_millis(10);

/// More reads in a second than this are load; they are counted over so long at least.
const LOAD_READS_PER_S: u64 = 16;
const LOAD_OVER: Duration = Duration::from_millis(250);

/// How long a pause under load is.
const PAUSE: Duration = Duration::from_secs(1);

/// What the keeper does when nothing else is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Files of folder `n` and those after it are still to be compared with the index.
    Sweeping(u32),
    /// Entries from here on may have no file.
    Missing(usize),
    /// Entries from here on may be unsure; nothing: those that were found are the last.
    Verifying(Option<usize>),
    Scrubbing,
}

/// An object that is read back, chunk by chunk.
struct Reading {
    object: Arc<Object>,
    /// The first chunk that wasn't read.
    next: u32,
    /// The verification of the whole object, if it was complete when it began.
    ticket: Option<u64>,
    /// Whether every chunk so far was there and right.
    right: bool,
}

impl Reading {
    fn new(object: Arc<Object>) -> Self {
        Self { object, next: 0, ticket: None, right: true }
    }
}

pub(super) struct Keeper {
    directory: Arc<Directory>,
    pool: Pool,
    stage: Stage,
    generation: Option<u64>,
    look_at: Instant,
    rebase_at: Instant,
    /// Foreground reads at a moment, and whether those before it were load.
    reads: (u64, Instant),
    loaded: bool,
    /// What is read back now.
    reading: Option<Reading>,
    /// Objects that are verified next.
    unsure: Vec<ObjectId>,
    /// Scrubbing: what should have been read by now and wasn't (below zero: it was read ahead), and when that was counted.
    behind_bytes: i64,
    counted_at: Instant,
    /// What the disk is still to be left alone for.
    rest: Duration,
    rows: Vec<ObjectRow>,
    scrub_from: [u8; 16],
    /// Where the last run had come to.
    scrub_at: ScrubAt,
}

impl Keeper {
    pub fn new(directory: Arc<Directory>, pool: Pool) -> Self {
        let now = directory.clock.now();
        let scrub_at = directory.catalog.scrub_at();
        let mut scrub_from = [0; 16];
        scrub_from[..8].copy_from_slice(&scrub_at.object.to_be_bytes());
        Self {
            directory,
            pool,
            stage: Stage::Sweeping(0),
            generation: None,
            look_at: now,
            rebase_at: now + REBASE_EVERY,
            reads: (0, now),
            // Nobody knows yet: those who waited for the start come first.
            loaded: true,
            reading: None,
            unsure: Vec::new(),
            behind_bytes: 0,
            counted_at: now,
            rest: Duration::ZERO,
            rows: Vec::new(),
            scrub_from,
            scrub_at,
        }
    }

    /// Works until the agent stops.
    pub async fn run(mut self) {
        loop {
            self.look().await;
            let wait = self.step().await;
            let directory = self.directory.clone();
            tokio::select! { biased;
                () = directory.chores.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// A step of the stage; returns how long the next one can wait.
    async fn step(&mut self) -> Duration {
        match self.stage {
            Stage::Sweeping(folder) => {
                if let Err(error) = self.sweep(folder).await {
                    tracing::warn!(store = self.directory.name, folder, %error, "a folder of objects could not be read");
                    self.directory.counters.unswept.one();
                }
                let next = folder + 1;
                self.stage = if next < FOLDERS { Stage::Sweeping(next) } else { Stage::Missing(0) };
                Duration::ZERO
            }
            Stage::Missing(cursor) => {
                let unswept = self.directory.counters.unswept.get() > 0;
                let (next, missing) = match unswept {
                    // Who can't be found may be in a folder that could not be read.
                    true => (None, 0),
                    false => self.directory.index.lock().drop_unseen(cursor, ENTRIES_AT_ONCE),
                };
                self.directory.counters.missing_files.add(missing);
                self.stage = next.map_or(Stage::Verifying(Some(0)), Stage::Missing);
                self.directory.wake.notify_one();
                if next.is_none() {
                    self.directory.counters.swept.one();
                }
                Duration::ZERO
            }
            Stage::Verifying(cursor) => self.verify_some(cursor).await,
            Stage::Scrubbing => self.scrub().await,
        }
    }

    /// Unlinks files that the index doesn't know.
    async fn sweep(&self, folder: u32) -> io::Result<()> {
        let directory = self.directory.clone();
        let work = move || {
            let mut known = |object: ObjectId| directory.index.lock().found_file(object);
            let mut gone = || {
                directory.counters.orphans.one();
                directory.index.lock().swept();
                directory.settled.notify_waiters();
            };
            directory.files.sweep(folder, &mut known, &mut gone)
        };
        self.pool.run(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Follows the map, the clock and the disk.
    async fn look(&mut self) {
        let now = self.directory.clock.now();
        let (generation, has_ttl) = {
            let index = self.directory.index.lock();
            (index.generation(), index.has_ttl())
        };
        if now < self.look_at && self.generation == Some(generation) {
            return;
        }
        self.look_at = now + LOOK_EVERY;
        if has_ttl || self.generation != Some(generation) {
            let wall_s = self.directory.clock.wall_ms() / 1000;
            let mut cursor = Some(0);
            while let Some(at) = cursor {
                let (next, old) = self.directory.index.lock().walk(at, ENTRIES_AT_ONCE, wall_s);
                self.directory.counters.expired.add(old);
                cursor = next;
                tokio::task::yield_now().await;
            }
            self.generation = Some(generation);
            self.directory.wake.notify_one();
        }
        if !self.directory.linger.lock().is_empty() {
            let directory = self.directory.clone();
            let rebase = if now >= self.rebase_at { Rebase::Now } else { Rebase::Later };
            if rebase == Rebase::Now {
                self.rebase_at = now + REBASE_EVERY;
            }
            let _looked_again_later = self.pool.run(move || directory.look_what_lingers(rebase)).await;
        }
    }

    /// Verifies the next chunk, if it is time.
    async fn verify_some(&mut self, cursor: Option<usize>) -> Duration {
        if self.is_loaded() {
            return PAUSE;
        }
        let reading = match self.reading.take() {
            Some(reading) => Some(reading),
            None => self.next_unsure().await,
        };
        let Some(mut reading) = reading else {
            self.find_unsure(cursor);
            return Duration::ZERO;
        };
        let id = reading.object.id();
        let read = self.read_next(&mut reading).await;
        self.directory.counters.verified_bytes.add(read.unwrap_or(0));
        match read {
            // A door may have verified it meanwhile.
            Some(bytes) if self.directory.index.lock().is_unsure(&id) => {
                self.reading = Some(reading);
                self.rest_after(bytes)
            }
            Some(_) | None => {
                let mut index = self.directory.index.lock();
                index.sure(&id);
                if let Some(ticket) = reading.ticket {
                    // A chunk that failed has left, and with it the ticket.
                    index.end_verifying(&id, ticket, reading.right && read.is_none());
                }
                Duration::ZERO
            }
        }
    }

    /// Looks for objects that are unsure; after the last ones, scrubbing begins.
    fn find_unsure(&mut self, cursor: Option<usize>) {
        self.stage = match cursor {
            Some(at) => {
                let (objects, next) = self.directory.index.lock().unsure(at, ENTRIES_AT_ONCE);
                self.unsure = objects;
                Stage::Verifying(next)
            }
            None => Stage::Scrubbing,
        };
        self.counted_at = self.directory.clock.now();
    }

    /// The next object whose chunks must be compared with their checksums.
    async fn next_unsure(&mut self) -> Option<Reading> {
        while let Some(id) = self.unsure.pop() {
            if !self.directory.index.lock().is_unsure(&id) {
                continue;
            }
            let directory = self.directory.clone();
            let known = self.pool.run(move || directory.catalog.object(id).map_err(|error| error.into_io())).await;
            match known.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(Some(object)) => {
                    let ticket = self.directory.index.lock().begin_verifying(&id, Verifier::Keeper);
                    if let Some(ticket) = ticket {
                        self.stamp(id, ticket).await;
                    }
                    return Some(Reading { ticket, ..Reading::new(object) });
                }
                // Without its row nothing can be checked.
                Ok(None) => self.drop_all(id),
                Err(error) => {
                    tracing::warn!(store = self.directory.name, object = %id, %error, "an object could not be verified");
                }
            }
        }
        None
    }

    /// Notes how the object's file looks before it is read back. One that can't be looked at is checked all the same: the
    /// kernel doesn't get it.
    async fn stamp(&self, object: ObjectId, ticket: u64) {
        let directory = self.directory.clone();
        if let Ok(Ok(stamp)) = self.pool.run(move || directory.stamp_now(object)).await {
            self.directory.index.lock().stamp_verifying(&object, ticket, stamp);
        }
    }

    fn drop_all(&self, object: ObjectId) {
        loop {
            let next = self.directory.index.lock().next_chunk(&object, 0);
            let Some(index) = next else { return };
            self.directory.drop_by_id(ChunkId { object, index });
        }
    }

    /// Reads the object's next chunk and compares it with its checksums: how many bytes could be read. What differs
    /// leaves. Nothing when the last chunk was read.
    async fn read_next(&self, reading: &mut Reading) -> Option<u64> {
        let index = self.directory.index.lock().next_chunk(&reading.object.id(), reading.next)?;
        reading.next = index.0.saturating_add(1);
        let Some(chunk) = reading.object.chunk(index) else {
            reading.right = false;
            self.directory.drop_by_id(ChunkId { object: reading.object.id(), index });
            return Some(0);
        };
        let (directory, len) = (self.directory.clone(), u64::from(chunk.len()));
        let bytes = self.pool.run(move || check(&directory, &chunk)).await.unwrap_or(0);
        reading.right &= bytes == len;
        Some(bytes)
    }

    /// Reads the next chunk if it is time.
    async fn scrub(&mut self) -> Duration {
        let now = self.directory.clock.now();
        let used_bytes = i64::try_from(self.directory.index.lock().used_bytes()).unwrap_or(i64::MAX);
        let seconds = i64::try_from(SCRUB_WITHIN.as_secs()).expect("five days");
        let rate = (used_bytes / seconds).max(1);
        let passed_ms = i64::try_from((now - self.counted_at).as_millis()).unwrap_or(i64::MAX);
        if passed_ms >= 1000 {
            self.behind_bytes = self.behind_bytes.saturating_add(rate.saturating_mul(passed_ms) / 1000).min(used_bytes);
            self.counted_at = now;
        }
        let late_s = i64::try_from(SCRUB_LATE.as_secs()).expect("a day");
        let late = self.behind_bytes > rate.saturating_mul(late_s);
        if used_bytes == 0 || (self.is_loaded() && !late) {
            return PAUSE;
        }
        let due_bytes = SCRUB_BYTES.min(used_bytes / SCRUB_PART).max(1);
        if self.behind_bytes < due_bytes {
            // Until it is due; ages and ranks are looked at meanwhile.
            let due_s = u64::try_from((due_bytes - self.behind_bytes) / rate).unwrap_or(0);
            return Duration::from_secs(due_s).clamp(PAUSE, LOOK_EVERY);
        }
        let Some(bytes) = self.scrub_next().await else { return PAUSE };
        self.directory.counters.scrubbed_bytes.add(bytes);
        self.behind_bytes = self.behind_bytes.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.rest_after(bytes)
    }

    /// Reads one chunk; nothing when the last one was, and the pass is over.
    async fn scrub_next(&mut self) -> Option<u64> {
        loop {
            let mut reading = match self.reading.take() {
                Some(reading) => reading,
                None => self.next_row().await?,
            };
            if let Some(bytes) = self.read_next(&mut reading).await {
                self.directory.catalog.set_scrub_at(scrub_at(&reading));
                self.reading = Some(reading);
                return Some(bytes);
            }
        }
    }

    /// The object that is next; nothing when the last one was, and the pass is over.
    async fn next_row(&mut self) -> Option<Reading> {
        if self.rows.is_empty() {
            let (directory, from) = (self.directory.clone(), self.scrub_from);
            let rows = self.pool.run(move || directory.catalog.objects_from(&from, 256)).await;
            self.rows = rows.ok()?.ok()?;
            self.rows.reverse();
        }
        let Some(row) = self.rows.pop() else {
            self.scrub_from = [0; 16];
            self.directory.catalog.set_scrub_at(ScrubAt::default());
            self.directory.counters.scrubs.one();
            return None;
        };
        let id = u128::from_be_bytes(*row.object.id().as_bytes());
        self.scrub_from = id.saturating_add(1).to_be_bytes();
        let mut reading = Reading::new(row.object);
        let before = std::mem::take(&mut self.scrub_at);
        if before.object == scrub_at(&reading).object {
            reading.next = before.chunk;
        }
        Some(reading)
    }

    /// How long the disk is left alone after so many bytes. Small chunks add up: a timer is no finer than milliseconds.
    fn rest_after(&mut self, bytes: u64) -> Duration {
        self.rest += Duration::from_micros(bytes.saturating_mul(1_000_000) / BACKGROUND_BYTES_PER_S);
        if self.rest < REST_MIN { Duration::ZERO } else { std::mem::take(&mut self.rest) }
    }

    /// Whether readers keep the disk busy.
    fn is_loaded(&mut self) -> bool {
        let (reads, now) = (self.directory.counters.reads.get(), self.directory.clock.now());
        let (before, at) = self.reads;
        if now - at >= LOAD_OVER {
            let passed_ms = u64::try_from((now - at).as_millis()).unwrap_or(u64::MAX);
            self.loaded = (reads - before).saturating_mul(1000) / passed_ms.max(1) > LOAD_READS_PER_S;
            self.reads = (reads, now);
        }
        self.loaded
    }
}

/// Ids are hashes: no other one begins alike.
fn scrub_at(reading: &Reading) -> ScrubAt {
    let id = reading.object.id();
    let object = u64::from_be_bytes(id.as_bytes()[..8].try_into().expect("16 bytes"));
    ScrubAt { object, chunk: reading.next }
}

/// Compares a chunk with its checksums; drops it when they differ. Returns the bytes that were read.
fn check(directory: &Directory, chunk: &Chunk) -> u64 {
    let len = u64::from(chunk.len());
    let mut at = 0;
    while at < len {
        let range = ByteRange::at(at, u64::from(SEGMENT_BYTES)).clamp(len);
        let bytes = usize::try_from(range.len()).expect("a segment");
        match directory.read_now(chunk, range, AlignedBuf::unpooled(bytes)) {
            Ok(Some(piece)) if piece.clone().verify().is_ok() => {}
            Ok(Some(_)) => directory.drop_corrupt(chunk),
            // It has left meanwhile; or it could not be read, and was dropped for that.
            Ok(None) | Err(_) => return at,
        }
        at = range.end();
    }
    len
}
