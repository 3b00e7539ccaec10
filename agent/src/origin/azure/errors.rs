//! What Azure's refusals mean: one table of codes.
//!
//! Codes are those of "Status and error codes" of the Blob service's REST reference ("Common REST API error codes" and
//! "Blob service error codes"). They come in a header, so that a refused HEAD has one too.

use http::{HeaderMap, StatusCode};

use crate::origin::http::{by_status, text};
use crate::origin::{OriginError, Protocol, Unreachable};

/// The code of a refusal, if its headers say.
pub(super) fn code(headers: &HeaderMap) -> Option<String> {
    text(headers, "x-ms-error-code").map(str::to_owned)
}

/// The meaning of a status that isn't a success, with its code.
pub(super) fn meaning(status: StatusCode, code: Option<&str>) -> OriginError {
    match code.unwrap_or_default() {
        // A wrong key, a wrong, expired or malformed token, a clock that is 15 minutes off.
        "AuthenticationFailed" | "InvalidAuthenticationInfo" | "NoAuthenticationInformation" => {
            OriginError::BadCredentials
        }
        // Credentials that are right, but not for this, from here, or at all.
        "AuthorizationFailure"
        | "AuthorizationPermissionMismatch"
        | "AuthorizationProtocolMismatch"
        | "AuthorizationResourceTypeMismatch"
        | "AuthorizationServiceMismatch"
        | "AuthorizationSourceIPMismatch"
        | "AuthorizationVersionMismatch"
        | "InsufficientAccountPermissions"
        | "AccountIsDisabled"
        | "KeyBasedAuthenticationNotPermitted"
        | "PublicAccessNotPermitted" => OriginError::AccessDenied,
        "ContainerNotFound" | "ContainerBeingDeleted" | "ContainerDisabled" => OriginError::NoSuchBucket,
        "BlobNotFound" => OriginError::NotFound,
        "ConditionNotMet" | "InvalidRange" => OriginError::Changed,
        "ServerBusy" | "TooManyRequests" => OriginError::Throttled,
        "OperationTimedOut" | "InternalError" => OriginError::Unreachable(Unreachable::Status(status.as_u16())),
        // Blobs of the archive tier can't be read; only people can bring them back.
        "BlobArchived" | "BlobBeingRehydrated" => OriginError::Protocol(Protocol::Status(status.as_u16())),
        _ => by_status(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_speak_before_statuses() {
        for (status, code, meaning_is) in [
            (403, "AuthenticationFailed", OriginError::BadCredentials),
            (400, "InvalidAuthenticationInfo", OriginError::BadCredentials),
            (403, "AuthorizationPermissionMismatch", OriginError::AccessDenied),
            (403, "AccountIsDisabled", OriginError::AccessDenied),
            (404, "ContainerNotFound", OriginError::NoSuchBucket),
            (409, "ContainerBeingDeleted", OriginError::NoSuchBucket),
            (404, "BlobNotFound", OriginError::NotFound),
            (404, "", OriginError::NotFound),
            (412, "ConditionNotMet", OriginError::Changed),
            (416, "InvalidRange", OriginError::Changed),
            (503, "ServerBusy", OriginError::Throttled),
            (429, "", OriginError::Throttled),
            (500, "OperationTimedOut", OriginError::Unreachable(Unreachable::Status(500))),
            (500, "", OriginError::Unreachable(Unreachable::Status(500))),
            (409, "BlobArchived", OriginError::Protocol(Protocol::Status(409))),
            (400, "InvalidUri", OriginError::Protocol(Protocol::Status(400))),
            (401, "NoAuthenticationInformation", OriginError::BadCredentials),
            (403, "SomethingNew", OriginError::AccessDenied),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let code = Some(code).filter(|code| !code.is_empty());
            assert_eq!(meaning(status, code), meaning_is, "{code:?}");
        }
    }
}
