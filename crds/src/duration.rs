//! Durations and freshness as users write them: `30s`, `1h30m`, `OnOpen`.
//!
//! Owns the grammar `^([0-9]+(ms|s|m|h))+$`, the same in the schema and here. Refuses signs, fractions and bare numbers.
//! Every sum and product is checked.

use std::time::Duration;

/// The pattern of a duration in the schema.
pub(crate) const DURATION_PATTERN: &str = "^([0-9]+(ms|s|m|h))+$";

/// Longest text of a duration that is looked at, in bytes; the schema has the same maximum.
pub(crate) const DURATION_TEXT_MAX: usize = 16;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not `^([0-9]+(ms|s|m|h))+$`, or longer than 16 bytes.
    #[error("{text:?} is not a duration such as 30s, 500ms or 1h30m")]
    Malformed {
        /// What was read, cut at 32 characters.
        text: String,
    },
    /// More than 2^64 - 1 milliseconds.
    #[error("{text:?} is too long a time")]
    Overflow {
        /// What was read.
        text: String,
    },
}

/// How long a change made behind Larder's back in the origin may go unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Seen at the latest this long after it happened.
    Within(Duration),
    /// Each open asks the origin.
    OnOpen,
    /// What was once read is never asked for again.
    Forever,
}

/// Reads a duration: one or more numbers, each with its unit of ms, s, m or h; they add up.
///
/// # Errors
/// [`DurationError`]; a text from outside is bounded before it is looked at.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let malformed = || DurationError::Malformed { text: text.chars().take(32).collect() };
    let overflow = || DurationError::Overflow { text: text.to_owned() };
    if text.is_empty() || text.len() > DURATION_TEXT_MAX {
        return Err(malformed());
    }
    let mut rest = text;
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        if number.is_empty() {
            return Err(malformed());
        }
        let (unit_ms, tail) = split_unit(tail).ok_or_else(malformed)?;
        let number: u64 = number.parse().map_err(|_| overflow())?;
        total_ms = number.checked_mul(unit_ms).and_then(|ms| total_ms.checked_add(ms)).ok_or_else(overflow)?;
        rest = tail;
    }
    Ok(Duration::from_millis(total_ms))
}

/// The unit at the beginning of `text` in milliseconds, and what follows it. `ms` is tried before `m`.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)]
        .into_iter()
        .find_map(|(unit, ms)| text.strip_prefix(unit).map(|tail| (ms, tail)))
}

impl Freshness {
    /// Reads `OnOpen`, `Forever` or a duration.
    ///
    /// # Errors
    /// [`DurationError`] when it is none of them.
    pub fn parse(text: &str) -> Result<Freshness, DurationError> {
        match text {
            "OnOpen" => Ok(Freshness::OnOpen),
            "Forever" => Ok(Freshness::Forever),
            other => parse_duration(other).map(Freshness::Within),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_add_up() {
        for (text, ms) in
            [("0s", 0), ("30s", 30_000), ("500ms", 500), ("1h30m", 5_400_000), ("1m1ms", 60_001), ("1s1s", 2_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn malformed_durations_are_refused() {
        for text in ["", "30", "s", "-1s", "1.5s", "1d", "1 s", "1s ", "1M", "1234567890123456s"] {
            assert!(matches!(parse_duration(text), Err(DurationError::Malformed { .. })), "{text}");
        }
        assert!(matches!(parse_duration("999999999999999h"), Err(DurationError::Overflow { .. })));
    }

    #[test]
    fn the_schema_s_pattern_and_the_parser_agree() {
        let pattern = regex::Regex::new(DURATION_PATTERN).expect("a valid pattern");
        for text in ["1s", "1ms", "1m", "1h", "1h1ms", "", "1", "s", "1d", "+1s", "1s1", "1.0s", "1S"] {
            assert_eq!(pattern.is_match(text), parse_duration(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn freshness_has_two_words_and_durations() {
        assert_eq!(Freshness::parse("OnOpen"), Ok(Freshness::OnOpen));
        assert_eq!(Freshness::parse("Forever"), Ok(Freshness::Forever));
        assert_eq!(Freshness::parse("60s"), Ok(Freshness::Within(Duration::from_secs(60))));
        assert!(Freshness::parse("onopen").is_err());
    }
}
