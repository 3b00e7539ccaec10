//! The service agents call: `Join` with a token, `Session` with a certificate.
//!
//! A session hears reports and sends what changed. It ends when the agent is silent for 10 s, sends nonsense, is
//! removed, or opens another session (the newer one counts: the older one's agent is gone).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::Stream;
use larder_proto::control::message::authority_server::{Authority as Service, AuthorityServer};
use larder_proto::control::message::directive::Directive as Content;
use larder_proto::control::{NodeAddress, NodeReport, message, volumes_message, whereabouts_message};
use larder_proto::identity::Identity;
use larder_proto::ids::{Epoch, NodeId, NodeName};
use larder_proto::limits::{CSR_BYTES_MAX, REPORT_BYTES_MAX, TOKEN_BYTES_MAX};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::listen::{Caller, Incoming};
use super::{Moved, Shared, state::NoId};

/// Longer than any silence that is forgiven, shorter than a person's patience.
const SESSION_SILENCE: Duration = Duration::from_secs(10);

/// A directive that an agent doesn't take within this ends its session.
const SEND: Duration = Duration::from_secs(10);

/// Also without traffic a dead connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Streams of one connection: a join or a session, and the one that replaces it.
const STREAMS_MAX: u32 = 4;

pub(super) async fn serve(shared: Arc<Shared>, incoming: Incoming, stop: CancellationToken, tracker: TaskTracker) {
    let service = Sessions { shared, stop: stop.clone(), tracker, newest: Arc::default(), next: AtomicU64::new(1) };
    let service = AuthorityServer::new(service).max_decoding_message_size(REPORT_BYTES_MAX);
    let served = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(STREAMS_MAX)
        .serve_with_incoming_shutdown(service, incoming.into_stream(), stop.cancelled());
    if let Err(error) = served.await {
        tracing::error!(%error, "the map authority serves no more");
    }
}

struct Sessions {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tracker: TaskTracker,
    /// The newest session of each node.
    newest: Arc<Mutex<BTreeMap<NodeName, u64>>>,
    next: AtomicU64,
}

#[tonic::async_trait]
impl Service for Sessions {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<message::Directive, Status>> + Send>>;

    async fn join(&self, request: Request<message::JoinRequest>) -> Result<Response<message::JoinReply>, Status> {
        let request = request.into_inner();
        let name = NodeName::parse(&request.node).ok_or_else(|| Status::invalid_argument("not a node's name"))?;
        if request.token.len() as u64 > TOKEN_BYTES_MAX || request.csr.len() > CSR_BYTES_MAX {
            return Err(Status::invalid_argument("the token or the certificate request is too large"));
        }
        if !self.shared.tokens.verify(&name, &request.token).await {
            tracing::warn!(node = %name, "a join with a wrong token");
            return Err(Status::permission_denied(format!("the join token isn't one of node {name}")));
        }
        let (shared, node) = (self.shared.clone(), name.clone());
        let issued = tokio::task::spawn_blocking(move || {
            let identity = Identity::Node(shared.cluster, node.clone());
            let chain = shared.ca.issue(&identity, &request.csr);
            chain.map_err(|_| Status::invalid_argument("the certificate request can't be used")).and_then(|chain| {
                let id = shared.state.id_of(&node).map_err(no_id)?;
                Ok((id, chain))
            })
        });
        let (id, chain) = issued.await.map_err(|_| Status::internal("issuing the certificate failed"))??;
        tracing::info!(node = %name, %id, "a node joined");
        Ok(Response::new(message::JoinReply { node_id: id.0, chain }))
    }

    async fn session(
        &self,
        request: Request<Streaming<message::Report>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let caller = request.extensions().get::<Caller>();
        if caller.is_some_and(|caller| caller.identity.is_some() && !caller.is_current) {
            return Err(Status::failed_precondition("another CA signs now: join anew"));
        }
        let (name, id) = match caller.and_then(|caller| caller.identity.clone()) {
            Some(Identity::Node(cluster, name)) if cluster == self.shared.cluster => {
                let id = self.shared.state.known(&name);
                (name, id.ok_or_else(|| Status::unauthenticated("this node isn't known: join first"))?)
            }
            Some(Identity::Node(..) | Identity::Authority(_)) => return Err(Status::permission_denied("not a node")),
            None => return Err(Status::unauthenticated("a session needs a certificate: join first")),
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), number);
        let (outgoing, directives) = mpsc::channel(4);
        let session = Session {
            shared: self.shared.clone(),
            newest: self.newest.clone(),
            number,
            name,
            id,
            outgoing,
            reports: request.into_inner(),
        };
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            tokio::select! { biased;
                () = stop.cancelled() => {}
                () = session.run() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(directives))))
    }
}

fn no_id(error: NoId) -> Status {
    match error {
        NoId::Full => Status::resource_exhausted(error.to_string()),
        NoId::Io(_) => Status::unavailable(error.to_string()),
    }
}

struct Session {
    shared: Arc<Shared>,
    newest: Arc<Mutex<BTreeMap<NodeName, u64>>>,
    number: u64,
    name: NodeName,
    id: NodeId,
    outgoing: mpsc::Sender<Result<message::Directive, Status>>,
    reports: Streaming<message::Report>,
}

impl Session {
    async fn run(mut self) {
        let ended = self.talk().await;
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.get(&self.name) == Some(&self.number) {
            newest.remove(&self.name);
        }
        drop(newest);
        tracing::info!(node = %self.name, why = ended.message(), "a session ended");
        // The agent may be gone; then nobody reads why.
        let _ = self.outgoing.try_send(Err(ended));
    }

    async fn talk(&mut self) -> Status {
        let (mut maps, mut volumes) = (self.shared.published.subscribe(), self.shared.volumes.clone());
        volumes.mark_changed();
        let mut moved = self.shared.moved.subscribe();
        moved.mark_changed();
        // What this agent was told of where nodes are: only news is sent.
        let mut told = Moved::default();
        let mut heard = Instant::now();
        let mut epoch: Option<Epoch> = None;
        // A map that is newer when the session begins goes whole: a delta may have been what ended the last session.
        let mut follows = false;
        loop {
            let step = tokio::select! { biased;
                report = self.reports.message() => match report {
                    Ok(Some(report)) => {
                        heard = Instant::now();
                        self.hear(report).map(|reported| {
                            // The first report says which map it has; later ones may be older than what was sent.
                            epoch.get_or_insert_with(|| { maps.mark_changed(); reported });
                        })
                    }
                    Ok(None) => Err(Status::ok("the agent closed it")),
                    Err(status) => Err(status),
                },
                Ok(()) = maps.changed(), if epoch.is_some() => {
                    let published = maps.borrow_and_update().clone();
                    match published.filter(|published| Some(published.map.epoch()) > epoch) {
                        Some(published) => {
                            let delta = published.delta.filter(|(base, _)| follows && Some(*base) == epoch);
                            epoch = Some(published.map.epoch());
                            follows = true;
                            self.send(match delta {
                                Some((_, delta)) => Content::MapDelta(delta),
                                None => Content::Map(published.signed),
                            })
                            .await
                        }
                        None => {
                            follows = true;
                            Ok(())
                        }
                    }
                }
                Ok(()) = moved.changed(), if epoch.is_some() => {
                    let now = moved.borrow_and_update().clone();
                    let news: Vec<&NodeAddress> =
                        now.values().filter(|address| told.get(&address.node) != Some(address)).collect();
                    let message = whereabouts_message(news.iter().copied());
                    let sent = if news.is_empty() { Ok(()) } else { self.send(Content::Whereabouts(message)).await };
                    told = now;
                    sent
                }
                Ok(()) = volumes.changed() => {
                    let volumes = volumes_message(volumes.borrow_and_update().iter());
                    self.send(Content::Volumes(volumes)).await
                }
                () = sleep_until(heard + SESSION_SILENCE) => Err(Status::deadline_exceeded("no report for 10 s")),
            };
            if let Err(ended) = step {
                return ended;
            }
        }
    }

    fn hear(&self, report: message::Report) -> Result<Epoch, Status> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner).get(&self.name).copied();
        if newest != Some(self.number) {
            return Err(Status::aborted("the node has opened another session"));
        }
        if self.shared.state.known(&self.name) != Some(self.id) {
            return Err(Status::unauthenticated("the node was removed"));
        }
        let report = NodeReport::parse(report).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let epoch = report.epoch;
        if self.shared.core().report(self.id, &self.name, report, self.shared.now_ms()) {
            self.shared.news.notify_one();
        }
        Ok(epoch)
    }

    async fn send(&self, content: Content) -> Result<(), Status> {
        let directive = message::Directive { directive: Some(content) };
        match timeout(SEND, self.outgoing.send(Ok(directive))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the agent is gone")),
            Err(_) => Err(Status::deadline_exceeded("the agent doesn't take what it is sent")),
        }
    }
}
