//! What can't be started is refused with one clear line and exit status 1, and leaves nothing behind.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use larder_tests::harness::{
    Cluster, MINUTE, Ran, SOON, VolumeSpec, agent_program, larder_program, mounts_below, processes_naming, run,
    shared_program,
};
use larder_tests::stub::StubS3;
use tempfile::TempDir;

const CLUSTER: &str = "\
apiVersion: larder.dev/v1alpha1
kind: CacheCluster
metadata: {name: small}
spec:
  minNodes: 1
  replicas: 1
  pools:
  - name: local
    selector: {matchLabels: {a: b}}
    stores:
    - {name: d0, hostPath: /mnt/d0, capacity: 1Gi}
";

const SECRET: &str = "---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {accessKeyId: a, secretAccessKey: b}
";

const VOLUME: &str = "---
apiVersion: larder.dev/v1alpha1
kind: CacheVolume
metadata: {name: data}
spec:
  clusterRef: {name: small}
  origin:
    s3: {bucket: some-bucket, endpoint: 'http://127.0.0.1:1', credentials: {secretRef: {name: keys}}}
";

fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("larder-bad-").tempdir_in("/var/tmp").unwrap();
    // For what runs as another user.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn write(folder: &TempDir, yaml: &str) -> PathBuf {
    let file = folder.path().join("cluster.yaml");
    std::fs::write(&file, yaml).unwrap();
    file
}

/// `larder up FILE`, as other words of a command line.
fn up(mut command: Command, file: &Path, dir: &Path) -> Ran {
    command.arg("up").arg(file).args(["--nodes", "1", "--dir"]).arg(dir);
    run(&mut command, MINUTE)
}

fn assert_refused(ran: &Ran, dir: &Path, wanted: &[&str]) {
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert_eq!(ran.err.lines().count(), 1, "one line: {ran:?}");
    assert!(ran.err.starts_with("larder: "), "{ran:?}");
    for word in wanted {
        assert!(ran.err.contains(word), "{word:?} in {}", ran.err);
    }
    assert!(mounts_below(dir).is_empty(), "{:?}", mounts_below(dir));
    assert!(processes_naming(dir).is_empty(), "{:?}", processes_naming(dir));
    assert!(!dir.join("n1/agent.yaml").exists(), "nothing was begun");
}

fn refused(yaml: &str, wanted: &[&str]) {
    let folder = folder();
    let (file, dir) = (write(&folder, yaml), folder.path().join("c"));
    assert_refused(&up(Command::new(larder_program()), &file, &dir), &dir, wanted);
}

#[test]
fn yaml_is_refused_with_file_line_and_field() {
    let whole = format!("{CLUSTER}{SECRET}{VOLUME}");
    let changed = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from}");
        whole.replace(from, to)
    };
    refused(&changed("kind: Secret", "kind: ConfigMap"), &["cluster.yaml:14:", "ConfigMap", "CacheVolume"]);
    refused(
        &changed("  minNodes: 1", "  minNode: 1\n  minNodes: 1"),
        &["cluster.yaml:5:", "spec.minNode", "unknown field"],
    );
    refused(
        &changed("  minNodes: 1", "  minNode: 1"),
        &["cluster.yaml:5:", "spec.minNode", "unknown field", "did you mean minNodes?"],
    );
    refused(&changed("capacity: 1Gi", "capacity: lots"), &["cluster.yaml:11:", "capacity", "\"lots\"", "900Gi"]);
    refused("", &["cluster.yaml: there is nothing in it"]);
    refused(
        &changed("metadata: {name: small}\n", ""),
        &["cluster.yaml:1: CacheCluster: metadata.name: Required value"],
    );
    refused(&changed("minNodes: 1", "minNodes: three"), &["cluster.yaml:5:", "spec.minNodes", "integer"]);
    refused(
        &changed("metadata: {name: keys}", "metadata: {name: others}"),
        &["secretRef.name", "no Secret default/keys"],
    );
    refused(
        &changed("clusterRef: {name: small}", "clusterRef: {name: big}"),
        &["spec.clusterRef.name", "no CacheCluster default/big"],
    );
    refused(&format!("{whole}{VOLUME}"), &["metadata.name", "taken", "cluster.yaml:20"]);
    refused(&changed("replicas: 1", "replicas: 2"), &["spec", "replicas must not be larger than minNodes"]);
    refused(&changed("capacity: 1Gi", "capacity: 900Ti"), &["capacity", "900Ti", "disk"]);
    refused(&changed("spec:\n  minNodes", "spec: [\n  minNodes"), &["cluster.yaml:", "YAML"]);
    refused(SECRET, &["no CacheCluster"]);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let folder = folder();
    let (file, dir) = (folder.path().join("missing.yaml"), folder.path().join("c"));
    assert_refused(&up(Command::new(larder_program()), &file, &dir), &dir, &["missing.yaml", "No such file"]);
    let all = run(Command::new(larder_program()).args(["get", "cc", "--dir"]).arg(&dir), SOON);
    assert_refused(&all, &dir, &["no cluster is up"]);
}

#[test]
fn a_command_line_that_is_wrong_is_one_line() {
    for words in [&["up"][..], &["upp"], &["up", "f.yaml", "--node", "3"], &["get"], &[]] {
        let ran = run(Command::new(larder_program()).args(words), SOON);
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
        assert!(ran.err.lines().count() == 1 && ran.err.starts_with("larder: "), "{ran:?}");
    }
    assert_eq!(run(Command::new(larder_program()).arg("--help"), SOON).status.code(), Some(0));
}

#[test]
fn a_wrong_agent_is_named() {
    let folder = folder();
    let (file, dir) = (write(&folder, CLUSTER), folder.path().join("c"));
    let mut command = Command::new(larder_program());
    command.arg("up").arg(&file).args(["--nodes", "1", "--agent", "/bin/true", "--dir"]).arg(&dir);
    for _ in 0..2 {
        let ran = run(&mut command, MINUTE);
        assert_eq!((ran.status.code(), ran.err.lines().count()), (Some(1), 1), "{ran:?}");
        assert!(ran.err.contains("/bin/true ended with exit status 0: is it larder-agent?"), "{ran:?}");
    }
}

#[test]
fn a_folder_that_another_larder_holds_names_it() {
    let folder = folder();
    let (file, dir) = (write(&folder, CLUSTER), folder.path().join("c"));
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    // As one that has just begun: it holds the lock, and takes no commands yet.
    let lock = std::fs::File::create(dir.join("up.lock")).unwrap();
    std::fs::write(dir.join("up.lock"), "4711").unwrap();
    lock.lock().unwrap();
    let ran = up(Command::new(larder_program()), &file, &dir);
    assert_refused(&ran, &dir, &["another larder (pid 4711) is starting or stopping"]);
}

#[test]
fn a_second_up_does_not_change_the_agent() {
    let cluster = Cluster::builder().nodes(1).replicas(1).start();
    let yaml = cluster.dir().parent().unwrap().join("cluster.yaml");
    for (option, value, runs_with) in [("--agent-log", "debug", "info"), ("--agent", "/bin/true", "larder-agent")] {
        let ran = cluster.larder(&["up", yaml.to_str().unwrap(), option, value], MINUTE);
        assert_eq!((ran.status.code(), ran.err.lines().count()), (Some(1), 1), "{ran:?}");
        assert!(ran.err.contains(option) && ran.err.contains(runs_with), "{ran:?}");
    }
}

#[test]
fn down_returns_when_up_has_ended() {
    let folder = folder();
    let (file, dir) = (write(&folder, CLUSTER), folder.path().join("c"));
    let mut up = Command::new(larder_program());
    up.arg("up").arg(&file).args(["--nodes", "1", "--dir"]).arg(&dir).stdout(std::process::Stdio::null());
    let mut up = up.spawn().unwrap();
    let down = || run(Command::new(larder_program()).args(["down", "--dir"]).arg(&dir), MINUTE);
    larder_tests::harness::wait_until(MINUTE, "it is up, and stopped", || down().status.success());
    assert!(processes_naming(&dir).is_empty(), "{:?}", processes_naming(&dir));
    assert!(up.wait().unwrap().success());
}

#[test]
fn without_root_it_says_so() {
    let folder = folder();
    let (file, dir) = (write(&folder, CLUSTER), folder.path().join("c"));
    // Beside the test's own folder, where everybody may read it.
    let program = shared_program(folder.path(), "larder");
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    assert_refused(&up(nobody, &file, &dir), &dir, &["root", "sudo"]);
    // The folder of a cluster is root's alone.
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    for command in ["status", "down"] {
        let mut nobody = Command::new("setpriv");
        nobody
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args([command, "--dir"])
            .arg(&dir);
        assert_refused(&run(&mut nobody, SOON), &dir, &["only root", "sudo"]);
    }
}

#[test]
fn without_dev_fuse_it_says_so() {
    let folder = folder();
    let (file, dir) = (write(&folder, CLUSTER), folder.path().join("c"));
    let mut bare = Command::new("unshare");
    bare.args(["--mount", "sh", "-c", "mount -t tmpfs none /dev && exec \"$@\"", "sh"]).arg(larder_program());
    assert_refused(&up(bare, &file, &dir), &dir, &["/dev/fuse", "modprobe fuse"]);
}

#[test]
fn an_agent_whose_port_is_taken_says_which() {
    let cluster = Cluster::builder().nodes(1).replicas(1).start();
    let folder = folder();
    let text = std::fs::read_to_string(cluster.node_dir("n1").join("agent.yaml")).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for lane in ["peer", "admin"] {
        let mut config: serde_yaml::Mapping = serde_yaml::from_str(&text).unwrap();
        // An agent of its own, but for the port.
        let own = |part: &str| serde_yaml::Value::from(folder.path().join(part).to_str().unwrap());
        config.insert("state".into(), own("agent"));
        config.insert("mounts".into(), own("mnt"));
        config.insert("stores".into(), serde_yaml::Value::Sequence(Vec::new()));
        config.insert("ports".into(), serde_yaml::to_value(std::collections::BTreeMap::from([(lane, port)])).unwrap());
        let file = folder.path().join("agent.yaml");
        std::fs::write(&file, serde_yaml::to_string(&config).unwrap()).unwrap();
        let ran = run(Command::new(agent_program()).args(["serve", "--config"]).arg(&file), MINUTE);
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
        let said = ran.err.lines().last().unwrap_or_default();
        for word in [&format!("ports.{lane}") as &str, &port.to_string(), "in use"] {
            assert!(said.contains(word), "{word:?} in {}", ran.err);
        }
        assert!(mounts_below(folder.path()).is_empty());
    }
}

#[test]
fn a_running_cluster_refuses_what_it_cannot_become_and_goes_on() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put("file", "content");
    let volume = || VolumeSpec::s3("data", &stub);
    let mut cluster = Cluster::builder().nodes(2).volume(volume()).up();
    let refused = cluster.apply(|_| Cluster::builder().nodes(2).volume(volume().chunk_size("1Mi")));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.err.contains("chunkSize is immutable"), "{refused:?}");
    let refused = cluster.apply(|_| Cluster::builder().nodes(2).volume(volume().with("origine", "x")));
    assert!(refused.err.contains("spec.origine") && refused.err.contains("unknown field"), "{refused:?}");
    assert_eq!(cluster.read("n1", "data", "file").unwrap(), b"content");
    // One more volume is what it can become.
    cluster.apply(|_| Cluster::builder().nodes(2).volume(volume()).volume(VolumeSpec::s3("more", &stub))).ok();
    cluster.wait_ready();
    assert_eq!(cluster.read("n2", "more", "file").unwrap(), b"content");
}
