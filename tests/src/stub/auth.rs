//! Who asks: SigV4 in the `Authorization` header or in the query. Nothing reaches a handler without a [`Verified`] made
//! here, which also says how the body is to be checked.
//!
//! Any region is taken. The clock may differ by fifteen minutes, as with S3.

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::errors::S3Error;
use super::request::Request;
use crate::sigv4::{ALGORITHM, Canonical, Credentials, Scope, Signer};

/// S3's tolerance.
const SKEW_S: i64 = 15 * 60;
/// Longest validity of a presigned URL: seven days.
const EXPIRES_MAX_S: i64 = 7 * 24 * 3600;

/// Evidence that a request was signed with known credentials.
pub(super) struct Verified {
    pub(super) payload: Payload,
}

/// How the body is protected.
pub(super) enum Payload {
    /// Not at all.
    Unsigned,
    /// By its SHA-256 in lower-case hex.
    Sha256(String),
    /// `aws-chunked` with a checksum behind it, without signatures.
    UnsignedTrailer,
    /// `aws-chunked`, each chunk signed; `trailer` = a signed trailer follows.
    SignedChunks { signer: Box<Signer>, seed: String, trailer: bool },
}

/// Where a signature was found, taken apart.
struct Claim {
    access_key: String,
    scope: Scope,
    signed_headers: Vec<String>,
    signature: String,
    stamp: String,
    payload: String,
    /// Of a presigned URL.
    expires_s: Option<i64>,
}

/// Checks the signature of `request` at time `now` against `known` credentials.
pub(super) fn verify(request: &Request, known: &[Credentials], now: Timestamp) -> Result<Verified, S3Error> {
    let claim = claim(request)?;
    let credentials = known.iter().find(|one| one.access_key == claim.access_key).ok_or(S3Error::InvalidAccessKeyId)?;
    check_time(&claim, now)?;
    let headers = signed_headers(request, &claim)?;
    let query: Vec<_> = request.query.0.iter().filter(|(name, _)| name != "X-Amz-Signature").cloned().collect();
    let canonical = Canonical {
        method: request.method.as_str(),
        path: &request.path,
        query: &query,
        headers: &headers,
        payload: &claim.payload,
    };
    let signer = Signer::new(&credentials.secret_key, &claim.stamp, &claim.scope);
    let wanted = signer.request(&canonical);
    if aws_lc_rs::constant_time::verify_slices_are_equal(wanted.as_bytes(), claim.signature.as_bytes()).is_err() {
        return Err(S3Error::SignatureDoesNotMatch);
    }
    let payload = match claim.payload.as_str() {
        "UNSIGNED-PAYLOAD" => Payload::Unsigned,
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Payload::UnsignedTrailer,
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => {
            Payload::SignedChunks { signer: Box::new(signer), seed: wanted, trailer: false }
        }
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => {
            Payload::SignedChunks { signer: Box::new(signer), seed: wanted, trailer: true }
        }
        hash if hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Payload::Sha256(hash.to_ascii_lowercase())
        }
        _ => {
            return Err(S3Error::InvalidArgument { name: "x-amz-content-sha256" });
        }
    };
    Ok(Verified { payload })
}

fn claim(request: &Request) -> Result<Claim, S3Error> {
    match request.header("authorization") {
        Some(header) => header_claim(request, header),
        None if request.query.has("X-Amz-Signature") => query_claim(request),
        None => Err(S3Error::AccessDenied),
    }
}

fn header_claim(request: &Request, header: &str) -> Result<Claim, S3Error> {
    let malformed = S3Error::AuthorizationHeaderMalformed;
    let fields = header.strip_prefix(ALGORITHM).ok_or_else(|| malformed.clone())?;
    let (mut credential, mut signed, mut signature) = (None, None, None);
    for field in fields.split(',') {
        match field.trim().split_once('=') {
            Some(("Credential", value)) => credential = Some(value),
            Some(("SignedHeaders", value)) => signed = Some(value),
            Some(("Signature", value)) => signature = Some(value),
            _ => return Err(malformed),
        }
    }
    let (Some(credential), Some(signed), Some(signature)) = (credential, signed, signature) else {
        return Err(malformed);
    };
    let (access_key, scope) = credential_scope(credential)?;
    let payload = request
        .header("x-amz-content-sha256")
        .ok_or(S3Error::InvalidRequest { why: "Missing required header for this request: x-amz-content-sha256" })?;
    Ok(Claim {
        access_key,
        scope,
        signed_headers: signed.split(';').map(str::to_owned).collect(),
        signature: signature.to_owned(),
        stamp: stamp_of(request)?,
        payload: payload.to_owned(),
        expires_s: None,
    })
}

/// `x-amz-date`, or else `Date`.
fn stamp_of(request: &Request) -> Result<String, S3Error> {
    if let Some(stamp) = request.header("x-amz-date") {
        return Ok(stamp.to_owned());
    }
    let date = request.header("date").ok_or(S3Error::AccessDenied)?;
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).map_err(|_| S3Error::AccessDenied)?;
    Ok(time.strftime("%Y%m%dT%H%M%SZ").to_string())
}

fn query_claim(request: &Request) -> Result<Claim, S3Error> {
    let field = |name| request.query.get(name).ok_or(S3Error::AuthorizationHeaderMalformed);
    if field("X-Amz-Algorithm")? != ALGORITHM {
        return Err(S3Error::AuthorizationHeaderMalformed);
    }
    let (access_key, scope) = credential_scope(field("X-Amz-Credential")?)?;
    let expires_s: i64 = field("X-Amz-Expires")?.parse().map_err(|_| S3Error::AuthorizationHeaderMalformed)?;
    if !(0..=EXPIRES_MAX_S).contains(&expires_s) {
        return Err(S3Error::AuthorizationHeaderMalformed);
    }
    let payload = request.query.get("X-Amz-Content-Sha256").or(request.header("x-amz-content-sha256"));
    Ok(Claim {
        access_key,
        scope,
        signed_headers: field("X-Amz-SignedHeaders")?.split(';').map(str::to_owned).collect(),
        signature: field("X-Amz-Signature")?.to_owned(),
        stamp: field("X-Amz-Date")?.to_owned(),
        payload: payload.unwrap_or("UNSIGNED-PAYLOAD").to_owned(),
        expires_s: Some(expires_s),
    })
}

/// `KEY/20130524/us-east-1/s3/aws4_request`; the key itself may hold slashes.
fn credential_scope(text: &str) -> Result<(String, Scope), S3Error> {
    let mut parts = text.rsplitn(5, '/');
    let (last, service, region, date, key) = (parts.next(), parts.next(), parts.next(), parts.next(), parts.next());
    match (key, date, region, service, last) {
        (Some(key), Some(date), Some(region), Some("s3"), Some("aws4_request")) => {
            Ok((key.to_owned(), Scope { date: date.to_owned(), region: region.to_owned(), service: "s3".to_owned() }))
        }
        _ => Err(S3Error::AuthorizationHeaderMalformed),
    }
}

fn check_time(claim: &Claim, now: Timestamp) -> Result<(), S3Error> {
    let signed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", &claim.stamp)
        .and_then(|time| time.to_zoned(TimeZone::UTC))
        .map_err(|_| S3Error::AccessDenied)?
        .timestamp();
    if !claim.stamp.starts_with(&claim.scope.date) {
        return Err(S3Error::SignatureDoesNotMatch);
    }
    let age_s = now.as_second() - signed.as_second();
    match claim.expires_s {
        Some(expires_s) if age_s > expires_s => Err(S3Error::ExpiredRequest),
        Some(_) if age_s < -SKEW_S => Err(S3Error::RequestTimeTooSkewed),
        None if age_s.abs() > SKEW_S => Err(S3Error::RequestTimeTooSkewed),
        Some(_) | None => Ok(()),
    }
}

/// The signed headers with their values. `host` and every `x-amz-*` header must be among them.
fn signed_headers(request: &Request, claim: &Claim) -> Result<Vec<(String, String)>, S3Error> {
    let signed = |name: &str| claim.signed_headers.iter().any(|one| one == name);
    let forgotten = request.headers.keys().any(|name| name.as_str().starts_with("x-amz-") && !signed(name.as_str()));
    // S3 lets the content hash go unsigned in a presigned request, whose signature covers it by itself.
    if !signed("host") || (forgotten && claim.expires_s.is_none()) {
        return Err(S3Error::AccessDenied);
    }
    let mut headers = Vec::with_capacity(claim.signed_headers.len());
    for name in &claim.signed_headers {
        let values: Vec<_> =
            request.headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        if values.is_empty() {
            return Err(S3Error::SignatureDoesNotMatch);
        }
        headers.push((name.clone(), values.join(",")));
    }
    headers.sort();
    Ok(headers)
}
