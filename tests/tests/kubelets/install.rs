//! From nothing to a pod that reads.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use larder_tests::harness::{program, sha256};
use larder_tests::kit::{NAMESPACE, wait_for, wait_until};
use larder_tests::stub::pattern;
use serde_json::Value;

use super::world::{PODS_WITHIN, World};

#[test]
#[ignore = "needs kubelets: make test-k8s"]
fn installed_fresh_pods_on_every_node_read_what_the_bucket_has() {
    let world = World::begin();
    let files = [("a", 1), ("deep/er/b", 4 << 20), ("c", 9_000_001)];
    for (name, size) in files {
        world.stub.put_pattern(&format!("llm/{name}"), 1, size);
    }
    world.apply_example();
    for node in ["n1", "n2", "n3"] {
        let pod = world.reader(node);
        for (name, size) in files {
            let mut wanted = vec![0; usize::try_from(size).expect("small")];
            pattern::fill(&format!("llm/{name}"), 1, 0, &mut wanted);
            assert_eq!(world.sha256_in(&pod, &format!("/data/models/{name}")), sha256(&wanted), "{name} on {node}");
        }
    }
    agents_without_rights_say_that_the_kernel_takes_no_files(&world);
    for kind in ["cc", "cv", "cn"] {
        println!("{}", world.kubectl().run(&["get", kind, "-o", "wide"]).out());
    }
    applying_twice_changes_nothing(&world);
    kubectl_says_what_people_ask(&world);
    the_plugin_says_the_rest(&world);
    metrics_are_reached_as_the_documents_say(&world);
}

fn metrics_are_reached_as_the_documents_say(world: &World) {
    let agent = format!("pod/{}", world.agent_pod("n1"));
    let asked = [
        (&["-n", NAMESPACE, "deployment/larder-operator"][..], 8080, "controller_runtime_reconcile_total"),
        (&[agent.as_str()][..], 7711, "larder_map_epoch"),
    ];
    for (whom, port, metric) in asked {
        let (mut forward, local) = world.kubectl().port_forward(whom, port);
        let text = wait_for(PODS_WITHIN, metric, || get(local, "/metrics").filter(|text| text.contains(metric)));
        assert!(text.contains("200 OK"), "{text}");
        // It ends with us in any case.
        let _ = forward.kill();
        let _ = forward.wait();
    }
    let said = world.kubectl().run(&["wait", "cc", "--all", "-A", "--for=condition=Ready", "--timeout=0s"]).out();
    assert!(said.contains("condition met"), "{said}");
}

/// What a server of this machine answers.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn agents_without_rights_say_that_the_kernel_takes_no_files(world: &World) {
    wait_until(Duration::from_secs(60), "every node's status has the reason", || {
        let query = "-o=jsonpath={.items[*].status.passthrough}";
        world.kubectl().run(&["get", "cn", query]).out() == ["NoCapability"; 3].join(" ")
    });
}

fn applying_twice_changes_nothing(world: &World) {
    let kinds = [
        "cc/fast",
        "cv/models",
        "secret/models-keys",
        "configmap/fast-nvme",
        "configmap/fast-map",
        "daemonset/fast-nvme",
    ];
    let generations = || {
        let query = "-o=jsonpath={range .items[*]}{.kind} {.metadata.generation} {end}";
        world.kubectl().run(&[&["get", query][..], &kinds].concat()).out()
    };
    let version = |what: &str| world.kubectl().run(&["get", what, "-o=jsonpath={.metadata.resourceVersion}"]).out();
    let stable = [
        "secret/models-keys",
        "configmap/fast-nvme",
        "configmap/fast-map",
        "daemonset/fast-nvme",
        "service/fast-authority",
    ];
    let versions = || stable.map(version);
    let before = (generations(), versions());
    // What people write into a Secret as text is never what is there.
    for document in world.example().into_iter().filter(|document| document["kind"] != "Secret") {
        let text = document.to_string();
        let said = world.kubectl().with_input(&["apply", "-f", "-"], &text).out();
        assert!(said.contains("unchanged"), "{said}");
        let differs = world.kubectl().with_input(&["diff", "-f", "-"], &text);
        assert!(differs.ok && differs.out.is_empty(), "{}{}", differs.out, differs.err);
    }
    // Everything is applied anew after a change of something else.
    world.kubectl().run(&["label", "node", "n1", "touched=yes"]).out();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!((generations(), versions()), before);
}

fn kubectl_says_what_people_ask(world: &World) {
    let described = world.kubectl().run(&["describe", "cc", "fast"]).out();
    for words in ["Cache Id:", "default/fast", "Serving", "EnoughNodes"] {
        assert!(described.contains(words), "{words} is missing:\n{described}");
    }
    let table = world.kubectl().run(&["get", "cc", "fast", "-o", "wide"]).out();
    assert!(table.contains("3/3") && table.contains("Serving"), "{table}");
    let all = world.kubectl().run(&["get", "larder"]).out();
    assert!(all.contains("cachecluster.larder.dev/fast") && all.contains("cachevolume.larder.dev/models"), "{all}");
    let bad = r#"{"spec":{"replicas":5}}"#;
    let refused = world.kubectl().try_run(&["patch", "cc", "fast", "--type=merge", "--dry-run=server", "-p", bad]);
    assert!(!refused.ok && refused.err.contains("replicas"), "{}", refused.err);
}

fn the_plugin_says_the_rest(world: &World) {
    let plugin = |arguments: &[&str]| world.kubectl().own(&program("kubectl-larder"), arguments);
    let status = plugin(&["status"]).out();
    assert!(status.contains("Serving") && status.contains("s3://bucket/llm"), "{status}");
    println!("{status}");
    assert_eq!(plugin(&["nodes"]).out().lines().filter(|line| line.starts_with("fast.n")).count(), 3);
    let volumes: Value = serde_json::from_str(&plugin(&["volumes", "-o", "json"]).out()).expect("JSON");
    assert_eq!(volumes["items"][0]["metadata"]["name"], "models");
    let map: Value = serde_json::from_str(&plugin(&["map", "--cluster", "fast"]).out()).expect("JSON");
    assert_eq!(map["nodes"].as_array().map(Vec::len), Some(3));
    let nobody = plugin(&["map", "--cluster", "nobody"]);
    assert!(!nobody.ok && nobody.err.contains("default/nobody not found"), "{}", nobody.err);
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = folder.path().join("report");
    let said = plugin(&["report", &bundle.display().to_string()]).out();
    assert!(!said.contains("not in it"), "{said}");
    let mut logs = 0;
    for entry in std::fs::read_dir(&bundle).expect("made") {
        let path = entry.expect("readable").path();
        let text = std::fs::read_to_string(&path).expect("a text");
        assert!(!text.contains(world.stub.secret_key()), "{} holds a secret", path.display());
        logs += usize::from(path.extension().is_some_and(|extension| extension == "log") && !text.is_empty());
    }
    assert!(logs >= 11, "{logs} logs: three agents, two operators, three that mount, three CSI plugins");
}
