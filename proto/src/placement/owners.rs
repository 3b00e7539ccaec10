//! Which nodes own each slot: what is there is kept, then trimmed, filled, balanced and parted by domain.
//!
//! Each step moves no more than it must, in stretches of neighbouring slots. A row is a slot's owners, the lead first;
//! a new owner takes the place of the one it replaces, and `leads` orders them afterwards.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::plan::owned;
use super::quota;
use crate::map::NodeState;

/// A node that owns slots, without its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) weight: u32,
    pub(super) domain: usize,
    pub(super) state: NodeState,
}

/// Scans for a swap that may fail before the domains are left as they are: each costs a look at every slot.
const VAIN_SCANS_MAX: usize = 64;

/// Chains of two moves that are tried, likewise.
const CHAINS_MAX: usize = 256;

pub(super) struct Table<'a> {
    members: &'a [Member],
    rows: Vec<Vec<usize>>,
    quotas: Vec<u32>,
    counts: Vec<u32>,
    width: usize,
}

impl<'a> Table<'a> {
    pub(super) fn new(members: &'a [Member], rows: Vec<Vec<usize>>, quotas: Vec<u32>, width: usize) -> Self {
        let counts = owned(&rows, members.len());
        Self { members, rows, quotas, counts, width }
    }

    pub(super) fn into_rows(self) -> Vec<Vec<usize>> {
        self.rows
    }

    fn surplus(&self, member: usize) -> i64 {
        i64::from(self.counts[member]) - i64::from(self.quotas[member])
    }

    /// Whether `member` may stand in the row beside all but `without`.
    fn fits(&self, row: &[usize], member: usize, without: Option<usize>) -> bool {
        let others = || row.iter().filter(|other| Some(**other) != without);
        let domain = self.members[member].domain;
        !row.contains(&member) && others().all(|other| self.members[*other].domain != domain)
    }

    /// Whether the row's owner shares its domain with another of the row.
    fn crowded(&self, row: &[usize], member: usize) -> bool {
        let domain = self.members[member].domain;
        row.iter().any(|other| *other != member && self.members[*other].domain == domain)
    }

    fn replace(&mut self, slot: usize, old: usize, new: usize) {
        for owner in &mut self.rows[slot] {
            if *owner == old {
                *owner = new;
            }
        }
        self.counts[old] -= 1;
        self.counts[new] += 1;
    }

    /// Fewer owners per slot: who is most above its quota goes.
    pub(super) fn trim(&mut self) {
        for slot in 0..self.rows.len() {
            while self.rows[slot].len() > self.width {
                let row = &self.rows[slot];
                let worst = (0..row.len())
                    .max_by_key(|place| (self.crowded(row, row[*place]), self.surplus(row[*place]), *place));
                let gone = self.rows[slot].remove(worst.expect("a row above the width isn't empty"));
                self.counts[gone] -= 1;
            }
        }
    }

    /// Gives every slot its owners: first leads in long stretches, then the others in shorter ones, so that the slots
    /// of a node that dies have many next owners.
    pub(super) fn fill(&mut self) {
        let mut by_need: BTreeSet<(Reverse<i64>, usize)> =
            (0..self.members.len()).map(|member| (self.need(member), member)).collect();
        for place in 0..self.width {
            let mut chosen: Option<usize> = None;
            let mut left = 0;
            for slot in 0..self.rows.len() {
                if self.rows[slot].len() > place {
                    continue;
                }
                let usable = |m: usize| self.surplus(m) < 0 && self.fits(&self.rows[slot], m, None);
                let sticky = chosen.filter(|member| left > 0 && usable(*member));
                let member = sticky.unwrap_or_else(|| self.neediest(&self.rows[slot], &by_need));
                if sticky.is_none() {
                    left = self.stretch(member, place);
                }
                left = left.saturating_sub(1);
                chosen = Some(member);
                by_need.remove(&(self.need(member), member));
                self.rows[slot].push(member);
                self.counts[member] += 1;
                by_need.insert((self.need(member), member));
            }
        }
    }

    /// Sorts members by what part of their quota is missing, the neediest first.
    fn need(&self, member: usize) -> Reverse<i64> {
        Reverse(-self.surplus(member) * (1 << 20) / i64::from(self.quotas[member]).max(1))
    }

    fn neediest(&self, row: &[usize], by_need: &BTreeSet<(Reverse<i64>, usize)>) -> usize {
        let most = |member: usize| i64::from(self.quotas[member] / 4 + 1);
        let apart = by_need.iter().find(|(_, m)| self.surplus(*m) < most(*m) && self.fits(row, *m, None));
        let any = || by_need.iter().find(|(_, m)| !row.contains(m));
        apart.or_else(any).map(|(_, member)| *member).expect("there are at least as many members as places in a row")
    }

    /// How many neighbouring slots a member takes at one place.
    fn stretch(&self, member: usize, place: usize) -> usize {
        let share = usize::try_from(self.quotas[member]).unwrap_or(usize::MAX) / self.width;
        let stretch = if place == 0 { share + 1 } else { share / (self.members.len() - 1).clamp(1, 8) };
        stretch.max(1)
    }

    /// Moves slots from members above their quota to members below.
    pub(super) fn balance(&mut self) {
        let led = leads_of(&self.rows, self.members.len());
        let able = vec![true; self.members.len()];
        let lead_quotas = quota::lead_quotas(self.members, &able, &self.quotas, &led);
        for giver in 0..self.members.len() {
            let leads = i64::from(led[giver]) - i64::from(lead_quotas[giver]);
            self.give(giver, i64::MAX, |table, row| table.crowded(row, giver));
            self.give(giver, leads, |_, row| row[0] == giver);
            self.give(giver, i64::MAX, |_, row| row[0] != giver);
            self.give(giver, i64::MAX, |_, _| true);
        }
        for _ in 0..CHAINS_MAX {
            if !self.chain() {
                break;
            }
        }
    }

    /// Hands at most `most` of the giver's surplus slots that `which` picks to members below their quota.
    fn give(&mut self, giver: usize, most: i64, which: impl Fn(&Self, &[usize]) -> bool) {
        let mut most = most.min(self.surplus(giver));
        if most <= 0 {
            return;
        }
        let mut takers: Vec<usize> = (0..self.members.len()).filter(|member| self.surplus(*member) < 0).collect();
        takers.sort_by_key(|member| (self.surplus(*member), *member));
        for slot in 0..self.rows.len() {
            if most <= 0 || takers.is_empty() {
                return;
            }
            let row = &self.rows[slot];
            if !row.contains(&giver) || !which(self, row) {
                continue;
            }
            let Some(taker) = takers.iter().copied().find(|taker| self.fits(row, *taker, Some(giver))) else {
                continue;
            };
            self.replace(slot, giver, taker);
            most -= 1;
            if self.surplus(taker) >= 0 {
                takers.retain(|member| *member != taker);
            }
        }
    }

    /// Where no slot can go from a giver to a taker at once, a third member stands between. Only beyond 5 % or one slot.
    fn chain(&mut self) -> bool {
        let far = |table: &Self, m: usize| table.surplus(m).abs() > i64::from(table.quotas[m] / 20).max(1);
        let members = 0..self.members.len();
        if !members.clone().any(|member| far(self, member)) {
            return false;
        }
        let Some(giver) = members.clone().max_by_key(|m| (self.surplus(*m), Reverse(*m))) else { return false };
        let Some(taker) = members.min_by_key(|m| (self.surplus(*m), *m)) else { return false };
        if self.surplus(giver) <= 0 || self.surplus(taker) >= 0 {
            return false;
        }
        let mut reached: Vec<Option<usize>> = vec![None; self.members.len()];
        for (slot, row) in self.rows.iter().enumerate().filter(|(_, row)| row.contains(&giver)) {
            for (middle, reached) in reached.iter_mut().enumerate() {
                if reached.is_none() && middle != taker && self.fits(row, middle, Some(giver)) {
                    *reached = Some(slot);
                }
            }
        }
        let found = self.rows.iter().enumerate().find_map(|(slot, row)| {
            let middle = row
                .iter()
                .copied()
                .find(|m| reached[*m].is_some_and(|first| first != slot) && self.fits(row, taker, Some(*m)))?;
            Some((slot, middle))
        });
        let Some((second, middle)) = found else { return false };
        let first = reached[middle].expect("only reached members are looked for");
        self.replace(first, giver, middle);
        self.replace(second, middle, taker);
        true
    }

    /// Swaps owners between slots until no slot has two in one domain, where swaps can do that.
    pub(super) fn part_domains(&mut self) {
        let mut vain = 0;
        for slot in 0..self.rows.len() {
            for place in (0..self.rows[slot].len()).rev() {
                let member = self.rows[slot][place];
                if vain >= VAIN_SCANS_MAX {
                    return;
                }
                if self.crowded(&self.rows[slot], member) && !self.swap(slot, member) {
                    vain += 1;
                }
            }
        }
    }

    fn swap(&mut self, slot: usize, member: usize) -> bool {
        let rows = self.rows.len();
        let found = (1..rows).map(|step| (slot + step) % rows).find_map(|there| {
            let row = &self.rows[there];
            let other = row.iter().copied().find(|other| {
                self.fits(&self.rows[slot], *other, Some(member)) && self.fits(row, member, Some(*other))
            })?;
            Some((there, other))
        });
        let Some((there, other)) = found else { return false };
        self.replace(slot, member, other);
        self.replace(there, other, member);
        true
    }
}

/// How many rows each member is the first of.
pub(super) fn leads_of(rows: &[Vec<usize>], members: usize) -> Vec<u32> {
    let mut led = vec![0; members];
    for lead in rows.iter().filter_map(|row| row.first()) {
        led[*lead] += 1;
    }
    led
}
