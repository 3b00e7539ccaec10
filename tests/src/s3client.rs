//! A small S3 client that signs its requests: what tests and the demo fill a bucket with, and the baseline that a cache
//! is compared with ("a parallel direct client").
//!
//! Path style, plain HTTP, one bucket. It retries nothing but a request that never left because its idle connection had
//! been closed. Every request has a deadline. Clones share their connections.

mod connections;
mod direct;
mod upload;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use jiff::Timestamp;
use thiserror::Error;

pub use direct::{DirectRead, Expect, direct_read};
pub use upload::{Uploaded, upload_dir};

use crate::sigv4::{ALGORITHM, Canonical, Credentials, Scope, Signer, Slash, decode_form, encode, sha256_hex};
use crate::xml::{Malformed, leaves};
use connections::Connections;

/// A request with its whole body has to be over by then.
const DEADLINE: Duration = Duration::from_secs(300);
const REGION: &str = "us-east-1";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// What this client sends.
type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Why a request failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Not `http://HOST:PORT`.
    #[error("{endpoint:?} is not http://HOST:PORT")]
    Endpoint {
        /// As given.
        endpoint: String,
    },
    /// No connection.
    #[error("can't connect to {authority}: {source}")]
    Connect {
        /// Host and port.
        authority: String,
        /// The system's word.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("{method} {key:?}: {source}")]
    Broken {
        /// Of the request.
        method: Method,
        /// Of the request.
        key: String,
        /// hyper's word.
        source: hyper::Error,
    },
    /// No answer in time.
    #[error("{method} {key:?} took longer than {DEADLINE:?}")]
    Late {
        /// Of the request.
        method: Method,
        /// Of the request.
        key: String,
    },
    /// The server refused.
    #[error("{method} {key:?}: {status} {code}")]
    Refused {
        /// Of the request.
        method: Method,
        /// Of the request.
        key: String,
        /// HTTP's word.
        status: StatusCode,
        /// S3's word; empty if it said none.
        code: String,
    },
    /// An answer that S3 would not give.
    #[error("{key:?}: the answer's {what} is missing or malformed")]
    Malformed {
        /// Of the request.
        key: String,
        /// Which part of it.
        what: &'static str,
    },
    /// A local file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// Bytes that are not the expected ones.
    #[error("{key:?}: {got}, expected {wanted}")]
    WrongBytes {
        /// Of the object.
        key: String,
        /// Expected length, hash or version.
        wanted: String,
        /// What came.
        got: String,
    },
    /// A request that can't be made of these parts.
    #[error("{key:?} makes no HTTP request: {source}")]
    Request {
        /// Of the request.
        key: String,
        /// Why not.
        source: http::Error,
    },
}

/// What HEAD says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// In bytes.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
}

/// An entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Decoded.
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
}

/// The client of one bucket.
#[derive(Clone, Debug)]
pub struct S3Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    connections: Connections,
    bucket: String,
    credentials: Credentials,
}

/// A request before it is signed.
struct Plan<'a> {
    method: Method,
    /// Empty = the bucket itself.
    key: &'a str,
    query: Vec<(String, String)>,
    headers: Vec<(&'static str, String)>,
    /// Hash of the body, or [`UNSIGNED`].
    payload: String,
    body: Body,
}

impl<'a> Plan<'a> {
    fn new(method: Method, key: &'a str) -> Plan<'a> {
        Plan { method, key, query: vec![], headers: vec![], payload: sha256_hex(b""), body: whole(Bytes::new()) }
    }
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

impl S3Client {
    /// A client for `http://HOST:PORT`; connects with the first request.
    pub fn new(endpoint: &str, bucket: &str, credentials: Credentials) -> Result<S3Client, ClientError> {
        let authority = endpoint.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        let authority = authority.filter(|rest| !rest.is_empty() && !rest.contains('/'));
        let authority = authority.ok_or_else(|| ClientError::Endpoint { endpoint: endpoint.to_owned() })?;
        let connections = Connections::new(authority.to_owned());
        Ok(S3Client { inner: Arc::new(Inner { connections, bucket: bucket.to_owned(), credentials }) })
    }

    /// Puts an object; returns its ETag.
    pub async fn put(&self, key: &str, body: Bytes) -> Result<String, ClientError> {
        let payload = sha256_hex(&body);
        let plan = Plan { payload, body: whole(body), ..Plan::new(Method::PUT, key) };
        let (headers, _) = self.bytes(plan).await?;
        etag(key, &headers)
    }

    /// The whole object.
    pub async fn get(&self, key: &str) -> Result<Bytes, ClientError> {
        self.bytes(Plan::new(Method::GET, key)).await.map(|(_, body)| body)
    }

    /// Bytes `range` of the object, which must have them all.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, ClientError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let mut plan = Plan::new(Method::GET, key);
        plan.headers.push(("range", format!("bytes={}-{}", range.start, range.end - 1)));
        let (_, body) = self.bytes(plan).await?;
        let (wanted, got) = (range.end - range.start, body.len() as u64);
        if wanted != got {
            let (wanted, got) = (format!("{wanted} bytes"), format!("{got} bytes"));
            return Err(ClientError::WrongBytes { key: key.to_owned(), wanted, got });
        }
        Ok(body)
    }

    /// Size and ETag.
    pub async fn head(&self, key: &str) -> Result<Head, ClientError> {
        let (headers, _) = self.bytes(Plan::new(Method::HEAD, key)).await?;
        let size = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let size = size.ok_or_else(|| malformed(key, "Content-Length"))?;
        Ok(Head { size, etag: etag(key, &headers)? })
    }

    /// Deletes an object, whether it is there or not.
    pub async fn delete(&self, key: &str) -> Result<(), ClientError> {
        self.bytes(Plan::new(Method::DELETE, key)).await.map(|_| ())
    }

    /// Every object under `prefix`, all pages.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>, ClientError> {
        let mut listed = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut plan = Plan::new(Method::GET, "");
            let mut ask = |name: &str, value: &str| plan.query.push((name.to_owned(), value.to_owned()));
            ask("list-type", "2");
            ask("encoding-type", "url");
            ask("prefix", prefix);
            if let Some(token) = &token {
                ask("continuation-token", token);
            }
            let (_, body) = self.bytes(plan).await?;
            token = page(&body, &mut listed).map_err(|Malformed| malformed(prefix, "listing"))?;
            if token.is_none() {
                return Ok(listed);
            }
        }
    }

    /// Sends, and collects the answer.
    async fn bytes(&self, plan: Plan<'_>) -> Result<(HeaderMap, Bytes), ClientError> {
        let (method, key) = (plan.method.clone(), plan.key.to_owned());
        let exchange = async {
            let request = self.request(plan)?;
            let (response, connection) = self.inner.connections.send(request, &method, &key).await?;
            let (parts, body) = response.into_parts();
            let body = collect(body).await;
            let body =
                body.map_err(|source| ClientError::Broken { method: method.clone(), key: key.clone(), source })?;
            self.inner.connections.give_back(connection);
            Ok((parts, body))
        };
        let late = |_| ClientError::Late { method: method.clone(), key: key.clone() };
        let (parts, body) = tokio::time::timeout(DEADLINE, exchange).await.map_err(late)??;
        if parts.status.is_success() {
            return Ok((parts.headers, body));
        }
        let code = leaves(&body).unwrap_or_default().into_iter().find(|(path, _)| path == "Error/Code");
        let code = code.map(|(_, code)| code).unwrap_or_default();
        Err(ClientError::Refused { method, key, status: parts.status, code })
    }

    /// Signs.
    fn request(&self, plan: Plan<'_>) -> Result<http::Request<Body>, ClientError> {
        let inner = &self.inner;
        let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let path =
            if plan.key.is_empty() { format!("/{}", inner.bucket) } else { format!("/{}/{}", inner.bucket, plan.key) };
        let mut headers: Vec<(String, String)> =
            plan.headers.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect();
        headers.push(("host".to_owned(), inner.connections.authority().to_owned()));
        headers.push(("x-amz-content-sha256".to_owned(), plan.payload.clone()));
        headers.push(("x-amz-date".to_owned(), stamp.clone()));
        headers.sort();
        let canonical = Canonical {
            method: plan.method.as_str(),
            path: path.as_bytes(),
            query: &plan.query,
            headers: &headers,
            payload: &plan.payload,
        };
        let scope = Scope::s3(&stamp, REGION);
        let signature = Signer::new(&inner.credentials.secret_key, &stamp, &scope).request(&canonical);
        let authorization = format!(
            "{ALGORITHM} Credential={}/{scope}, SignedHeaders={}, Signature={signature}",
            inner.credentials.access_key,
            canonical.signed_headers()
        );
        let query: Vec<String> = plan
            .query
            .iter()
            .map(|(n, v)| format!("{}={}", encode(n.as_bytes(), Slash::Encode), encode(v.as_bytes(), Slash::Encode)))
            .collect();
        let uri = match query.as_slice() {
            [] => encode(path.as_bytes(), Slash::Keep),
            _ => format!("{}?{}", encode(path.as_bytes(), Slash::Keep), query.join("&")),
        };
        let mut builder = http::Request::builder().method(plan.method).uri(uri).header("authorization", authorization);
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        builder.body(plan.body).map_err(|source| ClientError::Request { key: plan.key.to_owned(), source })
    }
}

/// Collects a body; the length it announces is trusted up to 64 MiB of allocation.
async fn collect(mut body: Incoming) -> Result<Bytes, hyper::Error> {
    let announced = http_body::Body::size_hint(&body).lower().min(64 << 20);
    let mut bytes = BytesMut::with_capacity(usize::try_from(announced).unwrap_or(0));
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

fn malformed(key: &str, what: &'static str) -> ClientError {
    ClientError::Malformed { key: key.to_owned(), what }
}

fn etag(key: &str, headers: &HeaderMap) -> Result<String, ClientError> {
    let value = headers.get(header::ETAG).and_then(|value| value.to_str().ok());
    value.map(|text| text.trim_matches('"').to_owned()).ok_or_else(|| malformed(key, "ETag"))
}

/// Adds a page to `listed`; the token of the next one.
fn page(body: &[u8], listed: &mut Vec<Listed>) -> Result<Option<String>, Malformed> {
    let mut token = None;
    let mut entry = Listed { key: String::new(), size: 0, etag: String::new() };
    for (path, text) in leaves(body)? {
        match path.as_str() {
            "ListBucketResult/NextContinuationToken" => token = Some(text),
            "ListBucketResult/Contents/Key" => {
                entry.key = String::from_utf8(decode_form(&text)).map_err(|_| Malformed)?;
            }
            "ListBucketResult/Contents/Size" => entry.size = text.parse().map_err(|_| Malformed)?,
            "ListBucketResult/Contents/ETag" => entry.etag = text.trim_matches('"').to_owned(),
            "/ListBucketResult/Contents" => listed.push(entry.clone()),
            _ => {}
        }
    }
    Ok(token)
}
