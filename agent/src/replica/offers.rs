//! Offers: everything this node has is offered to the owners that may lack it. Hand-over, repair and drain are this.
//!
//! A round goes through the chunks that are here and asks the owners that a new map, a return or a restart has given the
//! chunk's slot which of them they lack; those are given, few at a time and slower while readers want the disks. What a
//! nearer node gives is left to that one, if it says that it has it. A round that asks everybody about everything comes
//! when the agent begins and every ten minutes: it finds copies that were lost without anybody's word. An owner without room
//! is left alone: nothing leaves for a copy. When all was looked at as of a map, its epoch is settled and reported: the
//! authority ends hand-overs and drains by that. A round that met somebody who couldn't be asked comes again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_proto::control::OffersReport;
use larder_proto::error::ErrorKind;
use larder_proto::ids::{Epoch, NodeId};
use larder_proto::limits::BATCH_ENTRIES_MAX;
use larder_proto::object::{Chunk, ChunkId};
use larder_proto::wire::{BatchEvent, BatchRequest, RequestId};
use parking_lot::Mutex;
use tokio::time::sleep;

pub(super) use self::gait::Asked;
use self::gait::Gait;
use self::give::{Lacking, give_all};
use self::round::Round;
use self::sound::Sound;
use super::push::Inner;
use crate::store::Listed;

mod gait;
mod give;
mod round;
mod sound;

/// How often it is looked whether somebody is owed an offer, apart from a new map.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The first round waits until an agent that begins has found its peers.
const BEGIN_AFTER: Duration = Duration::from_secs(5);

/// Rounds that ask everybody about everything.
const FULL_EVERY: Duration = Duration::from_secs(600);

/// The pause after a round that couldn't ask everybody, doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long an owner may take to say what it lacks.
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// Chunks that are known to be lacking and wait to be given: beyond, those go before more is asked. 4 MiB of memory.
const LACKING_MAX: usize = 16_384;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ended {
    /// Everything was looked at, and who lacked something has it, has no room, or is given it by a nearer node.
    #[default]
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
    let mut sound = Sound::default();
    let mut pause = PAUSE_MIN;
    let gait = Gait::new(inner.runtime.clock.now());
    loop {
        tokio::select! { biased;
            heard = changed.changed() => if heard.is_err() { return },
            () = sleep(LOOK_EVERY) => {}
        }
        let now = inner.runtime.clock.now();
        gait.look(now, inner.asked());
        let Some(map) = inner.maps.current() else { continue };
        let Some(this) = map.node_named(inner.maps.this_node()).map(|node| node.id) else { continue };
        begun.extend(inner.maps.take_begun().iter().filter_map(|name| map.node_named(name)).map(|node| node.id));
        if now < begin_at {
            continue;
        }
        sound.doubt(&map, &begun);
        if now >= full_at {
            sound.forget();
            full_at = now + FULL_EVERY;
        }
        let round = Round::new(this, map.clone(), sound.map(), begun.clone());
        let mut found = Found::default();
        if !round.is_empty() {
            offer(&inner, &round, &mut found, &gait).await;
        }
        match found.ended {
            Ended::Whole => {
                if !round.waits_for_silent() {
                    inner.offers.settle(map.epoch());
                }
                sound.reach(map, found.left_to);
                pause = PAUSE_MIN;
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
#[derive(Default)]
struct Found {
    /// Chunks by the node that gives them if it has them, with the owners that may lack each.
    to_leave: BTreeMap<NodeId, Vec<Lacking>>,
    /// Nodes that have what this one left to them to give.
    left_to: BTreeSet<NodeId>,
    /// Chunks by the owner that is to be asked about them next.
    to_ask: BTreeMap<NodeId, Vec<Chunk>>,
    /// Chunks that owners lack, in the order in which they lie on the disk.
    lacking: BTreeMap<ChunkId, Lacking>,
    /// Owners that couldn't be asked, or took nothing: the rest of the round goes without them.
    unasked: BTreeSet<NodeId>,
    ended: Ended,
}

async fn offer(inner: &Inner, round: &Round, found: &mut Found, gait: &Gait) {
    let chunks: u64 = inner.stores.usage().values().map(|usage| usage.chunks).sum();
    let begin = |report: &mut OffersReport| (report.lacking, report.all, report.done) = (0, chunks.max(1), 0);
    begin(&mut inner.offers.report.lock());
    let mut next = Some(Listed::default());
    while let Some(from) = next {
        let (chunks, after) = match inner.stores.list(from).await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::debug!(%error, "what is here can't be listed now; the offers begin anew in a moment");
                found.ended = Ended::Short;
                return;
            }
        };
        let looked_at = chunks.len() as u64;
        for chunk in chunks {
            consider(inner, round, found, chunk).await;
        }
        inner.offers.report.lock().done += looked_at;
        if found.lacking.len() >= LACKING_MAX {
            give(inner, round, found, gait).await;
        }
        if is_outdated(inner, round) {
            found.ended = Ended::Outdated;
            return;
        }
        next = after;
    }
    for (giver, batch) in std::mem::take(&mut found.to_leave) {
        leave(inner, found, giver, batch).await;
    }
    for (owner, batch) in std::mem::take(&mut found.to_ask) {
        ask(inner, found, owner, batch).await;
    }
    give(inner, round, found, gait).await;
    inner.offers.rounds.fetch_add(1, Ordering::Relaxed);
    if is_outdated(inner, round) {
        found.ended = Ended::Outdated;
    }
    tracing::debug!(ended = ?found.ended, "what is here was offered to its owners");
}

/// Finds out who lacks the chunk, unless somebody nearer gives it.
async fn consider(inner: &Inner, round: &Round, found: &mut Found, chunk: Chunk) {
    let copies = inner.replicas(&chunk);
    let mut by_giver: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
    for owner in round.owed(&chunk, copies) {
        match round.giver(&chunk, copies, owner) {
            Some(giver) => by_giver.entry(giver).or_default().push(owner),
            None => ask_soon(inner, found, owner, &chunk).await,
        }
    }
    for (giver, owners) in by_giver {
        let waiting = found.to_leave.entry(giver).or_default();
        waiting.push((chunk.clone(), owners));
        if waiting.len() >= BATCH_ENTRIES_MAX {
            let batch = std::mem::take(waiting);
            leave(inner, found, giver, batch).await;
        }
    }
}

/// Leaves to `giver` what it has. What it hasn't, or doesn't say, its owners are asked about.
async fn leave(inner: &Inner, found: &mut Found, giver: NodeId, batch: Vec<Lacking>) {
    let chunks: Vec<Chunk> = batch.iter().map(|(chunk, _)| chunk.clone()).collect();
    let answers = if found.unasked.contains(&giver) { Vec::new() } else { who_has(inner, giver, chunks).await };
    if answers.len() < batch.len() {
        found.unasked.insert(giver);
    }
    for (at, (chunk, owners)) in batch.into_iter().enumerate() {
        if answers.get(at) == Some(&Ok(())) {
            found.left_to.insert(giver);
            continue;
        }
        for owner in owners {
            ask_soon(inner, found, owner, &chunk).await;
        }
    }
}

/// Asks the owner about the chunk, together with others.
async fn ask_soon(inner: &Inner, found: &mut Found, owner: NodeId, chunk: &Chunk) {
    let waiting = found.to_ask.entry(owner).or_default();
    waiting.push(chunk.clone());
    if waiting.len() >= BATCH_ENTRIES_MAX {
        let batch = std::mem::take(waiting);
        ask(inner, found, owner, batch).await;
    }
}

fn is_outdated(inner: &Inner, round: &Round) -> bool {
    inner.maps.current().is_some_and(|map| round.is_outdated_by(&map))
}

/// Asks an owner which of the chunks it lacks.
async fn ask(inner: &Inner, found: &mut Found, owner: NodeId, chunks: Vec<Chunk>) {
    let answers = if found.unasked.contains(&owner) { Vec::new() } else { who_has(inner, owner, chunks.clone()).await };
    if answers.len() < chunks.len() {
        tracing::debug!(%owner, chunks = chunks.len(), answers = answers.len(), "an owner doesn't say what it lacks");
        found.unasked.insert(owner);
        found.ended = Ended::Short;
    }
    for (chunk, answer) in chunks.into_iter().zip(answers) {
        match answer {
            Ok(()) => {}
            Err(ErrorKind::NoSpace) => one(&inner.offers.declined),
            // Busy: it lacks it, and can't take it now or doesn't know yet that it is its own. Asked again when it is given.
            Err(ErrorKind::NotHere | ErrorKind::Busy) => {
                found.lacking.entry(chunk.id()).or_insert_with(|| (chunk, Vec::new())).1.push(owner);
                inner.offers.report.lock().lacking += 1;
            }
            // Of an owner whose map is newer than ours, too: by ours when it comes, that one may own the chunk again.
            Err(_) => found.ended = Ended::Short,
        }
    }
}

/// What a node says of each of the chunks: that it has it, or what else; fewer answers than chunks when it stops answering.
async fn who_has(inner: &Inner, node: NodeId, chunks: Vec<Chunk>) -> Vec<Result<(), ErrorKind>> {
    let epoch = inner.maps.current().map_or(Epoch(0), |map| map.epoch());
    let request = RequestId(inner.runtime.rng.next_u64());
    let mut answers = Vec::with_capacity(chunks.len());
    let Some(batch) = BatchRequest::ask(request, epoch, chunks) else { return answers };
    let deadline = inner.runtime.clock.now() + ASK_WITHIN;
    let Ok(mut answer) = inner.peers.read_batch(node, &batch, deadline).await else { return answers };
    while let Some(Ok(event)) = answer.next().await {
        match event {
            BatchEvent::Segment(_, _) => {}
            BatchEvent::Complete(_) => answers.push(Ok(())),
            BatchEvent::Refused(_, kind) => answers.push(Err(kind)),
        }
    }
    answers
}

/// Gives what is known to be lacking.
async fn give(inner: &Inner, round: &Round, found: &mut Found, gait: &Gait) {
    let lacking = std::mem::take(&mut found.lacking).into_values().collect();
    let ended = give_all(inner, round, gait, &mut found.unasked, lacking).await;
    if ended != Ended::Whole {
        found.ended = ended;
    }
}

fn one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
