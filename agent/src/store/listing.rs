//! What is here, chunk by chunk, for who goes through all of it; and how much readers ask of the disks meanwhile.

use larder_proto::object::{Chunk, ChunkIndex};

use super::{StoreError, Stores};

/// Rows of the catalog that are looked at in one call.
const ROWS: usize = 64;

/// Chunks that one call gives, at most.
const CHUNKS_MAX: usize = 1_024;

/// A call that lists takes so long at most.
const LIST_DEADLINE_MS: u64 = 30_000;

/// Where to go on; the default is the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    store: usize,
    object: [u8; 16],
    index: u32,
}

impl Stores {
    /// Some chunks that are here, and where to go on; nothing after the last one. What comes or leaves meanwhile may or
    /// may not be among them.
    pub async fn list(&self, from: Listed) -> Result<(Vec<Chunk>, Option<Listed>), StoreError> {
        let Some(directory) = self.directories.get(from.store).cloned() else { return Ok((Vec::new(), None)) };
        let next_store = Listed { store: from.store + 1, ..Listed::default() };
        let after = (next_store.store < self.directories.len()).then_some(next_store);
        let lane = directory.clone();
        let listed = lane.reads.run(LIST_DEADLINE_MS, move || {
            let rows = directory.catalog.objects_from(&from.object, ROWS).map_err(|error| error.into_io())?;
            let is_last = rows.len() < ROWS;
            let (mut chunks, mut at) = (Vec::new(), from);
            for row in rows {
                let id = row.object.id();
                let mut next = if *id.as_bytes() == from.object { from.index } else { 0 };
                loop {
                    let found = directory.index.lock().next_chunk(&id, next);
                    let Some(ChunkIndex(index)) = found else { break };
                    if chunks.len() >= CHUNKS_MAX {
                        return Ok((chunks, Some(Listed { object: *id.as_bytes(), index, ..from })));
                    }
                    chunks.extend(row.object.chunk(ChunkIndex(index)));
                    next = index + 1;
                }
                at.object = u128::from_be_bytes(*id.as_bytes()).saturating_add(1).to_be_bytes();
            }
            Ok((chunks, if is_last { after } else { Some(Listed { index: 0, ..at }) }))
        });
        listed.await?
    }

    /// Pieces read from the disks since the start, by whomever.
    pub fn reads(&self) -> u64 {
        self.directories.iter().map(|directory| directory.counters.reads.get()).sum()
    }

    /// Whether some disk is suspected to be slow. From memory.
    pub fn has_slow(&self) -> bool {
        self.directories.iter().any(|directory| directory.is_slow())
    }
}
