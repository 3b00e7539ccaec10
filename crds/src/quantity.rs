//! Sizes as Kubernetes writes them (`10Gi`, `1500M`, a bare number of bytes) and percentages of a disk.
//!
//! Owns the text form in both directions. [`Quantity`] keeps what the user wrote, whatever it is, so that reading an object never
//! fails on one field; the numbers come from its methods, checked. Refuses negative numbers and parts of a byte (`100m`).

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The pattern of a size in the schema: a Kubernetes quantity that is a whole number of bytes or rounds up to one.
pub(crate) const QUANTITY_PATTERN: &str = r"^[0-9]+(\.[0-9]+)?([KMGTPE]i|[kMGTPE]|[eE][0-9]{1,2})?$";

/// The pattern of a store's capacity in the schema: a size, or 1 to 99 percent of the disk.
pub(crate) const CAPACITY_PATTERN: &str = r"^([1-9][0-9]?%|[0-9]+(\.[0-9]+)?([KMGTPE]i|[kMGTPE]|[eE][0-9]{1,2})?)$";

/// Longest text of a size that is looked at, in bytes; the schema has the same maximum.
pub(crate) const QUANTITY_TEXT_MAX: usize = 24;

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a quantity, or longer than 24 bytes.
    #[error("{text:?} is not a size such as 900Gi, 1.5Ti or 1000000")]
    Malformed {
        /// What was read, cut at 32 characters.
        text: String,
    },
    /// 2^64 bytes or more.
    #[error("{text:?} is more than 2^64 bytes")]
    Overflow {
        /// What was read.
        text: String,
    },
    /// A percentage that is not between 1% and 99%.
    #[error("{text:?} is not a percentage from 1% to 99%")]
    Percent {
        /// What was read.
        text: String,
    },
}

/// A size as the user wrote it: a number of bytes, or a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Quantity {
    /// A YAML integer: bytes.
    Int(i64),
    /// A text; not yet parsed.
    Text(String),
}

/// How much of a disk a store may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapacityLimit {
    /// So many bytes.
    Bytes(u64),
    /// 1 to 99 percent of the disk's size.
    Percent(u8),
}

impl Quantity {
    /// A size from a text, unparsed.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Quantity {
        Quantity::Text(text.into())
    }

    /// The size in bytes; parts of a byte round up, as in Kubernetes.
    ///
    /// # Errors
    /// [`QuantityError`] when it is negative, malformed or 2^64 and more.
    pub fn bytes(&self) -> Result<u64, QuantityError> {
        match self {
            Quantity::Int(number) => {
                u64::try_from(*number).map_err(|_| QuantityError::Malformed { text: number.to_string() })
            }
            Quantity::Text(text) => parse_quantity(text),
        }
    }

    /// The size as a store's capacity: bytes or a percentage.
    ///
    /// # Errors
    /// [`QuantityError`] as [`parse_capacity`].
    pub fn capacity(&self) -> Result<CapacityLimit, QuantityError> {
        match self {
            Quantity::Int(_) => self.bytes().map(CapacityLimit::Bytes),
            Quantity::Text(text) => parse_capacity(text),
        }
    }
}

impl CapacityLimit {
    /// The limit in bytes on a disk of `disk_bytes`. A percentage rounds down; an absolute size is returned as it is, even
    /// when it is larger than the disk: the caller says so.
    #[must_use]
    pub fn bytes_of(self, disk_bytes: u64) -> u64 {
        match self {
            CapacityLimit::Bytes(bytes) => bytes,
            CapacityLimit::Percent(percent) => {
                let bytes = u128::from(disk_bytes) * u128::from(percent) / 100;
                u64::try_from(bytes).expect("at most 99 % of a u64")
            }
        }
    }
}

/// Reads a Kubernetes quantity that stands for bytes; parts of a byte round up.
///
/// # Errors
/// [`QuantityError::Malformed`] and [`QuantityError::Overflow`]; a text from outside is bounded before it is looked at.
pub fn parse_quantity(text: &str) -> Result<u64, QuantityError> {
    let malformed = || QuantityError::Malformed { text: text.chars().take(32).collect() };
    let overflow = || QuantityError::Overflow { text: text.to_owned() };
    if text.len() > QUANTITY_TEXT_MAX {
        return Err(malformed());
    }
    let (whole, rest) = split_digits(text);
    if whole.is_empty() {
        return Err(malformed());
    }
    let (fraction, suffix) = match rest.strip_prefix('.') {
        None => ("", rest),
        Some(rest) => match split_digits(rest) {
            ("", _) => return Err(malformed()),
            split => split,
        },
    };
    let unit = unit_bytes(suffix).ok_or_else(malformed)?.ok_or_else(overflow)?;
    // At most 24 digits in all: 10^24 fits a u128, its product with a unit may not.
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| overflow())?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).expect("at most 24 digits"));
    let bytes = digits.checked_mul(unit).ok_or_else(overflow)?.div_ceil(scale);
    u64::try_from(bytes).map_err(|_| overflow())
}

/// Reads a store's capacity: `1%` to `99%`, or a size.
///
/// # Errors
/// [`QuantityError`].
pub fn parse_capacity(text: &str) -> Result<CapacityLimit, QuantityError> {
    let Some(number) = text.strip_suffix('%') else {
        return parse_quantity(text).map(CapacityLimit::Bytes);
    };
    let wrong = || QuantityError::Percent { text: text.chars().take(32).collect() };
    let plain = !number.starts_with('0') && number.bytes().all(|byte| byte.is_ascii_digit());
    match number.parse::<u8>() {
        Ok(percent @ 1..=99) if plain => Ok(CapacityLimit::Percent(percent)),
        _ => Err(wrong()),
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// The unit that a suffix stands for, in bytes: `None` = no such suffix, `Some(None)` = too large to hold.
fn unit_bytes(suffix: &str) -> Option<Option<u128>> {
    let unit = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "Ei" => 1 << 60,
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
            let exponent: u32 = plain.then(|| digits.parse().ok()).flatten()?;
            return Some(10_u128.checked_pow(exponent));
        }
    };
    Some(Some(unit))
}

/// A number of bytes for a status, short: at most three digits and a unit before 1024Pi, one decimal below 10 (`9.5Gi`, `12Gi`, `0`).
///
/// Rounds to nearest; the result is a Kubernetes quantity.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut unit_bytes: u128 = 1 << 10;
    for unit in UNITS {
        let tenths = (u128::from(bytes) * 10 + unit_bytes / 2) / unit_bytes;
        if tenths < 100 {
            return match (tenths / 10, tenths % 10) {
                (whole, 0) => format!("{whole}{unit}"),
                (whole, tenth) => format!("{whole}.{tenth}{unit}"),
            };
        }
        let whole = (u128::from(bytes) + unit_bytes / 2) / unit_bytes;
        if whole < 1024 {
            return format!("{whole}{unit}");
        }
        unit_bytes <<= 10;
    }
    unreachable!("2^64 bytes are 16Ei, and the last unit holds up to 1024 of them")
}

/// `part` of `whole` in percent for a status, rounded down, so that `100%` means all; `-` when `whole` is 0.
#[must_use]
pub fn format_percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!("{}%", u128::from(part.min(whole)) * 100 / u128::from(whole))
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 0,
            "maxLength": QUANTITY_TEXT_MAX,
            "pattern": QUANTITY_PATTERN,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_bytes() {
        for (text, bytes) in [
            ("0", 0),
            ("1000000", 1_000_000),
            ("4Mi", 4 << 20),
            ("900Gi", 900 << 30),
            ("1.5Ti", 3 << 39),
            ("1k", 1000),
            ("1.0005k", 1001),
            ("0.1", 1),
            ("2G", 2_000_000_000),
            ("1E", 1_000_000_000_000_000_000),
            ("1e3", 1000),
            ("1E3", 1000),
            ("15Ei", 15 << 60),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_quantity(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn malformed_quantities_are_refused() {
        for text in ["", "Gi", "-1", "+1", "1 Gi", "1.Gi", ".5Gi", "1gi", "1K", "100m", "1e", "1e333", "1.5.5", "90%"] {
            assert!(matches!(parse_quantity(text), Err(QuantityError::Malformed { .. })), "{text}");
        }
        for text in ["16Ei", "18446744073709551616", "1e20", "1e99", "999999999999999999999Ei"] {
            assert!(matches!(parse_quantity(text), Err(QuantityError::Overflow { .. })), "{text}");
        }
        assert!(parse_quantity(&"1".repeat(1_000_000)).is_err());
        assert!(Quantity::Int(-1).bytes().is_err());
    }

    #[test]
    fn capacities_are_sizes_or_percentages() {
        assert_eq!(parse_capacity("90%"), Ok(CapacityLimit::Percent(90)));
        assert_eq!(parse_capacity("1Ki"), Ok(CapacityLimit::Bytes(1024)));
        for text in ["0%", "100%", "05%", "+5%", "%", "5.5%", "1Ki%"] {
            assert!(parse_capacity(text).is_err(), "{text}");
        }
        assert_eq!(CapacityLimit::Percent(90).bytes_of(1001), 900);
        assert_eq!(CapacityLimit::Percent(99).bytes_of(u64::MAX), 18_262_276_632_972_456_098);
        assert_eq!(CapacityLimit::Bytes(5).bytes_of(1), 5);
    }

    #[test]
    fn the_schema_s_patterns_and_the_parsers_agree() {
        let quantity = regex::Regex::new(QUANTITY_PATTERN).expect("a valid pattern");
        let capacity = regex::Regex::new(CAPACITY_PATTERN).expect("a valid pattern");
        for text in [
            "1", "1Ki", "1.5Gi", "1k", "1E", "1E5", "1e5", "", "Ki", "1.", ".1", "1e", "1e123", "1K", "100m", "-1",
            "1%", "99%", "100%", "0%", "01%", "1.5%",
        ] {
            assert_eq!(quantity.is_match(text), parse_quantity(text).is_ok(), "{text}");
            assert_eq!(capacity.is_match(text), parse_capacity(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn formatted_bytes_are_short() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1Ki"),
            (1536, "1.5Ki"),
            (12 << 30, "12Gi"),
            ((12 << 30) + (1 << 29), "13Gi"),
            ((1 << 30) - 1, "1Gi"),
            ((10 << 20) - 1, "10Mi"),
            (u64::MAX, "16Ei"),
        ] {
            assert_eq!(format_bytes(bytes), text, "{bytes}");
            let read = parse_quantity(text);
            assert!(read.is_ok() || bytes == u64::MAX, "{text}");
        }
    }

    #[test]
    fn a_percentage_of_all_is_only_all() {
        assert_eq!(format_percent(999, 1000), "99%");
        assert_eq!(format_percent(7, 7), "100%");
        assert_eq!(format_percent(0, 0), "-");
    }
}
