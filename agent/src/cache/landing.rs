//! The bytes of one chunk as they land in memory: segments of 1 MiB, filled from the front, readable block by block.
//!
//! One task lands bytes, anybody reads what has landed. A block is readable once it is whole and its checksum is known
//! (made here for bytes of the origin, checked by the caller for all others). A finished segment is `Bytes`, handed
//! out without a copy; the one being filled is read under a lock that the landing task holds for one memcpy at a time.
//! The memory is counted by the flights' budget until the last slice of it is dropped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use larder_proto::checksum::{Checksummed, block_crc};
use larder_proto::limits::{BLOCK_BYTES, SEGMENT_BYTES};
use larder_proto::object::Chunk;
use larder_proto::range::ByteRange;
use parking_lot::RwLock;

use super::budget::Grant;
use crate::runtime::disk::{AlignedBuf, BufferPool};

const BLOCK: usize = BLOCK_BYTES as usize;
const SEGMENT: u64 = SEGMENT_BYTES as u64;

/// A whole segment with its checksums.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The bytes; 1 MiB, or less at the end of the chunk.
    pub bytes: Bytes,
    /// One checksum per block.
    pub crcs: Vec<u32>,
}

/// A chunk's place in memory.
pub struct Landing {
    chunk: Chunk,
    len: u64,
    /// Whole blocks from the start, in bytes; what readers may read.
    landed: AtomicU64,
    segments: Box<[OnceLock<Segment>]>,
    open: RwLock<Option<Open>>,
    grant: OnceLock<Arc<Grant>>,
}

/// The segment that is being filled.
struct Open {
    index: usize,
    buffer: AlignedBuf,
    crcs: Vec<u32>,
}

/// Keeps the budget's grant for as long as somebody holds a slice.
struct Owned<T> {
    bytes: T,
    _grant: Option<Arc<Grant>>,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Owned<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl Landing {
    /// Nothing has landed.
    pub fn new(chunk: &Chunk) -> Self {
        let len = u64::from(chunk.len());
        let segments = (0..len.div_ceil(SEGMENT)).map(|_| OnceLock::new()).collect();
        Self {
            chunk: chunk.clone(),
            len,
            landed: AtomicU64::new(0),
            segments,
            open: RwLock::new(None),
            grant: OnceLock::new(),
        }
    }

    /// The chunk.
    pub fn chunk(&self) -> &Chunk {
        &self.chunk
    }

    /// Says which grant of the budget the memory is counted under; before the first byte.
    pub fn count_under(&self, grant: Grant) {
        let _first_wins = self.grant.set(Arc::new(grant));
    }

    /// Bytes that can be read, from the chunk's start: whole blocks.
    pub fn landed(&self) -> u64 {
        self.landed.load(Ordering::Acquire)
    }

    /// `range` of the chunk, if all of it has landed. Copies only what lies in an unfinished segment or in two.
    pub fn slice(&self, range: ByteRange) -> Option<Bytes> {
        if range.end() > self.landed() {
            return None;
        }
        let mut parts = self.parts(range);
        let first = parts.next()?;
        let len = usize::try_from(range.len()).ok()?;
        if first.0.len() == len {
            return Some(first.0);
        }
        let mut whole = BytesMut::with_capacity(len);
        for (part, _) in std::iter::once(first).chain(parts) {
            whole.extend_from_slice(&part);
        }
        (whole.len() == len).then(|| whole.freeze())
    }

    /// What has landed of `range` (whole blocks), from its start up to the end of its first segment, with checksums.
    pub fn checksummed(&self, range: ByteRange) -> Option<Checksummed> {
        let range = range.clamp(self.landed());
        if range.is_empty() {
            return None;
        }
        let (bytes, crcs) = self.parts(range).next()?;
        let first = self.chunk.first_block() + range.start() / u64::from(BLOCK_BYTES);
        Checksummed::new(self.chunk.object().id(), first, bytes, crcs)
    }

    /// A finished segment.
    pub fn segment(&self, index: usize) -> Option<Segment> {
        self.segments.get(index)?.get().cloned()
    }

    /// The whole chunk in segments, once all have landed.
    pub fn all_checksummed(&self) -> Option<Vec<Checksummed>> {
        let blocks = u64::from(SEGMENT_BYTES / BLOCK_BYTES);
        let pieces = (self.chunk.first_block()..).step_by(usize::try_from(blocks).ok()?).zip(&self.segments);
        pieces
            .map(|(first, segment)| {
                let Segment { bytes, crcs } = segment.get()?.clone();
                Checksummed::new(self.chunk.object().id(), first, bytes, crcs)
            })
            .collect()
    }

    /// Pieces of a landed range, one per segment; checksums are right when the range is of whole blocks.
    fn parts(&self, range: ByteRange) -> impl Iterator<Item = (Bytes, Vec<u32>)> {
        let first = range.start() / SEGMENT;
        let last = range.end().div_ceil(SEGMENT);
        (first..last).filter_map(move |index| {
            let base = index * SEGMENT;
            let start = usize::try_from(range.start().max(base) - base).ok()?;
            let end = usize::try_from(range.end().min(base + SEGMENT) - base).ok()?;
            self.part(usize::try_from(index).ok()?, start, end)
        })
    }

    fn part(&self, index: usize, start: usize, end: usize) -> Option<(Bytes, Vec<u32>)> {
        let blocks = start / BLOCK..end.div_ceil(BLOCK);
        let of_segment =
            |segment: &Segment| Some((segment.bytes.slice(start..end), segment.crcs.get(blocks.clone())?.to_vec()));
        if let Some(segment) = self.segments.get(index)?.get() {
            return of_segment(segment);
        }
        if let Some(open) = self.open.read().as_ref().filter(|open| open.index == index) {
            return Some((
                Bytes::copy_from_slice(open.buffer.get(start..end)?),
                open.crcs.get(blocks.clone())?.to_vec(),
            ));
        }
        // It was finished between the two looks.
        self.segments.get(index)?.get().and_then(of_segment)
    }

    /// Lands bytes of the origin right behind what landed before; returns the segments that they finish.
    pub async fn land(&self, pool: &BufferPool, mut bytes: &[u8]) -> Vec<Segment> {
        let mut finished = Vec::new();
        while !bytes.is_empty() {
            if self.open.read().is_none() {
                let Some((index, len)) = self.next_segment() else { break };
                let buffer = pool.acquire(len).await;
                *self.open.write() = Some(Open { index, buffer, crcs: Vec::with_capacity(len.div_ceil(BLOCK)) });
            }
            let taken = self.put(bytes);
            bytes = &bytes[taken..];
            finished.extend(self.finish_segment());
            if taken == 0 {
                break;
            }
        }
        finished
    }

    /// Lands whole blocks whose checksums were checked; without a copy where they are exactly the next segment.
    pub async fn land_checked(&self, pool: &BufferPool, bytes: Bytes, crcs: Vec<u32>) -> Vec<Segment> {
        let whole_segment = self.open.read().is_none()
            && self.next_segment().is_some_and(|(_, len)| len == bytes.len() && crcs.len() == len.div_ceil(BLOCK));
        match self.next_segment() {
            Some((index, _)) if whole_segment => {
                let owned = Owned { bytes, _grant: self.grant.get().cloned() };
                vec![self.publish(index, Segment { bytes: Bytes::from_owner(owned), crcs })]
            }
            _ => self.land(pool, &bytes).await,
        }
    }

    /// Forgets what landed of an unfinished block: the next place sends it again.
    pub fn rewind(&self) {
        if let Some(open) = self.open.write().as_mut() {
            let whole = open.crcs.len() * BLOCK;
            open.buffer.set_len(whole.min(open.buffer.len()));
        }
    }

    fn next_segment(&self) -> Option<(usize, usize)> {
        let index = self.segments.iter().position(|segment| segment.get().is_none())?;
        let start = u64::try_from(index).ok()? * SEGMENT;
        Some((index, usize::try_from((self.len - start).min(SEGMENT)).ok()?))
    }

    /// Appends what fits of `bytes` to the open segment and publishes the blocks that became whole.
    fn put(&self, bytes: &[u8]) -> usize {
        let mut guard = self.open.write();
        let Some(open) = guard.as_mut() else { return 0 };
        let base = u64::try_from(open.index).expect("a chunk has at most 64 segments") * SEGMENT;
        let want = usize::try_from((self.len - base).min(SEGMENT)).expect("at most 1 MiB");
        let room = want - open.buffer.len();
        let taken = open.buffer.put(&bytes[..bytes.len().min(room)]);
        let complete = open.buffer.len() == want;
        loop {
            let start = open.crcs.len() * BLOCK;
            let end = (start + BLOCK).min(want);
            if start >= end || open.buffer.len() < end || (end - start < BLOCK && !complete) {
                break;
            }
            let number = self.chunk.first_block() + (base + start as u64) / u64::from(BLOCK_BYTES);
            open.crcs.push(block_crc(self.chunk.object().id(), number, &open.buffer[start..end]));
            self.landed.store(base + end as u64, Ordering::Release);
        }
        taken
    }

    fn finish_segment(&self) -> Option<Segment> {
        let mut guard = self.open.write();
        let (_, want) = self.next_segment()?;
        if guard.as_ref()?.buffer.len() < want {
            return None;
        }
        let open = guard.take()?;
        let owned = Owned { bytes: open.buffer, _grant: self.grant.get().cloned() };
        Some(self.publish(open.index, Segment { bytes: Bytes::from_owner(owned), crcs: open.crcs }))
    }

    fn publish(&self, index: usize, segment: Segment) -> Segment {
        let _first_wins = self.segments[index].set(segment.clone());
        let end = (u64::try_from(index + 1).expect("a chunk has at most 64 segments") * SEGMENT).min(self.len);
        self.landed.fetch_max(end, Ordering::AcqRel);
        segment
    }
}

#[cfg(test)]
mod tests {
    use larder_proto::checksum::block_crcs;
    use larder_proto::ids::VolumeId;
    use larder_proto::object::{ChunkIndex, ChunkSize, Object, ObjectKey, Version};

    use super::*;

    fn chunk(len: u64) -> Chunk {
        let size = ChunkSize::new(4 << 20).expect("4 MiB");
        let key = ObjectKey::parse("a").expect("plain");
        let version = Version::of_etag("v1").expect("plain");
        let object = Object::new(VolumeId::from_bytes([1; 16]), key, version, len, size).expect("small");
        object.chunk(ChunkIndex(0)).expect("has bytes")
    }

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from(at * 7 % 251).expect("below 251")).collect()
    }

    #[tokio::test]
    async fn blocks_are_readable_before_their_segment_is_whole() {
        let landing = Landing::new(&chunk(3_000_000));
        let bytes = content(3_000_000);
        let pool = BufferPool::new(8 << 20);
        assert!(landing.land(&pool, &bytes[..100_000]).await.is_empty());
        assert_eq!(landing.landed(), 65_536);
        assert_eq!(landing.slice(ByteRange::at(60_000, 5_536)).expect("landed"), &bytes[60_000..65_536]);
        assert_eq!(landing.slice(ByteRange::at(60_000, 5_537)), None);
        let finished = landing.land(&pool, &bytes[100_000..]).await;
        assert_eq!(finished.len(), 3);
        assert_eq!(landing.landed(), 3_000_000);
        let across = landing.slice(ByteRange::at(1_000_000, 1_500_000)).expect("landed");
        assert!(across == bytes[1_000_000..2_500_000]);
    }

    #[tokio::test]
    async fn half_a_block_is_forgotten_and_sent_again() {
        let landing = Landing::new(&chunk(200_000));
        let bytes = content(200_000);
        let pool = BufferPool::new(8 << 20);
        landing.land(&pool, &bytes[..70_000]).await;
        landing.rewind();
        let at = usize::try_from(landing.landed()).expect("small");
        let crcs = block_crcs(landing.chunk().object().id(), 1, &bytes[at..]);
        let finished = landing.land_checked(&pool, Bytes::copy_from_slice(&bytes[at..]), crcs).await;
        assert_eq!(finished.len(), 1);
        assert!(landing.slice(ByteRange::at(0, 200_000)).expect("landed") == bytes);
        assert_eq!(finished[0].crcs, block_crcs(landing.chunk().object().id(), 0, &bytes));
    }

    #[tokio::test]
    async fn what_goes_to_peers_carries_its_checksums() {
        let landing = Landing::new(&chunk(2_000_000));
        let bytes = content(2_000_000);
        let pool = BufferPool::new(8 << 20);
        landing.land(&pool, &bytes[..1_500_000]).await;
        let piece = landing.checksummed(ByteRange::at(983_040, 300_000)).expect("landed");
        assert_eq!(piece.len(), 65_536, "up to the end of the first segment");
        piece.verify().expect("right");
        let piece = landing.checksummed(ByteRange::at(1 << 20, 900_000)).expect("landed");
        assert_eq!(piece.len(), 393_216, "up to what has landed");
        piece.verify().expect("right");
    }
}
