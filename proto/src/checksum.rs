//! CRC32C per 64 KiB block, made once when bytes enter the cluster, and bytes that can't be read before they are checked.
//!
//! A block's checksum is `crc32c(object id ++ block number (u64 LE) ++ block)`: the prefix makes a block that was
//! written to, or read from, the wrong place fail. Block numbers count from the start of the object.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

use crate::ids::ObjectId;
use crate::limits::BLOCK_BYTES;

/// The checksum of block `block` of `object`; `bytes` is the whole block (the object's last one may be shorter).
pub fn block_crc(object: ObjectId, block: u64, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut prefix = [0; 24];
    prefix[..16].copy_from_slice(object.as_bytes());
    prefix[16..].copy_from_slice(&block.to_le_bytes());
    digest.update(&prefix);
    digest.update(bytes);
    u32::try_from(digest.finalize() & 0xffff_ffff).expect("masked to 32 bits")
}

/// The checksums of consecutive blocks that begin at block `first`.
pub fn block_crcs(object: ObjectId, first: u64, bytes: &[u8]) -> Vec<u32> {
    (first..).zip(bytes.chunks(BLOCK_BYTES as usize)).map(|(block, bytes)| block_crc(object, block, bytes)).collect()
}

/// A block whose bytes and checksum disagree: one copy is corrupt, another place must answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("block {block} of object {object} fails its checksum")]
pub struct CorruptBlock {
    /// The object.
    pub object: ObjectId,
    /// The block, counted from the start of the object.
    pub block: u64,
}

/// Bytes with the checksums they travelled with. They can be passed on as they are, and read only after [`verify`](Self::verify).
#[derive(Clone, Debug)]
#[must_use = "bytes that nobody checks are not bytes"]
pub struct Checksummed {
    object: ObjectId,
    first: u64,
    bytes: Bytes,
    crcs: Vec<u32>,
}

impl Checksummed {
    /// Bytes that begin at block `first` of `object`, with one checksum per block; nothing when the counts disagree.
    pub fn new(object: ObjectId, first: u64, bytes: Bytes, crcs: Vec<u32>) -> Option<Self> {
        (bytes.len().div_ceil(BLOCK_BYTES as usize) == crcs.len()).then_some(Self { object, first, bytes, crcs })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The object the bytes are of.
    pub fn object(&self) -> ObjectId {
        self.object
    }

    /// The number of the first block.
    pub fn first_block(&self) -> u64 {
        self.first
    }

    /// The bytes, once every block matches.
    pub fn verify(self) -> Result<(Bytes, Vec<u32>), CorruptBlock> {
        for ((block, bytes), crc) in (self.first..).zip(self.bytes.chunks(BLOCK_BYTES as usize)).zip(&self.crcs) {
            if block_crc(self.object, block, bytes) != *crc {
                return Err(CorruptBlock { object: self.object, block });
            }
        }
        Ok((self.bytes, self.crcs))
    }

    /// Bytes and checksums for somebody who hands them on unread (a sender to a peer).
    pub fn into_unverified_parts(self) -> (Bytes, Vec<u32>) {
        (self.bytes, self.crcs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_bound_to_its_object_and_place() {
        let (a, b) = (ObjectId::from_bytes([1; 16]), ObjectId::from_bytes([2; 16]));
        let crc = block_crc(a, 7, b"hello");
        assert_eq!(crc, 0x8f5a4a21, "computed apart, bit by bit");
        assert_ne!(crc, block_crc(b, 7, b"hello"));
        assert_ne!(crc, block_crc(a, 8, b"hello"));
    }

    #[test]
    fn a_flipped_bit_is_named() {
        let object = ObjectId::from_bytes([3; 16]);
        let mut bytes = vec![9u8; 200_000];
        let crcs = block_crcs(object, 4, &bytes);
        assert_eq!(crcs.len(), 4);
        bytes[150_000] ^= 1;
        let checksummed = Checksummed::new(object, 4, bytes.into(), crcs).expect("counts agree");
        assert_eq!(checksummed.verify().expect_err("flipped"), CorruptBlock { object, block: 6 });
    }
}
