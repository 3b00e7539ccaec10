//! Watches a disk's pace: judges it while there are calls, and probes a slow one until it is as it was.

use std::sync::Arc;
use std::time::Duration;

use larder_proto::limits::BLOCK_BYTES;
use larder_proto::object::ChunkId;

use super::directory::Directory;
use super::pace::Kind;
use crate::runtime::disk::AlignedBuf;
use crate::runtime::tasks::Pool;

/// How often the pace is judged while there are calls, and how often a slow disk is probed.
const JUDGE_EVERY: Duration = Duration::from_millis(250);

/// A probe that takes so long is left behind: no other begins before it ends.
const PROBE_WITHIN: Duration = Duration::from_secs(1);

/// Works until the agent stops.
pub(super) async fn watch(directory: Arc<Directory>, probes: Pool) {
    loop {
        directory.called.notified().await;
        tokio::time::sleep(JUDGE_EVERY).await;
        while directory.judge() || directory.is_called() {
            if directory.is_slow() {
                let probed = directory.clone();
                let probe = probes.run(move || probe(&probed));
                let _left_behind = tokio::time::timeout(PROBE_WITHIN, probe).await;
            }
            tokio::time::sleep(JUDGE_EVERY).await;
        }
    }
}

/// Reads one block of some chunk that is here.
fn probe(directory: &Directory) {
    let Some(ChunkId { object, index }) = directory.index.lock().some_chunk(directory.clock.wall_ms()) else { return };
    let call = directory.begin_call(Kind::Bytes);
    let read = directory.files.get(object, crate::runtime::disk::Open::Write).and_then(|file| {
        let mut block = AlignedBuf::unpooled(BLOCK_BYTES as usize);
        let at = directory.index.lock().offset(&ChunkId { object, index }).unwrap_or(0);
        file.read_at(block.whole_mut(), at)
    });
    directory.end_call(call, read.ok().map(|count| count as u64));
}
