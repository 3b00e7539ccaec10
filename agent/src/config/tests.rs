use super::*;

const GOOD: &str = "
node: n1
cluster: 75f83916-399c-5d55-ab38-eab123e3805f
cacheId: default/demo
authority: 127.0.0.1:7700
trust: /d/trust.pem
token: /d/token
state: /d/n1/agent
address: 127.0.0.1
ports: {peer: 0, admin: 7711}
domain: a
stores:
- {name: d0, path: /d/n1/d0, capacityBytes: 1073741824}
mounts: /d/n1/mnt
";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("/d/agent.yaml"), text, &Overrides::default()).map_err(|error| error.to_string())
}

#[test]
fn the_documented_file_is_read() {
    let config = parse(GOOD).expect("good");
    assert_eq!(config.node.as_str(), "n1");
    assert_eq!((config.ports.peer, config.ports.admin), (0, 7711));
    assert_eq!((config.watermarks.high, config.watermarks.low), (90, 80));
    assert_eq!(config.stores[0].capacity, Capacity::Bytes(1 << 30));
    assert_eq!(config.log_level, LogLevel::Info);
    assert_eq!(config.memory_bytes, None);
}

#[test]
fn each_mistake_is_one_line_that_names_the_field() {
    let cases = [
        ("node: n1", "node: N_1", "node"),
        ("node: n1", "nude: n1", "nude"),
        ("capacityBytes: 1073741824", "capacityPercent: 100", "capacityPercent"),
        ("capacityBytes: 1073741824", "reserveBytes: 1", "capacityPercent"),
        ("authority: 127.0.0.1:7700", "authority: somewhere", "authority"),
        ("cluster: 75f83916-399c-5d55-ab38-eab123e3805f", "cluster: demo", "cluster"),
        ("capacityBytes: 1073741824", "capacityBytes: lots", "capacityBytes"),
        ("capacityBytes: 1073741824", "capacityBytes: 0", "capacityBytes"),
        ("peer: 0", "peer: 70000", "peer"),
        ("address: 127.0.0.1", "address: localhost", "address"),
        ("mounts: /d/n1/mnt", "mounts: mnt", "mounts"),
        ("domain: a", "domain: a\nwatermarks: {high: 80, low: 90}", "watermarks"),
        ("domain: a", "domain: a\nlogLevel: loud", "logLevel"),
    ];
    for (good, bad, field) in cases {
        let message = parse(&GOOD.replace(good, bad)).expect_err(bad);
        assert!(message.contains(field), "{bad}: {message}");
        assert!(message.starts_with("/d/agent.yaml: "), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn stores_have_their_own_names_and_paths() {
    let two = |second: &str| GOOD.replace("mounts:", &format!("- {second}\nmounts:"));
    let names = parse(&two("{name: d0, path: /d/n1/d1, capacityBytes: 1}")).expect_err("one name");
    assert_eq!(names, "/d/agent.yaml: stores: two stores have the name d0");
    let paths = parse(&two("{name: d1, path: /d/n1/d0, capacityBytes: 1}")).expect_err("one path");
    assert_eq!(paths, "/d/agent.yaml: stores: two stores have the path /d/n1/d0");
}

#[test]
fn a_pools_file_is_completed_by_the_command_line() {
    let text = GOOD.replace("node: n1\n", "").replace("address: 127.0.0.1\n", "").replace("domain: a\n", "");
    let overrides = Overrides { node: Some("n7".into()), address: Some("10.0.0.7".into()) };
    let config = Config::parse(Path::new("/d/agent.yaml"), &text, &overrides).expect("good");
    assert_eq!((config.node.as_str(), config.address.to_string().as_str(), &*config.domain), ("n7", "10.0.0.7", ""));
    let overrides = Overrides { node: Some("N_7".into()), ..overrides };
    let error = Config::parse(Path::new("/d/agent.yaml"), &text, &overrides).expect_err("not a name").to_string();
    assert!(error.contains("node") && error.contains("N_7"), "{error}");
}

#[test]
fn a_percentage_never_takes_the_reserve() {
    let store = |capacity: &str| {
        let config = parse(&GOOD.replace("capacityBytes: 1073741824", capacity)).expect("good");
        config.stores[0].bytes_of(1_000)
    };
    assert_eq!(store("capacityPercent: 90"), Ok(900));
    assert_eq!(store("capacityPercent: 90, reserveBytes: 300"), Ok(700));
    assert_eq!(store("capacityBytes: 700, reserveBytes: 300"), Ok(700));
    assert_eq!(store("capacityBytes: 701, reserveBytes: 300"), Err(700));
}
