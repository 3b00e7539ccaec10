//! A half-open range of bytes, and its widening to blocks.

use crate::limits::BLOCK_BYTES;

/// Bytes `start..end`, `start <= end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// `start..end`, or nothing when `end < start`.
    pub fn new(start: u64, end: u64) -> Option<Self> {
        (start <= end).then_some(Self { start, end })
    }

    /// `len` bytes from `start`; saturates at the end of u64.
    pub fn at(start: u64, len: u64) -> Self {
        Self { start, end: start.saturating_add(len) }
    }

    /// First byte.
    pub fn start(self) -> u64 {
        self.start
    }

    /// First byte after the range.
    pub fn end(self) -> u64 {
        self.end
    }

    /// Length in bytes.
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether the range holds no byte.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The range cut to what lies before `len`.
    pub fn clamp(self, len: u64) -> Self {
        Self { start: self.start.min(len), end: self.end.min(len) }
    }

    /// Whether every byte of `other` lies in this range.
    pub fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Widened to whole 64 KiB blocks, the last one cut at `len`.
    pub fn widen_to_blocks(self, len: u64) -> Self {
        let block = u64::from(BLOCK_BYTES);
        let start = self.start / block * block;
        let end = self.end.div_ceil(block).saturating_mul(block).min(len);
        Self { start: start.min(end), end }
    }

    /// Number of 64 KiB blocks the range touches.
    pub fn blocks(self) -> u64 {
        let block = u64::from(BLOCK_BYTES);
        if self.is_empty() { 0 } else { self.end.div_ceil(block) - self.start / block }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widening_covers_and_is_cut_at_the_end() {
        let wide = ByteRange::at(70_000, 10).widen_to_blocks(100_000);
        assert_eq!((wide.start(), wide.end()), (65_536, 100_000));
        assert_eq!(wide.blocks(), 1);
        assert_eq!(ByteRange::at(0, 0).widen_to_blocks(0).blocks(), 0);
        assert_eq!(ByteRange::new(2, 1), None);
    }
}
