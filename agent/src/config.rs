//! The agent's configuration file: parsed once into types that can't be wrong, or refused with one line.
//!
//! Owns the file's shape (YAML, camelCase, unknown fields refused) and what one field alone may hold. What depends on
//! the machine (a disk's size, a port in use) is found where it is used. Secrets aren't in here: `token` names a file.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder_proto::ids::{ClusterId, NodeName};
use larder_proto::limits::STORES_MAX;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// A file larger than this isn't a configuration.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// What `serve --config FILE` reads.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// This node's name in the map and in its certificate.
    #[serde(deserialize_with = "node_name")]
    pub node: NodeName,
    /// The cluster, a UUID.
    #[serde(deserialize_with = "cluster_id")]
    pub cluster: ClusterId,
    /// What stores are bound to; a store of another cacheId is refused.
    pub cache_id: Arc<str>,
    /// Where the map authority listens, `host:port`.
    #[serde(deserialize_with = "host_port")]
    pub authority: Arc<str>,
    /// PEM of the cluster's CA certificates.
    pub trust: PathBuf,
    /// A file that holds the join token.
    pub token: PathBuf,
    /// Where map, key, certificate and start counter are kept.
    pub state: PathBuf,
    /// The address peers reach this node at.
    pub address: IpAddr,
    /// Ports; 0 takes any free one.
    #[serde(default)]
    pub ports: Ports,
    /// The failure domain; empty where the authority knows it better.
    #[serde(default)]
    pub domain: Arc<str>,
    /// This node's disks; none for a client, which mounts and reads only.
    #[serde(default, deserialize_with = "stores")]
    pub stores: Vec<Store>,
    /// When eviction begins and ends, in percent of capacity.
    #[serde(default)]
    pub watermarks: Watermarks,
    /// Each volume is mounted at `<mounts>/<volume name>`.
    pub mounts: PathBuf,
    /// The socket of the node's mounter, which mounts in this process's place; without it this process must be root.
    #[serde(default)]
    pub mounter: Option<PathBuf>,
    /// How much is logged.
    #[serde(default)]
    pub log_level: LogLevel,
    /// The memory budget; by default the cgroup's limit less a quarter.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
}

/// The agent's ports.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ports {
    /// For other agents.
    pub peer: u16,
    /// For health, metrics and debugging.
    pub admin: u16,
}

/// One cache directory on one disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "StoreFields")]
pub struct Store {
    /// The store's name on this node.
    pub name: Arc<str>,
    /// The directory.
    pub path: PathBuf,
    /// The disk's mount point as the node has it: what the mounter is asked to prepare.
    pub host_path: Option<String>,
    /// Whether a disk must be mounted there.
    pub is_mount_point: bool,
    /// What it may take.
    pub capacity: Capacity,
    /// Bytes of the disk that are left free, whatever the capacity says.
    pub reserve_bytes: u64,
}

/// How much of a disk a store may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// So many bytes.
    Bytes(u64),
    /// So much of the disk's size, 1 to 99.
    Percent(u8),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StoreFields {
    name: Arc<str>,
    path: PathBuf,
    host_path: Option<String>,
    #[serde(default)]
    is_mount_point: bool,
    capacity_bytes: Option<u64>,
    capacity_percent: Option<u8>,
    #[serde(default)]
    reserve_bytes: u64,
}

impl TryFrom<StoreFields> for Store {
    type Error = &'static str;

    fn try_from(fields: StoreFields) -> Result<Self, Self::Error> {
        let StoreFields { name, path, host_path, is_mount_point, capacity_bytes, capacity_percent, reserve_bytes } =
            fields;
        let capacity = match (capacity_bytes, capacity_percent) {
            (Some(bytes), None) => Capacity::Bytes(bytes),
            (None, Some(percent @ 1..=99)) => Capacity::Percent(percent),
            (None, Some(_)) => return Err("stores: capacityPercent must be 1 to 99"),
            _ => return Err("stores: need capacityBytes or capacityPercent, and not both"),
        };
        Ok(Self { name, path, host_path, is_mount_point, capacity, reserve_bytes })
    }
}

impl Store {
    /// The bytes it may take of a disk of so many; an error with what is there when it asks for more.
    pub fn bytes_of(&self, disk_bytes: u64) -> Result<u64, u64> {
        let usable = disk_bytes.saturating_sub(self.reserve_bytes);
        match self.capacity {
            Capacity::Bytes(bytes) if bytes > usable => Err(usable),
            Capacity::Bytes(bytes) => Ok(bytes),
            Capacity::Percent(percent) => Ok((disk_bytes / 100).saturating_mul(percent.into()).min(usable)),
        }
    }
}

/// What the command line says in place of the file: one file serves a pool of nodes.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `node`.
    pub node: Option<String>,
    /// `address`.
    pub address: Option<String>,
}

/// Eviction begins above `high` percent of capacity and ends at `low`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "WatermarkFields")]
pub struct Watermarks {
    /// Above it, eviction begins.
    pub high: u8,
    /// At it, eviction ends.
    pub low: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WatermarkFields {
    high: u8,
    low: u8,
}

impl TryFrom<WatermarkFields> for Watermarks {
    type Error = &'static str;

    fn try_from(fields: WatermarkFields) -> Result<Self, Self::Error> {
        if fields.low < fields.high && fields.high <= 100 && fields.low > 0 {
            Ok(Self { high: fields.high, low: fields.low })
        } else {
            Err("watermarks: need 0 < low < high <= 100")
        }
    }
}

impl Default for Watermarks {
    fn default() -> Self {
        Self { high: 90, low: 80 }
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LogLevel {
    /// Only what a human must act on.
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
}

impl LogLevel {
    /// The word a log filter knows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Why a configuration is refused; `Display` is the one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not this shape; serde_yaml names the field, the line and the column.
    #[error("{}: {error}", file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// Field, what is wrong, line and column.
        error: serde_yaml::Error,
    },
    /// Nothing where something is needed.
    #[error("{}: {field}: must not be empty or 0", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
        /// The field.
        field: &'static str,
    },
    /// A path that depends on where the agent was started.
    #[error("{}: {field}: the path {} must be absolute", file.display(), path.display())]
    Relative {
        /// The file.
        file: PathBuf,
        /// The field.
        field: &'static str,
        /// What it holds.
        path: PathBuf,
    },
    /// Two stores share what must be their own.
    #[error("{}: stores: two stores have the {what} {value}", file.display())]
    TwoStores {
        /// The file.
        file: PathBuf,
        /// `name` or `path`.
        what: &'static str,
        /// What both say.
        value: String,
    },
}

impl Config {
    /// The configuration in `text`, with what the command line says; `file` is for the message only.
    pub fn parse(file: &Path, text: &str, overrides: &Overrides) -> Result<Self, ConfigError> {
        let config: Self =
            read(text, overrides).map_err(|error| ConfigError::Shape { file: file.to_owned(), error })?;
        config.check_empty(file)?;
        config.check_paths(file)?;
        config.check_stores(file)?;
        Ok(config)
    }

    fn check_empty(&self, file: &Path) -> Result<(), ConfigError> {
        let stores = self.stores.iter().flat_map(|store| {
            [
                ("stores: name", store.name.trim().is_empty()),
                ("stores: capacityBytes", store.capacity == Capacity::Bytes(0)),
            ]
        });
        let own = [("cacheId", self.cache_id.trim().is_empty())];
        match own.into_iter().chain(stores).find(|(_, empty)| *empty) {
            None => Ok(()),
            Some((field, _)) => Err(ConfigError::Empty { file: file.to_owned(), field }),
        }
    }

    fn check_paths(&self, file: &Path) -> Result<(), ConfigError> {
        let own = [("trust", &self.trust), ("token", &self.token), ("state", &self.state), ("mounts", &self.mounts)];
        let stores = self.stores.iter().map(|store| ("stores", &store.path));
        match own.into_iter().chain(stores).find(|(_, path)| !path.is_absolute()) {
            None => Ok(()),
            Some((field, path)) => Err(ConfigError::Relative { file: file.to_owned(), field, path: path.clone() }),
        }
    }

    fn check_stores(&self, file: &Path) -> Result<(), ConfigError> {
        let two = |what, value| Err(ConfigError::TwoStores { file: file.to_owned(), what, value });
        for (position, store) in self.stores.iter().enumerate() {
            for other in &self.stores[..position] {
                if other.name == store.name {
                    return two("name", store.name.to_string());
                }
                if other.path == store.path {
                    return two("path", store.path.display().to_string());
                }
            }
        }
        Ok(())
    }
}

fn read(text: &str, overrides: &Overrides) -> Result<Config, serde_yaml::Error> {
    let written = [("node", &overrides.node), ("address", &overrides.address)];
    let written: Vec<_> = written.into_iter().filter_map(|(field, value)| Some((field, value.clone()?))).collect();
    if written.is_empty() {
        // Only a text has lines for messages to name.
        return serde_yaml::from_str(text);
    }
    let mut fields: serde_yaml::Mapping = serde_yaml::from_str(text)?;
    fields.extend(written.into_iter().map(|(field, value)| (field.into(), value.into())));
    serde_yaml::from_value(fields.into())
}

fn node_name<'de, D: Deserializer<'de>>(from: D) -> Result<NodeName, D::Error> {
    let text = String::deserialize(from)?;
    NodeName::parse(&text)
        .ok_or_else(|| D::Error::custom(format!("node: `{text}` can't be a node's name (DNS-1123 subdomain)")))
}

fn cluster_id<'de, D: Deserializer<'de>>(from: D) -> Result<ClusterId, D::Error> {
    let text = String::deserialize(from)?;
    ClusterId::parse(&text).ok_or_else(|| D::Error::custom(format!("cluster: `{text}` is not a UUID")))
}

fn host_port<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<str>, D::Error> {
    let text = String::deserialize(from)?;
    let valid = text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !valid {
        return Err(D::Error::custom(format!("authority: `{text}` is not host:port")));
    }
    Ok(text.into())
}

fn stores<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Store>, D::Error> {
    let stores = Vec::<Store>::deserialize(from)?;
    if stores.len() > STORES_MAX {
        return Err(D::Error::custom(format!("stores: {} of them, at most {STORES_MAX} are allowed", stores.len())));
    }
    Ok(stores)
}

#[cfg(test)]
mod tests;
