//! What S3's refusals mean: one table of statuses and codes.
//!
//! Codes are those of the S3 API reference ("Error responses"); MinIO, Ceph and R2 use the same ones. A refusal of a HEAD
//! has no document, so only its status speaks.

use http::StatusCode;

use crate::origin::http::{by_status, error_code};
use crate::origin::{OriginError, Protocol};

/// The meaning of a status that isn't a success, with the document that came with it (or nothing).
pub(super) fn meaning(status: StatusCode, document: &[u8]) -> OriginError {
    let code = error_code(document);
    match code.as_deref().unwrap_or_default() {
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "RequestTimeTooSkewed"
        | "InvalidSecurity" => OriginError::BadCredentials,
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => OriginError::AccessDenied,
        "NoSuchBucket" | "InvalidBucketName" => OriginError::NoSuchBucket,
        "NoSuchKey" | "NoSuchVersion" => OriginError::NotFound,
        "PreconditionFailed" | "InvalidRange" => OriginError::Changed,
        "SlowDown"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequests"
        | "ServiceUnavailable"
        | "Busy" => OriginError::Throttled,
        "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException" => {
            OriginError::Protocol(Protocol::Region)
        }
        _ => by_status(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::Unreachable;

    #[test]
    fn codes_speak_before_statuses() {
        let document =
            |code: &str| format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>x</Message></Error>");
        for (status, code, meaning_is) in [
            (403, "InvalidAccessKeyId", OriginError::BadCredentials),
            (403, "SignatureDoesNotMatch", OriginError::BadCredentials),
            (400, "ExpiredToken", OriginError::BadCredentials),
            (403, "AccessDenied", OriginError::AccessDenied),
            (404, "NoSuchBucket", OriginError::NoSuchBucket),
            (404, "NoSuchKey", OriginError::NotFound),
            (412, "PreconditionFailed", OriginError::Changed),
            (503, "SlowDown", OriginError::Throttled),
            (400, "AuthorizationHeaderMalformed", OriginError::Protocol(Protocol::Region)),
            (500, "InternalError", OriginError::Unreachable(Unreachable::Status(500))),
            (418, "Teapot", OriginError::Protocol(Protocol::Status(418))),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(meaning(status, document(code).as_bytes()), meaning_is, "{code}");
        }
    }

    #[test]
    fn documents_that_are_none_leave_it_to_the_status() {
        let deep = "<a>".repeat(100_000);
        for document in ["", "<", "<Error>", "<Error><Code>", "not xml", "</Error>", "<Code>AccessDenied</Code>", &deep]
        {
            let status = StatusCode::NOT_FOUND;
            assert_eq!(meaning(status, document.as_bytes()), OriginError::NotFound, "{document:.20}");
        }
        assert_eq!(meaning(StatusCode::FORBIDDEN, b"\xff\xfe"), OriginError::AccessDenied);
        assert_eq!(meaning(StatusCode::TOO_MANY_REQUESTS, b""), OriginError::Throttled);
    }
}
