//! Request and answer heads.
//!
//! | header              | value                                                             |
//! |---------------------|-------------------------------------------------------------------|
//! | `x-larder-want`     | `have`, `fill` or `fill-passed` (GET only)                        |
//! | `x-larder-epoch`    | decimal; also in every answer                                     |
//! | `x-larder-request`  | 16 hex digits                                                     |
//! | `x-larder-key`      | percent-encoded, all but `A-Z a-z 0-9 - . _ ~ /`                  |
//! | `x-larder-version`  | as it is: visible ASCII without quotes                            |
//! | `x-larder-size`     | the object's size, decimal                                        |
//! | `x-larder-chunk-size` | bytes, decimal                                                  |
//! | `x-larder-range`    | `start-end`, decimal, half open, bytes within the chunk           |
//! | `x-larder-error`    | an error kind's name, in an answer other than 200 and 204         |
//!
//! A header that appears twice is refused: two readers of one head could otherwise disagree.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, Method, Request, StatusCode, request};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{ChunkRequest, RequestId, Want, WireError};
use crate::error::ErrorKind;
use crate::ids::{Epoch, ObjectId, VolumeId};
use crate::limits::KEY_BYTES_MAX;
use crate::object::{Chunk, ChunkIndex, ChunkSize, Object, ObjectKey, Version};
use crate::range::ByteRange;

/// The sender's epoch.
pub const EPOCH: &str = "x-larder-epoch";
/// The error kind of an answer.
pub const ERROR: &str = "x-larder-error";
/// The request of a door that this one serves.
pub const REQUEST: &str = "x-larder-request";
/// Where a batch is posted.
pub const BATCH_PATH: &str = "/v1/chunks";
/// Where the signed map is read.
pub const MAP_PATH: &str = "/v1/map";

pub(super) const WANT: &str = "x-larder-want";
const KEY: &str = "x-larder-key";
const VERSION: &str = "x-larder-version";
const SIZE: &str = "x-larder-size";
const CHUNK_SIZE: &str = "x-larder-chunk-size";
const RANGE: &str = "x-larder-range";
const CHUNK_PATH: &str = "/v1/chunk/";

/// HTTP/1.1 demands a Host; certificates, not this, say who is who.
const HOST_VALUE: &str = "larder";

/// What stays as it is in a percent-encoded key: RFC 3986's unreserved characters, and `/`.
const KEY_SET: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// What a head asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Blocks of a chunk: [`ChunkRequest::parse`].
    Chunk,
    /// A copy handed over: [`PutRequest::parse`].
    Put,
    /// Several chunks: [`BatchRequest::parse_head`](super::BatchRequest::parse_head).
    Batch,
    /// The signed map.
    Map,
}

/// What a head asks for, by method and path alone.
pub fn target_of(head: &request::Parts) -> Result<Target, WireError> {
    let path = head.uri.path();
    match head.method {
        Method::GET if path.starts_with(CHUNK_PATH) => Ok(Target::Chunk),
        Method::PUT if path.starts_with(CHUNK_PATH) => Ok(Target::Put),
        Method::POST if path == BATCH_PATH => Ok(Target::Batch),
        Method::GET if path == MAP_PATH => Ok(Target::Map),
        _ => Err(WireError::Target),
    }
}

impl Want {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Have => "have",
            Self::DoubtedHave => "have-doubted",
            Self::Fill => "fill",
            Self::PassedFill => "fill-passed",
        }
    }

    pub(super) fn from_head(headers: &HeaderMap) -> Result<Self, WireError> {
        match text(headers, WANT)? {
            "have" => Ok(Self::Have),
            "have-doubted" => Ok(Self::DoubtedHave),
            "fill" => Ok(Self::Fill),
            "fill-passed" => Ok(Self::PassedFill),
            _ => Err(WireError::Header(WANT)),
        }
    }
}

impl ChunkRequest {
    /// The request's head.
    pub fn to_head(&self) -> Request<()> {
        chunk_head(Method::GET, self.request, self.epoch, &self.chunk, self.range)
            .header(WANT, self.want.as_str())
            .body(())
            .expect("every value is checked ASCII")
    }

    /// The request of a head whose target is [`Target::Chunk`].
    pub fn parse(head: &request::Parts) -> Result<Self, WireError> {
        let want = Want::from_head(&head.headers)?;
        let chunk = chunk_of(head)?;
        let range = range_of(&head.headers)?;
        Self::new(request_id_of(&head.headers)?, want, epoch_of(&head.headers)?, chunk, range).ok_or(WireError::Range)
    }
}

/// A whole chunk that its filler hands to another owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutRequest {
    /// The request of a door that led to this copy.
    pub request: RequestId,
    /// The sender's epoch; an older one than the receiver's is refused.
    pub epoch: Epoch,
    /// The chunk.
    pub chunk: Chunk,
}

impl PutRequest {
    /// The request's head, with the length of its body.
    pub fn to_head(&self) -> Request<()> {
        let range = ByteRange::at(0, u64::from(self.chunk.len()));
        chunk_head(Method::PUT, self.request, self.epoch, &self.chunk, range)
            .header(CONTENT_LENGTH, super::body_len(range, None))
            .body(())
            .expect("every value is checked ASCII")
    }

    /// The request of a head whose target is [`Target::Put`]; only whole chunks are handed over.
    pub fn parse(head: &request::Parts) -> Result<Self, WireError> {
        let chunk = chunk_of(head)?;
        let whole = ByteRange::at(0, u64::from(chunk.len()));
        if range_of(&head.headers)? != whole {
            return Err(WireError::Range);
        }
        if number(text(&head.headers, "content-length")?) != Some(super::body_len(whole, None)) {
            return Err(WireError::Header("content-length"));
        }
        Ok(Self { request: request_id_of(&head.headers)?, epoch: epoch_of(&head.headers)?, chunk })
    }
}

/// The head that asks a peer for the map it believes.
pub fn map_head(request: RequestId, epoch: Epoch) -> Request<()> {
    plain_head(Method::GET, MAP_PATH, request, epoch).body(()).expect("every value is checked ASCII")
}

pub(super) fn plain_head(method: Method, path: &str, request: RequestId, epoch: Epoch) -> request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, HOST_VALUE)
        .header(REQUEST, request.to_string())
        .header(EPOCH, epoch.0)
}

fn chunk_head(method: Method, request: RequestId, epoch: Epoch, chunk: &Chunk, range: ByteRange) -> request::Builder {
    let object = chunk.object();
    let path = format!("{CHUNK_PATH}{}/{}/{}", object.volume(), object.id(), chunk.index().0);
    plain_head(method, &path, request, epoch)
        .header(KEY, utf8_percent_encode(object.key().as_str(), KEY_SET).to_string())
        .header(VERSION, object.version().as_str())
        .header(SIZE, object.size())
        .header(CHUNK_SIZE, object.chunk_size().bytes())
        .header(RANGE, format!("{}-{}", range.start(), range.end()))
}

fn chunk_of(head: &request::Parts) -> Result<Chunk, WireError> {
    let mut path = head.uri.path().strip_prefix(CHUNK_PATH).ok_or(WireError::Target)?.split('/');
    let (Some(volume), Some(object), Some(index), None) = (path.next(), path.next(), path.next(), path.next()) else {
        return Err(WireError::Target);
    };
    let volume = VolumeId::from_hex(volume).ok_or(WireError::Target)?;
    let id = ObjectId::from_hex(object).ok_or(WireError::Target)?;
    let index = number(index).and_then(|index| u32::try_from(index).ok()).ok_or(WireError::Target)?;
    let key = key_of(text(&head.headers, KEY)?)?;
    let version = Version::of_etag(text(&head.headers, VERSION)?)
        .filter(|version| version.as_str().len() == head.headers.get(VERSION).map_or(0, |value| value.len()))
        .ok_or(WireError::Header(VERSION))?;
    let size = number(text(&head.headers, SIZE)?).ok_or(WireError::Header(SIZE))?;
    let chunk_size = number(text(&head.headers, CHUNK_SIZE)?)
        .and_then(|bytes| ChunkSize::new(u32::try_from(bytes).ok()?))
        .ok_or(WireError::Header(CHUNK_SIZE))?;
    checked_chunk(volume, id, ChunkIndex(index), key, version, size, chunk_size)
}

/// The chunk of these names, if the object id is that of volume, key and version, and the object has such a chunk.
pub(super) fn checked_chunk(
    volume: VolumeId,
    id: ObjectId,
    index: ChunkIndex,
    key: ObjectKey,
    version: Version,
    size: u64,
    chunk_size: ChunkSize,
) -> Result<Chunk, WireError> {
    let object: Arc<Object> = Object::new(volume, key, version, size, chunk_size).ok_or(WireError::NoSuchChunk)?;
    if object.id() != id {
        return Err(WireError::WrongObject);
    }
    object.chunk(index).ok_or(WireError::NoSuchChunk)
}

fn key_of(encoded: &str) -> Result<ObjectKey, WireError> {
    if encoded.len() > 3 * KEY_BYTES_MAX {
        return Err(WireError::Header(KEY));
    }
    let decoded = percent_decode_str(encoded).decode_utf8().map_err(|_| WireError::Header(KEY))?;
    ObjectKey::parse(&decoded).map_err(|_| WireError::Header(KEY))
}

fn range_of(headers: &HeaderMap) -> Result<ByteRange, WireError> {
    let (start, end) = text(headers, RANGE)?.split_once('-').ok_or(WireError::Header(RANGE))?;
    match (number(start), number(end)) {
        (Some(start), Some(end)) => ByteRange::new(start, end).ok_or(WireError::Range),
        (None, _) | (_, None) => Err(WireError::Header(RANGE)),
    }
}

pub(super) fn epoch_of(headers: &HeaderMap) -> Result<Epoch, WireError> {
    number(text(headers, EPOCH)?).map(Epoch).ok_or(WireError::Header(EPOCH))
}

pub(super) fn request_id_of(headers: &HeaderMap) -> Result<RequestId, WireError> {
    RequestId::parse(text(headers, REQUEST)?).ok_or(WireError::Header(REQUEST))
}

/// The one value of a header.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, WireError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| WireError::Header(name)),
        (None, _) | (Some(_), Some(_)) => Err(WireError::Header(name)),
    }
}

/// Decimal digits and nothing else (Rust's own parser takes a `+`).
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// The status that carries an error kind; the kind itself is in `x-larder-error`.
pub fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::OriginUnreachable | ErrorKind::OriginProtocol => StatusCode::BAD_GATEWAY,
        ErrorKind::AccessDenied | ErrorKind::BadCredentials => StatusCode::FAILED_DEPENDENCY,
        ErrorKind::NoSuchBucket | ErrorKind::NotFound | ErrorKind::NotHere | ErrorKind::UnknownVolume => {
            StatusCode::NOT_FOUND
        }
        ErrorKind::Throttled => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Changed => StatusCode::PRECONDITION_FAILED,
        ErrorKind::StaleEpoch => StatusCode::CONFLICT,
        ErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Busy => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::BadRequest => StatusCode::BAD_REQUEST,
        ErrorKind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The error kind of an answer that isn't a success; one without a known name reads as `Internal`.
pub fn error_from_answer(headers: &HeaderMap) -> ErrorKind {
    let name = text(headers, ERROR).unwrap_or_default();
    ErrorKind::ALL.into_iter().find(|kind| kind.as_str() == name).unwrap_or(ErrorKind::Internal)
}

/// The epoch of an answer, where it says one.
pub fn epoch_of_answer(headers: &HeaderMap) -> Option<Epoch> {
    epoch_of(headers).ok()
}
