//! `stub-s3`: the origin double as a program, for demos, benchmarks and clients in other languages.
//!
//! Prints one line when it is ready, and runs until it is interrupted. `/_stub/` on the same port reads counters and
//! turns latency, bandwidth and faults.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use larder_tests::stub::StubS3;
use tracing_subscriber::EnvFilter;

/// An S3 origin with latency, bandwidth caps, faults and counters.
#[derive(Debug, Parser)]
#[command(name = "stub-s3", version)]
struct Arguments {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// A bucket that exists from the start; may be repeated.
    #[arg(long, default_value = "demo")]
    bucket: Vec<String>,
    /// The access key that is accepted.
    #[arg(long, default_value = "larderdemo")]
    access_key: String,
    /// Its secret.
    #[arg(long, default_value = "larderdemosecret")]
    secret_key: String,
    /// Added to the first byte of every answer.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// Cap on everything sent, in bytes per second.
    #[arg(long)]
    bandwidth: Option<u64>,
    /// Cap on each connection, in bytes per second.
    #[arg(long)]
    connection_bandwidth: Option<u64>,
    /// Keep bodies as files there instead of in memory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// A pattern object of that many bytes (version 1), as KEY:SIZE; may be repeated.
    #[arg(long, value_parser = pattern)]
    pattern: Vec<(String, u64)>,
    /// Worker threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn pattern(text: &str) -> Result<(String, u64), String> {
    let (key, size) = text.rsplit_once(':').ok_or("expected KEY:SIZE")?;
    let size = size.parse().map_err(|_| format!("{size:?} is not a number of bytes"))?;
    Ok((key.to_owned(), size))
}

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter(EnvFilter::from_default_env()).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let mut builder = StubS3::builder()
        .credentials(&arguments.access_key, &arguments.secret_key)
        .listen(arguments.listen)
        .latency(Duration::from_millis(arguments.latency_ms))
        .threads(arguments.threads);
    for bucket in &arguments.bucket {
        builder = builder.bucket(bucket);
    }
    if let Some(bytes_per_s) = arguments.bandwidth {
        builder = builder.bandwidth(bytes_per_s);
    }
    if let Some(bytes_per_s) = arguments.connection_bandwidth {
        builder = builder.connection_bandwidth(bytes_per_s);
    }
    if let Some(dir) = arguments.dir {
        builder = builder.dir(dir);
    }
    let stub = builder.start_blocking()?;
    for (key, size) in &arguments.pattern {
        stub.put_pattern(key, 1, *size);
    }
    println!("stub-s3 ready on {} with bucket {}", stub.endpoint(), stub.bucket());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(interrupted())
}

async fn interrupted() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    Ok(())
}
