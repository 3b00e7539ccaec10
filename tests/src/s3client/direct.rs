//! The baseline: one object read by ranged GETs in parallel, straight from the origin, its bytes checked.

use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use futures::{StreamExt, TryStreamExt, stream};

use super::{ClientError, S3Client};
use crate::stub::pattern;

/// What the bytes are compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Only their number.
    Length,
    /// Their SHA-256 in lower-case hex.
    Sha256(String),
    /// The pattern of the key at this version.
    Pattern {
        /// Of the object.
        version: u64,
    },
}

/// How it went.
#[derive(Clone, Debug, PartialEq)]
pub struct DirectRead {
    /// Read and checked.
    pub bytes: u64,
    /// From the first request to the last check.
    pub elapsed: Duration,
}

impl DirectRead {
    /// Throughput.
    pub fn bytes_per_s(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Reads `size` bytes of `key` in GETs of `part_bytes`, `parallel` at a time (customary: 8 MiB, 8).
///
/// Errors: a failed request (nothing is retried), or `WrongBytes`.
pub async fn direct_read(
    client: &S3Client,
    key: &str,
    size: u64,
    part_bytes: u64,
    parallel: usize,
    expect: &Expect,
) -> Result<DirectRead, ClientError> {
    let begin = Instant::now();
    let part_bytes = part_bytes.max(1);
    let mut parts = stream::iter((0..size.div_ceil(part_bytes)).map(|part| {
        let (client, key, expect) = (client.clone(), key.to_owned(), expect.clone());
        let range = part * part_bytes..size.min((part + 1) * part_bytes);
        // A task of its own, so that several cores read.
        tokio::spawn(async move {
            let bytes = client.get_range(&key, range.clone()).await?;
            if let Expect::Pattern { version } = expect {
                pattern::check_version(&key, version, range.start, &bytes).map_err(|mismatch| {
                    ClientError::WrongBytes { key, wanted: format!("version {version}"), got: mismatch.to_string() }
                })?;
            }
            Ok::<_, ClientError>(bytes)
        })
    }))
    .buffered(parallel.max(1));
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut bytes = 0;
    while let Some(part) = parts.try_next().await.expect("a part's task neither panics nor is aborted") {
        let part = part?;
        bytes += part.len() as u64;
        if let Expect::Sha256(_) = expect {
            hash.update(&part);
        }
    }
    if let Expect::Sha256(wanted) = expect {
        let got = hex::encode(hash.finish());
        if got != *wanted {
            return Err(ClientError::WrongBytes { key: key.to_owned(), wanted: wanted.clone(), got });
        }
    }
    Ok(DirectRead { bytes, elapsed: begin.elapsed() })
}
