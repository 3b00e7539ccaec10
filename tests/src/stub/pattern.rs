//! Bytes of any amount made from (key, version, offset), so that a wrong byte says where it came from.
//!
//! Layout of each 4,096-byte block, as 512 little-endian 64-bit words:
//!
//! | word | holds |
//! |---|---|
//! | 0 | hash of the key |
//! | 1 | version |
//! | 2 | block number |
//! | w from 3 on | `mix(version) ^ mix(key hash + (w + turn(block)) mod 512)` |
//!
//! Every word from 3 on gives the version back (the mixer is a bijection), so a mixture of two versions shows even
//! within one block. A block is one table turned by an amount of its own, which makes filling a copy, and a piece of
//! another block or key shows as a version that no two words agree on.

#[cfg(test)]
mod tests;

use thiserror::Error;

/// Bytes of a self-describing block.
pub const BLOCK_BYTES: u64 = 4096;
const WORD_BYTES: u64 = 8;
const HEADER_WORDS: u64 = 3;
const WORDS: u64 = BLOCK_BYTES / WORD_BYTES;

/// Why bytes are not the pattern of one version of a key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Mismatch {
    /// No whole 8-byte word in the piece: use [`check_version`].
    #[error("{len} bytes at {offset} hold no whole word to read a version from")]
    TooShort {
        /// Offset of the piece.
        offset: u64,
        /// Its length.
        len: usize,
    },
    /// Two versions in one piece.
    #[error("version {found} at byte {at}, after version {first}")]
    Mixed {
        /// What the piece began with.
        first: u64,
        /// What came later.
        found: u64,
        /// Offset in the object.
        at: u64,
    },
    /// A byte that no version has there.
    #[error("wrong byte at {at} of version {version}: {found:#04x}, not {wanted:#04x}")]
    Wrong {
        /// Offset in the object.
        at: u64,
        /// The version that was expected.
        version: u64,
        /// What was read.
        found: u8,
        /// What the pattern has.
        wanted: u8,
    },
}

/// Fills `out` with the bytes of `key` at `version` from `offset` on.
pub fn fill(key: &str, version: u64, offset: u64, out: &mut [u8]) {
    let hash = key_hash(key);
    let (head, words) = split(offset, out.len());
    let (first, rest) = out.split_at_mut(head);
    fill_edge(hash, version, offset, first);
    let (middle, last) = rest.split_at_mut(words * 8);
    let mut at = (offset + head as u64) / WORD_BYTES;
    let table = Table::new(hash, version);
    let mut blocks = middle;
    while !blocks.is_empty() {
        let (block, index) = (at / WORDS, at % WORDS);
        let count = usize::try_from(WORDS - index).expect("at most 512").min(blocks.len() / 8);
        let (part, tail) = blocks.split_at_mut(count * 8);
        table.fill([hash, version, block], index, part);
        at += count as u64;
        blocks = tail;
    }
    fill_edge(hash, version, at * WORD_BYTES, last);
}

/// The version that all of `bytes`, read at `offset` of `key`, belong to.
///
/// Errors: the first byte that contradicts the version the piece begins with. An empty piece is version 0.
pub fn check(key: &str, offset: u64, bytes: &[u8]) -> Result<u64, Mismatch> {
    if bytes.is_empty() {
        return Ok(0);
    }
    let hash = key_hash(key);
    let version = version_of(hash, offset, bytes).ok_or(Mismatch::TooShort { offset, len: bytes.len() })?;
    let Some(at) = first_difference(hash, version, offset, bytes) else {
        return Ok(version);
    };
    let rest = &bytes[usize::try_from(at - offset).expect("within the piece")..];
    let block_end = (at / BLOCK_BYTES + 1) * BLOCK_BYTES;
    let near = rest.len().min(usize::try_from(block_end - at).expect("at most 4096"));
    if let Some(found) = version_of(hash, at, &rest[..near])
        && found != version
        && first_difference(hash, found, at, &rest[..near]).is_none()
    {
        return Err(Mismatch::Mixed { first: version, found, at });
    }
    Err(wrong_byte(hash, version, at, rest[0]))
}

/// Like [`check`] for a known version and any length.
pub fn check_version(key: &str, version: u64, offset: u64, bytes: &[u8]) -> Result<(), Mismatch> {
    let hash = key_hash(key);
    match first_difference(hash, version, offset, bytes) {
        None => Ok(()),
        Some(at) => {
            let found = bytes[usize::try_from(at - offset).expect("within the piece")];
            Err(wrong_byte(hash, version, at, found))
        }
    }
}

/// FNV-1a, finished by a mixer: small, and stable for ever.
pub(super) fn key_hash(key: &str) -> u64 {
    mix(key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)))
}

/// Bytes before the first whole word, and how many whole words follow.
fn split(offset: u64, len: usize) -> (usize, usize) {
    let head = usize::try_from((WORD_BYTES - offset % WORD_BYTES) % WORD_BYTES).expect("at most 7").min(len);
    (head, (len - head) / 8)
}

/// The words of a key at a version, twice over, so that a block at any turn is one slice.
struct Table(Vec<u8>);

impl Table {
    fn new(hash: u64, version: u64) -> Table {
        let words = (0..WORDS).flat_map(|at| (mix(version) ^ mix(hash.wrapping_add(at))).to_le_bytes());
        let once: Vec<u8> = words.collect();
        Table(once.repeat(2))
    }

    /// Fills `out` with words of `block` from word `index` on.
    fn fill(&self, header: [u64; 3], index: u64, out: &mut [u8]) {
        let begin = usize::try_from((turn(header[2]) + index) * WORD_BYTES).expect("below 8192");
        out.copy_from_slice(&self.0[begin..begin + out.len()]);
        for (value, word) in header.iter().skip(usize::try_from(index).expect("below 512")).zip(out.chunks_exact_mut(8))
        {
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// By how many words the table is turned in this block.
fn turn(block: u64) -> u64 {
    mix(block) % WORDS
}

fn fill_edge(hash: u64, version: u64, offset: u64, out: &mut [u8]) {
    for (at, byte) in (offset..).zip(out) {
        *byte = byte_at(hash, version, at);
    }
}

fn byte_at(hash: u64, version: u64, at: u64) -> u8 {
    let word = word(hash, version, at / BLOCK_BYTES, at % BLOCK_BYTES / WORD_BYTES);
    word.to_le_bytes()[usize::try_from(at % WORD_BYTES).expect("at most 7")]
}

fn word(hash: u64, version: u64, block: u64, index: u64) -> u64 {
    match index {
        0 => hash,
        1 => version,
        2 => block,
        _ => mix(version) ^ place(hash, block, index),
    }
}

fn place(hash: u64, block: u64, index: u64) -> u64 {
    mix(hash.wrapping_add((index + turn(block)) % WORDS))
}

/// Reads the version back from the first whole word that carries it.
fn version_of(hash: u64, offset: u64, bytes: &[u8]) -> Option<u64> {
    let (head, words) = split(offset, bytes.len());
    let first = (offset + head as u64) / WORD_BYTES;
    for (at, word) in (first..).zip(bytes[head..].chunks_exact(8)).take(words) {
        let value = u64::from_le_bytes(word.try_into().expect("chunks of 8"));
        let (block, index) = (at / WORDS, at % WORDS);
        if index == 1 {
            return Some(value);
        }
        if index >= HEADER_WORDS {
            return Some(unmix(value ^ place(hash, block, index)));
        }
    }
    None
}

fn first_difference(hash: u64, version: u64, offset: u64, bytes: &[u8]) -> Option<u64> {
    let table = Table::new(hash, version);
    let mut block = [0u8; 4096];
    let mut at = offset;
    let mut rest = bytes;
    while !rest.is_empty() {
        let begin = at / BLOCK_BYTES * BLOCK_BYTES;
        let skip = usize::try_from(at - begin).expect("less than 4096");
        let (part, tail) = rest.split_at(rest.len().min(block.len() - skip));
        table.fill([hash, version, begin / BLOCK_BYTES], 0, &mut block);
        let wanted = &block[skip..skip + part.len()];
        if part != wanted {
            let same = part.iter().zip(wanted).take_while(|(a, b)| a == b).count();
            return Some(at + same as u64);
        }
        at += part.len() as u64;
        rest = tail;
    }
    None
}

fn wrong_byte(hash: u64, version: u64, at: u64, found: u8) -> Mismatch {
    Mismatch::Wrong { at, version, found, wanted: byte_at(hash, version, at) }
}

/// The finisher of SplitMix64: a bijection with good avalanche.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The inverse of [`mix`].
fn unmix(value: u64) -> u64 {
    let value = (value ^ (value >> 31) ^ (value >> 62)).wrapping_mul(0x3196_42b2_d24d_8ec3);
    let value = (value ^ (value >> 27) ^ (value >> 54)).wrapping_mul(0x96de_1b17_3f11_9089);
    value ^ (value >> 30) ^ (value >> 60)
}
