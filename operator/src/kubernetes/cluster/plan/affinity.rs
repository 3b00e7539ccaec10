//! Which nodes a pool's agents run on. Pure.
//!
//! A node that matches two pools belongs to the one with the smaller name: the others' affinity excludes it. Not having
//! all of several labels is "not this one, or not that one", and terms of an affinity are alternatives, so each pool to
//! be excluded multiplies the terms by the labels it asks for. Pools that ask for different values of one label can't
//! meet and cost nothing; that is how pools are usually told apart.

use std::collections::{BTreeMap, BTreeSet};

use larder_crds::Pool;
use serde_json::{Value, json};

/// More terms than this are refused: the scheduler looks at each for each node.
pub const TERMS_MAX: usize = 64;

/// The alternatives for nodes of `pool` that are none of `smaller`; nothing when there would be more than
/// [`TERMS_MAX`], an empty list when no node can match.
pub fn terms(pool: &Pool, smaller: &[&Pool]) -> Option<Vec<Value>> {
    let wanted = &pool.selector.match_labels;
    // Of one label several values may be excluded.
    let mut alternatives: Vec<BTreeSet<(&str, &str)>> = vec![BTreeSet::new()];
    for other in smaller.iter().map(|other| &other.selector.match_labels) {
        if other.iter().any(|(key, value)| wanted.get(key).is_some_and(|own| own != value)) {
            continue;
        }
        // A label that both ask for can't be missing here.
        let missing = other.iter().filter(|(key, _)| !wanted.contains_key(*key));
        let missing: Vec<(&str, &str)> = missing.map(|(key, value)| (key.as_str(), value.as_str())).collect();
        alternatives = alternatives
            .iter()
            .flat_map(|alternative| missing.iter().map(move |label| (alternative, label)))
            .map(|(alternative, label)| {
                let mut longer = alternative.clone();
                longer.insert(*label);
                longer
            })
            .collect();
        alternatives.sort();
        alternatives.dedup();
        if alternatives.len() > TERMS_MAX {
            return None;
        }
    }
    let expression =
        |key: &str, operator: &str, value: &str| json!({"key": key, "operator": operator, "values": [value]});
    let term = |without: &BTreeSet<(&str, &str)>| {
        let own = wanted.iter().map(|(key, value)| expression(key, "In", value));
        let not = without.iter().map(|(key, value)| expression(key, "NotIn", value));
        json!({"matchExpressions": own.chain(not).collect::<Vec<Value>>()})
    };
    Some(alternatives.iter().map(term).collect())
}

/// Whether a node with these labels is of `pool` and of none of `smaller`.
pub fn matches(pool: &Pool, smaller: &[&Pool], labels: &BTreeMap<String, String>) -> bool {
    let has_all = |pool: &Pool| pool.selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
    has_all(pool) && !smaller.iter().any(|other| has_all(other))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(labels: &[(&str, &str)]) -> Pool {
        let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
        serde_json::from_value(json!({"name": "p", "selector": {"matchLabels": labels}})).expect("a pool")
    }

    /// As the scheduler reads it: one term must hold, and in it every expression.
    fn schedules(terms: &[Value], labels: &BTreeMap<String, String>) -> bool {
        let holds = |expression: &Value| {
            let text = |at: &str| expression.pointer(at).and_then(Value::as_str).expect("a text");
            let same = labels.get(text("/key")).map(String::as_str) == Some(text("/values/0"));
            if text("/operator") == "In" { same } else { !same }
        };
        terms.iter().any(|term| term["matchExpressions"].as_array().expect("a list").iter().all(holds))
    }

    #[test]
    fn pools_told_apart_by_one_label_have_one_term() {
        let (fast, slow) = (pool(&[("disk", "nvme")]), pool(&[("disk", "hdd")]));
        let terms = terms(&fast, &[&slow]).expect("few");
        assert_eq!(terms.len(), 1);
        assert_eq!(terms[0]["matchExpressions"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn a_pool_within_a_smaller_one_has_no_nodes() {
        let (inner, outer) = (pool(&[("a", "1"), ("b", "1")]), pool(&[("a", "1")]));
        assert_eq!(terms(&inner, &[&outer]), Some(Vec::new()));
    }

    #[test]
    fn too_many_alternatives_are_refused() {
        let labels: Vec<String> = (0..12).map(|number| format!("l{number}")).collect();
        let of = |from: usize| pool(&labels[from..from + 4].iter().map(|l| (l.as_str(), "1")).collect::<Vec<_>>());
        let others = [of(0), of(4), of(8), pool(&[("x", "1"), ("y", "1")])];
        assert!(terms(&pool(&[("own", "1")]), &others.iter().collect::<Vec<_>>()).is_none());
    }

    #[test]
    fn two_values_of_one_label_are_both_excluded() {
        let (own, one, two) = (pool(&[("c", "1")]), pool(&[("b", "1")]), pool(&[("b", "2")]));
        let terms = terms(&own, &[&two, &one]).expect("few");
        for (value, is_ours) in [("1", false), ("2", false), ("3", true)] {
            let labels = BTreeMap::from([("b".to_owned(), value.to_owned()), ("c".to_owned(), "1".to_owned())]);
            assert_eq!(schedules(&terms, &labels), is_ours, "b={value}");
        }
    }

    proptest! {
        #[test]
        fn the_scheduler_and_we_agree(
            pools in prop::collection::vec(prop::collection::btree_map("[abc]", "[12]", 1..3), 1..4),
            node in prop::collection::btree_map("[abc]", "[12]", 0..4),
        ) {
            let pools: Vec<Pool> = pools
                .iter()
                .map(|labels| pool(&labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>()))
                .collect();
            let (own, smaller) = pools.split_last().expect("one at least");
            let smaller: Vec<&Pool> = smaller.iter().collect();
            let terms = terms(own, &smaller).expect("few");
            prop_assert_eq!(schedules(&terms, &node), matches(own, &smaller, &node));
        }
    }
}
