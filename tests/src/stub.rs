//! The origin double: S3's wire protocol over plain HTTP on loopback, with latency, bandwidth caps, a fault plan and
//! counters.
//!
//! It owns a thread and a runtime of its own, keeps objects in memory (or their bodies in a directory), and makes
//! *pattern objects* of any size out of nothing. It refuses what S3 refuses, with S3's codes; what it doesn't know is
//! `NotImplemented`, never a guess. Real clients run against it in `tests/stub_clients.rs`, so that it stays S3.
//!
//! Dropping a [`StubS3`] closes its port and its connections.

mod answer;
mod auth;
mod aws_chunked;
mod body;
mod bucket;
mod checksum;
mod content;
mod control;
mod counters;
mod errors;
mod faults;
mod listing;
mod multipart;
mod objects;
mod operation;
mod pacer;
pub mod pattern;
mod ranges;
mod read;
mod request;
mod server;
mod service;
mod state;
mod upload;
mod write;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use md5::{Digest, Md5};
use parking_lot::Mutex;
use thiserror::Error;

pub use counters::{Counters, KeyCounters};
pub use errors::S3Error;
pub use faults::{FaultAction, FaultHandle, FaultOp, FaultReport, FaultRule};
pub use operation::Operation;

pub use crate::s3client::upload_dir;

use crate::s3client::S3Client;
use crate::sigv4::Credentials;
use content::{Content, Shelf};
use objects::Object;
use server::Server;
use state::State;

/// Why a double doesn't start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The port is taken, or the address isn't ours.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// As asked.
        address: SocketAddr,
        /// The system's word.
        source: io::Error,
    },
    /// The directory for bodies can't be made.
    #[error("can't keep bodies in {}: {source}", dir.display())]
    Dir {
        /// As asked.
        dir: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The bucket's name is not one.
    #[error(transparent)]
    Bucket(#[from] S3Error),
}

/// How a double is to be.
#[derive(Clone, Debug)]
pub struct Builder {
    buckets: Vec<String>,
    credentials: Credentials,
    listen: SocketAddr,
    latency: Duration,
    bandwidth: Option<u64>,
    connection_bandwidth: Option<u64>,
    dir: Option<PathBuf>,
    threads: usize,
}

impl Builder {
    /// A bucket that exists from the start. The first one named is the one that [`StubS3::put`] and its like use;
    /// without any it is `bucket`.
    pub fn bucket(mut self, name: &str) -> Builder {
        self.buckets.push(name.to_owned());
        self
    }

    /// The credentials that are accepted; made up otherwise.
    pub fn credentials(mut self, access_key: &str, secret_key: &str) -> Builder {
        self.credentials = Credentials { access_key: access_key.to_owned(), secret_key: secret_key.to_owned() };
        self
    }

    /// Where to listen; a free port of 127.0.0.1 otherwise.
    pub fn listen(mut self, address: SocketAddr) -> Builder {
        self.listen = address;
        self
    }

    /// Added to the first byte of every answer.
    pub fn latency(mut self, latency: Duration) -> Builder {
        self.latency = latency;
        self
    }

    /// Cap on all answers together, in bytes per second (and on all uploads together).
    pub fn bandwidth(mut self, bytes_per_s: u64) -> Builder {
        self.bandwidth = Some(bytes_per_s);
        self
    }

    /// Cap on each connection, in bytes per second.
    pub fn connection_bandwidth(mut self, bytes_per_s: u64) -> Builder {
        self.connection_bandwidth = Some(bytes_per_s);
        self
    }

    /// Keeps bodies as files there instead of in memory; names and attributes stay in memory.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Builder {
        self.dir = Some(dir.into());
        self
    }

    /// Worker threads; 2 otherwise.
    pub fn threads(mut self, threads: usize) -> Builder {
        self.threads = threads;
        self
    }

    /// Starts the double. It is ready when this returns.
    pub fn start_blocking(self) -> Result<StubS3, StartError> {
        let shelf = match &self.dir {
            None => Shelf::Memory,
            Some(dir) => Shelf::on_disk(dir).map_err(|source| StartError::Dir { dir: dir.clone(), source })?,
        };
        let bucket = self.buckets.first().cloned().unwrap_or_else(|| "bucket".to_owned());
        let state = State::new(bucket.clone(), shelf, self.credentials.clone());
        state.objects.create_bucket(&bucket)?;
        for name in self.buckets.iter().skip(1) {
            state.objects.create_bucket(name)?;
        }
        state.set_latency(self.latency);
        state.set_bandwidth(self.bandwidth, self.connection_bandwidth);
        let state = Arc::new(state);
        let (server, address) = Server::start(state.clone(), self.listen, self.threads)
            .map_err(|source| StartError::Listen { address: self.listen, source })?;
        let server = Mutex::new(Some(server));
        Ok(StubS3 { state, server, address, credentials: self.credentials, threads: self.threads })
    }

    /// [`Builder::start_blocking`] for tests that have a runtime; it blocks only to bind a port.
    pub async fn start(self) -> Result<StubS3, StartError> {
        self.start_blocking()
    }
}

/// A running double.
#[derive(Debug)]
pub struct StubS3 {
    state: Arc<State>,
    server: Mutex<Option<Server>>,
    address: SocketAddr,
    credentials: Credentials,
    threads: usize,
}

impl StubS3 {
    /// A double with defaults: one bucket, a free port, no delay, no cap.
    pub fn builder() -> Builder {
        let credentials = Credentials {
            access_key: "LARDERSTUBACCESSKEY0".to_owned(),
            secret_key: "larder-stub-secret/key+0123456789abcdefg".to_owned(),
        };
        Builder {
            buckets: Vec::new(),
            credentials,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            latency: Duration::ZERO,
            bandwidth: None,
            connection_bandwidth: None,
            dir: None,
            threads: 2,
        }
    }

    /// `http://127.0.0.1:PORT`, for path-style clients.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bucket that the methods below use.
    pub fn bucket(&self) -> &str {
        &self.state.bucket
    }

    /// The access key given at the start.
    pub fn access_key(&self) -> &str {
        &self.credentials.access_key
    }

    /// The secret key given at the start.
    pub fn secret_key(&self) -> &str {
        &self.credentials.secret_key
    }

    /// A client with the credentials given at the start.
    pub fn client(&self) -> S3Client {
        S3Client::new(&self.endpoint(), self.bucket(), self.credentials.clone()).expect("our own endpoint is one")
    }

    /// From now on only these credentials are accepted (a rotation; connections stay).
    pub fn accept_only(&self, accepted: Vec<Credentials>) {
        *self.state.credentials.write() = accepted;
    }

    /// Another bucket.
    pub fn create_bucket(&self, name: &str) -> Result<(), S3Error> {
        self.state.objects.create_bucket(name)
    }

    /// Puts an object, past HTTP and counters. Returns its ETag, without quotes.
    ///
    /// # Panics
    /// If the bucket is gone, or the body can't be kept on disk.
    pub fn put(&self, key: &str, body: impl Into<Bytes>) -> String {
        let body = body.into();
        let (size, etag) = (body.len() as u64, hex::encode(Md5::digest(&body)));
        let content = self.state.shelf.keep(body).expect("the test's directory takes a body");
        insert(&self.state, &self.state.bucket, key, content, size, etag).expect("the double's own bucket exists")
    }

    /// Puts an object of `size` bytes whose content is [`pattern`] at `version`; costs nothing however large it is.
    ///
    /// # Panics
    /// If the bucket is gone.
    pub fn put_pattern(&self, key: &str, version: u64, size: u64) -> String {
        put_pattern(&self.state, &self.state.bucket, key, version, size).expect("the double's own bucket exists")
    }

    /// Deletes an object; whether it was there.
    pub fn delete(&self, key: &str) -> bool {
        let removed = self.state.objects.write(&self.state.bucket, |bucket| Ok(bucket.objects.remove(key.as_bytes())));
        removed.is_ok_and(|object| object.is_some())
    }

    /// All keys of the bucket with their sizes, in S3's order.
    pub fn keys(&self) -> Vec<(String, u64)> {
        let name = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        let list =
            |bucket: &objects::Bucket| bucket.objects.iter().map(|(key, object)| (name(key), object.size)).collect();
        self.state.objects.read(&self.state.bucket, list).unwrap_or_default()
    }

    /// What has been asked since the start or the last reset.
    pub fn counters(&self) -> Counters {
        self.state.counters.snapshot()
    }

    /// Counters back to zero; fault rules keep their hits.
    pub fn reset_counters(&self) {
        self.state.counters.reset();
    }

    /// Adds a rule behind those that are there.
    pub fn fault(&self, rule: FaultRule) -> FaultHandle {
        self.state.faults.add(rule)
    }

    /// Adds rules; one handle for each.
    pub fn faults(&self, rules: impl IntoIterator<Item = FaultRule>) -> Vec<FaultHandle> {
        rules.into_iter().map(|rule| self.fault(rule)).collect()
    }

    /// Removes every rule.
    pub fn clear_faults(&self) {
        self.state.faults.clear();
    }

    /// For requests that arrive from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.state.set_latency(latency);
    }

    /// Caps in bytes per second, whole and for each new connection; `None` = no cap.
    pub fn set_bandwidth(&self, whole: Option<u64>, each_connection: Option<u64>) {
        self.state.set_bandwidth(whole, each_connection);
    }

    /// Closes the port and every connection; objects and counters stay. Does nothing if stopped already.
    pub fn stop(&self) {
        drop(self.server.lock().take());
    }

    /// Listens again on the same port after [`StubS3::stop`].
    pub fn resume(&self) -> Result<(), StartError> {
        let mut server = self.server.lock();
        if server.is_none() {
            let (started, _) = Server::start(self.state.clone(), self.address, self.threads)
                .map_err(|source| StartError::Listen { address: self.address, source })?;
            *server = Some(started);
        }
        Ok(())
    }
}

fn insert(
    state: &State,
    bucket: &str,
    key: &str,
    content: Content,
    size: u64,
    etag: String,
) -> Result<String, S3Error> {
    let headers = vec![("content-type".to_owned(), "binary/octet-stream".to_owned())];
    let object = Object { content, size, etag: etag.clone(), modified: Timestamp::now(), headers, checksum: None };
    state.objects.write(bucket, |bucket| {
        bucket.insert(key, object);
        Ok(etag)
    })
}

/// The ETag of a pattern has the form of a multipart upload's, since it isn't the MD5 of the bytes.
fn put_pattern(state: &State, bucket: &str, key: &str, version: u64, size: u64) -> Result<String, S3Error> {
    if key.is_empty() || key.len() > request::KEY_BYTES_MAX {
        return Err(S3Error::KeyTooLong);
    }
    let etag = format!("{}-1", hex::encode(Md5::digest(format!("{version}/{size}/{key}"))));
    insert(state, bucket, key, Content::Pattern { key: key.into(), version }, size, etag)
}
