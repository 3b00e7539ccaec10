//! What the origin double refuses, and the one table that says how S3 words it on the wire.

use http::StatusCode;
use thiserror::Error;

use crate::xml::Malformed;

/// A refusal, with what the client may want to know.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}: {}", self.code(), self.message())]
#[allow(missing_docs, reason = "the names are S3's own error codes")]
pub enum S3Error {
    AccessDenied,
    AuthorizationHeaderMalformed,
    BadDigest,
    BucketAlreadyOwnedByYou,
    BucketNotEmpty,
    ContentSha256Mismatch,
    EntityTooLarge,
    EntityTooSmall,
    IncompleteBody,
    InternalError,
    InvalidAccessKeyId,
    InvalidArgument {
        name: &'static str,
    },
    InvalidBucketName,
    InvalidDigest,
    InvalidPart {
        number: u32,
    },
    InvalidPartOrder,
    InvalidRange {
        size: u64,
    },
    InvalidRequest {
        why: &'static str,
    },
    InvalidUri,
    KeyTooLong,
    MalformedXml,
    MethodNotAllowed,
    MissingContentLength,
    NoSuchBucket {
        bucket: String,
    },
    NoSuchKey {
        key: String,
    },
    NoSuchUpload,
    NotImplemented,
    /// 304, which has no body.
    NotModified {
        etag: String,
    },
    PreconditionFailed,
    RequestTimeTooSkewed,
    ExpiredRequest,
    SignatureDoesNotMatch,
    /// 503, S3's own throttling.
    SlowDown,
    /// 429, the throttling of several S3 look-alikes.
    TooManyRequests,
    /// Any other status, asked for by a fault rule.
    Injected {
        status: u16,
    },
}

impl S3Error {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status_and_code().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// S3's error code.
    pub fn code(&self) -> &'static str {
        self.status_and_code().1
    }

    /// Status and code: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
    fn status_and_code(&self) -> (u16, &'static str) {
        match self {
            S3Error::AccessDenied => (403, "AccessDenied"),
            S3Error::AuthorizationHeaderMalformed => (400, "AuthorizationHeaderMalformed"),
            S3Error::BadDigest => (400, "BadDigest"),
            S3Error::BucketAlreadyOwnedByYou => (409, "BucketAlreadyOwnedByYou"),
            S3Error::BucketNotEmpty => (409, "BucketNotEmpty"),
            S3Error::ContentSha256Mismatch => (400, "XAmzContentSHA256Mismatch"),
            S3Error::EntityTooLarge => (400, "EntityTooLarge"),
            S3Error::EntityTooSmall => (400, "EntityTooSmall"),
            S3Error::IncompleteBody => (400, "IncompleteBody"),
            S3Error::InternalError => (500, "InternalError"),
            S3Error::InvalidAccessKeyId => (403, "InvalidAccessKeyId"),
            S3Error::InvalidArgument { .. } => (400, "InvalidArgument"),
            S3Error::InvalidBucketName => (400, "InvalidBucketName"),
            S3Error::InvalidDigest => (400, "InvalidDigest"),
            S3Error::InvalidPart { .. } => (400, "InvalidPart"),
            S3Error::InvalidPartOrder => (400, "InvalidPartOrder"),
            S3Error::InvalidRange { .. } => (416, "InvalidRange"),
            S3Error::InvalidRequest { .. } => (400, "InvalidRequest"),
            S3Error::InvalidUri => (400, "InvalidURI"),
            S3Error::KeyTooLong => (400, "KeyTooLongError"),
            S3Error::MalformedXml => (400, "MalformedXML"),
            S3Error::MethodNotAllowed => (405, "MethodNotAllowed"),
            S3Error::MissingContentLength => (411, "MissingContentLength"),
            S3Error::NoSuchBucket { .. } => (404, "NoSuchBucket"),
            S3Error::NoSuchKey { .. } => (404, "NoSuchKey"),
            S3Error::NoSuchUpload => (404, "NoSuchUpload"),
            S3Error::NotImplemented => (501, "NotImplemented"),
            S3Error::NotModified { .. } => (304, "NotModified"),
            S3Error::PreconditionFailed => (412, "PreconditionFailed"),
            S3Error::RequestTimeTooSkewed => (403, "RequestTimeTooSkewed"),
            S3Error::ExpiredRequest => (403, "AccessDenied"),
            S3Error::SignatureDoesNotMatch => (403, "SignatureDoesNotMatch"),
            S3Error::SlowDown => (503, "SlowDown"),
            S3Error::TooManyRequests => (429, "SlowDown"),
            S3Error::Injected { status } => (*status, "Injected"),
        }
    }

    /// S3's message, from the same table.
    pub fn message(&self) -> &'static str {
        match self {
            S3Error::AccessDenied => "Access Denied",
            S3Error::AuthorizationHeaderMalformed => "The authorization header that you provided is not valid.",
            S3Error::BadDigest => {
                "The Content-MD5 or checksum value that you specified did not match what was received."
            }
            S3Error::BucketAlreadyOwnedByYou => "Your previous request to create the named bucket succeeded.",
            S3Error::BucketNotEmpty => "The bucket you tried to delete is not empty.",
            S3Error::ContentSha256Mismatch => {
                "The provided 'x-amz-content-sha256' header does not match what was computed."
            }
            S3Error::EntityTooLarge => "Your proposed upload exceeds the maximum allowed size.",
            S3Error::EntityTooSmall => "Your proposed upload is smaller than the minimum allowed object size.",
            S3Error::IncompleteBody => {
                "You did not provide the number of bytes specified by the Content-Length HTTP header."
            }
            S3Error::InternalError => "We encountered an internal error. Please try again.",
            S3Error::InvalidAccessKeyId => "The AWS access key ID that you provided does not exist in our records.",
            S3Error::InvalidArgument { .. } => "Invalid Argument",
            S3Error::InvalidBucketName => "The specified bucket is not valid.",
            S3Error::InvalidDigest => "The Content-MD5 or checksum that you specified is not valid.",
            S3Error::InvalidPart { .. } => "One or more of the specified parts could not be found.",
            S3Error::InvalidPartOrder => "The list of parts was not in ascending order.",
            S3Error::InvalidRange { .. } => "The requested range is not satisfiable",
            S3Error::InvalidRequest { .. } => "Invalid Request",
            S3Error::InvalidUri => "The specified URI couldn't be parsed.",
            S3Error::KeyTooLong => "Your key is too long.",
            S3Error::MalformedXml => "The XML that you provided was not well formed.",
            S3Error::MethodNotAllowed => "The specified method is not allowed against this resource.",
            S3Error::MissingContentLength => "You must provide the Content-Length HTTP header.",
            S3Error::NoSuchBucket { .. } => "The specified bucket does not exist",
            S3Error::NoSuchKey { .. } => "The specified key does not exist.",
            S3Error::NoSuchUpload => "The specified multipart upload does not exist.",
            S3Error::NotImplemented => "A header or query you provided implies functionality that is not implemented.",
            S3Error::NotModified { .. } => "Not Modified",
            S3Error::PreconditionFailed => "At least one of the pre-conditions you specified did not hold",
            S3Error::RequestTimeTooSkewed => {
                "The difference between the request time and the server's time is too large."
            }
            S3Error::ExpiredRequest => "Request has expired",
            S3Error::SignatureDoesNotMatch => {
                "The request signature we calculated does not match the signature you provided. \
                 Check your key and signing method."
            }
            S3Error::SlowDown => "Please reduce your request rate.",
            S3Error::TooManyRequests => "Please reduce your request rate.",
            S3Error::Injected { .. } => "A fault rule asked for this answer.",
        }
    }
}

impl From<Malformed> for S3Error {
    fn from(_: Malformed) -> S3Error {
        S3Error::MalformedXml
    }
}
