//! The order of a slot's owners: who leads. Moving a lead moves no chunk.
//!
//! Suspect owners come last, Returning ones don't lead. Leads are evened out only while every node serves (a quiet
//! epoch) and only when somebody is more than 10 % from its share; then stretches of neighbouring slots change hands.

use std::collections::BTreeMap;

use super::owners::{Member, leads_of};
use super::plan::owned;
use super::quota;
use crate::map::NodeState;

/// More runs than this per node make CLUSTER SLOTS long: leads are chosen anew.
const RUNS_PER_MEMBER_MAX: usize = 8;

/// Rounds of evening out; each is one pass over the slots.
const ROUNDS_MAX: usize = 4_096;

pub(super) fn order(members: &[Member], rows: &mut [Vec<usize>]) {
    for row in rows.iter_mut() {
        row.sort_by_key(|member| members[*member].state == NodeState::Suspect);
        if let Some(first) = row.iter().position(|member| members[*member].state == NodeState::Serving) {
            row[..=first].rotate_right(1);
        }
    }
    if members.iter().all(|member| member.state == NodeState::Serving) {
        even_out(members, rows);
        if runs(rows) > RUNS_PER_MEMBER_MAX * members.len() {
            let mut swept = sweep(members, rows);
            even_out(members, &mut swept);
            if runs(&swept) < runs(rows) {
                rows.clone_from_slice(&swept);
            }
        }
    }
}

/// Runs of neighbouring slots with one lead.
fn runs(rows: &[Vec<usize>]) -> usize {
    rows.chunk_by(|a, b| a.first() == b.first()).count()
}

/// Leads chosen anew from one end to the other: whoever leads a slot leads the next, while it may.
fn sweep(members: &[Member], rows: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let led = leads_of(rows, members.len());
    let mut left: Vec<i64> = {
        let quotas = quota::lead_quotas(members, rows.len(), &owned(rows, members.len()), &led);
        quotas.into_iter().map(i64::from).collect()
    };
    let mut before = None;
    let mut swept = rows.to_vec();
    for row in &mut swept {
        let goes_on = before.filter(|lead| row.contains(lead) && left[*lead] > 0);
        let neediest = || row.iter().copied().max_by_key(|member| (left[*member], std::cmp::Reverse(*member)));
        let Some(lead) = goes_on.or_else(neediest) else { continue };
        let place = row.iter().position(|member| *member == lead).expect("the lead was taken from the row");
        row[..=place].rotate_right(1);
        left[lead] -= 1;
        before = Some(lead);
    }
    swept
}

fn even_out(members: &[Member], rows: &mut [Vec<usize>]) {
    let mut led = leads_of(rows, members.len());
    let quotas = quota::lead_quotas(members, rows.len(), &owned(rows, members.len()), &led);
    let excess = |led: &[u32], member: usize| i64::from(led[member]) - i64::from(quotas[member]);
    let far = |led: &[u32]| {
        (0..members.len()).any(|member| excess(led, member).abs() > i64::from(quotas[member] / 10).max(1))
    };
    if !far(&led) {
        return;
    }
    let mut owned_slots: Vec<Vec<usize>> = vec![Vec::new(); members.len()];
    for (slot, row) in rows.iter().enumerate() {
        for member in row {
            owned_slots[*member].push(slot);
        }
    }
    let mut stuck = vec![false; members.len()];
    for _ in 0..ROUNDS_MAX {
        let open = (0..members.len()).filter(|member| !stuck[*member] && excess(&led, *member) < 0);
        let Some(taker) = open.min_by_key(|member| (excess(&led, *member), *member)) else { break };
        let stretches = stretches(rows, taker, &owned_slots[taker]);
        let mut held: BTreeMap<usize, i64> = BTreeMap::new();
        for stretch in &stretches {
            *held.entry(stretch.lead).or_default() += i64::try_from(stretch.len).expect("at most 16,384");
        }
        let giver = held.keys().copied().max_by_key(|lead| (excess(&led, *lead), std::cmp::Reverse(*lead)));
        let gap = giver.map_or(0, |giver| excess(&led, giver) - excess(&led, taker));
        let (Some(giver), true) = (giver, gap >= 2) else {
            stuck[taker] = true;
            continue;
        };
        let wanted = (gap / 2).min(held[&giver]);
        let moved = take(rows, taker, stretches.iter().filter(|stretch| stretch.lead == giver), wanted);
        led[giver] -= moved;
        led[taker] += moved;
        stuck.fill(false);
    }
}

/// Neighbouring slots with one lead, of which the taker is another owner.
struct Stretch {
    start: usize,
    len: usize,
    lead: usize,
}

/// Those of the slots that the taker owns; the longest first.
fn stretches(rows: &[Vec<usize>], taker: usize, owned: &[usize]) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    for slot in owned.iter().copied() {
        let Some(lead) = rows[slot].first().copied().filter(|lead| *lead != taker) else { continue };
        match found.last_mut() {
            Some(last) if last.lead == lead && last.start + last.len == slot => last.len += 1,
            _ => found.push(Stretch { start: slot, len: 1, lead }),
        }
    }
    found.sort_by_key(|stretch| (std::cmp::Reverse(stretch.len), stretch.start));
    found
}

/// The taker leads `wanted` slots of these stretches; from the end that touches what it leads already, if one does.
fn take<'a>(rows: &mut [Vec<usize>], taker: usize, stretches: impl Iterator<Item = &'a Stretch>, wanted: i64) -> u32 {
    let mut left = usize::try_from(wanted).unwrap_or(0);
    let mut moved = 0;
    for stretch in stretches {
        let len = stretch.len.min(left);
        let end = stretch.start + stretch.len;
        let from_end = rows.get(end).is_some_and(|row| row.first() == Some(&taker));
        let start = if from_end { end - len } else { stretch.start };
        for row in &mut rows[start..start + len] {
            let place = row.iter().position(|member| *member == taker).expect("the taker is in every row of a stretch");
            row[..=place].rotate_right(1);
            moved += 1;
        }
        left -= len;
    }
    moved
}
