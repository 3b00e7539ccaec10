//! The bytes of an object: in memory, in a file of their own, or a pattern made on demand.
//!
//! A content never changes; a file is unlinked when its last reader lets go, so a read that began before a replacement
//! ends with the bytes it began with.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};

use super::pattern;

/// Bytes of one length that never change.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// Whole, in one or more pieces (the parts of a multipart upload).
    Memory(Arc<[Bytes]>),
    /// Pieces in files.
    Disk(Arc<[DiskPiece]>),
    /// Bytes of the pattern.
    Pattern { key: Arc<str>, version: u64 },
}

/// A file that goes away with its last user.
#[derive(Debug, Clone)]
pub(super) struct DiskPiece {
    file: Arc<OwnedFile>,
    len: u64,
}

#[derive(Debug)]
struct OwnedFile {
    path: PathBuf,
}

impl Drop for OwnedFile {
    fn drop(&mut self) {
        // The directory may have been removed by its owner already; nothing is lost then.
        let _ = fs::remove_file(&self.path);
    }
}

/// Where new bodies go.
#[derive(Debug)]
pub(super) enum Shelf {
    Memory,
    Disk { dir: PathBuf, next: AtomicU64 },
}

impl Shelf {
    pub(super) fn on_disk(dir: &Path) -> io::Result<Shelf> {
        fs::create_dir_all(dir)?;
        Ok(Shelf::Disk { dir: dir.to_owned(), next: AtomicU64::new(0) })
    }

    /// Keeps `body`. Blocks on the disk.
    pub(super) fn keep(&self, body: Bytes) -> io::Result<Content> {
        match self {
            Shelf::Memory => Ok(Content::Memory(Arc::from([body]))),
            Shelf::Disk { dir, next } => {
                let number = next.fetch_add(1, Ordering::SeqCst);
                let path = dir.join(format!("{}-{number}.body", std::process::id()));
                fs::write(&path, &body)?;
                let piece = DiskPiece { file: Arc::new(OwnedFile { path }), len: body.len() as u64 };
                Ok(Content::Disk(Arc::from([piece])))
            }
        }
    }
}

impl Content {
    /// One content behind the other, without copying; `None` if they are kept in different ways.
    pub(super) fn join(parts: &[(Content, u64)]) -> Option<Content> {
        let memory: Option<Vec<&Arc<[Bytes]>>> = parts
            .iter()
            .map(|(part, _)| match part {
                Content::Memory(pieces) => Some(pieces),
                Content::Disk(_) | Content::Pattern { .. } => None,
            })
            .collect();
        if let Some(memory) = memory {
            return Some(Content::Memory(memory.into_iter().flat_map(|pieces| pieces.iter().cloned()).collect()));
        }
        let disk: Option<Vec<&Arc<[DiskPiece]>>> = parts
            .iter()
            .map(|(part, _)| match part {
                Content::Disk(pieces) => Some(pieces),
                Content::Memory(_) | Content::Pattern { .. } => None,
            })
            .collect();
        disk.map(|disk| Content::Disk(disk.into_iter().flat_map(|pieces| pieces.iter().cloned()).collect()))
    }

    /// Whether [`Content::read`] waits for a disk.
    pub(super) fn blocks(&self) -> bool {
        matches!(self, Content::Disk(_))
    }

    /// Up to `max` bytes from `offset` on; shorter at the end of a piece, never empty inside the content.
    pub(super) fn read(&self, offset: u64, max: u64) -> io::Result<Bytes> {
        match self {
            Content::Memory(pieces) => {
                let sizes = pieces.iter().map(|piece| piece.len() as u64);
                let (index, skip) = find(sizes, offset).ok_or(io::ErrorKind::UnexpectedEof)?;
                let piece = &pieces[index];
                let skip = usize::try_from(skip).map_err(io::Error::other)?;
                let len = usize::try_from(max).unwrap_or(usize::MAX).min(piece.len() - skip);
                Ok(piece.slice(skip..skip + len))
            }
            Content::Disk(pieces) => {
                let (index, skip) = find(pieces.iter().map(|p| p.len), offset).ok_or(io::ErrorKind::UnexpectedEof)?;
                let piece = &pieces[index];
                let len = usize::try_from(max.min(piece.len - skip)).map_err(io::Error::other)?;
                let mut buffer = BytesMut::zeroed(len);
                fs::File::open(&piece.file.path)?.read_exact_at(&mut buffer, skip)?;
                Ok(buffer.freeze())
            }
            Content::Pattern { key, version } => {
                let mut buffer = BytesMut::zeroed(usize::try_from(max).map_err(io::Error::other)?);
                pattern::fill(key, *version, offset, &mut buffer);
                Ok(buffer.freeze())
            }
        }
    }
}

/// Which piece holds `offset`, and how far into it.
fn find(sizes: impl Iterator<Item = u64>, offset: u64) -> Option<(usize, u64)> {
    let mut begin = 0;
    for (index, size) in sizes.enumerate() {
        if offset - begin < size {
            return Some((index, offset - begin));
        }
        begin += size;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(content: &Content, size: u64) -> Vec<u8> {
        let mut all = Vec::new();
        while (all.len() as u64) < size {
            all.extend(content.read(all.len() as u64, size - all.len() as u64).unwrap());
        }
        all
    }

    #[test]
    fn parts_join_in_memory_and_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        for shelf in [Shelf::Memory, Shelf::on_disk(dir.path()).unwrap()] {
            let part = |text: &'static str| (shelf.keep(Bytes::from(text)).unwrap(), text.len() as u64);
            let joined = Content::join(&[part("abc"), part(""), part("defg")]).unwrap();
            assert_eq!(whole(&joined, 7), b"abcdefg");
            assert_eq!(joined.read(4, 2).unwrap(), "ef");
            assert!(joined.read(7, 1).is_err());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "bodies go with their contents");
    }
}
