//! Agents are replaced one at a time while pods read; an image that doesn't exist stops it at the first one.

use std::time::{Duration, Instant};

use larder_tests::harness::wait_until;
use larder_tests::kit::NAMESPACE;
use serde_json::Value;

use super::readers::Readers;
use super::world::{PODS_WITHIN, World, repository};

/// For three agents, one after the other.
const ROLLED_WITHIN: Duration = Duration::from_secs(300);

/// An agent's pod: its image, whether it is Ready, its digest.
fn agents(world: &World) -> Vec<(String, bool, String)> {
    let listed = world.kubectl().run(&["get", "pods", "-l", "larder.dev/cluster=fast", "-o", "json"]).out();
    let listed: Value = serde_json::from_str(&listed).expect("kubectl prints JSON");
    let pods = listed["items"].as_array().cloned().unwrap_or_default();
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let about = |pod: &Value| {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let is_ready = conditions.iter().any(|found| found["type"] == "Ready" && found["status"] == "True");
        let is_ending = pod.pointer("/metadata/deletionTimestamp").is_some();
        let digest = text(pod["metadata"]["annotations"].get("larder.dev/template"));
        (text(pod.pointer("/spec/containers/0/image")), is_ready && !is_ending, digest)
    };
    pods.iter().map(about).collect()
}

fn upgrading(world: &World) -> (String, String) {
    let cluster = world.kubectl().get("cc", "fast").expect("there");
    let conditions = cluster["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == "Upgrading").cloned().unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

/// Waits until `done`, and asserts that never more than one agent is missing meanwhile.
fn roll(world: &World, what: &str, done: impl Fn(&[(String, bool, String)]) -> bool) {
    let until = Instant::now() + ROLLED_WITHIN;
    let mut most = 0;
    loop {
        let agents = agents(world);
        let ready = agents.iter().filter(|(_, is_ready, _)| *is_ready).count();
        most = most.max(3_usize.saturating_sub(ready));
        assert!(ready >= 2, "{what}: {agents:?}");
        if ready == 3 && agents.len() == 3 && done(&agents) {
            break;
        }
        assert!(Instant::now() < until, "{what}: {agents:?} {:?}\n{}", upgrading(world), world.told());
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(most, 1, "{what}: agents were replaced at all");
    wait_until(PODS_WITHIN, "it is said", || upgrading(world) == ("False".into(), "UpToDate".into()));
}

fn upgrade(world: &World, image: &str) {
    let (chart, set) = (repository().join("charts/larder").display().to_string(), format!("images.agent={image}"));
    let arguments = ["upgrade", "larder", &chart, "-n", NAMESPACE, "--set", &set, "--wait", "--timeout=180s"];
    let said = world.kubectl().helm(&arguments);
    assert!(said.ok, "{}{}\n{}", said.out, said.err, world.told());
}

#[test]
#[ignore = "needs kubelets: make test-k8s"]
fn agents_are_replaced_one_at_a_time_while_pods_read() {
    let world = World::begin();
    Readers::fill(&world);
    world.apply_example();
    let nodes = ["n1", "n2", "n3"];
    let readers = Readers::start(&world, &nodes);
    let all_have = |agents: &[(String, bool, String)], image: &str| agents.iter().all(|(found, _, _)| found == image);

    upgrade(&world, "larder-agent:next");
    roll(&world, "another image", |agents| all_have(agents, "larder-agent:next"));
    readers.wait_for_progress(&world);

    // What agents read at their start: they must be started again to know it.
    let before = agents(&world)[0].2.clone();
    let patch = r#"{"spec":{"watermarks":{"high":95,"low":85}}}"#;
    world.kubectl().run(&["patch", "cc", "fast", "--type=merge", "-p", patch]).out();
    roll(&world, "other watermarks", |agents| agents.iter().all(|(_, _, digest)| *digest != before));
    readers.wait_for_progress(&world);

    upgrade(&world, "larder-agent:missing");
    let is_bad = |agent: &(String, bool, String)| agent.0 == "larder-agent:missing";
    wait_until(PODS_WITHIN, "the first agent has an image that isn't there", || agents(&world).iter().any(is_bad));
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        let agents = agents(&world);
        assert!(agents.iter().filter(|agent| is_bad(agent)).count() == 1, "{agents:?}");
        assert!(agents.iter().filter(|(_, is_ready, _)| *is_ready).count() == 2, "{agents:?}");
        std::thread::sleep(Duration::from_secs(1));
    }
    assert_eq!(upgrading(&world), ("True".into(), "RollingOut".into()));
    upgrade(&world, "larder-agent:next");
    roll(&world, "back again", |agents| all_have(agents, "larder-agent:next"));
    world.wait_ready();
    readers.wait_for_progress(&world);
    let own = readers.assert_undisturbed(&world, &nodes);
    let is_allowed = |line: &String| line.contains("not connected") || line.contains("No such file");
    assert!(own.iter().all(is_allowed), "{own:?}");
}
