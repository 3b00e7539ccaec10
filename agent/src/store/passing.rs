//! What doors may take from a store besides bytes: a whole file for the kernel, and the promise that an open file keeps
//! what it has.
//!
//! A file that was passed once is never written, punched or cut again, for as long as it exists: a mapping of it may
//! outlive the handle, the mount and the agent. It leaves whole, by unlink, whether or not it is open; its bytes stay
//! readable for whoever has it. The kernel checks no checksums: a file is passed only after every byte of it was read
//! back and checked, once since the store was opened.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder_proto::ids::ObjectId;
use larder_proto::limits::SEGMENT_BYTES;
use larder_proto::object::{ChunkIndex, Object};
use larder_proto::range::ByteRange;

use super::directory::Directory;
use super::index::Verifier;
use super::{StoreError, Stores};
use crate::runtime::disk::File;

/// A complete object's file, open for reading through the page cache. Kept open or closed as the caller likes.
pub struct Passed {
    pub(super) file: Arc<dyn File>,
    /// How many the kernel has of this store.
    pub(super) lent: Arc<AtomicU64>,
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

    /// The kernel reads the file until the answer is dropped: others shall know that the disk has readers.
    pub fn lend(&self) -> Lent {
        self.lent.fetch_add(1, Ordering::Relaxed);
        Lent(self.lent.clone())
    }
}

/// A file that the kernel reads by itself.
pub struct Lent(Arc<AtomicU64>);

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Files that the kernel reads by itself: nobody sees how much of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByKernel {
    /// Since the start.
    pub opened: u64,
    /// Now.
    pub open: u64,
}

/// Why the kernel can't have the file now. The door reads through the agent.
#[derive(Debug, thiserror::Error)]
pub enum NotPassed {
    /// Something of the object isn't here.
    #[error("the object isn't here whole")]
    NotHere,
    /// Not every byte was read back and checked since the store was opened: see [`Stores::verify`].
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

    /// Whether [`pass`](Self::pass) would have to wait for the disk: the object is here whole and verified. From memory.
    pub fn is_verified(&self, object: &ObjectId) -> bool {
        self.directories.iter().any(|directory| directory.index.lock().is_verified(object))
    }

    /// Reads a complete object back and checks it, in line with everybody's reads and in pieces as small as theirs; a
    /// chunk that fails is dropped. Whether it is verified now; `false` also when another door is verifying it.
    pub async fn verify(&self, object: &Arc<Object>) -> Result<bool, StoreError> {
        let id = object.id();
        let begin = |directory: &Arc<Directory>| directory.index.lock().begin_verifying(&id, Verifier::Door);
        let Some((directory, ticket)) = self.directories.iter().find_map(|one| Some((one, begin(one)?))) else {
            return Ok(self.is_verified(&id));
        };
        let mut verifying = Verifying { directory, id, ticket, right: false };
        let stamp = directory.stamp(id).await?;
        directory.index.lock().stamp_verifying(&id, ticket, stamp);
        for index in 0..object.chunks() {
            let Some(chunk) = object.chunk(ChunkIndex(index)) else { return Ok(false) };
            let len = u64::from(chunk.len());
            let mut at = 0;
            while at < len {
                let range = ByteRange::at(at, u64::from(SEGMENT_BYTES)).clamp(len);
                let Some(read) = directory.read(&chunk, range, &self.buffers).await? else { return Ok(false) };
                if read.verify().is_err() {
                    directory.drop_corrupt(&chunk);
                    return Ok(false);
                }
                at = range.end();
            }
        }
        verifying.right = true;
        drop(verifying);
        Ok(self.is_verified(&id))
    }

    /// The files that the kernel reads by itself. From memory.
    pub fn by_kernel(&self) -> ByKernel {
        self.directories.iter().fold(ByKernel::default(), |sum, directory| ByKernel {
            opened: sum.opened + directory.counters.passed.get(),
            open: sum.open + directory.lent.load(Ordering::Relaxed),
        })
    }

    /// A door has the object open from now until the answer is dropped. From memory.
    pub fn hold(&self, object: ObjectId) -> Held {
        for directory in self.directories.iter() {
            directory.index.lock().hold(object);
        }
        Held { stores: self.clone(), object }
    }
}

/// A verification; ended on drop.
struct Verifying<'a> {
    directory: &'a Directory,
    id: ObjectId,
    ticket: u64,
    right: bool,
}

impl Drop for Verifying<'_> {
    fn drop(&mut self) {
        self.directory.index.lock().end_verifying(&self.id, self.ticket, self.right);
    }
}
