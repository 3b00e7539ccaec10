//! The small files of a directory, brought before they are opened.
//!
//! [`Sweep`] is sans-IO: told which files are read, it says which to bring next. A reader that goes in the order of names
//! gets what lies before it, one that goes in any order gets the rest from where it is. What may be brought grows with what
//! was read, and stops where the guess fails: when what is read isn't what was brought, or most names in between are left
//! out. The chunks go to their owners and stay there, for a directory is larger than a reader's memory.
//! [`Sweeps`] holds those of a volume; what was brought and never read is counted when a directory falls silent.

use std::sync::Arc;
use std::time::Duration;

use larder_proto::object::{DirPath, EntryName, Object};
use larder_proto::wire::RequestId;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::inodes::File;
use super::listings::Listing;
use super::{Fs, Looked, max_age};
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
///   Waiting --READ_FIRST files were read--> Listing --names are here--> Running(plan)
///                                              |  too many, or nobody could be asked
///                                              +--> Off
/// ```
enum Stage {
    Waiting,
    Listing,
    Running(Plan),
    Off,
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
        let ended = &mut self.ended;
        self.by_path.retain(|path, sweep| {
            let ends = which(path, sweep);
            if ends {
                let (files, unread) = sweep.swept();
                ended.files += u64::from(files);
                ended.wasted += u64::from(unread);
                sweep.state.lock().stage = Stage::Off;
                sweep.read.notify_one();
            }
            !ends
        });
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
            Stage::Running(plan) => {
                plan.read(name);
                drop(state);
                self.read.notify_one();
                false
            }
            Stage::Off => false,
        }
    }

    /// The names are known.
    fn listed(&self, listing: Arc<Listing>) {
        let mut state = self.state.lock();
        if let Stage::Listing = state.stage {
            state.stage = Stage::Running(Plan::new(listing, state.before, SMALL_BYTES));
        }
    }

    fn give_up(&self) {
        self.state.lock().stage = Stage::Off;
    }

    /// The next files to bring; nothing while none may be, `None` when there will be no more.
    fn next(&self) -> Option<Vec<(EntryName, Looked)>> {
        match &mut self.state.lock().stage {
            Stage::Running(plan) => plan.next(),
            Stage::Waiting | Stage::Listing | Stage::Off => None,
        }
    }

    /// Files that were brought, and those of them that weren't read.
    fn swept(&self) -> (u32, u32) {
        match &self.state.lock().stage {
            Stage::Running(plan) => plan.swept(),
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
        let (dir, name) = object.key().split();
        let Some(sweep) = self.sweeps.read(&dir, &name, self.runtime.clock.now()) else { return };
        let volume = self.volume();
        let driver = Driver {
            runtime: self.runtime.clone(),
            names: self.below.names.clone(),
            chunks: self.below.chunks.clone(),
            known: self.known.clone(),
            max_age: max_age(volume.freshness),
            volume,
            dir,
            request,
        };
        self.runtime.tasks.spawn(async move { driver.drive(&sweep).await });
    }

    /// Small files that were brought for their directory's sake.
    pub fn swept(&self) -> Swept {
        self.sweeps.swept()
    }
}
