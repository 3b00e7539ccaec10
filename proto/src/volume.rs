//! A volume as an agent knows it: one origin seen through one cluster, with its policies.
//!
//! The operator sends the full list; what isn't in it is gone. What makes the volume's id (names, origin's place, chunk
//! size) never changes under one id; region, addressing, credentials and policies may. Secrets print as `***` and
//! leave only through [`Secret::expose`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::glob::Glob;
use crate::ids::VolumeId;
use crate::object::{ChunkSize, ObjectKey};

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its id; covers cacheId, namespace, name, the origin's place and the chunk size.
    pub id: VolumeId,
    /// The Kubernetes namespace.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
    /// The size of its chunks.
    pub chunk_size: ChunkSize,
    /// Where its objects are.
    pub origin: Origin,
    /// Copies of each chunk; `None`: the cluster's default.
    pub replicas: Option<u32>,
    /// The kernel's read-ahead for its mounts.
    pub read_ahead_bytes: u64,
    /// After this a read that no place answers is EIO.
    pub read_deadline: Duration,
    /// How old an answer about names may be.
    pub freshness: Freshness,
    /// What files and directories look like.
    pub attributes: Attributes,
    /// Whether nodes keep what they read but don't own.
    pub local_copies: LocalCopies,
    /// What of it is worth keeping.
    pub keeping: Keeping,
}

/// What of a volume stores keep. The default keeps everything that is read, until room is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keeping {
    /// A chunk is stored when it was read so often from the origin before.
    pub after_reads: u32,
    /// Objects that are never stored.
    pub exclude: Vec<Glob>,
    /// Larger objects are never stored; `None`: any size.
    pub max_object_bytes: Option<u64>,
    /// What an object has in a store leaves so long after its first chunk came; `None`: when room is wanted.
    pub ttl: Option<Duration>,
    /// Bytes of all copies in the whole cluster; each node keeps to its part. `None`: all there is room for.
    pub quota_bytes: Option<u64>,
    /// Objects that stay until they are no longer pinned.
    pub pin: Vec<Glob>,
}

impl Keeping {
    /// Whether an object of this key and size may be stored at all.
    pub fn admits(&self, key: &ObjectKey, size: u64) -> bool {
        self.max_object_bytes.is_none_or(|max| size <= max) && !self.exclude.iter().any(|glob| glob.matches(key))
    }

    /// Whether what is stored of this object stays.
    pub fn pins(&self, key: &ObjectKey) -> bool {
        self.pin.iter().any(|glob| glob.matches(key))
    }
}

/// Whether a node keeps chunks that it doesn't own because they are read there (guests). They leave first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalCopies {
    /// The whole object once half of it was read there within an hour, while there is room below the low watermark.
    #[default]
    Auto,
    /// No.
    Never,
    /// The whole object at its first read, while there is room below the low watermark.
    Always,
}

/// Where a volume's objects are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A bucket of S3, or of anything that speaks S3.
    S3(S3),
    /// A container of Azure Blob Storage.
    Azure(Azure),
    /// A directory of this machine (local mode).
    Local {
        /// Its absolute path.
        path: Arc<str>,
    },
}

impl Origin {
    /// What the volume's id covers of it: the member and what of it never changes, joined by NUL.
    pub fn identity(&self) -> String {
        match self {
            Self::S3(s3) => format!("s3\0{}\0{}\0{}", s3.endpoint.as_deref().unwrap_or_default(), s3.bucket, s3.prefix),
            Self::Azure(azure) => {
                let endpoint = azure.endpoint.as_deref().unwrap_or_default();
                format!("azure\0{endpoint}\0{}\0{}\0{}", azure.account, azure.container, azure.prefix)
            }
            Self::Local { path } => format!("local\0{path}"),
        }
    }
}

/// A prefix of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3 {
    /// The bucket.
    pub bucket: Arc<str>,
    /// What every key begins with: empty, or ending in one slash.
    pub prefix: Arc<str>,
    /// The region that requests are signed for.
    pub region: Arc<str>,
    /// The server's URL; `None`: AWS in the region.
    pub endpoint: Option<Arc<str>>,
    /// `https://host/bucket/key` instead of `https://bucket.host/key`.
    pub path_style: bool,
    /// What requests are signed with; `None`: they aren't signed (public buckets).
    pub credentials: Option<Credentials>,
}

/// A prefix of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Azure {
    /// The storage account.
    pub account: Arc<str>,
    /// The container.
    pub container: Arc<str>,
    /// What every key begins with: empty, or ending in one slash.
    pub prefix: Arc<str>,
    /// The URL of the account's blob service; `None`: the public cloud's.
    pub endpoint: Option<Arc<str>>,
    /// What requests are signed with.
    pub credentials: AzureCredentials,
}

/// What requests to Azure are signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AzureCredentials {
    /// One of the account's two keys, in base64.
    AccountKey(Secret),
    /// A shared access signature: the query of a URL, with or without the question mark.
    SasToken(Secret),
}

/// Static keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The access key id; not secret, but nobody's business: it isn't logged either.
    pub access_key_id: Secret,
    /// The secret access key.
    pub secret_access_key: Secret,
    /// The session token of temporary keys.
    pub session_token: Option<Secret>,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Hides the text.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How old an answer about names may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// At most this old.
    Within(Duration),
    /// Each open asks the origin.
    OnOpen,
    /// Never asked again.
    Forever,
}

/// What files and directories look like; the origin doesn't know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits of files.
    pub file_mode: u16,
    /// Permission bits of directories.
    pub dir_mode: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        let credentials = Credentials {
            access_key_id: Secret::new("AKIAEXAMPLE"),
            secret_access_key: Secret::new("wJalr"),
            session_token: Some(Secret::new("token")),
        };
        let text = format!("{credentials:?}");
        assert!(!text.contains("AKIA") && !text.contains("wJalr") && !text.contains("\"token\""), "{text}");
        assert_eq!(credentials.secret_access_key.expose(), "wJalr");
        let sas = AzureCredentials::SasToken(Secret::new("sv=2023&sig=abc"));
        assert_eq!(format!("{sas:?}"), "SasToken(***)");
    }
}
