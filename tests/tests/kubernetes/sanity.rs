//! The CSI plugin before csi-sanity, the community's test of drivers: the plugin and a mounter as processes, no kubelet.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use larder_tests::harness::{MINUTE, program};
use larder_tests::kit::{programs, wait_until};

/// What is asked. The other services are the controller's, which isn't there yet.
const FOCUS: &str = "Identity Service|Node Service";

/// Needs a volume that the controller's service has made.
const LATER: &str = "should remove target path";

/// What csi-sanity has of it; fewer would mean that it skipped what it shouldn't.
const PASSED: usize = 10;

struct Process(Child);

impl Process {
    fn start(name: &str, folder: &Path, arguments: &[&str]) -> Self {
        let log = File::create(folder.join(format!("{name}.log"))).expect("a log");
        let mut command = Command::new(program(name));
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        Self(command.spawn().expect("the program starts"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn csi_sanity_finds_nothing_wrong_with_the_node_plugin() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |path: &str| folder.path().join(path).display().to_string();
    let above = "kubelet/pods/sanity/volumes/kubernetes.io~csi/v";
    for path in ["kubelet/plugins/csi.larder.dev", "kubelet/plugins_registry", above, "run", "node"] {
        std::fs::create_dir_all(folder.path().join(path)).expect("made");
    }
    let (socket, kubelet, run) = (at("node/mounter.sock"), at("kubelet"), at("run"));
    let _mounter =
        Process::start("larder-mounter", folder.path(), &["--run", &run, "--plugin", &socket, "--kubelet", &kubelet]);
    let _plugin =
        Process::start("larder-csi", folder.path(), &["--node", "n1", "--kubelet", &kubelet, "--mounter", &socket]);
    let endpoint = folder.path().join("kubelet/plugins/csi.larder.dev/csi.sock");
    wait_until(MINUTE, "both listen", || endpoint.exists() && Path::new(&socket).exists());
    assert!(folder.path().join("kubelet/plugins_registry/csi.larder.dev@reg.sock").exists(), "the kubelet finds it");

    let ran = Command::new(programs().join("csi-sanity"))
        .arg(format!("-csi.endpoint=unix://{}", endpoint.display()))
        .arg(format!("-csi.mountdir={}", at(&format!("{above}/mounts"))))
        .arg(format!("-csi.stagingdir={}", at("staging")))
        .arg(format!("-ginkgo.focus={FOCUS}"))
        .arg(format!("-ginkgo.skip={LATER}"))
        .arg("-ginkgo.no-color")
        .output()
        .expect("csi-sanity runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    let passed = said.split(" Passed").next().and_then(|before| before.rsplit(' ').next()).and_then(|n| n.parse().ok());
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(passed >= Some(PASSED), "{passed:?} passed: {said}");
    println!("{}", said.lines().rev().take(6).collect::<Vec<_>>().join("\n"));
}
