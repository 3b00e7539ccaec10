//! Stable error kinds: what one agent tells another, and what the caller must do about it.

/// Why a request between agents was not answered with bytes. The numbers are part of the wire and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum ErrorKind {
    /// The origin gave no answer within its budget: serve what is cached, else fail after the deadline.
    OriginUnreachable = 1,
    /// The origin refused these credentials for this object or bucket: EACCES, never stale bytes.
    AccessDenied = 2,
    /// The origin doesn't know the credentials: as `AccessDenied`, the Secret must be mended.
    BadCredentials = 3,
    /// The bucket or directory is missing: the volume must be mended.
    NoSuchBucket = 4,
    /// The origin asks for less: back off.
    Throttled = 5,
    /// The object has another version now: the old version's missing part is gone (ESTALE).
    Changed = 6,
    /// The object is gone (ESTALE for an open handle, ENOENT for a new one).
    NotFound = 7,
    /// A `Have` found nothing in store or flight: ask the next owner, or send a Fill.
    NotHere = 8,
    /// The asker's epoch is too old for what it asks: fetch the newer map first.
    StaleEpoch = 9,
    /// No store has room for the copy: keep it elsewhere.
    NoSpace = 10,
    /// This agent doesn't have the volume (yet): ask another owner or try later.
    UnknownVolume = 11,
    /// A bound was reached: try another owner, or later.
    Busy = 12,
    /// The request breaks the protocol: a bug or an attack; not to be repeated.
    BadRequest = 13,
    /// The deadline passed before the bytes came: go on to the next place.
    DeadlineExceeded = 14,
    /// The origin answered something that isn't its protocol, or bytes that fail their check.
    OriginProtocol = 15,
    /// This agent failed by itself (disk, bug): ask another owner.
    Internal = 16,
}

impl ErrorKind {
    /// Every kind, in the order of its number.
    pub const ALL: [Self; 16] = [
        Self::OriginUnreachable,
        Self::AccessDenied,
        Self::BadCredentials,
        Self::NoSuchBucket,
        Self::Throttled,
        Self::Changed,
        Self::NotFound,
        Self::NotHere,
        Self::StaleEpoch,
        Self::NoSpace,
        Self::UnknownVolume,
        Self::Busy,
        Self::BadRequest,
        Self::DeadlineExceeded,
        Self::OriginProtocol,
        Self::Internal,
    ];

    /// The number on the wire; never 0, which means "the bytes follow".
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The kind of a number from the wire; unknown numbers (a newer peer) read as `Internal`, 0 as none.
    pub fn from_code(code: u32) -> Option<Self> {
        if code == 0 {
            return None;
        }
        Some(Self::ALL.into_iter().find(|kind| kind.code() == code).unwrap_or(Self::Internal))
    }

    /// The stable CamelCase name, used in headers, metrics, conditions and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OriginUnreachable => "OriginUnreachable",
            Self::AccessDenied => "AccessDenied",
            Self::BadCredentials => "BadCredentials",
            Self::NoSuchBucket => "NoSuchBucket",
            Self::Throttled => "Throttled",
            Self::Changed => "Changed",
            Self::NotFound => "NotFound",
            Self::NotHere => "NotHere",
            Self::StaleEpoch => "StaleEpoch",
            Self::NoSpace => "NoSpace",
            Self::UnknownVolume => "UnknownVolume",
            Self::Busy => "Busy",
            Self::BadRequest => "BadRequest",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::OriginProtocol => "OriginProtocol",
            Self::Internal => "Internal",
        }
    }
}

impl std::fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_dense() {
        for (position, kind) in (1u32..).zip(ErrorKind::ALL) {
            assert_eq!(kind.code(), position, "{kind}");
            assert_eq!(ErrorKind::from_code(position), Some(kind));
        }
        assert_eq!(ErrorKind::from_code(0), None);
        assert_eq!(ErrorKind::from_code(9_999), Some(ErrorKind::Internal));
    }
}
