//! Asks each volume's origin before a reader does, so that a wrong bucket or Secret shows when it is configured.
//!
//! One LIST of one key when a volume comes or its origin changes. While the origin fails it is asked again, less and less
//! often, so that it is known to be back without a read; one that answers isn't asked again. At most [`PROBES_MAX`] at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use larder_proto::control::OriginState;
use larder_proto::ids::VolumeId;
use larder_proto::object::DirPath;
use larder_proto::volume::Volume;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::registry::{Origins, Volumes};
use crate::runtime::Runtime;

/// Origins that are asked at once; the others wait their turn.
const PROBES_MAX: usize = 16;

/// How long a probe waits: one silent attempt.
const PROBE_WITHIN: Duration = Duration::from_secs(5);

/// How often origins that fail without a probe (a reader met it) are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The pause after the first failure; each next one is twice as long,
const BACKOFF: Duration = Duration::from_secs(1);
/// up to this: an origin that is back is known to be within half a minute.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A volume whose origin is watched.
struct Watched {
    volume: Arc<Volume>,
    failures: u32,
    next: Next,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It answers: not asked again.
    Never,
    /// It is asked then.
    At(Instant),
    /// It is being asked.
    Now,
}

struct Probes {
    runtime: Runtime,
    origins: Origins,
    watched: BTreeMap<VolumeId, Watched>,
    flying: FuturesUnordered<BoxFuture<'static, VolumeId>>,
}

/// Probes the origins of the list's volumes until the list ends. Rings `news` when an origin begins to answer or to fail.
pub async fn probe(runtime: Runtime, origins: Origins, mut volumes: watch::Receiver<Volumes>, news: Arc<Notify>) {
    let mut probes = Probes { runtime, origins, watched: BTreeMap::new(), flying: FuturesUnordered::new() };
    loop {
        let wanted = volumes.borrow_and_update().clone();
        probes.follow(&wanted);
        probes.start();
        tokio::select! { biased;
            changed = volumes.changed() => if changed.is_err() { return },
            Some(id) = probes.flying.next() => {
                probes.landed(id);
                news.notify_one();
            }
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

impl Probes {
    /// Takes in the list: what is new or has another origin is asked at once.
    fn follow(&mut self, wanted: &Volumes) {
        let now = self.runtime.clock.now();
        self.watched.retain(|id, _| wanted.contains_key(id));
        for (id, volume) in wanted.iter() {
            let known = self.watched.get(id).is_some_and(|watched| watched.volume.origin == volume.origin);
            if !known {
                let watched = Watched { volume: volume.clone(), failures: 0, next: Next::At(now) };
                self.watched.insert(*id, watched);
            }
        }
        for (id, watched) in &mut self.watched {
            let fails = |origins: &Origins| origins.get(*id).is_some_and(|origin| is_failing(origin.known()));
            if watched.next == Next::Never && fails(&self.origins) {
                watched.next = Next::At(now + BACKOFF);
            }
        }
    }

    fn start(&mut self) {
        let now = self.runtime.clock.now();
        for (id, watched) in &mut self.watched {
            let due = matches!(watched.next, Next::At(at) if at <= now);
            if !due || self.flying.len() >= PROBES_MAX {
                continue;
            }
            // Gone between two looks at the list: the next look drops it here too.
            let Some(origin) = self.origins.get(*id) else { continue };
            watched.next = Next::Now;
            let id = *id;
            self.flying.push(Box::pin(async move {
                // What it showed is kept by the origin itself.
                let _known = origin.dir_exists(&DirPath::root(), now + PROBE_WITHIN).await;
                id
            }));
        }
    }

    fn landed(&mut self, id: VolumeId) {
        let (now, known) = (self.runtime.clock.now(), self.origins.get(id).map(|origin| origin.known()));
        // One that was replaced meanwhile is due already.
        let Some(watched) = self.watched.get_mut(&id).filter(|watched| watched.next == Next::Now) else { return };
        if known == Some(OriginState::Answers) {
            (watched.failures, watched.next) = (0, Next::Never);
            return;
        }
        let bound = (BACKOFF * (1 << watched.failures.min(8))).min(BACKOFF_MAX);
        let half_ms = u64::try_from(bound.as_millis() / 2).expect("at most 15 s");
        let pause = Duration::from_millis(half_ms + self.runtime.rng.next_u64() % half_ms);
        watched.failures = watched.failures.saturating_add(1);
        watched.next = Next::At(now + pause);
    }
}

fn is_failing(known: OriginState) -> bool {
    matches!(known, OriginState::Fails(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::OriginError;
    use crate::origin::sim::MemoryOrigin;
    use crate::world::{World, until};

    /// Told to wait for what the origin shows, up to the deadline of [`until`].
    async fn shows(origins: &Origins, id: VolumeId, known: OriginState) {
        until("the origin is known", || origins.get(id).is_some_and(|origin| origin.known() == known)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_is_asked_when_it_comes_and_again_until_it_answers() {
        let world = World::new(1).await;
        let runtime = world.node(0).runtime.clone();
        let memory = MemoryOrigin::new();
        let id = world.volume.id;
        let list: Volumes = Arc::new(BTreeMap::from([(id, world.volume.clone())]));
        let (sender, volumes) = watch::channel(list);
        let origins = Origins::new(runtime.clone(), volumes.clone(), Arc::new(memory.clone()));
        assert_eq!(origins.get(id).map(|origin| origin.known()), Some(OriginState::NotAsked));
        memory.set_down(Some(OriginError::NoSuchBucket));
        let news = Arc::new(Notify::new());
        runtime.tasks.spawn(probe(runtime.clone(), origins.clone(), volumes, news.clone()));
        news.notified().await;
        shows(&origins, id, OriginState::Fails(larder_proto::error::ErrorKind::NoSuchBucket)).await;
        tokio::time::sleep(BACKOFF_MAX * 3).await;
        let asked = memory.totals().2;
        assert!((5..15).contains(&asked), "less and less often: {asked} LISTs in 90 s");

        memory.set_down(None);
        tokio::time::sleep(BACKOFF_MAX).await;
        shows(&origins, id, OriginState::Answers).await;
        let answered = memory.totals().2;
        tokio::time::sleep(BACKOFF_MAX * 3).await;
        assert_eq!(memory.totals().2, answered, "one that answers isn't asked again");

        // A reader meets its failure: from then on it is asked until it is back.
        memory.set_down(Some(OriginError::AccessDenied));
        let deadline = runtime.clock.now() + PROBE_WITHIN;
        let origin = origins.get(id).expect("in the list");
        assert_eq!(origin.dir_exists(&DirPath::root(), deadline).await, Err(OriginError::AccessDenied));
        memory.set_down(None);
        tokio::time::sleep(BACKOFF * 4).await;
        shows(&origins, id, OriginState::Answers).await;
        drop(sender);
    }
}
