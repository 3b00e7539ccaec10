//! A store over the simulated disk, and over a real one: right bytes or none, whatever the disk does.

mod eviction;
mod faults;
mod keeping;
mod machine;
mod model;
mod passing;
mod recording;
mod refusals;
mod slow;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use larder_proto::checksum::block_crcs;
use larder_proto::limits::SEGMENT_BYTES;
use larder_proto::object::{ChunkIndex, ChunkSize, Object, ObjectKey, Version};

use super::*;
use crate::runtime::disk::{AlignedBuf, RealDisk, SimDisk};
use crate::runtime::net::{BoxIo, Carries, ConnectError, Lane, Listener, Net, PlainListener};

const CACHE: &str = "default/demo";
const CHUNK: u32 = 256 << 10;

/// No network: stores need none.
struct NoNet;

#[async_trait]
impl Net for NoNet {
    async fn connect(
        &self,
        _to: SocketAddr,
        _expected: &crate::runtime::net::Identity,
        _lane: Lane,
        _carries: Carries,
    ) -> Result<BoxIo, ConnectError> {
        Err(ConnectError::Io(io::ErrorKind::Unsupported.into()))
    }

    async fn listen(&self, _at: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn listen_plain(&self, _at: SocketAddr) -> io::Result<Box<dyn PlainListener>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn sim(disk: &SimDisk) -> Runtime {
    Runtime::sim(1, Arc::new(NoNet), disk.clone())
}

fn config(capacity_bytes: u64) -> StoreConfig {
    StoreConfig { name: "s1".into(), path: PathBuf::from("/s1"), capacity_bytes }
}

async fn open(runtime: &Runtime, configs: &[StoreConfig]) -> Result<Stores, OpenError> {
    Stores::open(runtime, BufferPool::new(16 << 20), CACHE, configs, Watermarks::default()).await
}

async fn open_one(runtime: &Runtime, capacity_bytes: u64) -> Stores {
    open(runtime, &[config(capacity_bytes)]).await.expect("opens")
}

/// Opens a real store again.
async fn reopen(runtime: &Runtime, config: &StoreConfig) -> Stores {
    released(&config.path).await;
    open(runtime, std::slice::from_ref(config)).await.expect("opens")
}

/// Waits until nobody has the store open: the last thread of a pool may still hold its lock.
async fn released(folder: &Path) {
    let released = async {
        while let Err(error) = crate::runtime::disk::Disk::lock(&RealDisk, folder) {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), released).await.expect("the lock is released");
}

/// Object `n` of `size` bytes in chunks of 256 KiB.
fn object(n: u64, size: u64) -> Arc<Object> {
    let key = ObjectKey::parse(&format!("dir/object-{n}")).expect("plain");
    let version = Version::of_etag("v1").expect("plain");
    let chunk_size = ChunkSize::new(CHUNK).expect("256 KiB");
    Object::new(VolumeId::from_bytes([7; 16]), key, version, size, chunk_size).expect("small")
}

fn chunk(object: &Arc<Object>, index: u32) -> Chunk {
    object.chunk(ChunkIndex(index)).expect("inside the object")
}

/// What a chunk's bytes must be: made of the object's id and the position, so misplaced bytes are wrong bytes.
fn content(chunk: &Chunk) -> Vec<u8> {
    let id = chunk.object().id();
    let start = chunk.range().start();
    let mut bytes = Vec::with_capacity(chunk.len() as usize);
    for at in 0..u64::from(chunk.len()) {
        let word = (start + at) / 8;
        let mixed = (word ^ u64::from(id.as_bytes()[3])).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bytes.push(mixed.to_le_bytes()[(at % 8) as usize] ^ id.as_bytes()[(word % 16) as usize]);
    }
    bytes
}

fn aligned(bytes: &[u8]) -> Bytes {
    let mut buffer = AlignedBuf::unpooled(bytes.len());
    assert_eq!(buffer.put(bytes), bytes.len());
    buffer.freeze()
}

/// Writes a chunk in pieces, the last first.
async fn fill(stores: &Stores, chunk: &Chunk) -> Result<(), StoreError> {
    let Ok(reservation) = stores.reserve(chunk, Giver::Origin).await else { return Ok(()) };
    let bytes = content(chunk);
    let piece = (SEGMENT_BYTES as usize).min(CHUNK as usize / 2);
    for (number, part) in bytes.chunks(piece).enumerate().collect::<Vec<_>>().into_iter().rev() {
        reservation.write((number * piece) as u64, aligned(part)).await?;
    }
    reservation.commit(block_crcs(chunk.object().id(), chunk.first_block(), &bytes)).await
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Right,
    Absent,
    /// The checksum caught it; the chunk was dropped.
    Caught,
    Failed,
}

/// Reads a whole chunk as a door would; panics on wrong bytes that passed their check.
async fn look(stores: &Stores, chunk: &Chunk) -> Seen {
    match stores.read(chunk, ByteRange::at(0, u64::from(chunk.len()))).await {
        Ok(None) => Seen::Absent,
        Err(_) => Seen::Failed,
        Ok(Some(checksummed)) => match checksummed.verify() {
            Ok((bytes, _)) => {
                assert!(bytes == content(chunk), "wrong bytes passed their check");
                Seen::Right
            }
            Err(_) => {
                stores.drop_chunk(chunk);
                Seen::Caught
            }
        },
    }
}

fn object_path(root: &Path, object: &Object) -> PathBuf {
    let name = object.id().to_string();
    root.join("objects").join(&name[..2]).join(&name[2..4]).join(&name)
}

/// Waits until the store has looked at its files and has nothing to remove.
async fn settle(stores: &Stores) {
    let settled = async {
        while stores.debug().iter().any(|store| store.leaving_bytes > 0 || store.counters.swept == 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), settled).await.expect("the committer settles");
}

fn counters(stores: &Stores) -> StoreCounters {
    stores.debug()[0].counters
}

#[tokio::test(start_paused = true)]
async fn a_chunk_is_here_once_it_is_committed_and_after_a_restart() {
    let disk = SimDisk::new(1, 1 << 30);
    let runtime = sim(&disk);
    let stores = open_one(&runtime, 64 << 20).await;
    let object = object(1, u64::from(CHUNK) * 2 + 1000);
    assert_eq!(look(&stores, &chunk(&object, 0)).await, Seen::Absent);
    for index in [2, 0] {
        fill(&stores, &chunk(&object, index)).await.expect("fills");
    }
    assert!(stores.has(&chunk(&object, 2).id()) && !stores.has(&chunk(&object, 1).id()));
    assert!(!stores.object_complete(&object.id()));
    fill(&stores, &chunk(&object, 1)).await.expect("fills");
    assert!(stores.object_complete(&object.id()));
    let len = crate::runtime::disk::Disk::open(
        &disk,
        &object_path(Path::new("/s1"), &object),
        crate::runtime::disk::Open::Read,
        crate::runtime::disk::Caching::Buffered,
    );
    assert_eq!(len.expect("is there").len().expect("stats"), object.size(), "cut to the object's size");
    let id = stores.status()[0].id;
    stores.close().await;
    runtime.tasks.shut_down().await;
    drop(stores);

    let stores = open_one(&sim(&disk), 64 << 20).await;
    assert!(stores.debug()[0].opened_clean);
    assert_eq!(stores.status()[0].id, id, "the store keeps its id");
    assert!(stores.object_complete(&object.id()));
    for index in 0..3 {
        assert_eq!(look(&stores, &chunk(&object, index)).await, Seen::Right);
    }
    let usage = stores.usage()[&object.volume()];
    assert_eq!((usage.objects, usage.chunks, usage.bytes), (1, 3, u64::from(CHUNK) * 2 + 4096));
}

#[tokio::test(start_paused = true)]
async fn parts_are_read_by_blocks() {
    let stores = open_one(&sim(&SimDisk::new(1, 1 << 30)), 64 << 20).await;
    let object = object(2, u64::from(CHUNK) + 70_000);
    let last = chunk(&object, 1);
    fill(&stores, &last).await.expect("fills");
    let part = stores.read(&last, ByteRange::at(65_536, 4_464)).await.expect("reads").expect("is here");
    assert_eq!(part.first_block(), 5);
    assert_eq!(&part.verify().expect("right").0[..], &content(&last)[65_536..]);
    for range in [ByteRange::at(1, 65_535), ByteRange::at(0, 100), ByteRange::at(0, 70_001), ByteRange::at(0, 0)] {
        assert!(matches!(stores.read(&last, range).await, Err(StoreError::Misaligned { .. })), "{range:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_chunk_has_one_writer_and_an_abandoned_one_leaves_nothing() {
    let stores = open_one(&sim(&SimDisk::new(1, 1 << 30)), 64 << 20).await;
    let chunk = chunk(&object(3, 300_000), 0);
    let reservation = stores.reserve(&chunk, Giver::Origin).await.expect("room");
    assert_eq!(stores.reserve(&chunk, Giver::Origin).await.err(), Some(Bypass::Already));
    assert_eq!(stores.status()[0].used_bytes, u64::from(CHUNK), "reserved before it is written");
    reservation.write(0, aligned(&content(&chunk)[..65_536])).await.expect("writes");
    let crcs = block_crcs(chunk.object().id(), 0, &content(&chunk));
    assert!(matches!(reservation.commit(crcs).await, Err(StoreError::Incomplete)));
    settle(&stores).await;
    assert_eq!((stores.status()[0].used_bytes, stores.status()[0].objects), (0, 0));
    assert_eq!(counters(&stores).aborted, 1);
    fill(&stores, &chunk).await.expect("fills");
    assert_eq!(look(&stores, &chunk).await, Seen::Right);
    assert_eq!(stores.reserve(&chunk, Giver::Origin).await.err(), Some(Bypass::Already));
}

#[tokio::test(start_paused = true)]
async fn eviction_keeps_below_the_high_watermark_and_takes_the_oldest() {
    let disk = SimDisk::new(1, 1 << 30);
    let stores = open_one(&sim(&disk), u64::from(CHUNK) * 20).await;
    let objects: Vec<_> = (0..60).map(|n| object(n, u64::from(CHUNK) * 2)).collect();
    for object in &objects {
        for index in 0..2 {
            fill(&stores, &chunk(object, index)).await.expect("fills");
            assert_eq!(look(&stores, &chunk(&objects[0], 0)).await, Seen::Right, "what is read stays");
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        settle(&stores).await;
        assert!(stores.status()[0].used_bytes <= u64::from(CHUNK) * 18, "{:?}", stores.status());
    }
    let counts = counters(&stores);
    assert_eq!(counts.bypassed_full, 0);
    assert!(counts.evicted_chunks >= 100, "{counts:?}");
    assert_eq!(look(&stores, &chunk(&objects[59], 1)).await, Seen::Right);
    assert_eq!(look(&stores, &chunk(&objects[1], 0)).await, Seen::Absent);
    let files = disk.paths().iter().filter(|path| path.starts_with("/s1/objects")).count() as u64;
    assert_eq!(files, stores.status()[0].objects, "files go with their last chunk");
}

#[tokio::test(start_paused = true)]
async fn a_chunk_larger_than_the_store_goes_past_it() {
    let stores = open_one(&sim(&SimDisk::new(1, 1 << 30)), u64::from(CHUNK)).await;
    assert_eq!(stores.reserve(&chunk(&object(1, 1 << 20), 0), Giver::Origin).await.err(), Some(Bypass::Full));
    assert_eq!(counters(&stores).bypassed_full, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_disk_keeps_chunks_over_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = StoreConfig { name: "real".into(), path: dir.path().join("s"), capacity_bytes: 64 << 20 };
    let runtime = Runtime::real(Arc::new(NoNet));
    let stores = open(&runtime, std::slice::from_ref(&config)).await.expect("opens");
    assert!(matches!(open(&runtime, std::slice::from_ref(&config)).await, Err(OpenError::Locked { .. })));
    let objects: Vec<_> = (0..8).map(|n| object(n, u64::from(CHUNK) * 3 + 12_345)).collect();
    let fills = objects.iter().flat_map(|object| {
        let stores = &stores;
        (0..4).map(move |index| {
            let chunk = chunk(object, index);
            async move { fill(stores, &chunk).await }
        })
    });
    futures::future::try_join_all(fills).await.expect("fills");
    let unaligned = chunk(&object(100, 100_001), 0);
    let reservation = stores.reserve(&unaligned, Giver::Origin).await.expect("room");
    let shifted = Bytes::from([&[0; 1][..], &content(&unaligned)].concat()).slice(1..);
    reservation.write(0, shifted).await.expect("copies");
    let crcs = block_crcs(unaligned.object().id(), 0, &content(&unaligned));
    reservation.commit(crcs).await.expect("commits");
    stores.close().await;
    runtime.tasks.shut_down().await;
    drop(stores);

    let runtime = Runtime::real(Arc::new(NoNet));
    let stores = reopen(&runtime, &config).await;
    for object in &objects {
        assert!(stores.object_complete(&object.id()));
        let len = std::fs::metadata(object_path(&config.path, object)).expect("is there").len();
        assert_eq!(len, object.size());
        for index in 0..4 {
            assert_eq!(look(&stores, &chunk(object, index)).await, Seen::Right);
        }
    }
    assert_eq!(look(&stores, &unaligned).await, Seen::Right);
    assert!(stores.debug()[0].opened_clean);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_and_fillers_of_a_small_real_store_see_right_bytes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let runtime = Runtime::real(Arc::new(NoNet));
    let config = StoreConfig { name: "real".into(), path: dir.path().into(), capacity_bytes: 8 << 20 };
    let stores = open(&runtime, &[config]).await.expect("opens");
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..8u64 {
        let stores = stores.clone();
        tasks.spawn(async move {
            let rng = crate::runtime::sim::SimRng::new(worker);
            let (mut right, mut caught) = (0, 0);
            for _ in 0..60 {
                let chunk = chunk(&object(rng.below(12), 5 * u64::from(CHUNK) - 999), rng.below(5) as u32);
                match look(&stores, &chunk).await {
                    Seen::Right => right += 1,
                    Seen::Caught => caught += 1,
                    Seen::Absent => fill(&stores, &chunk).await.expect("fills"),
                    Seen::Failed => {
                        let counts = counters(&stores);
                        assert!(counts.suspicions > 0, "a sane disk fails no read: {counts:?}");
                    }
                }
            }
            (right, caught)
        });
    }
    let seen = tasks.join_all().await;
    assert!(seen.iter().map(|(right, _)| right).sum::<u32>() > 50, "{seen:?}");
    assert_eq!(seen.iter().map(|(_, caught)| caught).sum::<u32>(), 0, "eviction beside a read is a miss, not damage");
    settle(&stores).await;
    let debug = &stores.debug()[0];
    assert!(debug.counters.evicted_chunks > 50, "{debug:?}");
    assert_eq!(debug.counters.unfreed, 0);
    assert!(debug.status.used_bytes <= (8 << 20) * 9 / 10, "{debug:?}");
    stores.close().await;
}
