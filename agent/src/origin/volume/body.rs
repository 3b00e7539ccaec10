//! The bytes of one range, in pieces, that go on where they broke.
//!
//! Invariants: what was handed out is a prefix of the range, of one version; the end is only reported when the whole range
//! was handed out; after an error nothing more comes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use larder_proto::object::{ObjectKey, Version};
use larder_proto::range::ByteRange;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::{Counters, PROGRESS_BYTES, PROGRESS_WITHIN, Tries, Verb, VolumeOrigin};
use crate::origin::{OriginError, Pieces, Protocol, Unreachable};

/// A range on its way from the origin.
pub struct Body {
    origin: Arc<VolumeOrigin>,
    key: ObjectKey,
    version: Version,
    rest: ByteRange,
    deadline: Instant,
    pieces: Option<Pieces>,
    permit: Option<OwnedSemaphorePermit>,
    tries: Tries,
    progress: Progress,
    failed: Option<OriginError>,
}

/// Bytes and waiting since the last time both were enough.
#[derive(Default)]
struct Progress {
    bytes: u64,
    waited: Duration,
}

impl Body {
    pub(super) fn new(
        origin: Arc<VolumeOrigin>,
        key: ObjectKey,
        version: Version,
        range: ByteRange,
        deadline: Instant,
    ) -> Self {
        Self {
            origin,
            key,
            version,
            rest: range,
            deadline,
            pieces: None,
            permit: None,
            tries: Tries::new(),
            progress: Progress::default(),
            failed: None,
        }
    }

    /// Bytes that are still to come.
    pub fn remaining(&self) -> u64 {
        self.rest.len()
    }

    /// The next piece; `None` when all of the range was handed out. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Bytes, OriginError>> {
        loop {
            if let Some(error) = self.failed {
                return Some(Err(error));
            }
            if self.rest.is_empty() {
                self.close();
                return None;
            }
            if self.pieces.is_none()
                && let Err(error) = self.open().await
            {
                return Some(self.fail(error));
            }
            match self.piece().await {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Some(Ok(piece)),
                Err(error) => {
                    self.pieces = None;
                    self.origin.observe(Some(error));
                    let origin = self.origin.clone();
                    if let Err(error) = origin.pause(&mut self.tries, error, self.deadline).await {
                        return Some(self.fail(error));
                    }
                }
            }
        }
    }

    /// All that is left, as one buffer of at most `max_bytes`; a longer rest is [`Protocol::TooLong`], before anything is allocated.
    pub async fn collect(mut self, max_bytes: usize) -> Result<Bytes, OriginError> {
        let len = usize::try_from(self.rest.len()).ok().filter(|len| *len <= max_bytes);
        let mut all = BytesMut::with_capacity(len.ok_or(OriginError::Protocol(Protocol::TooLong))?);
        while let Some(piece) = self.next().await {
            all.extend_from_slice(&piece?);
        }
        Ok(all.freeze())
    }

    /// Asks for the rest, unless it is empty.
    pub(super) async fn open(&mut self) -> Result<(), OriginError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        if self.permit.is_none() {
            self.permit = Some(self.origin.permit(self.deadline).await?);
        }
        let (key, version, rest) = (&self.key, &self.version, self.rest);
        let get = |origin: Arc<dyn crate::origin::Origin>| async move { origin.get(key, version, rest).await };
        self.pieces = Some(self.origin.attempts(Verb::Get, &mut self.tries, self.deadline, get).await?);
        self.progress = Progress::default();
        Ok(())
    }

    async fn piece(&mut self) -> Result<Bytes, OriginError> {
        let Some(pieces) = &mut self.pieces else { return Ok(Bytes::new()) };
        let began = self.origin.clock.now();
        let patience = PROGRESS_WITHIN.saturating_sub(self.progress.waited);
        let until = self.deadline.min(began + patience);
        let piece = match timeout_at(until, pieces.next()).await {
            Ok(Some(piece)) => piece?,
            Ok(None) => return Err(OriginError::Unreachable(Unreachable::Broken)),
            Err(_) if self.deadline <= until => return Err(OriginError::Deadline),
            Err(_) => return Err(OriginError::Unreachable(Unreachable::Stalled)),
        };
        let len = u64::try_from(piece.len()).expect("a length fits u64");
        if len > self.rest.len() {
            return Err(OriginError::Protocol(Protocol::TooLong));
        }
        self.progress.waited += self.origin.clock.now() - began;
        self.progress.bytes += len;
        if self.progress.bytes >= PROGRESS_BYTES {
            self.progress = Progress::default();
        }
        self.rest = ByteRange::at(self.rest.start() + len, self.rest.len() - len);
        Counters::add(&self.origin.counters.bytes, len);
        Ok(piece)
    }

    fn fail(&mut self, error: OriginError) -> Result<Bytes, OriginError> {
        self.failed = Some(error);
        self.close();
        Err(error)
    }

    fn close(&mut self) {
        self.pieces = None;
        self.permit = None;
    }
}
