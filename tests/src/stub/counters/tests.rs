//! The ratios, on ranges made by hand.

use super::*;

fn read(live: &LiveCounters, key: &str, begin: u64, end: u64) {
    live.request(Operation::GetObject, "b", Some(key));
    live.range(&format!("b/{key}"), begin, end);
    live.sent(&format!("b/{key}"), end - begin);
}

#[test]
fn each_chunk_once_is_one() {
    let live = LiveCounters::default();
    read(&live, "k", 0, 4);
    read(&live, "k", 4, 8);
    read(&live, "k", 8, 9);
    read(&live, "empty", 0, 0);
    let counters = live.snapshot();
    assert_eq!(counters.gets_per_chunk(4), 1.0);
    assert_eq!(counters.byte_amplification(), 1.0);
    assert_eq!(counters.get_amplification(), 1.0);
    assert_eq!((counters.gets, counters.bytes_sent, counters.key("b", "k").gets), (4, 9, 3));
}

#[test]
fn repeats_and_overlaps_show() {
    let live = LiveCounters::default();
    read(&live, "k", 0, 4);
    read(&live, "k", 0, 4);
    read(&live, "k", 2, 6);
    let counters = live.snapshot();
    assert_eq!(counters.gets_per_chunk(4), 4.0 / 2.0);
    assert_eq!(counters.byte_amplification(), 12.0 / 6.0);
    assert_eq!(counters.get_amplification(), 3.0 / 2.0);
    live.reset();
    assert_eq!(live.snapshot(), Counters::default());
}

#[test]
fn json_lists_ranges() {
    let live = LiveCounters::default();
    read(&live, "k", 0, 4);
    let json = serde_json::to_value(live.snapshot()).unwrap();
    assert_eq!(json["keys"]["b/k"]["ranges"], serde_json::json!([[0, 4, 1]]));
    assert_eq!(json["requests"]["GetObject"], 1);
}
