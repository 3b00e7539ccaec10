//! Drives one flight: memory, places in order, bytes into memory and store, followers told. Does what the state machine
//! in `flight.rs` says and decides nothing itself.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use larder_proto::error::ErrorKind;
use larder_proto::ids::NodeName;
use larder_proto::limits::CHUNK_BYTES_MAX;
use larder_proto::map::NodeState;
use larder_proto::object::Chunk;
use larder_proto::wire::RequestId;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};

use super::Inner;
use super::budget::{Budget, Grant, Source};
use super::counters::{add, one};
use super::flight::{Action, Event, HopFailure, Machine, State, Waits};
use super::hops::{Ask, Place};
use super::route::{self, Hop, Owner, Stored, View};
use super::table::{Flight, Leading, Stage};
use super::writer::{Outcome, Writer};
use crate::replica::{OwnerNode, Owners};
use crate::runtime::disk::BufferPool;
use crate::store::Giver;

/// The memory that flights land in. Its bound is the budget's; one chunk of any size always fits.
pub(super) fn pool(budget: &Budget) -> BufferPool {
    let bytes = budget.bytes().max(u64::from(CHUNK_BYTES_MAX));
    BufferPool::new(usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// Fails the flight if its driver ends without a word (it panicked, or the agent stops): nobody waits for it then.
struct Driven<'a> {
    inner: &'a Inner,
    flight: &'a Arc<Flight>,
}

impl Drop for Driven<'_> {
    fn drop(&mut self) {
        if self.flight.progress.borrow().stage == Stage::Flying {
            self.inner.flights.remove(self.flight);
            self.flight.progress.send_modify(|progress| progress.stage = Stage::Failed(ErrorKind::Internal));
        }
    }
}

/// How long what has landed stays in memory for a store that has not taken it yet: whoever came meanwhile would find it
/// nowhere and ask the origin once more. A store that takes longer (it hangs) doesn't get memory for that.
const SETTLES_WITHIN: Duration = Duration::from_secs(1);

/// Lets a flight that has landed leave memory, however its driver ends.
struct Unsettled<'a> {
    inner: &'a Inner,
    flight: Weak<Flight>,
}

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        let Some(flight) = self.flight.upgrade() else { return };
        self.inner.flights.settled(&flight);
        if self.inner.somebody_waits_for_memory() {
            self.inner.evict_one();
        }
    }
}

/// Says, however a driver ends, that the store has what landed or won't have it.
struct TellsStore(Arc<watch::Sender<bool>>);

impl Drop for TellsStore {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// A chunk that has landed, without its bytes: those are the flight's, for as long as it is kept.
struct Landed {
    chunk: Chunk,
    /// Whether the origin gave it.
    filled: bool,
    /// The peers that were sent all of it by then.
    taken_by: Vec<NodeName>,
    flight: Weak<Flight>,
}

/// What came of waiting for a place.
enum Waited<T> {
    /// It answered.
    Answered(T),
    /// The machine wants something else now.
    Over(Action),
}

impl Inner {
    /// Starts the driver of a new flight.
    pub(super) fn start(self: &Arc<Self>, flight: Arc<Flight>, request: RequestId) {
        let inner = self.clone();
        self.runtime.tasks.spawn(async move { inner.drive(flight, request).await });
    }

    async fn drive(self: Arc<Self>, flight: Arc<Flight>, request: RequestId) {
        let _tells = TellsStore(flight.store_told.clone());
        // A store may take long, or hang. Who waits for it has let go of the flight: its memory is for others.
        if let Some((landed, writer)) = self.fly(flight, request).await {
            self.finish(landed, writer).await;
        }
    }

    /// Brings the chunk into memory; nothing when no place gave it.
    async fn fly(self: &Arc<Self>, flight: Arc<Flight>, request: RequestId) -> Option<(Landed, Writer)> {
        let _driven = Driven { inner: self, flight: &flight };
        let waits = self.waits(flight.chunk(), flight.leading);
        let mut machine = Machine::new(u64::from(flight.chunk().len()), waits);
        let (mut owners, hops) = self.route_of(flight.chunk(), flight.leading);
        let Some(grant) = self.memory_for(&flight, source_of(&hops), waits.memory).await else {
            self.fail(&flight, ErrorKind::DeadlineExceeded);
            return None;
        };
        flight.landing.count_under(grant);
        let mut writer = Writer::default();
        let mut action = machine.step(Event::Routed(hops), self.now());
        loop {
            action = match action {
                Action::Ask(hop) => {
                    let hedging = machine.hedging();
                    let ask = Ask { request, owners: &owners, leading: flight.leading, hedging };
                    self.ask(&flight, &mut machine, &mut writer, hop, &ask).await
                }
                Action::Continue => machine.step(Event::Tick, self.now()),
                Action::Rest(pause) => {
                    self.told_of_failure(&flight, &machine);
                    if self.rest(&flight, pause).await {
                        let hops;
                        (owners, hops) = self.route_of(flight.chunk(), flight.leading);
                        machine.step(Event::Routed(hops), self.now())
                    } else {
                        machine.step(Event::Unwanted, self.now())
                    }
                }
                Action::Finish => return Some((self.landed(&flight), writer)),
                Action::GiveUp(kind) => {
                    self.fail(&flight, kind);
                    return None;
                }
            };
        }
    }

    /// The chunk's owners and hops, as map and store are now.
    pub(super) fn route_of(&self, chunk: &Chunk, leading: Leading) -> (Owners, Vec<Hop>) {
        let owners = self.replicator.owners(chunk);
        let stored = match (self.stores.has(&chunk.id()), self.stores.is_slow(&chunk.id())) {
            (false, _) => Stored::No,
            (true, false) => Stored::Yes,
            (true, true) => Stored::Slow,
        };
        let known: Vec<Owner> = owners.nodes.iter().map(|node| self.owner(node, &owners, leading)).collect();
        let hops = route::route(&View { this: owners.this, owners: &known, former: &owners.former, stored });
        (owners, hops)
    }

    /// What the flight's places are given, as the volume's readers wait.
    pub(super) fn waits(&self, chunk: &Chunk, leading: Leading) -> Waits {
        Waits::of(self.replicator.read_deadline(chunk.object().volume()), leading)
    }

    /// What is free, or held by flights that are over.
    fn memory_at_once(&self, len: u64, source: Source) -> Option<Grant> {
        loop {
            if let Some(grant) = self.budget.try_take(len, source) {
                return Some(grant);
            }
            if !self.evict_one() {
                return None;
            }
        }
    }

    /// Memory for the whole chunk; nothing when everybody has left meanwhile. Peers are told each time it took `patience`.
    async fn memory_for(&self, flight: &Arc<Flight>, source: Source, patience: Duration) -> Option<Grant> {
        let len = u64::from(flight.chunk().len());
        if let Some(grant) = self.memory_at_once(len, source) {
            return Some(grant);
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let grant = async {
            // Flights that landed between the look above and this line saw nobody waiting and kept their memory.
            if let Some(grant) = self.memory_at_once(len, source) {
                return Some(grant);
            }
            let mut take = pin!(self.budget.take(len, source));
            loop {
                tokio::select! { biased;
                    grant = &mut take => break Some(grant),
                    () = flight.left.notified() => if self.flights.remove_if(flight, |flight| !flight.is_wanted()) { break None },
                    () = sleep(patience) => flight.tell_failed_round(Some(ErrorKind::Busy)),
                }
            }
        }
        .await;
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        grant
    }

    /// Asks one place for what hasn't landed; returns what to do when it has given all, failed or stalled.
    async fn ask(
        &self,
        flight: &Arc<Flight>,
        machine: &mut Machine,
        writer: &mut Writer,
        hop: Hop,
        ask: &Ask<'_>,
    ) -> Action {
        *flight.hop.lock() = Some(hop.clone());
        flight.landing.rewind();
        let from = flight.landing.landed();
        let mut place = match self.wait(flight, machine, self.open(flight.chunk(), &hop, from, ask).boxed()).await {
            Waited::Answered(Ok(place)) => place,
            Waited::Answered(Err(failure)) => return self.after_failure(machine, failure),
            Waited::Over(action) => return action,
        };
        if let Some(other) = place.hedge_of(&hop) {
            *flight.hop.lock() = Some(Hop::Have(other));
            machine.step(Event::Hedged(other), self.now());
        }
        loop {
            let piece = match self.wait(flight, machine, place.next(self, flight.chunk()).boxed()).await {
                Waited::Answered(Ok(piece)) => piece,
                Waited::Answered(Err(failure)) => return self.after_failure(machine, failure),
                Waited::Over(action) => return action,
            };
            let before = flight.landing.landed();
            match piece.crcs {
                Some(crcs) => flight.landing.land_checked(&self.pool, piece.bytes, crcs).await,
                None => flight.landing.land(&self.pool, &piece.bytes).await,
            };
            let landed = flight.landing.landed();
            self.count_landed(&place, landed - before);
            if ask.owners.includes_this() && !matches!(place, Place::Store { .. }) {
                let giver = if matches!(place, Place::Origin(_)) { Giver::Origin } else { Giver::Node };
                writer.write(self, &flight.landing, giver);
            }
            flight.progress.send_modify(|progress| progress.landed = landed);
            let action = machine.step(Event::Bytes(landed), self.now());
            if action != Action::Continue {
                return action;
            }
        }
    }

    /// Waits for a place, as long as the machine has patience and somebody wants the bytes.
    async fn wait<T>(&self, flight: &Arc<Flight>, machine: &mut Machine, mut place: BoxFuture<'_, T>) -> Waited<T> {
        loop {
            let Some(expires) = machine.expires() else { return Waited::Over(machine.step(Event::Tick, self.now())) };
            let event = tokio::select! { biased;
                answer = &mut place => return Waited::Answered(answer),
                () = sleep_until(expires) => Event::Tick,
                () = flight.left.notified() => {
                    if machine.keeps_what_it_asked() || !self.flights.remove_if(flight, |flight| !flight.is_wanted()) {
                        continue;
                    }
                    Event::Unwanted
                }
            };
            if event == Event::Tick {
                one(&self.counters.abandoned);
            }
            let action = machine.step(event, self.now());
            if action != Action::Continue {
                return Waited::Over(action);
            }
        }
    }

    fn after_failure(&self, machine: &mut Machine, failure: HopFailure) -> Action {
        match failure {
            HopFailure::Unreachable => one(&self.counters.unreachable),
            HopFailure::Broken => one(&self.counters.abandoned),
            HopFailure::Refused(_) => {}
        }
        machine.step(Event::Failed(failure), self.now())
    }

    /// Tells the followers that no place has answered; peers leave then, readers wait on.
    fn told_of_failure(&self, flight: &Flight, machine: &Machine) {
        *flight.hop.lock() = None;
        let last = match machine.state() {
            State::Resting { kind } => *kind,
            State::Asking { .. } | State::Streaming { .. } | State::Landed | State::Failed(_) => None,
        };
        flight.tell_failed_round(last);
    }

    /// Pauses between two rounds; `false` when no reader waits for another.
    async fn rest(&self, flight: &Arc<Flight>, pause: Duration) -> bool {
        if self.flights.remove_if(flight, |flight| !flight.has_readers()) {
            return false;
        }
        sleep(pause).await;
        !self.flights.remove_if(flight, |flight| !flight.has_readers())
    }

    /// Every byte is in memory: followers are told.
    fn landed(&self, flight: &Arc<Flight>) -> Landed {
        flight.progress.send_modify(|progress| {
            progress.landed = u64::from(flight.chunk().len());
            progress.stage = Stage::Landed;
        });
        let filled = matches!(flight.asked(), Some(Hop::Origin(_)));
        if filled {
            one(&self.counters.filled);
        }
        let (chunk, taken_by) = (flight.chunk().clone(), flight.taken_by());
        Landed { chunk, filled, taken_by, flight: Arc::downgrade(flight) }
    }

    /// Waits until the store has what landed, or has given up; then the other owners get their copies.
    async fn finish(&self, landed: Landed, writer: Writer) {
        let unsettled = Unsettled { inner: self, flight: landed.flight.clone() };
        let mut stored = pin!(writer.finish());
        let soon = timeout(SETTLES_WITHIN, &mut stored).await;
        drop(unsettled);
        let outcome = match soon {
            Ok(outcome) => outcome,
            Err(_) => stored.await,
        };
        let wanted = match outcome {
            Outcome::Stored => true,
            Outcome::NotStored => self.replicator.owners(&landed.chunk).includes_this(),
            Outcome::Unwanted => false,
        };
        if landed.filled && wanted {
            self.push_copies(landed);
        }
    }

    fn push_copies(&self, landed: Landed) {
        let taken_by = landed.flight.upgrade().map_or(landed.taken_by, |flight| flight.taken_by());
        let flight = landed.flight;
        let pieces = move || flight.upgrade()?.landing.all_checksummed();
        self.replicator.push(landed.chunk, &taken_by, Box::new(pieces));
    }

    fn fail(&self, flight: &Arc<Flight>, kind: ErrorKind) {
        self.flights.remove(flight);
        flight.progress.send_modify(|progress| progress.stage = Stage::Failed(kind));
        if self.somebody_waits_for_memory() {
            self.evict_one();
        }
    }

    fn count_landed(&self, place: &Place, bytes: u64) {
        let counter = match place {
            Place::Store { .. } => &self.counters.bytes_store,
            Place::Peer { .. } => &self.counters.bytes_peer,
            Place::Origin(_) => &self.counters.bytes_origin,
        };
        add(counter, bytes);
    }
}

/// Whether other nodes may have to bring the bytes.
fn source_of(hops: &[Hop]) -> Source {
    let remote = hops.iter().any(|hop| matches!(hop, Hop::Have(_) | Hop::Fill(_)));
    if remote { Source::Remote } else { Source::Own }
}

impl Inner {
    /// The owner as the route sees it. A Fill that was passed on to us makes us the lead, whatever our map says.
    fn owner(&self, node: &OwnerNode, owners: &Owners, leading: Leading) -> Owner {
        let serving = match leading {
            Leading::Map | Leading::Asked => node.state == NodeState::Serving,
            Leading::Passed => Some(node.id) == owners.this,
        };
        Owner { id: node.id, serving, near: node.near, slow: self.peers.is_slow(node.id) }
    }
}
