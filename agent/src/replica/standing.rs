//! What this node's chunks are worth to the cluster, for its stores: first copies, other copies, guests.

use std::sync::Arc;

use larder_proto::ids::{Epoch, Slot, VolumeId};
use tokio::sync::watch;

use super::{Maps, Volumes};
use crate::store::{Rank, Standing};

/// The map and the volumes' numbers of copies, as stores ask for them.
pub(super) struct ByMap {
    pub maps: Arc<dyn Maps>,
    pub volumes: Volumes,
}

impl Standing for ByMap {
    fn generation(&self) -> u64 {
        let epoch = self.maps.current().map_or(0, |map| map.epoch().0);
        let replicas =
            self.volumes.borrow().values().map(|volume| u64::from(volume.replicas.unwrap_or(0))).sum::<u64>();
        // Epochs rise, numbers of copies are below 1,000 in sum: neither hides the other.
        epoch.wrapping_mul(1_000_003).wrapping_add(replicas)
    }

    fn epochs(&self) -> watch::Receiver<Epoch> {
        self.maps.changed()
    }

    fn rank(&self, volume: VolumeId, slot: Slot) -> Rank {
        let Some(map) = self.maps.current() else { return Rank::First };
        let replicas = self.volumes.borrow().get(&volume).and_then(|volume| volume.replicas);
        let copies = replicas.map_or(usize::MAX, |replicas| usize::try_from(replicas.max(1)).unwrap_or(usize::MAX));
        let Some(this) = map.node_named(self.maps.this_node()) else { return Rank::Guest };
        match map.owners(slot).iter().take(copies).position(|owner| *owner == this.id) {
            // Its new owners may not have it yet.
            None if map.former(slot).any(|former| former == this.id) => Rank::Copy,
            None => Rank::Guest,
            Some(0) => Rank::First,
            Some(_) => Rank::Copy,
        }
    }

    fn share(&self) -> (u64, u64) {
        let Some(map) = self.maps.current() else { return (0, 0) };
        let shares = map.shares();
        let all = shares.values().map(|share| u64::from(share.owned)).sum();
        let own = map.node_named(self.maps.this_node()).and_then(|this| shares.get(&this.id));
        (own.map_or(0, |share| u64::from(share.owned)), all)
    }
}
