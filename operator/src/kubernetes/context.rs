//! What every reconcile shares: the client, the stores that watches fill, the authorities that run, who we are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::core::DeserializeGuard;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::Store;
use larder_crds::{CacheCluster, CacheNode, CacheVolume};
use tokio_util::sync::CancellationToken;

use super::authorities::Authorities;
use super::backoff::Backoff;
use super::metrics::Metrics;
use super::written::Written;

/// For one request to the API server.
pub const REQUEST: Duration = Duration::from_secs(10);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The agents' image.
    pub agent_image: String,
    /// Images that a CacheCluster may ask for instead; a star at the end stands for anything.
    pub allowed_images: Vec<String>,
    /// Taints of nodes that an autoscaler is about to remove.
    pub drain_taints: Vec<String>,
    /// Where agents reach this replica.
    pub advertise: IpAddr,
    /// The address authorities listen on.
    pub listen: IpAddr,
    /// Paths below which stores may lie.
    pub allowed_prefixes: Vec<String>,
    /// The namespace of the Lease.
    pub namespace: String,
    /// Who holds what this replica holds: its address and its process.
    pub identity: String,
}

/// What every reconcile shares.
pub struct Context {
    pub(super) client: Client,
    pub(super) settings: Settings,
    /// Cancelled when this replica leads no more: nothing is written then.
    pub(super) leading: CancellationToken,
    pub(super) clusters: Store<DeserializeGuard<CacheCluster>>,
    pub(super) volumes: Store<DeserializeGuard<CacheVolume>>,
    pub(super) cache_nodes: Store<DeserializeGuard<CacheNode>>,
    pub(super) nodes: Store<Node>,
    pub(super) namespaces: Store<Namespace>,
    pub(super) claims: Store<PersistentVolumeClaim>,
    pub(super) persistent: Store<PersistentVolume>,
    /// Those with our label.
    pub(super) classes: Store<StorageClass>,
    pub(super) cordons: Cordons,
    pub(super) authorities: Authorities,
    pub(super) backoff: Backoff,
    pub(super) written: Written,
    pub(super) metrics: Metrics,
    pub(super) recorder: Recorder,
}

/// When nodes were first seen to be cordoned, for those whose taint doesn't say since when.
#[derive(Default)]
pub struct Cordons(Mutex<BTreeMap<String, Timestamp>>);

impl Cordons {
    /// When this node was first asked about.
    pub fn first_seen(&self, node: &str) -> Timestamp {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen.entry(node.to_owned()).or_insert_with(Timestamp::now)
    }

    /// It is cordoned no more.
    pub fn forget(&self, node: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }
}
