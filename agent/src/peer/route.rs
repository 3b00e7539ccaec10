//! One request of the bytes lane, from its head to its answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt as _};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::{Request, Response, StatusCode, request};
use http_body::Body as _;
use hyper::body::Incoming;
use larder_proto::error::ErrorKind;
use larder_proto::ids::NodeName;
use larder_proto::range::ByteRange;
use larder_proto::wire::{
    BatchRequest, Bodies, BodyDecoder, ChunkRequest, EPOCH, ERROR, Opening, PutRequest, RequestId, Target, WireError,
    body_len, epoch_of_answer, status_of, target_of,
};
use tracing::{Instrument as _, Span, info_span};

use super::answer::{self, AnswerBody};
use super::body::{PutBody, Segments, next_frame};
use super::server::{PlaceKind, ServerCounts};
use super::{Client, Handler, Members};
use crate::runtime::Runtime;

/// How long the entries of a batch may take to come.
const BATCH_BODY: Duration = Duration::from_secs(5);

/// How long a copy may take to come: 64 MiB at 2 MiB/s.
const PUT_BODY: Duration = Duration::from_secs(30);

/// Entries of a batch that are opened at once, so that their fills overlap.
const ENTRIES_AHEAD: usize = 16;

/// The same where their bytes stay here: none waits for a slow asker, and the handler bounds them by itself.
const KEPT_AHEAD: usize = 64;

/// What answers the requests of every connection.
pub(super) struct Requests {
    runtime: Runtime,
    members: Arc<dyn Members>,
    client: Client,
    handler: Arc<dyn Handler>,
    counts: Arc<ServerCounts>,
}

impl Requests {
    pub(super) fn new(
        runtime: Runtime,
        client: Client,
        handler: Arc<dyn Handler>,
        counts: Arc<ServerCounts>,
    ) -> Arc<Self> {
        Arc::new(Self { runtime, members: client.members().clone(), client, handler, counts })
    }

    /// The answer to one request of `from`.
    pub(super) async fn answer(
        self: Arc<Self>,
        from: &NodeName,
        kind: PlaceKind,
        request: Request<Incoming>,
    ) -> Response<AnswerBody> {
        if kind == PlaceKind::TurnedAway {
            return self.refuse(ErrorKind::Busy, After::Close);
        }
        if !self.members.is_member(from) {
            self.counts.not_members.fetch_add(1, Ordering::Relaxed);
            let mut refusal = self.refuse(ErrorKind::Busy, After::Close);
            *refusal.status_mut() = StatusCode::FORBIDDEN;
            return refusal;
        }
        let (head, body) = request.into_parts();
        match self.dispatch(from, &head, body).await {
            Ok(mut answer) => {
                self.counts.requests.fetch_add(1, Ordering::Relaxed);
                // After the answer is known: reading chunks never waits for a map.
                if let Some(epoch) = epoch_of_answer(&head.headers) {
                    self.client.hear(from, epoch);
                }
                answer.headers_mut().insert(EPOCH, HeaderValue::from(self.members.epoch().0));
                answer
            }
            Err(error) => {
                self.counts.bad_requests.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%from, %error, "a peer's request breaks the protocol");
                self.refuse(error.into(), After::Close)
            }
        }
    }

    async fn dispatch(
        &self,
        from: &NodeName,
        head: &request::Parts,
        body: Incoming,
    ) -> Result<Response<AnswerBody>, WireError> {
        match target_of(head)? {
            Target::Chunk => {
                let request = ChunkRequest::parse(head)?;
                Self::bodiless(&body)?;
                let span = span_of(request.request(), from);
                Ok(self.chunk(from, request, span.clone()).instrument(span).await)
            }
            Target::Put => {
                let request = PutRequest::parse(head)?;
                let span = span_of(request.request, from);
                Ok(self.put(from, request, body).instrument(span).await)
            }
            Target::Batch => {
                let body = self.batch_body(body).await?;
                let request = BatchRequest::parse(head, body)?;
                Ok(self.batch(from, &request))
            }
            Target::Map => {
                Self::bodiless(&body)?;
                Ok(match self.members.signed_map() {
                    Some(map) => Response::new(answer::full(map)),
                    None => self.refuse(ErrorKind::NotHere, After::KeepAlive),
                })
            }
        }
    }

    fn bodiless(body: &Incoming) -> Result<(), WireError> {
        if body.is_end_stream() { Ok(()) } else { Err(WireError::Header("content-length")) }
    }

    async fn chunk(&self, from: &NodeName, request: ChunkRequest, span: Span) -> Response<AnswerBody> {
        let (chunk, range, want) = (request.chunk().clone(), request.range(), request.want());
        match self.handler.chunk(from, request).await {
            Err(kind) => self.refuse(kind, After::KeepAlive),
            Ok(body) => {
                let sent = self.counts.bytes.clone();
                let mut response = Response::new(answer::chunk(body, &chunk, range, want.is_fill(), sent, span));
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body_len(range, Some(want))));
                response
            }
        }
    }

    async fn put(&self, from: &NodeName, request: PutRequest, incoming: Incoming) -> Response<AnswerBody> {
        let whole = ByteRange::at(0, u64::from(request.chunk.len()));
        let decoder = BodyDecoder::new(&request.chunk, whole, Opening::Bytes);
        let mut body = PutBody::new(Segments::new(incoming, decoder, self.runtime.clock.now() + PUT_BODY));
        let taken = if request.epoch < self.members.epoch() {
            Err(ErrorKind::StaleEpoch)
        } else {
            self.handler.put(from, request, &mut body).await
        };
        // What the handler left unread: closing on it would lose the answer.
        body.discard().await;
        match taken {
            Err(kind) => self.refuse(kind, After::KeepAlive),
            Ok(()) => {
                let mut response = Response::new(answer::full(Bytes::new()));
                *response.status_mut() = StatusCode::NO_CONTENT;
                response
            }
        }
    }

    async fn batch_body(&self, mut incoming: Incoming) -> Result<Bytes, WireError> {
        let deadline = self.runtime.clock.now() + BATCH_BODY;
        let mut body = BytesMut::new();
        while let Some(frame) = next_frame(&mut incoming, deadline).await.map_err(|_| WireError::Batch)? {
            if body.len() + frame.len() > BatchRequest::BODY_BYTES_MAX {
                return Err(WireError::Batch);
            }
            body.extend_from_slice(&frame);
        }
        Ok(body.freeze())
    }

    fn batch(&self, from: &NodeName, request: &BatchRequest) -> Response<AnswerBody> {
        let span = span_of(request.request(), from);
        let (handler, from) = (self.handler.clone(), from.clone());
        let requests: Vec<_> = request.entries().collect();
        if request.bodies() == Bodies::Asked {
            return Response::new(answer::told(requests.iter().map(|request| handler.keeps(request))));
        }
        if request.bodies() == Bodies::Kept {
            let kept = stream::iter(requests).map(move |request| {
                let (handler, from) = (handler.clone(), from.clone());
                async move { handler.keep(&from, request).await }
            });
            return Response::new(answer::kept(kept.buffered(KEPT_AHEAD).boxed(), span));
        }
        let opened = stream::iter(requests).map(move |request| {
            let (handler, from) = (handler.clone(), from.clone());
            async move {
                let chunk = request.chunk().clone();
                let opened = match handler.chunk(&from, request).await {
                    Err(kind) => Err(kind),
                    Ok(mut body) => body.first().await.map(|()| body),
                };
                (chunk, opened)
            }
        });
        Response::new(answer::batch(opened.buffered(ENTRIES_AHEAD).boxed(), self.counts.bytes.clone(), span))
    }

    fn refuse(&self, kind: ErrorKind, after: After) -> Response<AnswerBody> {
        let mut response = Response::new(answer::full(Bytes::new()));
        *response.status_mut() = status_of(kind);
        response.headers_mut().insert(ERROR, HeaderValue::from_static(kind.as_str()));
        response.headers_mut().insert(EPOCH, HeaderValue::from(self.members.epoch().0));
        match after {
            After::KeepAlive => {}
            After::Close => {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
        }
        response
    }
}

/// What happens to the connection of a refused request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// It carries the next one.
    KeepAlive,
    /// It is closed.
    Close,
}

fn span_of(request: RequestId, from: &NodeName) -> Span {
    info_span!("peer", %request, %from)
}
