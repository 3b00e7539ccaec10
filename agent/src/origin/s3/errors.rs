//! What S3's refusals mean: one table of statuses and codes.
//!
//! Codes are those of the S3 API reference ("Error responses"); MinIO, Ceph and R2 use the same ones. A refusal of a HEAD
//! has no document, so only its status speaks.

use http::StatusCode;
use quick_xml::Reader;
use quick_xml::events::Event;

use crate::origin::{OriginError, Protocol, Unreachable};

/// The meaning of a status that isn't a success, with the document that came with it (or nothing).
pub(super) fn meaning(status: StatusCode, document: &[u8]) -> OriginError {
    let code = code(document);
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

fn by_status(status: StatusCode) -> OriginError {
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

/// The text of `/Error/Code`; nothing when it isn't there or the document isn't XML.
fn code(document: &[u8]) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
