//! What S3 and Azure have in common: one set of connections, ranged GETs, and what an answer must say to be believed.
//!
//! An answer is believed only when status, ETag, Content-Range and Content-Length all say what was asked for. Documents
//! are read up to a bound. Refuses to know of signatures and of the meaning of a store's codes. URLs are never logged:
//! some hold a signature.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, Method, StatusCode, header};
use larder_proto::limits::OBJECT_BYTES_MAX;
use larder_proto::object::Version;
use larder_proto::range::ByteRange;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, ReqwestConnector,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};

use super::{ObjectInfo, OriginError, Pieces, Protocol, Unreachable};

/// Unreserved characters stay: the one form that signers, clients and servers all read alike.
pub(super) const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same for a key in a path.
pub(super) const PATH: &AsciiSet = &QUERY.remove(b'/');

/// The last character of Unicode: after a directory and everything in it.
pub(super) const LAST: char = '\u{10FFFF}';

/// A connection that isn't there by then won't be.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Idle connections kept per host: as many as requests may be in flight to one origin.
const IDLE_CONNECTIONS_MAX: usize = super::volume::REQUESTS_IN_FLIGHT_MAX;

/// S3 closes idle connections after about 20 s; a closed one that is reused costs a retry.
const IDLE_FOR: Duration = Duration::from_secs(15);

/// An error document is a few hundred bytes; more isn't read.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// A pool of connections. Where the system has no certificates, only plain endpoints can be reached; that is logged.
pub(super) fn client() -> Result<HttpClient, OriginError> {
    let options = ClientOptions::new()
        .with_allow_http(true)
        .with_http1_only()
        .with_timeout_disabled()
        .with_connect_timeout(CONNECT_WITHIN)
        .with_pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .with_pool_idle_timeout(IDLE_FOR);
    let connector = ReqwestConnector::default();
    let client = connector.connect(&options).or_else(|error| {
        tracing::warn!(%error, "no certificates of the system: https origins can't be verified, so can't be reached");
        connector.connect(&options.with_no_system_certificates(true))
    });
    client.map_err(|_| OriginError::Unreachable(Unreachable::Connect))
}

/// A request without a body, not signed yet.
pub(super) fn request(method: Method, url: &str, headers: HeaderMap) -> Result<HttpRequest, OriginError> {
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    *request.method_mut() = method;
    *request.uri_mut() = url.parse().map_err(|_| OriginError::Protocol(Protocol::Endpoint))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Sends it; fails only when no answer began.
pub(super) async fn send(client: &HttpClient, request: HttpRequest) -> Result<HttpResponse, OriginError> {
    client.execute(request).await.map_err(|error| unreachable(&error))
}

/// The headers of a GET for a part of a version; nothing when the range is empty, so that there is nothing to ask for.
pub(super) fn range_headers(version: &Version, range: ByteRange) -> Result<Option<HeaderMap>, OriginError> {
    let Some(last) = range.end().checked_sub(1).filter(|_| !range.is_empty()) else { return Ok(None) };
    let mut headers = HeaderMap::new();
    headers.insert(header::RANGE, value(&format!("bytes={}-{last}", range.start()))?);
    headers.insert(header::IF_MATCH, value(&format!("\"{}\"", version.as_str()))?);
    Ok(Some(headers))
}

/// The body of such a GET's success (200 or 206), if it is that range of that version.
pub(super) fn pieces(response: HttpResponse, version: &Version, range: ByteRange) -> Result<Pieces, OriginError> {
    match response.status() {
        StatusCode::PARTIAL_CONTENT => check_part(response.headers(), range)?,
        _ => check_whole(response.headers(), range)?,
    }
    if etag(response.headers()) != Some(version.clone()) {
        return Err(OriginError::Protocol(Protocol::Version));
    }
    let pieces = response.into_body().bytes_stream();
    Ok(pieces.map(|piece| piece.map_err(|error| unreachable(&error))).boxed())
}

/// What the headers of a successful HEAD say.
pub(super) fn info(headers: &HeaderMap) -> Result<ObjectInfo, OriginError> {
    let wrong = OriginError::Protocol(Protocol::Header);
    let size = content_length(headers)?.filter(|size| *size <= OBJECT_BYTES_MAX).ok_or(wrong)?;
    let version = etag(headers).ok_or(wrong)?;
    let modified = text(headers, header::LAST_MODIFIED).ok_or(wrong)?;
    Ok(ObjectInfo { size, version, mtime_ms: http_date_ms(modified).ok_or(wrong)? })
}

/// A date as headers write it (`Mon, 06 May 2024 07:08:09 GMT`).
pub(super) fn http_date_ms(text: &str) -> Option<u64> {
    Some(whole_seconds_ms(jiff::fmt::rfc2822::parse(text).ok()?.timestamp()))
}

/// HEAD knows seconds, LIST may know more: both are cut to seconds, so that a file's mtime doesn't change with the way it was asked for.
pub(super) fn whole_seconds_ms(at: jiff::Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or(0).saturating_mul(1_000)
}

/// Reads a whole body, up to a bound.
pub(super) async fn read(response: HttpResponse, max_bytes: usize) -> Result<Bytes, OriginError> {
    let mut all = BytesMut::new();
    let mut pieces = response.into_body().bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| unreachable(&error))?;
        if all.len() + piece.len() > max_bytes {
            return Err(OriginError::Protocol(Protocol::ListingTooLarge));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

/// The document of a refusal; empty when it doesn't come.
pub(super) async fn refusal(response: HttpResponse) -> Bytes {
    read(response, ERROR_BYTES_MAX).await.unwrap_or_default()
}

/// What a refusal means when no code says more.
pub(super) fn by_status(status: StatusCode) -> OriginError {
    match status.as_u16() {
        401 => OriginError::BadCredentials,
        403 => OriginError::AccessDenied,
        404 | 410 => OriginError::NotFound,
        // Another length than the version we ask for had: the same as another version.
        412 | 416 => OriginError::Changed,
        429 | 503 => OriginError::Throttled,
        301 => OriginError::Protocol(Protocol::Region),
        status @ 500..=599 => OriginError::Unreachable(Unreachable::Status(status)),
        status => OriginError::Protocol(Protocol::Status(status)),
    }
}

/// The text of `/Error/Code`, which both stores write; nothing when it isn't there or the document isn't XML.
pub(super) fn error_code(document: &[u8]) -> Option<String> {
    let mut reader = Reader::from_reader(document);
    let (mut depth, mut inside) = (0_u32, false);
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) => {
                depth += 1;
                inside = depth == 2 && tag.local_name().as_ref() == b"Code";
            }
            Event::End(_) => {
                depth = depth.checked_sub(1)?;
                inside = false;
            }
            Event::Text(text) if inside => {
                let text = std::str::from_utf8(&text).ok()?.trim();
                let known = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric());
                return known.then(|| text.to_owned());
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

/// The character of `&amp;`, `&#38;` and their like; entities of the document's own making are none.
pub(super) fn character(reference: &BytesRef<'_>) -> Option<char> {
    if let Some(character) = reference.resolve_char_ref().ok()? {
        return Some(character);
    }
    match reference.as_ref() {
        b"lt" => Some('<'),
        b"gt" => Some('>'),
        b"amp" => Some('&'),
        b"quot" => Some('"'),
        b"apos" => Some('\''),
        _ => None,
    }
}

pub(super) fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn unreachable(error: &HttpError) -> OriginError {
    OriginError::Unreachable(match error.kind() {
        HttpErrorKind::Connect => Unreachable::Connect,
        HttpErrorKind::Timeout => Unreachable::Silent,
        _ => Unreachable::Broken, // the enum is open: anything else that HTTP can end in
    })
}

fn value(text: &str) -> Result<http::HeaderValue, OriginError> {
    text.parse().map_err(|_| OriginError::Protocol(Protocol::Header))
}

/// The answer to a range must be that range, and as long as it says.
fn check_part(headers: &HeaderMap, range: ByteRange) -> Result<(), OriginError> {
    let wrong = OriginError::Protocol(Protocol::Range);
    let content_range = text(headers, header::CONTENT_RANGE).ok_or(wrong)?;
    let (place, _total) = content_range.strip_prefix("bytes ").and_then(|rest| rest.split_once('/')).ok_or(wrong)?;
    let (first, last) = place.split_once('-').ok_or(wrong)?;
    let (first, last) = (first.parse::<u64>().map_err(|_| wrong)?, last.parse::<u64>().map_err(|_| wrong)?);
    let fits = first == range.start() && last.checked_add(1) == Some(range.end());
    let length = content_length(headers)?;
    if fits && length.is_none_or(|length| length == range.len()) { Ok(()) } else { Err(wrong) }
}

/// A whole object is an answer only to the range that is the whole object.
fn check_whole(headers: &HeaderMap, range: ByteRange) -> Result<(), OriginError> {
    let fits = range.start() == 0 && content_length(headers)? == Some(range.len());
    if fits { Ok(()) } else { Err(OriginError::Protocol(Protocol::Range)) }
}

fn etag(headers: &HeaderMap) -> Option<Version> {
    Version::of_etag(text(headers, header::ETAG)?)
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, OriginError> {
    let parse = |text: &str| text.parse().map_err(|_| OriginError::Protocol(Protocol::Header));
    text(headers, header::CONTENT_LENGTH).map(parse).transpose()
}

#[cfg(test)]
mod tests;
