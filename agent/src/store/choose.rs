//! Which of the node's stores a new object goes to. Pure.

use larder_proto::ids::{ObjectId, StoreId};
use xxhash_rust::xxh3::Xxh3;

/// The store whose score for the object is highest, among stores given with their capacities: weighted rendezvous
/// hashing (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", 2005). Stores get objects in proportion
/// to their capacity, and a store that comes or goes moves only its own share. Nothing when there is no store.
pub(super) fn choose(object: ObjectId, stores: impl Iterator<Item = (usize, StoreId, u64)>) -> Option<usize> {
    stores
        .map(|(position, store, capacity_bytes)| (score(object, store, capacity_bytes), position))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, position)| position)
}

fn score(object: ObjectId, store: StoreId, capacity_bytes: u64) -> f64 {
    let mut hasher = Xxh3::new();
    hasher.update(object.as_bytes());
    hasher.update(store.as_bytes());
    // 53 bits make every value exact, and the half keeps the logarithm away from 0 and 1.
    let uniform = ((hasher.digest() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    capacity_bytes as f64 / -uniform.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_follow_capacity_and_stay_when_a_store_comes() {
        let store = |n: u8| StoreId::from_bytes([n; 16]);
        let object = |n: u32| {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_le_bytes());
            ObjectId::from_bytes(id)
        };
        let two = [(0, store(1), 1000), (1, store(2), 3000)];
        let three = [(0, store(1), 1000), (1, store(2), 3000), (2, store(3), 1000)];
        let mut counts = [0u32; 3];
        for n in 0..10_000 {
            let before = choose(object(n), two.into_iter()).expect("two stores");
            let after = choose(object(n), three.into_iter()).expect("three stores");
            assert!(after == before || after == 2, "only the new store takes objects");
            counts[after] += 1;
        }
        for (count, ideal) in counts.iter().zip([2_000, 6_000, 2_000]) {
            assert!(count.abs_diff(ideal) < 200, "{counts:?}");
        }
        assert_eq!(choose(object(1), std::iter::empty()), None);
    }
}
