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

/// The segments of one body. Cancel safe: what was read is kept. After an error nothing more is read, and the
/// connection closes.
pub(super) struct Segments {
    incoming: Option<Incoming>,
    frame: Bytes,
    decoder: BodyDecoder,
    deadline: Instant,
}

impl Segments {
    pub(super) fn new(incoming: Incoming, decoder: BodyDecoder, deadline: Instant) -> Self {
        Self { incoming: Some(incoming), frame: Bytes::new(), decoder, deadline }
    }

    /// The next segment; `None` when the range is complete.
    pub(super) async fn next(&mut self) -> Option<Result<Checksummed, PeerError>> {
        while !self.decoder.is_complete() {
            match self.decoder.take(&mut self.frame) {
                Ok(Some(segment)) => return Some(Ok(segment)),
                Ok(None) => {}
                Err(error) => return Some(Err(self.close(error.into()))),
            }
            if let Err(error) = self.read_frame().await {
                return Some(Err(error));
            }
        }
        None
    }

    /// Waits for the status of a Fill.
    pub(super) async fn open(&mut self) -> Result<(), PeerError> {
        loop {
            if let Err(error) = self.decoder.open(&mut self.frame) {
                return Err(self.close(error.into()));
            }
            if self.decoder.is_open() {
                return Ok(());
            }
            self.read_frame().await?;
        }
    }

    async fn read_frame(&mut self) -> Result<(), PeerError> {
        let Some(incoming) = &mut self.incoming else { return Err(PeerError::Broken) };
        match next_frame(incoming, self.deadline).await {
            Ok(Some(frame)) => {
                self.frame = frame;
                Ok(())
            }
            Ok(None) => Err(self.close(PeerError::Broken)),
            Err(error) => Err(self.close(error)),
        }
    }

    fn close(&mut self, error: PeerError) -> PeerError {
        self.incoming = None;
        error
    }

    /// Whether everything was read, so that the connection can carry another request.
    pub(super) fn is_done(&self) -> bool {
        let at_end = self.incoming.as_ref().is_some_and(|incoming| incoming.is_end_stream());
        self.decoder.is_complete() && self.frame.is_empty() && at_end
    }

    /// Reads and drops what is left, so that the answer isn't lost with the connection.
    pub(super) async fn discard(&mut self) {
        let Some(incoming) = &mut self.incoming else { return };
        while let Ok(Some(_)) = next_frame(incoming, self.deadline).await {}
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
