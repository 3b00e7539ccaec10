//! Reads every module's counters into samples.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use larder_proto::ids::VolumeId;

use super::Metric as M;
use super::{Sample, Samples};
use crate::cache::Cache;
use crate::fs::Fs;
use crate::fs::names::Homes;
use crate::fuse::{Op, Ops, Passthrough, Refusal};
use crate::map::MapHolder;
use crate::origin::Origins;
use crate::peer;
use crate::runtime::net::tls::TlsNet;
use crate::runtime::process;
use crate::store::{Health, Stores};

/// The trees that are mounted now. Cheap to clone; reading takes no lock.
#[derive(Clone, Default)]
pub struct Trees(Arc<ArcSwap<BTreeMap<VolumeId, Arc<Fs>>>>);

impl Trees {
    /// The trees.
    pub fn current(&self) -> Arc<BTreeMap<VolumeId, Arc<Fs>>> {
        self.0.load_full()
    }

    /// These are mounted from now on.
    pub fn replace(&self, trees: BTreeMap<VolumeId, Arc<Fs>>) {
        self.0.store(Arc::new(trees));
    }
}

/// Whose counters are read.
pub struct Sources {
    /// Reads and flights.
    pub cache: Cache,
    /// Names.
    pub names: Homes,
    /// Disks.
    pub stores: Stores,
    /// Buckets.
    pub origins: Origins,
    /// Other agents.
    pub peers: peer::Client,
    /// The map.
    pub map: MapHolder,
    /// Connections.
    pub net: Arc<TlsNet>,
    /// Operations of mounts.
    pub ops: Arc<Ops>,
    /// Files that the kernel reads by itself.
    pub passthrough: Passthrough,
    /// Mounts.
    pub trees: Trees,
    /// What the agent may use.
    pub memory_bytes: u64,
}

impl Samples for Sources {
    fn samples(&self) -> Vec<Sample> {
        let mut samples = Vec::with_capacity(128);
        self.cache(&mut samples);
        samples.push(Sample::new(M::MemoryBudget, &[], self.memory_bytes));
        allocator(&mut samples);
        self.copies(&mut samples);
        self.origins(&mut samples);
        self.peers(&mut samples);
        self.stores(&mut samples);
        self.map(&mut samples);
        self.names(&mut samples);
        self.mounts(&mut samples);
        samples
    }
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Sources {
    fn cache(&self, into: &mut Vec<Sample>) {
        let counted = self.cache.snapshot();
        let (held_bytes, budget_bytes) = self.cache.memory();
        into.extend([
            Sample::new(M::Reads, &["memory"], counted.hits_memory),
            Sample::new(M::Reads, &["local"], counted.hits_store),
            Sample::new(M::Reads, &["peer"], counted.hits_peer),
            Sample::new(M::Reads, &["origin"], counted.hits_origin),
            Sample::new(M::ReadsFailed, &[], counted.failed),
            Sample::new(M::Bytes, &["local"], counted.bytes_store),
            Sample::new(M::Bytes, &["peer"], counted.bytes_peer),
            Sample::new(M::Bytes, &["origin"], counted.bytes_origin),
            Sample::new(M::Bytes, &["to_peers"], counted.bytes_served),
            Sample::new(M::Followers, &[], counted.followers),
            Sample::new(M::Fills, &[], counted.fills),
            Sample::new(M::Filled, &[], counted.filled),
            Sample::new(M::Flights, &[], self.cache.flying() as u64),
            Sample::new(M::FlightBytes, &[], held_bytes),
            Sample::new(M::FlightBytesMax, &[], budget_bytes),
            Sample::new(M::Corrupt, &[], counted.corrupt),
            Sample::new(M::Abandoned, &[], counted.abandoned),
            Sample::new(M::Repairs, &["repaired"], counted.repaired),
            Sample::new(M::Repairs, &["left_to_readers"], counted.repairs_failed),
            Sample::new(M::Bypassed, &[], counted.bypassed),
            Sample::new(M::Hedges, &["sent"], counted.hedged),
            Sample::new(M::Hedges, &["won"], counted.hedges_won),
            Sample::new(M::Hedges, &["refused"], counted.hedges_refused),
            Sample::new(M::Guests, &["completed"], counted.guests_completed),
            Sample::new(M::Guests, &["no_room"], counted.guests_no_room),
            Sample::new(M::Guests, &["not_had"], counted.guests_not_had),
            Sample::new(M::Prefetch, &["begun"], counted.prefetched),
            Sample::new(M::Prefetch, &["refused"], counted.prefetch_refused),
            Sample::new(M::Prefetch, &["wasted"], counted.prefetch_wasted),
            Sample::new(M::Prefetch, &["kept"], counted.kept),
        ]);
        let trees = self.trees.current();
        let swept = trees.values().map(|tree| tree.swept());
        let (files, wasted) = swept.fold((0, 0), |(files, wasted), of| (files + of.files, wasted + of.wasted));
        into.extend([Sample::new(M::Swept, &["begun"], files), Sample::new(M::Swept, &["wasted"], wasted)]);
    }

    fn copies(&self, into: &mut Vec<Sample>) {
        let (counted, copies) = (self.cache.snapshot(), self.cache.replicator().snapshot());
        into.extend([
            Sample::new(M::Copies, &["pushed"], copies.copies_pushed),
            Sample::new(M::Copies, &["read"], copies.copies_read),
            Sample::new(M::Copies, &["failed"], copies.copies_failed),
            Sample::new(M::Copies, &["overflowed"], copies.copies_overflowed),
            Sample::new(M::Copies, &["lost"], copies.copies_lost),
            Sample::new(M::Copies, &["taken"], counted.copies_taken),
            Sample::new(M::Copies, &["refused"], counted.copies_refused),
            Sample::new(M::Copies, &["given"], copies.copies_given),
            Sample::new(M::Copies, &["declined"], copies.copies_declined),
            Sample::new(M::CopiesLacking, &[], copies.copies_lacking),
            Sample::new(M::CopiesGivenBytes, &[], copies.copies_given_bytes),
            Sample::new(M::OfferRounds, &[], copies.offer_rounds),
            Sample::new(M::CopiesPending, &[], copies.copies_pending + copies.copies_short),
        ]);
    }

    fn origins(&self, into: &mut Vec<Sample>) {
        for (id, origin) in self.origins.all() {
            let Some(volume) = self.origins.volume(id) else { continue };
            let (namespace, name, counted) = (&*volume.namespace, &*volume.name, origin.snapshot());
            into.extend([
                Sample::new(M::OriginRequests, &[namespace, name, "get"], counted.gets),
                Sample::new(M::OriginRequests, &[namespace, name, "head"], counted.heads),
                Sample::new(M::OriginRequests, &[namespace, name, "list"], counted.lists),
                Sample::new(M::OriginBytes, &[namespace, name], counted.bytes),
                Sample::new(M::OriginRetries, &[namespace, name], counted.retries),
            ]);
            into.extend(
                counted
                    .errors
                    .iter()
                    .map(|(kind, count)| Sample::new(M::OriginErrors, &[namespace, name, kind.as_str()], *count)),
            );
            into.extend(
                counted
                    .left_out
                    .iter()
                    .map(|(odd, count)| Sample::new(M::OddKeys, &[namespace, name, odd.as_str()], *count)),
            );
        }
    }

    fn peers(&self, into: &mut Vec<Sample>) {
        let (counted, shaken) = (self.peers.counts(), self.net.counts());
        into.extend([
            Sample::new(M::PeerRequests, &[], get(&counted.requests)),
            Sample::new(M::PeerFailures, &[], get(&counted.failures)),
            Sample::new(M::PeerBytes, &[], get(&counted.bytes)),
            Sample::new(M::PeerConnections, &[], self.peers.open_connections() as u64),
            Sample::new(M::Handshakes, &["accepted"], get(&shaken.accepted)),
            Sample::new(M::Handshakes, &["refused_identity"], get(&shaken.refused_identity)),
            Sample::new(M::Handshakes, &["failed"], get(&shaken.failed)),
            Sample::new(M::Handshakes, &["timed_out"], get(&shaken.timed_out)),
            Sample::new(M::Handshakes, &["crowded_out"], get(&shaken.crowded_out)),
            Sample::new(M::Handshakes, &["too_early"], get(&shaken.too_early)),
        ]);
    }

    fn stores(&self, into: &mut Vec<Sample>) {
        for debug in self.stores.debug() {
            let store = &debug.status;
            let healthy = match store.health {
                Health::Healthy | Health::Slow => 1,
                Health::Failing => 0,
            };
            into.extend([
                Sample::new(M::StoreCapacity, &[&store.name], store.capacity_bytes),
                Sample::new(M::StoreUsed, &[&store.name], store.used_bytes),
                Sample::new(M::StoreEvicted, &[&store.name], debug.counters.evicted_bytes),
                Sample::new(M::StoreChunks, &[&store.name], store.chunks),
                Sample::new(M::StoreHealthy, &[&store.name], healthy),
                Sample::new(M::StoreSlow, &[&store.name], u64::from(store.health == Health::Slow)),
                Sample::new(M::StoreAvoided, &[&store.name], debug.counters.avoided),
                Sample::new(M::StoreLingering, &[&store.name], debug.lingering_bytes),
                Sample::new(M::StoreBypassed, &[&store.name, "full"], debug.counters.bypassed_full),
                Sample::new(M::StoreBypassed, &[&store.name, "busy"], debug.counters.bypassed_busy),
                Sample::new(M::StoreBypassed, &[&store.name, "unavailable"], debug.counters.bypassed_unavailable),
                Sample::new(M::StoreBypassed, &[&store.name, "not_admitted"], debug.counters.not_admitted),
                Sample::new(M::StoreDropped, &[&store.name, "corrupt"], debug.counters.corrupt),
                Sample::new(M::StoreDropped, &[&store.name, "unreadable"], debug.counters.unreadable),
                Sample::new(M::StoreDropped, &[&store.name, "expired"], debug.counters.expired),
                Sample::new(M::StoreDropped, &[&store.name, "over_quota"], debug.counters.over_quota),
                Sample::new(M::StoreChecked, &[&store.name, "unclean_stop"], debug.counters.verified_bytes),
                Sample::new(M::StoreChecked, &[&store.name, "scrub"], debug.counters.scrubbed_bytes),
                Sample::new(M::StoreDiskFull, &[&store.name], debug.counters.disk_full),
            ]);
        }
    }

    fn map(&self, into: &mut Vec<Sample>) {
        let counted = self.map.counts();
        into.extend([
            Sample::new(M::MapEpoch, &[], self.map.epoch().0),
            Sample::new(M::Maps, &["adopted"], counted.adopted),
            Sample::new(M::Maps, &["older"], counted.older),
            Sample::new(M::Maps, &["forged"], counted.forged),
            Sample::new(M::Maps, &["foreign"], counted.foreign),
            Sample::new(M::Maps, &["malformed"], counted.malformed),
            Sample::new(M::Maps, &["other_base"], counted.other_base),
            Sample::new(M::Maps, &["not_stored"], counted.not_stored),
        ]);
    }

    fn names(&self, into: &mut Vec<Sample>) {
        let counted = self.names.counts();
        into.extend([
            Sample::new(M::Names, &["remembered"], counted.home.remembered),
            Sample::new(M::Names, &["origin"], counted.home.asked),
            Sample::new(M::Names, &["listed"], counted.home.listings),
            Sample::new(M::Names, &["home"], counted.remote),
            Sample::new(M::Names, &["next_owner"], counted.next_owner),
            Sample::new(M::Names, &["by_itself"], counted.by_itself),
            Sample::new(M::NamesStale, &["home"], counted.home.stale),
            Sample::new(M::NamesStale, &["mount"], self.trees.current().values().map(|tree| tree.stale_names()).sum()),
            Sample::new(M::NamesClash, &[], counted.home.clashes),
            Sample::new(M::HomeDirs, &[], counted.home.dirs),
            Sample::new(M::HomeBytes, &[], counted.home.bytes),
        ]);
    }

    fn mounts(&self, into: &mut Vec<Sample>) {
        for tree in self.trees.current().values() {
            let (volume, (inodes, handles)) = (tree.volume(), tree.counts());
            let labels = [&*volume.namespace, &*volume.name];
            into.extend([
                Sample::new(M::Mounted, &labels, 1),
                Sample::new(M::Inodes, &labels, inodes as u64),
                Sample::new(M::Handles, &labels, handles as u64),
            ]);
        }
        for op in Op::ALL {
            let counted = self.ops.of(op);
            into.extend([
                Sample::new(M::FuseOps, &[op.as_str(), "at_once"], counted.at_once),
                Sample::new(M::FuseOps, &[op.as_str(), "waited"], counted.waited),
                Sample::new(M::FuseOps, &[op.as_str(), "failed"], counted.failed),
            ]);
        }
        into.push(Sample::new(M::FuseReadBytes, &[], self.ops.read_bytes()));
        let counted = self.passthrough.counts();
        into.push(Sample::new(M::Passthrough, &[], counted.opened));
        for (reason, count) in Refusal::ALL.into_iter().zip(counted.refused) {
            into.push(Sample::new(M::PassthroughRefused, &[reason.as_str()], count));
        }
        into.push(Sample::new(M::PassthroughFiles, &[], counted.files));
        into.push(Sample::new(M::PassthroughFilesMax, &[], counted.files_max));
    }
}

/// What jemalloc counts.
fn allocator(into: &mut Vec<Sample>) {
    let Some(known) = process::allocator() else { return };
    let kinds = [
        ("allocated", known.allocated),
        ("active", known.active),
        ("resident", known.resident),
        ("retained", known.retained),
    ];
    into.extend(kinds.map(|(kind, bytes)| Sample::new(M::Allocator, &[kind], bytes)));
}
