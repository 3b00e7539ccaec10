use std::path::PathBuf;

use larder_proto::volume::{AzureCredentials, Secret};

use super::*;

const CLUSTER: &str = "\
apiVersion: larder.dev/v1alpha1
kind: CacheCluster
metadata: {name: demo}
spec:
  minNodes: 3
  pools:
  - name: nvme
    selector: {matchLabels: {disk: nvme}}
    stores:
    - {name: d0, hostPath: /mnt/nvme0, capacity: 10Gi}
";

const VOLUME: &str = "\
apiVersion: larder.dev/v1alpha1
kind: CacheVolume
metadata: {name: data}
spec:
  clusterRef: {name: demo}
  origin:
    s3:
      bucket: models
      endpoint: http://127.0.0.1:9000
      credentials: {secretRef: {name: keys}}
";

const SECRET: &str = "\
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {accessKeyId: id, secretAccessKey: hush}
";

/// Reads and resolves one file of these documents.
fn load(documents: &[&str]) -> Result<Desired, Vec<Mistake>> {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("f.yaml");
    std::fs::write(&file, documents.join("---\n")).expect("written");
    let mut result = read(&[file]).and_then(resolve);
    for mistake in result.as_mut().err().into_iter().flatten() {
        mistake.message = mistake.message.replace(&dir.path().display().to_string(), "").replace("/f.yaml", "f.yaml");
        mistake.file = PathBuf::from("f.yaml");
    }
    result
}

/// The one line a user reads.
fn refusal(documents: &[&str]) -> String {
    let mistakes = load(documents).err().expect("refused");
    mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_kubectl_takes_is_taken() {
    let desired = load(&[CLUSTER, VOLUME, SECRET, "# nothing here\n"]).unwrap_or_else(|m| panic!("{m:?}"));
    assert_eq!(desired.name.to_string(), "default/demo");
    assert_eq!(desired.cluster.object.spec.replicas, 2, "the schema's default");
    let volume = &desired.volumes[0].volume;
    let larder_proto::volume::Origin::S3(s3) = &volume.origin else { panic!("an S3 origin") };
    assert!(s3.path_style, "an endpoint means path style");
    assert_eq!(s3.credentials.as_ref().map(|c| c.secret_access_key.expose()), Some("hush"));
}

#[test]
fn a_secrets_values_may_be_base64() {
    let secret = SECRET.replace("stringData: {accessKeyId: id", "data: {accessKeyId: aWQ=").replace("hush", "aHVzaA==");
    let desired = load(&[CLUSTER, VOLUME, &secret]).unwrap_or_else(|m| panic!("{m:?}"));
    let larder_proto::volume::Origin::S3(s3) = &desired.volumes[0].volume.origin else { panic!("an S3 origin") };
    assert_eq!(s3.credentials.as_ref().map(|c| c.access_key_id.expose()), Some("id"));
}

#[test]
fn azure_takes_an_account_key_or_a_token_and_not_both() {
    let azure = "    azure: {account: lake, container: models, prefix: a, credentials: {secretRef: {name: keys}}}\n";
    let at = VOLUME.find("    s3:").expect("the member");
    let volume = format!("{}{azure}", &VOLUME[..at]);
    let secret = |data: &str| SECRET.replace("accessKeyId: id, secretAccessKey: hush", data);
    for (data, expected) in [
        ("accountKey: \"a2V5\\n\"", AzureCredentials::AccountKey(Secret::new("a2V5"))),
        ("sasToken: \"?sv=1&sig=x\"", AzureCredentials::SasToken(Secret::new("?sv=1&sig=x"))),
        ("accountKey: \"\", sasToken: \"sig=x\"", AzureCredentials::SasToken(Secret::new("sig=x"))),
    ] {
        let desired = load(&[CLUSTER, &volume, &secret(data)]).unwrap_or_else(|m| panic!("{m:?}"));
        let desired = &desired.volumes[0];
        let larder_proto::volume::Origin::Azure(place) = &desired.volume.origin else { panic!("an Azure origin") };
        assert_eq!((&*place.account, &*place.container, &*place.prefix), ("lake", "models", "a/"));
        assert_eq!(place.credentials, expected);
        let written = desired.placed.object.spec.origin.identity().expect("one member");
        assert_eq!(desired.volume.origin.identity(), written, "agents and operator agree on the place");
    }
    for (data, expected) in [
        ("accountKey: k, sasToken: hush", "Secret default/keys has both accountKey and sasToken: keep one"),
        ("accessKeyId: hush", "Secret default/keys has neither key accountKey nor key sasToken"),
    ] {
        let text = refusal(&[CLUSTER, &volume, &secret(data)]);
        assert!(text.contains("spec.origin.azure.credentials.secretRef.name") && text.contains(expected), "{text}");
        assert!(!text.contains("hush"), "{text}");
    }
}

#[test]
fn each_mistake_is_one_line_with_file_line_and_field() {
    let cluster = |from: &str, to: &str| CLUSTER.replace(from, to);
    let volume = |from: &str, to: &str| VOLUME.replace(from, to);
    for (documents, line) in [
        (
            vec![cluster("minNodes: 3", "minNodes: 3\n  shards: 2")],
            "f.yaml:6: CacheCluster default/demo: spec.shards: unknown field",
        ),
        (vec![cluster("minNodes: 3", "minNodes: many")], "f.yaml:5: CacheCluster default/demo: spec.minNodes: "),
        (vec![cluster("minNodes: 3", "minNodes: 1")], "replicas must not be larger than minNodes"),
        (
            vec![cluster("kind: CacheCluster", "kind: CacheClutter")],
            "f.yaml:2: kind: no kind \"CacheClutter\" in \"larder.dev/v1alpha1\"",
        ),
        (vec![cluster("apiVersion: larder.dev/v1alpha1\n", "")], "apiVersion: Required value"),
        (
            vec![cluster("larder.dev/v1alpha1", "larder.dev/v1")],
            "f.yaml:1: apiVersion: Invalid value: \"larder.dev/v1\": the apiVersion of a CacheCluster must be larder.dev/v1alpha1",
        ),
        (
            vec![SECRET.replace("apiVersion: v1", "apiVersion: v2")],
            "apiVersion: Invalid value: \"v2\": the apiVersion of a Secret",
        ),
        (
            vec![cluster("metadata: {name: demo}\n", "")],
            "f.yaml:1: CacheCluster: metadata.name: Required value: give the object a name",
        ),
        (vec!["# nothing\n".into()], "f.yaml: there is nothing in it; no CacheCluster in these files"),
        (vec![SECRET.into()], "f.yaml: no CacheCluster in these files"),
        (
            vec![CLUSTER.into(), SECRET.into(), volume("    s3:", "    local: {path: /srv}\n    s3:")],
            "f.yaml:22: CacheVolume default/data: spec.origin: exactly one of s3, azure and local must be set",
        ),
        (
            vec![CLUSTER.into(), CLUSTER.into()],
            "f.yaml:14: CacheCluster default/demo: metadata.name: the name is taken by the document at f.yaml:3",
        ),
        (
            vec![CLUSTER.into(), cluster("name: demo", "name: other")],
            "larder up runs one CacheCluster, and default/demo is another",
        ),
        (vec![VOLUME.into(), SECRET.into()], "no CacheCluster in these files"),
        (
            vec![CLUSTER.into(), SECRET.into(), volume("name: demo", "name: nowhere")],
            "spec.clusterRef.name: no CacheCluster default/nowhere in these files",
        ),
        (
            vec![CLUSTER.into(), VOLUME.into()],
            "spec.origin.s3.credentials.secretRef.name: no Secret default/keys in these files",
        ),
        (
            vec![CLUSTER.into(), VOLUME.into(), SECRET.replace("secretAccessKey", "secret")],
            "Secret default/keys has no key secretAccessKey",
        ),
        (
            vec![CLUSTER.into(), volume("spec:", "spec:\n  replicas: 5"), SECRET.into()],
            "spec.replicas: must not be larger than minNodes of CacheCluster default/demo, which is 3",
        ),
        (
            vec![
                CLUSTER.into(),
                volume("{name: data}", "{name: data, namespace: other}")
                    .replace("{name: demo}", "{name: demo, namespace: default}"),
                SECRET.into(),
            ],
            "takes volumes of its own namespace only",
        ),
        (vec!["a: [1".into()], "f.yaml:2: not valid YAML"),
        (vec![SECRET.replace("stringData", "stringDate")], "f.yaml:4: Secret default/keys: stringDate: unknown field"),
    ] {
        let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
        let text = refusal(&documents);
        assert!(text.contains(line), "wanted {line:?}\n   got {text:?}");
        assert_eq!(text.lines().count(), 1, "one mistake, one line: {text}");
        assert!(!text.contains("hush"), "a secret's value is never printed");
    }
}

#[test]
fn all_mistakes_come_together() {
    let text = refusal(&[&CLUSTER.replace("minNodes: 3", "minNodes: x"), &VOLUME.replace("bucket", "bukket")]);
    assert!(text.contains("spec.minNodes") && text.contains("bukket"), "{text}");
}
