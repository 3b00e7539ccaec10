//! The conversation with the map authority: join, then one session at a time, for ever.
//!
//! Certificate and volumes are kept in the state folder and used while the authority is away; so is the map, by its
//! holder. Reconnects back off from 0.2 to 5 s with jitter. A session reports each second and carries directives back;
//! a directive that can't be what it says ends the session. A refused identity (the authority forgot us, the
//! certificate ran out, another CA signs now) leads to a new join. Whom the agent trusts may change while it talks.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use larder_proto::control::{BadMessage, NodeReport};
use larder_proto::identity::{Identity, Trust};
use larder_proto::ids::{ClusterId, NodeName, VolumeId};
use larder_proto::volume::Volume;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::credentials::{IdentityError, NodeIdentity};
use super::holder::{AdoptError, MapHolder};
use crate::runtime::Runtime;
use crate::runtime::tasks::{Pool, PoolError};

mod session;
mod stored;

const BACKOFF: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// All volumes of the cluster.
pub type Volumes = Arc<BTreeMap<VolumeId, Arc<Volume>>>;

/// Where the authority is and who we are.
#[derive(Clone)]
pub struct AuthorityOptions {
    /// `host:port`.
    pub address: Arc<str>,
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub name: NodeName,
    /// Whose signatures are believed at first.
    pub trust: Trust,
    /// The file with the join token; read anew for each join.
    pub token: PathBuf,
    /// The state folder.
    pub state: PathBuf,
}

/// Makes the net show a certificate, once there is one, and trust these.
pub type Install = Box<dyn Fn(Option<&NodeIdentity>, &Trust) -> Result<(), rustls::Error> + Send + Sync>;

/// What the conversation needs of the rest of the agent.
pub struct Hooks {
    /// What is reported each second; the epoch is filled in. Must not block.
    pub report: Box<dyn Fn() -> NodeReport + Send + Sync>,
    /// Rung when a report says something that shouldn't wait for its second.
    pub news: Arc<Notify>,
    /// The net shows this certificate and trusts these CAs from now on.
    pub install: Install,
}

/// Joins and sessions, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuthorityCounts {
    /// Certificates that were issued to us.
    pub joins: u64,
    /// Sessions that began.
    pub sessions: u64,
    /// Joins and sessions that failed.
    pub failures: u64,
}

#[derive(Default)]
struct Counters {
    joins: AtomicU64,
    sessions: AtomicU64,
    failures: AtomicU64,
}

/// Why a join or a session ended.
#[derive(Debug, thiserror::Error)]
enum ConversationError {
    #[error("can't read the join token: {0}")]
    Token(io::Error),
    #[error("the authority answered {code:?}: {message}")]
    Answer { code: tonic::Code, message: String },
    #[error("the certificate can't be used: {0}")]
    Identity(#[from] IdentityError),
    #[error("the certificate can't be used: {0}")]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Directive(#[from] BadMessage),
    #[error("a directive without content")]
    EmptyDirective,
    #[error(transparent)]
    Map(#[from] AdoptError),
    #[error("the state folder: {0}")]
    State(#[from] io::Error),
    #[error("the state folder: {0}")]
    Pool(#[from] PoolError),
    #[error("no answer within {deadline_ms} ms")]
    Deadline { deadline_ms: u64 },
    #[error("reports pile up: the authority doesn't read")]
    Stalled,
    #[error("the authority ended the session")]
    Ended,
}

impl From<tonic::Status> for ConversationError {
    fn from(status: tonic::Status) -> Self {
        Self::Answer { code: status.code(), message: status.message().to_owned() }
    }
}

/// The conversation with the authority; it ends with the runtime's tasks. Cheap to clone.
#[derive(Clone)]
pub struct AuthorityClient {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Runtime,
    pool: Pool,
    options: AuthorityOptions,
    own: Identity,
    trust: ArcSwap<Trust>,
    /// What the net shows.
    shown: Mutex<Option<NodeIdentity>>,
    map: MapHolder,
    hooks: Hooks,
    volumes: watch::Sender<Option<Volumes>>,
    connected: watch::Sender<bool>,
    counters: Counters,
}

impl AuthorityClient {
    /// Begins the conversation. `identity` is what `NodeIdentity::load` found and the net shows already.
    pub async fn start(
        runtime: Runtime,
        options: AuthorityOptions,
        map: MapHolder,
        identity: Option<NodeIdentity>,
        hooks: Hooks,
    ) -> Self {
        let pool = runtime.tasks.pool("authority", 1, 16);
        let volumes = watch::Sender::new(stored::load(&runtime, &pool, &options.state).await);
        let own = Identity::Node(options.cluster, options.name.clone());
        let inner = Arc::new(Inner {
            runtime: runtime.clone(),
            pool,
            own,
            trust: ArcSwap::from_pointee(options.trust.clone()),
            shown: Mutex::new(identity.clone()),
            options,
            map,
            hooks,
            volumes,
            connected: watch::Sender::new(false),
            counters: Counters::default(),
        });
        runtime.tasks.spawn(converse(inner.clone(), identity));
        Self { inner }
    }

    /// The cluster's volumes; nothing before the authority, or the state folder, has told them.
    pub fn volumes(&self) -> watch::Receiver<Option<Volumes>> {
        self.inner.volumes.subscribe()
    }

    /// Trusts these CAs from now on: their certificates, and their maps. After an error the former ones stay.
    pub fn trust(&self, trust: Trust) -> Result<(), rustls::Error> {
        // Nobody shows another certificate meanwhile.
        let shown = self.inner.shown.lock();
        (self.inner.hooks.install)(shown.as_ref(), &trust)?;
        self.inner.map.trust(trust.keys().clone());
        self.inner.trust.store(Arc::new(trust));
        Ok(())
    }

    /// Whether a session is open.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.inner.connected.subscribe()
    }

    /// Joins and sessions, since the start.
    pub fn counts(&self) -> AuthorityCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { joins, sessions, failures } = &self.inner.counters;
        AuthorityCounts { joins: read(joins), sessions: read(sessions), failures: read(failures) }
    }
}

async fn converse(inner: Arc<Inner>, mut identity: Option<NodeIdentity>) {
    let mut backoff = BACKOFF;
    let mut told = String::new();
    loop {
        let sessions = inner.counters.sessions.load(Ordering::Relaxed);
        if let Err(error) = session::once(&inner, &mut identity).await {
            inner.counters.failures.fetch_add(1, Ordering::Relaxed);
            told = tell(&error, told);
        }
        inner.connected.send_replace(false);
        if inner.counters.sessions.load(Ordering::Relaxed) > sessions {
            backoff = BACKOFF;
            told.clear();
        }
        sleep(jitter(&inner.runtime, backoff)).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Logs a failure once, until another comes.
fn tell(error: &ConversationError, told: String) -> String {
    let text = error.to_string();
    if text == told {
        return told;
    }
    match error {
        ConversationError::Answer { code: tonic::Code::PermissionDenied | tonic::Code::Unauthenticated, .. } => {
            tracing::error!(%error, "the map authority refuses this node");
        }
        _ => tracing::warn!(%error, "no conversation with the map authority; going on with what is stored"),
    }
    text
}

/// Between half of `backoff` and all of it, so that agents don't come back all at once.
fn jitter(runtime: &Runtime, backoff: Duration) -> Duration {
    let half = u64::try_from(backoff.as_millis() / 2).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(half + runtime.rng.next_u64() % half)
}
