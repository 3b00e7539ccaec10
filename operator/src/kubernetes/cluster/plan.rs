//! From a CacheCluster to the objects that make it: pure, and it can't fail.
//!
//! Objects are JSON: exactly the fields the operator wants to own, which is what server-side apply asks for. Golden
//! YAML in `tests/golden/` shows every one; the API server checks them strictly.

use larder_crds::{CacheCluster, Pool};
use serde_json::{Value, json};

use super::super::names::Names;

mod affinity;
mod daemon_set;

pub use affinity::{TERMS_MAX, matches, terms};

/// The kinds that are applied, in the order in which they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnedKind {
    /// The agents' account.
    ServiceAccount,
    /// Trust and configuration.
    ConfigMap,
    /// Where agents find the authority.
    Service,
    /// Where the authority is now.
    EndpointSlice,
    /// Who reaches the agents.
    NetworkPolicy,
    /// The agents of a pool.
    DaemonSet,
}

/// One object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Owned {
    /// What it is.
    pub kind: OwnedKind,
    /// Its name.
    pub name: String,
    /// All of it that the operator owns.
    pub object: Value,
}

/// What a plan depends on besides the CacheCluster.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// Names of everything.
    pub names: &'a Names,
    /// The agents' image.
    pub image: &'a str,
    /// Taints of nodes that are about to go: agents go last.
    pub drain_taints: &'a [String],
    /// The CA's certificate, PEM.
    pub trust_pem: &'a str,
    /// Where the authority listens, once it does.
    pub authority: Option<std::net::SocketAddr>,
}

/// The port of the authority's Service; its endpoint's is whatever the authority got.
pub const JOIN_PORT: u16 = 7_709;

/// Everything that `cluster` needs, in the order in which it is to be applied: an agent finds all that it mounts.
pub fn plan(cluster: &CacheCluster, inputs: &Inputs<'_>) -> Vec<Owned> {
    let mut planned = vec![account(cluster, inputs), trust(cluster, inputs), service(cluster, inputs)];
    planned.extend(inputs.authority.map(|at| endpoints(cluster, inputs, at)));
    planned.push(network_policy(cluster, inputs));
    for pool in &cluster.spec.pools {
        let smaller: Vec<&Pool> = cluster.spec.pools.iter().filter(|other| other.name < pool.name).collect();
        planned.push(daemon_set::configuration(cluster, pool, inputs));
        planned.push(daemon_set::daemon_set(cluster, pool, &smaller, inputs));
    }
    planned.sort_by_key(|owned| owned.kind);
    planned
}

/// What every owned object begins with.
fn metadata(cluster: &CacheCluster, names: &Names, name: &str) -> Value {
    json!({
        "name": name,
        "namespace": names.namespace,
        "labels": names.labels(),
        "ownerReferences": [owner(cluster)],
    })
}

/// The reference by which the garbage collector finds what to remove with the CacheCluster.
pub fn owner(cluster: &CacheCluster) -> Value {
    json!({
        "apiVersion": larder_crds::Kind::api_version(),
        "kind": larder_crds::Kind::CacheCluster.name(),
        "name": cluster.metadata.name,
        "uid": cluster.metadata.uid,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

fn account(cluster: &CacheCluster, inputs: &Inputs<'_>) -> Owned {
    let name = inputs.names.account();
    let object = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(cluster, inputs.names, &name),
        "automountServiceAccountToken": false,
    });
    Owned { kind: OwnedKind::ServiceAccount, name, object }
}

fn trust(cluster: &CacheCluster, inputs: &Inputs<'_>) -> Owned {
    let name = inputs.names.trust();
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(cluster, inputs.names, &name),
        "data": {"ca.pem": inputs.trust_pem},
    });
    Owned { kind: OwnedKind::ConfigMap, name, object }
}

/// Without selector: only the replica of the operator that leads has an authority, and says where in the EndpointSlice.
fn service(cluster: &CacheCluster, inputs: &Inputs<'_>) -> Owned {
    let name = inputs.names.authority();
    let object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(cluster, inputs.names, &name),
        "spec": {"ports": [{"name": "join", "port": JOIN_PORT, "protocol": "TCP", "targetPort": JOIN_PORT}]},
    });
    Owned { kind: OwnedKind::Service, name, object }
}

fn endpoints(cluster: &CacheCluster, inputs: &Inputs<'_>, at: std::net::SocketAddr) -> Owned {
    let name = inputs.names.authority();
    let mut metadata = metadata(cluster, inputs.names, &name);
    metadata["labels"]["kubernetes.io/service-name"] = json!(name);
    metadata["labels"]["endpointslice.kubernetes.io/managed-by"] = json!(super::super::names::MANAGER);
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": if at.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [at.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "join", "port": at.port(), "protocol": "TCP"}],
    });
    Owned { kind: OwnedKind::EndpointSlice, name, object }
}

/// Agents are reached by each other, and by whoever asks how they are. Where they go themselves is nobody's business but
/// the origins'. Agents in their nodes' network are beyond it.
fn network_policy(cluster: &CacheCluster, inputs: &Inputs<'_>) -> Owned {
    let name = inputs.names.network_policy();
    let agents = json!({"matchLabels": {
        super::super::names::CLUSTER_LABEL: inputs.names.cluster,
        "app.kubernetes.io/component": "agent",
    }});
    let ports = &cluster.spec.agent.ports;
    let tcp = |port: i32| json!([{"protocol": "TCP", "port": port}]);
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(cluster, inputs.names, &name),
        "spec": {
            "podSelector": agents,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": agents}], "ports": tcp(ports.peer)},
                {"ports": tcp(ports.admin)},
            ],
        },
    });
    Owned { kind: OwnedKind::NetworkPolicy, name, object }
}

#[cfg(test)]
mod tests;
