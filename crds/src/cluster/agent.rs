//! `spec.agent`: how the agents' pods are made. All of it is optional, and a change replaces the agents one at a time.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::quantity::{QUANTITY_TEXT_MAX, Quantity};
use crate::schema::{DNS_SUBDOMAIN_PATTERN, LABEL_VALUE_PATTERN, rule};

/// Processors: whole ones, parts, or thousandths.
pub(crate) const CPU_PATTERN: &str = r"^[0-9]+(\.[0-9]+)?m?$";

/// An image's name with a tag or a digest.
pub(crate) const IMAGE_PATTERN: &str = r"^[^[:space:]:@]+(:[0-9]+)?[^[:space:]:@]*[:@][^[:space:]]+$";

/// How the agents' pods are made. Changes replace the agents one at a time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentSpec {
    /// The image, with a tag or digest; one that Helm's agent.allowedImages allows. Absent: the operator's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 512), regex(pattern = IMAGE_PATTERN))]
    pub image: Option<String>,

    /// Secrets of this namespace with which the image is pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub image_pull_secrets: Vec<PullSecret>,

    /// What each agent asks for and may use. Its memory budget is three quarters of the memory limit.
    #[serde(default)]
    pub resources: AgentResources,

    /// The pods' priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_SUBDOMAIN_PATTERN))]
    pub priority_class_name: Option<String>,

    /// Whether agents use their node's network instead of the pods'.
    #[serde(default)]
    pub host_network: bool,

    /// Where agents listen.
    #[serde(default)]
    pub ports: AgentPorts,

    /// More labels of the pods. Those of larder.dev and app.kubernetes.io are the operator's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels_schema")]
    pub pod_labels: BTreeMap<String, String>,

    /// More annotations of the pods. Those of larder.dev are the operator's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotations_schema")]
    pub pod_annotations: BTreeMap<String, String>,

    /// How much agents log.
    #[serde(default)]
    pub log_level: LogLevel,
}

/// A Secret with which an image is pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PullSecret {
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_SUBDOMAIN_PATTERN))]
    pub name: String,
}

/// What each agent asks for and may use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentResources {
    /// What is set aside for it on its node.
    #[serde(default)]
    pub requests: Amounts,
    /// What it can't exceed.
    #[serde(default)]
    pub limits: Amounts,
}

/// Processors and memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Amounts {
    /// Processors, such as 2 or 500m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "cpu_schema")]
    pub cpu: Option<Quantity>,
    /// Memory, such as 4Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
}

/// Where agents listen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("self.peer != self.admin", "peer and admin must differ")]))]
pub struct AgentPorts {
    /// For other agents.
    #[serde(default = "default_peer")]
    #[schemars(range(min = 1024, max = 65535))]
    pub peer: i32,
    /// Health and metrics.
    #[serde(default = "default_admin")]
    #[schemars(range(min = 1024, max = 65535))]
    pub admin: i32,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LogLevel {
    /// What a person must act on.
    Error,
    /// And what is odd.
    Warn,
    /// And what happens rarely.
    #[default]
    Info,
    /// And each request.
    Debug,
    /// And each step.
    Trace,
    /// A value that a newer version knows; refused by the schema, taken for Info.
    #[serde(other, skip_serializing)]
    #[schemars(skip)]
    Unknown,
}

/// A taint that agents bear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// The taint's key. Absent, with operator Exists: every taint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 317), regex(pattern = crate::schema::LABEL_KEY_PATTERN))]
    pub key: Option<String>,
    /// Exists: whatever the taint's value. Equal: this value.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// The taint's value, for Equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = LABEL_VALUE_PATTERN))]
    pub value: Option<String>,
    /// The taint's effect. Absent: every effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
}

/// How a toleration compares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TolerationOperator {
    /// The value must be the same.
    #[default]
    Equal,
    /// Any value.
    Exists,
    /// A value that a newer version knows; refused by the schema.
    #[serde(other, skip_serializing)]
    #[schemars(skip)]
    Unknown,
}

/// What a taint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// Nothing new is scheduled.
    NoSchedule,
    /// Nothing new is scheduled where it can be avoided.
    PreferNoSchedule,
    /// What runs is evicted.
    NoExecute,
    /// A value that a newer version knows; refused by the schema.
    #[serde(other, skip_serializing)]
    #[schemars(skip)]
    Unknown,
}

impl Default for AgentPorts {
    fn default() -> Self {
        Self { peer: default_peer(), admin: default_admin() }
    }
}

fn default_peer() -> i32 {
    7_710
}

fn default_admin() -> i32 {
    7_711
}

fn cpu_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "minimum": 0,
        "maxLength": QUANTITY_TEXT_MAX,
        "pattern": CPU_PATTERN,
    })
}

fn labels_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE_PATTERN},
    })
}

fn annotations_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}
