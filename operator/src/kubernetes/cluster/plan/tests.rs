use std::path::Path;

use larder_proto::ids::ClusterId;

use super::*;

/// Writes the golden file anew: `UPDATE_GOLDEN=1 cargo test -p larder-operator golden`.
const UPDATE: &str = "UPDATE_GOLDEN";

fn cluster() -> CacheCluster {
    let value = json!({
        "apiVersion": "larder.dev/v1alpha1",
        "kind": "CacheCluster",
        "metadata": {"name": "fast", "namespace": "team-a", "uid": "0a1b2c3d-0000-4000-8000-000000000001"},
        "spec": {
            "minNodes": 3,
            "replicas": 2,
            "failureDomain": "topology.kubernetes.io/zone",
            "agent": {
                "imagePullSecrets": [{"name": "pull"}],
                "resources": {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
                "priorityClassName": "important",
                "ports": {"peer": 17710},
                "podLabels": {"team": "a"},
                "podAnnotations": {"example.com/scrape": "true"},
                "logLevel": "Debug",
            },
            "pools": [
                {"name": "nvme", "selector": {"matchLabels": {"disk": "nvme"}}, "stores": [
                    {"name": "d0", "hostPath": "/mnt/nvme0", "capacity": "90%", "reserve": "10Gi"},
                    {"name": "d1", "hostPath": "/mnt/nvme1/", "capacity": "900Gi", "reserve": 0, "mountPoint": "Any"},
                ]},
                {"name": "readers", "selector": {"matchLabels": {"reads": "yes"}}, "tolerations": [{"key": "gpu", "operator": "Exists"}]},
            ],
        },
    });
    serde_json::from_value(value).expect("a cluster")
}

fn names() -> Names {
    Names { namespace: "team-a".into(), cluster: "fast".into(), id: ClusterId::of("team-a/fast") }
}

fn planned() -> Vec<Owned> {
    let names = names();
    let inputs = Inputs {
        names: &names,
        image: "example.com/larder-agent:0.1.0",
        drain_taints: &["ToBeDeletedByClusterAutoscaler".into(), "karpenter.sh/disrupted".into()],
        trust_pem: "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        authority: Some(([10, 0, 0, 7], 31_709).into()),
    };
    plan(&cluster(), &inputs)
}

#[test]
fn the_golden_file_shows_every_object() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plan.yaml");
    let documents: Vec<String> =
        planned().iter().map(|owned| serde_yaml::to_string(&owned.object).expect("YAML")).collect();
    let text = documents.join("---\n");
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&file, &text).expect("written");
    }
    let golden = std::fs::read_to_string(&file).expect("the golden file");
    assert!(text == golden, "{} differs; what is planned now:\n{text}", file.display());
}

#[test]
fn agents_may_do_nothing_that_they_need_not() {
    let sets: Vec<Owned> = planned().into_iter().filter(|owned| owned.kind == OwnedKind::DaemonSet).collect();
    assert_eq!(sets.len(), 2);
    for set in sets {
        let at = |pointer: &str| set.object.pointer(pointer).cloned().unwrap_or_default();
        let (pod, container) = ("/spec/template/spec", "/spec/template/spec/containers/0/securityContext");
        assert_eq!(at(&format!("{pod}/securityContext/runAsUser")), 65_532);
        assert_eq!(at(&format!("{pod}/securityContext/seccompProfile/type")), "RuntimeDefault");
        assert_eq!(at(&format!("{pod}/automountServiceAccountToken")), false);
        assert_eq!(at(&format!("{pod}/hostNetwork")), Value::Null);
        assert_eq!(at(&format!("{container}/capabilities/drop")), json!(["ALL"]));
        assert_eq!(at(&format!("{container}/readOnlyRootFilesystem")), true);
        assert_eq!(at(&format!("{container}/allowPrivilegeEscalation")), false);
        assert_eq!(at(&format!("{container}/privileged")), Value::Null);
    }
}

#[test]
fn everything_goes_with_its_cluster_and_lies_beside_it() {
    for owned in planned() {
        let metadata = &owned.object["metadata"];
        assert_eq!(metadata["ownerReferences"][0]["uid"], "0a1b2c3d-0000-4000-8000-000000000001", "{}", owned.name);
        assert_eq!(metadata["namespace"], "team-a", "{}", owned.name);
        assert_eq!(metadata["labels"]["larder.dev/cluster"], "fast", "{}", owned.name);
        assert_eq!(metadata["name"], owned.name.as_str());
    }
}
