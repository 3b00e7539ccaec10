//! What the cache counts. Numbers only rise; gauges are read from where they live.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters, shared by everything in the cache.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub(super) $name: AtomicU64,)*
        }

        /// The counters at a moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// The counters now.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Reads answered from memory without waiting.
    hits_memory,
    /// Reads answered from this node's store.
    hits_store,
    /// Reads answered by a peer, or by a flight from one.
    hits_peer,
    /// Reads that the origin had to answer, through this node.
    hits_origin,
    /// Reads that joined a flight that was there.
    followers,
    /// Reads that ended with an error.
    failed,
    /// Chunks asked for at the origin by this node: GETs per chunk is this over `filled`, cluster-wide.
    fills,
    /// Chunks that came whole from the origin.
    filled,
    /// Bytes from the origin.
    bytes_origin,
    /// Bytes from peers.
    bytes_peer,
    /// Bytes from this node's store.
    bytes_store,
    /// Bytes sent to peers.
    bytes_served,
    /// Pieces sent to peers out of memory.
    served_memory,
    /// Blocks, here or from a peer, that failed their checksum.
    corrupt,
    /// Damaged chunks that this node's store has again.
    repaired,
    /// Damaged chunks that could not be brought at once.
    repairs_failed,
    /// Places that were abandoned because they broke off or made no progress.
    abandoned,
    /// Peers that could not be reached when they were asked.
    unreachable,
    /// Owners asked as well because the first was late.
    hedged,
    /// Of those, the ones that sent the bytes.
    hedges_won,
    /// Owners that were late while no hedge could be afforded.
    hedges_refused,
    /// Fills that this node passed on to the slot's lead.
    passed_on,
    /// Chunks that were served and belong into a store, which did not take them: no room, or it failed.
    bypassed,
    /// Chunks asked for ahead of a reader.
    prefetched,
    /// Prefetches refused because their half of the memory was taken.
    prefetch_refused,
    /// Prefetched chunks that no reader came for.
    prefetch_wasted,
    /// Chunks that this node was asked to bring ahead of readers and keep, and brought.
    kept,
    /// Finished flights given up for their memory.
    evicted,
    /// Copies taken from peers.
    copies_taken,
    /// Copies refused: not an owner, or no room.
    copies_refused,
    /// Objects of others completed here because they are read here.
    guests_completed,
    /// Objects not completed here for want of room.
    guests_no_room,
    /// Objects not completed here because no owner had some chunk of them.
    guests_not_had,
}

impl Counters {
    /// Pieces that readers, here and elsewhere, had of this node without its disks.
    pub(super) fn beside_disks(&self) -> u64 {
        let counted = [&self.hits_memory, &self.hits_peer, &self.hits_origin, &self.served_memory];
        counted.into_iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
    }
}

/// Counts one.
pub(super) fn one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Counts many.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
