//! A directory of this machine as an origin: what `larder up` serves when there is no bucket.
//!
//! A file's version is its inode, mtime and length: it is checked when a read opens the file and again after the last
//! byte, so a file that is written in place fails the read instead of mixing versions. Directories exist also when they
//! are empty. A page costs one scan of its directory.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use larder_proto::limits::OBJECT_BYTES_MAX;
use larder_proto::object::{DirPath, EntryName, ObjectKey, Version};
use larder_proto::range::ByteRange;

use super::{Cursor, ObjectInfo, Odd, Origin, OriginError, Page, Pieces, Protocol, Unreachable};
use crate::runtime::tasks::{Pool, PoolError};
use crate::runtime::tree::{Tree, TreeEntry, TreeFile, TreeInfo};

/// Bytes of one read.
const PIECE_BYTES: u64 = 1024 * 1024;

pub(super) struct Local {
    root: PathBuf,
    pool: Pool,
}

impl Local {
    pub(super) fn new(root: &str, pool: Pool) -> Self {
        Self { root: root.into(), pool }
    }

    /// Runs `call` on the tree in the pool. A missing root is a missing bucket, whatever was asked.
    async fn on_tree<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Tree) -> Result<T, OriginError> + Send + 'static,
    ) -> Result<T, OriginError> {
        let root = self.root.clone();
        let opened = move || match Tree::open(&root) {
            Ok(tree) => call(&tree),
            Err(error) if is_absent(&error) => Err(OriginError::NoSuchBucket),
            Err(error) => Err(failure(&error)),
        };
        self.pool.run(opened).await.map_err(full)?
    }
}

#[async_trait]
impl Origin for Local {
    async fn get(&self, key: &ObjectKey, version: &Version, range: ByteRange) -> Result<Pieces, OriginError> {
        let (path, expected) = (key.as_str().to_owned(), version.clone());
        let open = move |tree: &Tree| {
            let file = tree.file(&path).map_err(|error| failure(&error))?;
            check(&file, &expected)?;
            Ok(file)
        };
        let file = Arc::new(self.on_tree(open).await?);
        let (pool, version) = (self.pool.clone(), version.clone());
        let pieces = futures::stream::try_unfold(range, move |rest| {
            let (pool, file, version) = (pool.clone(), file.clone(), version.clone());
            async move {
                if rest.is_empty() {
                    return Ok(None);
                }
                let piece = pool.run(move || piece(&file, &version, rest)).await.map_err(full)??;
                let len = u64::try_from(piece.len()).expect("a length fits u64");
                Ok(Some((piece, ByteRange::at(rest.start() + len, rest.len() - len))))
            }
        });
        Ok(pieces.boxed())
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, OriginError> {
        let path = key.as_str().to_owned();
        let info = move |tree: &Tree| match tree.info(&path) {
            Ok(info) => object(info).ok_or(OriginError::Protocol(Protocol::Header)).map(Some),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failure(&error)),
        };
        self.on_tree(info).await
    }

    async fn list(&self, dir: &DirPath, from: Option<&Cursor>, limit: u16) -> Result<Page, OriginError> {
        let dir = dir.clone();
        let after = from.map(|(Cursor::Token(after) | Cursor::After(after))| after.clone());
        self.on_tree(move |tree| page(tree, &dir, after.as_deref(), usize::from(limit))).await
    }
}

fn piece(file: &TreeFile, version: &Version, rest: ByteRange) -> Result<Bytes, OriginError> {
    let len = usize::try_from(rest.len().min(PIECE_BYTES)).expect("at most 1 MiB");
    let bytes = file.read_at(rest.start(), len).map_err(|error| failure(&error))?;
    if bytes.len() < len {
        return Err(OriginError::Changed);
    }
    check(file, version)?;
    Ok(bytes.into())
}

fn check(file: &TreeFile, version: &Version) -> Result<(), OriginError> {
    let info = file.info().map_err(|error| failure(&error))?;
    if object(info).is_some_and(|object| object.version == *version) { Ok(()) } else { Err(OriginError::Changed) }
}

fn page(tree: &Tree, dir: &DirPath, after: Option<&str>, limit: usize) -> Result<Page, OriginError> {
    let entries = match tree.list(dir.as_str()) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Page::default()),
        Err(error) => return Err(failure(&error)),
    };
    let mut page = Page { marker: true, ..Page::default() };
    let mut names = Vec::with_capacity(entries.len());
    for TreeEntry { name, is_dir } in entries {
        match String::from_utf8(name).ok().map(|text| EntryName::parse(&text)) {
            Some(Ok(name)) if dir.child(&name).is_ok() => {
                let key = if is_dir { format!("{}/", name.as_str()) } else { name.as_str().to_owned() };
                names.push((key, name));
            }
            Some(Ok(_)) if after.is_none() => page.left_out.add(Odd::TooLong),
            Some(Err(odd)) if after.is_none() => page.left_out.add(odd.into()),
            None if after.is_none() => page.left_out.add(Odd::NotText),
            Some(_) | None => {}
        }
    }
    names.sort();
    let begin = after.map_or(0, |after| names.partition_point(|(key, _)| key.as_str() <= after));
    let more = names.len() - begin > limit;
    for (key, name) in names.drain(begin..).take(limit) {
        if more {
            page.next = Some(Cursor::After(key.as_str().into()));
        }
        if key.ends_with('/') {
            page.dirs.push(name);
            continue;
        }
        match tree.info(&format!("{}{key}", dir.prefix())).ok().map(object) {
            Some(Some(info)) => page.files.push((name, info)),
            Some(None) => page.left_out.add(Odd::NoVersion),
            None => {} // gone since the scan
        }
    }
    Ok(page)
}

fn object(info: TreeInfo) -> Option<ObjectInfo> {
    let TreeInfo { inode, size, mtime_ns } = info;
    let version = Version::of_etag(&format!("{inode:x}-{mtime_ns:x}-{size:x}"))?;
    let mtime_ms = mtime_ns / 1_000_000_000 * 1_000;
    (size <= OBJECT_BYTES_MAX).then_some(ObjectInfo { size, version, mtime_ms })
}

/// Links in circles or out of the tree are as absent as what isn't there.
fn is_absent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let raw = error.raw_os_error().map(Errno::from_raw_os_error);
    error.kind() == io::ErrorKind::NotFound
        || matches!(raw, Some(Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG | Errno::NXIO))
}

fn failure(error: &io::Error) -> OriginError {
    match error.kind() {
        _ if is_absent(error) => OriginError::NotFound,
        io::ErrorKind::PermissionDenied => OriginError::AccessDenied,
        _ => OriginError::Unreachable(Unreachable::Disk),
    }
}

fn full(error: PoolError) -> OriginError {
    match error {
        PoolError::Full { .. } => OriginError::Throttled,
        PoolError::Panicked => OriginError::Unreachable(Unreachable::Broken),
    }
}

#[cfg(test)]
mod tests;
