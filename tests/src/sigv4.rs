//! AWS Signature Version 4, as far as S3 uses it: canonical request, string to sign, signing key, signature, and the
//! chained signatures of `aws-chunked` bodies.
//!
//! Pure: no clock, no sockets, no header maps. The origin double verifies with it and the test client signs with it, so
//! a mistake here would agree with itself; `tests.rs` therefore holds the vectors of the AWS documentation.
//!
//! Formula: "Authenticating Requests (AWS Signature Version 4)", Amazon S3 API reference.

mod encoding;
#[cfg(test)]
mod tests;

use std::fmt;

use aws_lc_rs::{digest, hmac};

pub use encoding::{Slash, decode, decode_form, encode};

/// The only algorithm name S3 accepts in `Authorization` and `X-Amz-Algorithm`.
pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// SHA-256 of nothing, in lower-case hex.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// An access key and its secret. The secret never shows in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Names the key in requests.
    pub access_key: String,
    /// Signs them.
    pub secret_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// What a signature is valid for: `date/region/service/aws4_request`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// `YYYYMMDD`.
    pub date: String,
    /// For instance `us-east-1`; the origin double takes any.
    pub region: String,
    /// `s3`.
    pub service: String,
}

impl Scope {
    /// S3's scope on the day of `stamp` (`YYYYMMDDTHHMMSSZ`).
    pub fn s3(stamp: &str, region: &str) -> Scope {
        Scope { date: stamp.chars().take(8).collect(), region: region.to_owned(), service: "s3".to_owned() }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/aws4_request", self.date, self.region, self.service)
    }
}

/// The parts of a request that are signed. All text is decoded; this module encodes.
#[derive(Clone, Debug)]
pub struct Canonical<'a> {
    /// `GET`, `PUT`, ...
    pub method: &'a str,
    /// Decoded absolute path, with its leading slash.
    pub path: &'a [u8],
    /// Decoded names and values, in any order, without `X-Amz-Signature`.
    pub query: &'a [(String, String)],
    /// Lower-case names with raw values, sorted by name, only those that are signed.
    pub headers: &'a [(String, String)],
    /// `x-amz-content-sha256`, or `UNSIGNED-PAYLOAD`.
    pub payload: &'a str,
}

impl Canonical<'_> {
    /// The canonical request's text.
    pub fn text(&self) -> String {
        let mut pairs: Vec<String> = self
            .query
            .iter()
            .map(|(name, value)| {
                format!("{}={}", encode(name.as_bytes(), Slash::Encode), encode(value.as_bytes(), Slash::Encode))
            })
            .collect();
        pairs.sort();
        let mut text = format!("{}\n{}\n{}\n", self.method, encode(self.path, Slash::Keep), pairs.join("&"));
        for (name, value) in self.headers {
            text.push_str(name);
            text.push(':');
            text.push_str(&squeeze(value));
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&self.signed_headers());
        text.push('\n');
        text.push_str(self.payload);
        text
    }

    /// `host;range;x-amz-date`.
    pub fn signed_headers(&self) -> String {
        self.headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";")
    }
}

/// Trims a header value and makes one space of several, as the canonical form wants.
fn squeeze(value: &str) -> String {
    value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A key that signs for one [`Scope`], with the stamp that its texts carry.
#[derive(Clone)]
pub struct Signer {
    key: hmac::Key,
    stamp: String,
    scope: String,
}

impl Signer {
    /// Derives the signing key of `scope`; `stamp` is the request's `x-amz-date`.
    pub fn new(secret_key: &str, stamp: &str, scope: &Scope) -> Signer {
        let mut bytes = hmac_sha256(format!("AWS4{secret_key}").as_bytes(), scope.date.as_bytes());
        for part in [scope.region.as_str(), scope.service.as_str(), "aws4_request"] {
            bytes = hmac_sha256(bytes.as_ref(), part.as_bytes());
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, bytes.as_ref());
        Signer { key, stamp: stamp.to_owned(), scope: scope.to_string() }
    }

    /// Signature of a whole request, in lower-case hex.
    pub fn request(&self, canonical: &Canonical<'_>) -> String {
        let hash = sha256_hex(canonical.text().as_bytes());
        self.sign(&format!("{ALGORITHM}\n{}\n{}\n{hash}", self.stamp, self.scope))
    }

    /// Signature of one chunk of an `aws-chunked` body; `previous` is the chunk's before it, or the request's.
    pub fn chunk(&self, previous: &str, data_sha256_hex: &str) -> String {
        let text = format!(
            "{ALGORITHM}-PAYLOAD\n{}\n{}\n{previous}\n{EMPTY_SHA256}\n{data_sha256_hex}",
            self.stamp, self.scope
        );
        self.sign(&text)
    }

    /// Signature of the trailing headers (`name:value\n` each) of an `aws-chunked` body.
    pub fn trailer(&self, previous: &str, trailers: &str) -> String {
        let hash = sha256_hex(trailers.as_bytes());
        self.sign(&format!("AWS4-HMAC-SHA256-TRAILER\n{}\n{}\n{previous}\n{hash}", self.stamp, self.scope))
    }

    fn sign(&self, text: &str) -> String {
        hex::encode(hmac::sign(&self.key, text.as_bytes()))
    }
}

fn hmac_sha256(key: &[u8], data: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data)
}

/// SHA-256 of `data` in lower-case hex.
pub fn sha256_hex(data: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, data))
}
