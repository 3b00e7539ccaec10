//! Watches a disk's pace: judges it while there are calls, and probes a slow one until it is as it was.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use larder_proto::limits::BLOCK_BYTES;
use larder_proto::object::ChunkId;

use super::directory::Directory;
use super::pace::Kind;
use crate::runtime::disk::{AlignedBuf, Caching, Open, PAGE_BYTES};
use crate::runtime::tasks::Pool;

/// While it lives, a call to each of a node's disks hangs.
#[cfg(test)]
pub(crate) struct Stall(Vec<(Arc<Directory>, super::pace::Call)>);

#[cfg(test)]
impl Drop for Stall {
    fn drop(&mut self) {
        for (directory, call) in self.0.drain(..) {
            directory.end_call(call, None);
        }
    }
}

#[cfg(test)]
impl super::Stores {
    /// Every disk is slow from now on, until probes find it as it was after the answer was dropped.
    pub(crate) fn stall(&self) -> Stall {
        Stall(self.directories.iter().map(|directory| (directory.clone(), directory.stall())).collect())
    }
}

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

/// Reads one block of some chunk that is here; where none is, or it can't be read, a page that is written for that.
fn probe(directory: &Directory) {
    let some = directory.index.lock().some_chunk(directory.clock.wall_ms());
    let call = directory.begin_call(Kind::Bytes);
    let read = some.and_then(|chunk| read_block(directory, chunk).ok());
    let read = read.or_else(|| write_and_read(directory).ok());
    directory.end_call(call, read.map(|count| count as u64));
}

fn read_block(directory: &Directory, ChunkId { object, index }: ChunkId) -> io::Result<usize> {
    let file = directory.files.get(object, Open::Write)?;
    let mut block = AlignedBuf::unpooled(BLOCK_BYTES as usize);
    let at = directory.index.lock().offset(&ChunkId { object, index }).unwrap_or(0);
    file.read_at(block.whole_mut(), at)
}

/// What a crash leaves of it is written over, and removed, by the next one.
fn write_and_read(directory: &Directory) -> io::Result<usize> {
    if directory.is_fenced() {
        // Nothing is written any more.
        return Err(io::ErrorKind::ReadOnlyFilesystem.into());
    }
    let path = directory.root.join("probe");
    let file = directory.disk.open(&path, Open::Create, Caching::Direct)?;
    let mut page = AlignedBuf::unpooled(PAGE_BYTES);
    let read = file.write_at(page.whole_mut(), 0).and_then(|()| file.read_at(page.whole_mut(), 0));
    directory.disk.unlink(&path)?;
    read
}
