//! The authority's ledger in two ConfigMaps: the signed map, and the node ids.
//!
//! Written by *replace with resourceVersion*, never by apply: a write that somebody has overtaken is refused by the API
//! server. Opening it writes our name into both, so that whatever an earlier leader still has under way is overtaken. On
//! a refusal the object is read again: one that another leader holds ends our leading; one that people edited or deleted
//! is written anew. Calls block; they run on the runtime's blocking threads only.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use larder_proto::ids::Epoch;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::names::Names;
use crate::authority::Ledger;

/// etcd takes 1.5 MiB an object, the API server a ConfigMap of 1 MiB; base64 on the wire and metadata need the rest.
const BYTES_MAX: usize = 700 * 1024;

/// Who leads, as written on what it holds.
const HOLDER: &str = "larder.dev/holder";

const DATA: &str = "data";

/// For one request.
const REQUEST: Duration = Duration::from_secs(5);

/// Two ConfigMaps, held by one leader.
pub struct ConfigMapLedger {
    map: Page,
    ids: Page,
    runtime: Handle,
}

/// One ConfigMap.
struct Page {
    configs: Api<ConfigMap>,
    metadata: ObjectMeta,
    holder: String,
    /// Cancelled when somebody else holds it.
    leading: CancellationToken,
    /// As we wrote it last.
    held: Mutex<Held>,
}

#[derive(Clone, Default)]
struct Held {
    version: Option<String>,
    data: Option<Vec<u8>>,
}

impl ConfigMapLedger {
    /// Reads both, and writes `holder` on them. `leading` is cancelled once another holds one of them.
    pub async fn open(
        client: Client,
        names: &Names,
        owner: &Value,
        holder: &str,
        leading: CancellationToken,
    ) -> io::Result<Self> {
        let configs: Api<ConfigMap> = Api::namespaced(client, &names.namespace);
        let page = |name: String| {
            let metadata = ObjectMeta {
                name: Some(name),
                namespace: Some(names.namespace.clone()),
                labels: Some(names.labels()),
                annotations: Some(BTreeMap::from([(HOLDER.to_owned(), holder.to_owned())])),
                owner_references: serde_json::from_value(Value::Array(vec![owner.clone()])).ok(),
                ..ObjectMeta::default()
            };
            let (configs, holder, leading) = (configs.clone(), holder.to_owned(), leading.clone());
            Page { configs, metadata, holder, leading, held: Mutex::default() }
        };
        let ledger = Self { map: page(names.map()), ids: page(names.node_ids()), runtime: Handle::current() };
        ledger.map.take().await?;
        ledger.ids.take().await?;
        Ok(ledger)
    }

    /// Writes back what people changed or deleted.
    pub async fn mend(&self) -> io::Result<()> {
        for page in [&self.map, &self.ids] {
            page.mend().await?;
        }
        Ok(())
    }
}

impl Ledger for ConfigMapLedger {
    fn place(&self) -> String {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        format!("ConfigMap {}/{}", text(&self.map.metadata.namespace), text(&self.map.metadata.name))
    }

    fn load_ids(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.ids.held().data)
    }

    fn load_map(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.map.held().data)
    }

    fn store_ids(&self, ids: &[u8]) -> io::Result<()> {
        self.runtime.block_on(self.ids.store(ids))
    }

    fn store_map(&self, signed: &[u8], _epoch: Epoch) -> io::Result<()> {
        self.runtime.block_on(self.map.store(signed))
    }
}

impl Page {
    fn held(&self) -> Held {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hold(&self, held: Held) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }

    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Becomes the holder, and remembers what is there.
    async fn take(&self) -> io::Result<()> {
        let found = self.get().await?;
        let data = found.as_ref().and_then(data_of);
        let version = found.and_then(|found| found.metadata.resource_version);
        let version = self.put(version, data.as_deref()).await.map_err(PutError::into_io)?;
        self.hold(Held { version, data });
        Ok(())
    }

    async fn store(&self, data: &[u8]) -> io::Result<()> {
        if data.len() > BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut version = self.held().version;
        // Once more after a change by people; a second one is left to the caller's next attempt.
        for attempt in 0..2 {
            if self.leading.is_cancelled() {
                return Err(io::Error::other("another replica leads"));
            }
            match self.put(version.clone(), Some(data)).await {
                Ok(version) => {
                    self.hold(Held { version, data: Some(data.to_vec()) });
                    return Ok(());
                }
                Err(PutError::Overtaken) if attempt == 0 => version = self.overtaken().await?,
                Err(error) => return Err(error.into_io()),
            }
        }
        Err(PutError::Overtaken.into_io())
    }

    async fn mend(&self) -> io::Result<()> {
        let held = self.held();
        let found = self.get().await?;
        let same = found.as_ref().is_some_and(|found| data_of(found) == held.data && self.holds(found));
        match held.data {
            Some(data) if !same => {
                tracing::warn!(config_map = self.name(), "somebody changed it: it is written back");
                self.store(&data).await
            }
            _ => Ok(()),
        }
    }

    fn holds(&self, found: &ConfigMap) -> bool {
        let annotations = found.metadata.annotations.as_ref();
        annotations.and_then(|annotations| annotations.get(HOLDER)) == Some(&self.holder)
    }

    /// The version to write over: people's changes are; another leader's aren't.
    async fn overtaken(&self) -> io::Result<Option<String>> {
        let found = self.get().await?;
        let holder = found.as_ref().and_then(|found| found.metadata.annotations.as_ref()?.get(HOLDER));
        if let Some(other) = holder.filter(|holder| **holder != self.holder) {
            tracing::warn!(config_map = self.name(), holder = other, "another replica leads");
            self.leading.cancel();
            return Err(io::Error::other("another replica leads"));
        }
        Ok(found.and_then(|found| found.metadata.resource_version))
    }

    async fn get(&self) -> io::Result<Option<ConfigMap>> {
        match timeout(REQUEST, self.configs.get_opt(self.name())).await {
            Ok(found) => found.map_err(io::Error::other),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Creates it, or replaces that version; returns the new version.
    async fn put(&self, version: Option<String>, data: Option<&[u8]>) -> Result<Option<String>, PutError> {
        let binary_data = data.map(|data| BTreeMap::from([(DATA.to_owned(), ByteString(data.to_vec()))]));
        let metadata = ObjectMeta { resource_version: version.clone(), ..self.metadata.clone() };
        let config = ConfigMap { metadata, binary_data, ..ConfigMap::default() };
        let params = PostParams { field_manager: Some(super::names::MANAGER.into()), ..PostParams::default() };
        let put = async {
            match version {
                Some(_) => self.configs.replace(self.name(), &params, &config).await,
                None => self.configs.create(&params, &config).await,
            }
        };
        match timeout(REQUEST, put).await {
            Ok(Ok(written)) => Ok(written.metadata.resource_version),
            Ok(Err(kube::Error::Api(answer))) if [404, 409].contains(&answer.code) => Err(PutError::Overtaken),
            Ok(Err(error)) => Err(PutError::Failed(io::Error::other(error))),
            Err(_) => Err(PutError::Failed(io::ErrorKind::TimedOut.into())),
        }
    }
}

enum PutError {
    /// It isn't at that version any more.
    Overtaken,
    Failed(io::Error),
}

impl PutError {
    fn into_io(self) -> io::Error {
        match self {
            Self::Overtaken => io::Error::other("somebody else wrote it meanwhile"),
            Self::Failed(error) => error,
        }
    }
}

fn data_of(config: &ConfigMap) -> Option<Vec<u8>> {
    config.binary_data.as_ref()?.get(DATA).map(|data| data.0.clone())
}
