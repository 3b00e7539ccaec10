//! Bodies: bytes and their checksums.
//!
//! ```text
//! [status: u32 LE]                      only in the answer to a Fill; 0, or an error kind and nothing more
//! { bytes of 1 MiB (the last one less)
//!   CRC32C of each of its 64 KiB blocks, u32 LE each }   until the range is complete
//! ```
//!
//! MiB are counted from the start of the range. Why in this order: bytes are sent as they land from the origin,
//! before the checksums that follow from them; the length is known before the first byte.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::Want;
use crate::checksum::Checksummed;
use crate::error::ErrorKind;
use crate::ids::ObjectId;
use crate::limits::{BLOCK_BYTES, SEGMENT_BYTES};
use crate::object::Chunk;
use crate::range::ByteRange;

/// Segments that were put together from several frames begin at such an address, so that a store can write them
/// past the page cache without another copy.
const ALIGNMENT: usize = 4096;

/// The length of a body: the range's bytes, 4 for each block, and 4 for the status of a Fill. `None` = the body of a PUT.
pub fn body_len(range: ByteRange, want: Option<Want>) -> u64 {
    let status = if want.is_some_and(Want::is_fill) { 4 } else { 0 };
    status + range.len() + 4 * range.blocks()
}

/// Why a body was not accepted; the connection it came on is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A Fill failed at the sender, which closes the connection.
    #[error("the peer's fill failed: {0}")]
    Refused(ErrorKind),
    /// More bytes than the range has.
    #[error("more bytes than were asked for")]
    TooLong,
    /// What a sender is to send isn't the next piece of the range.
    #[error("a piece that is not the next one")]
    OutOfOrder,
}

/// How a body begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// With the status of a Fill.
    Status,
    /// With the first bytes.
    Bytes,
}

impl From<Want> for Opening {
    fn from(want: Want) -> Self {
        if want.is_fill() { Self::Status } else { Self::Bytes }
    }
}

/// Turns pieces of any whole number of blocks into the body's frames. Bytes are passed on, never copied.
#[derive(Debug)]
pub struct BodyEncoder {
    object: ObjectId,
    next_block: u64,
    left: u64,
    segment_left: u64,
    crcs: BytesMut,
}

impl BodyEncoder {
    /// The encoder of `range` (bytes within the chunk, whole blocks).
    pub fn new(chunk: &Chunk, range: ByteRange) -> Self {
        Self {
            object: chunk.object().id(),
            next_block: chunk.first_block() + range.start() / u64::from(BLOCK_BYTES),
            left: range.len(),
            segment_left: u64::from(SEGMENT_BYTES).min(range.len()),
            crcs: BytesMut::new(),
        }
    }

    /// Whether the whole range was pushed.
    pub fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// Appends the frames of `piece`: the range's next blocks. Its bytes are not read here: who receives them checks.
    pub fn push(&mut self, piece: Checksummed, frames: &mut VecDeque<Bytes>) -> Result<(), BodyError> {
        let len = piece.len() as u64;
        let whole = len.is_multiple_of(u64::from(BLOCK_BYTES)) || len == self.left;
        if piece.object() != self.object || piece.first_block() != self.next_block || len > self.left || !whole {
            return Err(BodyError::OutOfOrder);
        }
        let (mut bytes, crcs) = piece.into_unverified_parts();
        let mut crcs = crcs.into_iter();
        self.next_block += len.div_ceil(u64::from(BLOCK_BYTES));
        while !bytes.is_empty() {
            let here = usize::try_from(self.segment_left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let blocks = here.div_ceil(BLOCK_BYTES as usize);
            for crc in crcs.by_ref().take(blocks) {
                self.crcs.extend_from_slice(&crc.to_le_bytes());
            }
            frames.push_back(bytes.split_to(here));
            self.segment_left -= here as u64;
            self.left -= here as u64;
            if self.segment_left == 0 {
                frames.push_back(self.crcs.split().freeze());
                self.segment_left = u64::from(SEGMENT_BYTES).min(self.left);
            }
        }
        Ok(())
    }
}

/// Takes a body's frames and gives its segments: each at most 1 MiB, in order, with their checksums.
///
/// A segment that lies in one frame is a slice of it; one that is split over frames is copied once. Holds at most one
/// segment that isn't complete.
#[derive(Debug)]
pub struct BodyDecoder {
    object: ObjectId,
    next_block: u64,
    /// Bytes of the range in segments that were not given out yet.
    left: u64,
    opening: Opening,
    /// The segment, or status, that is split over frames: empty unless one is.
    partial: BytesMut,
}

impl BodyDecoder {
    /// The decoder of a body that carries `range` (bytes within the chunk, whole blocks).
    pub fn new(chunk: &Chunk, range: ByteRange, opening: Opening) -> Self {
        Self {
            object: chunk.object().id(),
            next_block: chunk.first_block() + range.start() / u64::from(BLOCK_BYTES),
            left: range.len(),
            opening,
            partial: BytesMut::new(),
        }
    }

    /// Whether the Fill's status was read (true at once for a body without one).
    pub fn is_open(&self) -> bool {
        self.opening == Opening::Bytes
    }

    /// Whether the whole range was given out.
    pub fn is_complete(&self) -> bool {
        self.is_open() && self.left == 0
    }

    /// Takes the status of a Fill from the front of `frame`; see [`is_open`](Self::is_open). A status other than 0 is
    /// an error.
    pub fn open(&mut self, frame: &mut Bytes) -> Result<(), BodyError> {
        if self.is_open() {
            return Ok(());
        }
        let Some(mut status) = self.gather(frame, 4) else { return Ok(()) };
        if let Some(kind) = ErrorKind::from_code(status.get_u32_le()) {
            return Err(BodyError::Refused(kind));
        }
        self.opening = Opening::Bytes;
        Ok(())
    }

    /// Takes what the next segment needs from the front of `frame`, and gives the segment when it is complete.
    /// `None` means that `frame` is used up. Call it again with the rest of the frame until then.
    pub fn take(&mut self, frame: &mut Bytes) -> Result<Option<Checksummed>, BodyError> {
        self.open(frame)?;
        if frame.is_empty() {
            return Ok(None);
        }
        if self.left == 0 {
            return Err(BodyError::TooLong);
        }
        let len = usize::try_from(self.left).map_or(SEGMENT_BYTES as usize, |left| left.min(SEGMENT_BYTES as usize));
        let blocks = len.div_ceil(BLOCK_BYTES as usize);
        let Some(mut bytes) = self.gather(frame, len + 4 * blocks) else { return Ok(None) };
        let mut crcs = bytes.split_off(len);
        let crcs = (0..blocks).map(|_| crcs.get_u32_le()).collect();
        let first = self.next_block;
        self.next_block += blocks as u64;
        self.left -= len as u64;
        let segment = Checksummed::new(self.object, first, bytes, crcs).expect("one checksum was read for each block");
        Ok(Some(segment))
    }

    /// The next `len` bytes, once they are all here.
    fn gather(&mut self, frame: &mut Bytes, len: usize) -> Option<Bytes> {
        if self.partial.is_empty() && frame.len() >= len {
            return Some(frame.split_to(len));
        }
        if frame.is_empty() {
            return None;
        }
        if self.partial.is_empty() {
            self.partial = aligned(len);
        }
        let missing = len - self.partial.len();
        self.partial.extend_from_slice(&frame.split_to(missing.min(frame.len())));
        (self.partial.len() == len).then(|| std::mem::take(&mut self.partial).freeze())
    }
}

/// An empty buffer for `len` bytes (bounded by one segment) whose first byte is aligned.
fn aligned(len: usize) -> BytesMut {
    if len < ALIGNMENT {
        return BytesMut::with_capacity(len);
    }
    let mut buffer = BytesMut::with_capacity(len + ALIGNMENT);
    let padding = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    buffer.resize(padding, 0);
    buffer.advance(padding);
    buffer
}
