//! An origin that misbehaves (docs/FAULTS.md, row 12): right bytes, few retries, and every fault counted as having happened.

use std::thread;
use std::time::Duration;

use larder_tests::harness::{Cluster, MINUTE, SOON, VolumeSpec, errno, list, within};
use larder_tests::stub::{FaultAction, FaultHandle, FaultOp, FaultRule, StubS3, pattern};
use nix::errno::Errno;

const CHUNK: u64 = 64 * 1024;
const CHUNKS: u64 = 40;

/// Name, what goes wrong, and how often: few enough that no circuit opens and retries stay within a tenth.
fn faults() -> Vec<(&'static str, FaultAction, u64)> {
    vec![
        ("503", FaultAction::Status { code: 503 }, 2),
        ("429", FaultAction::Status { code: 429 }, 2),
        ("500", FaultAction::Status { code: 500 }, 2),
        ("reset", FaultAction::Reset { after_bytes: 10_000 }, 2),
        ("reset-at-once", FaultAction::Reset { after_bytes: 0 }, 2),
        ("short-body", FaultAction::ShortBody { after_bytes: 50_000 }, 2),
        ("wrong-length", FaultAction::WrongLength { missing_bytes: 100 }, 2),
        ("wrong-etag", FaultAction::WrongEtag, 2),
        ("drip", FaultAction::Drip { bytes_per_s: 500 }, 1),
        ("error-body", FaultAction::ErrorBody, 2),
        ("timeout", FaultAction::Hang, 1),
        ("late", FaultAction::Delay { ms: 800 }, 2),
    ]
}

#[test]
fn bytes_are_right_and_retries_few_whatever_the_origin_does() {
    let stub = StubS3::builder().start_blocking().unwrap();
    let mut rules: Vec<(&str, FaultHandle)> = Vec::new();
    for (number, (name, action, times)) in faults().into_iter().enumerate() {
        stub.put_pattern(name, 1, CHUNKS * CHUNK);
        // Spread, so that no three failures follow each other on the way to the one origin.
        let rule = FaultRule::new(action).op(FaultOp::Get).key(name).after(2 + number as u64 % 7).times(times);
        rules.push((name, stub.fault(rule)));
    }
    let cluster = Cluster::builder().volume(VolumeSpec::s3("data", &stub).chunk_size("64Ki")).up();

    let readers: Vec<_> = rules
        .iter()
        .enumerate()
        .map(|(number, (name, _))| {
            let node = format!("n{}", number % 3 + 1);
            let (file, name) = (cluster.mount(&node, "data").join(name), (*name).to_owned());
            thread::spawn(move || {
                let bytes = std::fs::read(&file).unwrap_or_else(|e| panic!("{name} on {node}: {e}"));
                assert_eq!(bytes.len() as u64, CHUNKS * CHUNK, "{name}");
                pattern::check_version(&name, 1, 0, &bytes).unwrap_or_else(|e| panic!("{name} on {node}: {e}"));
            })
        })
        .collect();
    within(MINUTE, "all readers end", move || readers.into_iter().for_each(|reader| reader.join().unwrap()));

    for (name, rule) in &rules {
        assert!(rule.hits() > 0, "{name} never happened");
    }
    let counters = stub.counters();
    assert!(counters.get_amplification() <= 1.1, "{} GETs: {}", counters.gets, counters.get_amplification());
    assert!(counters.byte_amplification() <= 1.1, "{}", counters.byte_amplification());
    assert!(cluster.sum("larder_origin_retries_total", &[]) > 0);
}

/// What was cached before the trouble is served through it, and the retries against a dead origin stay bounded.
#[test]
fn cached_data_is_served_through_an_outage_that_retries_do_not_worsen() {
    let stub = StubS3::builder().start_blocking().unwrap();
    stub.put_pattern("cached", 1, CHUNKS * CHUNK);
    stub.put_pattern("not-cached", 1, CHUNKS * CHUNK);
    let volume = VolumeSpec::s3("data", &stub).chunk_size("64Ki").read_deadline("2s");
    let cluster = Cluster::builder().volume(volume).up();
    let dir = cluster.mount("n1", "data");
    assert_eq!(within(SOON, "a listing", move || list(&dir).unwrap()).len(), 2);
    pattern::check_version("cached", 1, 0, &cluster.read("n1", "data", "cached").unwrap()).unwrap();

    let outage = stub.fault(FaultRule::new(FaultAction::Status { code: 503 }));
    stub.reset_counters();
    for _ in 0..20 {
        let bytes = cluster.read("n2", "data", "cached").expect("cached data is served");
        pattern::check_version("cached", 1, 0, &bytes).unwrap();
        let error = cluster.read("n3", "data", "not-cached").expect_err("the origin refuses everything");
        assert_eq!(errno(&error), Errno::EIO);
        if outage.hits() > 0 && stub.counters().faulted > 10 {
            break;
        }
    }
    let asked = stub.counters().faulted;
    assert!(outage.hits() > 0, "the outage was met");
    assert!(asked < 200, "{asked} requests to an origin that is down: the circuit holds them back");

    outage.remove();
    let what = "the origin is asked again";
    larder_tests::harness::wait_until(MINUTE, what, || {
        cluster.read("n3", "data", "not-cached").is_ok_and(|b| pattern::check_version("not-cached", 1, 0, &b).is_ok())
    });
}

/// Listings and look-ups fail as reads do: repeated, bounded, never a wrong or half answer.
#[test]
fn listings_survive_a_stumbling_origin() {
    let stub = StubS3::builder().start_blocking().unwrap();
    for number in 0..2_500 {
        stub.put(&format!("dir/{number:04}"), "x");
    }
    let rules = stub.faults([
        FaultRule::new(FaultAction::Status { code: 503 }).op(FaultOp::List).after(1).times(1),
        FaultRule::new(FaultAction::ErrorBody).op(FaultOp::List).after(2).times(1),
        FaultRule::new(FaultAction::ShortBody { after_bytes: 1_000 }).op(FaultOp::List).after(3).times(1),
    ]);
    let cluster = Cluster::builder().volume(VolumeSpec::s3("data", &stub)).up();
    for node in cluster.node_names() {
        let dir = cluster.mount(&node, "data").join("dir");
        assert_eq!(within(Duration::from_secs(30), "a listing", move || list(&dir).unwrap()).len(), 2_500, "{node}");
    }
    assert!(rules.iter().all(|rule| rule.hits() > 0), "{:?}", rules.iter().map(FaultHandle::hits).collect::<Vec<_>>());
}
