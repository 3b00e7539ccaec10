//! Offers: everything this node has is offered to the owners that may lack it. Hand-over, repair and drain are this.
//!
//! A round goes through the chunks that are here and asks the owners that a new map, a return or a restart has given the
//! chunk's slot which of them they lack; those are given, few at a time and slower while readers want the disks. A round
//! that asks everybody about everything comes when the agent begins and every ten minutes: it finds copies that were lost
//! without anybody's word. An owner without room is left alone: nothing leaves for a copy. When all was looked at as of a
//! map, its epoch is settled and reported: the authority ends hand-overs and drains by that. A round that met somebody
//! who couldn't be asked comes again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use larder_proto::control::OffersReport;
use larder_proto::error::ErrorKind;
use larder_proto::ids::{Epoch, NodeId};
use larder_proto::limits::BATCH_ENTRIES_MAX;
use larder_proto::map::ClusterMap;
use larder_proto::object::{Chunk, ChunkId};
use larder_proto::wire::{BatchEvent, BatchRequest, PutRequest, RequestId};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use self::gait::Gait;
use self::round::Round;
use super::push::{Gone, Inner};
use crate::peer::PeerError;
use crate::store::Listed;

mod gait;
mod round;

/// How often it is looked whether somebody is owed an offer, apart from a new map.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The first round waits until an agent that begins has found its peers.
const BEGIN_AFTER: Duration = Duration::from_secs(5);

/// Rounds that ask everybody about everything.
const FULL_EVERY: Duration = Duration::from_secs(600);

/// The pause after a round that couldn't ask everybody, doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long an owner may take to say what it lacks, and to take one copy.
const ASK_WITHIN: Duration = Duration::from_secs(10);
const GIVE_WITHIN: Duration = Duration::from_secs(30);

/// Chunks that are known to be lacking and wait to be given: beyond, those go before more is asked. 4 MiB of memory.
const LACKING_MAX: usize = 16_384;

/// Chunks that are given at a time: each is in memory whole.
const GIVE_AT_ONCE: usize = 2;

/// What was done, and how far the round is.
#[derive(Debug, Default)]
pub(super) struct Offers {
    report: Mutex<OffersReport>,
    given: AtomicU64,
    given_bytes: AtomicU64,
    declined: AtomicU64,
    rounds: AtomicU64,
}

/// Offers at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Copies that owners lacked and took.
    pub given: u64,
    /// Their bytes.
    pub given_bytes: u64,
    /// Copies for which an owner had no room.
    pub declined: u64,
    /// Rounds that came to their end.
    pub rounds: u64,
}

impl Offers {
    pub(super) fn report(&self) -> OffersReport {
        *self.report.lock()
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            given: self.given.load(Ordering::Relaxed),
            given_bytes: self.given_bytes.load(Ordering::Relaxed),
            declined: self.declined.load(Ordering::Relaxed),
            rounds: self.rounds.load(Ordering::Relaxed),
        }
    }

    fn settle(&self, epoch: Epoch) {
        *self.report.lock() = OffersReport { settled: epoch, ..OffersReport::default() };
    }
}

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Everything was looked at, and who lacked something has it or has no room.
    Whole,
    /// Somebody couldn't be asked, or couldn't take what it lacks now.
    Short,
    /// Another map gives other nodes other slots: that one counts.
    Outdated,
}

/// Offers for as long as the agent runs.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut changed = inner.maps.changed();
    let begin_at = inner.runtime.clock.now() + BEGIN_AFTER;
    let mut full_at = begin_at;
    let mut begun: BTreeSet<NodeId> = BTreeSet::new();
    // As of which map everything was offered.
    let mut sound: Option<Arc<ClusterMap>> = None;
    let mut pause = PAUSE_MIN;
    loop {
        tokio::select! { biased;
            heard = changed.changed() => if heard.is_err() { return },
            () = sleep(LOOK_EVERY) => {}
        }
        let now = inner.runtime.clock.now();
        let Some(map) = inner.maps.current() else { continue };
        let Some(this) = map.node_named(inner.maps.this_node()).map(|node| node.id) else { continue };
        begun.extend(inner.maps.take_begun().iter().filter_map(|name| map.node_named(name)).map(|node| node.id));
        if now < begin_at {
            continue;
        }
        if now >= full_at {
            (sound, full_at) = (None, now + FULL_EVERY);
        }
        let round = Round::new(this, map.clone(), sound.clone(), begun.clone());
        let ended = if round.is_empty() { Ended::Whole } else { offer(&inner, &round).await };
        match ended {
            Ended::Whole => {
                if !round.waits_for_silent() {
                    inner.offers.settle(map.epoch());
                }
                (sound, pause) = (Some(map), PAUSE_MIN);
                begun.clear();
            }
            Ended::Short => {
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            Ended::Outdated => {}
        }
    }
}

/// What a round has found so far.
struct Found {
    /// Chunks by the owner that is to be asked about them next.
    to_ask: BTreeMap<NodeId, Vec<Chunk>>,
    /// Chunks that owners lack, in the order in which they lie on the disk.
    lacking: BTreeMap<ChunkId, (Chunk, Vec<NodeId>)>,
    /// Owners that couldn't be asked: the rest of the round goes without them.
    unasked: BTreeSet<NodeId>,
    ended: Ended,
    gait: Gait,
}

async fn offer(inner: &Arc<Inner>, round: &Round) -> Ended {
    let chunks: u64 = inner.stores.usage().values().map(|usage| usage.chunks).sum();
    let begin = |report: &mut OffersReport| (report.lacking, report.all, report.done) = (0, chunks.max(1), 0);
    begin(&mut inner.offers.report.lock());
    let mut found = Found {
        to_ask: BTreeMap::new(),
        lacking: BTreeMap::new(),
        unasked: BTreeSet::new(),
        ended: Ended::Whole,
        gait: Gait::new(inner.runtime.clock.now(), inner.stores.reads()),
    };
    let mut next = Some(Listed::default());
    while let Some(from) = next {
        let (chunks, after) = match inner.stores.list(from).await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::debug!(%error, "what is here can't be listed now; the offers begin anew in a moment");
                return Ended::Short;
            }
        };
        let looked_at = chunks.len() as u64;
        for chunk in chunks {
            for owner in round.owed(&chunk, inner.replicas(&chunk)) {
                let waiting = found.to_ask.entry(owner).or_default();
                waiting.push(chunk.clone());
                if waiting.len() >= BATCH_ENTRIES_MAX {
                    let batch = std::mem::take(waiting);
                    ask(inner, &mut found, owner, batch).await;
                }
            }
        }
        inner.offers.report.lock().done += looked_at;
        if found.lacking.len() >= LACKING_MAX {
            give_all(inner, round, &mut found).await;
        }
        if is_outdated(inner, round) {
            return Ended::Outdated;
        }
        next = after;
    }
    for (owner, batch) in std::mem::take(&mut found.to_ask) {
        ask(inner, &mut found, owner, batch).await;
    }
    give_all(inner, round, &mut found).await;
    inner.offers.rounds.fetch_add(1, Ordering::Relaxed);
    let ended = if is_outdated(inner, round) { Ended::Outdated } else { found.ended };
    tracing::debug!(?ended, "what is here was offered to its owners");
    ended
}

fn is_outdated(inner: &Inner, round: &Round) -> bool {
    inner.maps.current().is_some_and(|map| round.is_outdated_by(&map))
}

/// Asks an owner which of the chunks it lacks.
async fn ask(inner: &Inner, found: &mut Found, owner: NodeId, chunks: Vec<Chunk>) {
    if found.unasked.contains(&owner) {
        return;
    }
    let epoch = inner.maps.current().map_or(Epoch(0), |map| map.epoch());
    let request = RequestId(inner.runtime.rng.next_u64());
    let Some(batch) = BatchRequest::ask(request, epoch, chunks.clone()) else { return };
    let deadline = inner.runtime.clock.now() + ASK_WITHIN;
    let mut answers = 0;
    if let Ok(mut answer) = inner.peers.read_batch(owner, &batch, deadline).await {
        while let Some(Ok(event)) = answer.next().await {
            let (at, kind) = match event {
                BatchEvent::Segment(_, _) => continue,
                BatchEvent::Complete(at) => (at, None),
                BatchEvent::Refused(at, kind) => (at, Some(kind)),
            };
            answers += 1;
            match kind {
                // It has it; or its map is newer than ours, and ours will come.
                None | Some(ErrorKind::StaleEpoch) => {}
                Some(ErrorKind::NoSpace) => one(&inner.offers.declined),
                Some(ErrorKind::NotHere) => {
                    let chunk = &chunks[at];
                    let lacking = found.lacking.entry(chunk.id()).or_insert_with(|| (chunk.clone(), Vec::new()));
                    lacking.1.push(owner);
                    inner.offers.report.lock().lacking += 1;
                }
                Some(_) => found.ended = Ended::Short,
            }
        }
    }
    if answers < chunks.len() {
        tracing::debug!(%owner, chunks = chunks.len(), answers, "an owner doesn't say what it lacks");
        found.unasked.insert(owner);
        found.ended = Ended::Short;
    }
}

/// Gives what is known to be lacking, few at a time.
async fn give_all(inner: &Arc<Inner>, round: &Round, found: &mut Found) {
    let lacking = std::mem::take(&mut found.lacking);
    let (gait, unasked) = (&found.gait, &found.unasked);
    let ended = stream::iter(lacking.into_values())
        .map(|(chunk, owners)| async move {
            if is_outdated(inner, round) {
                return Ended::Outdated;
            }
            gait.rest(&*inner.runtime.clock, || inner.stores.reads()).await;
            let owners: Vec<NodeId> = owners.into_iter().filter(|owner| !unasked.contains(owner)).collect();
            let ended = give(inner, &chunk, &owners, gait).await;
            let mut report = inner.offers.report.lock();
            report.lacking = report.lacking.saturating_sub(owners.len() as u64);
            ended
        })
        .buffer_unordered(GIVE_AT_ONCE);
    let ended =
        ended.fold(Ended::Whole, |sum, ended| async move { if ended == Ended::Whole { sum } else { ended } }).await;
    if ended != Ended::Whole {
        found.ended = ended;
    }
}

async fn give(inner: &Inner, chunk: &Chunk, owners: &[NodeId], gait: &Gait) -> Ended {
    let pieces = match inner.read_pieces(chunk).await {
        Ok(pieces) => pieces,
        Err(Gone::ForEver) => return Ended::Whole,
        Err(Gone::Now) => return Ended::Short,
    };
    gait.has_read(pieces.len() as u64);
    let epoch = inner.maps.current().map_or(Epoch(0), |map| map.epoch());
    let put = PutRequest { request: RequestId(inner.runtime.rng.next_u64()), epoch, chunk: chunk.clone() };
    let mut ended = Ended::Whole;
    for owner in owners {
        let deadline: Instant = inner.runtime.clock.now() + GIVE_WITHIN;
        // What it was given meanwhile, by whomever, may have been this, or the last that it had room for.
        match still_lacks(inner, *owner, chunk, epoch).await {
            Ok(()) => continue,
            Err(Some(ErrorKind::NotHere)) => {}
            Err(Some(ErrorKind::NoSpace)) => {
                one(&inner.offers.declined);
                continue;
            }
            Err(Some(_) | None) => {
                ended = Ended::Short;
                continue;
            }
        }
        match inner.peers.put(*owner, &put, pieces.clone(), deadline).await {
            Ok(()) => {
                one(&inner.offers.given);
                inner.offers.given_bytes.fetch_add(u64::from(chunk.len()), Ordering::Relaxed);
                gait.has_given(u64::from(chunk.len()));
            }
            Err(PeerError::Kind(ErrorKind::NoSpace)) => one(&inner.offers.declined),
            Err(error) => {
                inner.log(&put, *owner, &error);
                ended = Ended::Short;
            }
        }
    }
    ended
}

/// What an owner says of one chunk: that it has it, or what else; nothing when it doesn't answer.
async fn still_lacks(inner: &Inner, owner: NodeId, chunk: &Chunk, epoch: Epoch) -> Result<(), Option<ErrorKind>> {
    let request = RequestId(inner.runtime.rng.next_u64());
    let batch = BatchRequest::ask(request, epoch, vec![chunk.clone()]).ok_or(None)?;
    let deadline = inner.runtime.clock.now() + ASK_WITHIN;
    let mut answer = inner.peers.read_batch(owner, &batch, deadline).await.map_err(|_| None)?;
    let said = match answer.next().await {
        Some(Ok(BatchEvent::Complete(_))) => Ok(()),
        Some(Ok(BatchEvent::Refused(_, kind))) => Err(Some(kind)),
        Some(Ok(BatchEvent::Segment(_, _)) | Err(_)) | None => Err(None),
    };
    // To its end, so that the connection carries the next one.
    while let Some(Ok(_)) = answer.next().await {}
    said
}

fn one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
