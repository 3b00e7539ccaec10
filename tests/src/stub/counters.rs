//! What clients asked for and what they got: the numbers behind "1.00 GETs per chunk" and the amplification of retries.
//!
//! A request counts once its signature has been accepted, whatever comes of it; a refused signature counts as `denied`
//! and nowhere else. Bytes count when they are handed to the connection.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde::Serialize;

use super::operation::Operation;

/// Distinct ranges remembered over all keys; beyond it GETs still count, but `ranges_dropped` rises.
pub const RANGES_MAX: usize = 4_000_000;

/// A copy of the counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Requests by operation.
    pub requests: BTreeMap<Operation, u64>,
    /// Requests whose signature or credentials were refused.
    pub denied: u64,
    /// Requests that a fault rule took.
    pub faulted: u64,
    /// GETs of objects.
    pub gets: u64,
    /// Bytes of objects sent.
    pub bytes_sent: u64,
    /// Bytes of objects received.
    pub bytes_received: u64,
    /// Ranges that [`RANGES_MAX`] kept from being remembered.
    pub ranges_dropped: u64,
    /// By key (`bucket/key`).
    pub keys: BTreeMap<String, KeyCounters>,
}

/// What happened to one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyCounters {
    /// GETs, refused and spoilt ones included.
    pub gets: u64,
    /// HEADs.
    pub heads: u64,
    /// PUTs, copies onto it, and completed multipart uploads.
    pub puts: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// How often each range (first byte, byte behind the last) was answered, in full or not.
    #[serde(serialize_with = "as_list")]
    pub ranges: BTreeMap<(u64, u64), u64>,
}

fn as_list<S: serde::Serializer>(ranges: &BTreeMap<(u64, u64), u64>, out: S) -> Result<S::Ok, S::Error> {
    out.collect_seq(ranges.iter().map(|((begin, end), count)| (begin, end, count)))
}

impl KeyCounters {
    /// Bytes of the object that were asked for at least once.
    pub fn distinct_bytes(&self) -> u64 {
        let (mut covered, mut total) = (0, 0);
        for (begin, end) in self.ranges.keys() {
            let begin = (*begin).max(covered);
            total += end.saturating_sub(begin);
            covered = covered.max(*end);
        }
        total
    }

    /// (GETs x chunks each touched, distinct chunks touched).
    fn chunk_touches(&self, chunk_bytes: u64) -> (u64, u64) {
        let (mut touches, mut distinct, mut next) = (0, 0, 0);
        for ((begin, end), count) in &self.ranges {
            let (first, behind) = (begin / chunk_bytes, end.div_ceil(chunk_bytes).max(begin / chunk_bytes + 1));
            touches += (behind - first) * count;
            distinct += behind.saturating_sub(first.max(next));
            next = next.max(behind);
        }
        (touches, distinct)
    }
}

impl Counters {
    /// Requests of one operation.
    pub fn of(&self, operation: Operation) -> u64 {
        self.requests.get(&operation).copied().unwrap_or(0)
    }

    /// Both versions of ListObjects.
    pub fn lists(&self) -> u64 {
        self.of(Operation::ListObjects) + self.of(Operation::ListObjectsV2)
    }

    /// The counters of `key` in `bucket`; zeros if nobody asked for it.
    pub fn key(&self, bucket: &str, key: &str) -> KeyCounters {
        self.keys.get(&format!("{bucket}/{key}")).cloned().unwrap_or_default()
    }

    /// GETs for each chunk that was read at all: 1.0 is "each chunk once". 0 if nothing was read.
    pub fn gets_per_chunk(&self, chunk_bytes: u64) -> f64 {
        let add = |(a, b): (u64, u64), (c, d): (u64, u64)| (a + c, b + d);
        let (touches, distinct) = self.keys.values().map(|key| key.chunk_touches(chunk_bytes.max(1))).fold((0, 0), add);
        ratio(touches, distinct)
    }

    /// Bytes sent for each byte that anybody asked for: 1.0 is "each byte once". 0 if nothing was read.
    pub fn byte_amplification(&self) -> f64 {
        ratio(self.bytes_sent, self.keys.values().map(KeyCounters::distinct_bytes).sum())
    }

    /// GETs that arrived for each distinct range that was answered: what retries cost. 0 if nothing was answered.
    pub fn get_amplification(&self) -> f64 {
        ratio(self.gets, self.keys.values().map(|key| key.ranges.len() as u64).sum())
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[derive(Debug, Default)]
struct Live {
    counters: Counters,
    ranges: usize,
}

/// The counters as requests change them.
#[derive(Debug, Default)]
pub(super) struct LiveCounters(Mutex<Live>);

impl LiveCounters {
    pub(super) fn snapshot(&self) -> Counters {
        self.0.lock().counters.clone()
    }

    pub(super) fn reset(&self) {
        *self.0.lock() = Live::default();
    }

    pub(super) fn denied(&self) {
        self.0.lock().counters.denied += 1;
    }

    pub(super) fn faulted(&self) {
        self.0.lock().counters.faulted += 1;
    }

    pub(super) fn request(&self, operation: Operation, bucket: &str, key: Option<&str>) {
        let counters = &mut self.0.lock().counters;
        *counters.requests.entry(operation).or_default() += 1;
        let Some(key) = key else { return };
        let count: fn(&mut KeyCounters) = match operation {
            Operation::GetObject => |key| key.gets += 1,
            Operation::HeadObject => |key| key.heads += 1,
            Operation::PutObject | Operation::CopyObject | Operation::CompleteMultipartUpload => |key| key.puts += 1,
            _ => return,
        };
        counters.gets += u64::from(operation == Operation::GetObject);
        count(counters.keys.entry(format!("{bucket}/{key}")).or_default());
    }

    /// A GET of `name` (`bucket/key`) is answered with these bytes.
    pub(super) fn range(&self, name: &str, begin: u64, end: u64) {
        let live = &mut *self.0.lock();
        let known = live.counters.keys.entry(name.to_owned()).or_default();
        if let Some(count) = known.ranges.get_mut(&(begin, end)) {
            *count += 1;
        } else if live.ranges < RANGES_MAX {
            known.ranges.insert((begin, end), 1);
            live.ranges += 1;
        } else {
            live.counters.ranges_dropped += 1;
        }
    }

    pub(super) fn sent(&self, name: &str, bytes: u64) {
        let counters = &mut self.0.lock().counters;
        counters.bytes_sent += bytes;
        counters.keys.entry(name.to_owned()).or_default().bytes_sent += bytes;
    }

    pub(super) fn received(&self, bytes: u64) {
        self.0.lock().counters.bytes_received += bytes;
    }
}
