//! What a chunk is worth to the cluster, as far as this node can tell by itself.

use larder_proto::ids::{Epoch, Slot, VolumeId};
use tokio::sync::watch;

/// Who leaves first when room is wanted. Decided here, from the map; nobody asks others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// This node doesn't own it: kept because it is read here.
    Guest,
    /// Another owner comes before this one.
    Copy,
    /// This node is the first owner.
    First,
}

impl Rank {
    /// In the order of leaving.
    pub const ALL: [Self; 3] = [Self::Guest, Self::Copy, Self::First];

    pub(super) fn index(self) -> usize {
        match self {
            Self::Guest => 0,
            Self::Copy => 1,
            Self::First => 2,
        }
    }
}

/// What stores ask about this node's place in the cluster. Never blocks.
pub trait Standing: Send + Sync + 'static {
    /// Another number when ranks or shares may have changed.
    fn generation(&self) -> u64;

    /// Tells of each new map; ends for a node that has none.
    fn epochs(&self) -> watch::Receiver<Epoch>;

    /// What the chunks of a slot are here. [`Rank::First`] before the first map: nothing leaves for want of one.
    fn rank(&self, volume: VolumeId, slot: Slot) -> Rank;

    /// This node's weight and the weight of all nodes that own slots; what of a volume's quota is its own.
    fn share(&self) -> (u64, u64);
}

/// A node alone: every chunk's first owner.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Standing for Alone {
    fn generation(&self) -> u64 {
        0
    }

    fn epochs(&self) -> watch::Receiver<Epoch> {
        watch::channel(Epoch(0)).1
    }

    fn rank(&self, _volume: VolumeId, _slot: Slot) -> Rank {
        Rank::First
    }

    fn share(&self) -> (u64, u64) {
        (1, 1)
    }
}
