//! What a schema can't say: sizes that no disk has.
//!
//! The operator meets the same and answers with `Ready=False`, `Invalid`; without an API server it is said at once.

use serde_json::Value;

use super::Violation;
use crate::cluster::CacheCluster;
use crate::kind::Kind;
use crate::quantity::CapacityLimit;
use crate::volume::CacheVolume;

/// Parses every value of the spec that stays a text in the Rust types.
pub(super) fn check(kind: Kind, document: &Value, found: &mut Vec<Violation>) {
    let done = match kind {
        Kind::CacheCluster => serde_json::from_value(document.clone()).map(|cluster| check_cluster(&cluster, found)),
        Kind::CacheVolume => serde_json::from_value(document.clone()).map(|volume| check_volume(&volume, found)),
        Kind::CacheNode => serde_json::from_value::<crate::node::CacheNode>(document.clone()).map(|_| ()),
    };
    if let Err(error) = done {
        found.push(Violation::new("", error.to_string()));
    }
}

fn check_cluster(cluster: &CacheCluster, found: &mut Vec<Violation>) {
    let patience = [
        ("spec.lossGrace", cluster.spec.loss_grace()),
        ("spec.join.warmup", cluster.spec.warmup()),
        ("spec.drain.timeout", cluster.spec.drain_timeout()),
    ];
    for (path, parsed) in patience {
        found.extend(parsed.err().map(|error| Violation::new(path, error.to_string())));
    }
    for (pool_index, pool) in cluster.spec.pools.iter().enumerate() {
        for (store_index, store) in pool.stores.iter().enumerate() {
            let path = format!("spec.pools[{pool_index}].stores[{store_index}]");
            match store.capacity_limit() {
                Ok(CapacityLimit::Bytes(0)) => {
                    found.push(Violation::new(format!("{path}.capacity"), "must be more than 0"));
                }
                Ok(CapacityLimit::Bytes(_) | CapacityLimit::Percent(_)) => {}
                Err(error) => found.push(Violation::new(format!("{path}.capacity"), error.to_string())),
            }
            if let Err(error) = store.reserve_bytes() {
                found.push(Violation::new(format!("{path}.reserve"), error.to_string()));
            }
        }
    }
}

fn check_volume(volume: &CacheVolume, found: &mut Vec<Violation>) {
    let spec = &volume.spec;
    let results = [
        ("spec.readDeadline", spec.read_deadline().err().map(|error| error.to_string())),
        ("spec.freshness", spec.freshness().err().map(|error| error.to_string())),
        ("spec.readAhead", spec.read_ahead_bytes().err().map(|error| error.to_string())),
        ("spec.ttl", spec.ttl().err().map(|error| error.to_string())),
        ("spec.quota", spec.quota_bytes().err().map(|error| error.to_string())),
        ("spec.admission.maxObjectSize", spec.admission.max_object_bytes().err().map(|error| error.to_string())),
        ("spec.chunkSize", spec.chunk_size.bytes().err().map(|error| error.to_string())),
    ];
    for (path, error) in results {
        found.extend(error.map(|error| Violation::new(path, error)));
    }
}
