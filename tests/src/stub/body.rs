//! Bodies of answers: frames of at most 1 MiB cut from an object without copying, paced, and spoilt where a fault rule
//! says so.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use thiserror::Error;

use super::answer::Answer;
use super::content::Content;
use super::faults::FaultAction;
use super::pacer::Pacer;
use super::state::Connection;

/// Largest frame: large enough that frames cost nothing, small enough for two to be in flight.
const FRAME_BYTES: u64 = 1 << 20;
/// How long a body that breaks off waits, so that what came before it leaves first.
const FLUSH: Duration = Duration::from_millis(20);

/// What hyper sends.
pub(super) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body ends too early.
#[derive(Debug, Error)]
pub(super) enum BodyError {
    #[error("a fault rule breaks the body off")]
    Injected,
    #[error("a kept body can't be read")]
    Read(#[from] io::Error),
}

/// What follows the last byte.
enum Ending {
    Whole,
    /// FIN.
    Close,
    /// RST.
    Reset,
}

struct Feed {
    connection: Arc<Connection>,
    content: Content,
    at: u64,
    end: u64,
    name: Option<Arc<str>>,
    ending: Ending,
    drip: Option<Pacer>,
}

/// Makes HTTP of an answer. `head` = a HEAD is answered: the length is said, no byte is sent.
pub(super) fn respond(
    connection: &Arc<Connection>,
    answer: Answer,
    fault: Option<&FaultAction>,
    head: Option<u64>,
) -> Response<Body> {
    let (status, mut headers, len) = (answer.status, answer.headers.clone(), answer.len());
    if fault == Some(&FaultAction::WrongEtag) {
        headers.insert(header::ETAG, HeaderValue::from_static("\"00000000000000000000000000000bad\""));
    }
    let missing = match fault {
        Some(FaultAction::WrongLength { missing_bytes }) => *missing_bytes,
        _ => 0,
    };
    let said = head.unwrap_or(len).saturating_sub(missing);
    if status != http::StatusCode::NOT_MODIFIED && status != http::StatusCode::NO_CONTENT {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(said));
    }
    let body = match answer.content() {
        Some((content, begin, end, name)) if head.is_none() => {
            let end = end.saturating_sub(missing).max(begin);
            feed(connection, content, (begin, end), name, fault)
        }
        Some(_) | None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn feed(
    connection: &Arc<Connection>,
    content: Content,
    (begin, end): (u64, u64),
    name: Option<Arc<str>>,
    fault: Option<&FaultAction>,
) -> Body {
    let (end, ending) = match fault {
        Some(FaultAction::Reset { after_bytes }) => (end.min(begin.saturating_add(*after_bytes)), Ending::Reset),
        Some(FaultAction::ShortBody { after_bytes }) => (end.min(begin.saturating_add(*after_bytes)), Ending::Close),
        _ => (end, Ending::Whole),
    };
    let drip = match fault {
        Some(FaultAction::Drip { bytes_per_s }) => Some(Pacer::new(Some((*bytes_per_s).max(1)))),
        _ => None,
    };
    let mut feed = Feed { connection: connection.clone(), content, at: begin, end, name, ending, drip };
    if let Some(whole) = feed.at_once() {
        return Full::new(whole).map_err(|never| match never {}).boxed_unsync();
    }
    let frames = stream::unfold(feed, async |mut feed| {
        let frame = feed.next().await?;
        Some((frame.map(Frame::data), feed))
    });
    StreamBody::new(frames).boxed_unsync()
}

impl Feed {
    /// All of a small body that nothing holds up: the usual case of metadata and little objects.
    fn at_once(&mut self) -> Option<Bytes> {
        let capped = self.pacers().any(|pacer| pacer.cap().is_some());
        let whole = self.end - self.at <= FRAME_BYTES && matches!(self.ending, Ending::Whole);
        if !whole || capped || self.content.blocks() {
            return None;
        }
        if self.at == self.end {
            return Some(Bytes::new());
        }
        let bytes = self.content.read(self.at, self.end - self.at).ok()?;
        if bytes.len() as u64 != self.end - self.at {
            return None;
        }
        self.count(bytes.len() as u64);
        Some(bytes)
    }

    fn pacers(&self) -> impl Iterator<Item = &Pacer> {
        [&self.connection.state.down, &self.connection.down].into_iter().chain(&self.drip)
    }

    fn count(&self, bytes: u64) {
        if let Some(name) = &self.name {
            self.connection.state.counters.sent(name, bytes);
        }
    }

    async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        if self.at == self.end {
            return match self.ending {
                Ending::Whole => None,
                Ending::Close | Ending::Reset => Some(Err(self.break_off().await)),
            };
        }
        let frame = self.pacers().map(Pacer::frame_bytes).fold(FRAME_BYTES, u64::min);
        let bytes = match self.read(frame.min(self.end - self.at)).await {
            Ok(bytes) => bytes,
            Err(error) => return Some(Err(BodyError::Read(error))),
        };
        let len = bytes.len() as u64;
        for pacer in self.pacers() {
            pacer.pass(len).await;
        }
        self.at += len;
        self.count(len);
        Some(Ok(bytes))
    }

    async fn read(&self, max: u64) -> io::Result<Bytes> {
        if !self.content.blocks() {
            return self.content.read(self.at, max);
        }
        let (content, at) = (self.content.clone(), self.at);
        tokio::task::spawn_blocking(move || content.read(at, max)).await.map_err(io::Error::other)?
    }

    async fn break_off(&self) -> BodyError {
        tokio::time::sleep(FLUSH).await;
        if matches!(self.ending, Ending::Reset) {
            self.connection.reset.store(true, Ordering::SeqCst);
        }
        BodyError::Injected
    }
}
