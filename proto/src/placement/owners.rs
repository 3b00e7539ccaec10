//! Which nodes own each slot: what is there is kept, then trimmed, filled, balanced and parted by domain.
//!
//! Who doesn't serve keeps what it has, and takes only what nobody else can. Each step moves no more than it must, in stretches of neighbouring slots. A row is a slot's owners, the lead first;
//! a new owner takes the place of the one it replaces, and `leads` orders them afterwards.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};

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

impl Member {
    /// Whether it may be given slots that others could have.
    pub(super) fn takes(&self) -> bool {
        self.state == NodeState::Serving
    }
}

/// Who takes a slot that lacks an owner: the first of these that isn't one already.
const TAKERS: [NodeState; 4] = [NodeState::Serving, NodeState::Returning, NodeState::Draining, NodeState::Suspect];

/// Scans for a swap that may fail before the domains are left as they are: each costs a look at every slot.
const VAIN_SCANS_MAX: usize = 64;

/// Chains of moves that are tried, likewise.
const CHAINS_MAX: usize = 256;

/// Whom a taker may stand beside.
#[derive(Clone, Copy)]
enum Beside {
    OtherDomains,
    Anybody,
}

pub(super) struct Table<'a> {
    members: &'a [Member],
    rows: Vec<Vec<usize>>,
    quotas: Vec<u32>,
    bounds: Vec<u32>,
    counts: Vec<u32>,
    width: usize,
    /// Members of each of the [`TAKERS`].
    states: [usize; TAKERS.len()],
    /// For each domain, members that take slots and have room; and how many domains have such members.
    open: Vec<usize>,
    open_domains: usize,
}

impl<'a> Table<'a> {
    pub(super) fn new(members: &'a [Member], rows: Vec<Vec<usize>>, quotas: Vec<u32>, width: usize) -> Self {
        let counts = owned(&rows, members.len());
        let bounds = quota::bounds(members, width, &quotas);
        let domains = members.iter().map(|member| member.domain + 1).max().unwrap_or(0);
        let mut open = vec![0; domains];
        for (member, Member { domain, .. }) in members.iter().enumerate() {
            open[*domain] += usize::from(members[member].takes() && counts[member] < bounds[member]);
        }
        let open_domains = open.iter().filter(|members| **members > 0).count();
        let states = TAKERS.map(|state| members.iter().filter(|member| member.state == state).count());
        Self { members, rows, quotas, bounds, counts, width, states, open, open_domains }
    }

    /// One slot more or less for a member.
    fn count(&mut self, member: usize, more: bool) {
        let had_room = self.has_room(member);
        if more {
            self.counts[member] += 1;
        } else {
            self.counts[member] -= 1;
        }
        if !self.members[member].takes() {
            return;
        }
        let open = &mut self.open[self.members[member].domain];
        match (had_room, self.counts[member] < self.bounds[member]) {
            (true, false) => {
                *open -= 1;
                self.open_domains -= usize::from(*open == 0);
            }
            (false, true) => {
                self.open_domains += usize::from(*open == 0);
                *open += 1;
            }
            (true, true) | (false, false) => {}
        }
    }

    /// Whether a domain that the row doesn't lie in has a member with room.
    fn has_other_domain(&self, row: &[usize]) -> bool {
        let domain = |place: usize| self.members[row[place]].domain;
        let is_first = |place: &usize| (0..*place).all(|before| domain(before) != domain(*place));
        let used = (0..row.len()).filter(is_first).filter(|place| self.open[domain(*place)] > 0).count();
        self.open_domains > used
    }

    pub(super) fn into_rows(self) -> Vec<Vec<usize>> {
        self.rows
    }

    /// Whether it may own one more slot for the sake of domains.
    fn has_room(&self, member: usize) -> bool {
        self.counts[member] < self.bounds[member]
    }

    /// Who may take a place of the row: none that doesn't serve while one that does could.
    fn taker(&self, row: &[usize]) -> NodeState {
        let in_row = |state| row.iter().filter(|member| self.members[**member].state == state).count();
        let may = |(state, members): &(NodeState, usize)| {
            // Who leaves helps out where there is nobody else.
            *members > in_row(*state) && (row.is_empty() || *state != NodeState::Draining)
        };
        let taker = TAKERS.into_iter().zip(self.states).find(may).map(|(state, _)| state);
        taker.expect("there are at least as many members as places in a row")
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
        self.count(old, false);
        self.count(new, true);
    }

    /// Fewer owners per slot: who is most above its quota goes.
    pub(super) fn trim(&mut self) {
        for slot in 0..self.rows.len() {
            while self.rows[slot].len() > self.width {
                let row = &self.rows[slot];
                let worst = (0..row.len())
                    .max_by_key(|place| (self.crowded(row, row[*place]), self.surplus(row[*place]), *place));
                let gone = self.rows[slot].remove(worst.expect("a row above the width isn't empty"));
                self.count(gone, false);
            }
        }
    }

    /// Gives every slot its owners: first leads in long stretches, then the others in shorter ones, so that the slots
    /// of a node that dies have many next owners.
    pub(super) fn fill(&mut self) {
        let mut by_need: BTreeSet<(Reverse<i64>, usize)> =
            (0..self.members.len()).map(|member| (self.need(member), member)).collect();
        let led = leads_of(&self.rows, self.members.len());
        let lead_quotas = quota::lead_quotas(self.members, self.rows.len(), &self.quotas, &led);
        let lead_left = |m: usize| usize::try_from(lead_quotas[m].saturating_sub(led[m])).unwrap_or(usize::MAX);
        for place in 0..self.width {
            let mut chosen: Option<usize> = None;
            let mut left = 0;
            for slot in 0..self.rows.len() {
                if self.rows[slot].len() > place {
                    continue;
                }
                let member = self.next_owner(&self.rows[slot], chosen.filter(|_| left > 0), &by_need);
                if chosen != Some(member) || left == 0 {
                    left = if place == 0 { lead_left(member).max(1) } else { self.stretch(member) };
                }
                left = left.saturating_sub(1);
                chosen = Some(member);
                by_need.remove(&(self.need(member), member));
                self.rows[slot].push(member);
                self.count(member, true);
                by_need.insert((self.need(member), member));
            }
        }
    }

    /// Sorts members by what part of their quota is missing, the neediest first.
    fn need(&self, member: usize) -> Reverse<i64> {
        Reverse(-self.surplus(member) * (1 << 20) / i64::from(self.quotas[member]).max(1))
    }

    /// The one that took the slot before, if it may go on; else the neediest.
    fn next_owner(&self, row: &[usize], before: Option<usize>, by_need: &BTreeSet<(Reverse<i64>, usize)>) -> usize {
        let taker = self.taker(row);
        let before = before.filter(|member| self.members[*member].state == taker && self.fits(row, *member, None));
        if let Some(member) = before.filter(|member| self.surplus(*member) < 0) {
            return member;
        }
        let neediest = self.neediest(row, taker, by_need);
        match before {
            // Nobody fits without going above its quota: then at least in one stretch.
            Some(member) if self.surplus(neediest) >= 0 && self.has_room(member) => member,
            Some(_) | None => neediest,
        }
    }

    fn neediest(&self, row: &[usize], taker: NodeState, by_need: &BTreeSet<(Reverse<i64>, usize)>) -> usize {
        let takers = || by_need.iter().map(|(_, member)| *member).filter(|m| self.members[*m].state == taker);
        let fits = |m: &usize| self.has_room(*m) && self.fits(row, *m, None);
        let apart = self.has_other_domain(row).then(|| takers().find(fits)).flatten();
        let any = || takers().find(|m| !row.contains(m));
        apart.or_else(any).expect("one of these isn't in the row")
    }

    /// How many neighbouring slots a member takes that somebody else leads.
    fn stretch(&self, member: usize) -> usize {
        let share = usize::try_from(self.quotas[member]).unwrap_or(usize::MAX) / self.width;
        (share / (self.members.len() - 1).clamp(1, 8)).max(1)
    }

    /// Moves slots from members above their quota to members below, once somebody is beyond 5 %, one slot or its bound.
    pub(super) fn balance(&mut self) {
        if !(0..self.members.len()).any(|member| self.is_far(member) || self.above(member) > 0) {
            return;
        }
        let led = leads_of(&self.rows, self.members.len());
        let lead_quotas = quota::lead_quotas(self.members, self.rows.len(), &self.quotas, &led);
        for giver in 0..self.members.len() {
            let leads = i64::from(led[giver]) - i64::from(lead_quotas[giver]);
            self.give(giver, i64::MAX, Beside::Anybody, |table, row| table.crowded(row, giver));
            self.give(giver, leads, Beside::OtherDomains, |_, row| row[0] == giver);
            self.give(giver, i64::MAX, Beside::OtherDomains, |_, row| row[0] != giver);
            self.give(giver, i64::MAX, Beside::OtherDomains, |_, _| true);
        }
        for _ in 0..CHAINS_MAX {
            if !self.chain_far() {
                break;
            }
        }
        for giver in 0..self.members.len() {
            self.give(giver, self.above(giver), Beside::Anybody, |_, _| true);
        }
        for _ in 0..CHAINS_MAX {
            if !self.chain_above() {
                break;
            }
        }
    }

    /// Whether it is to have more.
    fn lacks(&self, member: usize) -> bool {
        self.members[member].takes() && self.surplus(member) < 0
    }

    fn is_far(&self, member: usize) -> bool {
        self.surplus(member).abs() > i64::from(self.quotas[member] / 20).max(1)
    }

    /// Hands at most `most` of the giver's surplus slots that `which` picks to members below their quota.
    fn give(&mut self, giver: usize, most: i64, beside: Beside, which: impl Fn(&Self, &[usize]) -> bool) {
        let mut most = most.min(self.surplus(giver));
        if most <= 0 {
            return;
        }
        let mut takers: Vec<usize> = (0..self.members.len()).filter(|member| self.lacks(*member)).collect();
        takers.sort_by_key(|member| (self.surplus(*member), *member));
        for slot in 0..self.rows.len() {
            if most <= 0 || takers.is_empty() {
                return;
            }
            let row = &self.rows[slot];
            if !row.contains(&giver) || !which(self, row) {
                continue;
            }
            let Some(taker) = takers.iter().copied().find(|taker| self.may_replace(row, giver, *taker, beside)) else {
                continue;
            };
            self.replace(slot, giver, taker);
            most -= 1;
            if self.surplus(taker) >= 0 {
                takers.retain(|member| *member != taker);
            }
        }
    }

    /// Evens out what is beyond 5 % or one slot, where no slot can go from a giver to a taker at once.
    fn chain_far(&mut self) -> bool {
        let members = 0..self.members.len();
        let giver = members.clone().max_by_key(|m| (self.surplus(*m), Reverse(*m)));
        let far = members.clone().any(|member| self.is_far(member));
        giver.is_some_and(|giver| far && self.surplus(giver) > 0 && self.chain(giver, Beside::OtherDomains))
    }

    /// Likewise for members above their bound, at the cost of domains.
    fn chain_above(&mut self) -> bool {
        let giver = (0..self.members.len()).max_by_key(|m| (self.above(*m), Reverse(*m)));
        giver.is_some_and(|giver| self.above(giver) > 0 && self.chain(giver, Beside::Anybody))
    }

    /// Hands slots from the giver over as many members as it takes to one that is below its quota.
    fn chain(&mut self, giver: usize, beside: Beside) -> bool {
        let Some(path) = self.path(giver, beside) else { return false };
        let taker = path[path.len() - 1];
        let mut most = usize::try_from(self.surplus(giver).min(-self.surplus(taker))).unwrap_or(0);
        // From the taker's end, so that nobody in between goes above what it had.
        for step in path.windows(2).rev() {
            let slots = self.replaceable(step[0], step[1], beside, most);
            for slot in &slots {
                self.replace(*slot, step[0], step[1]);
            }
            most = slots.len();
        }
        most > 0
    }

    /// The shortest way from the giver to a member below its quota: each may take a place of the one before.
    fn path(&self, giver: usize, beside: Beside) -> Option<Vec<usize>> {
        let mut came_from: Vec<Option<usize>> = vec![None; self.members.len()];
        let mut waiting = VecDeque::from([giver]);
        while let Some(member) = waiting.pop_front() {
            if self.lacks(member) {
                let mut path = vec![member];
                while let Some(before) = came_from[path[path.len() - 1]] {
                    path.push(before);
                }
                path.reverse();
                return Some(path);
            }
            for row in self.rows.iter().filter(|row| row.contains(&member)) {
                for (next, before) in came_from.iter_mut().enumerate() {
                    if next != giver && before.is_none() && self.may_replace(row, member, next, beside) {
                        *before = Some(member);
                        waiting.push_back(next);
                    }
                }
            }
        }
        None
    }

    /// The first `most` slots where one may take another's place.
    fn replaceable(&self, old: usize, new: usize, beside: Beside, most: usize) -> Vec<usize> {
        let rows = self.rows.iter().enumerate();
        let may = rows.filter(|(_, row)| row.contains(&old) && self.may_replace(row, old, new, beside));
        may.map(|(slot, _)| slot).take(most).collect()
    }

    fn may_replace(&self, row: &[usize], old: usize, new: usize, beside: Beside) -> bool {
        self.members[new].takes()
            && match beside {
                // Whoever takes the place of one that shares its domain makes the row no worse.
                Beside::OtherDomains => {
                    self.fits(row, new, Some(old)) || (self.crowded(row, old) && !row.contains(&new))
                }
                Beside::Anybody => !row.contains(&new),
            }
    }

    /// Slots above the bound.
    fn above(&self, member: usize) -> i64 {
        i64::from(self.counts[member]) - i64::from(self.bounds[member])
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
                let is_to_part = self.members[member].takes() && self.crowded(&self.rows[slot], member);
                if is_to_part && !self.swap(slot, member) {
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
                self.members[*other].takes()
                    && self.fits(&self.rows[slot], *other, Some(member))
                    && self.fits(row, member, Some(*other))
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
