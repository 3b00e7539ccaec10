//! Writes a chunk to this node's store while it lands: readers never wait for the disk.
//!
//! A task of its own takes finished segments in order; the queue is as long as a chunk has segments, so the landing task
//! never waits either. Only a chunk whose every segment was written is committed; anything else leaves nothing behind.
//! A segment is let go of as soon as the store has it or has given up: waiting for the commit costs no memory.

use larder_proto::limits::{CHUNK_BYTES_MAX, SEGMENT_BYTES};
use tokio::sync::{mpsc, oneshot};

use super::Inner;
use super::counters::one;
use super::landing::{Landing, Segment};
use crate::store::{Bypass, Giver, Reservation};

const SEGMENTS_MAX: usize = (CHUNK_BYTES_MAX / SEGMENT_BYTES) as usize;

/// The store's side of a flight; idle until something was written.
#[derive(Default)]
pub struct Writer {
    written: usize,
    task: Option<(mpsc::Sender<Segment>, oneshot::Receiver<Outcome>)>,
}

/// What became of a chunk in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is there.
    Stored,
    /// It is not, though it should be.
    NotStored,
    /// Its volume doesn't want it kept.
    Unwanted,
}

impl Writer {
    /// Writes every segment that has landed and wasn't written yet.
    pub fn write(&mut self, inner: &Inner, landing: &Landing, giver: Giver) {
        while let Some(segment) = landing.segment(self.written) {
            let (segments, _) = self.task.get_or_insert_with(|| start(inner, landing, giver));
            let _the_store_gave_up = segments.try_send(segment);
            self.written += 1;
        }
    }

    /// Waits until the store has all, or has given up; [`Outcome::NotStored`] also when nothing was written.
    pub async fn finish(self) -> Outcome {
        let Some((segments, done)) = self.task else { return Outcome::NotStored };
        drop(segments);
        done.await.unwrap_or(Outcome::NotStored)
    }
}

fn start(inner: &Inner, landing: &Landing, giver: Giver) -> (mpsc::Sender<Segment>, oneshot::Receiver<Outcome>) {
    let (sender, receiver) = mpsc::channel(SEGMENTS_MAX);
    let (report, done) = oneshot::channel();
    let (stores, counters, chunk) = (inner.stores.clone(), inner.counters.clone(), landing.chunk().clone());
    inner.runtime.tasks.spawn(async move {
        let stored = match stores.reserve(&chunk, giver).await {
            Ok(reservation) => {
                let written = write_all(reservation, receiver).await;
                if let Err(error) = &written {
                    one(&counters.bypassed);
                    tracing::debug!(%error, chunk = ?chunk.id(), "a chunk was not stored");
                }
                if matches!(written, Ok(true)) { Outcome::Stored } else { Outcome::NotStored }
            }
            Err(Bypass::Already) => Outcome::Stored,
            Err(Bypass::NotAdmitted) => Outcome::Unwanted,
            Err(Bypass::Full | Bypass::Busy | Bypass::Slow | Bypass::Unavailable) => {
                one(&counters.bypassed);
                Outcome::NotStored
            }
        };
        let _nobody_waits = report.send(stored);
    });
    (sender, done)
}

/// `Ok(false)` when the flight ended before its chunk was complete.
async fn write_all(
    reservation: Reservation,
    mut segments: mpsc::Receiver<Segment>,
) -> Result<bool, crate::store::StoreError> {
    let len = u64::from(reservation.chunk().len());
    let mut crcs = Vec::new();
    let mut at = 0;
    while let Some(segment) = segments.recv().await {
        let bytes = segment.bytes.len() as u64;
        reservation.write(at, segment.bytes).await?;
        at += bytes;
        crcs.extend(segment.crcs);
    }
    if at < len {
        return Ok(false);
    }
    reservation.commit(crcs).await?;
    Ok(true)
}
