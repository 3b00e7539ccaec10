//! `CacheVolume`: one origin seen through one cluster, with its policies.
//!
//! Owns the type, its defaults and its rules; the origin and its identity are in `origin`. Doc comments of fields are what
//! `kubectl explain` shows.

mod keeping;
mod origin;
mod values;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use keeping::{Admission, KeyPattern};
pub use origin::{
    Addressing, AzureCredentials, AzureOrigin, LocalOrigin, Origin, OriginMember, S3Credentials, S3Origin, SecretRef,
};
pub use values::{Access, Attributes, ChunkSize, LocalCopies};

use crate::conditions::CONDITIONS_MAX;
use crate::duration::{DURATION_PATTERN, DURATION_TEXT_MAX, DurationError, Freshness, parse_duration};
use crate::quantity::{Quantity, QuantityError};
use crate::schema::{DNS_LABEL_PATTERN, rule};
use keeping::{GLOBS_MAX, TTL_RULE};

pub(crate) use keeping::GLOB_PATTERN;
pub(crate) use origin::REGION_PATTERN;
pub(crate) use values::{MODE_PATTERN, READ_AHEAD_PATTERN};

// The first test keeps a malformed text, which the pattern reports, from being reported twice; the second keeps duration() from
// numbers that it can't hold.
const READ_DEADLINE_RULE: &str = "!self.matches('^([0-9]+(ms|s|m|h))+$') || \
     (self.matches('^([0-9]{1,9}(ms|s)|[0-9]{1,6}(m|h))+$') && \
     duration(self) >= duration('1s') && duration(self) <= duration('1h'))";
const FRESHNESS_RULE: &str = "self in ['OnOpen', 'Forever'] || \
     (self.matches('^([0-9]{1,9}(ms|s)|[0-9]{1,6}(m|h))+$') && \
     duration(self) >= duration('1s') && duration(self) <= duration('720h'))";

/// What a CacheVolume should be.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "larder.dev",
    version = "v1alpha1",
    kind = "CacheVolume",
    plural = "cachevolumes",
    namespaced,
    status = "CacheVolumeStatus",
    shortname = "cv",
    category = "larder",
    derive = "PartialEq",
    doc = "CacheVolume is a prefix of object storage, mounted and read through a CacheCluster.",
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.clusterRef.name","description":"CacheCluster that caches it"}"#,
    printcolumn = r#"{"name":"Origin","type":"string","jsonPath":".status.origin","description":"Where the objects are"}"#,
    printcolumn = r#"{"name":"Access","type":"string","jsonPath":".spec.access","description":"What mounts may do"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status","description":"Whether it can be read"}"#,
    printcolumn = r#"{"name":"Cached","type":"string","jsonPath":".status.cached","description":"Bytes of it in the cache"}"#,
    printcolumn = r#"{"name":"Hit","type":"string","jsonPath":".status.hitRatio","description":"Reads answered without the origin"}"#,
    printcolumn = r#"{"name":"Mounts","type":"string","jsonPath":".status.mounts","description":"Mounts that serve, of those wanted"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct CacheVolumeSpec {
    /// The CacheCluster that caches the volume. Immutable.
    #[schemars(extend("x-kubernetes-validations" = [
        rule("self == oldSelf", "clusterRef is immutable: make a new CacheVolume"),
    ]))]
    pub cluster_ref: ClusterRef,

    /// Where the objects are: exactly one of s3, azure and local.
    pub origin: Origin,

    /// What mounts may do. ReadOnly: whatever writes gets EROFS.
    #[serde(default)]
    pub access: Access,

    /// How many nodes keep a copy of each chunk of this volume. Absent: as the cluster says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8))]
    pub replicas: Option<i32>,

    /// Objects are cached in pieces of this size. Immutable.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = [
        rule("self == oldSelf", "chunkSize is immutable: make a new CacheVolume"),
    ]))]
    pub chunk_size: ChunkSize,

    /// How far the kernel reads ahead of a sequential reader of a mount: 0, or a size up to 99Mi. Lower it for programs that map
    /// large files and read here and there. What agents fetch ahead from each other and the origin goes by itself.
    #[serde(default = "default_read_ahead")]
    #[schemars(extend("pattern" = READ_AHEAD_PATTERN, "maximum" = 103_809_024))]
    pub read_ahead: Quantity,

    /// How long a read may wait for the cache and the origin before it fails with EIO; 1s to 1h.
    #[serde(default = "default_read_deadline")]
    #[schemars(
        length(max = DURATION_TEXT_MAX),
        regex(pattern = DURATION_PATTERN),
        extend("x-kubernetes-validations" = [rule(READ_DEADLINE_RULE, "readDeadline must be between 1s and 1h")])
    )]
    pub read_deadline: String,

    /// How long a change made in the bucket by others may go unseen: a duration, OnOpen (each open asks the origin), or Forever
    /// (what was read once is never asked for again).
    #[serde(default = "default_freshness")]
    #[schemars(
        length(max = DURATION_TEXT_MAX),
        extend("x-kubernetes-validations" = [
            rule(FRESHNESS_RULE, "freshness must be OnOpen, Forever, or a duration between 1s and 720h, such as 60s"),
        ])
    )]
    pub freshness: String,

    /// Owner and mode of files and directories whose objects carry none.
    #[serde(default)]
    pub attributes: Attributes,

    /// Whether a node keeps what is read there though other nodes own it; such copies leave first. Auto: an object of which half
    /// was read there within an hour, while there is room. Always: each object that is read there, while there is room. Never: no.
    #[serde(default)]
    pub local_copies: LocalCopies,

    /// What is taken into the cache; what isn't is read all the same.
    #[serde(default)]
    pub admission: Admission,

    /// What is cached of an object leaves so long after its first bytes came; 1s to 87600h. Absent: when room is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = DURATION_TEXT_MAX),
        regex(pattern = DURATION_PATTERN),
        extend("x-kubernetes-validations" = [rule(TTL_RULE, "ttl must be between 1s and 87600h")])
    )]
    pub ttl: Option<String>,

    /// Bytes that the volume may take in the cluster, all copies together; each node keeps to its part. Absent: all there is
    /// room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quantity>,

    /// Objects that stay once they are cached, whatever room is wanted, by patterns of their keys as in admission.exclude.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = GLOBS_MAX),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub pin: Vec<KeyPattern>,
}

/// A CacheCluster by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRef {
    /// Name of the CacheCluster.
    #[schemars(length(min = 1, max = 40), regex(pattern = DNS_LABEL_PATTERN))]
    pub name: String,

    /// Its namespace. Absent: the volume's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL_PATTERN))]
    pub namespace: Option<String>,
}

/// What a CacheVolume is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheVolumeStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Where the objects are, as in s3://bucket/prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,

    /// Mounts that serve, of those wanted, as in 3/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounts: Option<String>,

    /// Bytes of the volume in the cache, all copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<String>,

    /// Share of the chunks read that came without asking the origin, as in 97%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hit_ratio: Option<String>,

    /// The most objects of the volume that one node holds something of: each node counts its own, and the largest number is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub objects: Option<i64>,

    /// Ready, OriginReachable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = CONDITIONS_MAX),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

impl CacheVolume {
    /// Namespace and name of the cluster; the namespace is the volume's own unless the reference has one.
    #[must_use]
    pub fn cluster_key(&self) -> (&str, &str) {
        let own = self.metadata.namespace.as_deref().unwrap_or("default");
        let namespace = self.spec.cluster_ref.namespace.as_deref().unwrap_or(own);
        (namespace, &self.spec.cluster_ref.name)
    }
}

impl CacheVolumeSpec {
    /// How long a read may wait, parsed.
    ///
    /// # Errors
    /// [`DurationError`], only for objects that the schema of this version didn't admit.
    pub fn read_deadline(&self) -> Result<std::time::Duration, DurationError> {
        parse_duration(&self.read_deadline)
    }

    /// The freshness, parsed.
    ///
    /// # Errors
    /// [`DurationError`], only for objects that the schema of this version didn't admit.
    pub fn freshness(&self) -> Result<Freshness, DurationError> {
        Freshness::parse(&self.freshness)
    }

    /// How long an object is kept, parsed.
    ///
    /// # Errors
    /// [`DurationError`], only for objects that the schema of this version didn't admit.
    pub fn ttl(&self) -> Result<Option<std::time::Duration>, DurationError> {
        self.ttl.as_deref().map(parse_duration).transpose()
    }

    /// The quota in bytes.
    ///
    /// # Errors
    /// [`QuantityError`], only for objects that the schema of this version didn't admit.
    pub fn quota_bytes(&self) -> Result<Option<u64>, QuantityError> {
        self.quota.as_ref().map(Quantity::bytes).transpose()
    }

    /// The read-ahead in bytes.
    ///
    /// # Errors
    /// [`QuantityError`], only for objects that the schema of this version didn't admit.
    pub fn read_ahead_bytes(&self) -> Result<u64, QuantityError> {
        self.read_ahead.bytes()
    }
}

fn default_read_ahead() -> Quantity {
    Quantity::text("1Mi")
}

fn default_read_deadline() -> String {
    "30s".to_owned()
}

fn default_freshness() -> String {
    "60s".to_owned()
}
