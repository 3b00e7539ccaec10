//! The agent's program: reads its command line, prepares the process, and serves until it is told to stop.
//!
//! Exit status 0: stopped by SIGTERM or SIGINT, mounts gone, stores closed. 1: a bad configuration or start, with one
//! line on stderr that says what to do.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use larder_agent::config::Overrides;
use larder_agent::runtime::process;
use larder_agent::{serve, telemetry};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc's settings: freed pages go back to the kernel within a second, on its own thread, and few arenas, so that
/// chunk buffers don't leave one high-water mark per thread (the budget counts resident memory).
#[unsafe(export_name = "_rjem_malloc_conf")]
static MALLOC_CONF: &[u8; 70] = b"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,narenas:4\0";

/// Larder's agent: one node's stores, its peers, its mounts.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT.
    Serve {
        /// The configuration file (YAML).
        #[arg(long)]
        config: PathBuf,
        /// This node's name, in place of the configuration's.
        #[arg(long)]
        node: Option<String>,
        /// The address peers reach this node at, in place of the configuration's.
        #[arg(long)]
        address: Option<String>,
    },
}

fn main() -> ExitCode {
    let Command::Serve { config, node, address } = Arguments::parse().command;
    match run(&config, &Overrides { node, address }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("larder-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(file: &std::path::Path, overrides: &Overrides) -> anyhow::Result<()> {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("another TLS provider was installed before ours: this is a bug in the build");
    }
    let config = serve::read_config(file, overrides)?;
    telemetry::start(config.log_level);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(process::cores())
        .thread_name("larder")
        .enable_all()
        .build()?;
    Ok(runtime.block_on(serve::run(config))?)
}
