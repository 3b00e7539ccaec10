//! Asking peers.
//!
//! One attempt at one node per call; who is asked next, and when, the cache decides. A connection that was idle and
//! fails before any answer is replaced once by a new one: the peer may have closed it while it lay here.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use larder_proto::checksum::Checksummed;
use larder_proto::ids::{Epoch, NodeId, NodeName};
use larder_proto::limits::{MAP_BYTES_MAX, SIGNATURE_BYTES_MAX};
use larder_proto::range::ByteRange;
use larder_proto::wire::{
    BatchDecoder, BatchEvent, BatchRequest, Bodies, BodyDecoder, BodyEncoder, ChunkRequest, PutRequest, RequestId,
    body_len, epoch_of_answer, error_from_answer, map_head,
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;

use super::body::{Segments, next_frame};
use super::latency::Latencies;
use super::outgoing::Outgoing;
use super::passing::{Newer, pass_maps};
use super::pool::{Destination, Freshness, Leased, Pool, Purpose, Turn};
use super::{Members, PeerError, control};
use crate::runtime::Runtime;
use crate::runtime::circuit::{Circuit, Verdict};
use crate::runtime::net::{ConnectError, Identity};

/// How long an answer's head may take: a Have looks into its stores.
const HEAD: Duration = Duration::from_millis(1500);

/// The same for a Fill, which is answered before the origin is asked, connecting included. What a reader loses to a peer
/// that hangs, once: then its circuit is open. Slow isn't dead, and passing over a lead that lives costs a second GET: a
/// process that gets no processor for a second is waited for.
pub const FILL_HEAD: Duration = Duration::from_secs(2);

/// The same for a request that finds out whether a peer that hung is back: its reader has others to ask.
const PROBE_HEAD: Duration = Duration::from_millis(500);

/// Who gives an attempt up after this long without an answer has waited for a peer that hangs.
const GIVEN_UP: Duration = Duration::from_secs(1);

/// How long a peer may take for its map.
const MAP: Duration = Duration::from_secs(5);

/// A control connection that took so long to fail was silent: nobody should wait for that peer again soon.
const SILENT: Duration = Duration::from_millis(500);

/// A map, its signature, and what tells them apart.
const SIGNED_MAP_BYTES_MAX: usize = MAP_BYTES_MAX + SIGNATURE_BYTES_MAX + 16;

/// What was asked and how it went, since the start.
#[derive(Debug, Default)]
pub struct ClientCounts {
    /// Requests sent, retries on new connections not counted.
    pub requests: AtomicU64,
    /// Requests that were sent again because an idle connection had been closed.
    pub retries: AtomicU64,
    /// Bytes of chunks received, checksums not counted.
    pub bytes: AtomicU64,
    /// Connections that failed, answers that were late or broke off.
    pub failures: AtomicU64,
    /// Requests not made because the peer's circuit was open.
    pub circuit_open: AtomicU64,
}

/// What who asks is willing to wait for.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    /// How long, from the moment the request leaves to the head of its answer.
    pub head: Duration,
    /// Rung at that moment.
    pub sent: Option<&'a Notify>,
}

/// Asks peers for chunks and hands them copies. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    runtime: Runtime,
    members: Arc<dyn Members>,
    newer: Newer,
    pool: Arc<Pool>,
    circuits: Mutex<BTreeMap<NodeId, Circuit>>,
    channels: Mutex<BTreeMap<NodeId, Channel>>,
    latencies: Latencies,
    counts: ClientCounts,
}

impl Client {
    /// A client that finds its peers through `members`.
    pub fn new(runtime: Runtime, members: Arc<dyn Members>) -> Self {
        let pool = Pool::new(runtime.clone());
        let tasks = runtime.tasks.clone();
        let inner = Arc::new(Inner {
            runtime,
            members: members.clone(),
            newer: Newer::new(),
            pool,
            circuits: Mutex::default(),
            channels: Mutex::default(),
            latencies: Latencies::default(),
            counts: ClientCounts::default(),
        });
        tasks.spawn(pass_maps(inner.newer.subscribe(), members, Arc::downgrade(&inner)));
        Self { inner }
    }

    pub(super) fn of(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Peers that were asked in vain so often that they aren't asked now, or only to find out; at most one per node of
    /// the map.
    pub fn unreachable(&self) -> Vec<NodeId> {
        let circuits = self.inner.circuits.lock();
        circuits
            .iter()
            .filter(|(_, circuit)| !matches!(circuit, Circuit::Closed { .. }))
            .map(|(node, _)| *node)
            .collect()
    }

    /// The same of those that the map still has; the others are forgotten.
    pub(super) fn troubled(&self) -> Vec<NodeId> {
        self.inner.circuits.lock().retain(|node, _| self.inner.members.locate(*node).is_some());
        self.unreachable()
    }

    pub(super) fn runtime(&self) -> &Runtime {
        &self.inner.runtime
    }

    /// Whether the node may be asked on the control lane now; what that shows is to be [told](Self::saw).
    pub fn admits(&self, node: NodeId) -> bool {
        self.inner.admit(node)
    }

    /// What a request on the control lane has shown of the node: both lanes have one circuit.
    pub fn saw(&self, node: NodeId, verdict: Verdict) {
        self.inner.record(node, verdict);
    }

    /// A request on the control lane that began at `began` didn't reach the node.
    pub fn missed(&self, node: NodeId, began: Instant) {
        let is_silent = self.inner.runtime.clock.now() - began >= SILENT;
        self.saw(node, if is_silent { Verdict::Hung } else { Verdict::Failed });
    }

    /// Who its peers are.
    pub(super) fn members(&self) -> &Arc<dyn Members> {
        &self.inner.members
    }

    /// A peer has said this epoch: a newer map is fetched from it.
    pub(super) fn hear(&self, peer: &NodeName, epoch: Epoch) {
        self.inner.newer.hear(&*self.inner.members, peer, epoch);
    }

    /// Asks `node` for bytes. Returns when the head of the answer is here; for a Fill that is before the peer knows
    /// whether the bytes will come ([`PeerBody::first`]). `deadline` bounds everything, the whole body included.
    pub async fn read(&self, node: NodeId, request: &ChunkRequest, deadline: Instant) -> Result<PeerBody, PeerError> {
        let within = if request.want().is_fill() { FILL_HEAD } else { HEAD };
        self.read_within(node, request, Patience { head: within, sent: None }, deadline).await
    }

    /// The same, with another bound for the head of the answer.
    pub async fn read_within(
        &self,
        node: NodeId,
        request: &ChunkRequest,
        patience: Patience<'_>,
        deadline: Instant,
    ) -> Result<PeerBody, PeerError> {
        let purpose = if request.want().is_fill() { Purpose::Fill } else { Purpose::Have };
        let head = request.to_head();
        let (leased, answer) = self.ask_within(node, purpose, head, Outgoing::empty(), patience, deadline).await?;
        let expected = body_len(request.range(), Some(request.want()));
        if answer.body().size_hint().exact() != Some(expected) {
            self.inner.record(node, Verdict::Failed);
            return Err(PeerError::Broken);
        }
        let decoder = BodyDecoder::new(request.chunk(), request.range(), request.want().into());
        let segments = Segments::new(answer.into_body(), decoder, deadline);
        if request.want().is_fill() {
            self.inner.record(node, Verdict::Alive);
        }
        Ok(PeerBody { segments, leased: Some(leased), node, inner: self.inner.clone() })
    }

    /// Asks `node` for several whole chunks.
    pub async fn read_batch(
        &self,
        node: NodeId,
        request: &BatchRequest,
        deadline: Instant,
    ) -> Result<PeerBatch, PeerError> {
        let purpose = match (request.bodies(), request.want().is_fill()) {
            (Bodies::Kept, _) => Purpose::Keep,
            (Bodies::Sent, true) => Purpose::Fill,
            (Bodies::Sent, false) | (Bodies::Asked, _) => Purpose::Have,
        };
        let (head, body) = request.encode().into_parts();
        let body = Outgoing::of(VecDeque::from([body]));
        let (leased, answer) = self.ask(node, purpose, Request::from_parts(head, ()), body, deadline).await?;
        self.inner.record(node, Verdict::Alive);
        Ok(PeerBatch {
            incoming: answer.into_body(),
            frame: Bytes::new(),
            decoder: BatchDecoder::new(request.chunks().to_vec(), request.bodies()),
            deadline,
            leased: Some(leased),
            node,
            inner: self.inner.clone(),
        })
    }

    /// Hands `node` a copy of a whole chunk: `pieces` in order, together the chunk. `Ok` means that the peer has taken it.
    pub async fn put(
        &self,
        node: NodeId,
        request: &PutRequest,
        pieces: Vec<Checksummed>,
        deadline: Instant,
    ) -> Result<(), PeerError> {
        let mut encoder = BodyEncoder::new(&request.chunk, ByteRange::at(0, u64::from(request.chunk.len())));
        let mut frames = VecDeque::new();
        for piece in pieces {
            encoder.push(piece, &mut frames)?;
        }
        if !encoder.is_complete() {
            return Err(PeerError::Broken);
        }
        let (leased, answer) = self
            .ask_within(
                node,
                Purpose::Put,
                request.to_head(),
                Outgoing::of(frames),
                Patience { head: Duration::MAX, sent: None },
                deadline,
            )
            .await?;
        self.inner.record(node, Verdict::Alive);
        if answer.body().is_end_stream() {
            leased.give_back();
        }
        Ok(())
    }

    /// The signed map that `node` believes.
    pub async fn signed_map(&self, node: NodeId) -> Result<Bytes, PeerError> {
        let deadline = self.inner.runtime.clock.now() + MAP;
        let head = map_head(RequestId(self.inner.runtime.rng.next_u64()), self.inner.members.epoch());
        let (leased, answer) = self.ask(node, Purpose::Have, head, Outgoing::empty(), deadline).await?;
        self.inner.record(node, Verdict::Alive);
        let mut incoming = answer.into_body();
        let mut map = BytesMut::new();
        while let Some(frame) = next_frame(&mut incoming, deadline).await? {
            if map.len() + frame.len() > SIGNED_MAP_BYTES_MAX {
                return Err(PeerError::Broken);
            }
            map.extend_from_slice(&frame);
        }
        leased.give_back();
        Ok(map.freeze())
    }

    /// A channel for tonic clients to `node`. It connects when it is used, to where the map then says the node is.
    pub fn control(&self, node: NodeId) -> Result<Channel, PeerError> {
        self.inner.destination(node)?;
        let mut channels = self.inner.channels.lock();
        let members = &self.inner.members;
        channels.retain(|known, _| members.locate(*known).is_some());
        let channel = channels.entry(node).or_insert_with(|| {
            let inner = Arc::downgrade(&self.inner);
            control::channel(self.inner.runtime.net.clone(), move || inner.upgrade()?.destination(node).ok())
        });
        Ok(channel.clone())
    }

    /// When a request for bytes to `node` is late enough for another owner to be asked as well.
    pub fn hedge_after(&self, node: NodeId) -> Duration {
        self.inner.latencies.hedge_after(node, self.inner.runtime.clock.now())
    }

    /// Whether `node` answers so much later than others that another owner is better asked first.
    pub fn is_slow(&self, node: NodeId) -> bool {
        self.inner.latencies.is_slow(node, self.inner.runtime.clock.now())
    }

    /// What was asked and how it went.
    pub fn counts(&self) -> &ClientCounts {
        &self.inner.counts
    }

    /// Connections to peers on the bytes lane that are open now.
    pub fn open_connections(&self) -> usize {
        self.inner.pool.open_connections()
    }

    /// Asks; the answer's head must come soon.
    async fn ask(
        &self,
        node: NodeId,
        purpose: Purpose,
        head: Request<()>,
        body: Outgoing,
        deadline: Instant,
    ) -> Result<(Leased, Response<Incoming>), PeerError> {
        self.ask_within(node, purpose, head, body, Patience { head: HEAD, sent: None }, deadline).await
    }

    /// The successful answer to one request, whose head came in the time that `patience` gives it. Waiting in line for a
    /// connection is not the peer's doing: it ends at the deadline and tells the circuit nothing.
    async fn ask_within(
        &self,
        node: NodeId,
        purpose: Purpose,
        head: Request<()>,
        body: Outgoing,
        patience: Patience<'_>,
        deadline: Instant,
    ) -> Result<(Leased, Response<Incoming>), PeerError> {
        let inner = &self.inner;
        let to = inner.destination(node)?;
        let turn = inner.pool.turn(node, purpose, deadline).await?;
        let within = if inner.is_troubled(node) { patience.head.min(PROBE_HEAD) } else { patience.head };
        if !inner.admit(node) {
            inner.counts.circuit_open.fetch_add(1, Ordering::Relaxed);
            return Err(PeerError::CircuitOpen(node));
        }
        inner.counts.requests.fetch_add(1, Ordering::Relaxed);
        let began = inner.runtime.clock.now();
        if let Some(sent) = patience.sent {
            sent.notify_one();
        }
        let measured = matches!(purpose, Purpose::Have | Purpose::Fill);
        let attempt = Attempt { inner, node, began, measured, open: true };
        let deadline = deadline.min(began.checked_add(within).unwrap_or(deadline));
        let exchanged = self.exchange(&to, turn, head, body, deadline).await;
        attempt.ended();
        let (leased, answer) = exchanged.inspect_err(|error| inner.record(node, inner.verdict(error, began)))?;
        if measured {
            let now = inner.runtime.clock.now();
            inner.latencies.add(node, now - began, now);
        }
        if let (Some(epoch), Identity::Node(_, name)) = (epoch_of_answer(answer.headers()), &to.identity) {
            self.hear(name, epoch);
        }
        match answer.status() {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok((leased, answer)),
            status => {
                inner.record(node, Verdict::Alive);
                let kind = error_from_answer(answer.headers());
                if answer.body().is_end_stream() {
                    leased.give_back();
                }
                Err(if status == StatusCode::FORBIDDEN { PeerError::Refused(node) } else { PeerError::Kind(kind) })
            }
        }
    }

    /// Sends, once more on a new connection when an idle one fails before any answer.
    async fn exchange(
        &self,
        to: &Destination,
        turn: Turn,
        head: Request<()>,
        body: Outgoing,
        deadline: Instant,
    ) -> Result<(Leased, Response<Incoming>), PeerError> {
        let mut freshness = Freshness::Any;
        loop {
            let mut leased = self.inner.pool.lease(to, &turn, freshness, deadline).await?;
            let request = head.clone().map(|()| body.clone());
            match timeout_at(deadline, leased.sender.send_request(request)).await {
                Err(_) => return Err(PeerError::Deadline),
                Ok(Ok(answer)) => return Ok((leased, answer)),
                // A new connection would wait as long once more.
                Ok(Err(error)) if is_silence(&error) => return Err(PeerError::silent()),
                Ok(Err(_)) if leased.was_idle => {
                    self.inner.counts.retries.fetch_add(1, Ordering::Relaxed);
                    freshness = Freshness::New;
                }
                Ok(Err(_)) => return Err(PeerError::Broken),
            }
        }
    }
}

/// Whether a request failed because the other side's kernel acknowledged nothing for too long.
fn is_silence(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return true;
        }
        source = inner.source();
    }
    false
}

/// An attempt that waits for the head of an answer. Dropped while it waits, it tells the circuit what it saw.
struct Attempt<'a> {
    inner: &'a Inner,
    node: NodeId,
    began: Instant,
    /// Whether its answer's head comes as soon as the peer can.
    measured: bool,
    open: bool,
}

impl Attempt<'_> {
    fn ended(mut self) {
        self.open = false;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let now = self.inner.runtime.clock.now();
        let waited = now.duration_since(self.began);
        if self.measured {
            self.inner.latencies.add(self.node, waited, now);
        }
        if waited >= GIVEN_UP {
            self.inner.record(self.node, Verdict::Failed);
        }
    }
}

impl Inner {
    fn destination(&self, node: NodeId) -> Result<Destination, PeerError> {
        let (name, addresses) = self.members.locate(node).ok_or(PeerError::UnknownNode(node))?;
        Ok(Destination { node, identity: Identity::Node(self.members.cluster(), name), addresses })
    }

    /// Whether the node's circuit is open: the next request is a probe, if it may go out at all.
    fn is_troubled(&self, node: NodeId) -> bool {
        self.circuits.lock().get(&node).is_some_and(|circuit| !matches!(circuit, Circuit::Closed { .. }))
    }

    /// Whether the node may be asked now. Only troubled peers have a circuit: one that isn't there lets pass.
    fn admit(&self, node: NodeId) -> bool {
        let now = self.runtime.clock.now();
        self.circuits.lock().get_mut(&node).is_none_or(|circuit| circuit.admit(now))
    }

    /// What a failure says about the peer: a long silence, whether while connecting or after, is enough to ask others; so
    /// is a shorter one of its kernel.
    fn verdict(&self, error: &PeerError, began: Instant) -> Verdict {
        let cut = matches!(error, PeerError::Connect(error) if error.is_silence());
        let silent = matches!(error, PeerError::Deadline | PeerError::Connect(ConnectError::Deadline { .. }));
        let long = self.runtime.clock.now().duration_since(began) >= GIVEN_UP;
        if cut || silent && long { Verdict::Hung } else { Verdict::Failed }
    }

    fn record(&self, node: NodeId, verdict: Verdict) {
        if matches!(verdict, Verdict::Failed | Verdict::Hung) {
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
        }
        let now = self.runtime.clock.now();
        let mut circuits = self.circuits.lock();
        let circuit = circuits.entry(node).or_default();
        circuit.settle(verdict, now);
        if *circuit == Circuit::new() {
            circuits.remove(&node);
        }
    }
}

/// The bytes of an answer, as they arrive. Dropped before its end, the connection is closed.
pub struct PeerBody {
    segments: Segments,
    leased: Option<Leased>,
    node: NodeId,
    inner: Arc<Inner>,
}

impl PeerBody {
    /// Waits until the peer knows whether the bytes come: the status of a Fill. At once for a Have. Cancel safe.
    pub async fn first(&mut self) -> Result<(), PeerError> {
        let opened = self.segments.open().await;
        if let Err(error) = &opened {
            self.failed(error);
        }
        opened
    }

    /// The next segment, at most 1 MiB, in order; `None` when the range is complete. An error is the last thing said.
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Checksummed, PeerError>> {
        let next = self.segments.next().await?;
        match &next {
            Ok(segment) => {
                self.inner.counts.bytes.fetch_add(segment.len() as u64, Ordering::Relaxed);
                if self.segments.is_done() {
                    self.inner.record(self.node, Verdict::Alive);
                    if let Some(leased) = self.leased.take() {
                        leased.give_back();
                    }
                }
            }
            Err(error) => self.failed(error),
        }
        Some(next)
    }

    fn failed(&mut self, error: &PeerError) {
        self.leased = None;
        match error {
            // A Fill that failed at the origin: the peer itself is well.
            PeerError::Kind(_) => {}
            // A Fill's deadline is the origin's and the reader's; the peer has answered its head in time.
            PeerError::Deadline => {}
            PeerError::Broken
            | PeerError::Connect(_)
            | PeerError::UnknownNode(_)
            | PeerError::CircuitOpen(_)
            | PeerError::Refused(_) => self.inner.record(self.node, Verdict::Failed),
        }
    }
}

/// The entries of a batch's answer, as they arrive. Dropped before its end, the connection is closed.
pub struct PeerBatch {
    incoming: Incoming,
    frame: Bytes,
    decoder: BatchDecoder,
    deadline: Instant,
    leased: Option<Leased>,
    node: NodeId,
    inner: Arc<Inner>,
}

impl PeerBatch {
    /// The next event, in the order of the request; `None` when every entry is complete or refused. An error is the
    /// last thing said. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<BatchEvent, PeerError>> {
        loop {
            match self.decoder.take(&mut self.frame) {
                Err(error) => return Some(Err(self.failed(error.into()))),
                Ok(Some(event)) => {
                    if let BatchEvent::Segment(_, segment) = &event {
                        self.inner.counts.bytes.fetch_add(segment.len() as u64, Ordering::Relaxed);
                    }
                    return Some(Ok(event));
                }
                Ok(None) => {}
            }
            match next_frame(&mut self.incoming, self.deadline).await {
                Ok(Some(frame)) => self.frame = frame,
                Ok(None) if self.decoder.is_complete() => {
                    if let Some(leased) = self.leased.take() {
                        leased.give_back();
                    }
                    return None;
                }
                Ok(None) => return Some(Err(self.failed(PeerError::Broken))),
                Err(error) => return Some(Err(self.failed(error))),
            }
        }
    }

    fn failed(&mut self, error: PeerError) -> PeerError {
        self.leased = None;
        if matches!(error, PeerError::Broken) {
            self.inner.record(self.node, Verdict::Failed);
        }
        error
    }
}
