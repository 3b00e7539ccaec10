//! The map authorities that run, one for each CacheCluster, while this replica leads.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use larder_crds::CacheCluster;
use larder_proto::ids::Epoch;
use larder_proto::volume::Volume;
use tokio::sync::{Mutex, watch};

use super::context::{Context, REQUEST};
use super::ledger::ConfigMapLedger;
use super::names::Names;
use super::tokens::TokenReviews;
use crate::authority::{Authority, AuthorityOptions, Ca, ForeignMap, Shape, StartError};
use crate::manifest::ObjectName;
use crate::manifest::told;

/// What runs for a CacheCluster.
#[derive(Clone)]
pub struct Running {
    /// Its uid: another one of that name is another cluster.
    pub(super) uid: String,
    /// Whom it trusts, and who signs first.
    trust_pem: String,
    pub(super) names: Names,
    pub(super) authority: Authority,
    pub(super) ledger: Arc<ConfigMapLedger>,
    pub(super) volumes: watch::Sender<Vec<Volume>>,
    /// What agents were told, and at which generation of what was written.
    pub(super) told: Arc<std::sync::Mutex<Told>>,
}

/// What a reconcile has applied.
#[derive(Clone, Default)]
pub struct Told {
    /// The CacheCluster's generation.
    pub(super) generation: Option<i64>,
    /// Its nodes by name, in the order of names.
    pub(super) nodes: Vec<larder_proto::ids::NodeName>,
    /// Its volumes: their generation, and what agents know or why they don't.
    pub(super) volumes: BTreeMap<ObjectName, (Option<i64>, Result<larder_proto::ids::VolumeId, told::Refusal>)>,
    /// Why agents that should be there can't be made, where somebody said so.
    pub(super) pods_missing: Option<String>,
    /// The Kubernetes nodes' uids.
    pub(super) uids: BTreeMap<larder_proto::ids::NodeName, String>,
    /// What is to become of nodes that aren't to serve as all others.
    pub(super) targets: BTreeMap<larder_proto::ids::NodeName, larder_crds::NodeTarget>,
    /// Why agents don't run, by node.
    pub(super) last_words: BTreeMap<String, String>,
    /// Whether nothing is changed.
    pub(super) is_paused: bool,
    /// How far agents are replaced.
    pub(super) rollout: super::cluster::Rollout,
}

/// Why an authority doesn't run.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its ConfigMaps can't be read or written.
    #[error("the map's ConfigMaps: {0}")]
    Ledger(#[from] std::io::Error),
    /// It doesn't start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The API server doesn't answer.
    #[error("the map's ConfigMaps: no answer within {} s", REQUEST.as_secs())]
    Deadline,
}

/// Those that run, by CacheCluster.
#[derive(Default)]
pub struct Authorities {
    running: Mutex<BTreeMap<ObjectName, Running>>,
}

impl Authorities {
    /// The one that runs for `name`.
    pub async fn get(&self, name: &ObjectName) -> Option<Running> {
        self.running.lock().await.get(name).cloned()
    }

    /// All.
    pub async fn all(&self) -> BTreeMap<ObjectName, Running> {
        self.running.lock().await.clone()
    }

    /// The one for `cluster`, started if it doesn't run.
    pub async fn ensure(
        &self,
        context: &Context,
        name: &ObjectName,
        cluster: &CacheCluster,
        names: &Names,
        ca: Ca,
    ) -> Result<Running, AuthorityError> {
        let mut all = self.running.lock().await;
        let uid = cluster.metadata.uid.clone().unwrap_or_default();
        let trust_pem = ca.trust_pem();
        if let Some(running) = all.get(name) {
            if running.uid == uid && running.trust_pem == trust_pem {
                running.authority.reshape(shape(cluster));
                running.authority.wait(crate::manifest::patience(&cluster.spec));
                return Ok(running.clone());
            }
            running.authority.stop().await;
            all.remove(name);
        }
        let owner = super::cluster::plan::owner(cluster);
        let opened = ConfigMapLedger::open(
            context.client.clone(),
            names,
            &owner,
            &context.settings.identity,
            context.leading.clone(),
        );
        let ledger = tokio::time::timeout(REQUEST, opened).await.map_err(|_| AuthorityError::Deadline)??;
        let ledger = Arc::new(ledger);
        let (volumes, told) = watch::channel(Vec::new());
        let stored = cluster.status.as_ref().and_then(|status| status.epoch).unwrap_or(0);
        let options = AuthorityOptions {
            cluster: names.id,
            ca,
            listen: SocketAddr::new(context.settings.listen, 0),
            tokens: Arc::new(TokenReviews::new(context.client.clone(), names.clone(), uid.clone())),
            shape: shape(cluster),
            ledger: ledger.clone(),
            foreign_map: ForeignMap::Discard,
            epoch_floor: Epoch(u64::try_from(stored).unwrap_or(0)),
        };
        let authority = Authority::start(options, told).await?;
        authority.wait(crate::manifest::patience(&cluster.spec));
        tracing::info!(cluster = %name, at = %authority.address(), "a map authority listens");
        let running =
            Running { uid, trust_pem, names: names.clone(), authority, ledger, volumes, told: Arc::default() };
        all.insert(name.clone(), running.clone());
        Ok(running)
    }

    /// Stops the one for `name`.
    pub async fn stop(&self, name: &ObjectName) {
        let running = self.running.lock().await.remove(name);
        if let Some(running) = running {
            running.authority.stop().await;
        }
    }

    /// Stops all.
    pub async fn stop_all(&self) {
        let all = std::mem::take(&mut *self.running.lock().await);
        futures::future::join_all(all.values().map(|running| running.authority.stop())).await;
    }
}

fn shape(cluster: &CacheCluster) -> Shape {
    let at_least_one = |number: i32| u32::try_from(number).unwrap_or(1).max(1);
    Shape { min_nodes: at_least_one(cluster.spec.min_nodes), replicas: at_least_one(cluster.spec.replicas) }
}
