//! The bodies of answers: what a handler gives, framed as the wire wants it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use larder_proto::error::ErrorKind;
use larder_proto::object::Chunk;
use larder_proto::range::ByteRange;
use larder_proto::wire::{BodyEncoder, EntryHead};
use tracing::{Instrument as _, Span};

use super::ChunkBody;

/// An error of it closes the connection before the announced length.
pub(super) type AnswerBody = UnsyncBoxBody<Bytes, io::Error>;

/// An entry of a batch, once it is known whether its bytes come.
pub(super) type OpenedEntry = (Chunk, Result<Box<dyn ChunkBody>, ErrorKind>);

/// These bytes.
pub(super) fn full(bytes: Bytes) -> AnswerBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn streamed(frames: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> AnswerBody {
    StreamBody::new(frames.map(|frame| frame.map(Frame::data))).boxed_unsync()
}

/// How long a connection outlives the status of a Fill that failed, if the asker doesn't close it.
const LINGER: Duration = Duration::from_secs(1);

/// What comes next in an answer of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The status of a Fill.
    Status,
    /// The status was that it failed: the connection closes.
    Failed,
    /// Bytes.
    Bytes,
    /// Nothing: all was sent, or the body broke off.
    Ended,
}

/// One chunk's body on its way out.
struct Sending {
    body: Box<dyn ChunkBody>,
    encoder: BodyEncoder,
    frames: VecDeque<Bytes>,
    phase: Phase,
    sent_bytes: Arc<AtomicU64>,
}

fn broken_off() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl Sending {
    fn new(body: Box<dyn ChunkBody>, chunk: &Chunk, range: ByteRange, phase: Phase, sent: Arc<AtomicU64>) -> Self {
        let encoder = BodyEncoder::new(chunk, range);
        Self { body, encoder, frames: VecDeque::new(), phase, sent_bytes: sent }
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Some(Ok(frame));
            }
            match self.phase {
                Phase::Ended => return None,
                Phase::Status => {
                    let status = self.body.first().await;
                    self.phase = if status.is_ok() { Phase::Bytes } else { Phase::Failed };
                    let code = status.err().map_or(0, ErrorKind::code);
                    return Some(Ok(Bytes::copy_from_slice(&code.to_le_bytes())));
                }
                Phase::Failed => {
                    self.phase = Phase::Ended;
                    // hyper drops what it hasn't written yet when a body fails: the asker, who has read the status,
                    // closes first.
                    tokio::time::sleep(LINGER).await;
                    return Some(Err(broken_off()));
                }
                Phase::Bytes if self.encoder.is_complete() => self.phase = Phase::Ended,
                Phase::Bytes => {
                    let Some(piece) = self.body.next().await else {
                        self.phase = Phase::Ended;
                        return Some(Err(broken_off()));
                    };
                    self.sent_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    if self.encoder.push(piece, &mut self.frames).is_err() {
                        tracing::error!("a piece of an answer is not the next one; the answer breaks off");
                        self.phase = Phase::Ended;
                        return Some(Err(broken_off()));
                    }
                }
            }
        }
    }
}

/// The bytes of one chunk; with the status of a Fill before them where `is_fill`.
pub(super) fn chunk(
    body: Box<dyn ChunkBody>,
    chunk: &Chunk,
    range: ByteRange,
    is_fill: bool,
    sent: Arc<AtomicU64>,
    span: Span,
) -> AnswerBody {
    let phase = if is_fill { Phase::Status } else { Phase::Bytes };
    let sending = Sending::new(body, chunk, range, phase, sent);
    streamed(stream::unfold((sending, span), |(mut sending, span)| async move {
        let frame = sending.next().instrument(span.clone()).await?;
        Some((frame, (sending, span)))
    }))
}

/// The entries of a batch, in order.
pub(super) fn batch(entries: BoxStream<'static, OpenedEntry>, sent: Arc<AtomicU64>, span: Span) -> AnswerBody {
    let sending = SendingBatch { entries, current: None, sent_bytes: sent };
    streamed(stream::unfold((sending, span), |(mut sending, span)| async move {
        let frame = sending.next().instrument(span.clone()).await?;
        Some((frame, (sending, span)))
    }))
}

/// The entries of a batch whose bytes stay here, in order.
pub(super) fn kept(entries: BoxStream<'static, Result<(), ErrorKind>>, span: Span) -> AnswerBody {
    streamed(stream::unfold((entries, span), |(mut entries, span)| async move {
        let kept = entries.next().instrument(span.clone()).await?;
        let head = kept.map_or_else(EntryHead::Refused, |()| EntryHead::Kept);
        Some((Ok(head.encode()), (entries, span)))
    }))
}

/// What is known of every entry at once, without any bytes.
pub(super) fn told(entries: impl Iterator<Item = Result<(), ErrorKind>>) -> AnswerBody {
    let heads = entries.map(|kept| kept.map_or_else(EntryHead::Refused, |()| EntryHead::Kept).encode());
    full(heads.collect::<Vec<Bytes>>().concat().into())
}

/// A batch's body on its way out.
struct SendingBatch {
    entries: BoxStream<'static, OpenedEntry>,
    current: Option<Sending>,
    sent_bytes: Arc<AtomicU64>,
}

impl SendingBatch {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if let Some(sending) = &mut self.current {
            match sending.next().await {
                Some(frame) => return Some(frame),
                None => self.current = None,
            }
        }
        let (chunk, opened) = self.entries.next().await?;
        let head = match opened {
            Ok(body) => {
                let whole = ByteRange::at(0, u64::from(chunk.len()));
                self.current = Some(Sending::new(body, &chunk, whole, Phase::Bytes, self.sent_bytes.clone()));
                EntryHead::of(&chunk)
            }
            Err(kind) => EntryHead::Refused(kind),
        };
        Some(Ok(head.encode()))
    }
}
