//! Answers to peers: bytes from a flight or the store, fills, and copies taken.
//!
//! A Have never starts anything, and follows only flights that wait for no other node: two nodes never wait for each
//! other's Have. A Fill follows whatever flight there is, unless that one waits for the asker (their maps differ): then
//! the asker is refused and goes on by itself. The asker is told of a flight's first failed round; it decides what next.

use std::sync::Arc;

use async_trait::async_trait;
use larder_proto::checksum::Checksummed;
use larder_proto::error::ErrorKind;
use larder_proto::ids::NodeName;
use larder_proto::limits::SEGMENT_BYTES;
use larder_proto::object::Chunk;
use larder_proto::range::ByteRange;
use larder_proto::wire::{ChunkRequest, PutRequest, Want};

use super::counters::{add, one};
use super::route::Hop;
use super::table::{Boarded, Leading, Patience, Progress, Seat, Stage};
use super::{Cache, Inner};
use crate::peer::{ChunkBody, Handler, PutBody};
use crate::store::{Bypass, Giver, StoreError, Wanted};

#[async_trait]
impl Handler for Cache {
    async fn chunk(&self, from: &NodeName, request: ChunkRequest) -> Result<Box<dyn ChunkBody>, ErrorKind> {
        let inner = &self.inner;
        let (chunk, range) = (request.chunk(), request.range());
        if let Some(seat) = inner.flights.join(&chunk.id(), Patience::Guest) {
            match inner.may_follow(&seat, from, &request) {
                Follow::Yes => return Ok(Box::new(Following::new(inner, seat, from, &request))),
                Follow::No => return Err(ErrorKind::Busy),
                Follow::StoreOnly => {}
            }
        }
        let first = ByteRange::at(range.start(), u64::from(SEGMENT_BYTES)).clamp(range.end());
        // A Have of a slow disk's chunk goes on to the next owner; a Fill asks the others first.
        if inner.stores.has(&chunk.id())
            && !inner.stores.is_slow(&chunk.id())
            && let Some(piece) = inner.stored(chunk, first, request.want()).await
        {
            let rest = ByteRange::new(first.end(), range.end()).unwrap_or(first);
            let (inner, chunk, want) = (inner.clone(), chunk.clone(), request.want());
            return Ok(Box::new(FromStore { inner, chunk, want, piece: Some(piece), rest }));
        }
        if !request.want().is_fill() {
            return Err(ErrorKind::NotHere);
        }
        let leading = if request.want() == Want::PassedFill { Leading::Passed } else { Leading::Asked };
        let seat = match inner.flights.board(chunk, Patience::Guest, leading) {
            Boarded::Joined(seat) => seat,
            Boarded::Started(seat) => {
                inner.start(seat.flight().clone(), request.request());
                seat
            }
        };
        Ok(Box::new(Following::new(inner, seat, from, &request)))
    }

    async fn keep(&self, _from: &NodeName, request: ChunkRequest) -> Result<(), ErrorKind> {
        self.inner.keep_here(request.request(), request.chunk()).await
    }

    fn keeps(&self, request: &ChunkRequest) -> Result<(), ErrorKind> {
        let (inner, chunk) = (&self.inner, request.chunk());
        if inner.stores.has(&chunk.id()) {
            return Ok(());
        }
        let owners = inner.replicator.owners(chunk);
        if !inner.replicator.may_own(chunk) {
            return Err(if request.epoch() > owners.epoch { ErrorKind::Busy } else { ErrorKind::StaleEpoch });
        }
        // Nothing leaves for a copy that others have: what was evicted here would come back for ever.
        Err(match inner.stores.wants(chunk) {
            Wanted::Now if inner.taking.available_permits() > 0 => ErrorKind::NotHere,
            Wanted::Now | Wanted::Later => ErrorKind::Busy,
            Wanted::No => ErrorKind::NoSpace,
        })
    }

    async fn put(&self, _from: &NodeName, request: PutRequest, body: &mut PutBody) -> Result<(), ErrorKind> {
        let taken = self.inner.take_copy(request, body).await;
        one(match taken {
            Ok(()) => &self.inner.counters.copies_taken,
            Err(_) => &self.inner.counters.copies_refused,
        });
        taken
    }
}

/// Whether an asker may follow a flight.
enum Follow {
    /// It may.
    Yes,
    /// The flight waits for the asker.
    No,
    /// A Have, and the flight waits for another node: only the store may answer.
    StoreOnly,
}

impl Inner {
    fn may_follow(&self, seat: &Seat, from: &NodeName, request: &ChunkRequest) -> Follow {
        let flight = seat.flight();
        let landed = flight.landing.landed() >= request.range().end();
        if landed {
            return Follow::Yes;
        }
        let asked = flight.asked();
        match request.want() {
            Want::Have | Want::DoubtedHave => match asked {
                Some(Hop::Origin(_) | Hop::Store) => Follow::Yes,
                Some(Hop::Have(_) | Hop::OwnersHave(_) | Hop::Fill(_)) | None => Follow::StoreOnly,
            },
            Want::Fill | Want::PassedFill => {
                let asker = self.replicator.node_named(from);
                if asker.is_some_and(|asker| flight.waits_for(asker)) { Follow::No } else { Follow::Yes }
            }
        }
    }

    /// A range of whole blocks of this node's store, with the checksums it came with. They are made once, when bytes enter
    /// the cluster, and checked by who hands the bytes to a door; the sender looks only when the asker has found them wrong.
    async fn stored(&self, chunk: &Chunk, range: ByteRange, want: Want) -> Option<Checksummed> {
        if want == Want::DoubtedHave {
            let piece = self.read_stored(chunk, range).await?;
            let first = chunk.first_block() + range.start() / u64::from(larder_proto::limits::BLOCK_BYTES);
            return Checksummed::new(chunk.object().id(), first, piece.bytes, piece.crcs?);
        }
        self.stores.read(chunk, range).await.unwrap_or_else(|error| {
            tracing::debug!(%error, chunk = ?chunk.id(), "the store gave a peer no bytes");
            None
        })
    }

    /// Takes a copy into the store; it is here when this returns `Ok`. `Busy`: not now, though it is wanted.
    async fn take_copy(&self, request: PutRequest, body: &mut PutBody) -> Result<(), ErrorKind> {
        let chunk = &request.chunk;
        if !self.replicator.may_own(chunk) {
            return Err(ErrorKind::StaleEpoch);
        }
        if self.stores.has(&chunk.id()) {
            return Ok(());
        }
        let _turn = self.taking.try_acquire().map_err(|_| ErrorKind::Busy)?;
        let reservation = self.stores.reserve(chunk, Giver::Node).await.map_err(|bypass| match bypass {
            Bypass::Already | Bypass::Busy | Bypass::Slow => ErrorKind::Busy,
            Bypass::Full | Bypass::Unavailable | Bypass::NotAdmitted => ErrorKind::NoSpace,
        })?;
        let mut crcs = Vec::new();
        let mut at = 0;
        while let Some(piece) = body.next().await {
            // The sender is gone or slow; it will try again.
            let piece = piece.map_err(|_| ErrorKind::DeadlineExceeded)?;
            let (bytes, of_piece) = self.checked(piece).map_err(|_| ErrorKind::BadRequest)?;
            let len = bytes.len() as u64;
            reservation.write(at, bytes).await.map_err(|error| kind_of(&error))?;
            at += len;
            crcs.extend(of_piece);
        }
        reservation.commit(crcs).await.map_err(|error| kind_of(&error))
    }
}

/// What a store's failure to write says to the sender of a copy.
fn kind_of(error: &StoreError) -> ErrorKind {
    match error {
        StoreError::Fenced | StoreError::Closed => ErrorKind::NoSpace,
        StoreError::Busy | StoreError::Slow | StoreError::Deadline { .. } => ErrorKind::Busy,
        StoreError::Misaligned { .. } | StoreError::Incomplete => ErrorKind::BadRequest,
        StoreError::Io(_) => ErrorKind::Internal,
    }
}

/// Bytes that follow a flight.
struct Following {
    inner: Arc<Inner>,
    seat: Seat,
    rest: ByteRange,
    /// Failed rounds when the asker came: the next one is its answer.
    failed_rounds: u32,
}

impl Following {
    fn new(inner: &Arc<Inner>, seat: Seat, from: &NodeName, request: &ChunkRequest) -> Self {
        let failed_rounds = seat.flight().progress.borrow().failed_rounds;
        if request.range().len() == u64::from(request.chunk().len()) {
            seat.flight().sent_to(from);
        }
        Self { inner: inner.clone(), seat, rest: request.range(), failed_rounds }
    }

    /// Waits until the range's first byte has landed, or it is known that it doesn't.
    async fn ready(&mut self) -> Result<(), ErrorKind> {
        let flight = self.seat.flight().clone();
        let mut changes = flight.progress.subscribe();
        loop {
            let Progress { landed, failed_rounds, kind, stage } = *changes.borrow_and_update();
            if landed > self.rest.start() {
                flight.mark_used();
                return Ok(());
            }
            if let Stage::Failed(kind) = stage {
                return Err(kind);
            }
            if failed_rounds > self.failed_rounds {
                return Err(kind.unwrap_or(ErrorKind::Internal));
            }
            if changes.changed().await.is_err() {
                return Err(ErrorKind::Internal);
            }
        }
    }
}

#[async_trait]
impl ChunkBody for Following {
    async fn first(&mut self) -> Result<(), ErrorKind> {
        self.ready().await
    }

    async fn next(&mut self) -> Option<Checksummed> {
        if self.rest.is_empty() {
            return None;
        }
        self.ready().await.ok()?;
        let piece = self.seat.flight().landing.checksummed(self.rest)?;
        let len = piece.len() as u64;
        self.rest = ByteRange::new(self.rest.start() + len, self.rest.end())?;
        add(&self.inner.counters.bytes_served, len);
        one(&self.inner.counters.served_memory);
        Some(piece)
    }
}

/// Bytes of this node's store.
struct FromStore {
    inner: Arc<Inner>,
    chunk: Chunk,
    want: Want,
    piece: Option<Checksummed>,
    rest: ByteRange,
}

#[async_trait]
impl ChunkBody for FromStore {
    async fn first(&mut self) -> Result<(), ErrorKind> {
        if self.piece.is_some() { Ok(()) } else { Err(ErrorKind::Internal) }
    }

    async fn next(&mut self) -> Option<Checksummed> {
        let piece = match self.piece.take() {
            Some(piece) => piece,
            None if self.rest.is_empty() => return None,
            None => {
                let range = ByteRange::at(self.rest.start(), u64::from(SEGMENT_BYTES)).clamp(self.rest.end());
                self.rest = ByteRange::new(range.end(), self.rest.end())?;
                self.inner.stored(&self.chunk, range, self.want).await?
            }
        };
        add(&self.inner.counters.bytes_served, piece.len() as u64);
        Some(piece)
    }
}
