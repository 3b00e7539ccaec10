//! `kubectl larder report`: a folder with what somebody needs who is asked for help.
//!
//! Resources, the map, pods, Events, and the ends of logs. Secrets are never read, so there is none to leave out; origins'
//! names and objects' counts are in it, objects' names and contents are not.

use std::path::Path;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{ListParams, LogParams};
use kube::{Api, Resource, ResourceExt};
use larder_crds::Kind;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Asked, Format, PluginError, failed, read_map, show};

/// Lines of each log.
const LINES: i64 = 2_000;

/// Pods of a namespace whose logs are taken; there may be thousands.
const PODS_MAX: u32 = 50;

/// Where the operator and the program that mounts are.
const PLACES: [(&str, &str); 2] = [("larder-system", "operator"), ("larder-node", "node")];

/// Writes the folder; returns a line for each thing that couldn't be read.
pub async fn report(asked: &Asked, folder: &Path) -> Result<Vec<String>, PluginError> {
    std::fs::create_dir(folder).map_err(|error| write_error(folder, error))?;
    let mut missing = Vec::new();
    let resources = show(asked, &[Kind::CacheCluster, Kind::CacheVolume, Kind::CacheNode], Format::Yaml).await?;
    write(folder, "resources.yaml", &resources)?;
    match asked.one_cluster().await {
        Ok(cluster) => match read_map(asked, &cluster).await {
            Ok(map) => write(folder, "map.json", &map.to_string())?,
            Err(error) => missing.push(error.to_string()),
        },
        Err(error) => missing.push(error.to_string()),
    }
    let own = asked.namespace.as_str();
    list::<DaemonSet>(asked, own, "larder.dev/cluster", folder, &mut missing).await?;
    list::<Event>(asked, own, "", folder, &mut missing).await?;
    logs(asked, own, "larder.dev/cluster", folder, &mut missing).await?;
    for (namespace, component) in PLACES {
        let label = format!("app.kubernetes.io/name=larder,app.kubernetes.io/component={component}");
        list::<Deployment>(asked, namespace, &label, folder, &mut missing).await?;
        list::<DaemonSet>(asked, namespace, &label, folder, &mut missing).await?;
        logs(asked, namespace, &label, folder, &mut missing).await?;
    }
    write(folder, "missing.txt", &missing.join("\n"))?;
    Ok(missing)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), PluginError> {
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(|error| write_error(&path, error))
}

fn write_error(path: &Path, error: std::io::Error) -> PluginError {
    PluginError::Write { path: path.display().to_string(), error }
}

/// Objects of a kind as YAML, in `<namespace>.<kind>.yaml`.
async fn list<K>(
    asked: &Asked,
    namespace: &str,
    labels: &str,
    folder: &Path,
    missing: &mut Vec<String>,
) -> Result<(), PluginError>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Serialize
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(asked.client.clone(), namespace);
    let what = format!("{namespace}.{}", K::plural(&()));
    match api.list(&ListParams::default().labels(labels).limit(1_000)).await {
        Ok(listed) if listed.items.is_empty() => Ok(()),
        Ok(listed) => {
            let items: Vec<Value> = listed.items.iter().filter_map(|item| serde_json::to_value(item).ok()).collect();
            let text = serde_yaml::to_string(&json!({"kind": "List", "items": items})).expect("values are YAML");
            write(folder, &format!("{what}.yaml"), &text)
        }
        Err(error) => {
            missing.push(failed(&what, error).to_string());
            Ok(())
        }
    }
}

/// Pods, and the ends of their containers' logs in `<namespace>.<pod>.<container>.log`.
async fn logs(
    asked: &Asked,
    namespace: &str,
    labels: &str,
    folder: &Path,
    missing: &mut Vec<String>,
) -> Result<(), PluginError> {
    list::<Pod>(asked, namespace, labels, folder, missing).await?;
    let api: Api<Pod> = Api::namespaced(asked.client.clone(), namespace);
    let Ok(pods) = api.list(&ListParams::default().labels(labels).limit(PODS_MAX)).await else {
        return Ok(()); // Said by the list above.
    };
    for pod in pods {
        let name = pod.name_any();
        let containers = pod.spec.into_iter().flat_map(|spec| spec.containers).map(|container| container.name);
        for (container, previous) in containers.flat_map(|container| [(container.clone(), false), (container, true)]) {
            let params = LogParams {
                container: Some(container.clone()),
                tail_lines: Some(LINES),
                previous,
                ..LogParams::default()
            };
            let which = if previous { "previous.log" } else { "log" };
            match api.logs(&name, &params).await {
                Ok(text) => write(folder, &format!("{namespace}.{name}.{container}.{which}"), &text)?,
                // Most containers have had no life before this one.
                Err(_) if previous => {}
                Err(error) => {
                    let what = format!("the log of {container} of {namespace}/{name}");
                    missing.push(failed(&what, error).to_string());
                }
            }
        }
    }
    Ok(())
}
