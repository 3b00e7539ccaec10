//! The memory of flights: one bound in bytes, taken chunk by chunk.
//!
//! A flight is granted all its memory before it asks any place, so no two flights wait for each other's halves. Flights
//! that wait for *other nodes* get at most three quarters: the rest is for chunks that this node brings from its store or
//! the origin, so nodes that fetch from each other never starve each other's fills. Who finds it empty waits in line.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is counted: pages of 4 KiB, so small objects cost little.
const UNIT_BYTES: u64 = 4096;

/// Four chunks of the usual size: one that lands, one that is read, and one each for peers.
const BUDGET_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// Memory of one chunk; returns to the budget on drop.
#[derive(Debug)]
pub struct Grant {
    _whole: OwnedSemaphorePermit,
    _remote: Option<OwnedSemaphorePermit>,
}

/// Where the bytes come from, as the budget sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This node's store, or the origin.
    Own,
    /// Other nodes, perhaps.
    Remote,
}

/// The budget. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    whole: Arc<Semaphore>,
    remote: Arc<Semaphore>,
    whole_units: u32,
    remote_units: u32,
}

impl Budget {
    /// A budget of `budget_bytes`, raised to 16 MiB if it is less.
    pub fn new(budget_bytes: u64) -> Self {
        let units = units(budget_bytes.max(BUDGET_BYTES_MIN));
        let remote_units = units / 4 * 3;
        let semaphore = |units: u32| Arc::new(Semaphore::new(usize::try_from(units).expect("at least 32 bits")));
        Self { whole: semaphore(units), remote: semaphore(remote_units), whole_units: units, remote_units }
    }

    /// The bound in bytes.
    pub fn bytes(&self) -> u64 {
        u64::from(self.whole_units) * UNIT_BYTES
    }

    /// Bytes that are granted now.
    pub fn used_bytes(&self) -> u64 {
        self.bytes() - self.whole.available_permits() as u64 * UNIT_BYTES
    }

    /// Memory for `len` bytes, if it is free. A chunk larger than the budget is granted all of it.
    pub fn try_take(&self, len: u64, source: Source) -> Option<Grant> {
        let remote = match source {
            Source::Own => None,
            Source::Remote => Some(self.remote.clone().try_acquire_many_owned(units(len).min(self.remote_units)).ok()?),
        };
        let whole = self.whole.clone().try_acquire_many_owned(units(len).min(self.whole_units)).ok()?;
        Some(Grant { _whole: whole, _remote: remote })
    }

    /// Memory for `len` bytes; waits in line. Cancel safe.
    pub async fn take(&self, len: u64, source: Source) -> Grant {
        let never_closed = "the semaphores are never closed";
        let remote = match source {
            Source::Own => None,
            Source::Remote => {
                let units = units(len).min(self.remote_units);
                Some(self.remote.clone().acquire_many_owned(units).await.expect(never_closed))
            }
        };
        let units = units(len).min(self.whole_units);
        let whole = self.whole.clone().acquire_many_owned(units).await.expect(never_closed);
        Grant { _whole: whole, _remote: remote }
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX >> 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_flights_leave_room_for_fills() {
        let budget = Budget::new(32 << 20);
        let remote: Vec<Grant> = std::iter::from_fn(|| budget.try_take(4 << 20, Source::Remote)).collect();
        assert_eq!(remote.len(), 6, "three quarters");
        let own: Vec<Grant> = std::iter::from_fn(|| budget.try_take(4 << 20, Source::Own)).collect();
        assert_eq!(own.len(), 2);
        drop(remote);
        assert_eq!(budget.used_bytes(), 8 << 20);
    }
}
