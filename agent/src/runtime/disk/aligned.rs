//! Memory for O_DIRECT, and the one bound on how much of it there is.
//!
//! [`AlignedBuf`] owns zeroed memory that begins at a multiple of 4 KiB and is a multiple of 4 KiB long, so every byte
//! of it may be read at any time. It is filled from the front like a `Vec` and freezes into [`Bytes`] without a copy.
//! [`BufferPool`] counts the memory it handed out in bytes; who finds it empty waits in line. Memory returns to the
//! pool when the last `Bytes` made of it is dropped.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;
use larder_proto::limits::SEGMENT_BYTES;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What O_DIRECT wants offsets, lengths and memory to be a multiple of.
pub const PAGE_BYTES: usize = 4096;

/// Memory aligned to 4 KiB; the first `len` bytes are the content.
pub struct AlignedBuf {
    memory: Option<Memory>,
    len: usize,
    /// Where the memory goes when it is no longer needed; nothing for memory outside of a pool.
    home: Option<Home>,
}

struct Home {
    free: Arc<Mutex<Vec<Memory>>>,
    _permit: OwnedSemaphorePermit,
}

impl AlignedBuf {
    /// Zeroed memory for `capacity_bytes` (rounded up to pages) that no pool counts: for tests and single pages.
    pub fn unpooled(capacity_bytes: usize) -> Self {
        Self { memory: Some(Memory::zeroed(capacity_bytes)), len: 0, home: None }
    }

    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("only drop takes the memory")
    }

    /// Bytes it can hold, a multiple of 4 KiB.
    pub fn capacity(&self) -> usize {
        self.memory().layout.size()
    }

    /// Bytes that still fit.
    pub fn remaining(&self) -> usize {
        self.capacity() - self.len
    }

    /// Appends as much of `bytes` as fits; returns how much that was.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.remaining());
        let start = self.len;
        self.whole_mut()[start..start + count].copy_from_slice(&bytes[..count]);
        self.len += count;
        count
    }

    /// All of the memory, for a read that fills it; follow with [`set_len`](Self::set_len).
    pub fn whole_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().expect("only drop takes the memory").as_mut_slice()
    }

    /// Says how much of the memory is content.
    ///
    /// # Panics
    /// When `len` is above the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "{len} bytes in a buffer of {}", self.capacity());
        self.len = len;
    }

    /// The content as `Bytes` over the same memory; the memory returns to its pool with the last of them.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory().as_slice()[..self.len]
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        let (Some(memory), Some(home)) = (self.memory.take(), self.home.take()) else { return };
        if memory.layout.size() == SEGMENT_BYTES as usize {
            home.free.lock().push(memory);
        }
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} of {})", self.len, self.capacity())
    }
}

/// Aligned memory with a bound in bytes, shared by everybody who reads or fills. Cheap to clone.
#[derive(Clone)]
pub struct BufferPool {
    pages: Arc<Semaphore>,
    pages_max: usize,
    /// Segments that were used before, kept because touching fresh memory costs more than reading the disk. With what
    /// is handed out they stay within the bound.
    free: Arc<Mutex<Vec<Memory>>>,
}

impl BufferPool {
    /// A pool of `budget_bytes`, at least one segment of 1 MiB.
    pub fn new(budget_bytes: usize) -> Self {
        let pages_max = (budget_bytes.max(SEGMENT_BYTES as usize) / PAGE_BYTES).min(Semaphore::MAX_PERMITS >> 3);
        Self { pages: Arc::new(Semaphore::new(pages_max)), pages_max, free: Arc::default() }
    }

    /// The bound in bytes.
    pub fn budget_bytes(&self) -> usize {
        self.pages_max * PAGE_BYTES
    }

    /// Bytes handed out now.
    pub fn used_bytes(&self) -> usize {
        (self.pages_max - self.pages.available_permits()) * PAGE_BYTES
    }

    /// An empty buffer of at least `len` bytes; waits in line until the pool has that much. Cancel safe. A caller that
    /// holds buffers while it waits for more needs a deadline of its own.
    ///
    /// # Panics
    /// When `len` is above the pool's budget: such a wait could never end.
    pub async fn acquire(&self, len: usize) -> AlignedBuf {
        let pages = self.pages_of(len);
        let permit = self.pages.clone().acquire_many_owned(pages).await.expect("the semaphore is never closed");
        self.handed_out(len, permit)
    }

    /// As [`acquire`](Self::acquire), without waiting.
    pub fn try_acquire(&self, len: usize) -> Option<AlignedBuf> {
        let permit = self.pages.clone().try_acquire_many_owned(self.pages_of(len)).ok()?;
        Some(self.handed_out(len, permit))
    }

    fn pages_of(&self, len: usize) -> u32 {
        let pages = len.max(1).div_ceil(PAGE_BYTES);
        assert!(pages <= self.pages_max, "{len} bytes of a pool of {}", self.budget_bytes());
        u32::try_from(pages).expect("a pool has fewer pages than a semaphore takes at once")
    }

    /// Gives idle segments back until idle and used memory together are within the bound.
    fn trim(&self) {
        let mut free = self.free.lock();
        while self.used_bytes() + free.len() * SEGMENT_BYTES as usize > self.budget_bytes() && free.pop().is_some() {}
    }

    fn handed_out(&self, len: usize, permit: OwnedSemaphorePermit) -> AlignedBuf {
        let recycled =
            (len.div_ceil(PAGE_BYTES) * PAGE_BYTES == SEGMENT_BYTES as usize).then(|| self.free.lock().pop()).flatten();
        let memory = recycled.unwrap_or_else(|| {
            self.trim();
            Memory::zeroed(len)
        });
        AlignedBuf { memory: Some(memory), len: 0, home: Some(Home { free: self.free.clone(), _permit: permit }) }
    }
}

/// An allocation of whole pages, initialised for all its life.
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: `Memory` owns its allocation alone; nothing in it is tied to a thread, and shared access only reads.
unsafe impl Send for Memory {}
// SAFETY: as above: `&Memory` gives `&[u8]` only.
unsafe impl Sync for Memory {}

impl Memory {
    fn zeroed(len: usize) -> Self {
        let size = len.max(1).div_ceil(PAGE_BYTES) * PAGE_BYTES;
        let layout = Layout::from_size_align(size, PAGE_BYTES).expect("a buffer is far below isize::MAX");
        // SAFETY: the layout's size is at least one page, never zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, layout }
    }

    fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` points to `layout.size()` bytes that were zeroed when allocated and are freed only in drop;
        // writers hold `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this very layout, and freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn memory_is_aligned_and_freezes_in_place() {
        let mut buffer = AlignedBuf::unpooled(5000);
        assert_eq!(buffer.capacity(), 8192);
        assert_eq!(buffer.put(b"hello"), 5);
        assert_eq!(buffer.put(&[1; 9000]), 8187, "as much as fits");
        let start = buffer.as_ptr();
        assert_eq!(start as usize % PAGE_BYTES, 0);
        let bytes = buffer.freeze();
        assert_eq!(bytes.as_ptr(), start, "no copy");
        assert_eq!(&bytes[..5], b"hello");
    }

    #[tokio::test(start_paused = true)]
    async fn the_pool_waits_until_the_last_bytes_are_gone() {
        let pool = BufferPool::new(2 << 20);
        let first = pool.acquire(1 << 20).await;
        let mut second = pool.acquire(1 << 20).await;
        assert_eq!(pool.used_bytes(), 2 << 20);
        assert!(pool.try_acquire(1).is_none());
        second.put(&[7; 100]);
        let bytes = second.freeze();
        let slice = bytes.slice(10..20);
        drop(bytes);
        let wait = tokio::time::timeout(Duration::from_secs(1), pool.acquire(4096)).await;
        assert!(wait.is_err(), "a slice still holds the memory");
        drop(slice);
        let third = tokio::time::timeout(Duration::from_secs(1), pool.acquire(1 << 20)).await.expect("free again");
        assert_eq!(third.len(), 0, "recycled memory begins empty");
        drop((first, third));
        assert_eq!(pool.used_bytes(), 0);
    }
}
