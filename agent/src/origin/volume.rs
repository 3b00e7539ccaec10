//! One volume's origin as the rest of the agent sees it: deadlines, retries, circuit, bounds and numbers around single attempts.
//!
//! An attempt has [`ANSWER_WITHIN`] to begin its answer, and a body must make [`PROGRESS_BYTES`] in [`PROGRESS_WITHIN`]
//! of waiting. A request is tried [`TRIES`] times at most, within the caller's deadline and the origin's retry budget; a
//! body that breaks goes on where it broke, with the same version. At most [`REQUESTS_IN_FLIGHT_MAX`] requests are on
//! their way to one origin; who comes later waits, to its deadline.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use larder_proto::control::OriginState;
use larder_proto::limits::PAGE_NAMES_MAX;
use larder_proto::object::{DirPath, ObjectKey, Version};
use larder_proto::range::ByteRange;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::budget::Budget;
use super::counters::{Counters, Snapshot, State};
use super::{Cursor, ObjectInfo, Origin, OriginError, Page, Protocol, Unreachable};
use crate::runtime::circuit::{Circuit, Verdict};
use crate::runtime::{Clock, Rng, Runtime};

mod body;

pub use body::Body;

/// Attempts of one request. S3's own clients make 3.
pub const TRIES: u32 = 3;

/// How long an attempt may be silent. Far above S3's slowest first bytes, far below a reader's patience.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A silence shorter than this, cut by the caller's deadline, says nothing about the origin.
const SILENCE_THAT_TELLS: Duration = Duration::from_secs(1);

/// How long a body may take for the next [`PROGRESS_BYTES`]; only time spent waiting counts.
pub const PROGRESS_WITHIN: Duration = Duration::from_secs(5);

/// What a body must bring in that time: 3 KiB/s, slower than any link worth waiting for.
pub const PROGRESS_BYTES: u64 = 16 * 1024;

/// Requests on their way to one origin, bodies included. Fills of 4 MiB at 20 ms keep 10 Gbit/s busy with fewer.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 128;

/// The first pause is up to this long, the next up to twice that.
const BACKOFF: Duration = Duration::from_millis(50);

/// The same after the origin asked for less.
const BACKOFF_THROTTLED: Duration = Duration::from_millis(200);

/// A volume's origin.
pub struct VolumeOrigin {
    backend: ArcSwap<Result<Arc<dyn Origin>, OriginError>>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    circuit: Mutex<Circuit>,
    budget: Mutex<Budget>,
    in_flight: Arc<Semaphore>,
    known: Mutex<OriginState>,
    counters: Counters,
}

/// What an attempt is, for its counter.
#[derive(Clone, Copy)]
enum Verb {
    Get,
    Head,
    List,
}

impl VolumeOrigin {
    /// An origin that was opened, or why it couldn't be: then every request fails with that.
    pub fn new(runtime: &Runtime, opened: Result<Arc<dyn Origin>, OriginError>) -> Self {
        Self::with(runtime.clock.clone(), runtime.rng.clone(), opened)
    }

    fn with(clock: Arc<dyn Clock>, rng: Arc<dyn Rng>, opened: Result<Arc<dyn Origin>, OriginError>) -> Self {
        Self {
            backend: ArcSwap::from_pointee(opened),
            clock,
            rng,
            circuit: Mutex::new(Circuit::new()),
            budget: Mutex::new(Budget::new()),
            in_flight: Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT_MAX)),
            known: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Later attempts use this one: the same place with other credentials.
    pub(super) fn replace(&self, opened: Result<Arc<dyn Origin>, OriginError>) {
        self.backend.store(Arc::new(opened));
    }

    /// Exactly the bytes of `range` of `key` at `version`; returns once the origin's answer is known to be that.
    ///
    /// The deadline covers the body too. Dropping the body stops it.
    pub async fn get(
        self: &Arc<Self>,
        key: &ObjectKey,
        version: &Version,
        range: ByteRange,
        deadline: Instant,
    ) -> Result<Body, OriginError> {
        let mut body = Body::new(self.clone(), key.clone(), version.clone(), range, deadline);
        body.open().await?;
        Ok(body)
    }

    /// What the key has now; `None` when there is no such object.
    pub async fn head(&self, key: &ObjectKey, deadline: Instant) -> Result<Option<ObjectInfo>, OriginError> {
        let _permit = self.permit(deadline).await?;
        let mut tries = Tries::new();
        self.attempts(Verb::Head, &mut tries, deadline, |origin| async move { origin.head(key).await }).await
    }

    /// Names in a directory; at most `limit` keys (1 to 1,000) are looked at.
    pub async fn list(
        &self,
        dir: &DirPath,
        from: Option<&Cursor>,
        limit: u16,
        deadline: Instant,
    ) -> Result<Page, OriginError> {
        let limit = limit.clamp(1, u16::try_from(PAGE_NAMES_MAX).expect("1,000"));
        let _permit = self.permit(deadline).await?;
        let mut tries = Tries::new();
        let list = |origin: Arc<dyn Origin>| async move { origin.list(dir, from, limit).await };
        let page = self.attempts(Verb::List, &mut tries, deadline, list).await?;
        self.counters.left_out(&page.left_out);
        Ok(page)
    }

    /// Whether anything is below the directory. The root of a bucket that answers always exists.
    pub async fn dir_exists(&self, dir: &DirPath, deadline: Instant) -> Result<bool, OriginError> {
        let _permit = self.permit(deadline).await?;
        let mut tries = Tries::new();
        let list = |origin: Arc<dyn Origin>| async move { origin.list(dir, None, 1).await };
        let page = self.attempts(Verb::List, &mut tries, deadline, list).await?;
        Ok(dir.is_root() || !page.is_empty())
    }

    /// The numbers of this moment.
    pub fn snapshot(&self) -> Snapshot {
        self.counters.snapshot(self.state(), self.known())
    }

    /// What the last request showed. One that was given up, or cut by its own deadline, shows nothing.
    pub fn known(&self) -> OriginState {
        *self.known.lock()
    }

    /// Whether it is asked at all.
    pub fn state(&self) -> State {
        match *self.circuit.lock() {
            Circuit::Closed { .. } => State::Closed,
            Circuit::Open { .. } | Circuit::Probing { .. } => State::Open,
        }
    }

    async fn permit(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, OriginError> {
        let permit = timeout_at(deadline, self.in_flight.clone().acquire_owned()).await;
        Ok(permit.map_err(|_| OriginError::Deadline)?.expect("the semaphore is never closed"))
    }

    /// Attempts until one succeeds, fails for good, or tries, budget or time are used up.
    async fn attempts<T, F: Future<Output = Result<T, OriginError>>>(
        &self,
        verb: Verb,
        tries: &mut Tries,
        deadline: Instant,
        attempt: impl Fn(Arc<dyn Origin>) -> F,
    ) -> Result<T, OriginError> {
        loop {
            let error = match self.attempt(verb, tries, deadline, &attempt).await {
                Ok(value) => {
                    *self.known.lock() = OriginState::Answers;
                    return Ok(value);
                }
                Err(error) => error,
            };
            self.pause(tries, error, deadline).await?;
        }
    }

    /// Waits before the next attempt after `error`, or fails with what the caller is told.
    async fn pause(&self, tries: &mut Tries, error: OriginError, deadline: Instant) -> Result<(), OriginError> {
        let wake = self.clock.now() + self.backoff(tries.made, error);
        if !error.is_passing() || tries.made >= TRIES || wake >= deadline {
            return Err(self.told(error));
        }
        if !self.budget.lock().retry() {
            Counters::add(&self.counters.retries_denied, 1);
            return Err(self.told(error));
        }
        sleep_until(wake).await;
        Ok(())
    }

    /// The error as the caller sees it, once no other attempt follows.
    fn told(&self, error: OriginError) -> OriginError {
        match error {
            OriginError::Deadline => {}
            OriginError::Changed | OriginError::NotFound => *self.known.lock() = OriginState::Answers,
            OriginError::AccessDenied
            | OriginError::BadCredentials
            | OriginError::NoSuchBucket
            | OriginError::Unreachable(_)
            | OriginError::Throttled
            | OriginError::Protocol(_) => *self.known.lock() = OriginState::Fails(error.kind()),
        }
        match error {
            // An origin that ignores If-Match and has another version, again and again: it changed.
            OriginError::Protocol(Protocol::Version) => OriginError::Changed,
            other => other,
        }
    }

    fn backoff(&self, made: u32, error: OriginError) -> Duration {
        let base = if error == OriginError::Throttled { BACKOFF_THROTTLED } else { BACKOFF };
        let bound = base * (1 << made.saturating_sub(1).min(4));
        let micros = u64::try_from(bound.as_micros()).expect("below 4 s");
        Duration::from_micros(self.rng.next_u64() % micros)
    }

    async fn attempt<T, F: Future<Output = Result<T, OriginError>>>(
        &self,
        verb: Verb,
        tries: &mut Tries,
        deadline: Instant,
        attempt: &impl Fn(Arc<dyn Origin>) -> F,
    ) -> Result<T, OriginError> {
        let backend = self.backend.load_full();
        let origin = (*backend).as_ref().map_err(|error| *error)?;
        let probe = self.admit()?;
        self.count(verb, tries);
        let began = self.clock.now();
        let until = deadline.min(began + ANSWER_WITHIN);
        let result = match timeout_at(until, attempt(origin.clone())).await {
            Ok(result) => result,
            Err(_) if deadline <= until && until - began < SILENCE_THAT_TELLS => Err(OriginError::Deadline),
            Err(_) => Err(OriginError::Unreachable(Unreachable::Silent)),
        };
        probe.settle(result.as_ref().err().copied());
        result
    }

    fn admit(&self) -> Result<Probe<'_>, OriginError> {
        if self.circuit.lock().admit(self.clock.now()) {
            Ok(Probe { origin: self, settled: false })
        } else {
            let error = OriginError::Unreachable(Unreachable::CircuitOpen);
            self.counters.error(error);
            Err(error)
        }
    }

    fn count(&self, verb: Verb, tries: &mut Tries) {
        let counter = match verb {
            Verb::Get => &self.counters.gets,
            Verb::Head => &self.counters.heads,
            Verb::List => &self.counters.lists,
        };
        Counters::add(counter, 1);
        if tries.made == 0 {
            self.budget.lock().request();
        } else {
            Counters::add(&self.counters.retries, 1);
        }
        tries.made += 1;
    }

    /// Takes in what an attempt, or a body, showed about the origin.
    fn observe(&self, error: Option<OriginError>) {
        if let Some(error) = error {
            self.counters.error(error);
        }
        let verdict = match error {
            None => Verdict::Alive,
            Some(OriginError::Unreachable(_) | OriginError::Throttled) => Verdict::Failed,
            Some(OriginError::Deadline) => Verdict::Unknown,
            Some(OriginError::AccessDenied | OriginError::BadCredentials | OriginError::NoSuchBucket) => Verdict::Alive,
            Some(OriginError::Changed | OriginError::NotFound | OriginError::Protocol(_)) => Verdict::Alive,
        };
        if self.circuit.lock().settle(verdict, self.clock.now()) {
            Counters::add(&self.counters.circuit_opened, 1);
        }
    }
}

/// Attempts of one request so far.
struct Tries {
    made: u32,
}

impl Tries {
    fn new() -> Self {
        Self { made: 0 }
    }
}

/// An attempt that the circuit let pass; a dropped one (its future was dropped) makes room for the next.
struct Probe<'a> {
    origin: &'a VolumeOrigin,
    settled: bool,
}

impl Probe<'_> {
    fn settle(mut self, error: Option<OriginError>) {
        self.settled = true;
        self.origin.observe(error);
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.origin.circuit.lock().settle(Verdict::Unknown, self.origin.clock.now());
        }
    }
}

#[cfg(test)]
mod tests;
