//! One page of a listing: a pure function of the sorted keys and the question.
//!
//! Keys are ordered by their bytes, as S3 orders them. A rolled-up prefix counts as one entry and is passed over in one
//! step, however many keys lie under it.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Bound;

/// S3 never answers with more entries than this.
pub const PAGE_ENTRIES: usize = 1000;

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// At the first key.
    Start,
    /// Behind this key.
    Key(Vec<u8>),
    /// Behind every key with this prefix.
    Prefix(Vec<u8>),
}

impl From {
    /// The opaque continuation token.
    pub fn token(&self) -> String {
        match self {
            From::Start => "s".to_owned(),
            From::Key(key) => format!("k{}", hex::encode(key)),
            From::Prefix(prefix) => format!("p{}", hex::encode(prefix)),
        }
    }

    /// Reads a token back; `None` if it is not one of ours.
    pub fn parse(token: &str) -> Option<From> {
        match token.split_at_checked(1)? {
            ("s", "") => Some(From::Start),
            ("k", key) => hex::decode(key).ok().map(From::Key),
            ("p", prefix) => hex::decode(prefix).ok().map(From::Prefix),
            _ => None,
        }
    }

    /// ListObjects v1: a marker that is itself a common prefix stands behind all of it.
    pub fn marker(marker: &str, prefix: &str, delimiter: &str) -> From {
        let rolled_up = !delimiter.is_empty()
            && marker
                .strip_prefix(prefix)
                .and_then(|rest| rest.find(delimiter))
                .is_some_and(|at| prefix.len() + at + delimiter.len() == marker.len());
        match (marker, rolled_up) {
            ("", _) => From::Start,
            (_, true) => From::Prefix(marker.as_bytes().to_vec()),
            (_, false) => From::Key(marker.as_bytes().to_vec()),
        }
    }
}

/// What a client asks.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// Only keys that begin so.
    pub prefix: &'a [u8],
    /// Rolls keys up at its first occurrence behind the prefix; empty = no rolling up.
    pub delimiter: &'a [u8],
    /// Where to begin.
    pub from: From,
    /// At most this many keys and prefixes.
    pub max: usize,
}

/// One page.
#[derive(Debug)]
pub struct Page<'a, V> {
    /// Keys, in order.
    pub objects: Vec<(&'a [u8], &'a V)>,
    /// Rolled-up prefixes, in order.
    pub prefixes: Vec<&'a [u8]>,
    /// Where the next page begins, if there is one.
    pub next: Option<From>,
}

/// The page of `objects` that `ask` describes.
pub fn page<'a, V>(objects: &'a BTreeMap<Vec<u8>, V>, ask: &Ask<'_>) -> Page<'a, V> {
    let mut page = Page { objects: Vec::new(), prefixes: Vec::new(), next: None };
    if ask.max == 0 {
        return page;
    }
    let mut from = ask.from.clone();
    loop {
        let Some((key, value)) = next_key(objects, ask.prefix, &from) else {
            return page;
        };
        if page.objects.len() + page.prefixes.len() == ask.max {
            page.next = Some(from);
            return page;
        }
        match rolled_up(key, ask) {
            Some(prefix) => {
                page.prefixes.push(prefix);
                from = From::Prefix(prefix.to_vec());
            }
            None => {
                page.objects.push((key, value));
                from = From::Key(key.to_vec());
            }
        }
    }
}

fn rolled_up<'k>(key: &'k [u8], ask: &Ask<'_>) -> Option<&'k [u8]> {
    if ask.delimiter.is_empty() {
        return None;
    }
    let rest = &key[ask.prefix.len()..];
    let at = rest.windows(ask.delimiter.len()).position(|window| window == ask.delimiter)?;
    Some(&key[..ask.prefix.len() + at + ask.delimiter.len()])
}

fn next_key<'a, V>(objects: &'a BTreeMap<Vec<u8>, V>, prefix: &[u8], from: &From) -> Option<(&'a [u8], &'a V)> {
    let after = match from {
        From::Start => Bound::Unbounded,
        From::Key(key) => Bound::Excluded(key.clone()),
        From::Prefix(passed) => Bound::Included(end_of(passed)?),
    };
    let below_prefix = match &after {
        Bound::Unbounded => true,
        Bound::Included(key) | Bound::Excluded(key) => key.as_slice() < prefix,
    };
    let lower = if below_prefix { Bound::Included(prefix.to_vec()) } else { after };
    let (key, value) = objects.range((lower, Bound::Unbounded)).next()?;
    key.starts_with(prefix).then_some((key.as_slice(), value))
}

/// The least byte string above everything that begins with `prefix`; `None` if there is none.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end)
}
