//! The small values of a CacheVolume: access, chunk size, attributes.
//!
//! Each keeps what the object says, so that reading an object never fails, and parses on request.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::quantity::{QuantityError, parse_quantity};

/// 0, or Ki up to 9999, or Mi up to 99: bounded by its form, because CEL can't compare quantities cheaply.
pub(crate) const READ_AHEAD_PATTERN: &str = "^(0|[1-9][0-9]{0,3}Ki|[1-9][0-9]?Mi)$";

/// The pattern of a mode.
pub(crate) const MODE_PATTERN: &str = "^0[0-7]{3}$";

/// What mounts of a volume may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Access {
    /// Whatever writes gets EROFS.
    #[default]
    ReadOnly,
    /// A value that a newer version knows; refused by the schema.
    #[serde(other, skip_serializing)]
    #[schemars(skip)]
    Unknown,
}

/// Whether a node keeps what is read there though other nodes own it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LocalCopies {
    /// An object of which half was read there within an hour.
    #[default]
    Auto,
    /// Nothing.
    Never,
    /// Each object that is read there.
    Always,
    /// A value that a newer version knows; refused by the schema.
    #[serde(other, skip_serializing)]
    #[schemars(skip)]
    Unknown,
}

/// The size of a chunk: 64Ki to 64Mi, each twice the one before. An enum in the schema, because its message names all values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChunkSize(String);

impl ChunkSize {
    /// Every size that the schema admits.
    pub const ALL: [&'static str; 11] =
        ["64Ki", "128Ki", "256Ki", "512Ki", "1Mi", "2Mi", "4Mi", "8Mi", "16Mi", "32Mi", "64Mi"];

    /// The size in bytes.
    ///
    /// # Errors
    /// [`QuantityError::Malformed`] when it is none of [`ChunkSize::ALL`], which the schema refuses.
    pub fn bytes(&self) -> Result<u64, QuantityError> {
        if !ChunkSize::ALL.contains(&self.0.as_str()) {
            return Err(QuantityError::Malformed { text: self.0.chars().take(32).collect() });
        }
        parse_quantity(&self.0)
    }

    /// The size as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ChunkSize {
    fn default() -> Self {
        ChunkSize("4Mi".to_owned())
    }
}

impl JsonSchema for ChunkSize {
    fn schema_name() -> Cow<'static, str> {
        "ChunkSize".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // CEL reads it (immutability), so it has a maximum beside the enum.
        json_schema!({"type": "string", "maxLength": 8, "enum": ChunkSize::ALL})
    }
}

/// Owner and mode of files and directories whose objects carry none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attributes {
    /// Owner.
    #[serde(default)]
    #[schemars(range(min = 0, max = 4_294_967_294_i64))]
    pub uid: i64,

    /// Group.
    #[serde(default)]
    #[schemars(range(min = 0, max = 4_294_967_294_i64))]
    pub gid: i64,

    /// Mode of files: four octal digits in quotes, as in "0644".
    #[serde(default = "default_file_mode")]
    #[schemars(length(max = 4), regex(pattern = MODE_PATTERN))]
    pub file_mode: String,

    /// Mode of directories: four octal digits in quotes, as in "0755".
    #[serde(default = "default_dir_mode")]
    #[schemars(length(max = 4), regex(pattern = MODE_PATTERN))]
    pub dir_mode: String,
}

impl Attributes {
    /// Owner and group; `None` when out of range, which the schema refuses.
    #[must_use]
    pub fn owner(&self) -> Option<(u32, u32)> {
        Some((u32::try_from(self.uid).ok()?, u32::try_from(self.gid).ok()?))
    }

    /// Permission bits of files; `None` when malformed, which the schema refuses.
    #[must_use]
    pub fn file_mode_bits(&self) -> Option<u16> {
        parse_mode(&self.file_mode)
    }

    /// Permission bits of directories; `None` when malformed, which the schema refuses.
    #[must_use]
    pub fn dir_mode_bits(&self) -> Option<u16> {
        parse_mode(&self.dir_mode)
    }
}

impl Default for Attributes {
    fn default() -> Self {
        Attributes { uid: 0, gid: 0, file_mode: default_file_mode(), dir_mode: default_dir_mode() }
    }
}

/// Permission bits from four octal digits, the first of them 0.
fn parse_mode(text: &str) -> Option<u16> {
    let digits = text.strip_prefix('0')?;
    if digits.len() != 3 || !digits.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
        return None;
    }
    u16::from_str_radix(digits, 8).ok()
}

fn default_file_mode() -> String {
    "0644".to_owned()
}

fn default_dir_mode() -> String {
    "0755".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_64_kib_times_powers_of_two() {
        for (power, text) in ChunkSize::ALL.into_iter().enumerate() {
            assert_eq!(ChunkSize(text.to_owned()).bytes(), Ok((64 << 10) << power), "{text}");
        }
        assert!(ChunkSize("3Mi".to_owned()).bytes().is_err());
        assert_eq!(ChunkSize::default().bytes(), Ok(4 << 20));
    }

    #[test]
    fn modes_are_four_octal_digits() {
        assert_eq!(Attributes::default().file_mode_bits(), Some(0o644));
        assert_eq!(Attributes::default().dir_mode_bits(), Some(0o755));
        for text in ["644", "0888", "+644", "00644", "0+44", ""] {
            assert_eq!(parse_mode(text), None, "{text}");
        }
    }

    #[test]
    fn every_read_ahead_that_the_pattern_admits_is_a_size_up_to_99_mi() {
        let pattern = regex::Regex::new(READ_AHEAD_PATTERN).expect("a valid pattern");
        for text in ["0", "1Ki", "9999Ki", "1Mi", "99Mi"] {
            assert!(pattern.is_match(text), "{text}");
            assert!(parse_quantity(text).expect("a size") <= 103_809_024, "{text}");
        }
        for text in ["100Mi", "10000Ki", "1Gi", "0Mi", "1M", "01Mi"] {
            assert!(!pattern.is_match(text), "{text}");
        }
    }
}
