//! An origin in memory, for simulations and tests: latency, a fault plan, and counters of what it was asked.
//!
//! Faults are taken in order, one per attempt that matches; what was injected is counted, so that a test can assert it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use larder_proto::object::{DirPath, EntryName, ObjectKey, Version};
use larder_proto::range::ByteRange;
use larder_proto::volume::Volume;
use parking_lot::Mutex;

use super::{Cursor, ObjectInfo, Odd, Open, Origin, OriginError, Page, Pieces, Unreachable};

/// Pieces a body comes in.
const PIECE_BYTES: usize = 64 * 1024;

/// What goes wrong with one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this, after the latency.
    Fails(OriginError),
    /// It never answers.
    Hangs,
    /// A body breaks after this many bytes. Only GETs take it.
    BreaksAfter(u64),
    /// A body stops after this many bytes, without an end. Only GETs take it.
    StallsAfter(u64),
}

/// What an attempt was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// A GET of bytes `start..end`.
    Get(ObjectKey, u64, u64),
    /// A HEAD.
    Head(ObjectKey),
    /// A LIST of this directory.
    List(String),
}

/// The origin. Cheap to clone; clones are one origin.
#[derive(Clone, Default)]
pub struct MemoryOrigin(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// By key as text: odd keys can be put too.
    objects: BTreeMap<String, Stored>,
    latency: Duration,
    versions: u64,
    down: Option<OriginError>,
    faults: VecDeque<Fault>,
    injected: u64,
    asked: BTreeMap<Asked, u64>,
}

#[derive(Clone)]
struct Stored {
    bytes: Bytes,
    info: ObjectInfo,
}

impl MemoryOrigin {
    /// An empty origin that answers at once.
    pub fn new() -> Self {
        Self::default()
    }

    /// Each answer takes this long to begin.
    pub fn set_latency(&self, latency: Duration) {
        self.0.lock().latency = latency;
    }

    /// Puts an object under a key that may be odd; it gets a new version, which is returned.
    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) -> Version {
        let bytes = bytes.into();
        let mut inner = self.0.lock();
        inner.versions += 1;
        let version = Version::of_etag(&format!("v{}", inner.versions)).expect("short ASCII");
        let size = u64::try_from(bytes.len()).expect("a length fits u64");
        let info = ObjectInfo { size, version: version.clone(), mtime_ms: 1_600_000_000_000 + inner.versions * 1_000 };
        inner.objects.insert(key.to_owned(), Stored { bytes, info });
        version
    }

    /// Removes an object; true when it was there.
    pub fn remove(&self, key: &str) -> bool {
        self.0.lock().objects.remove(key).is_some()
    }

    /// From now on every attempt fails with this (`None`: no more).
    pub fn set_down(&self, error: Option<OriginError>) {
        self.0.lock().down = error;
    }

    /// The next attempts meet these, in order, one each.
    pub fn inject(&self, faults: impl IntoIterator<Item = Fault>) {
        self.0.lock().faults.extend(faults);
    }

    /// Faults that attempts met, being down included.
    pub fn injected(&self) -> u64 {
        self.0.lock().injected
    }

    /// What was asked, with how often.
    pub fn asked(&self) -> BTreeMap<Asked, u64> {
        self.0.lock().asked.clone()
    }

    /// GETs, HEADs and LISTs so far.
    pub fn totals(&self) -> (u64, u64, u64) {
        self.0.lock().asked.iter().fold((0, 0, 0), |(gets, heads, lists), (asked, n)| match asked {
            Asked::Get(..) => (gets + n, heads, lists),
            Asked::Head(_) => (gets, heads + n, lists),
            Asked::List(_) => (gets, heads, lists + n),
        })
    }

    /// Notes the attempt, waits its latency, and meets the next fault.
    async fn enter(&self, asked: Asked) -> Result<Option<Fault>, OriginError> {
        let (latency, fault) = {
            let mut inner = self.0.lock();
            let is_get = matches!(asked, Asked::Get(..));
            *inner.asked.entry(asked).or_default() += 1;
            let fault = match (inner.down, inner.faults.front()) {
                (Some(error), _) => Some(Fault::Fails(error)),
                (None, Some(Fault::BreaksAfter(_) | Fault::StallsAfter(_))) if !is_get => None,
                (None, Some(_)) => inner.faults.pop_front(),
                (None, None) => None,
            };
            inner.injected += u64::from(fault.is_some());
            (inner.latency, fault)
        };
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        match fault {
            Some(Fault::Fails(error)) => Err(error),
            Some(Fault::Hangs) => std::future::pending().await,
            other => Ok(other),
        }
    }
}

#[async_trait]
impl Origin for MemoryOrigin {
    async fn get(&self, key: &ObjectKey, version: &Version, range: ByteRange) -> Result<Pieces, OriginError> {
        let fault = self.enter(Asked::Get(key.clone(), range.start(), range.end())).await?;
        let stored = self.0.lock().objects.get(key.as_str()).cloned().ok_or(OriginError::NotFound)?;
        if stored.info.version != *version || range.end() > stored.info.size {
            return Err(OriginError::Changed);
        }
        let cut = |n: u64| usize::try_from(n).expect("objects in memory fit usize");
        let mut rest = stored.bytes.slice(cut(range.start())..cut(range.end()));
        let (end, stalls) = match fault {
            Some(Fault::BreaksAfter(n)) => (Some(n), false),
            Some(Fault::StallsAfter(n)) => (Some(n), true),
            Some(Fault::Fails(_) | Fault::Hangs) | None => (None, false),
        };
        if let Some(n) = end {
            rest.truncate(cut(n));
        }
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            pieces.push(Ok(rest.split_to(rest.len().min(PIECE_BYTES))));
        }
        if end.is_some() && !stalls {
            pieces.push(Err(OriginError::Unreachable(Unreachable::Broken)));
        }
        let pieces = futures::stream::iter(pieces);
        Ok(if stalls { pieces.chain(futures::stream::pending()).boxed() } else { pieces.boxed() })
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, OriginError> {
        self.enter(Asked::Head(key.clone())).await?;
        Ok(self.0.lock().objects.get(key.as_str()).map(|stored| stored.info.clone()))
    }

    async fn list(&self, dir: &DirPath, from: Option<&Cursor>, limit: u16) -> Result<Page, OriginError> {
        self.enter(Asked::List(dir.as_str().to_owned())).await?;
        let prefix = dir.prefix();
        let inner = self.0.lock();
        let after = from.map(|(Cursor::Token(after) | Cursor::After(after))| format!("{prefix}{after}"));
        let mut page = Page::default();
        let (mut seen, mut last) = (0, String::new());
        for (key, stored) in inner.objects.range(prefix.clone()..) {
            let Some(tail) = key.strip_prefix(&prefix) else { break };
            let common = tail.split_once('/').map(|(dir, _)| format!("{prefix}{dir}/"));
            let group = common.as_ref().unwrap_or(key);
            if after.as_ref().is_some_and(|after| group <= after) || (*group == last && seen > 0) {
                continue;
            }
            if seen == limit {
                page.next = Some(Cursor::Token(last[prefix.len()..].into()));
                break;
            }
            seen += 1;
            last.clone_from(group);
            add(&mut page, tail, &stored.info);
        }
        Ok(page)
    }
}

/// Adds a key, relative to the directory, to its page.
fn add(page: &mut Page, tail: &str, info: &ObjectInfo) {
    let name = tail.split_once('/').map_or(tail, |(dir, _)| dir);
    match EntryName::parse(name) {
        _ if tail.is_empty() => page.marker = true,
        Err(odd) => page.left_out.add(Odd::from(odd)),
        Ok(name) if tail.contains('/') => page.dirs.push(name),
        Ok(name) => page.files.push((name, info.clone())),
    }
}

impl Open for MemoryOrigin {
    fn open(&self, _volume: &Volume) -> Result<Arc<dyn Origin>, OriginError> {
        Ok(Arc::new(self.clone()))
    }
}
