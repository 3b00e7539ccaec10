use super::*;

const UID: &str = "0a1b2c3d-0000-4000-8000-000000000001";

fn volume(more: Value) -> CacheVolume {
    let mut value = json!({
        "apiVersion": "larder.dev/v1alpha1", "kind": "CacheVolume",
        "metadata": {"name": "models", "namespace": "team", "uid": "v1", "finalizers": [VOLUME_FINALIZER]},
        "spec": {"clusterRef": {"name": "fast"}, "origin": {"s3": {
            "bucket": "b", "credentials": {"secretRef": {"name": "keys"}}}}},
    });
    merge(&mut value, more);
    serde_json::from_value(value).expect("a volume")
}

fn claim(more: Value) -> Arc<PersistentVolumeClaim> {
    let mut value = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "team", "uid": UID},
        "spec": {
            "storageClassName": "larder.team.models", "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    });
    merge(&mut value, more);
    Arc::new(serde_json::from_value(value).expect("a claim"))
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from,
    }
}

fn class() -> Arc<StorageClass> {
    let name = ObjectName { namespace: "team".into(), name: "models".into() };
    let mut value = storage_class(&name, "v1");
    value["metadata"]["uid"] = json!("c1");
    Arc::new(serde_json::from_value(value).expect("a class"))
}

/// What becomes of the claim.
fn made() -> Value {
    let view = View {
        volumes: vec![volume(json!({}))],
        classes: vec![class()],
        claims: vec![claim(json!({}))],
        ..View::default()
    };
    match &plan(&view)[..] {
        [Action::Persistent(name, uid, object)] => {
            assert_eq!((name.as_str(), uid.as_str()), (format!("pvc-{UID}").as_str(), UID));
            object.clone()
        }
        other => panic!("{other:?}"),
    }
}

fn persistent(phase: &str, more: Value) -> Arc<PersistentVolume> {
    let mut value = made();
    value["metadata"]["uid"] = json!("p1");
    value["status"] = json!({"phase": phase});
    merge(&mut value, more);
    Arc::new(serde_json::from_value(value).expect("a PersistentVolume"))
}

fn deleted() -> Value {
    json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
}

#[test]
fn a_claim_becomes_a_persistent_volume_of_its_own() {
    let object = made();
    assert_eq!(object["metadata"]["annotations"], json!({"pv.kubernetes.io/provisioned-by": "csi.larder.dev"}));
    let spec = &object["spec"];
    assert_eq!(spec["claimRef"]["uid"], UID);
    assert_eq!((&spec["claimRef"]["namespace"], &spec["claimRef"]["name"]), (&json!("team"), &json!("data")));
    assert_eq!((&spec["capacity"]["storage"], &spec["accessModes"]), (&json!("1Gi"), &json!(["ReadWriteMany"])));
    assert_eq!(spec["csi"]["volumeHandle"], format!("pvc-{UID}"));
    let attributes = json!({"namespace": "team", "volume": "models", "volumeUID": "v1"});
    assert_eq!(spec["csi"]["volumeAttributes"], attributes);
    assert_eq!(spec["storageClassName"], "larder.team.models");
    assert!(spec["nodeAffinity"].is_null());
}

#[test]
fn a_claim_that_cant_be_given_anything_is_told_why() {
    let other = json!({"metadata": {"namespace": "other"}});
    let source = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"});
    let cases = [
        (json!({"spec": {"storageClassName": "larder.team.nobody"}}), "VolumeNotFound"),
        (other, "NamespaceNotAllowed"),
        (json!({"spec": {"volumeMode": "Block"}}), "Invalid"),
        (json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}), "Invalid"),
        (json!({"spec": {"dataSource": source}}), "Invalid"),
        (json!({"spec": {"dataSourceRef": source}}), "Invalid"),
        (json!({"spec": {"resources": {"requests": null}}}), "Invalid"),
        (json!({"metadata": {"annotations": {"larder.dev/prefix": "a/b"}}}), "PrefixNotSupported"),
    ];
    for (more, reason) in cases {
        let view = View {
            volumes: vec![volume(json!({}))],
            classes: vec![class()],
            claims: vec![claim(more.clone())],
            ..View::default()
        };
        match &plan(&view)[..] {
            [Action::Refuse(_, _, refusal)] => assert_eq!(refusal.reason(), reason, "{more}"),
            other => panic!("{more}: {other:?}"),
        }
    }
    let going = View { volumes: vec![volume(deleted())], claims: vec![claim(json!({}))], ..View::default() };
    let refused = plan(&going).into_iter().find_map(|action| match action {
        Action::Refuse(_, _, refusal) => Some(refusal.reason()),
        _ => None,
    });
    assert_eq!(refused, Some("VolumeDeleting"));
}

#[test]
fn other_peoples_claims_and_bound_ones_are_left_alone() {
    for more in [
        json!({"spec": {"storageClassName": null}}),
        json!({"spec": {"storageClassName": "larder.nothing"}}),
        json!({"spec": {"storageClassName": "fast"}}),
        json!({"spec": {"volumeName": "pv-1"}}),
        deleted(),
    ] {
        let view = View {
            volumes: vec![volume(json!({}))],
            classes: vec![class()],
            claims: vec![claim(more.clone())],
            ..View::default()
        };
        assert_eq!(plan(&view), [], "{more}");
    }
    let there = View {
        volumes: vec![volume(json!({}))],
        classes: vec![class()],
        claims: vec![claim(json!({}))],
        persistent: vec![persistent("Pending", json!({}))],
        ..View::default()
    };
    assert_eq!(plan(&there), [], "it is there already");
}

#[test]
fn a_volume_is_held_before_it_has_a_class_and_its_class_is_kept_right() {
    let name = ObjectName { namespace: "team".into(), name: "models".into() };
    let fresh = View { volumes: vec![volume(json!({"metadata": {"finalizers": []}}))], ..View::default() };
    assert_eq!(plan(&fresh), [Action::Hold(name.clone(), "v1".into())]);
    let held = View { volumes: vec![volume(json!({}))], ..View::default() };
    let wanted = storage_class(&name, "v1");
    assert_eq!(plan(&held), [Action::Class("larder.team.models".into(), wanted.clone())]);
    assert_eq!(wanted["parameters"], json!({"namespace": "team", "volume": "models"}));
    let settled = View { classes: vec![class()], ..held };
    assert_eq!(plan(&settled), []);
    let anew = View { volumes: vec![volume(json!({"metadata": {"uid": "v2"}}))], ..settled };
    assert_eq!(plan(&anew), [Action::Class("larder.team.models".into(), storage_class(&name, "v2"))]);
    let gone = View { volumes: Vec::new(), ..anew };
    assert_eq!(plan(&gone), [Action::RemoveClass("larder.team.models".into(), "c1".into())]);
    let mut foreign = (*class()).clone();
    foreign.metadata.labels = None;
    assert_eq!(plan(&View { classes: vec![Arc::new(foreign)], ..gone }), [], "somebody else's");
}

#[test]
fn a_volume_that_is_deleted_waits_for_its_claims_then_for_its_class() {
    let name = ObjectName { namespace: "team".into(), name: "models".into() };
    let used = View {
        volumes: vec![volume(deleted())],
        classes: vec![class()],
        persistent: vec![persistent("Bound", json!({}))],
        ..View::default()
    };
    let message = "waits until 1 claims of it are deleted: team/data".to_owned();
    assert_eq!(plan(&used), [Action::Waits(name.clone(), message)]);
    let class_goes = [Action::RemoveClass("larder.team.models".into(), "c1".into())];
    assert_eq!(plan(&View { persistent: Vec::new(), ..used.clone() }), class_goes);
    assert_eq!(plan(&View { ending: vec!["team".into()], ..used.clone() }), class_goes, "the namespace goes");
    let mut forced = deleted();
    merge(&mut forced, json!({"metadata": {"annotations": {"larder.dev/force-delete": "true"}}}));
    assert_eq!(plan(&View { volumes: vec![volume(forced)], ..used.clone() }), class_goes);
    let last = View { classes: Vec::new(), persistent: Vec::new(), ..used };
    assert_eq!(plan(&last), [Action::LetGo(name, "v1".into())]);
    let mut nobodys = deleted();
    merge(&mut nobodys, json!({"metadata": {"finalizers": ["somebody/else"]}}));
    assert_eq!(plan(&View { volumes: vec![volume(nobodys)], ..last }), [], "somebody else holds it");
}

#[test]
fn released_persistent_volumes_go_if_they_are_ours() {
    let goes =
        |persistent: Arc<PersistentVolume>| !plan(&View { persistent: vec![persistent], ..View::default() }).is_empty();
    assert!(goes(persistent("Released", json!({}))));
    for (phase, more) in [
        ("Bound", json!({})),
        ("Available", json!({})),
        ("Released", json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "other"}}})),
        ("Released", json!({"metadata": {"annotations": null}})),
        ("Released", json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})),
        ("Released", json!({"spec": {"csi": {"driver": "other"}}})),
        ("Released", deleted()),
    ] {
        assert!(!goes(persistent(phase, more.clone())), "{phase} {more}");
    }
}
