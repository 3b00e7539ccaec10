//! What a store does by itself, beside the committer: looks at its files after a start, verifies what an unclean stop
//! left unsure, scrubs, and follows the clock and the map.
//!
//! One task and one thread per store, in small steps. Verifying and scrubbing pause while readers keep the disk busy;
//! scrubbing catches up afterwards, and no longer pauses when it is a day behind: every byte is read once a week.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use larder_proto::ids::ObjectId;
use larder_proto::limits::SEGMENT_BYTES;
use larder_proto::object::{Chunk, ChunkId, Object};
use larder_proto::range::ByteRange;
use tokio::time::Instant;

use super::StoreError;
use super::catalog::ObjectRow;
use super::directory::Directory;
use crate::runtime::disk::AlignedBuf;
use crate::runtime::tasks::Pool;

/// The first two digits of object ids: one folder of files each.
const FOLDERS: u32 = 256;

/// Entries that are looked at under one lock: well below a millisecond.
const ENTRIES_AT_ONCE: usize = 2_048;

/// How often ages and ranks are looked at, and what lingers.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The whole store is scrubbed in so long: two days of the week are left for pauses and restarts.
const SCRUB_WITHIN: Duration = Duration::from_secs(5 * 24 * 3600);

/// So much is read at once, when it is due: less of a small store, because a restart forgets what was due.
const SCRUB_BYTES: i64 = 1 << 20;
const SCRUB_PART: i64 = 64;

/// So far behind, scrubbing no longer pauses.
const SCRUB_LATE: Duration = Duration::from_secs(24 * 3600);

/// Bytes that are scrubbed or verified in a second, at most: a tenth of what a disk gives.
const BACKGROUND_BYTES_PER_S: u64 = 128 << 20;

/// More reads in a second than this are load.
const LOAD_READS_PER_S: u64 = 16;

/// How long a pause under load is.
const PAUSE: Duration = Duration::from_secs(1);

/// What the keeper does when nothing else is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Files of folder `n` and those after it are still to be compared with the index.
    Sweeping(u32),
    /// Entries from here on may have no file.
    Missing(usize),
    /// Entries from here on may be unsure.
    Verifying(usize),
    Scrubbing,
}

pub(super) struct Keeper {
    directory: Arc<Directory>,
    pool: Pool,
    stage: Stage,
    generation: Option<u64>,
    look_at: Instant,
    /// Foreground reads at a moment.
    reads: (u64, Instant),
    /// Scrubbing: what should have been read by now and wasn't (below zero: it was read ahead), and when that was counted.
    behind_bytes: i64,
    counted_at: Instant,
    rows: Vec<ObjectRow>,
    scrub_from: [u8; 16],
}

impl Keeper {
    pub fn new(directory: Arc<Directory>, pool: Pool) -> Self {
        let now = directory.clock.now();
        let mut scrub_from = [0; 16];
        scrub_from[..8].copy_from_slice(&directory.catalog.scrub_at().to_be_bytes());
        let (stage, rows) = (Stage::Sweeping(0), Vec::new());
        let (look_at, counted_at, reads) = (now, now, (0, now));
        Self { directory, pool, stage, generation: None, look_at, reads, behind_bytes: 0, counted_at, rows, scrub_from }
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
                self.stage = next.map_or(Stage::Verifying(0), Stage::Missing);
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
        if now < self.look_at {
            return;
        }
        self.look_at = now + LOOK_EVERY;
        let (generation, has_ttl) = {
            let index = self.directory.index.lock();
            (index.generation(), index.has_ttl())
        };
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
            let _looked_again_later = self.pool.run(move || directory.look_what_lingers()).await;
        }
    }

    async fn verify_some(&mut self, cursor: usize) -> Duration {
        if self.is_loaded() {
            return PAUSE;
        }
        let (objects, next) = self.directory.index.lock().unsure(cursor, ENTRIES_AT_ONCE);
        let mut verified_bytes = 0;
        for object in objects {
            verified_bytes += self.verify_object(object).await;
        }
        self.stage = next.map_or(Stage::Scrubbing, Stage::Verifying);
        self.counted_at = self.directory.clock.now();
        Duration::from_millis(verified_bytes * 1000 / BACKGROUND_BYTES_PER_S)
    }

    /// Compares every block that is here of the object with its checksum; what differs leaves.
    async fn verify_object(&self, object: ObjectId) -> u64 {
        if !self.directory.index.lock().is_unsure(&object) {
            return 0;
        }
        let directory = self.directory.clone();
        let work = move || -> Result<u64, StoreError> {
            let known = directory.catalog.object(object).map_err(|error| StoreError::Io(error.into_io()))?;
            let (ticket, chunks) = {
                let mut index = directory.index.lock();
                (index.begin_verifying(&object), index.chunks_of(&object))
            };
            let (mut bytes, mut whole) = (0, true);
            for index in chunks {
                match known.as_ref().and_then(|object| object.chunk(index)) {
                    Some(chunk) => {
                        let read = check(&directory, &chunk);
                        whole &= read == u64::from(chunk.len());
                        bytes += read;
                    }
                    None => {
                        directory.drop_by_id(ChunkId { object, index });
                    }
                }
            }
            let mut index = directory.index.lock();
            index.sure(&object);
            if let Some(ticket) = ticket {
                // A chunk that failed has left, and with it the ticket.
                index.end_verifying(&object, ticket, whole);
            }
            Ok(bytes)
        };
        match self.pool.run(work).await {
            Ok(Ok(bytes)) => {
                self.directory.counters.verified_bytes.add(bytes);
                bytes
            }
            Ok(Err(error)) => {
                tracing::warn!(store = self.directory.name, %object, %error, "an object could not be verified");
                0
            }
            Err(error) => {
                tracing::warn!(store = self.directory.name, %object, %error, "an object could not be verified");
                0
            }
        }
    }

    /// Reads the next chunks if it is time.
    async fn scrub(&mut self) -> Duration {
        let now = self.directory.clock.now();
        let used_bytes = i64::try_from(self.directory.index.lock().used_bytes()).unwrap_or(i64::MAX);
        let seconds = i64::try_from(SCRUB_WITHIN.as_secs()).expect("five days");
        let rate = (used_bytes / seconds).max(1);
        let passed_ms = i64::try_from((now - self.counted_at).as_millis()).unwrap_or(i64::MAX);
        if passed_ms < 1000 {
            return PAUSE;
        }
        self.behind_bytes = self.behind_bytes.saturating_add(rate.saturating_mul(passed_ms) / 1000).min(used_bytes);
        self.counted_at = now;
        let late_s = i64::try_from(SCRUB_LATE.as_secs()).expect("a day");
        let late = self.behind_bytes > rate.saturating_mul(late_s);
        if used_bytes == 0 || (self.is_loaded() && !late) {
            return PAUSE;
        }
        let due_bytes = SCRUB_BYTES.min(used_bytes / SCRUB_PART).max(1);
        let mut budget = BACKGROUND_BYTES_PER_S;
        while self.behind_bytes >= due_bytes && budget > 0 {
            let Some(object) = self.next_row().await else { break };
            let bytes = self.scrub_object(object).await;
            self.behind_bytes = self.behind_bytes.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
            budget = budget.saturating_sub(bytes);
        }
        // Until it is behind again; ages and ranks are looked at meanwhile.
        let ahead_s = u64::try_from(-self.behind_bytes / rate).unwrap_or(0);
        Duration::from_secs(ahead_s).clamp(PAUSE, LOOK_EVERY)
    }

    /// The object that is next; nothing when the last one was, and the pass is over.
    async fn next_row(&mut self) -> Option<Arc<Object>> {
        if self.rows.is_empty() {
            let (directory, from) = (self.directory.clone(), self.scrub_from);
            let rows = self.pool.run(move || directory.catalog.objects_from(&from, 256)).await;
            self.rows = rows.ok()?.ok()?;
            self.rows.reverse();
        }
        let Some(row) = self.rows.pop() else {
            self.scrub_from = [0; 16];
            self.directory.catalog.set_scrub_at(0);
            self.directory.counters.scrubs.one();
            return None;
        };
        let id = u128::from_be_bytes(*row.object.id().as_bytes());
        self.scrub_from = id.saturating_add(1).to_be_bytes();
        let at = u64::from_be_bytes(row.object.id().as_bytes()[..8].try_into().expect("16 bytes"));
        // Ids are hashes: no other one begins alike.
        self.directory.catalog.set_scrub_at(at.saturating_add(1));
        Some(row.object)
    }

    async fn scrub_object(&self, object: Arc<Object>) -> u64 {
        let directory = self.directory.clone();
        let work = move || {
            let here = directory.index.lock().chunks_of(&object.id());
            here.into_iter().filter_map(|index| object.chunk(index)).map(|chunk| check(&directory, &chunk)).sum()
        };
        let bytes: u64 = self.pool.run(work).await.unwrap_or(0);
        self.directory.counters.scrubbed_bytes.add(bytes);
        bytes
    }

    /// Whether readers keep the disk busy.
    fn is_loaded(&mut self) -> bool {
        let (reads, now) = (self.directory.counters.reads.get(), self.directory.clock.now());
        let (before, at) = std::mem::replace(&mut self.reads, (reads, now));
        let passed_ms = u64::try_from((now - at).as_millis()).unwrap_or(u64::MAX).max(1);
        (reads - before).saturating_mul(1000) / passed_ms > LOAD_READS_PER_S
    }
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
