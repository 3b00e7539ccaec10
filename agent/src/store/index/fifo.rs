//! S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023), once per rank.
//!
//! ```text
//!   new, unknown --> small ----(hit since)----> main <---+ hit: a use less, back in line
//!                      |                         |       |
//!                      +--(no hit)--> ghosts     +-------+--(no use left)--> gone
//!   new, in ghosts -----------------------------> main
//! ```
//!
//! Small takes a tenth of the bytes: what is read once passes through it and leaves main alone. What stands in line is
//! a [`Unit`]: a run of four chunks, or a whole file that was passed. Units are never searched for: one that left, or
//! moved, keeps its place in line with an old ticket, and is skipped there.

use std::collections::VecDeque;

use super::super::rank::Rank;
use crate::runtime::HashSet;

/// Uses that are remembered, as in the paper: two bits.
pub(super) const USES_MAX: u8 = 3;

/// Reads of a unit within so long are one use: a reader takes a run in many pieces.
pub(super) const USE_SECONDS: u32 = 10;

/// Ghosts: 8 bytes each and their set, 10 MiB in all.
const GHOSTS_MAX: usize = 256 << 10;

/// Lines are swept when they hold this many old tickets more than live ones, so many units at once.
const STALE_MAX: usize = 4096;
const SWEEP_AT_ONCE: usize = 4096;

/// Something that leaves as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// The object's entry.
    pub at: u32,
    /// The run, or [`WHOLE`].
    pub run: u32,
    pub ticket: u32,
}

/// The run of a unit that is a whole file.
pub(super) const WHOLE: u32 = u32::MAX;

/// Where a unit stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: nothing of it is here, or it is pinned.
    #[default]
    None,
    Small(Rank),
    Main(Rank),
}

/// How far somebody has looked: small and main of each rank are one line after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    line: usize,
    at: usize,
}

#[derive(Default)]
struct Line {
    /// The front, while the line is being swept: what was looked at and stays.
    swept: VecDeque<Unit>,
    sweeping: bool,
    units: VecDeque<Unit>,
    /// Those whose ticket is valid.
    live: usize,
    bytes: u64,
}

impl Line {
    fn len(&self) -> usize {
        self.swept.len() + self.units.len()
    }

    fn get(&self, at: usize) -> Option<Unit> {
        let behind = at.checked_sub(self.swept.len());
        behind.map_or_else(|| self.swept.get(at), |at| self.units.get(at)).copied()
    }

    fn pop(&mut self) -> Option<Unit> {
        self.swept.pop_front().or_else(|| self.units.pop_front())
    }

    fn put_back(&mut self, unit: Unit) {
        if self.swept.is_empty() { self.units.push_front(unit) } else { self.swept.push_front(unit) }
    }

    fn needs_sweep(&self) -> bool {
        self.sweeping || self.len() > 2 * self.live + STALE_MAX
    }

    /// Drops some old tickets. A sweep that has begun goes on to the end of the line.
    fn sweep(&mut self, valid: impl Fn(&Unit) -> bool) {
        if !self.needs_sweep() {
            return;
        }
        let count = self.units.len().min(SWEEP_AT_ONCE);
        self.swept.extend(self.units.drain(..count).filter(valid));
        self.sweeping = !self.units.is_empty();
        if !self.sweeping {
            // With the memory of what was dropped.
            self.units = std::mem::take(&mut self.swept);
        }
    }
}

/// All lines, and the ghosts.
#[derive(Default)]
pub(super) struct Fifo {
    small: [Line; 3],
    main: [Line; 3],
    ghosts: Ghosts,
    tickets: u32,
}

impl Fifo {
    /// The place of a unit that is new here.
    pub fn place_of_new(&mut self, fingerprint: u64, rank: Rank) -> Place {
        if self.ghosts.take(fingerprint) { Place::Main(rank) } else { Place::Small(rank) }
    }

    pub fn remember(&mut self, fingerprint: u64) {
        self.ghosts.add(fingerprint);
    }

    /// Puts a unit at the end of a line; returns its ticket.
    pub fn enter(&mut self, at: u32, run: u32, place: Place, bytes: u64) -> u32 {
        self.tickets = self.tickets.wrapping_add(1);
        let ticket = self.tickets;
        if let Some(line) = self.line(place) {
            line.units.push_back(Unit { at, run, ticket });
            line.live += 1;
            line.bytes += bytes;
        }
        ticket
    }

    /// The unit's ticket is no longer valid.
    pub fn leave(&mut self, place: Place, bytes: u64) {
        if let Some(line) = self.line(place) {
            line.live -= 1;
            line.bytes -= bytes;
        }
    }

    /// More, or less, of a unit is here.
    pub fn grow(&mut self, place: Place, bytes: u64) {
        if let Some(line) = self.line(place) {
            line.bytes += bytes;
        }
    }

    pub fn shrink(&mut self, place: Place, bytes: u64) {
        if let Some(line) = self.line(place) {
            line.bytes -= bytes;
        }
    }

    /// The first of the line whose turn it is, which the caller judges: it must put it back, move it, or let it leave.
    /// `stay`: so many of main are known to stay; nothing when nobody else is left.
    pub fn first(&mut self, rank: Rank, stay: usize) -> Option<(Unit, Place)> {
        let (small, main) = (&self.small[rank.index()], &self.main[rank.index()]);
        if small.live == 0 && main.live <= stay {
            return None;
        }
        let its_turn = small.bytes.saturating_mul(10) >= small.bytes + main.bytes;
        let from_small = small.live > 0 && (its_turn || main.live <= stay);
        let place = if from_small { Place::Small(rank) } else { Place::Main(rank) };
        let unit = self.line(place)?.pop()?;
        Some((unit, place))
    }

    /// Takes back, in front, what [`first`](Self::first) gave.
    pub fn put_back(&mut self, unit: Unit, place: Place) {
        if let Some(line) = self.line(place) {
            line.put_back(unit);
        }
    }

    /// The next unit in the order in which they would be looked at, for who wants only some of them; old tickets among
    /// them. Lines may change meanwhile: some are then missed, or seen twice.
    pub fn look(&self, cursor: &mut Cursor) -> Option<Unit> {
        loop {
            let rank = Rank::ALL.get(cursor.line / 2)?.index();
            let line = if cursor.line.is_multiple_of(2) { &self.small[rank] } else { &self.main[rank] };
            if let Some(unit) = line.get(cursor.at) {
                cursor.at += 1;
                return Some(unit);
            }
            *cursor = Cursor { line: cursor.line + 1, at: 0 };
        }
    }

    /// Drops old tickets from lines that have too many, some of them at a time; `valid` says which are not.
    pub fn sweep(&mut self, valid: impl Fn(&Unit, Place) -> bool) {
        for rank in Rank::ALL {
            for (line, place) in
                [(&mut self.small[rank.index()], Place::Small(rank)), (&mut self.main[rank.index()], Place::Main(rank))]
            {
                line.sweep(|unit| valid(unit, place));
            }
        }
    }

    /// Whether [`sweep`](Self::sweep) has more to do.
    pub fn needs_sweep(&self) -> bool {
        self.small.iter().chain(&self.main).any(Line::needs_sweep)
    }

    fn line(&mut self, place: Place) -> Option<&mut Line> {
        match place {
            Place::None => None,
            Place::Small(rank) => Some(&mut self.small[rank.index()]),
            Place::Main(rank) => Some(&mut self.main[rank.index()]),
        }
    }
}

/// Units that left small unused, not long ago.
#[derive(Default)]
struct Ghosts {
    order: VecDeque<u64>,
    known: HashSet<u64>,
}

impl Ghosts {
    fn add(&mut self, fingerprint: u64) {
        if self.known.insert(fingerprint) {
            self.order.push_back(fingerprint);
        }
        if self.order.len() > GHOSTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// True when it was there; its place in the order stays until it is the oldest.
    fn take(&mut self, fingerprint: u64) -> bool {
        self.known.remove(&fingerprint)
    }
}

#[cfg(test)]
impl Fifo {
    /// Units that the lines have memory for.
    pub fn capacity(&self) -> usize {
        self.small.iter().chain(&self.main).map(|line| line.swept.capacity() + line.units.capacity()).sum()
    }
}
