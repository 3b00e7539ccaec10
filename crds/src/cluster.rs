//! `CacheCluster`: the nodes that pool their stores into one cache, and how.
//!
//! Owns the type, its defaults and its rules. Doc comments of fields are what `kubectl explain` shows. Numbers are i32 and i64
//! because Kubernetes has no unsigned integers; the schema holds their ranges.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::conditions::CONDITIONS_MAX;
use crate::duration::{DURATION_PATTERN, DURATION_TEXT_MAX, DurationError, parse_duration};
use crate::quantity::{CAPACITY_PATTERN, CapacityLimit, Quantity, QuantityError};
use crate::schema::{DNS_LABEL_PATTERN, LABEL_KEY_PATTERN, LABEL_VALUE_PATTERN, PLAIN_TEXT_PATTERN, rule, rule_at};

mod agent;

pub use agent::{
    AgentPorts, AgentResources, AgentSpec, Amounts, LogLevel, PullSecret, TaintEffect, Toleration, TolerationOperator,
};
pub(crate) use agent::{CPU_PATTERN, IMAGE_PATTERN};

const ABSOLUTE_PATH_RULE: &str = "self.startsWith('/') && !(self + '/').contains('/../')";

// The first test keeps a malformed text, which the pattern reports, from being reported twice; the second keeps duration() from
// numbers that it can't hold.
const PATIENCE_RULE: &str = "!self.matches('^([0-9]+(ms|s|m|h))+$') || \
     (self.matches('^([0-9]{1,9}(ms|s)|[0-9]{1,6}(m|h))+$') && \
     duration(self) >= duration('5s') && duration(self) <= duration('24h'))";

/// The pattern of a cacheId.
pub(crate) const CACHE_ID_PATTERN: &str = "^[a-z0-9]([-a-z0-9._/]*[a-z0-9])?$";

/// What a CacheCluster should be.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "larder.dev",
    version = "v1alpha1",
    kind = "CacheCluster",
    plural = "cacheclusters",
    namespaced,
    status = "CacheClusterStatus",
    shortname = "cc",
    category = "larder",
    derive = "PartialEq",
    doc = "CacheCluster pools the disks of the chosen nodes into one replicated cache over object storage.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status","description":"Whether the cluster serves"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason","description":"Why it is ready or not"}"#,
    printcolumn = r#"{"name":"Nodes","type":"string","jsonPath":".status.nodes.text","description":"Nodes that serve, of those chosen"}"#,
    printcolumn = r#"{"name":"Min","type":"integer","jsonPath":".spec.minNodes","description":"Nodes needed"}"#,
    printcolumn = r#"{"name":"Replicas","type":"integer","jsonPath":".spec.replicas","description":"Owners of each slot"}"#,
    printcolumn = r#"{"name":"Capacity","type":"string","jsonPath":".status.capacity","description":"Bytes the stores can hold"}"#,
    printcolumn = r#"{"name":"Used","type":"string","jsonPath":".status.used","description":"Bytes the stores hold"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Epoch","type":"integer","jsonPath":".status.epoch","priority":1,"description":"Epoch of the published map"}"#,
    printcolumn = r#"{"name":"Short","type":"integer","jsonPath":".status.shortCopies","priority":1,"description":"Copies of chunks that owners lack"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.version","priority":1,"description":"Version of the agents"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("self.replicas <= self.minNodes", "replicas must not be larger than minNodes"),
    rule_at(
        "has(self.cacheId) == has(oldSelf.cacheId) && (!has(self.cacheId) || self.cacheId == oldSelf.cacheId)",
        "cacheId is immutable: it names the data on the disks",
        ".cacheId",
    ),
]))]
pub struct CacheClusterSpec {
    /// Names the data on the disks, so that the same objects created again find their cache warm. Immutable. Absent:
    /// `<namespace>/<name>`; the effective one is in status.cacheId.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = CACHE_ID_PATTERN))]
    pub cache_id: Option<String>,

    /// The cluster begins to serve when this many nodes with stores have joined.
    #[schemars(range(min = 1, max = 1000))]
    pub min_nodes: i32,

    /// How many nodes keep a copy of each chunk. At most minNodes.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 8))]
    pub replicas: i32,

    /// The node label whose values are failure domains: the copies of a chunk lie in distinct ones where they can. A node
    /// without the label is a domain of its own.
    #[serde(default = "default_failure_domain")]
    #[schemars(length(min = 1, max = 317), regex(pattern = LABEL_KEY_PATTERN))]
    pub failure_domain: String,

    /// Groups of like nodes.
    #[schemars(
        length(min = 1, max = 16),
        extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["name"],
            "x-kubernetes-validations" = [rule(
                "self.exists(pool, size(pool.stores) > 0)",
                "at least one pool must have stores",
            )],
        )
    )]
    pub pools: Vec<Pool>,

    /// When a store evicts, in percent of its capacity.
    #[serde(default)]
    pub watermarks: Watermarks,

    /// What happens when nodes join.
    #[serde(default)]
    pub join: Join,

    /// What happens when nodes leave.
    #[serde(default)]
    pub drain: Drain,

    /// How long a silent node keeps its slots before others get them for good; 5s to 24h. Others read in its place at once.
    #[serde(default = "default_loss_grace")]
    #[schemars(
        length(max = DURATION_TEXT_MAX),
        regex(pattern = DURATION_PATTERN),
        extend("x-kubernetes-validations" = [rule(PATIENCE_RULE, "lossGrace must be between 5s and 24h")])
    )]
    pub loss_grace: String,

    /// How agents are replaced by newer ones.
    #[serde(default)]
    pub rollout: Rollout,

    /// The namespaces whose CacheVolumes may refer to this cluster.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,

    /// How the agents' pods are made.
    #[serde(default)]
    pub agent: AgentSpec,

    /// The operator observes and reports, and changes nothing: no object that it owns, no agent, no node's part. The map
    /// goes on following which nodes live, and volumes are served as before.
    #[serde(default)]
    pub paused: bool,
}

/// How agents are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// So many agents at once, all of one failure domain, and only while every slot keeps another owner that serves.
    #[serde(default = "default_max_unavailable")]
    #[schemars(range(min = 1, max = 100))]
    pub max_unavailable: i32,
}

/// What happens when nodes join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Join {
    /// For at most so long the new owner of a slot asks the former one before the origin; 5s to 24h. It ends before, once
    /// the former one has handed over what it had.
    #[serde(default = "default_warmup")]
    #[schemars(
        length(max = DURATION_TEXT_MAX),
        regex(pattern = DURATION_PATTERN),
        extend("x-kubernetes-validations" = [rule(PATIENCE_RULE, "warmup must be between 5s and 24h")])
    )]
    pub warmup: String,
}

/// What happens when nodes leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// A node that drains has left after so long, whether it could hand over everything or not; 5s to 24h.
    #[serde(default = "default_drain_timeout")]
    #[schemars(
        length(max = DURATION_TEXT_MAX),
        regex(pattern = DURATION_PATTERN),
        extend("x-kubernetes-validations" = [rule(PATIENCE_RULE, "timeout must be between 5s and 24h")])
    )]
    pub timeout: String,

    /// A node that is cordoned leads nothing at once, and drains when it has been cordoned for so long; 5s to 24h.
    #[serde(default = "default_after_cordon")]
    #[schemars(
        length(max = DURATION_TEXT_MAX),
        regex(pattern = DURATION_PATTERN),
        extend("x-kubernetes-validations" = [rule(PATIENCE_RULE, "afterCordon must be between 5s and 24h")])
    )]
    pub after_cordon: String,
}

/// Nodes that are alike: the same label, the same disks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// Name of the pool, unique in the cluster.
    #[schemars(length(min = 1, max = 20), regex(pattern = DNS_LABEL_PATTERN))]
    pub name: String,

    /// The nodes of the pool. A node that starts to match joins by itself.
    pub selector: LabelSelector,

    /// Taints that the pool's agents bear, besides those of a node that is about to go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Vec<Toleration>,

    /// One directory for each disk. Empty: the nodes read and mount, and nothing is placed on them.
    #[serde(default)]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub stores: Vec<StoreSpec>,
}

/// Chooses nodes or namespaces by their labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels that it must have, all of them.
    #[schemars(schema_with = "match_labels_schema")]
    pub match_labels: BTreeMap<String, String>,
}

/// One cache directory on one disk of each node of the pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreSpec {
    /// Name of the store, unique in the pool.
    #[schemars(length(min = 1, max = 32), regex(pattern = DNS_LABEL_PATTERN))]
    pub name: String,

    /// The disk's mount point on the node. Immutable: add a store with another name instead.
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = PLAIN_TEXT_PATTERN),
        extend("x-kubernetes-validations" = [
            rule(ABSOLUTE_PATH_RULE, "hostPath must be absolute and must not contain .."),
            rule("self == oldSelf", "hostPath is immutable: add a store with another name, then remove this one"),
        ])
    )]
    pub host_path: String,

    /// How much of the disk the cache may take: a size such as 900Gi, or a percentage from 1% to 99%.
    #[schemars(extend("pattern" = CAPACITY_PATTERN, "minimum" = 1))]
    pub capacity: Quantity,

    /// Space on the disk that is always left free, whatever the capacity says.
    #[serde(default = "default_reserve")]
    pub reserve: Quantity,

    /// Required: the store is refused unless something is mounted at hostPath, so that a disk that isn't there doesn't fill
    /// the node's own. Any: a plain directory will do.
    #[serde(default)]
    pub mount_point: MountPoint,
}

/// Whether a store must lie on a disk of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MountPoint {
    /// It must lie on another device than the directory above it.
    #[default]
    Required,
    /// It may lie anywhere.
    Any,
    /// A value that a newer version knows; refused by the schema, taken for Required.
    #[serde(other, skip_serializing)]
    #[schemars(skip)]
    Unknown,
}

/// When a store evicts: above `high` it makes room until it is at `low`. Percent of the store's capacity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("self.low < self.high", "low must be less than high")]))]
pub struct Watermarks {
    /// Eviction begins above this.
    #[serde(default = "default_high")]
    #[schemars(range(min = 2, max = 100))]
    pub high: i32,

    /// Eviction ends here.
    #[serde(default = "default_low")]
    #[schemars(range(min = 1, max = 99))]
    pub low: i32,
}

/// The namespaces whose CacheVolumes may refer to a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "has(self.selector) == (self.from == 'Selector')",
    "selector must be set when from is Selector, and only then",
)]))]
pub struct AllowedNamespaces {
    /// Same: the cluster's own. All: every namespace. Selector: the cluster's own, and those that selector chooses.
    #[serde(default)]
    pub from: NamespacesFrom,

    /// Chooses namespaces by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Which namespaces are meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NamespacesFrom {
    /// The cluster's own namespace.
    #[default]
    Same,
    /// Every namespace.
    All,
    /// The cluster's own, and those with these labels.
    Selector,
    /// A value that a newer version knows; refused by the schema, allows nothing.
    #[serde(other, skip_serializing)]
    #[schemars(skip)]
    Unknown,
}

/// What a CacheCluster is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheClusterStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The effective cacheId.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_id: Option<String>,

    /// Nodes in numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,

    /// What the stores can hold in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<String>,

    /// What the stores hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<String>,

    /// Epoch of the published map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub epoch: Option<i64>,

    /// Version of the agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// Slots in numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<SlotCounts>,

    /// Copies of chunks that owners lack and other nodes could give, as far as the nodes know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub short_copies: Option<i64>,

    /// The worst problems of nodes, at most ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub problems: Vec<Problem>,

    /// Ready, MinNodesMet, Rebalancing, Degraded, Upgrading, Paused, and Stalled while a person must act.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = CONDITIONS_MAX),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

/// Nodes of a cluster in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Nodes that the pools choose.
    #[schemars(range(min = 0))]
    pub desired: i32,
    /// Nodes that serve.
    #[schemars(range(min = 0))]
    pub ready: i32,
    /// Both, as in 5/6.
    pub text: String,
}

/// Slots of a cluster in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlotCounts {
    /// All slots.
    #[schemars(range(min = 0))]
    pub total: i32,
    /// Slots with fewer live owners than they should have.
    #[schemars(range(min = 0))]
    pub short: i32,
}

/// A problem that a human may want to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The node that has it.
    pub node: String,
    /// A CamelCase word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// When it began.
    pub since: Time,
}

impl CacheCluster {
    /// The effective cacheId: `spec.cacheId`, else `<namespace>/<name>`. An object without a namespace lies in `default`.
    #[must_use]
    pub fn cache_id(&self) -> String {
        if let Some(id) = &self.spec.cache_id {
            return id.clone();
        }
        let namespace = self.metadata.namespace.as_deref().unwrap_or("default");
        let name = self.metadata.name.as_deref().unwrap_or_default();
        format!("{namespace}/{name}")
    }
}

impl CacheClusterSpec {
    /// How long a silent node keeps its slots.
    ///
    /// # Errors
    /// [`DurationError`], only for objects that the schema of this version didn't admit.
    pub fn loss_grace(&self) -> Result<std::time::Duration, DurationError> {
        parse_duration(&self.loss_grace)
    }

    /// How long a slot is handed over at most.
    ///
    /// # Errors
    /// As [`CacheClusterSpec::loss_grace`].
    pub fn warmup(&self) -> Result<std::time::Duration, DurationError> {
        parse_duration(&self.join.warmup)
    }

    /// How long a node may take to leave.
    ///
    /// # Errors
    /// As [`CacheClusterSpec::loss_grace`].
    pub fn drain_timeout(&self) -> Result<std::time::Duration, DurationError> {
        parse_duration(&self.drain.timeout)
    }

    /// How long a cordoned node keeps its slots.
    ///
    /// # Errors
    /// As [`CacheClusterSpec::loss_grace`].
    pub fn after_cordon(&self) -> Result<std::time::Duration, DurationError> {
        parse_duration(&self.drain.after_cordon)
    }

    /// The first pool that has stores; the schema requires one.
    #[must_use]
    pub fn first_pool_with_stores(&self) -> Option<&Pool> {
        self.pools.iter().find(|pool| !pool.stores.is_empty())
    }
}

impl LabelSelector {
    /// Whether something with these labels is chosen.
    #[must_use]
    pub fn chooses(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl StoreSpec {
    /// The capacity, parsed.
    ///
    /// # Errors
    /// [`QuantityError`], only for what the schema can't refuse: 2^64 bytes and more.
    pub fn capacity_limit(&self) -> Result<CapacityLimit, QuantityError> {
        self.capacity.capacity()
    }

    /// The reserve in bytes.
    ///
    /// # Errors
    /// As [`StoreSpec::capacity_limit`].
    pub fn reserve_bytes(&self) -> Result<u64, QuantityError> {
        self.reserve.bytes()
    }
}

impl AllowedNamespaces {
    /// Whether a CacheVolume in `volume_namespace`, which has these labels, may refer to a cluster in `cluster_namespace`.
    #[must_use]
    pub fn allows(&self, cluster_namespace: &str, volume_namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        match self.from {
            NamespacesFrom::Same => cluster_namespace == volume_namespace,
            NamespacesFrom::All => true,
            NamespacesFrom::Selector => {
                let chosen = self.selector.as_ref().is_some_and(|selector| selector.chooses(labels));
                chosen || cluster_namespace == volume_namespace
            }
            NamespacesFrom::Unknown => false,
        }
    }
}

impl Default for Watermarks {
    fn default() -> Self {
        Watermarks { high: default_high(), low: default_low() }
    }
}

impl Default for Join {
    fn default() -> Self {
        Join { warmup: default_warmup() }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Drain { timeout: default_drain_timeout(), after_cordon: default_after_cordon() }
    }
}

impl Default for Rollout {
    fn default() -> Self {
        Rollout { max_unavailable: default_max_unavailable() }
    }
}

impl Default for AllowedNamespaces {
    fn default() -> Self {
        AllowedNamespaces { from: NamespacesFrom::Same, selector: None }
    }
}

fn default_replicas() -> i32 {
    2
}

fn default_failure_domain() -> String {
    "topology.kubernetes.io/zone".to_owned()
}

fn default_reserve() -> Quantity {
    Quantity::text("1Gi")
}

fn default_loss_grace() -> String {
    "5m".to_owned()
}

fn default_warmup() -> String {
    "10m".to_owned()
}

fn default_drain_timeout() -> String {
    "1h".to_owned()
}

fn default_after_cordon() -> String {
    "30m".to_owned()
}

fn default_max_unavailable() -> i32 {
    1
}

fn default_high() -> i32 {
    90
}

fn default_low() -> i32 {
    80
}

fn match_labels_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE_PATTERN},
    })
}
