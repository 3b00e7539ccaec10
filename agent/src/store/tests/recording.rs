//! A disk that records what is done to it, and every state in which a power failure can leave it.
//!
//! The store runs over a disk that writes down each write, cut, hole, sync and name. Then the power fails after every
//! single one: what was synced is there; of what came after, all is there but the last write is torn; or any part of it
//! is, sector by sector, in any order, with the names of any moment since; or nothing of it is. A store opened on each
//! of these serves right bytes or none, passes no file that has a wrong byte, and takes chunks in again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::*;
use crate::runtime::disk::{Caching, Disk, Entry, File, FileSystem, Lock, Open, Space};
use crate::runtime::sim::SimRng;

const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Event {
    Create { path: PathBuf, inode: u64 },
    Unlink(PathBuf),
    Rename { from: PathBuf, to: PathBuf },
    Write { inode: u64, offset: usize, bytes: Vec<u8> },
    Punch { inode: u64, offset: usize, len: usize },
    SetLen { inode: u64, len: usize },
    Sync(u64),
}

/// A disk whose every change is written down.
#[derive(Clone)]
struct Recording {
    disk: SimDisk,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    events: Vec<Event>,
    inodes: BTreeMap<PathBuf, u64>,
    next: u64,
}

struct Recorded {
    file: Arc<dyn File>,
    inode: u64,
    log: Arc<Mutex<Log>>,
}

impl Recording {
    fn new() -> Self {
        Self { disk: SimDisk::new(1, 1 << 30), log: Arc::default() }
    }

    fn record(&self, event: Event) {
        self.log.lock().events.push(event);
    }
}

impl Disk for Recording {
    fn open(&self, path: &Path, open: Open, caching: Caching) -> io::Result<Arc<dyn File>> {
        let file = self.disk.open(path, open, caching)?;
        let mut log = self.log.lock();
        let inode = match log.inodes.get(path) {
            Some(inode) => *inode,
            None => {
                log.next += 1;
                let inode = log.next;
                log.inodes.insert(path.to_owned(), inode);
                log.events.push(Event::Create { path: path.to_owned(), inode });
                inode
            }
        };
        Ok(Arc::new(Recorded { file, inode, log: self.log.clone() }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)?;
        self.log.lock().inodes.remove(path);
        self.record(Event::Unlink(path.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)?;
        let mut log = self.log.lock();
        if let Some(inode) = log.inodes.remove(from) {
            log.inodes.insert(to.to_owned(), inode);
        }
        log.events.push(Event::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn read_small(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        self.disk.read_small(path, max_bytes)
    }

    fn replace_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let aside = path.with_extension("json.new");
        let file = self.open(&aside, Open::Create, Caching::Buffered)?;
        file.set_len(0)?;
        file.write_at(bytes, 0)?;
        file.sync_data()?;
        self.rename(&aside, path)?;
        // The folder is synced too: names are as they are.
        file.sync_data()
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.disk.space(path)
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Lock>> {
        self.disk.lock(dir)
    }

    fn file_system(&self, _dir: &Path) -> io::Result<Arc<dyn FileSystem>> {
        Ok(Arc::new(self.clone()))
    }
}

impl FileSystem for Recording {
    fn sync(&self) -> io::Result<()> {
        let mut log = self.log.lock();
        let inodes: Vec<u64> = log.inodes.values().copied().collect();
        log.events.extend(inodes.into_iter().map(Event::Sync));
        Ok(())
    }
}

impl Recorded {
    fn record(&self, event: Event) {
        self.log.lock().events.push(event);
    }
}

impl File for Recorded {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)?;
        self.record(Event::Write { inode: self.inode, offset: size(offset), bytes: bytes.to_vec() });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.record(Event::Sync(self.inode));
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch(offset, len)?;
        self.record(Event::Punch { inode: self.inode, offset: size(offset), len: size(len) });
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.record(Event::SetLen { inode: self.inode, len: size(len) });
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.file.allocated_bytes()
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("small")
}

/// What a power failure leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// All, but the last write is torn.
    TornLast,
    /// Any sectors of any writes, and the names of some moment since the last sync.
    AnyPart,
    /// Nothing.
    Nothing,
}

type Contents = BTreeMap<u64, Vec<u8>>;
type Names = BTreeMap<PathBuf, u64>;

/// The disk as it was synced, and what came since.
#[derive(Default)]
struct Platter {
    synced: Contents,
    synced_names: Names,
    names: Names,
    /// By inode, in order.
    pending: BTreeMap<u64, Vec<Event>>,
    /// Names since the last sync, one after the other.
    name_history: Vec<Names>,
}

impl Platter {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Create { path, inode } => {
                self.names.insert(path.clone(), *inode);
                self.name_history.push(self.names.clone());
            }
            Event::Unlink(path) => {
                self.names.remove(path);
                self.name_history.push(self.names.clone());
            }
            Event::Rename { from, to } => {
                if let Some(inode) = self.names.remove(from) {
                    self.names.insert(to.clone(), inode);
                }
                self.name_history.push(self.names.clone());
            }
            Event::Write { inode, .. } | Event::Punch { inode, .. } | Event::SetLen { inode, .. } => {
                self.pending.entry(*inode).or_default().push(event.clone());
            }
            Event::Sync(inode) => {
                let content = self.synced.entry(*inode).or_default();
                for event in self.pending.remove(inode).unwrap_or_default() {
                    apply(content, &event, &mut |_| true);
                }
                // A journal's commit takes all names with it.
                self.synced_names = self.names.clone();
                self.name_history.clear();
            }
        }
    }

    /// The disk after the power failed now.
    fn fail(&self, failure: Failure, rng: &SimRng) -> SimDisk {
        let names = match failure {
            Failure::TornLast => &self.names,
            Failure::Nothing => &self.synced_names,
            Failure::AnyPart => {
                let moment = size(rng.below(self.name_history.len() as u64 + 1));
                if moment == 0 { &self.synced_names } else { &self.name_history[moment - 1] }
            }
        };
        let disk = SimDisk::new(1, 1 << 30);
        for (path, inode) in names {
            let mut content = self.synced.get(inode).cloned().unwrap_or_default();
            let pending = self.pending.get(inode).map_or(&[][..], Vec::as_slice);
            for (at, event) in pending.iter().enumerate() {
                let torn = match failure {
                    Failure::TornLast => at + 1 == pending.len(),
                    Failure::AnyPart => true,
                    Failure::Nothing => continue,
                };
                apply(&mut content, event, &mut |_sector| !torn || rng.below(2) == 0);
            }
            disk.create_dir_all(path.parent().expect("below the root")).expect("made");
            let file = disk.open(path, Open::Create, Caching::Buffered).expect("made");
            if !content.is_empty() {
                file.write_at(&content, 0).expect("written");
            }
        }
        disk
    }
}

/// Applies the sectors of an event that `reaches` lets through.
fn apply(content: &mut Vec<u8>, event: &Event, reaches: &mut dyn FnMut(usize) -> bool) {
    match event {
        Event::Write { offset, bytes, .. } => {
            for (sector, part) in bytes.chunks(SECTOR).enumerate() {
                let at = offset + sector * SECTOR;
                if reaches(sector) {
                    if content.len() < at + part.len() {
                        content.resize(at + part.len(), 0);
                    }
                    content[at..at + part.len()].copy_from_slice(part);
                }
            }
        }
        Event::Punch { offset, len, .. } => {
            let end = (offset + len).min(content.len());
            if *offset < end && reaches(0) {
                content[*offset..end].fill(0);
            }
        }
        Event::SetLen { len, .. } => {
            if reaches(0) {
                content.resize(*len, 0);
            }
        }
        Event::Create { .. } | Event::Unlink(_) | Event::Rename { .. } | Event::Sync(_) => {}
    }
}

/// Objects of the recording: two of three chunks, some small ones.
fn objects() -> Vec<Arc<Object>> {
    let large = (0..2).map(|n| object(n, 2 * u64::from(CHUNK) + 5_000));
    large.chain((2..6).map(|n| object(n, 70_000 + n))).collect()
}

/// A short life of a store: fills, a doomed chunk, a passed file, evictions, a restart, a stop without a close.
async fn live(recording: &Recording) {
    let with = |disk: &Recording| Runtime { disk: Arc::new(disk.clone()), ..sim(&SimDisk::new(1, 1 << 20)) };
    let capacity_bytes = 8 * u64::from(CHUNK);
    let objects = objects();
    let runtime = with(recording);
    let stores = open_one(&runtime, capacity_bytes).await;
    for object in &objects[..4] {
        for index in 0..object.chunks() {
            fill(&stores, &chunk(object, index)).await.expect("fills");
        }
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    stores.drop_chunk(&chunk(&objects[0], 1));
    settle(&stores).await;
    fill(&stores, &chunk(&objects[0], 1)).await.expect("fills");
    assert!(stores.verify(&objects[1]).await.expect("reads"));
    drop(stores.pass(&objects[1].id()).await.expect("passes"));
    stores.close().await;
    runtime.tasks.shut_down().await;
    drop(stores);
    let runtime = with(recording);
    let stores = open_one(&runtime, capacity_bytes).await;
    settle(&stores).await;
    // The passed file leaves and comes anew; another object's last chunk too.
    stores.drop_chunk(&chunk(&objects[1], 0));
    stores.drop_chunk(&chunk(&objects[0], 2));
    settle(&stores).await;
    for object in &objects {
        for index in 0..object.chunks() {
            fill(&stores, &chunk(object, index)).await.expect("fills");
        }
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    stores.drop_chunk(&chunk(&objects[5], 0));
    fill(&stores, &chunk(&objects[4], 0)).await.expect("fills");
    settle(&stores).await;
    runtime.tasks.shut_down().await;
}

#[derive(Debug, Default)]
struct Tally {
    stores: AtomicU64,
    right: AtomicU64,
    caught: AtomicU64,
    absent: AtomicU64,
    passed: AtomicU64,
    refused: AtomicU64,
}

/// Opens what the failure left and looks at everything.
async fn recover(disk: SimDisk, tally: &Tally) {
    let one = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
    let runtime = sim(&disk);
    let stores = match open(&runtime, &[config(8 * u64::from(CHUNK))]).await {
        Ok(stores) => stores,
        // Before the label was durable there was no store, and nothing of it is touched.
        Err(OpenError::BadLabel { .. } | OpenError::NotEmpty { .. }) => {
            one(&tally.refused);
            return;
        }
        Err(error) => panic!("{error}"),
    };
    one(&tally.stores);
    for object in objects() {
        // What was verified is passed, and a passed file has right bytes only.
        if stores.verify(&object).await.unwrap_or(false) {
            let passed = stores.pass(&object.id()).await.expect("verified");
            let mut bytes = vec![0; size(object.size())];
            assert_eq!(passed.file().read_at(&mut bytes, 0).expect("reads"), bytes.len());
            let right: Vec<u8> = (0..object.chunks()).flat_map(|index| content(&chunk(&object, index))).collect();
            assert!(bytes == right, "a file with wrong bytes was passed");
            one(&tally.passed);
        }
        for index in 0..object.chunks() {
            match look(&stores, &chunk(&object, index)).await {
                Seen::Right => one(&tally.right),
                Seen::Caught => one(&tally.caught),
                Seen::Absent | Seen::Failed => one(&tally.absent),
            };
        }
    }
    let again = chunk(&objects()[0], 1);
    settle(&stores).await;
    fill(&stores, &again).await.expect("takes chunks in again");
    assert_eq!(look(&stores, &again).await, Seen::Right);
    runtime.tasks.shut_down().await;
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(future)
}

#[test]
fn after_every_write_a_power_failure_leaves_a_store_without_a_wrong_byte() {
    let recording = Recording::new();
    block_on(live(&recording));
    let events = std::mem::take(&mut recording.log.lock().events);
    let syncs = events.iter().filter(|event| matches!(event, Event::Sync(_))).count();
    assert!(events.len() > 100 && syncs > 20, "{} events, {syncs} syncs", events.len());
    let (tally, rng) = (Tally::default(), SimRng::new(9));
    let mut platter = Platter::default();
    for event in &events {
        platter.take(event);
        for failure in [Failure::TornLast, Failure::AnyPart, Failure::Nothing] {
            if failure == Failure::Nothing && !matches!(event, Event::Sync(_)) {
                // The same as after the last sync.
                continue;
            }
            block_on(recover(platter.fail(failure, &rng), &tally));
        }
    }
    println!("{} events, {syncs} syncs: {tally:?}", events.len());
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert!(count(&tally.stores) + count(&tally.refused) >= 2 * events.len() as u64);
    assert!(count(&tally.refused) < 20, "only while the label was made");
    assert!(count(&tally.right) > 500, "what was durable is there");
    assert!(count(&tally.passed) > 100);
    assert!(count(&tally.absent) > 100);
    assert!(count(&tally.caught) > 0, "something was torn, and the checksum caught it");
}
