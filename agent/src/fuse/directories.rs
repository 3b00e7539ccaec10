//! Replies that list names, with attributes or without.
//!
//! `.` is at offset 0, `..` at 1; a reply ends with the part it is made of, and the kernel asks for the rest. An entry
//! with attributes is a reference to its number; one that no longer fits is given back.

use fuser::{Errno, FileType, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::door::{GENERATION, file_attr};
use super::errno::errno;
use crate::fs::{Fh, Fs, FsError, Ino, Looked, PartAt};

/// What FUSE says for a number that isn't known yet (FUSE_UNKNOWN_INO); readdir doesn't make numbers.
const UNKNOWN: INodeNo = INodeNo(0xffff_ffff);

/// A reply to be filled with names.
pub(super) trait Names: Send + 'static {
    /// Fills the reply from `offset` on and sends it.
    fn reply(self, fs: &Fs, fh: Fh, offset: u64, part: &PartAt);

    /// Sends an error.
    fn fail(self, error: Errno);
}

/// The two names that every directory has: offset, number, name.
fn dots(fs: &Fs, ino: Ino, fh: Fh, offset: u64) -> impl Iterator<Item = (u64, Ino, &'static str)> {
    [(0, ino, "."), (1, fs.parent(fh), "..")].into_iter().filter(move |(at, _, _)| *at >= offset)
}

/// Names and their kinds.
pub(super) struct Plain {
    ino: Ino,
    reply: ReplyDirectory,
}

impl Plain {
    pub(super) fn new(ino: Ino, reply: ReplyDirectory) -> Self {
        Self { ino, reply }
    }
}

impl Names for Plain {
    fn reply(mut self, fs: &Fs, fh: Fh, offset: u64, part: &PartAt) {
        for (at, ino, name) in dots(fs, self.ino, fh, offset) {
            if self.reply.add(INodeNo(ino.0), at + 1, FileType::Directory, name) {
                return self.reply.ok();
            }
        }
        for (next, name, looked) in part.names(offset) {
            let kind = match looked {
                Looked::File(_) => FileType::RegularFile,
                Looked::Dir => FileType::Directory,
                Looked::Absent => continue,
            };
            if self.reply.add(UNKNOWN, next, kind, name.as_str()) {
                break;
            }
        }
        self.reply.ok();
    }

    fn fail(self, error: Errno) {
        self.reply.error(error);
    }
}

/// Names with their attributes.
pub(super) struct Plus {
    ino: Ino,
    reply: ReplyDirectoryPlus,
}

impl Plus {
    pub(super) fn new(ino: Ino, reply: ReplyDirectoryPlus) -> Self {
        Self { ino, reply }
    }
}

impl Names for Plus {
    fn reply(mut self, fs: &Fs, fh: Fh, offset: u64, part: &PartAt) {
        for (at, ino, name) in dots(fs, self.ino, fh, offset) {
            // The kernel takes no reference for these two; a parent it has forgotten shows as the directory itself.
            let Ok(entry) = fs.getattr(ino).or_else(|_| fs.getattr(self.ino)) else { continue };
            let attr = file_attr(&entry.attr);
            if self.reply.add(attr.ino, at + 1, name, &entry.ttl, &attr, GENERATION) {
                return self.reply.ok();
            }
        }
        let mut any = false;
        for (next, name, looked) in part.names(offset) {
            let entry = match fs.entry_in(fh, part, name, looked) {
                Ok(entry) => entry,
                // Not to be had with attributes: left out here, and the lookup says why.
                Err(FsError::NotFound | FsError::NameTooLong | FsError::TooLarge) => continue,
                // What was added before counts references: it is sent, and the next request meets the error again.
                Err(_) if any => break,
                Err(error) => return self.reply.error(errno(error)),
            };
            let attr = file_attr(&entry.attr);
            if self.reply.add(attr.ino, next, name.as_str(), &entry.ttl, &attr, GENERATION) {
                fs.forget(entry.attr.ino, 1);
                break;
            }
            any = true;
        }
        self.reply.ok();
    }

    fn fail(self, error: Errno) {
        self.reply.error(error);
    }
}
