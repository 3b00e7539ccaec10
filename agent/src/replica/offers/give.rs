//! Giving what owners are known to lack: few chunks at a time, each read once, at the pace of [`Gait`].
//!
//! An owner that is busy (too many give to it, or its disk is slow) loses nothing: what it lacks waits and is given as it
//! takes it. Nothing is sent to an owner that says by then that it has it, or has no room.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use larder_proto::checksum::Checksummed;
use larder_proto::error::ErrorKind;
use larder_proto::ids::{Epoch, NodeId};
use larder_proto::object::Chunk;
use larder_proto::wire::{PutRequest, RequestId};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::gait::Gait;
use super::round::Round;
use super::{Ended, is_outdated, one, who_has};
use crate::peer::PeerError;
use crate::replica::push::{Gone, Inner};

/// Chunks that are given at a time: each is in memory whole.
const AT_ONCE: usize = 2;

/// How long an owner may take to take one copy.
const GIVE_WITHIN: Duration = Duration::from_secs(30);

/// How long owners that are busy are left alone, twice as long each time that nobody took anything.
const BUSY_MIN: Duration = Duration::from_millis(250);
const BUSY_MAX: Duration = Duration::from_secs(4);

/// A chunk, and the owners that lack it.
pub(super) type Lacking = (Chunk, Vec<NodeId>);

/// Gives what is known to be lacking, few at a time. An owner that is busy is asked again, later and later: what it lacks
/// waits here, and is given as it takes it. One that has taken nothing for seconds is left to another round: it is `unasked`
/// for the rest of this one.
pub(super) async fn give_all(
    inner: &Inner,
    round: &Round,
    gait: &Gait,
    unasked: &mut BTreeSet<NodeId>,
    mut lacking: Vec<Lacking>,
) -> Ended {
    let (mut ended, mut pause) = (Ended::Whole, BUSY_MIN);
    loop {
        let pass = Pass { inner, round, gait, unasked, busy: Mutex::default() };
        let given: Vec<Given> =
            stream::iter(lacking).map(|lacking| pass.give(lacking)).buffer_unordered(AT_ONCE).collect().await;
        ended = given.iter().fold(ended, |sum, given| if given.ended == Ended::Whole { sum } else { given.ended });
        let taken: usize = given.iter().map(|given| given.taken).sum();
        lacking = given.into_iter().filter_map(|given| given.later).collect();
        if lacking.is_empty() || is_outdated(inner, round) {
            return ended;
        }
        pause = if taken > 0 { BUSY_MIN } else { pause * 2 };
        if pause > BUSY_MAX {
            unasked.extend(lacking.into_iter().flat_map(|(_, owners)| owners));
            return Ended::Short;
        }
        sleep(pause).await;
    }
}

/// What became of a chunk that is lacking.
struct Given {
    ended: Ended,
    /// Copies that were taken.
    taken: usize,
    /// The owners that were busy.
    later: Option<Lacking>,
}

/// One time that all which is lacking is gone through.
struct Pass<'a> {
    inner: &'a Inner,
    round: &'a Round,
    gait: &'a Gait,
    /// Owners that don't answer.
    unasked: &'a BTreeSet<NodeId>,
    /// Owners that take nothing now: they are left alone for the rest of the pass.
    busy: Mutex<BTreeSet<NodeId>>,
}

/// What an owner did with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It took it.
    Taken,
    /// It has it, or has no room.
    Needless,
    /// It takes nothing now.
    Busy,
    /// Something else stands in the way: another round.
    Failed,
}

impl Pass<'_> {
    async fn give(&self, (chunk, owners): Lacking) -> Given {
        let mut given = Given { ended: Ended::Whole, taken: 0, later: None };
        if is_outdated(self.inner, self.round) {
            given.ended = Ended::Outdated;
            return given;
        }
        let mut pieces = None;
        let (mut busy, mut done) = (Vec::new(), 0);
        for owner in owners {
            match self.give_to(owner, &chunk, &mut pieces).await {
                Answer::Taken => given.taken += 1,
                Answer::Needless => {}
                Answer::Failed => given.ended = Ended::Short,
                Answer::Busy => {
                    self.busy.lock().insert(owner);
                    busy.push(owner);
                    continue;
                }
            }
            done += 1;
        }
        let mut report = self.inner.offers.report.lock();
        report.lacking = report.lacking.saturating_sub(done);
        given.later = (!busy.is_empty()).then_some((chunk, busy));
        given
    }

    /// Gives one copy; `pieces` are read when the first owner wants them.
    async fn give_to(&self, owner: NodeId, chunk: &Chunk, pieces: &mut Option<Vec<Checksummed>>) -> Answer {
        let Self { inner, gait, .. } = *self;
        if self.unasked.contains(&owner) {
            return Answer::Failed;
        }
        if self.busy.lock().contains(&owner) {
            return Answer::Busy;
        }
        // What it was given meanwhile, by whomever, may have been this, or the last that it had room for.
        match who_has(inner, owner, vec![chunk.clone()]).await.first() {
            Some(Ok(())) => return Answer::Needless,
            Some(Err(ErrorKind::NotHere)) => {}
            Some(Err(ErrorKind::NoSpace)) => {
                one(&inner.offers.declined);
                return Answer::Needless;
            }
            Some(Err(ErrorKind::Busy)) => return Answer::Busy,
            Some(Err(_)) | None => return Answer::Failed,
        }
        gait.turn(&*inner.runtime.clock, u64::from(chunk.len()), || inner.asked()).await;
        let pieces = match pieces {
            Some(pieces) => pieces,
            None => match inner.read_pieces(chunk).await {
                Ok(read) => {
                    gait.has_read(read.len() as u64);
                    pieces.insert(read)
                }
                Err(Gone::ForEver) => return Answer::Needless,
                Err(Gone::Now) => return Answer::Failed,
            },
        };
        let epoch = inner.maps.current().map_or(Epoch(0), |map| map.epoch());
        let put = PutRequest { request: RequestId(inner.runtime.rng.next_u64()), epoch, chunk: chunk.clone() };
        let deadline: Instant = inner.runtime.clock.now() + GIVE_WITHIN;
        match inner.peers.put(owner, &put, pieces.clone(), deadline).await {
            Ok(()) => {
                one(&inner.offers.given);
                inner.offers.given_bytes.fetch_add(u64::from(chunk.len()), Ordering::Relaxed);
                Answer::Taken
            }
            Err(PeerError::Kind(ErrorKind::NoSpace)) => {
                one(&inner.offers.declined);
                Answer::Needless
            }
            Err(PeerError::Kind(ErrorKind::Busy)) => Answer::Busy,
            Err(error) => {
                inner.log(&put, owner, &error);
                Answer::Failed
            }
        }
    }
}
