//! Agents are replaced one at a time while pods read; an image that doesn't exist stops it at the first one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use larder_tests::kit::{NAMESPACE, wait_until};
use serde_json::Value;

use super::readers::Readers;
use super::world::{PODS_WITHIN, World, repository};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// For three agents, one after the other.
const ROLLED_WITHIN: Duration = Duration::from_secs(300);

/// A node's reader may fail for so long before its agent is seen to end, and after its next one is seen to be Ready.
const AROUND_S: u64 = 5;

/// An agent's pod.
#[derive(Debug)]
struct Agent {
    node: String,
    image: String,
    is_ready: bool,
    digest: String,
}

/// When each node was seen without an agent that is Ready, in seconds since 1970.
#[derive(Default)]
struct Absences(BTreeMap<String, Vec<u64>>);

impl Absences {
    fn see(&mut self, agents: &[Agent]) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let ready = |node: &str| agents.iter().any(|agent| agent.node == node && agent.is_ready);
        for node in NODES.into_iter().filter(|node| !ready(node)) {
            self.0.entry(node.to_owned()).or_default().push(now);
        }
    }

    /// Reads failed on a node only while its own agent was away.
    fn assert_explain(&self, world: &World, readers: &Readers) {
        for node in NODES {
            let away = self.0.get(node).map_or(&[][..], Vec::as_slice);
            let failed = readers.failed_at(world, node);
            let unexplained: Vec<&u64> =
                failed.iter().filter(|at| !away.iter().any(|away| away.abs_diff(**at) <= AROUND_S)).collect();
            println!("reader on {node}: {} reads failed, its agent was away at {} looks", failed.len(), away.len());
            assert!(unexplained.is_empty(), "{node}: {unexplained:?}, away at {away:?}");
        }
    }
}

fn agents(world: &World) -> Vec<Agent> {
    let listed = world.kubectl().run(&["get", "pods", "-l", "larder.dev/cluster=fast", "-o", "json"]).out();
    let listed: Value = serde_json::from_str(&listed).expect("kubectl prints JSON");
    let pods = listed["items"].as_array().cloned().unwrap_or_default();
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let about = |pod: &Value| {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let is_ready = conditions.iter().any(|found| found["type"] == "Ready" && found["status"] == "True");
        let is_ending = pod.pointer("/metadata/deletionTimestamp").is_some();
        let digest = text(pod["metadata"]["annotations"].get("larder.dev/template"));
        Agent {
            node: text(pod.pointer("/spec/nodeName")),
            image: text(pod.pointer("/spec/containers/0/image")),
            is_ready: is_ready && !is_ending,
            digest,
        }
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
fn roll(world: &World, away: &mut Absences, what: &str, done: impl Fn(&Agent) -> bool) {
    let until = Instant::now() + ROLLED_WITHIN;
    let mut most = 0;
    loop {
        let agents = agents(world);
        away.see(&agents);
        let ready = agents.iter().filter(|agent| agent.is_ready).count();
        most = most.max(3_usize.saturating_sub(ready));
        assert!(ready >= 2, "{what}: {agents:?}");
        if ready == 3 && agents.len() == 3 && agents.iter().all(&done) {
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
    let readers = Readers::start(&world, &NODES);
    wait_until(PODS_WITHIN, "every agent is Ready", || agents(&world).iter().all(|agent| agent.is_ready));
    let mut away = Absences::default();

    let upgraded = std::thread::scope(|scope| {
        let upgraded = scope.spawn(|| upgrade(&world, "larder-agent:next"));
        roll(&world, &mut away, "another image", |agent| agent.image == "larder-agent:next");
        upgraded.join()
    });
    upgraded.expect("helm ends well");
    readers.wait_for_progress(&world);

    // What agents read at their start: they must be started again to know it.
    let before = agents(&world)[0].digest.clone();
    let patch = r#"{"spec":{"watermarks":{"high":95,"low":85}}}"#;
    world.kubectl().run(&["patch", "cc", "fast", "--type=merge", "-p", patch]).out();
    roll(&world, &mut away, "other watermarks", |agent| agent.digest != before);
    readers.wait_for_progress(&world);

    std::thread::scope(|scope| {
        scope.spawn(|| upgrade(&world, "larder-agent:missing"));
        stops_at_the_first(&world, &mut away);
    });
    std::thread::scope(|scope| {
        scope.spawn(|| upgrade(&world, "larder-agent:next"));
        roll(&world, &mut away, "back again", |agent| agent.image == "larder-agent:next");
    });
    world.wait_ready();
    readers.wait_for_progress(&world);
    readers.assert_undisturbed(&world, &NODES);
    away.assert_explain(&world, &readers);
}

/// An image that isn't there takes one agent, and no other.
fn stops_at_the_first(world: &World, away: &mut Absences) {
    let is_bad = |agent: &Agent| agent.image == "larder-agent:missing";
    let mut see = || {
        let agents = agents(world);
        away.see(&agents);
        agents
    };
    wait_until(PODS_WITHIN, "the first agent has an image that isn't there", || see().iter().any(is_bad));
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        let agents = see();
        assert!(agents.iter().filter(|agent| is_bad(agent)).count() == 1, "{agents:?}");
        assert!(agents.iter().filter(|agent| agent.is_ready).count() == 2, "{agents:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(upgrading(world), ("True".into(), "RollingOut".into()));
}
