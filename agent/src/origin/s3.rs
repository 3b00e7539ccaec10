//! S3 and what speaks its protocol: GET with If-Match, HEAD, ListObjectsV2; signed by object_store, sent by its client.
//!
//! Requests are our own, because object_store fails a whole listing on one odd key and rewrites keys on their way; its
//! signer, client and TLS are not ours to repeat. An answer is believed only when status, ETag, Content-Range and
//! Content-Length all say what was asked for. Keys and signatures are never logged.
//! One [`Connector`] serves all volumes of the agent; a backend is cheap and made anew when credentials change.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, Method, StatusCode, header};
use larder_proto::limits::OBJECT_BYTES_MAX;
use larder_proto::object::{DirPath, ObjectKey, Version};
use larder_proto::range::ByteRange;
use larder_proto::volume;
use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, ReqwestConnector,
};

use super::{Cursor, ObjectInfo, Origin, OriginError, Page, Pieces, Protocol, Unreachable};

mod address;
mod errors;
mod listing;

use address::Address;

/// A connection that isn't there by then won't be.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Idle connections kept per host: as many as requests may be in flight to one origin.
const IDLE_CONNECTIONS_MAX: usize = super::volume::REQUESTS_IN_FLIGHT_MAX;

/// S3 closes idle connections after about 20 s; a closed one that is reused costs a retry.
const IDLE_FOR: Duration = Duration::from_secs(15);

/// An error document is a few hundred bytes; more isn't read.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// 1,000 keys of 1,024 bytes, each percent-encoded, with their tags, are below 5 MiB.
const LISTING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The connections of all S3 origins.
pub(super) struct Connector {
    client: HttpClient,
}

impl Connector {
    /// A pool of connections. Where the system has no certificates, only plain endpoints can be reached; that is logged.
    pub(super) fn new() -> Result<Self, OriginError> {
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
        let client = client.map_err(|_| OriginError::Unreachable(Unreachable::Connect))?;
        Ok(Self { client })
    }

    /// The origin of a bucket's prefix.
    pub(super) fn open(&self, s3: &volume::S3) -> Result<Arc<dyn Origin>, OriginError> {
        let address = Address::new(s3)?;
        let credential = s3.credentials.as_ref().map(credential).transpose()?;
        Ok(Arc::new(S3 { client: self.client.clone(), address, region: s3.region.clone(), credential }))
    }
}

/// Secrets often end in a newline that isn't part of them; anything else unprintable can't be a key.
fn credential(credentials: &volume::Credentials) -> Result<AwsCredential, OriginError> {
    let text = |secret: &volume::Secret| {
        let text = secret.expose().trim();
        let valid = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if valid { Ok(text.to_owned()) } else { Err(OriginError::BadCredentials) }
    };
    Ok(AwsCredential {
        key_id: text(&credentials.access_key_id)?,
        secret_key: text(&credentials.secret_access_key)?,
        token: credentials.session_token.as_ref().map(text).transpose()?,
    })
}

struct S3 {
    client: HttpClient,
    address: Address,
    region: Arc<str>,
    credential: Option<AwsCredential>,
}

impl S3 {
    async fn send(&self, method: Method, url: String, headers: HeaderMap) -> Result<HttpResponse, OriginError> {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method;
        *request.uri_mut() = url.parse().map_err(|_| OriginError::Protocol(Protocol::Endpoint))?;
        *request.headers_mut() = headers;
        if let Some(credential) = &self.credential {
            let signer = AwsAuthorizer::new(credential, "s3", &self.region);
            signer.try_authorize(&mut request, None).map_err(|_| OriginError::BadCredentials)?;
        }
        self.client.execute(request).await.map_err(|error| unreachable(&error))
    }

    /// What a refusal means; reads its document.
    async fn refusal(response: HttpResponse) -> OriginError {
        let status = response.status();
        match read(response, ERROR_BYTES_MAX).await {
            Ok(document) => errors::meaning(status, &document),
            Err(_) => errors::meaning(status, &[]),
        }
    }
}

#[async_trait]
impl Origin for S3 {
    async fn get(&self, key: &ObjectKey, version: &Version, range: ByteRange) -> Result<Pieces, OriginError> {
        let Some(last) = range.end().checked_sub(1).filter(|_| !range.is_empty()) else {
            return Ok(futures::stream::empty().boxed());
        };
        if !self.address.can_hold(key.as_str()) {
            return Err(OriginError::NotFound);
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, value(&format!("bytes={}-{last}", range.start()))?);
        headers.insert(header::IF_MATCH, value(&format!("\"{}\"", version.as_str()))?);
        let response = self.send(Method::GET, self.address.object(key), headers).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => check_part(response.headers(), range)?,
            StatusCode::OK => check_whole(response.headers(), range)?,
            _ => return Err(Self::refusal(response).await),
        }
        if etag(response.headers()) != Some(version.clone()) {
            return Err(OriginError::Protocol(Protocol::Version));
        }
        let pieces = response.into_body().bytes_stream();
        Ok(pieces.map(|piece| piece.map_err(|error| unreachable(&error))).boxed())
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, OriginError> {
        if !self.address.can_hold(key.as_str()) {
            return Ok(None);
        }
        let response = self.send(Method::HEAD, self.address.object(key), HeaderMap::new()).await?;
        match response.status() {
            StatusCode::OK => info(response.headers()).map(Some),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(errors::meaning(status, &[])),
        }
    }

    async fn list(&self, dir: &DirPath, from: Option<&Cursor>, limit: u16) -> Result<Page, OriginError> {
        if !self.address.can_hold(&dir.prefix()) {
            return Ok(Page::default());
        }
        let url = self.address.list(dir, from, limit);
        let response = self.send(Method::GET, url, HeaderMap::new()).await?;
        if response.status() != StatusCode::OK {
            // A listing names no object, so a 404 can only mean the bucket.
            return Err(match Self::refusal(response).await {
                OriginError::NotFound => OriginError::NoSuchBucket,
                other => other,
            });
        }
        let document = read(response, LISTING_BYTES_MAX).await?;
        let after = match from {
            Some(Cursor::After(after)) => Some(&**after),
            Some(Cursor::Token(_)) | None => None,
        };
        listing::parse(&document, &self.address.prefix(dir), after)
    }
}

/// Reads a whole body, up to a bound.
async fn read(response: HttpResponse, max_bytes: usize) -> Result<Bytes, OriginError> {
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

fn info(headers: &HeaderMap) -> Result<ObjectInfo, OriginError> {
    let wrong = OriginError::Protocol(Protocol::Header);
    let size = content_length(headers)?.filter(|size| *size <= OBJECT_BYTES_MAX).ok_or(wrong)?;
    let version = etag(headers).ok_or(wrong)?;
    let modified = text(headers, header::LAST_MODIFIED).ok_or(wrong)?;
    let modified = jiff::fmt::rfc2822::parse(modified).map_err(|_| wrong)?.timestamp();
    Ok(ObjectInfo { size, version, mtime_ms: whole_seconds_ms(modified) })
}

/// HEAD knows seconds, LIST may know more: both are cut to seconds, so that a file's mtime doesn't change with the way it was asked for.
fn whole_seconds_ms(at: jiff::Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or(0).saturating_mul(1_000)
}

fn etag(headers: &HeaderMap) -> Option<Version> {
    Version::of_etag(text(headers, header::ETAG)?)
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, OriginError> {
    let parse = |text: &str| text.parse().map_err(|_| OriginError::Protocol(Protocol::Header));
    text(headers, header::CONTENT_LENGTH).map(parse).transpose()
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests;
