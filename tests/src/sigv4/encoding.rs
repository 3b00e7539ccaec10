//! Percent-encoding by S3's rule: everything but `A-Z a-z 0-9 - . _ ~` (and the slash of a path) becomes `%XX`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

const ALL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &ALL.remove(b'/');

/// What happens to `/`: it stays in a path, and is encoded in a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slash {
    /// A path.
    Keep,
    /// A name or value of a query.
    Encode,
}

/// Encodes `text` for a path or a query.
pub fn encode(text: &[u8], slash: Slash) -> String {
    let set = match slash {
        Slash::Keep => PATH,
        Slash::Encode => ALL,
    };
    percent_encode(text, set).to_string()
}

/// Decodes `%XX`; a `+` stays a `+`, as in a path.
pub fn decode(text: &str) -> Vec<u8> {
    percent_decode(text.as_bytes()).collect()
}

/// Decodes `%XX`, and `+` as a space, as in a query.
pub fn decode_form(text: &str) -> Vec<u8> {
    percent_decode(text.replace('+', " ").as_bytes()).collect()
}
