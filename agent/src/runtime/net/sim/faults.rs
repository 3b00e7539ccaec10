//! What goes wrong between two nodes without anybody being told: words that don't arrive, arrive late, or are heard by
//! one side only.
//!
//! Streams stand for TCP, which undoes the loss, the doubling and the reordering of packets: what is left of them is
//! lateness, and connections that break after the other side has heard, so that the question is asked once more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::runtime::Rng;
use crate::runtime::net::Identity;

/// TCP repeats a lost segment after this long, then after twice as long.
const REPEATED_AFTER: Duration = Duration::from_millis(200);

/// One segment is lost so often in a row at most.
const LOSSES_MAX: u32 = 3;

/// Of the losses, one in so many breaks the connection after it was heard.
const BREAKS_ONE_IN: u64 = 8;

/// What becomes of a burst of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Burst {
    /// It arrives, this much later than it would.
    Late(Duration),
    /// It arrives, and the connection breaks.
    Last,
}

/// Cuts and losses, and how often they were met.
#[derive(Default)]
pub(super) struct Faults {
    /// Whose words don't reach whom.
    cuts: BTreeSet<(Identity, Identity)>,
    /// Of a thousand bursts, how many are lost at first, by speaker.
    lossy: BTreeMap<Identity, u64>,
    pub(super) met: u64,
}

impl Faults {
    pub(super) fn cut(&mut self, from: &Identity, to: &Identity) {
        self.cuts.insert((from.clone(), to.clone()));
    }

    pub(super) fn mend(&mut self, from: &Identity, to: &Identity) {
        self.cuts.remove(&(from.clone(), to.clone()));
    }

    pub(super) fn lose(&mut self, speaker: &Identity, per_mille: u64) {
        self.lossy.insert(speaker.clone(), per_mille);
    }

    pub(super) fn heal(&mut self) {
        self.cuts.clear();
        self.lossy.clear();
    }

    pub(super) fn is_cut(&self, from: &Identity, to: &Identity) -> bool {
        !self.cuts.is_empty() && self.cuts.contains(&(from.clone(), to.clone()))
    }

    /// Draws nothing while nothing of the speaker is lost, so that such worlds stay as they are.
    pub(super) fn burst(&mut self, speaker: &Identity, rng: &dyn Rng) -> Burst {
        let Some(per_mille) = self.lossy.get(speaker).copied().filter(|per_mille| *per_mille > 0) else {
            return Burst::Late(Duration::ZERO);
        };
        let mut late = Duration::ZERO;
        for losses in 0..LOSSES_MAX {
            if rng.next_u64() % 1_000 >= per_mille {
                break;
            }
            self.met += 1;
            if rng.next_u64().is_multiple_of(BREAKS_ONE_IN) {
                return Burst::Last;
            }
            late += REPEATED_AFTER * (1 << losses);
        }
        Burst::Late(late)
    }
}
