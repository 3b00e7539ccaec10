//! How many slots each node should own: its weight's share, bent as little as distinct owners and domains ask.
//!
//! A node owns a slot once, so no quota is above 16,384; nor is a domain's, so that the owners of a slot can lie in
//! distinct ones, as long as no node gets more than 1.25 x its share for it. Who doesn't serve should own no more than it
//! does, whatever that asks of those who do. Shares are computed in 2^-20 slots.

use std::collections::BTreeMap;

use super::owners::Member;
use crate::limits::SLOTS;

const ONE: u128 = 1 << 20;
const ALL: u128 = SLOTS as u128 * ONE;

/// The most that `share` (of weights) may become for the sake of domains: 1.25 x, or one slot more.
fn capped(share: u128) -> u128 {
    (share * 5 / 4).max(share + ONE).min(ALL)
}

/// The most slots each member may own: 1.25 x its share, or what distinct owners force on it (its quota).
pub(super) fn bounds(members: &[Member], width: usize, quotas: &[u32]) -> Vec<u32> {
    let total = ALL * width as u128;
    let sum: u128 = members.iter().map(|member| u128::from(member.weight)).sum();
    let cap = |member: &Member| capped(total * u128::from(member.weight) / sum) / ONE;
    let slots = |cap: u128| u32::try_from(cap).expect("at most 16,384");
    members.iter().zip(quotas).map(|(member, quota)| slots(cap(member)).max(*quota)).collect()
}

/// Slots for each member; they add up to `width` x 16,384. Of two that could get the odd slot, who has it keeps it.
pub(super) fn quotas(members: &[Member], width: usize, counts: &[u32]) -> Vec<u32> {
    let total = ALL * width as u128;
    let weights: Vec<u128> = members.iter().map(|member| member.weight.into()).collect();
    let sum: u128 = weights.iter().sum();
    let has = |member: usize| u128::from(counts[member]) * ONE;
    let most = |(member, cap): (usize, u128)| if members[member].takes() { cap } else { cap.min(has(member)) };
    let caps: Vec<u128> = weights.iter().map(|weight| capped(total * weight / sum)).enumerate().map(most).collect();
    let alls: Vec<u128> = vec![ALL; members.len()].into_iter().enumerate().map(most).collect();

    let mut domains: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (member, Member { domain, .. }) in members.iter().enumerate() {
        domains.entry(*domain).or_default().push(member);
    }
    let groups: Vec<Vec<usize>> = domains.into_values().collect();
    let of = |values: &[u128], group: &[usize]| -> u128 { group.iter().map(|member| values[*member]).sum() };
    let group_weights: Vec<u128> = groups.iter().map(|group| of(&weights, group)).collect();
    // Distinct domains, then 1.25 x, then distinct nodes that serve, then any: each wider bound takes what the one before
    // left.
    let apart = groups.iter().map(|group| of(&caps, group).min(ALL)).collect();
    let fair = groups.iter().map(|group| of(&caps, group)).collect();
    let ready = groups.iter().map(|group| of(&alls, group)).collect();
    let any: Vec<u128> = groups.iter().map(|group| ALL * group.len() as u128).collect();
    let group_shares = fill_in_turn(total, &group_weights, &[apart, fair, ready, any]);
    let group_counts: Vec<u32> = groups.iter().map(|group| group.iter().map(|member| counts[*member]).sum()).collect();
    let group_quotas = whole(&group_shares, &group_counts, total);

    let mut quotas = vec![0; members.len()];
    for (group, quota) in groups.iter().zip(group_quotas) {
        let pick = |values: &[u128]| -> Vec<u128> { group.iter().map(|member| values[*member]).collect() };
        let quota = u128::from(quota) * ONE;
        let shares = fill_in_turn(quota, &pick(&weights), &[pick(&caps), pick(&alls), vec![ALL; group.len()]]);
        let counts: Vec<u32> = group.iter().map(|member| counts[*member]).collect();
        for (member, slots) in group.iter().zip(whole(&shares, &counts, quota)) {
            quotas[*member] = slots;
        }
    }
    quotas
}

/// How many of `slots` each member should lead: its share, but none that it doesn't own. Of two that could get the odd
/// one, who leads it (`led`) keeps it.
pub(super) fn lead_quotas(members: &[Member], slots: usize, owned: &[u32], led: &[u32]) -> Vec<u32> {
    let weights: Vec<u128> = members.iter().map(|member| member.weight.into()).collect();
    let caps: Vec<u128> = owned.iter().map(|slots| u128::from(*slots) * ONE).collect();
    let total = slots as u128 * ONE;
    whole(&fill_in_turn(total, &weights, &[caps]), led, total)
}

/// Shares of `total` by weight under the first bounds; what they leave, under the next.
fn fill_in_turn(total: u128, weights: &[u128], bounds: &[Vec<u128>]) -> Vec<u128> {
    let mut shares = vec![0; weights.len()];
    for caps in bounds {
        let given: u128 = shares.iter().sum();
        let room: Vec<u128> = caps.iter().zip(&shares).map(|(cap, share)| cap.saturating_sub(*share)).collect();
        for (share, more) in shares.iter_mut().zip(fill(total - given, weights, &room)) {
            *share += more;
        }
    }
    shares
}

/// Water-filling: in proportion to the weights, nobody above its cap. Gives less than `total` when the caps end first.
fn fill(total: u128, weights: &[u128], caps: &[u128]) -> Vec<u128> {
    let mut shares = vec![0; weights.len()];
    let mut open: Vec<usize> = (0..weights.len()).filter(|i| weights[*i] > 0 && caps[*i] > 0).collect();
    let mut rest = total;
    while rest > 0 && !open.is_empty() {
        let sum: u128 = open.iter().map(|i| weights[*i]).sum();
        let (full, some): (Vec<usize>, Vec<usize>) = open.iter().partition(|i| rest * weights[**i] / sum >= caps[**i]);
        if full.is_empty() {
            for i in some {
                shares[i] = rest * weights[i] / sum;
            }
            break;
        }
        for i in &full {
            shares[*i] = caps[*i];
        }
        rest -= full.iter().map(|i| caps[*i]).sum::<u128>();
        open = some;
    }
    shares
}

/// Whole slots that add up to `total`: rounded down, and the rest to who has more than that already, then to the
/// largest remainders, then in order.
fn whole(shares: &[u128], counts: &[u32], total: u128) -> Vec<u32> {
    let mut slots: Vec<u32> =
        shares.iter().map(|share| u32::try_from(share / ONE).expect("at most 16 x 16,384")).collect();
    let given: u128 = slots.iter().map(|slots| u128::from(*slots)).sum();
    let rest = usize::try_from((total / ONE).saturating_sub(given)).expect("at most one for each");
    let mut order: Vec<usize> = (0..shares.len()).filter(|i| shares[*i] > 0).collect();
    order.sort_by_key(|i| (counts[*i] <= slots[*i], std::cmp::Reverse(shares[*i] % ONE), *i));
    for i in order.into_iter().take(rest) {
        slots[i] += 1;
    }
    slots
}
