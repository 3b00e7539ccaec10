//! How the bytes of an open file reach the kernel: through the agent, or straight from a store's file.
//!
//! An inode has one mode from its first open handle to its last: the kernel answers EIO when they are mixed. So the
//! question is asked once, when the number of handles goes from 0 to 1, and all handles share the answer.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use larder_proto::object::Object;

/// A store's file that the kernel has for an inode. Dropped when the inode's last handle is closed.
pub trait Backing: Send + Sync + 'static {
    /// The kernel's number for it, on the mount's connection.
    fn id(&self) -> u32;
}

/// How an inode is read while it has open handles.
#[derive(Clone)]
pub enum Mode {
    /// The kernel asks the agent and keeps the pages.
    Cached,
    /// The kernel reads the store's file itself.
    Passthrough(Arc<dyn Backing>),
}

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cached => f.write_str("Cached"),
            Self::Passthrough(backing) => write!(f, "Passthrough({})", backing.id()),
        }
    }
}

/// Decides the mode of an inode that is being opened.
#[async_trait]
pub trait Backings: Send + Sync + 'static {
    /// The mode for `object`, whose first handle opens, from memory; nothing when [`choose`](Self::choose) has to be
    /// asked. Runs on the door's thread, within the async runtime: never blocks.
    fn choose_now(&self, object: &Arc<Object>) -> Option<Mode>;

    /// The mode for `object`; may wait for a disk, less than a second. What goes wrong is [`Mode::Cached`].
    async fn choose(&self, object: &Arc<Object>) -> Mode;
}

/// Every file through the agent.
#[derive(Clone, Copy, Debug, Default)]
pub struct CachedOnly;

#[async_trait]
impl Backings for CachedOnly {
    fn choose_now(&self, _object: &Arc<Object>) -> Option<Mode> {
        Some(Mode::Cached)
    }

    async fn choose(&self, _object: &Arc<Object>) -> Mode {
        Mode::Cached
    }
}
