//! Names from a directory's home: the lead of its slot answers lookups and listings, for everybody.
//!
//! [`Homes`] asks the home over the control lane, then the slot's next owners, and at last the origin itself; where this
//! node is the home it answers from its own memory. Every answer carries the moment of which it is true. What a peer
//! says is parsed or refused; a refusal by the origin (401, 403, no such bucket) is final, whoever tells it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use larder_proto::error::ErrorKind;
use larder_proto::ids::{NodeId, VolumeId};
use larder_proto::object::{DirPath, EntryName};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::{Dated, Looked, NameRoom, Part};
use crate::map::{MapHolder, Owner};
use crate::origin::Origins;
use crate::peer::{Client, ControlRoutes};
use crate::runtime::Runtime;
use crate::runtime::circuit::Verdict;

mod home;
mod listing;
mod shelf;
mod wire;

pub use home::HomeCounts;

use home::Home;
use wire::{AskError, Service};

/// A home that hasn't answered by then is slower than asking somebody else. The origin's own silence takes longer to
/// tell, so the next owner may ask it the same once more.
const HOP_WITHIN: Duration = Duration::from_secs(3);

/// A peer that couldn't be asked isn't asked again for this long.
const AVOID_FOR: Duration = Duration::from_secs(1);

/// Asks homes, and is one. Cheap to clone.
#[derive(Clone)]
pub struct Homes(Arc<Inner>);

struct Inner {
    runtime: Runtime,
    map: MapHolder,
    peers: Client,
    home: Home,
    avoided: Mutex<BTreeMap<NodeId, Instant>>,
    remote: AtomicU64,
    next_owner: AtomicU64,
    by_itself: AtomicU64,
}

/// Who answered, since the start, and what this node did as a home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamesCounts {
    /// Answers by another node.
    pub remote: u64,
    /// Answers by an owner that isn't the slot's lead, because those before it couldn't be asked.
    pub next_owner: u64,
    /// Answers that this node fetched though it isn't an owner, because no owner could be asked.
    pub by_itself: u64,
    /// As a home.
    pub home: HomeCounts,
}

/// One question, as it goes to each place.
enum Question<'a> {
    Lookup(&'a EntryName),
    List(Option<&'a str>),
}

/// Its answer.
enum Answer {
    Looked(Dated<Looked>),
    Part(Dated<Part>),
}

impl Homes {
    /// Names of the volumes behind `origins`; what it remembers as a home takes its part of `room`.
    pub fn new(runtime: Runtime, map: MapHolder, peers: Client, origins: Origins, room: &Arc<NameRoom>) -> Self {
        let home = Home::new(runtime.clone(), origins, room);
        Self(Arc::new(Inner {
            runtime,
            map,
            peers,
            home,
            avoided: Mutex::default(),
            remote: AtomicU64::new(0),
            next_owner: AtomicU64::new(0),
            by_itself: AtomicU64::new(0),
        }))
    }

    /// Adds the service that answers peers.
    pub fn routes(&self, routes: ControlRoutes) -> ControlRoutes {
        routes.with(Service { runtime: self.0.runtime.clone(), home: self.0.home.clone() }.server())
    }

    /// The numbers of this moment.
    pub fn counts(&self) -> NamesCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NamesCounts {
            remote: get(&self.0.remote),
            next_owner: get(&self.0.next_owner),
            by_itself: get(&self.0.by_itself),
            home: self.0.home.counts(),
        }
    }

    /// Asks the slot's owners in order, then the origin.
    async fn ask(
        &self,
        volume: VolumeId,
        dir: &DirPath,
        question: Question<'_>,
        max_age: Duration,
        deadline: Instant,
    ) -> Result<Answer, ErrorKind> {
        for (position, owner) in self.0.map.owners_of(dir.slot(volume)).iter().enumerate() {
            let answer = if owner.is_self {
                self.here(volume, dir, &question, max_age, deadline).await.map_err(AskError::Kind)
            } else {
                self.there(owner, volume, dir, &question, max_age, deadline).await
            };
            match answer {
                Ok(answer) => {
                    self.count(position, owner);
                    return Ok(answer);
                }
                Err(AskError::Kind(kind)) if is_final(kind) => return Err(kind),
                Err(AskError::Kind(_) | AskError::Peer | AskError::Unreached) => {}
            }
            if self.0.runtime.clock.now() >= deadline {
                return Err(ErrorKind::DeadlineExceeded);
            }
        }
        self.0.by_itself.fetch_add(1, Ordering::Relaxed);
        self.here(volume, dir, &question, max_age, deadline).await
    }

    fn count(&self, position: usize, owner: &Owner) {
        if !owner.is_self {
            self.0.remote.fetch_add(1, Ordering::Relaxed);
        }
        if position > 0 {
            self.0.next_owner.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn here(
        &self,
        volume: VolumeId,
        dir: &DirPath,
        question: &Question<'_>,
        max_age: Duration,
        deadline: Instant,
    ) -> Result<Answer, ErrorKind> {
        let home = &self.0.home;
        match question {
            Question::Lookup(name) => home.lookup(volume, dir, name, max_age, deadline).await.map(Answer::Looked),
            Question::List(after) => home.list(volume, dir, *after, max_age, deadline).await.map(Answer::Part),
        }
    }

    async fn there(
        &self,
        owner: &Owner,
        volume: VolumeId,
        dir: &DirPath,
        question: &Question<'_>,
        max_age: Duration,
        deadline: Instant,
    ) -> Result<Answer, AskError> {
        let channel = self.channel(owner.id)?;
        let asked = self.0.runtime.clock.now();
        let hop = deadline.min(asked + HOP_WITHIN);
        let runtime = &self.0.runtime;
        let answer = match question {
            Question::Lookup(name) => {
                wire::lookup(runtime, channel, (volume, dir, name), max_age, hop).await.map(Answer::Looked)
            }
            Question::List(after) => {
                wire::list(runtime, channel, (volume, dir, *after), max_age, hop).await.map(Answer::Part)
            }
        };
        let now = self.0.runtime.clock.now();
        match answer {
            Ok(_) | Err(AskError::Kind(_)) => self.0.peers.saw(owner.id, Verdict::Alive),
            Err(AskError::Unreached) => self.0.peers.missed(owner.id, asked),
            // It may be the origin that it waits for.
            Err(AskError::Peer) => self.0.peers.saw(owner.id, Verdict::Unknown),
        }
        if matches!(answer, Err(AskError::Peer | AskError::Unreached)) {
            self.0.avoided.lock().insert(owner.id, now + AVOID_FOR);
        }
        answer
    }

    fn channel(&self, node: NodeId) -> Result<Channel, AskError> {
        let now = self.0.runtime.clock.now();
        let mut avoided = self.0.avoided.lock();
        avoided.retain(|_, until| now < *until);
        if avoided.contains_key(&node) {
            return Err(AskError::Peer);
        }
        drop(avoided);
        if !self.0.peers.admits(node) {
            return Err(AskError::Unreached);
        }
        self.0.peers.control(node).map_err(|_| AskError::Peer)
    }
}

#[async_trait]
impl super::Names for Homes {
    async fn lookup(
        &self,
        volume: VolumeId,
        dir: &DirPath,
        name: &EntryName,
        max_age: Duration,
        deadline: Instant,
    ) -> Result<Dated<Looked>, ErrorKind> {
        match self.ask(volume, dir, Question::Lookup(name), max_age, deadline).await? {
            Answer::Looked(answer) => Ok(answer),
            Answer::Part(_) => Err(ErrorKind::Internal),
        }
    }

    async fn list(
        &self,
        volume: VolumeId,
        dir: &DirPath,
        from: Option<&Arc<str>>,
        max_age: Duration,
        deadline: Instant,
    ) -> Result<Dated<Part>, ErrorKind> {
        match self.ask(volume, dir, Question::List(from.map(|from| &**from)), max_age, deadline).await? {
            Answer::Part(answer) => Ok(answer),
            Answer::Looked(_) => Err(ErrorKind::Internal),
        }
    }
}

/// Whether a kind of failure is the origin's last word, so that nobody else need be asked.
fn is_final(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::AccessDenied | ErrorKind::BadCredentials | ErrorKind::NoSuchBucket => true,
        ErrorKind::OriginUnreachable | ErrorKind::Throttled | ErrorKind::OriginProtocol => false,
        ErrorKind::Changed | ErrorKind::NotFound | ErrorKind::NotHere | ErrorKind::StaleEpoch => false,
        ErrorKind::NoSpace | ErrorKind::UnknownVolume | ErrorKind::Busy | ErrorKind::BadRequest => false,
        ErrorKind::DeadlineExceeded | ErrorKind::Internal => false,
    }
}

#[cfg(test)]
mod tests;
