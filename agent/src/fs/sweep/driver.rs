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
use super::super::{Chunks, Looked, Names};
use super::Sweep;
use crate::runtime::Runtime;

/// A larger directory is read without help: its listing is paged, never held.
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
    pub(super) volume: Arc<Volume>,
    pub(super) max_age: Duration,
    pub(super) dir: DirPath,
    pub(super) request: RequestId,
}

impl Driver {
    /// Brings files until all have come or nobody reads any more.
    pub(super) async fn drive(&self, sweep: &Sweep) {
        let Some(listing) = self.listing().await else { return sweep.give_up() };
        sweep.listed(listing);
        let mut steps = FuturesUnordered::new();
        while let Some(files) = sweep.next() {
            let chunks: Vec<Chunk> = files.iter().filter_map(|(name, looked)| self.chunk(name, looked)).collect();
            let idle = chunks.is_empty();
            if !idle {
                let deadline = self.runtime.clock.now() + STEP_WITHIN;
                steps.push(self.chunks.keep(self.request, chunks, deadline));
            }
            if steps.len() >= STEPS_MAX {
                steps.next().await;
            } else if idle {
                tokio::select! { biased;
                    Some(_) = steps.next(), if !steps.is_empty() => {}
                    goes_on = sweep.wait() => if !goes_on { break },
                }
            }
        }
        while steps.next().await.is_some() {}
    }

    /// The names, as they are known or from their home.
    async fn listing(&self) -> Option<Arc<Listing>> {
        let now = self.runtime.clock.now();
        let known = self.known.listing(&self.dir);
        if let Some(known) = known.filter(|known| now.saturating_duration_since(known.as_of()) < self.max_age) {
            return Some(known);
        }
        let deadline = now + self.volume.read_deadline;
        let (mut parts, mut names, mut from, mut as_of) = (Vec::new(), 0, None, now);
        loop {
            let ask = self.names.list(self.volume.id, &self.dir, from.as_ref(), self.max_age, deadline);
            let part = tokio::time::timeout_at(deadline, ask).await.ok()?.ok()?;
            names += part.value.entries.len();
            if names > NAMES_MAX {
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
        Some(listing)
    }

    fn chunk(&self, name: &EntryName, looked: &Looked) -> Option<Chunk> {
        let Looked::File(info) = looked else { return None };
        let key = self.dir.file(name).ok()?;
        let version = info.version.clone();
        Object::new(self.volume.id, key, version, info.size, self.volume.chunk_size)?.chunk(ChunkIndex(0))
    }
}
