//! What of a volume is worth keeping: admission, age, room, pins.
//!
//! Owns the fields' types and rules. A pattern's meaning is the data path's; here is only which characters it may have.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::quantity::{Quantity, QuantityError};

/// A pattern of keys: what other languages of patterns give a meaning is left out, so that nothing is half understood.
pub(crate) const GLOB_PATTERN: &str = r"^[^\[\]{}!\\]+$";

/// Patterns of one list, and the characters of one.
pub(super) const GLOBS_MAX: u32 = 64;
const GLOB_TEXT_MAX: u32 = 256;

/// The first test keeps a malformed text, which the pattern reports, from being reported twice.
pub(super) const TTL_RULE: &str = "!self.matches('^([0-9]+(ms|s|m|h))+$') || \
     (self.matches('^([0-9]{1,9}(ms|s)|[0-9]{1,6}(m|h))+$') && \
     duration(self) >= duration('1s') && duration(self) <= duration('87600h'))";

/// A pattern of keys, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyPattern(String);

impl KeyPattern {
    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl JsonSchema for KeyPattern {
    fn schema_name() -> Cow<'static, str> {
        "KeyPattern".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A pattern of keys.",
            "minLength": 1,
            "maxLength": GLOB_TEXT_MAX,
            "pattern": GLOB_PATTERN,
        })
    }
}

/// What is taken in at all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Admission {
    /// A chunk is kept once it was read so often from the origin without being kept. 0: at the first read.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub after_reads: i32,

    /// Objects that are never kept, by patterns of their keys: * stands for anything but a slash, ** for anything, ? for one
    /// character. A pattern without a slash is about the last part of a key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = GLOBS_MAX),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub exclude: Vec<KeyPattern>,

    /// Larger objects are never kept. Absent: any size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_object_size: Option<Quantity>,
}

impl Admission {
    /// The largest object that is kept, in bytes.
    ///
    /// # Errors
    /// [`QuantityError`], only for objects that the schema of this version didn't admit.
    pub fn max_object_bytes(&self) -> Result<Option<u64>, QuantityError> {
        self.max_object_size.as_ref().map(Quantity::bytes).transpose()
    }
}
