//! How long nodes may be silent and slow, as the map authority is told of a CacheCluster's spec.

use std::time::Duration;

use larder_crds::CacheClusterSpec;

use crate::authority::Patience;

/// What the spec says; the defaults where an object that no schema of ours admitted says nonsense.
pub fn patience(spec: &CacheClusterSpec) -> Patience {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let default = Patience::default();
    Patience {
        loss_grace_ms: spec.loss_grace().map_or(default.loss_grace_ms, ms),
        warmup_ms: spec.warmup().map_or(default.warmup_ms, ms),
        drain_ms: spec.drain_timeout().map_or(default.drain_ms, ms),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_specs_words_become_milliseconds_and_their_defaults_are_the_authoritys() {
        let spec = |more: serde_json::Value| -> CacheClusterSpec {
            let mut spec = json!({"minNodes": 1, "pools": []});
            spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            serde_json::from_value(spec).expect("a spec")
        };
        assert_eq!(patience(&spec(json!({}))), Patience::default());
        let said = json!({"lossGrace": "6s", "join": {"warmup": "1m30s"}, "drain": {"timeout": "2m"}});
        let wanted = Patience { loss_grace_ms: 6_000, warmup_ms: 90_000, drain_ms: 120_000 };
        assert_eq!(patience(&spec(said)), wanted);
        assert_eq!(patience(&spec(json!({"lossGrace": "soon"}))), Patience::default());
    }
}
