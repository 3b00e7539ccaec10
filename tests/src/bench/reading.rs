//! The timed loops. The same code reads a mount and the raw file that it is held against.
//!
//! Files hold the stub's pattern: word 2 of each 4,096-byte block is its number, which the loops check at next to no cost.

use std::ffi::c_void;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use crate::stub::pattern;

const BLOCK: usize = pattern::BLOCK_BYTES as usize;

/// Checks the whole content of a file against the pattern; not timed.
pub(crate) fn check_whole(path: &Path, key: &str, size: u64) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let (mut piece, mut at) = (vec![0; 1 << 20], 0);
    loop {
        let len = file.read(&mut piece)?;
        if len == 0 {
            break;
        }
        pattern::check_version(key, 1, at, &piece[..len]).with_context(|| format!("in {}", path.display()))?;
        at += len as u64;
    }
    ensure!(at == size, "{} has {at} bytes, not {size}", path.display());
    Ok(())
}

fn check_blocks(path: &Path, at: u64, piece: &[u8]) -> Result<()> {
    let first = at / pattern::BLOCK_BYTES;
    for (number, block) in piece.chunks_exact(BLOCK).enumerate() {
        let found = u64::from_le_bytes(block[16..24].try_into().expect("eight bytes"));
        let wanted = first + number as u64;
        ensure!(found == wanted, "{}: block {wanted} is block {found}", path.display());
    }
    Ok(())
}

/// Bytes per second of one reader per file, each reading its file from begin to end, again until `at_least` is over.
pub(crate) fn sequential(files: &[PathBuf], piece_bytes: usize, at_least: Duration) -> Result<f64> {
    let begun = Instant::now();
    let bytes = each_in_a_thread(files, |file| {
        let (mut piece, mut bytes) = (vec![0; piece_bytes], 0);
        loop {
            bytes += read_through(file, &mut piece)?;
            if begun.elapsed() >= at_least {
                return Ok(bytes);
            }
        }
    })?;
    Ok(bytes.iter().sum::<u64>() as f64 / begun.elapsed().as_secs_f64())
}

/// Reads a file once; its size.
pub(crate) fn read_through(path: &Path, piece: &mut [u8]) -> Result<u64> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut at = 0;
    loop {
        let len = file.read(piece).with_context(|| format!("read {} at {at}", path.display()))?;
        if len == 0 {
            return Ok(at);
        }
        check_blocks(path, at, &piece[..len])?;
        at += len as u64;
    }
}

/// How long single reads took.
pub(crate) struct Latencies {
    pub reads_per_s: f64,
    pub p50: Duration,
}

/// Random reads of 4 KiB by `readers` threads for `duration`.
pub(crate) fn random_4k(path: &Path, size: u64, readers: u64, duration: Duration, seed: u64) -> Result<Latencies> {
    let seeds: Vec<u64> = (0..readers).map(|reader| seed * 1000 + reader).collect();
    let begun = Instant::now();
    let all = each_in_a_thread(&seeds, |seed| {
        let file = File::open(path)?;
        let (mut random, mut piece, mut took) = (Random::new(*seed), [0; BLOCK], Vec::new());
        loop {
            let at = random.below(size / pattern::BLOCK_BYTES) * pattern::BLOCK_BYTES;
            let before = Instant::now();
            file.read_exact_at(&mut piece, at).with_context(|| format!("read {} at {at}", path.display()))?;
            took.push(u32::try_from(before.elapsed().as_nanos()).unwrap_or(u32::MAX));
            check_blocks(path, at, &piece)?;
            if begun.elapsed() >= duration {
                return Ok(took);
            }
        }
    })?;
    Ok(latencies(all.into_iter().flatten().collect(), begun.elapsed()))
}

/// Of reads (at least one) that took so many nanoseconds each.
fn latencies(mut took: Vec<u32>, elapsed: Duration) -> Latencies {
    let middle = took.len() / 2;
    let (_, p50, _) = took.select_nth_unstable(middle);
    let p50 = Duration::from_nanos(u64::from(*p50));
    Latencies { reads_per_s: took.len() as f64 / elapsed.as_secs_f64(), p50 }
}

/// A file in memory, read-only, without read-ahead.
struct Mapping {
    start: *mut c_void,
    len: usize,
}

impl Mapping {
    fn new(path: &Path, size: u64) -> Result<Mapping> {
        let (file, len) = (File::open(path)?, usize::try_from(size)?);
        // SAFETY: a new mapping at a place of the kernel's choice, of a file that nobody writes.
        let start = unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, &file, 0)? };
        let mapping = Mapping { start, len };
        // SAFETY: the mapping that was just made; the advice changes no byte of it.
        unsafe { madvise(mapping.start, mapping.len, Advice::Random)? };
        Ok(mapping)
    }

    /// The number that the pattern has written into a block.
    fn block_number(&self, block: u64) -> Result<u64> {
        let at = usize::try_from(block)? * BLOCK + 16;
        ensure!(at + 8 <= self.len, "block {block} lies outside");
        // SAFETY: eight bytes inside the mapping, aligned as it is to a page.
        Ok(u64::from_le(unsafe { self.start.byte_add(at).cast::<u64>().read_volatile() }))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from the mapping.
        let _it_ends_with_the_process = unsafe { munmap(self.start, self.len) };
    }
}

/// Faults of 4 KiB in random order, each block of the file at most once, for `duration`.
pub(crate) fn mapped_4k(path: &Path, size: u64, duration: Duration, seed: u64) -> Result<Latencies> {
    let mapping = Mapping::new(path, size)?;
    let mut blocks: Vec<u64> = (0..size / pattern::BLOCK_BYTES).collect();
    Random::new(seed).shuffle(&mut blocks);
    let mut took = Vec::new();
    let begun = Instant::now();
    for block in blocks {
        let before = Instant::now();
        let found = mapping.block_number(block)?;
        took.push(u32::try_from(before.elapsed().as_nanos()).unwrap_or(u32::MAX));
        ensure!(found == block, "{}: block {block} is block {found}", path.display());
        if begun.elapsed() >= duration {
            break;
        }
    }
    Ok(latencies(took, begun.elapsed()))
}

/// Files per second: each opened, read whole and closed by one of `readers` threads.
pub(crate) fn whole_files(paths: &[PathBuf], readers: usize) -> Result<f64> {
    let shares: Vec<Vec<&PathBuf>> =
        (0..readers).map(|reader| paths.iter().skip(reader).step_by(readers).collect()).collect();
    let begun = Instant::now();
    each_in_a_thread(&shares, |share| {
        let mut piece = vec![0; 128 * 1024];
        share.iter().try_for_each(|path| read_through(path, &mut piece).map(|_bytes| ()))
    })?;
    Ok(paths.len() as f64 / begun.elapsed().as_secs_f64())
}

/// Runs `work` for each item in a thread of its own.
pub(crate) fn each_in_a_thread<I: Sync, T: Send>(items: &[I], work: impl Fn(&I) -> Result<T> + Sync) -> Result<Vec<T>> {
    if let [only] = items {
        return Ok(vec![work(only)?]);
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        threads.into_iter().map(|thread| thread.join().expect("readers return errors")).collect()
    })
}

/// A seeded stream of numbers (xorshift64*): the same offsets for a mount and for the raw file.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = usize::try_from(self.below(last as u64 + 1)).expect("an index");
            items.swap(last, other);
        }
    }
}
