//! The small files of a directory, brought before they are opened.
//!
//! [`Sweep`] is sans-IO: told which files are read, it says which to bring next. A reader that goes in the order of names
//! gets what lies before it, one that goes in any order gets the rest from where it is. What may be brought grows with what
//! was read, and stops where the guess fails: when what is read isn't what was brought, or most names in between are left
//! out. The chunks go to their owners and stay there, for a directory is larger than a reader's memory; what no owner would
//! keep isn't brought at all, and owners that keep little of it aren't asked again.
//! [`Sweeps`] holds those of a volume; what was brought and never read is counted when a directory falls silent, or is read
//! from its beginning again. The names of a sweep take their part of the room for names.

use std::sync::Arc;
use std::time::Duration;

use larder_proto::object::{DirPath, EntryName, Object};
use larder_proto::wire::RequestId;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::inodes::File;
use super::listings::Listing;
use super::room::Share;
use super::{Fs, Looked, max_age};
use crate::origin::ObjectInfo;
use crate::runtime::HashMap;

mod driver;
mod plan;

use driver::Driver;
use plan::Plan;

/// Files up to this size are brought whole for their directory's sake; larger ones have a window of their own.
const SMALL_BYTES: u64 = 1024 * 1024;

/// Files read of one directory that make its sweep begin.
const READ_FIRST: u32 = 8;

/// They must come within this time of each other; a sweep without reads for this long is over.
const SILENCE: Duration = Duration::from_secs(30);

/// Directories swept at a time; the one that was silent the longest makes room.
const SWEEPS_MAX: usize = 16;

/// What was brought by sweeps, since the mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Files that owners were asked to bring.
    pub files: u64,
    /// Of those whose directory has fallen silent: files that nobody read.
    pub wasted: u64,
}

/// The directories of a volume that are being read.
#[derive(Default)]
pub(super) struct Sweeps {
    dirs: Mutex<Dirs>,
}

#[derive(Default)]
struct Dirs {
    by_path: HashMap<DirPath, Arc<Sweep>>,
    ended: Swept,
}

/// One directory that is being read.
pub(super) struct Sweep {
    state: Mutex<State>,
    /// Rung when a file was read.
    read: Notify,
}

struct State {
    last: Instant,
    /// Files read before the names were known.
    before: u32,
    stage: Stage,
}

/// ```text
///   Waiting --READ_FIRST files were read--> Listing --names are here--> Running(plan) --all read, read again--> (begins anew)
///                                              |  too many, no room,       |  owners don't keep it
///                                              |  nobody could be asked    |
///                                              +--> Off, until silence <---+
/// ```
enum Stage {
    Waiting,
    Listing,
    /// With what the names take of the room.
    Running {
        plan: Box<Plan>,
        _names: Share,
    },
    Off,
}

/// What follows a sweep that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The directory's next reads begin another.
    Anew,
    /// Nothing is brought until the directory falls silent.
    Silence,
}

/// What a driver does next.
enum Next {
    /// Bring these files; none now, if there are none.
    Bring(Vec<(EntryName, Looked)>),
    /// Stop.
    End(Ending),
}

impl Sweeps {
    /// A file was read from its beginning; returns the sweep that is now to be driven.
    fn read(&self, dir: &DirPath, name: &EntryName, now: Instant) -> Option<Arc<Sweep>> {
        let mut dirs = self.dirs.lock();
        let sweep = match dirs.by_path.get(dir) {
            Some(sweep) if !sweep.is_silent(now) => sweep.clone(),
            Some(_) | None => dirs.begin(dir, now),
        };
        drop(dirs);
        sweep.read(name, now).then_some(sweep)
    }

    /// What was brought.
    pub(super) fn swept(&self) -> Swept {
        let dirs = self.dirs.lock();
        dirs.by_path.values().fold(dirs.ended, |sum, sweep| {
            let files = sum.files + u64::from(sweep.swept().0);
            Swept { files, ..sum }
        })
    }

    /// The driver of a sweep has stopped.
    fn ended(&self, dir: &DirPath, sweep: &Arc<Sweep>, ending: Ending) {
        let mut dirs = self.dirs.lock();
        // Another may have made room for itself, and has counted this one.
        if !dirs.by_path.get(dir).is_some_and(|known| Arc::ptr_eq(known, sweep)) {
            return;
        }
        dirs.count(sweep);
        if ending == Ending::Anew {
            dirs.by_path.remove(dir);
        }
    }
}

impl Dirs {
    fn begin(&mut self, dir: &DirPath, now: Instant) -> Arc<Sweep> {
        self.end(|path, sweep| path == dir || sweep.is_silent(now));
        if self.by_path.len() >= SWEEPS_MAX {
            let oldest = self.by_path.iter().min_by_key(|(_, sweep)| sweep.state.lock().last);
            if let Some(oldest) = oldest.map(|(path, _)| path.clone()) {
                self.end(|path, _| *path == oldest);
            }
        }
        let state = State { last: now, before: 0, stage: Stage::Waiting };
        let sweep = Arc::new(Sweep { state: Mutex::new(state), read: Notify::new() });
        self.by_path.insert(dir.clone(), sweep.clone());
        sweep
    }

    fn end(&mut self, which: impl Fn(&DirPath, &Sweep) -> bool) {
        let by_path = self.by_path.iter();
        let ends: Vec<DirPath> =
            by_path.filter(|(path, sweep)| which(path, sweep)).map(|(path, _)| path.clone()).collect();
        for path in ends {
            if let Some(sweep) = self.by_path.remove(&path) {
                self.count(&sweep);
                sweep.read.notify_one();
            }
        }
    }

    /// Counts what it has brought, and lets go of its names.
    fn count(&mut self, sweep: &Sweep) {
        let (files, unread) = sweep.swept();
        self.ended.files += u64::from(files);
        self.ended.wasted += u64::from(unread);
        sweep.state.lock().stage = Stage::Off;
    }
}

impl Sweep {
    fn is_silent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.state.lock().last) >= SILENCE
    }

    /// Whether it is to be driven from now on.
    fn read(&self, name: &EntryName, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.last = now;
        match &mut state.stage {
            Stage::Waiting => {
                state.before += 1;
                let begins = state.before >= READ_FIRST;
                if begins {
                    state.stage = Stage::Listing;
                }
                begins
            }
            Stage::Listing => {
                state.before = state.before.saturating_add(1);
                false
            }
            Stage::Running { plan, .. } => {
                plan.read(name);
                drop(state);
                self.read.notify_one();
                false
            }
            Stage::Off => false,
        }
    }

    /// The names are known, and take `share` of the room.
    fn listed(&self, listing: Arc<Listing>, share: Share) {
        let mut state = self.state.lock();
        if let Stage::Listing = state.stage {
            state.stage =
                Stage::Running { plan: Box::new(Plan::new(listing, state.before, SMALL_BYTES)), _names: share };
        }
    }

    /// What to do next with the files that owners would keep.
    fn next(&self, kept: impl Fn(&EntryName, &ObjectInfo) -> bool) -> Next {
        match &mut self.state.lock().stage {
            Stage::Running { plan, .. } if plan.is_refused() => Next::End(Ending::Silence),
            Stage::Running { plan, .. } => {
                let files = plan.next(kept);
                if files.is_empty() && plan.is_over() { Next::End(Ending::Anew) } else { Next::Bring(files) }
            }
            Stage::Waiting | Stage::Listing | Stage::Off => Next::End(Ending::Anew),
        }
    }

    /// Of so many files that owners were asked to bring, they have so many.
    fn brought(&self, asked: usize, kept: usize) {
        if let Stage::Running { plan, .. } = &mut self.state.lock().stage {
            plan.brought(asked, kept);
        }
    }

    /// Files that were brought, and those of them that weren't read.
    fn swept(&self) -> (u32, u32) {
        match &self.state.lock().stage {
            Stage::Running { plan, .. } => plan.swept(),
            Stage::Waiting | Stage::Listing | Stage::Off => (0, 0),
        }
    }

    /// Waits for the next read; `false` when none comes for long.
    async fn wait(&self) -> bool {
        timeout(SILENCE, self.read.notified()).await.is_ok()
    }
}

impl Fs {
    /// A small file was read from its beginning. Never blocks.
    pub(super) fn swept_by(&self, request: RequestId, file: &File) {
        let object: &Object = file.object();
        if object.size() > SMALL_BYTES || object.chunks() != 1 {
            return;
        }
        // Owners keep what was read before; bringing it ahead would only fetch it twice.
        let volume = self.volume();
        if volume.keeping.after_reads > 0 || !volume.keeping.admits(object.key(), object.size()) {
            return;
        }
        let (dir, name) = object.key().split();
        let Some(sweep) = self.sweeps.read(&dir, &name, self.runtime.clock.now()) else { return };
        let driver = Driver {
            runtime: self.runtime.clone(),
            names: self.below.names.clone(),
            chunks: self.below.chunks.clone(),
            known: self.known.clone(),
            room: self.below.room.clone(),
            max_age: max_age(volume.freshness),
            volume,
            dir,
            request,
        };
        let sweeps = self.sweeps.clone();
        self.runtime.tasks.spawn(async move {
            let ending = driver.drive(&sweep).await;
            sweeps.ended(&driver.dir, &sweep, ending);
        });
    }

    /// Small files that were brought for their directory's sake.
    pub fn swept(&self) -> Swept {
        self.sweeps.swept()
    }
}
