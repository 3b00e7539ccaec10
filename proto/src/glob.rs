//! Patterns over keys, as `admission.exclude` and `pin` of a volume have them.
//!
//! `*` stands for any characters but `/`, `**` for any characters, `?` for one that isn't `/`; everything else stands
//! for itself. A pattern without `/` is matched against the last component of a key (`*.tmp` is every such file,
//! wherever it lies), one with `/` against the whole key. Matching takes steps in the order of pattern times key: both
//! are bounded, and nothing recurses.

use std::fmt;
use std::sync::Arc;

use crate::limits::GLOB_BYTES_MAX;
use crate::object::ObjectKey;

/// A pattern over keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Glob(Arc<str>);

/// One step of a pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Byte(u8),
    One,
    Some,
    Any,
}

impl Glob {
    /// The pattern; nothing when it is empty, longer than 256 bytes, or has one of `[ ] { } ! \`, which other languages
    /// give a meaning that this one has not.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = !text.contains(['[', ']', '{', '}', '!', '\\', '\0']);
        (!text.is_empty() && text.len() <= GLOB_BYTES_MAX && plain).then(|| Self(text.into()))
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern stands for this key.
    pub fn matches(&self, key: &ObjectKey) -> bool {
        let key = key.as_str();
        let subject = if self.0.contains('/') { key } else { key.rsplit('/').next().unwrap_or(key) };
        matches(&self.steps(), subject.as_bytes())
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::with_capacity(self.0.len());
        for byte in self.0.bytes() {
            match (byte, steps.last()) {
                (b'*', Some(Step::Some)) => *steps.last_mut().expect("there is one") = Step::Any,
                (b'*', Some(Step::Any)) => {}
                (b'*', _) => steps.push(Step::Some),
                (b'?', _) => steps.push(Step::One),
                (byte, _) => steps.push(Step::Byte(byte)),
            }
        }
        steps
    }
}

/// The set of pattern positions that the bytes so far can have reached, byte by byte.
fn matches(steps: &[Step], subject: &[u8]) -> bool {
    let mut reached = vec![false; steps.len() + 1];
    reached[0] = true;
    skip_stars(steps, &mut reached, true);
    for byte in subject {
        let mut next = vec![false; steps.len() + 1];
        for (at, step) in steps.iter().enumerate().filter(|(at, _)| reached[*at]) {
            match step {
                Step::Byte(wanted) => next[at + 1] |= wanted == byte,
                Step::One => next[at + 1] |= *byte != b'/',
                Step::Some => next[at] |= *byte != b'/',
                Step::Any => next[at] = true,
            }
        }
        skip_stars(steps, &mut next, *byte == b'/');
        reached = next;
    }
    reached[steps.len()]
}

/// A star may stand for nothing; `**/` for no directory at all, where a component begins.
fn skip_stars(steps: &[Step], reached: &mut [bool], is_component_start: bool) {
    for at in 0..steps.len() {
        if reached[at] && matches!(steps[at], Step::Some | Step::Any) {
            reached[at + 1] = true;
            let whole = steps[at] == Step::Any && (at == 0 || steps[at - 1] == Step::Byte(b'/'));
            if is_component_start && whole && steps.get(at + 1) == Some(&Step::Byte(b'/')) {
                reached[at + 2] = true;
            }
        }
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, key: &str) -> bool {
        Glob::parse(pattern).expect("a pattern").matches(&ObjectKey::parse(key).expect("a key"))
    }

    #[test]
    fn patterns_stand_for_keys() {
        for (pattern, yes, no) in [
            ("*.tmp", &["a.tmp", "x/y/a.tmp", "x/.tmp"][..], &["a.tmp2", "a.tmp/b"][..]),
            ("models/**", &["models/a", "models/a/b/c"], &["models", "old/models/a", "modelsx/a"]),
            ("models/*", &["models/a"], &["models/a/b"]),
            ("**/cache/*", &["cache/a", "x/cache/a", "x/y/cache/b"], &["xcache/a", "cache/a/b"]),
            ("a?c", &["abc", "x/abc"], &["ac", "abbc"]),
            ("data/part-*.parquet", &["data/part-1.parquet"], &["data/x/part-1.parquet", "part-1.parquet"]),
            ("**", &["a", "a/b"], &[]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["a/xb", "ab"]),
        ] {
            assert!(yes.iter().all(|key| matches(pattern, key)), "{pattern}");
            assert!(!no.iter().any(|key| matches(pattern, key)), "{pattern}");
        }
    }

    #[test]
    fn what_it_does_not_know_is_refused() {
        for text in ["", "[ab]", "{a,b}", "!a", "a\\*", &"a".repeat(257)] {
            assert_eq!(Glob::parse(text), None, "{text}");
        }
    }

    #[test]
    fn stars_do_not_blow_up() {
        let pattern = "*a".repeat(128);
        assert!(!matches(&pattern, &"b".repeat(200)));
        assert!(matches(&pattern, &"a".repeat(255)));
    }
}
