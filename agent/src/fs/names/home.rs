//! A directory's home: answers from what it remembers, else asks the origin, once for everybody who asks together.
//!
//! A lookup without a listing is HEAD of the key and LIST of `key/` in parallel; what was known and has expired is rechecked
//! by the one request that can confirm it (a directory put beside a file that stays is seen by the next listing). A listing is started by readdir or by many lookups, runs by itself, and readers
//! follow it as it grows; above [`LISTED_NAMES_MAX`] names, or a quarter of the room for names, it is paged from the origin and never held.
//! When the origin can't be reached, what is remembered is served as old as it is (and counted), unless the asker wants
//! it as of now; a refusal (401, 403) is never papered over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use larder_proto::error::ErrorKind;
use larder_proto::ids::VolumeId;
use larder_proto::limits::PAGE_NAMES_MAX;
use larder_proto::object::{DirPath, EntryName};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use super::listing::{Growing, Listing, in_order, key, settle_clashes, uncertain};
use super::shelf::{DirKey, Shelf};
use crate::fs::room::{Holder, NameRoom};
use crate::fs::{Dated, Looked, Part};
use crate::origin::{Cursor, OriginError, Origins, VolumeOrigin};
use crate::runtime::Runtime;

/// Above this a listing is paged, never held.
pub(super) const LISTED_NAMES_MAX: usize = 200_000;

/// Listings that run at a time; who needs one more waits, to its deadline.
const LISTINGS_MAX: usize = 16;

/// Lookups that are under way at a time; above, `Busy`.
const FLIGHTS_MAX: usize = 4_096;

/// How long a listing, or a lookup that others may follow, may take in all.
const LISTING_WITHIN: Duration = Duration::from_secs(120);
const LOOKUP_WITHIN: Duration = Duration::from_secs(30);

/// A listing that is being read stays good for this long, so that a reader finishes what it began.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// A directory that was too large is tried again after this.
const LARGE_FOR: Duration = Duration::from_secs(600);

type Answer = Result<Dated<Looked>, OriginError>;
type Lookups = BTreeMap<(DirKey, EntryName), (Instant, watch::Receiver<Option<Answer>>)>;

/// A home, for whichever directories it is asked about. Cheap to clone.
#[derive(Clone)]
pub(super) struct Home(Arc<Inner>);

struct Inner {
    runtime: Runtime,
    origins: Origins,
    room: Arc<NameRoom>,
    shelf: Mutex<Shelf>,
    lookups: Mutex<Lookups>,
    listings: Mutex<BTreeMap<DirKey, Arc<Run>>>,
    running: Semaphore,
    counters: Counters,
}

/// What happened, since the start.
#[derive(Default)]
struct Counters {
    listings: AtomicU64,
    asked: AtomicU64,
    remembered: AtomicU64,
    stale: AtomicU64,
    clashes: AtomicU64,
}

/// The numbers of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HomeCounts {
    /// Answers from memory, listings included.
    pub remembered: u64,
    /// Lookups that asked the origin.
    pub asked: u64,
    /// Listings that were started.
    pub listings: u64,
    /// Answers older than was asked for, because the origin can't be reached.
    pub stale: u64,
    /// Names that are both a file and a directory; shown as the directory.
    pub clashes: u64,
    /// Directories remembered, and what they take.
    pub dirs: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// Directories forgotten to make room.
    pub evicted: u64,
}

/// A listing under way.
struct Run {
    as_of: Instant,
    growing: Mutex<Option<Growing>>,
    state: watch::Sender<State>,
}

#[derive(Clone)]
enum State {
    Growing,
    Whole(Arc<Listing>),
    TooLarge,
    Failed(OriginError),
}

impl Home {
    pub(super) fn new(runtime: Runtime, origins: Origins, room: &Arc<NameRoom>) -> Self {
        let inner = Arc::new(Inner {
            runtime,
            origins,
            room: room.clone(),
            shelf: Mutex::new(Shelf::new(room)),
            lookups: Mutex::default(),
            listings: Mutex::default(),
            running: Semaphore::new(LISTINGS_MAX),
            counters: Counters::default(),
        });
        let weak: Weak<Inner> = Arc::downgrade(&inner);
        room.register(weak);
        Self(inner)
    }

    /// What a name is, not older than `max_age` unless the origin can't be reached.
    pub(super) async fn lookup(
        &self,
        volume: VolumeId,
        dir: &DirPath,
        name: &EntryName,
        max_age: Duration,
        deadline: Instant,
    ) -> Result<Dated<Looked>, ErrorKind> {
        let home = &self.0;
        let origin = home.origins.get(volume).ok_or(ErrorKind::UnknownVolume)?;
        let at: DirKey = (volume, dir.clone());
        let now = home.runtime.clock.now();
        let old = home.shelf.lock().find(&at, name);
        if let Some(answer) = old.clone().filter(|old| is_fresh(old.as_of, max_age, now)) {
            count(&home.counters.remembered);
            return Ok(answer);
        }
        if let Some(answer) = home.growing(&at, name, max_age, now) {
            count(&home.counters.remembered);
            return Ok(answer);
        }
        let busy = home
            .remember(|shelf| shelf.is_busy(&at, now) && shelf.large(&at).is_none_or(|since| now - since >= LARGE_FOR));
        if busy && !home.listings.lock().contains_key(&at) {
            self.start(&at, &origin);
        }
        let flight = self.flight(&at, name, &origin, old.clone(), max_age, now)?;
        match follow(flight, deadline).await {
            Ok(answer) => Ok(answer),
            Err(error) => home.stale(error, old, max_age),
        }
    }

    /// Names after a position, of a listing not older than `max_age` when it is begun, unless the origin can't be reached.
    pub(super) async fn list(
        &self,
        volume: VolumeId,
        dir: &DirPath,
        after: Option<&str>,
        max_age: Duration,
        deadline: Instant,
    ) -> Result<Dated<Part>, ErrorKind> {
        let home = &self.0;
        let origin = home.origins.get(volume).ok_or(ErrorKind::UnknownVolume)?;
        let at: DirKey = (volume, dir.clone());
        let now = home.runtime.clock.now();
        let max_age = if after.is_some() { max_age.max(READ_WITHIN) } else { max_age };
        let (held, large) = {
            let mut shelf = home.shelf.lock();
            (shelf.listing(&at), shelf.large(&at).is_some_and(|since| now - since < LARGE_FOR))
        };
        if let Some(listing) = held.as_ref().filter(|listing| is_fresh(listing.as_of(), max_age, now)) {
            count(&home.counters.remembered);
            return Ok(Dated { value: listing.part(after), as_of: listing.as_of() });
        }
        let part = if large {
            self.page(&origin, dir, after, deadline).await
        } else {
            self.read(&at, &origin, after, max_age, deadline).await
        };
        let held = held.map(|listing| Dated { value: listing.part(after), as_of: listing.as_of() });
        part.or_else(|error| home.stale(error, held, max_age))
    }

    pub(super) fn counts(&self) -> HomeCounts {
        let counters = &self.0.counters;
        let shelf = self.0.shelf.lock();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let wide = |n: usize| u64::try_from(n).expect("a length fits u64");
        HomeCounts {
            remembered: get(&counters.remembered),
            asked: get(&counters.asked),
            listings: get(&counters.listings),
            stale: get(&counters.stale),
            clashes: get(&counters.clashes),
            dirs: wide(shelf.dirs()),
            bytes: wide(shelf.bytes()),
            evicted: shelf.evicted(),
        }
    }

    /// Joins the lookup that is under way and fresh enough, or starts one.
    fn flight(
        &self,
        at: &DirKey,
        name: &EntryName,
        origin: &Arc<VolumeOrigin>,
        old: Option<Dated<Looked>>,
        max_age: Duration,
        now: Instant,
    ) -> Result<watch::Receiver<Option<Answer>>, ErrorKind> {
        let mut lookups = self.0.lookups.lock();
        let key = (at.clone(), name.clone());
        if let Some((as_of, flight)) = lookups.get(&key)
            && is_fresh(*as_of, max_age, now)
        {
            return Ok(flight.clone());
        }
        if lookups.len() >= FLIGHTS_MAX {
            return Err(ErrorKind::Busy);
        }
        count(&self.0.counters.asked);
        let (landed, flight) = watch::channel(None);
        lookups.insert(key.clone(), (now, flight.clone()));
        let (home, origin) = (self.0.clone(), origin.clone());
        self.0.runtime.tasks.spawn(async move {
            let ((_, dir), name) = &key;
            let asked = home.ask(&origin, dir, name, old.map(|old| old.value), now + LOOKUP_WITHIN).await;
            let answer = asked.map(|value| Dated { value, as_of: now });
            if let Ok(answer) = &answer {
                home.remember(|shelf| shelf.learn(&key.0, name, answer.clone()));
            }
            let mut lookups = home.lookups.lock();
            if lookups.get(&key).is_some_and(|(as_of, _)| *as_of == now) {
                lookups.remove(&key);
            }
            landed.send_replace(Some(answer));
        });
        Ok(flight)
    }

    /// Follows the listing that is under way and fresh enough, or starts one.
    async fn read(
        &self,
        at: &DirKey,
        origin: &Arc<VolumeOrigin>,
        after: Option<&str>,
        max_age: Duration,
        deadline: Instant,
    ) -> Result<Dated<Part>, OriginError> {
        let now = self.0.runtime.clock.now();
        let under_way = self.0.listings.lock().get(at).filter(|run| is_fresh(run.as_of, max_age, now)).cloned();
        let run = under_way.unwrap_or_else(|| self.start(at, origin));
        let mut changes = run.state.subscribe();
        loop {
            let state = changes.borrow_and_update().clone();
            match state {
                State::Whole(listing) => return Ok(Dated { value: listing.part(after), as_of: run.as_of }),
                State::TooLarge => return self.page(origin, &at.1, after, deadline).await,
                State::Failed(error) => return Err(error),
                State::Growing => {
                    let part = run.growing.lock().as_ref().and_then(|growing| growing.part(after));
                    if let Some(value) = part {
                        return Ok(Dated { value, as_of: run.as_of });
                    }
                }
            }
            match timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(OriginError::Deadline), // the agent shuts down
                Err(_) => return Err(OriginError::Deadline),
            }
        }
    }

    /// Starts a listing, which goes on by itself; an older one goes on too, for those who follow it.
    fn start(&self, at: &DirKey, origin: &Arc<VolumeOrigin>) -> Arc<Run> {
        let now = self.0.runtime.clock.now();
        let mut listings = self.0.listings.lock();
        count(&self.0.counters.listings);
        let run = Arc::new(Run {
            as_of: now,
            growing: Mutex::new(Some(Growing::new())),
            state: watch::Sender::new(State::Growing),
        });
        listings.insert(at.clone(), run.clone());
        let (home, at, origin, runs) = (self.0.clone(), at.clone(), origin.clone(), run.clone());
        self.0.runtime.tasks.spawn(async move {
            let end = home.run(&at, &origin, &runs).await;
            let mut listings = home.listings.lock();
            if listings.get(&at).is_some_and(|run| Arc::ptr_eq(run, &runs)) {
                listings.remove(&at);
            }
            runs.state.send_replace(end);
        });
        run
    }

    /// One page of a directory that is too large to be held.
    async fn page(
        &self,
        origin: &VolumeOrigin,
        dir: &DirPath,
        after: Option<&str>,
        deadline: Instant,
    ) -> Result<Dated<Part>, OriginError> {
        let as_of = self.0.runtime.clock.now();
        let mut from = after.map(|after| Cursor::After(after.into()));
        loop {
            let page = origin.list(dir, from.as_ref(), limit(), deadline).await?;
            let next = page.next.clone();
            let mut names = in_order(page);
            let mut clashes = settle_clashes(&mut names, 0);
            let horizon = names.last().map(key);
            if let (Some(horizon), Some(_)) = (&horizon, &next) {
                clashes += self.settle_tail(origin, dir, &mut names, horizon, deadline).await?;
            }
            self.0.counters.clashes.fetch_add(clashes, Ordering::Relaxed);
            match (horizon, next) {
                (_, None) => return Ok(Dated { value: Part { entries: names, next: None }, as_of }),
                (Some(horizon), Some(_)) if !names.is_empty() => {
                    return Ok(Dated { value: Part { entries: names, next: Some(horizon.into()) }, as_of });
                }
                // Nothing but odd keys: the reader needs at least one name.
                (_, Some(next)) => from = Some(next),
            }
        }
    }

    /// The last files of a page may have a directory of their name on the next one: that must be asked for.
    async fn settle_tail(
        &self,
        origin: &VolumeOrigin,
        dir: &DirPath,
        names: &mut Vec<(EntryName, Looked)>,
        horizon: &str,
        deadline: Instant,
    ) -> Result<u64, OriginError> {
        let open: Vec<usize> = uncertain(names, horizon).collect();
        let mut clashes = 0;
        for position in open.into_iter().rev() {
            if let Ok(child) = dir.child(&names[position].0)
                && origin.dir_exists(&child, deadline).await?
            {
                names.remove(position);
                clashes += 1;
            }
        }
        Ok(clashes)
    }
}

impl Holder for Inner {
    fn held_bytes(&self) -> usize {
        self.shelf.lock().bytes()
    }

    fn give_up(&self, bytes: usize) {
        self.shelf.lock().give_up(bytes);
    }
}

impl Inner {
    /// Changes what is remembered, then makes it fit.
    fn remember<T>(&self, change: impl FnOnce(&mut Shelf) -> T) -> T {
        let result = change(&mut self.shelf.lock());
        self.room.settle();
        result
    }

    /// What a growing listing knows for certain.
    fn growing(&self, at: &DirKey, name: &EntryName, max_age: Duration, now: Instant) -> Option<Dated<Looked>> {
        let run = self.listings.lock().get(at).cloned()?;
        let growing = run.growing.lock();
        let value = growing.as_ref().filter(|_| is_fresh(run.as_of, max_age, now))?.find(name)?;
        Some(Dated { value, as_of: run.as_of })
    }

    /// Brings all pages; says how it ended.
    async fn run(&self, at: &DirKey, origin: &VolumeOrigin, run: &Run) -> State {
        let deadline = run.as_of + LISTING_WITHIN;
        let Ok(Ok(_running)) = timeout_at(deadline, self.running.acquire()).await else {
            return State::Failed(OriginError::Deadline);
        };
        let (mut from, mut share) = (None, self.room.share());
        loop {
            let page = match origin.list(&at.1, from.as_ref(), limit(), deadline).await {
                Ok(page) => page,
                Err(error) => return State::Failed(error),
            };
            from = page.next.clone();
            let mut growing = run.growing.lock();
            let Some(listing) = growing.as_mut() else { break };
            listing.push(page);
            share.set(listing.bytes());
            let is_long = listing.names() > LISTED_NAMES_MAX || listing.bytes() > self.room.listing_bytes_max();
            let too_large = is_long || !self.room.settle();
            match (too_large, from.is_some()) {
                (true, _) => {
                    self.counters.clashes.fetch_add(listing.clashes(), Ordering::Relaxed);
                    *growing = None;
                    self.remember(|shelf| shelf.learn_large(at, run.as_of));
                    return State::TooLarge;
                }
                (false, true) => {
                    drop(growing);
                    run.state.send_replace(State::Growing);
                }
                (false, false) => {
                    let Some(listing) = growing.take() else { break };
                    let (listing, clashes) = listing.finish(run.as_of);
                    self.counters.clashes.fetch_add(clashes, Ordering::Relaxed);
                    drop(share);
                    self.remember(|shelf| shelf.learn_listing(at, listing.clone()));
                    return State::Whole(listing);
                }
            }
        }
        State::Failed(OriginError::Deadline)
    }

    /// Asks the origin about one name; `old` is what it was, if that is known.
    async fn ask(
        &self,
        origin: &VolumeOrigin,
        dir: &DirPath,
        name: &EntryName,
        old: Option<Looked>,
        deadline: Instant,
    ) -> Result<Looked, OriginError> {
        let (Ok(key), Ok(child)) = (dir.file(name), dir.child(name)) else { return Ok(Looked::Absent) };
        match old {
            Some(Looked::File(_)) => match origin.head(&key, deadline).await {
                Ok(Some(info)) => return Ok(Looked::File(info)),
                Ok(None) if origin.dir_exists(&child, deadline).await? => return Ok(Looked::Dir),
                Ok(None) => return Ok(Looked::Absent),
                // A refused HEAD has no document: a LIST says what is the matter.
                Err(OriginError::AccessDenied | OriginError::Protocol(_)) => {}
                Err(error) => return Err(error),
            },
            Some(Looked::Dir) => {
                return Ok(match origin.dir_exists(&child, deadline).await? {
                    true => Looked::Dir,
                    false => origin.head(&key, deadline).await?.map_or(Looked::Absent, Looked::File),
                });
            }
            Some(Looked::Absent) | None => {}
        }
        let (file, is_dir) = tokio::join!(origin.head(&key, deadline), origin.dir_exists(&child, deadline));
        // The answer to a LIST says more about a failure than that to a HEAD, which has no document.
        match (is_dir?, file?) {
            (true, file) => {
                self.counters.clashes.fetch_add(u64::from(file.is_some()), Ordering::Relaxed);
                Ok(Looked::Dir)
            }
            (false, Some(info)) => Ok(Looked::File(info)),
            (false, None) => Ok(Looked::Absent),
        }
    }

    /// What is told when the origin fails: the old answer, if there is one and the failure allows it.
    fn stale<T>(&self, error: OriginError, old: Option<Dated<T>>, max_age: Duration) -> Result<Dated<T>, ErrorKind> {
        let allowed = match error {
            OriginError::Unreachable(_) | OriginError::Throttled | OriginError::Deadline => !max_age.is_zero(),
            OriginError::AccessDenied | OriginError::BadCredentials | OriginError::NoSuchBucket => false,
            OriginError::Changed | OriginError::NotFound | OriginError::Protocol(_) => false,
        };
        match old.filter(|_| allowed) {
            Some(old) => {
                count(&self.counters.stale);
                Ok(old)
            }
            None => Err(error.kind()),
        }
    }
}

/// Waits for a lookup that somebody started.
async fn follow(mut flight: watch::Receiver<Option<Answer>>, deadline: Instant) -> Answer {
    match timeout_at(deadline, flight.wait_for(Option::is_some)).await {
        Ok(Ok(answer)) => answer.clone().unwrap_or(Err(OriginError::Deadline)),
        Ok(Err(_)) | Err(_) => Err(OriginError::Deadline),
    }
}

/// Nothing is as of now but what is asked for now.
fn is_fresh(as_of: Instant, max_age: Duration, now: Instant) -> bool {
    now.saturating_duration_since(as_of) < max_age
}

fn limit() -> u16 {
    u16::try_from(PAGE_NAMES_MAX).expect("1,000")
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
