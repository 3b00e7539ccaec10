//! All metrics in one table, as OpenMetrics text.
//!
//! The modules count for themselves and know nothing of metrics; here their counters are read when somebody scrapes.
//! [`Metric`] is the table: name, kind, labels and meaning. No label holds the name of an object or a peer's address,
//! so the number of series is bounded by the configuration.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

mod samples;

pub use samples::{Sources, Trees};

macro_rules! metrics {
    ($($(#[doc = $help:literal])* $metric:ident $kind:ident $name:literal [$($label:literal),*];)*) => {
        /// Every metric.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Metric {
            $($(#[doc = $help])* $metric,)*
        }

        impl Metric {
            /// The table, in the order of the text.
            pub const ALL: &'static [Self] = &[$(Self::$metric,)*];

            /// The name; counters get `_total` appended.
            pub fn name(self) -> &'static str {
                match self { $(Self::$metric => concat!("larder_", $name),)* }
            }

            fn kind(self) -> MetricType {
                match self { $(Self::$metric => MetricType::$kind,)* }
            }

            fn help(self) -> &'static str {
                match self { $(Self::$metric => concat!($($help,)*).trim_ascii(),)* }
            }

            /// The names of its labels.
            pub fn labels(self) -> &'static [&'static str] {
                match self { $(Self::$metric => &[$($label),*],)* }
            }
        }
    };
}

metrics! {
    /// Reads, by the place that answered them
    Reads Counter "reads" ["place"];
    /// Reads that no place answered
    ReadsFailed Counter "reads_failed" [];
    /// Bytes that came from a place, or went to peers
    Bytes Counter "bytes" ["place"];
    /// Reads that joined a flight that was there
    Followers Counter "followers" [];
    /// Chunks asked for at the origin by this node
    Fills Counter "fills" [];
    /// Chunks that came whole from the origin
    Filled Counter "filled" [];
    /// Chunks on their way
    Flights Gauge "flights" [];
    /// Memory that the agent may use: three quarters of the smallest limit of its cgroup and those that contain it; of 1 GiB
    /// and 16 MiB per TiB of store where none has a limit
    MemoryBudget Gauge "memory_budget_bytes" [];
    /// Memory as the allocator (jemalloc) counts it: allocated, active, resident, retained
    Allocator Gauge "allocator_bytes" ["kind"];
    /// Memory held by flights
    FlightBytes Gauge "flight_bytes" [];
    /// Bound of the memory held by flights
    FlightBytesMax Gauge "flight_bytes_max" [];
    /// Blocks that failed their checksum
    Corrupt Counter "corrupt_blocks" [];
    /// Places given up because they broke off or made no progress
    Abandoned Counter "abandoned" [];
    /// Chunks that were served and not kept: the store had no room, was busy, or failed
    Bypassed Counter "bypassed" [];
    /// Second owners asked because the first was late, by what became of it; refused: more than 5 % of requests
    Hedges Counter "hedges" ["outcome"];
    /// Chunks asked for ahead of a reader, by what became of them
    Prefetch Counter "prefetch" ["outcome"];
    /// Small files brought because most of their directory is read, by what became of them
    Swept Counter "swept_files" ["outcome"];
    /// Copies of chunks, by what became of them
    Copies Counter "copies" ["outcome"];
    /// Objects of other nodes that this node reads, by what became of copying them here
    Guests Counter "guests" ["outcome"];
    /// Copies that other owners don't have yet
    CopiesPending Gauge "copies_pending" [];
    /// Copies that owners lack and this node is about to offer them
    CopiesLacking Gauge "copies_lacking" [];
    /// Bytes of copies that owners lacked and took when they were offered
    CopiesGivenBytes Counter "copies_given_bytes" [];
    /// Rounds of offers that came to their end
    OfferRounds Counter "offer_rounds" [];
    /// Requests to an origin
    OriginRequests Counter "origin_requests" ["namespace", "volume", "kind"];
    /// Bytes from an origin
    OriginBytes Counter "origin_bytes" ["namespace", "volume"];
    /// Requests to an origin that were repeated
    OriginRetries Counter "origin_retries" ["namespace", "volume"];
    /// Answers of an origin that were errors, by kind
    OriginErrors Counter "origin_errors" ["namespace", "volume", "kind"];
    /// Keys of a bucket that can't be paths, by reason
    OddKeys Counter "odd_keys" ["namespace", "volume", "reason"];
    /// Requests to peers
    PeerRequests Counter "peer_requests" [];
    /// Requests to peers that failed
    PeerFailures Counter "peer_failures" [];
    /// Bytes from peers
    PeerBytes Counter "peer_bytes" [];
    /// Connections to peers
    PeerConnections Gauge "peer_connections" [];
    /// Incoming connections of peers, by what became of them
    Handshakes Counter "handshakes" ["outcome"];
    /// Bytes that a store may hold
    StoreCapacity Gauge "store_capacity_bytes" ["store"];
    /// Bytes that a store holds
    StoreUsed Gauge "store_used_bytes" ["store"];
    /// Bytes that left a store to make room
    StoreEvicted Counter "store_evicted_bytes" ["store"];
    /// Chunks in a store
    StoreChunks Gauge "store_chunks" ["store"];
    /// Whether a store takes writes (1) or failed a sync (0)
    StoreHealthy Gauge "store_healthy" ["store"];
    /// Whether a store is slow (1): others are asked first, the origin last, until it is as it was
    StoreSlow Gauge "store_slow" ["store"];
    /// Reads that went elsewhere because a disk hung
    StoreAvoided Counter "store_avoided_reads" ["store"];
    /// Bytes of unlinked files that programs may still have mapped
    StoreLingering Gauge "store_lingering_bytes" ["store"];
    /// Chunks that a store did not take in, by reason
    StoreBypassed Counter "store_bypassed" ["store", "reason"];
    /// Chunks that left a store, but not to make room, by reason
    StoreDropped Counter "store_dropped_chunks" ["store", "reason"];
    /// Bytes that a store compared with their checksums by itself, by occasion
    StoreChecked Counter "store_checked_bytes" ["store", "occasion"];
    /// Writes that found the disk full, of bytes or of names
    StoreDiskFull Counter "store_disk_full" ["store"];
    /// Damaged chunks, by whether they could be brought again at once
    Repairs Counter "repairs" ["outcome"];
    /// The epoch of the map in use
    MapEpoch Gauge "map_epoch" [];
    /// Maps that came, by what became of them
    Maps Counter "maps" ["outcome"];

    /// Answers about names, by who gave them
    Names Counter "names" ["answer"];
    /// Names served older than they should be, because the origin can't be asked
    NamesStale Counter "names_stale" ["by"];
    /// Names that are both a file and a directory, shown as the directory
    NamesClash Counter "names_clash" [];
    /// Directories that this node remembers as their home
    HomeDirs Gauge "home_dirs" [];
    /// Memory that remembered directories take
    HomeBytes Gauge "home_bytes" [];
    /// Whether a volume is mounted here
    Mounted Gauge "mounted" ["namespace", "volume"];
    /// Files and directories that the kernel refers to
    Inodes Gauge "inodes" ["namespace", "volume"];
    /// Open files and directories
    Handles Gauge "handles" ["namespace", "volume"];
    /// Operations of mounts, by how they were answered
    FuseOps Counter "fuse_ops" ["op", "answer"];
    /// Bytes given to readers of mounts
    FuseReadBytes Counter "fuse_read_bytes" [];
    /// Opens of files that the kernel reads past the agent
    Passthrough Counter "passthrough_opens" [];
    /// Opens of whole local files that the kernel doesn't read past the agent, by the reason
    PassthroughRefused Counter "passthrough_refused" ["reason"];
    /// Files that the kernel reads past the agent now
    PassthroughFiles Gauge "passthrough_files" [];
    /// The most there may be: a share of the descriptors that the agent may have
    PassthroughFilesMax Gauge "passthrough_files_max" [];
}

/// One number of one metric; the labels' values in the table's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    metric: Metric,
    labels: Vec<Arc<str>>,
    value: u64,
}

impl Sample {
    fn new(metric: Metric, labels: &[&str], value: u64) -> Self {
        debug_assert_eq!(labels.len(), metric.labels().len(), "{metric:?}");
        Self { metric, labels: labels.iter().map(|label| Arc::from(*label)).collect(), value }
    }
}

/// What a scrape reads.
pub trait Samples: Send + Sync + 'static {
    /// Every number there is now.
    fn samples(&self) -> Vec<Sample>;
}

/// The registry that a scrape encodes.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Metrics read from `samples` at each scrape.
    pub fn new(samples: Arc<dyn Samples>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape(samples)));
        Self { registry }
    }

    /// All metrics as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("writing to a string can't fail");
        text
    }
}

struct Scrape(Arc<dyn Samples>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let samples = self.0.samples();
        for metric in Metric::ALL {
            let mut family = encoder.encode_descriptor(metric.name(), metric.help(), None, metric.kind())?;
            for sample in samples.iter().filter(|sample| sample.metric == *metric) {
                let labels: Vec<(&str, &str)> =
                    metric.labels().iter().copied().zip(sample.labels.iter().map(AsRef::as_ref)).collect();
                if labels.is_empty() {
                    number(&mut family, *metric, sample.value)?;
                } else {
                    number(&mut family.encode_family(&labels)?, *metric, sample.value)?;
                }
            }
        }
        Ok(())
    }
}

fn number(encoder: &mut MetricEncoder<'_>, metric: Metric, value: u64) -> fmt::Result {
    match metric.kind() {
        MetricType::Counter => encoder.encode_counter::<NoLabelSet, _, u64>(&value, None),
        MetricType::Gauge => encoder.encode_gauge(&value),
        MetricType::Histogram | MetricType::Info | MetricType::Unknown => {
            unreachable!("the table holds counters and gauges only")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    struct Fixed(Vec<Sample>);

    impl Samples for Fixed {
        fn samples(&self) -> Vec<Sample> {
            self.0.clone()
        }
    }

    #[test]
    fn names_are_unique_and_each_has_a_meaning() {
        let names: BTreeSet<&str> = Metric::ALL.iter().map(|metric| metric.name()).collect();
        assert_eq!(names.len(), Metric::ALL.len());
        assert!(Metric::ALL.iter().all(|metric| metric.help().len() > 10));
    }

    #[test]
    fn the_text_is_openmetrics() {
        let samples = vec![
            Sample::new(Metric::Reads, &["memory"], 3),
            Sample::new(Metric::Reads, &["origin"], 1),
            Sample::new(Metric::MapEpoch, &[], 7),
        ];
        let text = Metrics::new(Arc::new(Fixed(samples))).text();
        assert!(text.contains("# TYPE larder_reads counter\n"), "{text}");
        assert!(text.contains("larder_reads_total{place=\"memory\"} 3\n"), "{text}");
        assert!(text.contains("larder_map_epoch 7\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
