//! P15: what an agent's memory is under load, against its budget.

use anyhow::Result;

use super::figure::{Recorder, Round, Target};
use super::process::memory_mib;
use super::reading::{random_4k, read_through};
use crate::harness::{Cluster, VolumeSpec};
use crate::stub::StubS3;

const OBJECTS: usize = 12;
const SIZE: u64 = 1 << 30;

pub(super) fn measure(recorder: &mut Recorder) -> Result<()> {
    let stub = StubS3::builder().bucket("bench").start_blocking()?;
    (0..OBJECTS).for_each(|object| drop(stub.put_pattern(&format!("o{object}"), 1, SIZE)));
    let volume = VolumeSpec::s3("v", &stub).freshness("1h");
    // A third of the objects: filling and evicting all the time.
    let cluster = Cluster::builder().nodes(3).replicas(2).capacity(3 << 30).volume(volume).alone().up();
    let mut piece = vec![0; 1 << 20];
    for object in 0..OBJECTS {
        let file = cluster.mount(&format!("n{}", object % 3 + 1), "v").join(format!("o{object}"));
        read_through(&file, &mut piece)?;
        random_4k(&file, SIZE, 4, std::time::Duration::from_millis(500), object as u64)?;
    }
    let budget = |node: &str| cluster.metrics(node).sum("larder_memory_budget_bytes", &[]) as f64 / 1048576.0;
    let rounds: Vec<Round> = cluster
        .node_names()
        .iter()
        .map(|node| Ok(Round::against(memory_mib(cluster.agent_pid(node), "VmHWM")?, budget(node))))
        .collect::<Result<_>>()?;
    recorder.record(Target::low("P15.rss", "peak memory of an agent, of its budget", "MiB").must(1.0), &rounds);
    Ok(())
}
