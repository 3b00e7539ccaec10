//! The body of a request: frames that are all known before it is sent.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Frames in order. Cheap to clone: the bytes are shared.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    frames: VecDeque<Bytes>,
    left: u64,
}

impl Outgoing {
    pub(super) fn of(frames: VecDeque<Bytes>) -> Self {
        let left = frames.iter().map(|frame| frame.len() as u64).sum();
        Self { frames, left }
    }

    pub(super) fn empty() -> Self {
        Self::of(VecDeque::new())
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = self.frames.pop_front();
        self.left -= frame.as_ref().map_or(0, |frame| frame.len() as u64);
        Poll::Ready(frame.map(|frame| Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
