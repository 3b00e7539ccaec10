//! The FUSE door: one mount per volume, served by a few threads of this process.
//!
//! Translates the kernel's requests for [`Fs`](crate::fs::Fs) and holds no state of its own. What memory can answer is
//! answered on the FUSE thread; everything else on the async runtime, with the reply moved there. Every request ends
//! by its volume's `readDeadline`, for the kernel can't take one back. The agent never touches its own mounts.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackgroundSession, INodeNo, Notifier, Session, SessionACL};

use crate::fs::Fs;
use crate::runtime::mounts::Hands;
use crate::runtime::{Runtime, process};

mod directories;
mod door;
mod errno;
mod ops;
mod passthrough;

pub use ops::{Op, OpCounts, Ops};
pub use passthrough::{Connection, Passthrough, PassthroughCounts, Refusal, Standing};

use door::Door;

/// Threads that read requests of one mount; each has a buffer of 16 MiB, of which reads touch a page.
const THREADS_MAX: usize = 4;

/// A volume's mount. Dropping it leaves the mount in place; [`unmount`](Self::unmount) takes it away.
pub struct Mount {
    at: PathBuf,
    hands: Hands,
    fs: Arc<Fs>,
    session: BackgroundSession,
}

impl Mount {
    /// Mounts `fs`, which stands on `backings`, at `at`, an empty folder on which nothing is mounted, and serves it.
    /// Blocks for a moment; must be called within the async runtime.
    pub fn new(
        runtime: &Runtime,
        fs: Arc<Fs>,
        backings: Arc<Connection>,
        (at, hands): (&Path, &Hands),
        ops: Arc<Ops>,
    ) -> io::Result<Self> {
        let device = hands.mount(at)?;
        let door = Door::new(runtime, fs.clone(), backings.clone(), ops);
        let served = Self::serve(door, &backings, device).and_then(|session| {
            hands.set_read_ahead(at, fs.volume().read_ahead_bytes)?;
            Ok(Self { at: at.to_owned(), hands: hands.clone(), fs, session })
        });
        if served.is_err() {
            // The error of the mount is the one to tell; what remains of it is found at the next start.
            let _unmounted = hands.unmount(at);
        }
        served
    }

    fn serve(door: Door, backings: &Connection, device: OwnedFd) -> io::Result<BackgroundSession> {
        let mut config = fuser::Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(process::cores().min(THREADS_MAX));
        backings.connect(device.try_clone()?);
        let session = Session::from_fd(door, device, SessionACL::All, config)?;
        backings.probe();
        session.spawn()
    }

    /// Whether the kernel still sends requests; not after somebody has unmounted it.
    pub fn is_alive(&self) -> bool {
        !self.session.guard.is_finished()
    }

    /// What keeps the number of names within its bound.
    pub fn relief(&self) -> Relief {
        Relief { fs: self.fs.clone(), notifier: self.session.notifier() }
    }

    /// The volume's tree.
    pub fn fs(&self) -> &Arc<Fs> {
        &self.fs
    }

    /// Where it is mounted.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Takes the mount away. Files that are open stay readable as long as this process lives.
    pub fn unmount(self) -> io::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        self.hands.unmount(&self.at)
    }
}

/// Tells the kernel to forget names, so that no more are in use than the tree may know.
pub struct Relief {
    fs: Arc<Fs>,
    notifier: Notifier,
}

impl Relief {
    /// Has the kernel forget the oldest names above the bound. Blocks as long as the kernel is busy with their
    /// directories (a lookup there may wait for the origin): never on a thread of the mount, nor where anything waits.
    pub fn run(self) {
        for (dir, name) in self.fs.to_forget() {
            // A name that the kernel has forgotten by itself is no error.
            let _gone = self.notifier.inval_entry(INodeNo(dir.0), name.as_str().as_ref());
        }
    }
}
