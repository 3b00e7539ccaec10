//! A local directory becomes objects: every regular file, several at a time, each hashed while it is sent.
//!
//! Symbolic links, devices and names that aren't UTF-8 are left out and counted.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;

use super::{Body, ClientError, Plan, S3Client, UNSIGNED};

/// A file is read in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// What was uploaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Objects made.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// SHA-256 by key, in lower-case hex.
    pub sha256: BTreeMap<String, String>,
    /// Size by key.
    pub sizes: BTreeMap<String, u64>,
    /// Entries that are neither directories nor regular files, or whose names aren't UTF-8.
    pub left_out: u64,
}

/// Puts every regular file under `root` at `prefix` + its relative path, `parallel` at a time. `progress` is told the
/// bytes of each file that is done.
///
/// Errors: the first file that can't be read or put; what was put before stays.
pub async fn upload_dir(
    client: &S3Client,
    root: &Path,
    prefix: &str,
    parallel: usize,
    progress: impl Fn(u64),
) -> Result<Uploaded, ClientError> {
    let (files, left_out) = walk(root)?;
    let mut uploaded = Uploaded { left_out, ..Uploaded::default() };
    let mut sent = stream::iter(files.into_iter().map(|(relative, path)| {
        let (client, key) = (client.clone(), format!("{prefix}{relative}"));
        tokio::spawn(async move { client.put_file(&key, &path).await.map(|(bytes, sha256)| (key, bytes, sha256)) })
    }))
    .buffer_unordered(parallel.max(1));
    while let Some(file) = sent.try_next().await.expect("a file's task neither panics nor is aborted") {
        let (key, bytes, sha256) = file?;
        progress(bytes);
        uploaded.files += 1;
        uploaded.bytes += bytes;
        uploaded.sizes.insert(key.clone(), bytes);
        uploaded.sha256.insert(key, sha256);
    }
    Ok(uploaded)
}

/// Regular files under `root` as (path relative to it, path), sorted, and how many entries were left out.
fn walk(root: &Path) -> Result<(Vec<(String, PathBuf)>, u64), ClientError> {
    let failed = |path: &Path, source| ClientError::File { path: path.to_owned(), source };
    let (mut files, mut left_out) = (Vec::new(), 0);
    let mut dirs = vec![(String::new(), root.to_owned())];
    while let Some((relative, dir)) = dirs.pop() {
        for entry in fs::read_dir(&dir).map_err(|error| failed(&dir, error))? {
            let entry = entry.map_err(|error| failed(&dir, error))?;
            let kind = entry.file_type().map_err(|error| failed(&entry.path(), error))?;
            let Ok(name) = entry.file_name().into_string() else {
                left_out += 1;
                continue;
            };
            if kind.is_dir() {
                dirs.push((format!("{relative}{name}/"), entry.path()));
            } else if kind.is_file() {
                files.push((format!("{relative}{name}"), entry.path()));
            } else {
                left_out += 1;
            }
        }
    }
    files.sort();
    Ok((files, left_out))
}

impl S3Client {
    /// Puts a file, streamed. Its size, and its SHA-256 in lower-case hex.
    ///
    /// Errors: those of a PUT; `File` if it can't be opened; `Broken` if it shrinks meanwhile.
    pub async fn put_file(&self, key: &str, path: &Path) -> Result<(u64, String), ClientError> {
        let failed = |source| ClientError::File { path: path.to_owned(), source };
        let opened = path.to_owned();
        let file = tokio::task::spawn_blocking(move || {
            let file = File::open(opened)?;
            let size = file.metadata()?.len();
            Ok::<_, io::Error>((file, size))
        });
        let (file, size) = file.await.map_err(io::Error::other).and_then(|file| file).map_err(failed)?;
        let hash = Arc::new(Mutex::new(digest::Context::new(&digest::SHA256)));
        let body = file_body(file, size, hash.clone());
        let headers = vec![("content-length", size.to_string())];
        self.bytes(Plan { headers, payload: UNSIGNED.to_owned(), body, ..Plan::new(Method::PUT, key) }).await?;
        let sha256 = hex::encode(hash.lock().clone().finish());
        Ok((size, sha256))
    }
}

/// The first `size` bytes of `file`, each piece hashed when it is read.
fn file_body(file: File, size: u64, hash: Arc<Mutex<digest::Context>>) -> Body {
    let pieces = stream::unfold((Some(file), size), move |(file, left)| {
        let hash = hash.clone();
        async move {
            let mut file = file.filter(|_| left > 0)?;
            let read = tokio::task::spawn_blocking(move || {
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
                let mut piece = BytesMut::zeroed(len);
                file.read_exact(&mut piece)?;
                hash.lock().update(&piece);
                Ok::<_, io::Error>((piece.freeze(), file))
            });
            match read.await.map_err(io::Error::other).and_then(|read| read) {
                Ok((piece, file)) => {
                    let left = left - piece.len() as u64;
                    Some((Ok(Frame::data(piece)), (Some(file), left)))
                }
                Err(error) => Some((Err::<Frame<Bytes>, _>(error), (None, 0))),
            }
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}
