//! The operator: makes CacheClusters so, on a real Kubernetes.
//!
//! Each replica watches and answers its probes; one leads, by Lease, and only it writes and runs the map authorities
//! (the same as local mode's). A reconcile goes dereference -> validate -> plan (pure) -> apply -> status. One token
//! ends everything; who loses the lease stops writing at once and ends, to begin again as a follower.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Service};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{Controller, WatchStreamExt, controller, watcher};
use kube::{Api, Client, Resource};
use larder_crds::{CacheCluster, CacheNode, CacheVolume, NodeRequest};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod authorities;
mod backoff;
mod claims;
pub mod cluster;
mod context;
mod election;
mod http;
mod ledger;
mod metrics;
pub mod names;
mod report;
mod tokens;
mod written;

pub use context::Settings;

use context::Context;
use election::Election;

/// CacheClusters reconciled at once.
const CONCURRENCY: u16 = 4;

/// News of one object within this are one.
const DEBOUNCE: Duration = Duration::from_millis(300);

/// How long the end may take.
const END: Duration = Duration::from_secs(10);

/// Why the operator ends.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No configuration for the API server, or none that works.
    #[error("the API server: {0}")]
    Client(Box<kube::Error>),
    /// Probes and metrics can't be served.
    #[error("can't listen on {at}: {error}")]
    Listen {
        /// Where.
        at: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Another replica leads now.
    #[error("another replica leads now")]
    Deposed,
}

/// Runs until `stop` is cancelled, or until this replica, having led, leads no more.
pub async fn run(settings: Settings, probes: SocketAddr, stop: CancellationToken) -> Result<(), OperatorError> {
    let client = Client::try_default().await.map_err(|error| OperatorError::Client(Box::new(error)))?;
    let listen = |error| OperatorError::Listen { at: probes, error };
    let listener = http::listen(probes).await.map_err(listen)?;
    let tracker = TaskTracker::new();
    let _ended = stop.clone().drop_guard();
    let (context, news) = watch_all(client.clone(), &settings, &stop, &tracker);
    let shown = context.clone();
    let pages = http::Pages { ready: AtomicBool::new(false), metrics: Box::new(move || shown.metrics.text()) };
    let pages = Arc::new(pages);
    tracker.spawn(http::serve(listener, pages.clone(), stop.clone()));
    let all_known = known(&context);
    tokio::select! { biased;
        () = stop.cancelled() => return Ok(()),
        () = all_known => pages.ready.store(true, Ordering::Relaxed),
    }
    tracing::info!(identity = settings.identity, "ready; waiting for the lease");
    let outcome = lead(client, &settings, context, news, &stop, &tracker).await;
    stop.cancel();
    tracker.close();
    if tokio::time::timeout(END, tracker.wait()).await.is_err() {
        tracing::warn!("not every task has ended in time");
    }
    outcome
}

/// The CacheClusters and CacheVolumes that there are, a line each.
pub async fn left() -> Result<Vec<String>, OperatorError> {
    let failed = |error| OperatorError::Client(Box::new(error));
    let client = Client::try_default().await.map_err(failed)?;
    let mut left = Vec::new();
    let all = ListParams::default();
    for volume in Api::<CacheVolume>::all(client.clone()).list_metadata(&all).await.map_err(failed)? {
        left.push(format!("CacheVolume {}", cluster::name_of(&volume.metadata)));
    }
    for cluster in Api::<CacheCluster>::all(client).list_metadata(&all).await.map_err(failed)? {
        left.push(format!("CacheCluster {}", cluster::name_of(&cluster.metadata)));
    }
    Ok(left)
}

/// Waits for the lease, works while it is held.
async fn lead(
    client: Client,
    settings: &Settings,
    context: Arc<Context>,
    news: News,
    stop: &CancellationToken,
    tracker: &TaskTracker,
) -> Result<(), OperatorError> {
    let mut election = Election::new(client.clone(), &settings.namespace, settings.identity.clone());
    if !election.win(stop).await {
        return Ok(());
    }
    context.metrics.leads.store(true, Ordering::Relaxed);
    let leading = context.leading.clone();
    let working = tracker.spawn(control(client, context.clone(), news.clusters));
    tracker.spawn(claims::look_after(context.clone(), news.claims));
    tracker.spawn(report::look_after(context.clone()));
    tokio::select! { biased;
        () = leading.cancelled() => {}
        () = election.keep(stop) => {}
    }
    leading.cancel();
    context.metrics.leads.store(false, Ordering::Relaxed);
    context.authorities.stop_all().await;
    if tokio::time::timeout(END, working).await.is_err() {
        tracing::warn!("a reconcile hangs");
    }
    election.release().await;
    if stop.is_cancelled() { Ok(()) } else { Err(OperatorError::Deposed) }
}

/// The controller of CacheClusters: also told of what they own, and of every volume and node.
async fn control(client: Client, context: Arc<Context>, news: watch::Receiver<u64>) {
    let ours = watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={}", names::MANAGER));
    let leading = context.leading.clone();
    let controller =
        Controller::new(Api::<DeserializeGuard<CacheCluster>>::all(client.clone()), watcher::Config::default());
    let reconciled = controller
        .with_config(controller::Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .owns(Api::<DaemonSet>::all(client.clone()), ours.clone())
        .owns(Api::<ConfigMap>::all(client.clone()), ours.clone())
        .owns(Api::<Service>::all(client), ours)
        .reconcile_all_on(changes(news))
        .graceful_shutdown_on(async move { leading.cancelled().await })
        .run(cluster::reconcile, cluster::on_error, context.clone());
    reconciled
        .for_each(|outcome| {
            let counter = match &outcome {
                Ok(_) => &context.metrics.successes,
                Err(_) => &context.metrics.errors,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            async {}
        })
        .await;
}

/// Each change, for as long as there is somebody to make one.
fn changes(news: watch::Receiver<u64>) -> impl Stream<Item = ()> + Send + 'static {
    futures::stream::unfold(news, |mut news| async move {
        news.changed().await.ok()?;
        Some(((), news))
    })
}

/// What there is to look at anew.
struct News {
    /// Changes when a volume or a node's labels did.
    clusters: watch::Receiver<u64>,
    /// Changes when a volume, a claim, a PersistentVolume, a StorageClass or a namespace did.
    claims: watch::Receiver<u64>,
}

/// Starts every watch.
fn watch_all(
    client: Client,
    settings: &Settings,
    stop: &CancellationToken,
    tracker: &TaskTracker,
) -> (Arc<Context>, News) {
    let (sender, news) = watch::channel(0_u64);
    let sender = Arc::new(sender);
    let (claims_sender, claims_news) = watch::channel(0_u64);
    let claims_sender = Arc::new(claims_sender);
    let claims_changed = || {
        let sender = claims_sender.clone();
        move || sender.send_modify(|count| *count += 1)
    };
    let (clusters, each) = follow::<DeserializeGuard<CacheCluster>>(client.clone());
    tracker.spawn(drain(each, stop.clone(), |_| {}));
    let (cache_nodes, each) = follow::<DeserializeGuard<CacheNode>>(client.clone());
    let (mut requests, asked) = (Requests::default(), sender.clone());
    tracker.spawn(drain(each, stop.clone(), move |event| {
        if requests.changed(event) {
            asked.send_modify(|count| *count += 1);
        }
    }));
    let (volumes, each) = follow::<DeserializeGuard<CacheVolume>>(client.clone());
    let (changed, claims) = (sender.clone(), claims_changed());
    tracker.spawn(drain(each, stop.clone(), move |_| {
        changed.send_modify(|count| *count += 1);
        claims();
    }));
    let (nodes, each) = follow::<Node>(client.clone());
    let (mut seen, changed) = (Seen::new(node_facts), sender.clone());
    tracker.spawn(drain(each, stop.clone(), move |event| {
        if seen.changed(event) {
            changed.send_modify(|count| *count += 1);
        }
    }));
    let (namespaces, each) = follow::<Namespace>(client.clone());
    let (mut seen, changed) = (Seen::new(namespace_facts), claims_changed());
    tracker.spawn(drain(each, stop.clone(), move |event| {
        if seen.changed(event) {
            sender.send_modify(|count| *count += 1);
        }
        // Also when one begins to end.
        changed();
    }));
    let (claims, each) = follow::<PersistentVolumeClaim>(client.clone());
    let changed = claims_changed();
    tracker.spawn(drain(each, stop.clone(), move |_| changed()));
    let (persistent, each) = follow::<PersistentVolume>(client.clone());
    let changed = claims_changed();
    tracker.spawn(drain(each, stop.clone(), move |_| changed()));
    let ours = watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={}", names::MANAGER));
    let (classes, each) = follow_some::<StorageClass>(client.clone(), ours);
    let changed = claims_changed();
    tracker.spawn(drain(each, stop.clone(), move |_| changed()));
    let reporter = Reporter { controller: names::MANAGER.into(), instance: Some(settings.identity.clone()) };
    let context = Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        settings: settings.clone(),
        leading: stop.child_token(),
        clusters,
        volumes,
        cache_nodes,
        nodes,
        namespaces,
        claims,
        persistent,
        classes,
        cordons: Default::default(),
        authorities: Default::default(),
        backoff: Default::default(),
        written: Default::default(),
        metrics: Default::default(),
    };
    (Arc::new(context), News { clusters: news, claims: claims_news })
}

async fn known(context: &Context) {
    // The stores' writers live as long as the process.
    let _ = tokio::join!(
        context.clusters.wait_until_ready(),
        context.volumes.wait_until_ready(),
        context.cache_nodes.wait_until_ready(),
        context.nodes.wait_until_ready(),
        context.namespaces.wait_until_ready(),
        context.claims.wait_until_ready(),
        context.persistent.wait_until_ready(),
        context.classes.wait_until_ready(),
    );
}

type Events<K> = futures::stream::BoxStream<'static, watcher::Result<watcher::Event<K>>>;

/// A store of all objects of a kind, and the events that fill it as they are taken.
fn follow<K>(client: Client) -> (Store<K>, Events<K>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    follow_some(client, watcher::Config::default())
}

/// The same of some.
fn follow_some<K>(client: Client, which: watcher::Config) -> (Store<K>, Events<K>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store::<K>();
    let events = watcher(Api::<K>::all(client), which).default_backoff().reflect(writer);
    (store, events.boxed())
}

async fn drain<K>(
    mut events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Unpin,
    stop: CancellationToken,
    mut each: impl FnMut(&watcher::Event<K>),
) {
    loop {
        let next = tokio::select! { biased;
            () = stop.cancelled() => return,
            next = events.try_next() => next,
        };
        match next {
            Ok(Some(event)) => each(&event),
            Ok(None) => return,
            Err(error) => tracing::warn!(%error, "a watch failed; it is begun again"),
        }
    }
}

/// What is asked of CacheNodes, for noticing when it changes: their statuses change all the time.
#[derive(Default)]
struct Requests(BTreeMap<crate::manifest::ObjectName, NodeRequest>);

impl Requests {
    fn changed(&mut self, event: &watcher::Event<DeserializeGuard<CacheNode>>) -> bool {
        let (watcher::Event::Apply(DeserializeGuard(Ok(node))) | watcher::Event::InitApply(DeserializeGuard(Ok(node)))) =
            event
        else {
            return false;
        };
        let name = cluster::name_of(&node.metadata);
        let before = match node.spec.request {
            // Most are asked for nothing, and needn't be remembered.
            NodeRequest::None => self.0.remove(&name).unwrap_or_default(),
            asked @ (NodeRequest::Drain | NodeRequest::Remove) => self.0.insert(name, asked).unwrap_or_default(),
        };
        before != node.spec.request
    }
}

/// What matters of objects, for noticing when it changes: nodes' statuses change every few seconds.
struct Seen<K, F> {
    facts: fn(&K) -> F,
    seen: BTreeMap<String, F>,
}

/// Of a node: labels, uid, whether it is cordoned, its taints.
fn node_facts(node: &Node) -> cluster::FoundNode {
    cluster::FoundNode::read(node, |_| jiff::Timestamp::UNIX_EPOCH)
}

/// Of a namespace: its labels.
fn namespace_facts(namespace: &Namespace) -> BTreeMap<String, String> {
    namespace.metadata.labels.clone().unwrap_or_default()
}

impl<K: Resource, F: PartialEq> Seen<K, F> {
    fn new(facts: fn(&K) -> F) -> Self {
        Self { facts, seen: BTreeMap::new() }
    }

    fn changed(&mut self, event: &watcher::Event<K>) -> bool {
        let name = |object: &K| object.meta().name.clone().unwrap_or_default();
        match event {
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
                let facts = (self.facts)(object);
                let same = self.seen.get(&name(object)) == Some(&facts);
                self.seen.insert(name(object), facts);
                !same
            }
            watcher::Event::Delete(object) => self.seen.remove(&name(object)).is_some(),
            // Some may have gone meanwhile.
            watcher::Event::InitDone => true,
            watcher::Event::Init => false,
        }
    }
}
