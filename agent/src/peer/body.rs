//! Bodies as they are read: frames of a connection in, checksummed segments out.

use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use larder_proto::checksum::Checksummed;
use larder_proto::wire::{BodyDecoder, BodyError};
use tokio::time::{Instant, timeout_at};

use super::PeerError;

impl From<BodyError> for PeerError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Refused(kind) => Self::Kind(kind),
            BodyError::TooLong | BodyError::OutOfOrder => Self::Broken,
        }
    }
}

/// The next frame with bytes in it; `None` at the end.
pub(super) async fn next_frame(incoming: &mut Incoming, deadline: Instant) -> Result<Option<Bytes>, PeerError> {
    loop {
        match timeout_at(deadline, incoming.frame()).await {
            Err(_) => return Err(PeerError::Deadline),
            Ok(None) => return Ok(None),
            Ok(Some(Err(_))) => return Err(PeerError::Broken),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Ok(Some(bytes)),
                Err(_) => return Err(PeerError::Broken),
            },
        }
    }
}

/// The segments of one body. Cancel safe: what was read is kept.
pub(super) struct Segments {
    incoming: Incoming,
    frame: Bytes,
    decoder: BodyDecoder,
    deadline: Instant,
}

impl Segments {
    pub(super) fn new(incoming: Incoming, decoder: BodyDecoder, deadline: Instant) -> Self {
        Self { incoming, frame: Bytes::new(), decoder, deadline }
    }

    /// The next segment; `None` when the range is complete.
    pub(super) async fn next(&mut self) -> Option<Result<Checksummed, PeerError>> {
        if self.decoder.is_complete() {
            return None;
        }
        loop {
            match self.decoder.take(&mut self.frame) {
                Ok(Some(segment)) => return Some(Ok(segment)),
                Ok(None) => {}
                Err(error) => return Some(Err(error.into())),
            }
            match next_frame(&mut self.incoming, self.deadline).await {
                Ok(Some(frame)) => self.frame = frame,
                Ok(None) => return Some(Err(PeerError::Broken)),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Waits for the status of a Fill.
    pub(super) async fn open(&mut self) -> Result<(), PeerError> {
        loop {
            self.decoder.open(&mut self.frame)?;
            if self.decoder.is_open() {
                return Ok(());
            }
            match next_frame(&mut self.incoming, self.deadline).await? {
                Some(frame) => self.frame = frame,
                None => return Err(PeerError::Broken),
            }
        }
    }

    /// Whether everything was read, so that the connection can carry another request.
    pub(super) fn is_done(&self) -> bool {
        self.decoder.is_complete() && self.frame.is_empty() && self.incoming.is_end_stream()
    }

    /// Reads and drops what is left, so that the answer isn't lost with the connection.
    pub(super) async fn discard(&mut self) {
        while let Ok(Some(_)) = next_frame(&mut self.incoming, self.deadline).await {}
    }
}

/// The bytes of a copy that a peer hands over.
pub struct PutBody(Segments);

impl PutBody {
    pub(super) fn new(segments: Segments) -> Self {
        Self(segments)
    }

    /// The next segment, at most 1 MiB, in order; `None` when the chunk is complete. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Checksummed, PeerError>> {
        self.0.next().await
    }

    pub(super) async fn discard(&mut self) {
        self.0.discard().await;
    }
}
