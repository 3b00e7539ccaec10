//! From nothing to a pod that reads.

use larder_tests::harness::sha256;
use larder_tests::stub::pattern;

use super::world::World;

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
    for kind in ["cc", "cv", "cn"] {
        println!("{}", world.kubectl().run(&["get", kind, "-o", "wide"]).out());
    }
}
