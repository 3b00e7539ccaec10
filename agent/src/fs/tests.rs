use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use larder_proto::ids::{ClusterId, NodeName};
use larder_proto::object::{ChunkId, ChunkSize, Version};
use larder_proto::volume::{Attributes, Keeping, LocalCopies, Origin};
use parking_lot::Mutex;

mod sweeps;

use super::*;
use crate::origin::ObjectInfo;
use crate::runtime::disk::{Disk, SimDisk};
use crate::runtime::net::Identity;
use crate::runtime::net::sim::SimNet;
use crate::runtime::sim::SimRng;

const FRESH: Duration = Duration::from_secs(60);
const CHUNK: u32 = 64 * 1024;
const NAMES_MAX: usize = 100;

/// A tree of names that counts how often it was asked.
#[derive(Default)]
struct Tree {
    names: Mutex<BTreeMap<(String, String), Looked>>,
    asked: AtomicUsize,
    fails: Mutex<Option<ErrorKind>>,
}

impl Tree {
    fn put(&self, dir: &str, name: &str, looked: Looked) {
        self.names.lock().insert((dir.into(), name.into()), looked);
    }
}

/// Names in a part of a listing here.
const PART_NAMES: usize = 3;

#[async_trait]
impl Names for Tree {
    async fn lookup(
        &self,
        _volume: VolumeId,
        dir: &DirPath,
        name: &EntryName,
        _max_age: Duration,
        _deadline: Instant,
    ) -> Result<Dated<Looked>, ErrorKind> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if let Some(kind) = *self.fails.lock() {
            return Err(kind);
        }
        let key = (dir.as_str().to_owned(), name.as_str().to_owned());
        let value = self.names.lock().get(&key).cloned().unwrap_or(Looked::Absent);
        Ok(Dated { value, as_of: Instant::now() })
    }

    async fn list(
        &self,
        _volume: VolumeId,
        dir: &DirPath,
        from: Option<&Arc<str>>,
        _max_age: Duration,
        _deadline: Instant,
    ) -> Result<Dated<Part>, ErrorKind> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if let Some(kind) = *self.fails.lock() {
            return Err(kind);
        }
        let names = self.names.lock();
        let all = names
            .iter()
            .filter(|((of, name), _)| of == dir.as_str() && from.is_none_or(|from| name.as_str() > from.as_ref()));
        let mut entries: Vec<(EntryName, Looked)> = all
            .map(|((_, name), looked)| (EntryName::parse(name).expect("a name"), looked.clone()))
            .take(PART_NAMES + 1)
            .collect();
        let more = entries.len() > PART_NAMES;
        entries.truncate(PART_NAMES);
        let next = entries.last().filter(|_| more).map(|(name, _)| name.as_str().into());
        Ok(Dated { value: Part { entries, next }, as_of: Instant::now() })
    }
}

/// Bytes computed from their place; what is prefetched is in memory.
#[derive(Default)]
struct Bytewise {
    memory: Mutex<Vec<u32>>,
    read: Arc<Mutex<Vec<ChunkId>>>,
    fails: Mutex<Option<ErrorKind>>,
    /// Keys of what owners were asked to bring.
    kept: Mutex<Vec<String>>,
    keeps_nothing: AtomicBool,
}

struct Guard {
    read: Arc<Mutex<Vec<ChunkId>>>,
    chunk: ChunkId,
}

impl PrefetchGuard for Guard {
    fn is_wasted(&self) -> bool {
        !self.read.lock().contains(&self.chunk)
    }
}

fn byte(offset: u64) -> u8 {
    u8::try_from(offset % 251).expect("below 251")
}

fn bytes(chunk: &Chunk, range: ByteRange) -> Bytes {
    let start = chunk.range().start();
    (start + range.start()..start + range.end()).map(byte).collect()
}

#[async_trait]
impl Chunks for Bytewise {
    fn read_now(&self, chunk: &Chunk, range: ByteRange) -> Option<Bytes> {
        let here = self.memory.lock().contains(&chunk.index().0);
        self.read.lock().push(chunk.id());
        here.then(|| bytes(chunk, range))
    }

    async fn read(
        &self,
        _request: RequestId,
        chunk: &Chunk,
        range: ByteRange,
        _pattern: ReadPattern,
        _deadline: Instant,
    ) -> Result<Bytes, ErrorKind> {
        let fails = *self.fails.lock();
        fails.map_or_else(|| Ok(bytes(chunk, range)), Err)
    }

    fn prefetch(&self, _request: RequestId, chunk: &Chunk) -> Option<Prefetched> {
        self.memory.lock().push(chunk.index().0);
        Some(Box::new(Guard { read: self.read.clone(), chunk: chunk.id() }))
    }

    fn hold(&self, _object: &Object) -> Held {
        Box::new(())
    }

    async fn keep(&self, _request: RequestId, chunks: Vec<Chunk>, _deadline: Instant) -> usize {
        self.kept.lock().extend(chunks.iter().map(|chunk| chunk.object().key().as_str().to_owned()));
        if self.keeps_nothing.load(Ordering::Relaxed) { 0 } else { chunks.len() }
    }

    fn space(&self) -> Space {
        Space::default()
    }
}

struct Rig {
    fs: Fs,
    tree: Arc<Tree>,
    chunks: Arc<Bytewise>,
}

fn rig(freshness: Freshness) -> Rig {
    let disk = SimDisk::new(1, 1 << 30);
    disk.create_dir_all(Path::new("/state")).expect("made");
    let (tree, chunks) = (Arc::new(Tree::default()), Arc::new(Bytewise::default()));
    let below = Below {
        names: tree.clone(),
        chunks: chunks.clone(),
        numbers: Arc::new(Numbers::begin(&disk, Path::new("/state")).expect("begins")),
        backings: Arc::new(CachedOnly),
        room: NameRoom::new(2 * NAMES_MAX * room::NAME_BYTES),
    };
    let volume = Volume {
        id: VolumeId::from_bytes([7; 16]),
        namespace: "default".into(),
        name: "data".into(),
        chunk_size: ChunkSize::new(CHUNK).expect("a size"),
        origin: Origin::Local { path: "/nowhere".into() },
        replicas: None,
        read_ahead_bytes: 1 << 20,
        read_deadline: Duration::from_secs(30),
        freshness,
        attributes: Attributes { uid: 1, gid: 2, file_mode: 0o444, dir_mode: 0o555 },
        local_copies: LocalCopies::Auto,
        keeping: Keeping::default(),
    };
    let identity = Identity::Node(ClusterId::of("default/demo"), NodeName::parse("n1").expect("a name"));
    let net = SimNet::new(Arc::new(SimRng::new(1)), Duration::ZERO, Duration::ZERO);
    let runtime = Runtime::sim(1, net.node(identity, Ipv4Addr::LOCALHOST.into()), disk.clone());
    Rig { fs: Fs::new(runtime, Arc::new(volume), below), tree, chunks }
}

fn file(version: &str, size: u64) -> Looked {
    Looked::File(ObjectInfo { size, version: Version::of_etag(version).expect("a version"), mtime_ms: 5_000 })
}

const REQUEST: RequestId = RequestId(1);

async fn look(rig: &Rig, parent: Ino, name: &str) -> Result<Entry, FsError> {
    match rig.fs.lookup_now(parent, OsStr::new(name)) {
        Some(answer) => answer,
        None => rig.fs.lookup(parent, OsStr::new(name)).await,
    }
}

#[tokio::test(start_paused = true)]
async fn a_known_name_is_answered_from_memory_while_it_is_fresh() {
    let rig = rig(Freshness::Within(FRESH));
    rig.tree.put("", "a", file("v1", 10));
    let first = look(&rig, Ino::ROOT, "a").await.expect("found");
    assert_eq!((first.ttl, first.attr.size, first.attr.mode), (FRESH, 10, 0o444));
    tokio::time::advance(Duration::from_secs(20)).await;
    let second = look(&rig, Ino::ROOT, "a").await.expect("found");
    assert_eq!((second.attr, second.ttl), (first.attr, Duration::from_secs(40)));
    assert_eq!(rig.tree.asked.load(Ordering::Relaxed), 1);
    tokio::time::advance(Duration::from_secs(41)).await;
    look(&rig, Ino::ROOT, "a").await.expect("found");
    assert_eq!(rig.tree.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn on_open_asks_each_time_and_forever_once() {
    let each = rig(Freshness::OnOpen);
    each.tree.put("", "a", file("v1", 10));
    for asked in 1..4 {
        assert_eq!(look(&each, Ino::ROOT, "a").await.expect("found").ttl, Duration::ZERO);
        assert_eq!(each.tree.asked.load(Ordering::Relaxed), asked);
    }
    let once = rig(Freshness::Forever);
    once.tree.put("", "a", file("v1", 10));
    for _ in 0..3 {
        assert_eq!(look(&once, Ino::ROOT, "a").await.expect("found").ttl, FOREVER);
        tokio::time::advance(Duration::from_secs(1 << 20)).await;
    }
    assert_eq!(once.tree.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn names_that_cannot_be_are_told_apart() {
    let rig = rig(Freshness::Within(FRESH));
    rig.tree.put("", "f", file("v1", 10));
    let f = look(&rig, Ino::ROOT, "f").await.expect("found").attr.ino;
    assert_eq!(look(&rig, Ino::ROOT, "nothing").await, Err(FsError::NotFound));
    assert_eq!(look(&rig, Ino::ROOT, &"x".repeat(256)).await, Err(FsError::NameTooLong));
    assert_eq!(look(&rig, f, "x").await, Err(FsError::NotADirectory));
    assert_eq!(look(&rig, Ino(99), "x").await, Err(FsError::Stale));
    assert_eq!(rig.fs.getattr(Ino(99)), Err(FsError::Stale));
    assert_eq!(rig.fs.opendir(f, Fh(1)), Err(FsError::NotADirectory));
    assert_eq!(rig.fs.open(Ino::ROOT, Fh(1)).await.err(), Some(FsError::IsADirectory));
    assert_eq!(rig.fs.read_now(REQUEST, Fh(1), 0, 1), Err(FsError::BadHandle));
}

#[tokio::test(start_paused = true)]
async fn a_handle_reads_the_version_it_opened_and_ends_where_it_ended() {
    let rig = rig(Freshness::Within(FRESH));
    let size = u64::from(CHUNK) * 3 + 5;
    rig.tree.put("", "a", file("v1", size));
    let old = look(&rig, Ino::ROOT, "a").await.expect("found").attr;
    rig.fs.open(old.ino, Fh(9)).await.expect("opens");
    rig.tree.put("", "a", file("v2", 1));
    tokio::time::advance(FRESH * 2).await;
    let new = look(&rig, Ino::ROOT, "a").await.expect("found").attr;
    assert_ne!(old.ino, new.ino);
    assert_eq!(rig.fs.getattr(old.ino).expect("still open").attr.size, size);
    let spanning = rig.fs.read(REQUEST, Fh(9), u64::from(CHUNK) - 10, CHUNK + 20).await.expect("reads").into_bytes();
    assert_eq!(spanning.len(), 65_556);
    assert!((u64::from(CHUNK) - 10..).zip(spanning.iter()).all(|(offset, got)| *got == byte(offset)));
    assert_eq!(rig.fs.read(REQUEST, Fh(9), size - 5, 100).await.expect("reads").len(), 5);
    assert!(rig.fs.read(REQUEST, Fh(9), size, 100).await.expect("reads").is_empty());
    assert_eq!(rig.fs.read_now(REQUEST, Fh(9), size + 1, 100), Ok(Some(Parts::default())));
}

#[tokio::test(start_paused = true)]
async fn what_was_brought_ahead_is_answered_at_once() {
    let rig = rig(Freshness::Within(FRESH));
    rig.tree.put("", "a", file("v1", u64::from(CHUNK) * 100));
    let ino = look(&rig, Ino::ROOT, "a").await.expect("found").attr.ino;
    rig.fs.open(ino, Fh(9)).await.expect("opens");
    let read = rig.fs.read_now(REQUEST, Fh(9), 0, CHUNK).expect("reads").expect("in memory by now");
    assert_eq!(read.len(), 65_536);
    assert_eq!(*rig.chunks.memory.lock(), [0, 1, 2]);
}

/// A program that looks at the head of each file, then one that reads a file to its end.
#[tokio::test(start_paused = true)]
async fn readers_of_heads_get_nothing_ahead_and_who_reads_on_does() {
    let rig = rig(Freshness::Within(FRESH));
    let begun = |rig: &Rig| std::mem::take(&mut *rig.chunks.memory.lock()).len();
    let head = async |name: String| {
        rig.tree.put("", &name, file("v1", u64::from(CHUNK) * 100));
        let ino = look(&rig, Ino::ROOT, &name).await.expect("found").attr.ino;
        rig.fs.open(ino, Fh(9)).await.expect("opens");
        rig.fs.read_now(REQUEST, Fh(9), 0, 100).expect("reads");
    };
    for number in 0..20 {
        head(format!("a{number}")).await;
        rig.fs.release(Fh(9));
    }
    assert!(begun(&rig) < 20 + 2 * 10, "after a few files nothing is brought in vain");
    for number in 0..20 {
        head(format!("b{number}")).await;
        rig.fs.release(Fh(9));
    }
    assert_eq!(begun(&rig), 20, "only what is read");
    head("c".into()).await;
    for chunk in 1..100 {
        rig.fs.read_now(REQUEST, Fh(9), u64::from(CHUNK) * chunk, CHUNK).expect("reads");
    }
    rig.fs.release(Fh(9));
    assert_eq!(begun(&rig), 100, "its window is as large as ever");
    head("d".into()).await;
    assert_eq!(begun(&rig), 3, "and the next file's is what it was");
}

/// R1: if that version disappears, reads of the missing part give ESTALE; the next open sees what is there now.
#[tokio::test(start_paused = true)]
async fn a_version_that_is_gone_is_stale_and_looked_up_anew() {
    let rig = rig(Freshness::Within(FRESH));
    rig.tree.put("", "a", file("v1", 10));
    let old = look(&rig, Ino::ROOT, "a").await.expect("found").attr.ino;
    rig.fs.open(old, Fh(9)).await.expect("opens");
    rig.tree.put("", "a", file("v2", 20));
    *rig.chunks.fails.lock() = Some(ErrorKind::Changed);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(rig.fs.read(REQUEST, Fh(9), 0, 10).await, Err(FsError::Failed(ErrorKind::Changed)));
    assert_eq!(rig.fs.open(old, Fh(10)).await.err(), Some(FsError::Stale));
    let new = look(&rig, Ino::ROOT, "a").await.expect("found").attr;
    assert_eq!(new.size, 20, "though the old answer was still fresh");
    rig.fs.open(new.ino, Fh(10)).await.expect("opens");
}

#[tokio::test(start_paused = true)]
async fn a_listing_has_stable_offsets_and_teaches_lookups() {
    let rig = rig(Freshness::Within(FRESH));
    let names: Vec<String> = (0..8).map(|number| format!("f{number}")).collect();
    for name in &names {
        rig.tree.put("", name, file("v1", 1));
    }
    rig.fs.opendir(Ino::ROOT, Fh(1)).expect("opens");
    assert!(rig.fs.list_now(Fh(1), 0).expect("open").is_none(), "nothing is known yet");
    assert_eq!(all(&rig, Fh(1), 0).await, names);
    rig.tree.put("", "a-new-one", file("v1", 1));
    assert_eq!(all(&rig, Fh(1), 5).await, names[3..], "the same handle sees the same names at the same offsets");
    let asked = rig.tree.asked.load(Ordering::Relaxed);
    assert_eq!(asked, 3);
    assert_eq!(look(&rig, Ino::ROOT, "f7").await.expect("found").attr.size, 1);
    assert_eq!(look(&rig, Ino::ROOT, "f8").await, Err(FsError::NotFound));
    rig.fs.opendir(Ino::ROOT, Fh(2)).expect("opens");
    assert!(rig.fs.list_now(Fh(2), 0).expect("open").is_some(), "shared while it is fresh");
    assert_eq!(rig.tree.asked.load(Ordering::Relaxed), asked);
    tokio::time::advance(FRESH).await;
    rig.fs.opendir(Ino::ROOT, Fh(3)).expect("opens");
    assert_eq!(all(&rig, Fh(3), 0).await.len(), 9);
}

/// rewinddir on a handle that stays open: the directory as one who opens it now sees it.
#[tokio::test(start_paused = true)]
async fn a_handle_read_from_its_beginning_again_sees_the_directory_of_now() {
    let rig = rig(Freshness::Within(FRESH));
    rig.tree.put("", "a", file("v1", 1));
    rig.fs.opendir(Ino::ROOT, Fh(1)).expect("opens");
    assert_eq!(all(&rig, Fh(1), 0).await, ["a"]);
    rig.tree.put("", "b", file("v1", 1));
    assert_eq!(all(&rig, Fh(1), 0).await, ["a"], "as an open would: what is known is fresh");
    tokio::time::advance(FRESH).await;
    assert_eq!(all(&rig, Fh(1), 3).await, Vec::<String>::new(), "whoever goes on sees what it began with");
    assert!(rig.fs.list_now(Fh(1), 0).expect("open").is_none(), "nothing fresh is known");
    assert_eq!(all(&rig, Fh(1), 0).await, ["a", "b"]);
}

async fn all(rig: &Rig, fh: Fh, from: u64) -> Vec<String> {
    let (mut offset, mut names) = (from, Vec::new());
    loop {
        let part = rig.fs.list(fh, offset).await.expect("lists");
        let before = names.len();
        for (next, name, _) in part.names(offset) {
            names.push(name.as_str().to_owned());
            offset = next;
        }
        if names.len() == before {
            return names;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_directory_lists_nothing_and_a_closed_one_neither() {
    let rig = rig(Freshness::Within(FRESH));
    rig.fs.opendir(Ino::ROOT, Fh(1)).expect("opens");
    assert_eq!(all(&rig, Fh(1), 0).await, Vec::<String>::new());
    rig.fs.release(Fh(1));
    assert_eq!(rig.fs.list_now(Fh(1), 0).expect_err("closed"), FsError::BadHandle);
    assert_eq!(rig.fs.counts(), (0, 0));
}

/// R6: with the origin down, names are served as old as they are, unless each open must ask; a refusal never is.
#[tokio::test(start_paused = true)]
async fn old_names_are_served_while_nobody_can_be_asked() {
    let rig = rig(Freshness::Within(FRESH));
    rig.tree.put("", "a", file("v1", 10));
    rig.fs.opendir(Ino::ROOT, Fh(1)).expect("opens");
    assert_eq!(all(&rig, Fh(1), 0).await, ["a"]);
    tokio::time::advance(FRESH * 3).await;
    *rig.tree.fails.lock() = Some(ErrorKind::OriginUnreachable);
    let old = look(&rig, Ino::ROOT, "a").await.expect("old");
    assert_eq!((old.attr.size, old.ttl), (10, Duration::ZERO), "and asked again at the next use");
    assert_eq!(look(&rig, Ino::ROOT, "b").await, Err(FsError::NotFound));
    rig.fs.opendir(Ino::ROOT, Fh(2)).expect("opens");
    assert_eq!(all(&rig, Fh(2), 0).await, ["a"]);
    assert_eq!(rig.fs.stale_names(), 3);
    *rig.tree.fails.lock() = Some(ErrorKind::AccessDenied);
    assert_eq!(look(&rig, Ino::ROOT, "a").await, Err(FsError::Failed(ErrorKind::AccessDenied)));
    let each = super::tests::rig(Freshness::OnOpen);
    each.tree.put("", "a", file("v1", 10));
    look(&each, Ino::ROOT, "a").await.expect("found");
    *each.tree.fails.lock() = Some(ErrorKind::OriginUnreachable);
    assert_eq!(look(&each, Ino::ROOT, "a").await, Err(FsError::Failed(ErrorKind::OriginUnreachable)));
}

#[tokio::test(start_paused = true)]
async fn above_the_bound_the_oldest_names_are_to_be_forgotten() {
    let rig = rig(Freshness::Within(FRESH));
    for number in 0..NAMES_MAX + 10 {
        let name = format!("f{number:04}");
        rig.tree.put("", &name, file("v1", 1));
        let entry = look(&rig, Ino::ROOT, &name).await.expect("found");
        if number == 0 {
            rig.fs.open(entry.attr.ino, Fh(1)).await.expect("opens");
        }
        assert_eq!(rig.fs.is_crowded(), number >= NAMES_MAX);
    }
    let mut forgotten: Vec<String> = rig.fs.to_forget().into_iter().map(|(_, name)| name.as_str().into()).collect();
    forgotten.sort();
    let oldest: Vec<String> = (1..11).map(|number| format!("f{number:04}")).collect();
    assert_eq!(forgotten, oldest, "the open one stays");
}
