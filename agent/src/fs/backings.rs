//! How the bytes of an open file reach the kernel: through the agent, or straight from a store's file.
//!
//! An inode has one mode from its first open handle to its last: the kernel answers EIO when they are mixed. So the
//! question is asked once, when the number of handles goes from 0 to 1.

use larder_proto::object::Object;

/// How an inode is read while it has open handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The kernel asks the agent and keeps the pages.
    Cached,
    /// The kernel reads the store's file itself.
    Passthrough,
}

/// Decides the mode of an inode that is being opened.
pub trait Backings: Send + Sync + 'static {
    /// The mode for `object`; asked when its first handle opens, on the door's thread: must not block.
    fn choose(&self, object: &Object) -> Mode;
}

/// Every file through the agent.
#[derive(Clone, Copy, Debug, Default)]
pub struct CachedOnly;

impl Backings for CachedOnly {
    fn choose(&self, _object: &Object) -> Mode {
        Mode::Cached
    }
}
