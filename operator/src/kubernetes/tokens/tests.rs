use larder_proto::ids::ClusterId;
use serde_json::{Value, json};

use super::*;

fn names() -> Names {
    Names { namespace: "team".into(), cluster: "fast".into(), id: ClusterId::of("team/fast") }
}

fn status(change: impl FnOnce(&mut Value)) -> TokenReviewStatus {
    let mut value = json!({
        "authenticated": true,
        "audiences": [names().audience()],
        "user": {
            "username": "system:serviceaccount:team:fast-agent",
            "extra": {POD_NAME: ["fast-nvme-x"], POD_UID: ["u1"]},
        },
    });
    change(&mut value);
    serde_json::from_value(value).expect("a status")
}

fn pod(change: impl FnOnce(&mut Value)) -> Pod {
    let mut value = json!({
        "metadata": {"name": "fast-nvme-x", "uid": "u1", "labels": {CLUSTER_LABEL: "fast"}},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"phase": "Running"},
    });
    change(&mut value);
    serde_json::from_value(value).expect("a pod")
}

#[test]
fn a_token_must_be_the_agents_own_for_the_join_port() {
    let bound = |change: fn(&mut Value)| bound_pod(&status(change), &names());
    assert_eq!(bound(|_| {}), Ok(BoundPod { name: "fast-nvme-x".into(), uid: "u1".into() }));
    assert_eq!(bound(|status| status["authenticated"] = json!(false)), Err(Refusal::Unknown));
    assert_eq!(bound(|status| status["audiences"] = json!(["https://kubernetes.default.svc"])), Err(Refusal::Audience));
    assert_eq!(bound(|status| status["audiences"] = json!(null)), Err(Refusal::Audience));
    let other = "system:serviceaccount:other:fast-agent";
    let refusal = bound_pod(&status(|status| status["user"]["username"] = json!(other)), &names());
    assert_eq!(refusal, Err(Refusal::Account { user: other.into() }));
    assert_eq!(bound(|status| status["user"]["extra"] = json!({})), Err(Refusal::Unbound));
}

#[test]
fn its_pod_must_live_be_ours_and_run_there() {
    let node = NodeName::parse("n1").expect("a name");
    let bound = BoundPod { name: "fast-nvme-x".into(), uid: "u1".into() };
    let check = |change: fn(&mut Value)| check_pod(&pod(change), &bound, &node, &names());
    assert_eq!(check(|_| {}), Ok(()));
    assert_eq!(check(|pod| pod["metadata"]["uid"] = json!("u2")), Err(Refusal::PodGone));
    assert_eq!(
        check(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")),
        Err(Refusal::PodGone)
    );
    assert_eq!(check(|pod| pod["status"]["phase"] = json!("Failed")), Err(Refusal::PodGone));
    let name = || "fast-nvme-x".to_owned();
    assert_eq!(check(|pod| pod["metadata"]["labels"] = json!({})), Err(Refusal::Foreign { pod: name() }));
    assert_eq!(check(|pod| pod["spec"]["nodeName"] = json!("n2")), Err(Refusal::OtherNode { pod: name() }));
}
