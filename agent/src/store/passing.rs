//! What doors may take from a store besides bytes: a whole file for the kernel, and the promise that an open file keeps
//! what it has.
//!
//! A file that was passed once is never written, punched or cut again, for as long as it exists: a mapping of it may
//! outlive the handle, the mount and the agent. It leaves whole, by unlink, whether or not it is open; its bytes stay
//! readable for whoever has it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use larder_proto::ids::ObjectId;

use super::{StoreError, Stores};
use crate::runtime::disk::File;

/// A complete object's file, open for reading through the page cache. Kept open or closed as the caller likes.
pub struct Passed {
    pub(super) file: Arc<dyn File>,
}

impl Passed {
    /// The descriptor to hand to the kernel; nothing on a simulated disk.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.descriptor()
    }

    /// The file.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }
}

/// Why the kernel can't have the file now. The door reads through the agent.
#[derive(Debug, thiserror::Error)]
pub enum NotPassed {
    /// Something of the object isn't here.
    #[error("the object isn't here whole")]
    NotHere,
    /// It was not verified since the store was left unclean; that begins now.
    #[error("the object is not verified yet")]
    Unverified,
    /// The disk failed, or gave no answer in time.
    #[error(transparent)]
    Disk(#[from] StoreError),
}

impl From<io::Error> for NotPassed {
    fn from(error: io::Error) -> Self {
        Self::Disk(error.into())
    }
}

/// While it lives, eviction takes no chunk of the object (a passed file may be unlinked all the same).
pub struct Held {
    stores: Stores,
    object: ObjectId,
}

impl Drop for Held {
    fn drop(&mut self) {
        for directory in self.stores.directories.iter() {
            directory.index.lock().release(self.object);
        }
    }
}

impl Stores {
    /// The whole object's file for the kernel. A hit of every chunk. Waits for the disk at most a quarter of a second.
    pub async fn pass(&self, object: &ObjectId) -> Result<Passed, NotPassed> {
        let directory = self.directories.iter().find(|directory| directory.index.lock().complete(object));
        directory.ok_or(NotPassed::NotHere)?.pass(*object).await
    }

    /// A door has the object open from now until the answer is dropped. From memory.
    pub fn hold(&self, object: ObjectId) -> Held {
        for directory in self.directories.iter() {
            directory.index.lock().hold(object);
        }
        Held { stores: self.clone(), object }
    }
}
