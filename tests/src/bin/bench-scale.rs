//! `make bench-scale`: the map of 5,000 nodes with 16 stores each, in 3 zones, planned, sent, applied and kept.
//!
//! Each figure is the median of a few rounds, printed beside its limit. The last line is for machines; a figure above
//! its limit fails. Stores enter the map as their node's weight: 16 stores of 1 TiB each here.

use std::process::ExitCode;
use std::time::Instant;

use larder_proto::ids::{ClusterId, Epoch, NodeId, NodeName, Slot};
use larder_proto::map::{ClusterMap, MapDelta, MapKey, Node, NodeState, Ports, SignedMap, TrustedKeys};
use larder_proto::placement::{Facts, NodeFact, next_map};
use rcgen::{KeyPair, PublicKeyData};

const NODES: u32 = 5_000;
const ZONES: u32 = 3;
/// 16 stores of 1 TiB, in GiB.
const WEIGHT: u32 = 16 * 1024;
const WIDTH: u32 = 3;
const ROUNDS: usize = 5;
/// Long after everybody has joined.
const LATER_MS: u64 = 1_000_000;

const PLAN_MS_MAX: f64 = 200.0;
const APPLY_MS_MAX: f64 = 20.0;
const FULL_KIB_MAX: f64 = 256.0;
const DELTA_KIB_MAX: f64 = 4.0;

fn main() -> ExitCode {
    let mut figures = Figures::default();
    let mut facts = Facts {
        over: Default::default(),
        cluster: ClusterId::of("bench/scale"),
        epoch_floor: Epoch(0),
        width: WIDTH,
        min_nodes: 1,
        nodes: (1..=NODES).map(node).collect(),
    };
    let (first_ms, map) = plan(None, &facts, 1);
    figures.show("the first map", first_ms, "ms", None);
    let key = KeyPair::generate().expect("entropy");
    let keys = TrustedKeys::from_spkis([key.subject_public_key_info()]);
    let key = MapKey::from_pkcs8(key.serialized_der()).expect("P-256");

    facts.nodes.push(node(NODES + 1));
    let (ms, joined) = plan(Some(&map), &facts, ROUNDS);
    figures.show("the next map after one join", ms, "ms", Some(PLAN_MS_MAX));
    figures.show("slots moved by it, of the ideal", moved_of_ideal(&map, &joined), "x", Some(1.1));
    on_the_wire(&mut figures, "one join", &map, &joined, (&key, &keys), Some(DELTA_KIB_MAX));

    for fact in facts.nodes.iter_mut().filter(|fact| fact.node.id.0 % ZONES == 0) {
        fact.node.state = NodeState::Suspect;
    }
    let (ms, suspect) = plan(Some(&joined), &facts, ROUNDS);
    figures.show("the next map, one zone Suspect", ms, "ms", Some(PLAN_MS_MAX));
    for fact in facts.nodes.iter_mut().filter(|fact| fact.node.id.0 % ZONES == 0) {
        fact.node.state = NodeState::Down;
    }
    let (ms, lost) = plan(Some(&suspect), &facts, ROUNDS);
    figures.show("the next map, one zone lost", ms, "ms", Some(PLAN_MS_MAX));
    on_the_wire(&mut figures, "one zone lost", &suspect, &lost, (&key, &keys), None);
    memory(&mut figures, &lost);
    println!("bench-scale: {}", if figures.failed == 0 { "ok" } else { "above a limit" });
    if figures.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Figures above their limits.
#[derive(Default)]
struct Figures {
    failed: usize,
}

impl Figures {
    fn show(&mut self, what: &str, value: f64, unit: &str, max: Option<f64>) {
        let limit = max.map_or(String::new(), |max| format!("at most {max} {unit}"));
        let verdict = if max.is_some_and(|max| value > max) { "  ABOVE" } else { "" };
        self.failed += usize::from(!verdict.is_empty());
        println!("{what:<46} {value:>10.2} {unit:<4} {limit}{verdict}");
    }
}

fn node(id: u32) -> NodeFact {
    let name = format!("ip-10-{}-{}-{}.eu-west-1.compute.internal", id / 62_500, id / 250 % 250, id % 250);
    let octet = |n: u32| u8::try_from(n).expect("below 250");
    let node = Node {
        id: NodeId(id),
        name: NodeName::parse(&name).expect("a name"),
        addresses: vec![[10, octet(id / 62_500), octet(id / 250 % 250), octet(id % 250)].into()],
        ports: Ports { peer: 7710, s3: 7711, redis: 0 },
        domain: format!("eu-west-1{}", ["a", "b", "c"][usize::try_from(id % ZONES).expect("below 3")]).into(),
        weight: WEIGHT,
        state: NodeState::Serving,
    };
    NodeFact { node, joined_ms: 0 }
}

/// The median of the rounds, in milliseconds.
fn median<T>(rounds: usize, mut work: impl FnMut() -> T) -> (f64, T) {
    let mut round = || {
        let began = Instant::now();
        let done = work();
        (began.elapsed().as_secs_f64() * 1000.0, done)
    };
    let (first, mut done) = round();
    let mut times = vec![first];
    for _ in 1..rounds {
        let (ms, next) = round();
        times.push(ms);
        done = next;
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], done)
}

fn plan(current: Option<&ClusterMap>, facts: &Facts, rounds: usize) -> (f64, ClusterMap) {
    median(rounds, || next_map(current, facts, LATER_MS).expect("a map can say it").expect("something changed"))
}

fn moved_of_ideal(before: &ClusterMap, after: &ClusterMap) -> f64 {
    let new = |slot| after.owners(slot).iter().filter(|owner| !before.owners(slot).contains(owner)).count();
    let moved: usize = Slot::all().map(new).sum();
    let quota = (f64::from(WIDTH) * 16_384.0 / f64::from(NODES + 1)).ceil();
    f64::from(u32::try_from(moved).expect("at most all")) / quota
}

fn on_the_wire(
    figures: &mut Figures,
    what: &str,
    before: &ClusterMap,
    after: &ClusterMap,
    (key, keys): (&MapKey, &TrustedKeys),
    delta_kib_max: Option<f64>,
) {
    let (ms, signed) = median(ROUNDS, || SignedMap::sign(after, key).expect("small"));
    figures.show(&format!("{what}: signing and packing"), ms, "ms", None);
    let full = signed.encode();
    figures.show(&format!("{what}: the whole map"), kib(full.len()), "KiB", Some(FULL_KIB_MAX));
    let (ms, delta) = median(ROUNDS, || MapDelta::between(before, after, &signed).encode().expect("small"));
    figures.show(&format!("{what}: making the delta"), ms, "ms", None);
    figures.show(&format!("{what}: the delta"), kib(delta.len()), "KiB", delta_kib_max);
    let whole = || SignedMap::decode(full.clone()).and_then(|signed| signed.verify(keys)).expect("ours");
    let (ms, map) = median(ROUNDS, whole);
    assert!(map == *after, "the whole map says what it was made of");
    figures.show(&format!("{what}: an agent applies the whole map"), ms, "ms", Some(APPLY_MS_MAX));
    let apply = || MapDelta::decode(delta.clone()).and_then(|delta| delta.apply(before, keys)).expect("ours");
    let (ms, (map, _)) = median(ROUNDS, apply);
    assert!(map == *after, "the delta leads to the map that it was made for");
    figures.show(&format!("{what}: an agent applies the delta"), ms, "ms", Some(APPLY_MS_MAX));
}

/// What one map takes in memory: several are held, and the process's resident memory compared.
fn memory(figures: &mut Figures, map: &ClusterMap) {
    const HELD: usize = 16;
    let before = resident_kib();
    let held: Vec<ClusterMap> = (0..HELD).map(|_| map.clone()).collect();
    let (Some(before), Some(after)) = (before, resident_kib()) else { return };
    figures.show("memory of a map", (after - before) / held.len() as f64, "KiB", None);
}

fn resident_kib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().trim_end_matches(" kB").parse().ok()
}

fn kib(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes).expect("below 4 GiB")) / 1024.0
}
