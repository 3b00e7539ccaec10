//! The object store behind a volume: ranged reads of one version, and names.
//!
//! [`Origins`] follows the list of volumes and hands out one [`VolumeOrigin`] per volume: deadlines, counted retries, a
//! circuit, a bound on requests in flight and metrics, around an [`Origin`] that makes single attempts (S3, Azure, a
//! local directory, memory in simulations). Every read names a version; bytes of another version are never returned, and a
//! body is exactly as long as the range that was asked for, or an error.
//! Refuses to write anything; knows nothing of caches, peers or maps.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use larder_proto::error::ErrorKind;
use larder_proto::object::{DirPath, EntryName, ObjectKey, Version};
use larder_proto::range::ByteRange;

mod azure;
mod budget;
mod counters;
mod http;
mod local;
mod probe;
mod real;
mod registry;
mod s3;
pub mod sim;
mod volume;

pub use counters::{Snapshot, State};
pub use probe::probe;
pub use real::RealOrigins;
pub use registry::{Open, Origins, Volumes};
pub use volume::{Body, VolumeOrigin};

/// Single attempts at an origin. Callers go through [`VolumeOrigin`]; an implementation neither retries nor counts, and
/// need not have deadlines: a dropped future stops the attempt.
#[async_trait]
pub trait Origin: Send + Sync {
    /// The bytes of `range` of `key`, which must have `version`. Fails with [`OriginError::Changed`] when it has another one,
    /// with that or [`OriginError::NotFound`] when it is gone. The stream may break; its pieces together are never longer than the range.
    async fn get(&self, key: &ObjectKey, version: &Version, range: ByteRange) -> Result<Pieces, OriginError>;

    /// What the key has now; `None` when there is no such object.
    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, OriginError>;

    /// Names in a directory, from the beginning or from where an earlier page said; at most `limit` keys are looked at.
    async fn list(&self, dir: &DirPath, from: Option<&Cursor>, limit: u16) -> Result<Page, OriginError>;
}

/// Pieces of a body in order.
pub type Pieces = BoxStream<'static, Result<Bytes, OriginError>>;

/// An object as the origin has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Length in bytes, at most 5 TiB.
    pub size: u64,
    /// Its version.
    pub version: Version,
    /// Last change in milliseconds since the epoch, whole seconds (HEAD knows no more, LIST must not differ).
    pub mtime_ms: u64,
}

/// Where a listing goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// The origin's own token; it may expire.
    Token(Arc<str>),
    /// Names whose key (relative to the directory, directories ending in `/`) sorts after this one.
    After(Arc<str>),
}

impl Cursor {
    /// After the file `name`.
    pub fn after_file(name: &EntryName) -> Self {
        Self::After(name.as_str().into())
    }

    /// After the directory `name` and all that is in it.
    pub fn after_dir(name: &EntryName) -> Self {
        Self::After(format!("{}/", name.as_str()).into())
    }
}

/// A part of a directory: names whose keys follow each other. A directory's key ends in `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Files, in the order of their keys.
    pub files: Vec<(EntryName, ObjectInfo)>,
    /// Directories, in the order of their keys.
    pub dirs: Vec<EntryName>,
    /// Keys that are no name, by reason.
    pub left_out: LeftOut,
    /// Whether the directory's own marker (a key that ends in `/`) is there.
    pub marker: bool,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Cursor>,
}

impl Page {
    /// Whether anything at all is below the directory.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.dirs.is_empty() && !self.marker && self.left_out.total() == 0
    }
}

/// Why a key of the origin is no name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Odd {
    /// A component is empty (`a//b`).
    EmptyComponent,
    /// A component is `.` or `..`.
    DotComponent,
    /// A component is longer than 255 bytes, or the path than 1,024.
    TooLong,
    /// The key holds a NUL byte, or isn't UTF-8.
    NotText,
    /// The origin gave no usable version (ETag) or size.
    NoVersion,
}

impl Odd {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::EmptyComponent, Self::DotComponent, Self::TooLong, Self::NotText, Self::NoVersion];

    /// The stable CamelCase name, for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EmptyComponent => "EmptyComponent",
            Self::DotComponent => "DotComponent",
            Self::TooLong => "TooLong",
            Self::NotText => "NotText",
            Self::NoVersion => "NoVersion",
        }
    }
}

impl From<larder_proto::object::OddKey> for Odd {
    fn from(odd: larder_proto::object::OddKey) -> Self {
        use larder_proto::object::OddKey;
        match odd {
            OddKey::Empty | OddKey::EmptyComponent => Self::EmptyComponent,
            OddKey::DotComponent => Self::DotComponent,
            OddKey::TooLong | OddKey::ComponentTooLong => Self::TooLong,
            OddKey::Nul => Self::NotText,
        }
    }
}

/// How many keys were left out, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut([u32; Odd::ALL.len()]);

impl LeftOut {
    /// Counts one more.
    pub fn add(&mut self, odd: Odd) {
        self.0[odd as usize] = self.0[odd as usize].saturating_add(1);
    }

    /// Keys left out for this reason.
    pub fn of(&self, odd: Odd) -> u32 {
        self.0[odd as usize]
    }

    /// Keys left out in all.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|n| u64::from(*n)).sum()
    }
}

/// Why the origin didn't answer with what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// The credentials are known but may not do this.
    #[error("the origin refuses access")]
    AccessDenied,
    /// The credentials are unknown, wrong or expired.
    #[error("the origin doesn't accept the credentials")]
    BadCredentials,
    /// There is no such bucket, container or directory.
    #[error("the origin has no such bucket")]
    NoSuchBucket,
    /// No answer.
    #[error("the origin can't be reached: {0}")]
    Unreachable(Unreachable),
    /// The origin asks for less.
    #[error("the origin asks to slow down")]
    Throttled,
    /// The object has another version now.
    #[error("the object has another version now")]
    Changed,
    /// The object is gone.
    #[error("the object is gone")]
    NotFound,
    /// An answer that isn't what the protocol says.
    #[error("the origin's answer is wrong: {0}")]
    Protocol(Protocol),
    /// The caller's deadline passed first; says nothing about the origin.
    #[error("the deadline passed before the origin answered")]
    Deadline,
}

/// How the origin couldn't be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// No connection (refused, no route, no such host, TLS).
    #[error("no connection")]
    Connect,
    /// Nothing came within the time an attempt has.
    #[error("no answer in time")]
    Silent,
    /// The connection broke in the middle.
    #[error("the connection broke")]
    Broken,
    /// The body came too slowly.
    #[error("the body came too slowly")]
    Stalled,
    /// The server says that it failed (5xx).
    #[error("status {0}")]
    Status(u16),
    /// A local directory can't be read.
    #[error("the directory can't be read")]
    Disk,
    /// The circuit is open: it wasn't asked.
    #[error("not asked, after several failures")]
    CircuitOpen,
}

/// What was wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Protocol {
    /// A status that isn't one of the store's answers to this request.
    #[error("status {0}")]
    Status(u16),
    /// Another part of the object than asked for, or an answer that isn't the object at all (200 with an error inside).
    #[error("not the range that was asked for")]
    Range,
    /// Another version than asked for, though asked with If-Match.
    #[error("not the version that was asked for")]
    Version,
    /// More bytes than announced.
    #[error("a body longer than asked for")]
    TooLong,
    /// A header (ETag, Content-Length, Last-Modified) is missing or unreadable.
    #[error("a header is missing or unreadable")]
    Header,
    /// XML that isn't a listing.
    #[error("a listing that can't be read")]
    Listing,
    /// A listing larger than any listing is.
    #[error("a listing that is too large")]
    ListingTooLarge,
    /// The bucket is in another region than the volume says.
    #[error("the bucket is in another region")]
    Region,
    /// The endpoint or bucket doesn't make a URL.
    #[error("the endpoint doesn't make a URL")]
    Endpoint,
}

impl OriginError {
    /// The stable kind: what the caller must do.
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::AccessDenied => ErrorKind::AccessDenied,
            Self::BadCredentials => ErrorKind::BadCredentials,
            Self::NoSuchBucket => ErrorKind::NoSuchBucket,
            Self::Unreachable(_) => ErrorKind::OriginUnreachable,
            Self::Throttled => ErrorKind::Throttled,
            Self::Changed => ErrorKind::Changed,
            Self::NotFound => ErrorKind::NotFound,
            Self::Protocol(_) => ErrorKind::OriginProtocol,
            Self::Deadline => ErrorKind::DeadlineExceeded,
        }
    }

    /// Whether another attempt could end differently.
    fn is_passing(self) -> bool {
        match self {
            Self::Unreachable(Unreachable::CircuitOpen) => false,
            Self::Unreachable(_) | Self::Throttled => true,
            Self::Protocol(Protocol::Range | Protocol::Version | Protocol::TooLong | Protocol::Listing) => true,
            Self::Protocol(_) => false,
            Self::AccessDenied | Self::BadCredentials | Self::NoSuchBucket => false,
            Self::Changed | Self::NotFound | Self::Deadline => false,
        }
    }
}
