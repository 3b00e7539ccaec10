//! The peer protocol: HTTP/1.1 heads and bodies that carry chunks between agents.
//!
//! ```text
//! GET  /v1/chunk/{volume id}/{object id}/{index}   Have or Fill; blocks of one chunk        -> body
//! PUT  /v1/chunk/{volume id}/{object id}/{index}   hands a whole chunk to an owner; body     -> 204
//! POST /v1/chunks                                  up to 256 whole chunks, see `batch`       -> batch body
//! GET  /v1/map                                     the signed map the peer believes          -> its bytes
//! ```
//!
//! Parsing is bounded and leaves nothing to check: a [`ChunkRequest`] names a chunk that exists in an object of that
//! size, whose id is the hash of its names, and a range of whole blocks inside the chunk. `head` holds the headers,
//! `body` the bytes with their checksums. Nothing here does I/O. The layouts are pinned by tests that may never change.

use std::fmt;

use crate::error::ErrorKind;
use crate::ids::Epoch;
use crate::object::Chunk;
use crate::range::ByteRange;

mod batch;
mod body;
mod head;

#[cfg(test)]
mod tests;

pub use batch::{BatchDecoder, BatchEvent, BatchRequest, Bodies, EntryHead};
pub use body::{BodyDecoder, BodyEncoder, BodyError, Opening, body_len};
pub use head::{
    BATCH_PATH, EPOCH, ERROR, MAP_PATH, PutRequest, REQUEST, Target, epoch_of_answer, error_from_answer, map_head,
    status_of, target_of,
};

/// Names one request of a door on all agents that it touches: the header `x-larder-request`, 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

impl RequestId {
    /// The id of exactly 16 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        valid.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a request for bytes may cost the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Want {
    /// Bytes from its stores or a running flight, or `NotHere` at once.
    Have,
    /// As `Have`, from somebody whose check the sender's bytes have failed: the sender checks them as it reads them, and
    /// drops a chunk that fails. Everybody else gets what is stored, unread.
    DoubtedHave,
    /// As `Have`, and when the chunk isn't here: bring it from the origin. Goes to the slot's first Serving owner; an
    /// owner that isn't first passes it on.
    Fill,
    /// A Fill that another owner passed on. The receiver fills, whatever its own map says, so that two agents with
    /// different maps never pass it to and fro.
    PassedFill,
}

impl Want {
    /// Whether the body begins with a status, and the request uses the connections of Fills.
    pub fn is_fill(self) -> bool {
        match self {
            Self::Have | Self::DoubtedHave => false,
            Self::Fill | Self::PassedFill => true,
        }
    }
}

/// A request for blocks of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRequest {
    request: RequestId,
    want: Want,
    epoch: Epoch,
    chunk: Chunk,
    range: ByteRange,
}

impl ChunkRequest {
    /// Asks for `range` (bytes within the chunk). Nothing unless it is a non-empty range of whole 64 KiB blocks
    /// inside the chunk; only the chunk's last block may be cut.
    pub fn new(request: RequestId, want: Want, epoch: Epoch, chunk: Chunk, range: ByteRange) -> Option<Self> {
        let len = u64::from(chunk.len());
        let whole = range.widen_to_blocks(len) == range && range.end() <= len && !range.is_empty();
        whole.then_some(Self { request, want, epoch, chunk, range })
    }

    /// Asks for the whole chunk.
    pub fn whole(request: RequestId, want: Want, epoch: Epoch, chunk: Chunk) -> Self {
        let range = ByteRange::at(0, u64::from(chunk.len()));
        Self { request, want, epoch, chunk, range }
    }

    /// The request of a door that this one serves.
    pub fn request(&self) -> RequestId {
        self.request
    }

    /// Have or Fill.
    pub fn want(&self) -> Want {
        self.want
    }

    /// The sender's epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The chunk.
    pub fn chunk(&self) -> &Chunk {
        &self.chunk
    }

    /// Bytes within the chunk: whole blocks, the chunk's last one cut.
    pub fn range(&self) -> ByteRange {
        self.range
    }

    /// The same request, as an owner that isn't first passes it on.
    pub fn passed_on(&self, epoch: Epoch) -> Self {
        Self { want: Want::PassedFill, epoch, ..self.clone() }
    }
}

/// Why a request from a peer was not understood. Each is answered with `BadRequest`, and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No such method or path in the protocol.
    #[error("no such method or path")]
    Target,
    /// A header is missing, doubled, too long or doesn't parse.
    #[error("header {0} is missing or malformed")]
    Header(&'static str),
    /// The object id isn't the hash of volume, key and version.
    #[error("the object id is not that of volume, key and version")]
    WrongObject,
    /// The size, chunk size or index names no chunk.
    #[error("no such chunk")]
    NoSuchChunk,
    /// The range isn't one of whole blocks inside the chunk.
    #[error("the range is not one of whole blocks inside the chunk")]
    Range,
    /// A batch is cut short, too long, or holds too many entries or bytes.
    #[error("malformed batch")]
    Batch,
}

impl From<WireError> for ErrorKind {
    fn from(_: WireError) -> Self {
        ErrorKind::BadRequest
    }
}
