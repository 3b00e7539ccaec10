//! Which errno a program sees. One table, exhaustive; ETIMEDOUT never, because programs know EIO.

use fuser::Errno;
use larder_proto::error::ErrorKind;

use crate::fs::FsError;

/// The errno of each error of a volume's tree.
pub(super) fn errno(error: FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::NotADirectory => Errno::ENOTDIR,
        FsError::IsADirectory => Errno::EISDIR,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::Stale => Errno::ESTALE,
        FsError::ReadOnly => Errno::EROFS,
        FsError::BadHandle => Errno::EBADF,
        FsError::TooMany => Errno::ENFILE,
        FsError::TooLarge => Errno::EFBIG,
        FsError::Deadline => Errno::EIO,
        FsError::Failed(kind) => match kind {
            ErrorKind::AccessDenied | ErrorKind::BadCredentials => Errno::EACCES,
            ErrorKind::Changed | ErrorKind::NotFound => Errno::ESTALE,
            ErrorKind::OriginUnreachable
            | ErrorKind::NoSuchBucket
            | ErrorKind::Throttled
            | ErrorKind::NotHere
            | ErrorKind::StaleEpoch
            | ErrorKind::NoSpace
            | ErrorKind::UnknownVolume
            | ErrorKind::Busy
            | ErrorKind::BadRequest
            | ErrorKind::DeadlineExceeded
            | ErrorKind::OriginProtocol
            | ErrorKind::Internal => Errno::EIO,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_of_a_place_is_a_timeout_or_a_missing_file() {
        for kind in ErrorKind::ALL {
            let code = errno(FsError::Failed(kind)).code();
            let expected = match kind.as_str() {
                "AccessDenied" | "BadCredentials" => Errno::EACCES,
                "Changed" | "NotFound" => Errno::ESTALE,
                _ => Errno::EIO,
            };
            assert_eq!(code, expected.code(), "{kind}");
            assert_ne!(code, Errno::ETIMEDOUT.code());
        }
        assert_eq!(errno(FsError::Deadline).code(), Errno::EIO.code());
    }
}
