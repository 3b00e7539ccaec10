//! Several whole chunks in one request: prefetch of small files.
//!
//! ```text
//! POST /v1/chunks, headers x-larder-want, x-larder-epoch, x-larder-request
//! request, per entry:  volume id (16) | object id (16) | index u32 LE
//!                      | key (u32 LE length + bytes) | version (u32 LE length + bytes)
//!                      | object size u64 LE | chunk size u32 LE
//! answer, per entry in order:  kind u32 LE (0 = the bytes follow) | length of the body u64 LE | body
//! ```
//!
//! A body is that of one GET without status: the kind stands for it. The answer is chunked: its length isn't known
//! before the first entry is. At most 256 entries, and 8 MiB unless it is one entry.
//!
//! `x-larder-want: fill-kept` asks the owner to bring the chunks and keep them: the answer holds only kinds and lengths
//! of 0, each when the chunk has come. Why: who prefetches a directory larger than its memory has no place for the bytes.
//!
//! `x-larder-want: kept` asks an owner which of the chunks it keeps, of any length together; nothing is brought. The answer
//! holds only kinds and lengths of 0: 0 = it does, NotHere = it lacks the chunk and has room, NoSpace = it has no room
//! below its low watermark, StaleEpoch = by its map it owns no such chunk. Why: copies are made only where they are missing.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{Method, Request, request};

use super::body::{BodyDecoder, BodyError, Opening, body_len};
use super::head::{self, BATCH_PATH};
use super::{ChunkRequest, RequestId, Want, WireError};
use crate::checksum::Checksummed;
use crate::error::ErrorKind;
use crate::ids::{Epoch, ObjectId, VolumeId};
use crate::limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, KEY_BYTES_MAX, VERSION_BYTES_MAX};
use crate::object::{Chunk, ChunkIndex, ChunkSize, ObjectKey, Version};
use crate::range::ByteRange;

/// The longest entry of a request.
const ENTRY_BYTES_MAX: usize = 16 + 16 + 4 + 4 + KEY_BYTES_MAX + 4 + VERSION_BYTES_MAX + 8 + 4;

/// What becomes of the bytes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bodies {
    /// They are in the answer.
    Sent,
    /// They stay with the owner; the answer says that they have come.
    Kept,
    /// None move; the answer says which chunks the owner keeps.
    Asked,
}

/// `x-larder-want` of a batch whose bytes stay with the owner.
const FILL_KEPT: &str = "fill-kept";

/// `x-larder-want` of a batch that asks which chunks the owner keeps.
const KEPT: &str = "kept";

/// A request for several whole chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRequest {
    request: RequestId,
    want: Want,
    bodies: Bodies,
    epoch: Epoch,
    chunks: Vec<Chunk>,
}

impl BatchRequest {
    /// The longest body of a request; a longer one is refused before it is read.
    pub const BODY_BYTES_MAX: usize = BATCH_ENTRIES_MAX * ENTRY_BYTES_MAX;

    /// Asks for these chunks, whole. Nothing when there are none, more than 256, or several with more than 8 MiB.
    pub fn new(request: RequestId, want: Want, epoch: Epoch, chunks: Vec<Chunk>) -> Option<Self> {
        let bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.len())).sum();
        let bounded = chunks.len() == 1 || (2..=BATCH_ENTRIES_MAX).contains(&chunks.len()) && bytes <= BATCH_BYTES_MAX;
        bounded.then_some(Self { request, want, bodies: Bodies::Sent, epoch, chunks })
    }

    /// As [`new`](Self::new): asks an owner to bring these chunks and keep them.
    pub fn keep(request: RequestId, epoch: Epoch, chunks: Vec<Chunk>) -> Option<Self> {
        Some(Self { bodies: Bodies::Kept, ..Self::new(request, Want::Fill, epoch, chunks)? })
    }

    /// Asks an owner which of these chunks it keeps. Nothing when there are none, or more than 256.
    pub fn ask(request: RequestId, epoch: Epoch, chunks: Vec<Chunk>) -> Option<Self> {
        let bounded = (1..=BATCH_ENTRIES_MAX).contains(&chunks.len());
        bounded.then_some(Self { request, want: Want::Have, bodies: Bodies::Asked, epoch, chunks })
    }

    /// Whether the answer holds the bytes.
    pub fn bodies(&self) -> Bodies {
        self.bodies
    }

    /// The chunks, in the order of the answer.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Have or Fill, for every entry.
    pub fn want(&self) -> Want {
        self.want
    }

    /// The sender's epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The request of a door that this one serves.
    pub fn request(&self) -> RequestId {
        self.request
    }

    /// The entries, each as a request of its own.
    pub fn entries(&self) -> impl Iterator<Item = ChunkRequest> {
        self.chunks.iter().map(|chunk| ChunkRequest::whole(self.request, self.want, self.epoch, chunk.clone()))
    }

    /// The head and the body.
    pub fn encode(&self) -> Request<Bytes> {
        let mut body = BytesMut::new();
        for chunk in &self.chunks {
            let object = chunk.object();
            body.put_slice(object.volume().as_bytes());
            body.put_slice(object.id().as_bytes());
            body.put_u32_le(chunk.index().0);
            put_text(&mut body, object.key().as_str());
            put_text(&mut body, object.version().as_str());
            body.put_u64_le(object.size());
            body.put_u32_le(object.chunk_size().bytes());
        }
        head::plain_head(Method::POST, BATCH_PATH, self.request, self.epoch)
            .header(head::WANT, self.want_text())
            .header(http::header::CONTENT_LENGTH, body.len())
            .body(body.freeze())
            .expect("every value is checked ASCII")
    }

    fn want_text(&self) -> &'static str {
        match self.bodies {
            Bodies::Sent => self.want.as_str(),
            Bodies::Kept => FILL_KEPT,
            Bodies::Asked => KEPT,
        }
    }

    /// The request of a head whose target is [`Target::Batch`](super::Target::Batch), and its body (bounded by its reader).
    pub fn parse(head: &request::Parts, mut body: Bytes) -> Result<Self, WireError> {
        let mut chunks = Vec::new();
        while !body.is_empty() {
            if chunks.len() == BATCH_ENTRIES_MAX {
                return Err(WireError::Batch);
            }
            chunks.push(entry(&mut body)?);
        }
        let headers = &head.headers;
        let (request, epoch) = (head::request_id_of(headers)?, head::epoch_of(headers)?);
        let parsed = match head::text(headers, head::WANT)? {
            FILL_KEPT => Self::keep(request, epoch, chunks),
            KEPT => Self::ask(request, epoch, chunks),
            _ => Self::new(request, Want::from_head(headers)?, epoch, chunks),
        };
        parsed.ok_or(WireError::Batch)
    }
}

fn put_text(body: &mut BytesMut, text: &str) {
    body.put_u32_le(u32::try_from(text.len()).expect("keys and versions are bounded"));
    body.put_slice(text.as_bytes());
}

fn entry(body: &mut Bytes) -> Result<Chunk, WireError> {
    let volume = VolumeId::from_slice(&take(body, 16)?).ok_or(WireError::Batch)?;
    let id = ObjectId::from_slice(&take(body, 16)?).ok_or(WireError::Batch)?;
    let index = ChunkIndex(take(body, 4)?.get_u32_le());
    let key = take_text(body, KEY_BYTES_MAX)?;
    let key = std::str::from_utf8(&key).map_err(|_| WireError::Batch)?;
    let key = ObjectKey::parse(key).map_err(|_| WireError::Batch)?;
    let version = take_text(body, VERSION_BYTES_MAX)?;
    let version = std::str::from_utf8(&version)
        .ok()
        .and_then(Version::of_etag)
        .filter(|parsed| parsed.as_str().len() == version.len())
        .ok_or(WireError::Batch)?;
    let size = take(body, 8)?.get_u64_le();
    let chunk_size = ChunkSize::new(take(body, 4)?.get_u32_le()).ok_or(WireError::Batch)?;
    head::checked_chunk(volume, id, index, key, version, size, chunk_size)
}

fn take(body: &mut Bytes, len: usize) -> Result<Bytes, WireError> {
    if body.len() < len { Err(WireError::Batch) } else { Ok(body.split_to(len)) }
}

fn take_text(body: &mut Bytes, max: usize) -> Result<Bytes, WireError> {
    let len = usize::try_from(take(body, 4)?.get_u32_le()).map_err(|_| WireError::Batch)?;
    if len > max { Err(WireError::Batch) } else { take(body, len) }
}

/// What precedes an entry's body in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryHead {
    /// The whole chunk follows.
    Bytes {
        /// Length of the body, checksums included.
        len: u64,
    },
    /// The chunk has come, or was there, and stays with the owner.
    Kept,
    /// There is none.
    Refused(ErrorKind),
}

impl EntryHead {
    /// The head of an entry that carries the whole `chunk`.
    pub fn of(chunk: &Chunk) -> Self {
        Self::Bytes { len: body_len(ByteRange::at(0, u64::from(chunk.len())), None) }
    }

    /// The 12 bytes.
    pub fn encode(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(12);
        match self {
            Self::Bytes { len } => {
                bytes.put_u32_le(0);
                bytes.put_u64_le(len);
            }
            Self::Kept => {
                bytes.put_u32_le(0);
                bytes.put_u64_le(0);
            }
            Self::Refused(kind) => {
                bytes.put_u32_le(kind.code());
                bytes.put_u64_le(0);
            }
        }
        bytes.freeze()
    }
}

/// What a [`BatchDecoder`] has found; positions are those of the request.
#[derive(Debug)]
pub enum BatchEvent {
    /// The next bytes of this entry.
    Segment(usize, Checksummed),
    /// This entry is complete.
    Complete(usize),
    /// This entry has no bytes.
    Refused(usize, ErrorKind),
}

/// Takes the frames of a batch's answer and gives its entries.
#[derive(Debug)]
pub struct BatchDecoder {
    chunks: std::vec::IntoIter<Chunk>,
    bodies: Bodies,
    position: usize,
    head: BytesMut,
    body: Option<BodyDecoder>,
}

impl BatchDecoder {
    /// The decoder of the answer to a request for `chunks`.
    pub fn new(chunks: Vec<Chunk>, bodies: Bodies) -> Self {
        Self { chunks: chunks.into_iter(), bodies, position: 0, head: BytesMut::with_capacity(12), body: None }
    }

    /// Whether every entry was given out.
    pub fn is_complete(&self) -> bool {
        self.body.is_none() && self.chunks.as_slice().is_empty()
    }

    /// The next event; `None` when `frame` is used up. Call it again with the rest of the frame until then.
    pub fn take(&mut self, frame: &mut Bytes) -> Result<Option<BatchEvent>, BodyError> {
        if let Some(body) = &mut self.body {
            if body.is_complete() {
                self.body = None;
                self.position += 1;
                return Ok(Some(BatchEvent::Complete(self.position - 1)));
            }
            let segment = body.take(frame)?;
            return Ok(segment.map(|segment| BatchEvent::Segment(self.position, segment)));
        }
        if frame.is_empty() {
            return Ok(None);
        }
        if self.chunks.as_slice().is_empty() {
            return Err(BodyError::TooLong);
        }
        let missing = 12 - self.head.len();
        self.head.extend_from_slice(&frame.split_to(missing.min(frame.len())));
        if self.head.len() < 12 {
            return Ok(None);
        }
        self.open_entry(frame)
    }

    fn open_entry(&mut self, frame: &mut Bytes) -> Result<Option<BatchEvent>, BodyError> {
        let chunk = self.chunks.next().expect("checked by the caller");
        let mut head = self.head.split();
        let (kind, len) = (head.get_u32_le(), head.get_u64_le());
        let range = ByteRange::at(0, u64::from(chunk.len()));
        match ErrorKind::from_code(kind) {
            Some(kind) if len == 0 => {
                self.position += 1;
                Ok(Some(BatchEvent::Refused(self.position - 1, kind)))
            }
            None if len == 0 && self.bodies != Bodies::Sent => {
                self.position += 1;
                Ok(Some(BatchEvent::Complete(self.position - 1)))
            }
            None if len == body_len(range, None) && self.bodies == Bodies::Sent => {
                let mut body = BodyDecoder::new(&chunk, range, Opening::Bytes);
                let segment = body.take(frame)?;
                self.body = Some(body);
                Ok(segment.map(|segment| BatchEvent::Segment(self.position, segment)))
            }
            Some(_) | None => Err(BodyError::OutOfOrder),
        }
    }
}
