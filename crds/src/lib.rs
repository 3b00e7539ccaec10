//! Larder's Kubernetes kinds: `CacheCluster`, `CacheVolume` and `CacheNode` of `larder.dev/v1alpha1`, and their validation.
//!
//! Owns the Rust types, the schema that the API server enforces (generated into `charts/larder-crds`), and [`check`], which
//! enforces the same schema without an API server for `larder up`. Refuses: a Kubernetes client, any I/O, any import of
//! Larder's other crates.
//!
//! Invariants: the types ignore unknown fields and unknown enum values, so that an older operator reads a newer object; only
//! [`check`] is strict. A field is here only when it works.

mod chart;
mod check;
mod cluster;
mod conditions;
mod duration;
mod kind;
mod node;
mod quantity;
mod schema;
mod volume;

pub use chart::{REGENERATE_COMMAND, chart_files};
pub use check::{Violation, check};
pub use cluster::{
    AgentPorts, AgentResources, AgentSpec, AllowedNamespaces, Amounts, CacheCluster, CacheClusterSpec,
    CacheClusterStatus, LabelSelector, LogLevel, MountPoint, NamespacesFrom, NodeCounts, Pool, Problem, PullSecret,
    Rollout, SlotCounts, StoreSpec, TaintEffect, Toleration, TolerationOperator, Watermarks,
};
pub use conditions::{
    ClusterConditionType, ClusterReadyReason, ConditionStatus, DegradedReason, MinNodesMetReason,
    OriginReachableReason, PausedReason, RebalancingReason, StalledReason, UpgradingReason, VolumeConditionType,
    VolumeReadyReason, condition, set_condition,
};
pub use duration::{DurationError, Freshness, parse_duration};
pub use kind::{GROUP, Kind, VERSION};
pub use node::{
    CacheNode, CacheNodeSpec, CacheNodeStatus, NodeRequest, NodeState, NodeTarget, Passthrough, StoreHealth,
    StoreStatus, TargetReason, TargetState,
};
pub use quantity::{
    CapacityLimit, Quantity, QuantityError, format_bytes, format_percent, parse_capacity, parse_quantity,
};
pub use schema::definition;
pub use volume::{
    Access, Addressing, Admission, Attributes, AzureCredentials, AzureOrigin, CacheVolume, CacheVolumeSpec,
    CacheVolumeStatus, ChunkSize, ClusterRef, KeyPattern, LocalCopies, LocalOrigin, Origin, OriginMember,
    S3Credentials, S3Origin, SecretRef,
};

/// Kubernetes' own types that appear in the public API, so that callers need not depend on k8s-openapi for them.
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
