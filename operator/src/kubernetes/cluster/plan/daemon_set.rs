//! A pool's agents: their configuration and their DaemonSet. Pure.
//!
//! An agent is uid 65532 without capabilities, with a read-only root and the runtime's seccomp profile, and has no API
//! token but the one it joins with. From the host it sees its cluster's folder below /run/larder and its stores.

use larder_crds::{AgentSpec, Amounts, CacheCluster, CapacityLimit, LogLevel, MountPoint, Pool, StoreSpec};
use serde_json::{Value, json};

use super::super::super::names::{AGENT_USER, TEMPLATE};
use super::{Inputs, JOIN_PORT, Owned, OwnedKind, metadata, terms};

/// Where things lie in an agent's container.
const CONFIGURATION: &str = "/etc/larder";
const TRUST: &str = "/etc/larder-trust";
const TOKEN: &str = "/var/run/secrets/larder";
const RUN: &str = "/run/larder";
const STORES: &str = "/stores";

/// An agent closes its stores within this.
const GRACE_SECONDS: u32 = 60;

/// The kubelet renews a token when four fifths of this have passed.
const TOKEN_SECONDS: u32 = 3_600;

/// The agents' configuration file. What differs from node to node comes by the command line.
pub(super) fn configuration(cluster: &CacheCluster, pool: &Pool, inputs: &Inputs<'_>) -> Owned {
    let names = inputs.names;
    let stores: Vec<Value> = pool.stores.iter().map(store).collect();
    let configuration = json!({
        "cluster": names.id.to_string(),
        "cacheId": cluster.cache_id(),
        "authority": format!("{}.{}.svc:{JOIN_PORT}", names.authority(), names.namespace),
        "trust": format!("{TRUST}/ca.pem"),
        "token": format!("{TOKEN}/token"),
        "state": format!("{RUN}/agent"),
        "mounts": format!("{RUN}/mnt"),
        "mounter": format!("{RUN}/mounter.sock"),
        "ports": cluster.spec.agent.ports,
        "logLevel": log_level(cluster.spec.agent.log_level),
        "stores": stores,
        "watermarks": cluster.spec.watermarks,
    });
    let text = serde_yaml::to_string(&configuration).expect("texts and numbers are YAML");
    let name = names.pool(&pool.name);
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(cluster, names, &name),
        "data": {"agent.yaml": text},
    });
    Owned { kind: OwnedKind::ConfigMap, name, object }
}

fn store(store: &StoreSpec) -> Value {
    let mut value = json!({
        "name": store.name,
        "path": format!("{STORES}/{}", store.name),
        "hostPath": store.host_path,
        "reserveBytes": store.reserve_bytes().unwrap_or(0),
        "isMountPoint": store.mount_point != MountPoint::Any,
    });
    // Validation has refused what can't be parsed.
    match store.capacity_limit().unwrap_or(CapacityLimit::Percent(1)) {
        CapacityLimit::Bytes(bytes) => value["capacityBytes"] = json!(bytes),
        CapacityLimit::Percent(percent) => value["capacityPercent"] = json!(percent),
    }
    value
}

pub(super) fn daemon_set(cluster: &CacheCluster, pool: &Pool, smaller: &[&Pool], inputs: &Inputs<'_>) -> Owned {
    let names = inputs.names;
    let name = names.pool(&pool.name);
    let labels = names.pool_labels(&pool.name);
    let mut metadata = metadata(cluster, names, &name);
    metadata["labels"] = json!(labels);
    let agent = &cluster.spec.agent;
    let pod = pod(agent, pool, smaller, inputs);
    let mut pod_labels = agent.pod_labels.clone();
    pod_labels.extend(labels.clone());
    let mut annotations = agent.pod_annotations.clone();
    let configuration = configuration(cluster, pool, inputs);
    let digest = digest(&[
        &texts(&pod_labels),
        &texts(&annotations),
        &pod.to_string(),
        &configuration.object["data"].to_string(),
    ]);
    annotations.insert(TEMPLATE.into(), digest);
    let object = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata,
        "spec": {
            "selector": {"matchLabels": {
                super::super::super::names::CLUSTER_LABEL: names.cluster,
                super::super::super::names::POOL_LABEL: pool.name,
            }},
            // The operator decides which agent restarts when.
            "updateStrategy": {"type": "OnDelete"},
            "template": {"metadata": {"labels": pod_labels, "annotations": annotations}, "spec": pod},
        },
    });
    Owned { kind: OwnedKind::DaemonSet, name, object }
}

/// What an agent is made from: its pod, and the configuration that it reads once, at its start. Members of JSON objects are
/// in the order of their names.
fn digest(parts: &[&str]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, parts.join("\n").as_bytes());
    hex::encode(&digest.as_ref()[..8])
}

fn texts(texts: &std::collections::BTreeMap<String, String>) -> String {
    json!(texts).to_string()
}

/// As the agent's configuration has it.
fn log_level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info | LogLevel::Unknown => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

fn pod(agent: &AgentSpec, pool: &Pool, smaller: &[&Pool], inputs: &Inputs<'_>) -> Value {
    // Validation has refused what needs too many terms.
    let terms = terms(pool, smaller).filter(|terms| !terms.is_empty());
    let nowhere = || vec![json!({"matchExpressions": [{"key": "larder.dev/nowhere", "operator": "Exists"}]})];
    // An agent leaves a node after everybody else: those who read through it must be able to finish.
    let going = inputs.drain_taints.iter().map(|key| json!({"key": key, "operator": "Exists"}));
    let tolerations: Vec<Value> = going.chain(pool.tolerations.iter().map(|toleration| json!(toleration))).collect();
    let mut pod = json!({
        "serviceAccountName": inputs.names.account(),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": terms.unwrap_or_else(nowhere),
        }}},
        "tolerations": tolerations,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": AGENT_USER,
            "runAsGroup": AGENT_USER,
            "fsGroup": AGENT_USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(agent, pool, inputs)],
        "volumes": volumes(pool, inputs),
    });
    if let Some(class) = &agent.priority_class_name {
        pod["priorityClassName"] = json!(class);
    }
    if !agent.image_pull_secrets.is_empty() {
        pod["imagePullSecrets"] = json!(agent.image_pull_secrets);
    }
    if agent.host_network {
        pod["hostNetwork"] = json!(true);
        // Names of Services are the cluster's also there.
        pod["dnsPolicy"] = json!("ClusterFirstWithHostNet");
    }
    pod
}

/// What is asked for; absent where nothing is.
fn resources(agent: &AgentSpec) -> Option<Value> {
    let mut resources = json!({});
    for (field, amounts) in [("requests", &agent.resources.requests), ("limits", &agent.resources.limits)] {
        if *amounts != Amounts::default() {
            resources[field] = json!(amounts);
        }
    }
    resources.as_object().is_some_and(|some| !some.is_empty()).then_some(resources)
}

fn container(agent: &AgentSpec, pool: &Pool, inputs: &Inputs<'_>) -> Value {
    let mut mounts = vec![
        json!({"name": "configuration", "mountPath": CONFIGURATION, "readOnly": true}),
        json!({"name": "trust", "mountPath": TRUST, "readOnly": true}),
        json!({"name": "token", "mountPath": TOKEN, "readOnly": true}),
        json!({"name": "run", "mountPath": RUN, "mountPropagation": "HostToContainer"}),
    ];
    let store = |store: &StoreSpec| json!({"name": volume(store), "mountPath": format!("{STORES}/{}", store.name)});
    mounts.extend(pool.stores.iter().map(store));
    let from = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let probe = |path: &str, period_s: u32, failures: u32| {
        let asked = json!({"path": path, "port": "admin"});
        json!({"httpGet": asked, "periodSeconds": period_s, "timeoutSeconds": 5, "failureThreshold": failures})
    };
    let mut container = json!({
        "name": "agent",
        "image": inputs.image,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            "serve", "--config", format!("{CONFIGURATION}/agent.yaml"),
            "--node", "$(NODE_NAME)", "--address", "$(POD_IP)",
        ],
        "env": [
            {"name": "NODE_NAME", "valueFrom": from("spec.nodeName")},
            {"name": "POD_IP", "valueFrom": from("status.podIP")},
        ],
        "ports": [
            {"name": "peer", "containerPort": agent.ports.peer, "protocol": "TCP"},
            {"name": "admin", "containerPort": agent.ports.admin, "protocol": "TCP"},
        ],
        // A busy node is no reason to kill an agent: a minute without an answer is.
        "livenessProbe": probe("/healthz", 10, 6),
        "readinessProbe": probe("/readyz", 2, 3),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
        // Its last words are the reason: they are quoted in the CacheCluster's problems.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    if let Some(resources) = resources(agent) {
        container["resources"] = resources;
    }
    container
}

fn volumes(pool: &Pool, inputs: &Inputs<'_>) -> Vec<Value> {
    let names = inputs.names;
    let host_path =
        |name: String, path: String| json!({"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}});
    let token = json!({"serviceAccountToken": {
        "audience": names.audience(),
        "expirationSeconds": TOKEN_SECONDS,
        "path": "token",
    }});
    let mut volumes = vec![
        json!({"name": "configuration", "configMap": {"name": names.pool(&pool.name)}}),
        json!({"name": "trust", "configMap": {"name": names.trust()}}),
        json!({"name": "token", "projected": {"sources": [token]}}),
        host_path("run".into(), format!("/run/larder/{}", names.id)),
    ];
    let store = |store: &StoreSpec| {
        host_path(volume(store), format!("{}/larder-{}", store.host_path.trim_end_matches('/'), names.id))
    };
    volumes.extend(pool.stores.iter().map(store));
    volumes
}

fn volume(store: &StoreSpec) -> String {
    format!("store-{}", store.name)
}
