//! Drives a sweep: the directory's names first, then step after step of its files.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use larder_proto::object::{Chunk, ChunkIndex, DirPath, EntryName, Object};
use larder_proto::volume::Volume;
use larder_proto::wire::RequestId;

use super::super::known::Known;
use super::super::listings::Listing;
use super::super::room::{NAME_BYTES, NameRoom, Share};
use super::super::{Chunks, Looked, Names};
use super::{Ending, Next, Sweep};
use crate::origin::ObjectInfo;
use crate::runtime::Runtime;

/// A larger directory is read without help: its listing is paged, never held. So is one for whose names there is no room.
const NAMES_MAX: usize = 200_000;

/// Steps under way at a time: the next is asked for while the last ends.
const STEPS_MAX: usize = 2;

/// How long one step may take.
const STEP_WITHIN: Duration = Duration::from_secs(30);

/// What a sweep needs of its tree.
pub(super) struct Driver {
    pub(super) runtime: Runtime,
    pub(super) names: Arc<dyn Names>,
    pub(super) chunks: Arc<dyn Chunks>,
    pub(super) known: Arc<Known>,
    pub(super) room: Arc<NameRoom>,
    pub(super) volume: Arc<Volume>,
    pub(super) max_age: Duration,
    pub(super) dir: DirPath,
    pub(super) request: RequestId,
}

impl Driver {
    /// Brings files until all have come and were read, owners don't keep them, or nobody reads any more.
    pub(super) async fn drive(&self, sweep: &Sweep) -> Ending {
        let Some((listing, share)) = self.listing().await else { return Ending::Silence };
        sweep.listed(listing, share);
        let mut steps = FuturesUnordered::new();
        loop {
            let files = match sweep.next(|name, info| self.is_kept(name, info)) {
                Next::Bring(files) => files,
                Next::End(ending) => return ending,
            };
            let chunks: Vec<Chunk> = files.iter().filter_map(|(name, looked)| self.chunk(name, looked)).collect();
            let idle = chunks.is_empty();
            if !idle {
                steps.push(self.step(chunks));
            }
            if steps.len() >= STEPS_MAX {
                if let Some((asked, kept)) = steps.next().await {
                    sweep.brought(asked, kept);
                }
            } else if idle {
                tokio::select! { biased;
                    Some((asked, kept)) = steps.next(), if !steps.is_empty() => sweep.brought(asked, kept),
                    goes_on = sweep.wait() => if !goes_on { return Ending::Anew },
                }
            }
        }
    }

    /// Has chunks brought; how many, and how many owners have.
    async fn step(&self, chunks: Vec<Chunk>) -> (usize, usize) {
        let (asked, deadline) = (chunks.len(), self.runtime.clock.now() + STEP_WITHIN);
        (asked, self.chunks.keep(self.request, chunks, deadline).await)
    }

    /// The names, as they are known or from their home, and what they take of the room; nothing when there is too little.
    async fn listing(&self) -> Option<(Arc<Listing>, Share)> {
        let now = self.runtime.clock.now();
        let mut share = self.room.share();
        let known = self.known.listing(&self.dir);
        if let Some(known) = known.filter(|known| now.saturating_duration_since(known.as_of()) < self.max_age) {
            share.set(known.len() * NAME_BYTES);
            return self.room.settle().then_some((known, share));
        }
        let deadline = now + self.volume.read_deadline;
        let (mut parts, mut names, mut from, mut as_of) = (Vec::new(), 0, None, now);
        loop {
            let ask = self.names.list(self.volume.id, &self.dir, from.as_ref(), self.max_age, deadline);
            let part = tokio::time::timeout_at(deadline, ask).await.ok()?.ok()?;
            names += part.value.entries.len();
            share.set(names * NAME_BYTES);
            let fits = names <= NAMES_MAX && names * NAME_BYTES <= self.room.listing_bytes_max();
            if !fits || !self.room.settle() {
                return None;
            }
            as_of = as_of.min(part.as_of);
            from = part.value.next.clone();
            parts.push(Arc::new(part.value));
            if from.is_none() {
                break;
            }
        }
        let listing = Listing::of(parts, as_of);
        self.known.learn_listing(&self.dir, listing.clone());
        Some((listing, share))
    }

    /// Whether owners would keep it.
    fn is_kept(&self, name: &EntryName, info: &ObjectInfo) -> bool {
        self.dir.file(name).is_ok_and(|key| self.volume.keeping.admits(&key, info.size))
    }

    fn chunk(&self, name: &EntryName, looked: &Looked) -> Option<Chunk> {
        let Looked::File(info) = looked else { return None };
        let key = self.dir.file(name).ok()?;
        let version = info.version.clone();
        Object::new(self.volume.id, key, version, info.size, self.volume.chunk_size)?.chunk(ChunkIndex(0))
    }
}
