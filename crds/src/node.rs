//! `CacheNode`: one node of one cluster, as the map authority sees it.
//!
//! Owns the type. The operator creates these objects and writes their status; people read them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::CONDITIONS_MAX;
use crate::schema::{DNS_LABEL_PATTERN, DNS_SUBDOMAIN_PATTERN, rule};

/// Which node of which cluster this is.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "larder.dev",
    version = "v1alpha1",
    kind = "CacheNode",
    plural = "cachenodes",
    namespaced,
    status = "CacheNodeStatus",
    shortname = "cn",
    category = "larder",
    derive = "PartialEq",
    selectable = ".spec.clusterName",
    selectable = ".spec.nodeName",
    doc = "CacheNode is one node of a CacheCluster: its state, its stores and what it holds. Created by the operator.",
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.clusterName","description":"CacheCluster it belongs to"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.nodeName","description":"Kubernetes node"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.state","description":"State in the map"}"#,
    printcolumn = r#"{"name":"Domain","type":"string","jsonPath":".status.domain","description":"Failure domain"}"#,
    printcolumn = r#"{"name":"Slots","type":"integer","jsonPath":".status.slots","description":"Slots it owns"}"#,
    printcolumn = r#"{"name":"Offered","type":"string","jsonPath":".status.offered","description":"Part of its chunks that was offered to their owners, while that goes on"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".status.address","priority":1,"description":"Where peers reach it"}"#,
    printcolumn = r#"{"name":"Epoch","type":"integer","jsonPath":".status.epoch","priority":1,"description":"Epoch of the map it follows"}"#,
    printcolumn = r#"{"name":"Passthrough","type":"string","jsonPath":".status.passthrough","priority":1,"description":"Whether the kernel reads whole local files past the agent"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.version","priority":1,"description":"Version of its agent"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct CacheNodeSpec {
    /// The CacheCluster of the same namespace. Immutable.
    #[schemars(
        length(min = 1, max = 40),
        regex(pattern = DNS_LABEL_PATTERN),
        extend("x-kubernetes-validations" = [rule("self == oldSelf", "clusterName is immutable")])
    )]
    pub cluster_name: String,

    /// The Kubernetes node. Immutable.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = DNS_SUBDOMAIN_PATTERN),
        extend("x-kubernetes-validations" = [rule("self == oldSelf", "nodeName is immutable")])
    )]
    pub node_name: String,

    /// What people ask of it. Drain: hand over what it has, and own nothing until it is None again. Remove: it won't come
    /// back; it owns nothing from now on. The operator takes a Remove back when another node has come under the name.
    #[serde(default)]
    pub request: NodeRequest,
}

/// What people may ask of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeRequest {
    /// To serve.
    #[default]
    None,
    /// To hand over what it has, and to own nothing.
    Drain,
    /// To own nothing at once: it won't come back.
    Remove,
}

/// What a node does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheNodeStatus {
    /// The uid of the Kubernetes node: another node may come under the same name.
    #[serde(default, rename = "nodeUID", skip_serializing_if = "Option::is_none")]
    pub node_uid: Option<String>,

    /// What is to become of it, where that isn't to serve as all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<NodeTarget>,

    /// The node's number in the map, never used again for another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub node_id: Option<i64>,

    /// State in the map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<NodeState>,

    /// Where peers reach it, host:port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,

    /// Failure domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,

    /// Its stores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub stores: Vec<StoreStatus>,

    /// Slots it owns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 16384))]
    pub slots: Option<i32>,

    /// Part of its chunks that was offered to their owners, while that goes on; absent once all of them have been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<String>,

    /// Copies of chunks that owners lack and that this node could give, as far as it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub short_copies: Option<i64>,

    /// Version of its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// Epoch of the map it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub epoch: Option<i64>,

    /// Whether the kernel reads whole local files past the agent, or why it doesn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passthrough: Option<Passthrough>,

    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = CONDITIONS_MAX),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

/// What is to become of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeTarget {
    /// How it is to end up.
    pub state: TargetState,
    /// Why.
    pub reason: TargetReason,
}

/// How a node is to end up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetState {
    /// It keeps its slots and leads none.
    Serving,
    /// It owns nothing.
    Gone,
    /// A value that a newer version wrote. The schema refuses to store it again.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Why a node is to leave, or not to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetReason {
    /// Somebody asked for it.
    Requested,
    /// It is cordoned.
    Cordoned,
    /// An autoscaler is about to remove it.
    AutoscalerTaint,
    /// The Kubernetes node is gone, or no pool chooses it any more.
    NodeDeleted,
    /// A value that a newer version wrote. The schema refuses to store it again.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// State of a node in the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeState {
    /// It has joined and owns nothing yet.
    Joining,
    /// It serves.
    Serving,
    /// It is silent; others lead its slots.
    Suspect,
    /// It reports again after a silence, and leads its slots once it has for a while.
    Returning,
    /// It was silent for longer than a node may be: its slots are others' now.
    Down,
    /// It is leaving: it owns no slots any more, and hands over what it has.
    Draining,
    /// It has left: nothing is asked of it any more.
    Gone,
    /// A value that a newer version wrote. The schema refuses to store it again.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Whether the kernel reads whole local files past the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Passthrough {
    /// It does.
    Active,
    /// The kernel is older than 6.9, or built without.
    NoKernelSupport,
    /// The agent lacks CAP_SYS_ADMIN in the initial user namespace.
    NoCapability,
    /// Its share of the agent's descriptors is used up: raise the limit of open files.
    NoDescriptors,
    /// A store lies on file systems stacked upon each other: give it a disk.
    StackedFileSystem,
    /// A value that a newer version wrote. The schema refuses to store it again.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// One store of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// Name in the pool.
    pub name: String,

    /// Identity of the store on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,

    /// What it can hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<String>,

    /// What it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<String>,

    /// Whether it can be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<StoreHealth>,
}

/// Whether a store can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StoreHealth {
    /// It reads and writes.
    Healthy,
    /// It doesn't open, or its disk failed.
    Failed,
    /// A value that a newer version wrote. The schema refuses to store it again.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}
