//! Answering peers: who comes in, on which lane, and within which bounds.
//!
//! A connection belongs to the node that its certificate names; every request asks anew whether that node is in the
//! map, because leaving the map revokes at once. Beyond the bounds a connection's first request is answered `Busy`;
//! when there are too many of those too, it is closed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use larder_proto::ids::NodeName;
use larder_proto::limits::{HEAD_BYTES_MAX, SERVED_CONNECTIONS_MAX, SERVED_CONNECTIONS_PER_PEER_MAX};
use parking_lot::Mutex;

use super::route::Requests;
use super::stall::Patient;
use super::{Client, ControlRoutes, Handler, Members};
use crate::runtime::Runtime;
use crate::runtime::net::{BoxIo, Identity, Lane, Listener};

/// How long a connection may lie idle or a head may take. Longer than the asker keeps idle connections, so that it is
/// the asker who closes them.
const HEAD: Duration = Duration::from_secs(30);

/// How long a peer may accept no byte of an answer on the bytes lane: what waits to be sent is memory of this node's
/// flights. Who reads them has its own memory before it asks; one that gets no processor for a second is waited for.
const STALL: Duration = Duration::from_secs(5);

/// The same on the control lane, whose answers are small.
const CONTROL_STALL: Duration = Duration::from_secs(30);

/// Headers of a request are ten.
const HEADERS_MAX: usize = 32;

/// Connections beyond the bounds that are told `Busy`.
const TURNED_AWAY_MAX: usize = 64;

/// Calls under way on one control connection.
const CALLS_MAX: u32 = 256;

/// How often a silent control connection is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What peers asked, since the start.
#[derive(Debug, Default)]
pub struct ServerCounts {
    /// Requests understood.
    pub requests: AtomicU64,
    /// Bytes of chunks sent, checksums not counted.
    pub bytes: Arc<AtomicU64>,
    /// Requests that broke the protocol.
    pub bad_requests: AtomicU64,
    /// Connections and requests of who isn't in the map.
    pub not_members: AtomicU64,
    /// Connections beyond the bounds.
    pub turned_away: AtomicU64,
}

/// Answers peers.
pub struct Server {
    runtime: Runtime,
    members: Arc<dyn Members>,
    requests: Arc<Requests>,
    routes: ControlRoutes,
    counts: Arc<ServerCounts>,
    guests: Arc<Mutex<Guests>>,
}

/// Open connections.
#[derive(Default)]
struct Guests {
    served: usize,
    turned_away: usize,
    by_peer: BTreeMap<NodeName, usize>,
}

/// A place within the bounds, left on drop.
struct Place {
    guests: Arc<Mutex<Guests>>,
    peer: NodeName,
    kind: PlaceKind,
}

/// What a connection gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlaceKind {
    /// Answers.
    Served,
    /// `Busy`, once.
    TurnedAway,
}

impl Place {
    fn find(guests: &Arc<Mutex<Guests>>, peer: &NodeName) -> Option<Self> {
        let mut open = guests.lock();
        let of_peer = open.by_peer.get(peer).copied().unwrap_or(0);
        let kind = if open.served < SERVED_CONNECTIONS_MAX && of_peer < SERVED_CONNECTIONS_PER_PEER_MAX {
            open.served += 1;
            open.by_peer.insert(peer.clone(), of_peer + 1);
            PlaceKind::Served
        } else if open.turned_away < TURNED_AWAY_MAX {
            open.turned_away += 1;
            PlaceKind::TurnedAway
        } else {
            return None;
        };
        Some(Self { guests: guests.clone(), peer: peer.clone(), kind })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.guests.lock();
        match self.kind {
            PlaceKind::TurnedAway => open.turned_away -= 1,
            PlaceKind::Served => {
                open.served -= 1;
                let left = open.by_peer.get(&self.peer).map_or(0, |count| count - 1);
                if left == 0 {
                    open.by_peer.remove(&self.peer);
                } else {
                    open.by_peer.insert(self.peer.clone(), left);
                }
            }
        }
    }
}

impl Server {
    /// A server that answers the members of `client` through `handler` (chunks) and `routes` (control). `client`
    /// fetches the newer maps that askers turn out to have.
    pub fn new(runtime: Runtime, client: Client, handler: Arc<dyn Handler>, routes: ControlRoutes) -> Arc<Self> {
        let counts = Arc::new(ServerCounts::default());
        let members = client.members().clone();
        let requests = Requests::new(runtime.clone(), client, handler, counts.clone());
        Arc::new(Self { runtime, members, requests, routes, counts, guests: Arc::default() })
    }

    /// What peers asked, since the start.
    pub fn counts(&self) -> &ServerCounts {
        &self.counts
    }

    /// Connections served now.
    pub fn connections(&self) -> usize {
        self.guests.lock().served
    }

    /// Serves who comes to `listener`, until it ends or the agent stops.
    pub async fn serve(self: Arc<Self>, mut listener: Box<dyn Listener>) {
        loop {
            match listener.accept().await {
                Ok((io, identity, lane)) => self.admit(io, identity, lane),
                Err(error) => {
                    tracing::error!(%error, address = %listener.local_addr(), "peers can't connect any more");
                    return;
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, io: BoxIo, identity: Identity, lane: Lane) {
        // The authority has nothing to ask of an agent; agents call it.
        let Identity::Node(cluster, peer) = identity else {
            self.counts.not_members.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if cluster != self.members.cluster() {
            self.counts.not_members.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let place = Place::find(&self.guests, &peer);
        if place.as_ref().is_none_or(|place| place.kind == PlaceKind::TurnedAway) {
            self.counts.turned_away.fetch_add(1, Ordering::Relaxed);
        }
        let Some(place) = place else { return };
        let stall = match lane {
            Lane::Bytes => STALL,
            Lane::Control => CONTROL_STALL,
        };
        let (server, io) = (self.clone(), TokioIo::new(Patient::new(io, stall)));
        self.runtime.tasks.spawn(async move {
            match lane {
                Lane::Bytes => server.serve_bytes(io, peer, place.kind).await,
                Lane::Control if place.kind == PlaceKind::Served => server.serve_control(io, peer).await,
                Lane::Control => {}
            }
            drop(place);
        });
    }

    async fn serve_bytes(&self, io: TokioIo<Patient>, peer: NodeName, kind: PlaceKind) {
        let service = service_fn(|request: Request<Incoming>| {
            let (requests, peer) = (self.requests.clone(), peer.clone());
            async move { Ok::<_, Infallible>(requests.answer(&peer, kind, request).await) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_headers(HEADERS_MAX);
        builder.max_header_size(HEAD_BYTES_MAX);
        if let Err(error) = builder.serve_connection(io, service).await {
            tracing::debug!(%error, %peer, "a connection ended early");
        }
    }

    async fn serve_control(&self, io: TokioIo<Patient>, peer: NodeName) {
        let service = service_fn(|mut request: Request<Incoming>| {
            let (routes, peer, counts) = (self.routes.clone(), peer.clone(), self.counts.clone());
            let is_member = self.members.is_member(&peer);
            async move {
                if !is_member {
                    counts.not_members.fetch_add(1, Ordering::Relaxed);
                    return Ok::<Response<tonic::body::Body>, Infallible>(
                        tonic::Status::permission_denied("not in the map").into_http(),
                    );
                }
                request.extensions_mut().insert(peer);
                Ok(routes.answer(request).await)
            }
        });
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).max_concurrent_streams(CALLS_MAX);
        builder.max_header_list_size(u32::try_from(HEAD_BYTES_MAX).expect("a small constant"));
        if let Err(error) = builder.serve_connection(io, service).await {
            tracing::debug!(%error, %peer, "a control connection ended early");
        }
    }
}
