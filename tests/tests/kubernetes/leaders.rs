//! Two operators, and one that is killed again and again.

use larder_tests::harness::MINUTE;
use larder_tests::kit::{FaultyServer, Kubectl, NAMESPACE, Operator, wait_until};

use super::{condition, pods, repository, three_nodes, wait_for_reason, with_crds};

fn holder(kubectl: &Kubectl) -> Option<String> {
    let lease = kubectl.get_in(NAMESPACE, "lease", "larder-operator")?;
    let holder = lease["spec"]["holderIdentity"].as_str()?.to_owned();
    (!holder.is_empty()).then_some(holder)
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn one_leads_and_the_other_takes_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = with_crds(folder.path());
    three_nodes(&plane);
    let kubectl = plane.kubectl();
    let first = Operator::start(&plane, "first");
    wait_until(MINUTE, "the first leads", || first.log().contains("this replica leads"));
    let second = Operator::start(&plane, "second");
    wait_until(MINUTE, "the second waits", || second.log().contains("waiting for the lease"));
    let led = holder(kubectl).expect("somebody leads");
    let file = repository().join("examples/s3.yaml");
    kubectl.run(&["apply", "-f", &file.display().to_string()]).out();
    wait_for_reason(kubectl, "cc", "fast", "WaitingForNodes");
    assert!(!second.log().contains("this replica leads"), "{}", second.log());
    first.kill();
    wait_until(MINUTE, "the second leads", || holder(kubectl).is_some_and(|now| now != led));
    let scaled = r#"{"spec":{"minNodes":2}}"#;
    kubectl.run(&["patch", "cc", "fast", "--type=merge", "-p", scaled]).out();
    wait_until(MINUTE, "and works", || {
        kubectl.get("cc", "fast").is_some_and(|cc| cc["status"]["observedGeneration"] == cc["metadata"]["generation"])
    });
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn killed_at_many_points_it_converges() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = with_crds(folder.path());
    three_nodes(&plane);
    let kubectl = plane.kubectl();
    let file = repository().join("examples/s3.yaml");
    kubectl.run(&["apply", "-f", &file.display().to_string()]).out();
    for life in 0..10_u64 {
        // Nobody holds the lease, so that each life comes as far as its time allows.
        kubectl.run(&["delete", "lease", "larder-operator", "-n", NAMESPACE, "--ignore-not-found"]).out();
        let operator = Operator::start(&plane, "killed");
        std::thread::sleep(std::time::Duration::from_millis(100 + life * 70));
        operator.kill();
    }
    kubectl.run(&["delete", "lease", "larder-operator", "-n", NAMESPACE, "--ignore-not-found"]).out();
    let _operator = Operator::start(&plane, "last");
    wait_for_reason(kubectl, "cc", "fast", "WaitingForNodes");
    wait_until(MINUTE, "a pod on each node", || pods(kubectl, "larder.dev/cluster=fast").len() == 3);
}

#[test]
#[ignore = "needs the kit: make test-k8s"]
fn an_api_server_in_bad_shape_delays_and_breaks_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = with_crds(folder.path());
    three_nodes(&plane);
    let kubectl = plane.kubectl();
    let server = FaultyServer::start(&plane);
    let operator = Operator::start_with(&plane, "faulty", &server.kubeconfig(folder.path()));
    let file = repository().join("examples/s3.yaml");
    kubectl.run(&["apply", "-f", &file.display().to_string()]).out();
    let reason = || {
        let cluster = kubectl.get("cc", "fast").unwrap_or_default();
        condition(&cluster, "Ready").map(|(_, reason, _)| reason).unwrap_or_default()
    };
    let done = || reason() == "WaitingForNodes" && pods(kubectl, "larder.dev/cluster=fast").len() == 3;
    let until = std::time::Instant::now() + MINUTE * 4;
    while !done() {
        assert!(std::time::Instant::now() < until, "{} faults: {}\n{}", server.injected(), reason(), operator.log());
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    assert!(server.injected() > 10, "{} faults", server.injected());
    println!("{} requests failed by the kit", server.injected());
    server.recover();
    let scaled = r#"{"spec":{"minNodes":2}}"#;
    kubectl.run(&["patch", "cc", "fast", "--type=merge", "-p", scaled]).out();
    wait_until(MINUTE * 2, "and goes on when it is well", || {
        kubectl.get("cc", "fast").is_some_and(|cc| cc["status"]["observedGeneration"] == cc["metadata"]["generation"])
    });
    assert!(!operator.log().contains("panicked"), "{}", operator.log());
}
