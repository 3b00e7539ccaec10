//! `kubectl larder`: what kubectl alone doesn't show in one place.
//!
//! Reads resources with the rights of whoever calls it, never a Secret; it writes what people ask of CacheNodes, and nothing
//! else.

use std::io::{self, IsTerminal as _};

use jiff::Timestamp;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, ObjectList};
use kube::{Api, Client, Config};
use larder_crds::{CacheNode, Kind, NodeRequest};
use larder_proto::identity::{NoIdentity, Trust};
use larder_proto::map::SignedMap;
use serde_json::{Value, json};

use crate::print::{self, Width};

mod colour;
pub mod complete;
mod report;

pub use report::report;

/// A cluster's map lies in `<cluster>-map`, below this key.
const MAP_KEY: &str = "data";

/// How objects are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Tables, in colours where somebody looks.
    Table,
    /// A JSON list.
    Json,
    /// A YAML list.
    Yaml,
}

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// There is no usable configuration.
    #[error("the kubeconfig: {0}")]
    Config(#[from] kube::config::KubeconfigError),
    /// The API server refuses or doesn't answer.
    #[error("{what}: {error}")]
    Api {
        /// What was asked.
        what: String,
        /// Why not.
        error: Box<kube::Error>,
    },
    /// There is no such thing.
    #[error("{0} not found")]
    NotFound(String),
    /// Which of several?
    #[error("there are {count} CacheClusters in namespace {namespace}: name one with --cluster")]
    Several {
        /// How many.
        count: usize,
        /// Where.
        namespace: String,
    },
    /// The map's ConfigMap holds none.
    #[error("ConfigMap {name} holds no map to be believed: {error}")]
    Map {
        /// Which.
        name: String,
        /// Why.
        error: larder_proto::map::MapError,
    },
    /// The CA's certificate isn't one.
    #[error("ConfigMap {name} holds no usable CA certificates: {error}")]
    Trust {
        /// Which.
        name: String,
        /// Why.
        error: NoIdentity,
    },
    /// A file or folder can't be written.
    #[error("{path}: {error}")]
    Write {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
}

/// Whom is asked about what.
pub struct Asked {
    client: Client,
    namespace: String,
    cluster: Option<String>,
}

impl Asked {
    /// As the kubeconfig says; `context`, `namespace` and `cluster` from the command line outweigh it.
    pub async fn new(
        context: Option<String>,
        namespace: Option<String>,
        cluster: Option<String>,
    ) -> Result<Self, PluginError> {
        let options = kube::config::KubeConfigOptions { context, ..Default::default() };
        let config = Config::from_kubeconfig(&options).await?;
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| failed("connecting", error))?;
        Ok(Self { client, namespace, cluster })
    }

    /// All objects of a kind in the namespace, of the named cluster only.
    async fn objects(&self, kind: Kind) -> Result<Vec<Value>, PluginError> {
        let resource = resource(kind);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let listed: ObjectList<DynamicObject> = api
            .list(&ListParams::default())
            .await
            .map_err(|error| failed(&format!("listing {}", kind.plural()), error))?;
        let (api_version, name) = (Kind::api_version(), kind.name());
        let objects = listed.items.into_iter().filter_map(|object| {
            let mut value = serde_json::to_value(object).ok()?;
            value["apiVersion"] = json!(api_version);
            value["kind"] = json!(name);
            value["metadata"].as_object_mut()?.remove("managedFields");
            Some(value)
        });
        Ok(objects.filter(|object| self.concerns(kind, object)).collect())
    }

    fn concerns(&self, kind: Kind, object: &Value) -> bool {
        let pointer = match kind {
            Kind::CacheCluster => "/metadata/name",
            Kind::CacheVolume => "/spec/clusterRef/name",
            Kind::CacheNode => "/spec/clusterName",
        };
        let of = object.pointer(pointer).and_then(Value::as_str);
        self.cluster.is_none() || self.cluster.as_deref() == of
    }

    /// The one cluster that is meant.
    async fn one_cluster(&self) -> Result<String, PluginError> {
        let clusters = self.objects(Kind::CacheCluster).await?;
        let name = |cluster: &Value| cluster["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match (clusters.as_slice(), &self.cluster) {
            ([only], _) => Ok(name(only)),
            ([], Some(wanted)) => Err(PluginError::NotFound(format!("CacheCluster {}/{wanted}", self.namespace))),
            ([], None) => Err(PluginError::NotFound(format!("a CacheCluster in namespace {}", self.namespace))),
            (several, _) => Err(PluginError::Several { count: several.len(), namespace: self.namespace.clone() }),
        }
    }
}

fn resource(kind: Kind) -> ApiResource {
    match kind {
        Kind::CacheCluster => ApiResource::erase::<larder_crds::CacheCluster>(&()),
        Kind::CacheVolume => ApiResource::erase::<larder_crds::CacheVolume>(&()),
        Kind::CacheNode => ApiResource::erase::<larder_crds::CacheNode>(&()),
    }
}

fn failed(what: &str, error: kube::Error) -> PluginError {
    PluginError::Api { what: what.to_owned(), error: Box::new(error) }
}

/// Tables of these kinds, then what is wrong; or all of it as one list.
pub async fn show(asked: &Asked, kinds: &[Kind], format: Format) -> Result<String, PluginError> {
    let mut all = Vec::new();
    let mut text = String::new();
    for kind in kinds {
        let objects = asked.objects(*kind).await?;
        let crd = serde_json::to_value(larder_crds::definition(*kind)).unwrap_or_default();
        if !objects.is_empty() {
            text.push_str(&print::table(&crd, &objects, Width::Wide, Timestamp::now()));
            text.push_str("\n\n");
        }
        all.extend(objects);
    }
    let list = || json!({"apiVersion": "v1", "kind": "List", "items": all});
    Ok(match format {
        Format::Json => serde_json::to_string_pretty(&list()).expect("values are JSON") + "\n",
        Format::Yaml => serde_yaml::to_string(&list()).expect("values are YAML"),
        Format::Table if all.is_empty() => format!("nothing of Larder is in namespace {}\n", asked.namespace),
        Format::Table => {
            let problems = print::problems(&all);
            let end = if problems.is_empty() { "nothing is wrong".to_owned() } else { problems.join("\n") };
            text.push_str(&end);
            text.push('\n');
            if io::stdout().is_terminal() { colour::words(&text) } else { text }
        }
    })
}

/// The nodes that there are, by the names that Kubernetes knows them by.
pub async fn node_names(asked: &Asked) -> Result<Vec<String>, PluginError> {
    let found = asked.objects(Kind::CacheNode).await?;
    let name = |object: &Value| object.pointer("/spec/nodeName").and_then(Value::as_str).map(str::to_owned);
    Ok(found.iter().filter_map(name).collect())
}

/// Asks something of a node, by the name that Kubernetes knows it by; returns what was asked of whom.
pub async fn ask(asked: &Asked, node: &str, request: NodeRequest) -> Result<String, PluginError> {
    let found = asked.objects(Kind::CacheNode).await?;
    let mut found =
        found.iter().filter(|object| object.pointer("/spec/nodeName").and_then(Value::as_str) == Some(node));
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let name = match (found.next(), found.count()) {
        (Some(only), 0) => name(only),
        (Some(_), more) => return Err(PluginError::Several { count: more + 1, namespace: asked.namespace.clone() }),
        (None, _) => {
            return Err(PluginError::NotFound(format!("a CacheNode of {node} in namespace {}", asked.namespace)));
        }
    };
    let api: Api<CacheNode> = Api::namespaced(asked.client.clone(), &asked.namespace);
    let params = PatchParams { field_manager: Some("kubectl-larder".into()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({"spec": {"request": request}}));
    api.patch(&name, &params, &patch).await.map_err(|error| failed(&format!("asking {name}"), error))?;
    Ok(format!("cachenode.larder.dev/{name}: {request:?} is asked for\n"))
}

/// Asks for another CA; returns what was asked of whom. Agents get new certificates while they serve.
pub async fn rotate_ca(asked: &Asked) -> Result<String, PluginError> {
    let name = asked.one_cluster().await?;
    let api: Api<larder_crds::CacheCluster> = Api::namespaced(asked.client.clone(), &asked.namespace);
    let params = PatchParams { field_manager: Some("kubectl-larder".into()), ..PatchParams::default() };
    let word = Timestamp::now().to_string();
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"larder.dev/rotate-ca": word}}}));
    api.patch(&name, &params, &patch).await.map_err(|error| failed(&format!("asking {name}"), error))?;
    Ok(format!("cachecluster.larder.dev/{name}: another CA is asked for\n"))
}

/// The published map, as `larder map` prints it.
pub async fn map(asked: &Asked, format: Format) -> Result<String, PluginError> {
    let map = read_map(asked, &asked.one_cluster().await?).await?;
    Ok(match format {
        Format::Yaml => serde_yaml::to_string(&map).expect("values are YAML"),
        Format::Json | Format::Table => serde_json::to_string_pretty(&map).expect("values are JSON") + "\n",
    })
}

async fn read_map(asked: &Asked, cluster: &str) -> Result<Value, PluginError> {
    let name = format!("{cluster}-map");
    let configs: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(asked.client.clone(), &asked.namespace);
    let found = configs.get_opt(&name).await.map_err(|error| failed(&format!("reading ConfigMap {name}"), error))?;
    let data = found.and_then(|config| config.binary_data?.remove(MAP_KEY));
    let data = data.ok_or_else(|| PluginError::NotFound(format!("a map in ConfigMap {}/{name}", asked.namespace)))?;
    let trust = format!("{cluster}-trust");
    let found = configs.get_opt(&trust).await.map_err(|error| failed(&format!("reading ConfigMap {trust}"), error))?;
    let pem = found.and_then(|config| config.data?.remove("ca.pem"));
    let pem = pem.ok_or_else(|| PluginError::NotFound(format!("a CA in ConfigMap {}/{trust}", asked.namespace)))?;
    let trust = Trust::from_pem(pem.as_bytes()).map_err(|error| PluginError::Trust { name: trust, error })?;
    let map = SignedMap::decode(data.0.into()).and_then(|signed| signed.verify(trust.keys()));
    map.map(|map| crate::local::map_json::render(&map)).map_err(|error| PluginError::Map { name, error })
}
