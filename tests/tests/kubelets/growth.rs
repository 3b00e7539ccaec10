//! Nodes that come, are cordoned and drained by kubectl, and go.

use larder_tests::harness::program;
use larder_tests::kit::wait_until;

use super::readers::Readers;
use super::world::{PODS_WITHIN, World};

#[test]
#[ignore = "needs kubelets: make test-k8s"]
fn a_node_joins_by_its_label_and_leaves_by_it_and_cordons_change_nothing() {
    let mut world = World::begin();
    Readers::fill(&world);
    world.apply_example();
    let readers = Readers::start(&world, &["n1", "n2", "n3"]);
    let counted = |world: &World, text: &str| {
        world.kubectl().get("cc", "fast").is_some_and(|cluster| cluster["status"]["nodes"]["text"] == text)
    };

    world.kubernetes.add_node(4);
    world.kubernetes.wait_until_ready("n4");
    wait_until(PODS_WITHIN, "the fourth node owns slots", || {
        world.cache_node("n4")["status"]["slots"].as_u64().is_some_and(|slots| slots > 1_000)
    });
    wait_until(PODS_WITHIN, "and is counted", || counted(&world, "4/4"));
    readers.wait_for_progress(&world);

    // Drained by people, and brought back.
    let plugin = |arguments: &[&str]| world.kubectl().own(&program("kubectl-larder"), arguments).out();
    assert!(plugin(&["drain", "n4"]).contains("fast.n4: Drain is asked for"));
    let state = |world: &World| world.cache_node("n4")["status"].clone();
    wait_until(PODS_WITHIN, "it owns nothing any more", || {
        let status = state(&world);
        status["state"] == "Gone" && status["slots"] == 0
    });
    readers.wait_for_progress(&world);
    plugin(&["undrain", "n4"]);
    wait_until(PODS_WITHIN, "it serves again", || {
        let status = state(&world);
        status["state"] == "Serving" && status["slots"].as_u64().is_some_and(|slots| slots > 1_000)
    });

    let pod = world.agent_pod("n4");
    world.kubectl().run(&["drain", "n4", "--ignore-daemonsets", "--timeout=60s"]).out();
    world.kubectl().run(&["cordon", "n1", "n2", "n3"]).out();
    readers.wait_for_progress(&world);
    assert_eq!(world.agent_pod("n4"), pod, "kubectl drain leaves agents alone");
    world.kubectl().run(&["uncordon", "n1", "n2", "n3", "n4"]).out();

    world.kubectl().run(&["label", "node", "n4", "disk-"]).out();
    wait_until(PODS_WITHIN, "it is no longer one of ours", || world.kubectl().get("cn", "fast.n4").is_none());
    wait_until(PODS_WITHIN, "nor counted", || counted(&world, "3/3"));
    world.wait_ready();
    readers.wait_for_progress(&world);
    readers.assert_undisturbed(&world, &[]);
}
