//! The map for people: nodes, and the owners of each run of slots.

use larder_proto::ids::{NodeId, Slot};
use larder_proto::map::ClusterMap;
use serde_json::{Value, json};

/// The map as JSON. Consecutive slots with the same owners are one row, `first` and `last` included. `handover`: how many
/// slots still have a former owner that is asked before the origin.
pub fn render(map: &ClusterMap) -> Value {
    let nodes: Vec<Value> = (map.nodes().iter())
        .map(|node| {
            json!({
                "id": node.id.0,
                "name": node.name.as_str(),
                "domain": &*node.domain,
                "state": node.state.as_str(),
                "weight": node.weight,
                "address": node.peer_address().map(|address| address.to_string()),
            })
        })
        .collect();
    let handover = map.handover().chunk_by(|a, b| a.slot == b.slot).count();
    let (epoch, cluster) = (map.epoch().0, map.cluster().to_string());
    json!({"epoch": epoch, "cluster": cluster, "handover": handover, "nodes": nodes, "slots": runs(map)})
}

fn runs(map: &ClusterMap) -> Vec<Value> {
    let mut runs: Vec<(Slot, Slot, &[NodeId])> = Vec::new();
    for slot in Slot::all() {
        let owners = map.owners(slot);
        match runs.last_mut() {
            Some((_, last, same)) if *same == owners => *last = slot,
            _ => runs.push((slot, slot, owners)),
        }
    }
    let name = |id: &NodeId| map.node(*id).map_or_else(|| id.to_string(), |node| node.name.to_string());
    let row = |(first, last, owners): (Slot, Slot, &[NodeId])| {
        let owners: Vec<String> = owners.iter().map(name).collect();
        json!({"first": first.index(), "last": last.index(), "owners": owners})
    };
    runs.into_iter().map(row).collect()
}
