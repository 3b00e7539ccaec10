//! Buckets, objects and multipart uploads under way. One lock; nothing is awaited under it. Conditions of writes are
//! decided under the same lock that writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::{RwLock, RwLockReadGuard};

use super::checksum::Checksum;
use super::content::Content;
use super::errors::S3Error;

/// Buckets at most.
const BUCKETS_MAX: usize = 1000;
/// Multipart uploads under way in a bucket, at most.
const UPLOADS_MAX: usize = 10_000;

/// An object at one version.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) content: Content,
    pub(super) size: u64,
    /// Without quotes.
    pub(super) etag: String,
    pub(super) modified: Timestamp,
    /// Headers that are said back: Content-Type, Cache-Control, x-amz-meta-*, ...
    pub(super) headers: Vec<(String, String)>,
    pub(super) checksum: Option<Checksum>,
}

/// A part that has arrived.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) content: Content,
    pub(super) size: u64,
    /// Without quotes.
    pub(super) etag: String,
    pub(super) modified: Timestamp,
}

/// A multipart upload under way.
#[derive(Clone, Debug)]
pub(super) struct Multipart {
    pub(super) key: String,
    pub(super) begun: Timestamp,
    pub(super) headers: Vec<(String, String)>,
    pub(super) parts: BTreeMap<u32, Part>,
}

/// One bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) created: Timestamp,
    pub(super) objects: BTreeMap<Vec<u8>, Arc<Object>>,
    pub(super) uploads: BTreeMap<String, Multipart>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Objects {
    buckets: RwLock<BTreeMap<String, Bucket>>,
}

impl Objects {
    pub(super) fn create_bucket(&self, name: &str) -> Result<(), S3Error> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
        // One and two characters are allowed here, not by S3: tests like `b`.
        if name.is_empty() || name.len() > 63 || !name.bytes().all(allowed) {
            return Err(S3Error::InvalidBucketName);
        }
        let mut buckets = self.buckets.write();
        if buckets.contains_key(name) {
            return Err(S3Error::BucketAlreadyOwnedByYou);
        }
        if buckets.len() >= BUCKETS_MAX {
            return Err(S3Error::InvalidRequest { why: "too many buckets" });
        }
        let bucket = Bucket { created: Timestamp::now(), objects: BTreeMap::new(), uploads: BTreeMap::new() };
        buckets.insert(name.to_owned(), bucket);
        Ok(())
    }

    pub(super) fn delete_bucket(&self, name: &str) -> Result<(), S3Error> {
        let mut buckets = self.buckets.write();
        let bucket = buckets.get(name).ok_or_else(|| missing(name))?;
        if !bucket.objects.is_empty() {
            return Err(S3Error::BucketNotEmpty);
        }
        buckets.remove(name);
        Ok(())
    }

    /// Every bucket, by name. Hold it shortly.
    pub(super) fn buckets(&self) -> RwLockReadGuard<'_, BTreeMap<String, Bucket>> {
        self.buckets.read()
    }

    /// Looks into a bucket.
    pub(super) fn read<T>(&self, bucket: &str, look: impl FnOnce(&Bucket) -> T) -> Result<T, S3Error> {
        self.buckets.read().get(bucket).map(look).ok_or_else(|| missing(bucket))
    }

    /// Changes a bucket.
    pub(super) fn write<T>(
        &self,
        bucket: &str,
        change: impl FnOnce(&mut Bucket) -> Result<T, S3Error>,
    ) -> Result<T, S3Error> {
        change(self.buckets.write().get_mut(bucket).ok_or_else(|| missing(bucket))?)
    }

    pub(super) fn get(&self, bucket: &str, key: &str) -> Result<Arc<Object>, S3Error> {
        let found = self.read(bucket, |bucket| bucket.objects.get(key.as_bytes()).cloned())?;
        found.ok_or_else(|| S3Error::NoSuchKey { key: key.to_owned() })
    }
}

impl Bucket {
    /// ETag of the object that `key` has now.
    pub(super) fn etag(&self, key: &str) -> Option<&str> {
        self.objects.get(key.as_bytes()).map(|object| object.etag.as_str())
    }

    pub(super) fn insert(&mut self, key: &str, object: Object) {
        self.objects.insert(key.as_bytes().to_vec(), Arc::new(object));
    }

    pub(super) fn begin(&mut self, id: String, upload: Multipart) -> Result<(), S3Error> {
        if self.uploads.len() >= UPLOADS_MAX {
            return Err(S3Error::SlowDown);
        }
        self.uploads.insert(id, upload);
        Ok(())
    }

    /// The upload `id` of `key`.
    pub(super) fn upload(&mut self, id: &str, key: &str) -> Result<&mut Multipart, S3Error> {
        self.uploads.get_mut(id).filter(|upload| upload.key == key).ok_or(S3Error::NoSuchUpload)
    }
}

fn missing(bucket: &str) -> S3Error {
    S3Error::NoSuchBucket { bucket: bucket.to_owned() }
}
