//! What a store tells about itself: its counters, and its state for reports and `/debug/stores`.

use std::sync::atomic::{AtomicU64, Ordering};

use larder_proto::ids::StoreId;
use serde::Serialize;

/// How well a store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Health {
    /// As it should.
    Healthy,
    /// It answers late: others are asked first, and it takes nothing in, until it is as it was.
    Slow,
    /// A sync or the index failed: it serves what it has, checked, and takes nothing in.
    Failing,
}

/// A store as reports show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// Its name on this node.
    pub name: String,
    /// Its id: a random UUID written on the disk, in hex.
    #[serde(serialize_with = "as_text")]
    pub id: StoreId,
    /// Bytes of chunks it may hold.
    pub capacity_bytes: u64,
    /// Bytes of chunks it holds or has reserved, in whole pages.
    pub used_bytes: u64,
    /// Object versions with a chunk here or on the way.
    pub objects: u64,
    /// Chunks here.
    pub chunks: u64,
    /// How well it does.
    pub health: Health,
}

fn as_text<T: std::fmt::Display, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A store as `/debug/stores` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreDebug {
    /// What reports show.
    pub status: StoreStatus,
    /// Bytes of chunks whose removal isn't finished.
    pub leaving_bytes: u64,
    /// Bytes of unlinked files that somebody may still have mapped.
    pub lingering_bytes: u64,
    /// Object files that are open.
    pub open_files: u64,
    /// Whether the last close was clean.
    pub opened_clean: bool,
    /// How long the index took to load.
    pub opening_ms: u64,
    /// What happened since the start.
    pub counters: StoreCounters,
}

/// What one volume has on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Object versions with a chunk here or on the way.
    pub objects: u64,
    /// Chunks here.
    pub chunks: u64,
    /// Bytes here, in whole pages.
    pub bytes: u64,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What happened in a store since the start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "camelCase")]
        pub struct StoreCounters {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The counters while they count.
        #[derive(Default)]
        pub(super) struct Counters {
            $(pub $name: Counter,)*
        }

        impl Counters {
            pub fn snapshot(&self) -> StoreCounters {
                StoreCounters { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Reads answered with bytes.
    reads,
    /// Their bytes.
    read_bytes,
    /// Chunks taken in.
    fills,
    /// Their bytes.
    fill_bytes,
    /// Pieces that had to be copied because their memory wasn't aligned.
    copied_pieces,
    /// Chunks not taken in: no room.
    bypassed_full,
    /// Chunks not taken in: too many were being written.
    bypassed_busy,
    /// Chunks not taken in: the store takes no writes.
    bypassed_unavailable,
    /// Writes that found the disk full.
    disk_full,
    /// Reservations that ended without a chunk.
    aborted,
    /// Files given to the kernel.
    passed,
    /// Chunks evicted.
    evicted_chunks,
    /// Their bytes, in whole pages.
    evicted_bytes,
    /// Chunks that left because their volume's quota was used up.
    over_quota,
    /// Chunks that left because they were older than their volume's `ttl`.
    expired,
    /// Chunks not taken in: their volume doesn't want them kept.
    not_admitted,
    /// Chunks dropped because their bytes failed their check.
    corrupt,
    /// Chunks dropped because the disk could not read them whole.
    unreadable,
    /// Damaged chunks, or objects, that nobody was told to repair: too many at once.
    not_repaired,
    /// Calls that did not end within their deadline.
    deadlines,
    /// Files whose bytes could not be given back to the disk.
    unfreed,
    /// Durable commits of the index.
    durable_commits,
    /// Failures that fenced the store.
    fences,
    /// Indexes set aside because they were damaged.
    indexes_set_aside,
    /// Files unlinked at start because the index didn't know them.
    orphans,
    /// Objects dropped at start because their files were gone.
    missing_files,
    /// Folders of files that could not be looked at after the start.
    unswept,
    /// 1 once all files were looked at after the start.
    swept,
    /// Bytes whose checksums were compared in the background, after an unclean stop.
    verified_bytes,
    /// Bytes whose checksums were compared in the background, because it was time.
    scrubbed_bytes,
    /// Times that the whole store had been scrubbed.
    scrubs,
    /// Times that the store was found slow.
    suspicions,
    /// Reads that went elsewhere because the disk hung.
    avoided,
}

/// One number that only rises.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn one(&self) {
        self.add(1);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
