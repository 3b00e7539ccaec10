//! `make demo`: what Larder does, shown on real files. The last line is for machines.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use larder_tests::demo;

#[derive(Parser)]
#[command(about = "Three agents, one bucket: cold, warm, from another node, after a node's death")]
struct Args {
    /// The directory that is uploaded into the bucket and read back through the mounts
    dir: PathBuf,
}

fn main() -> ExitCode {
    let dir = Args::parse().dir;
    // The harness speaks by panicking; the last line is for machines all the same.
    match std::panic::catch_unwind(|| demo::run(&dir)) {
        Ok(Ok(outcome)) => {
            println!("{outcome}");
            if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Ok(Err(error)) => {
            println!("demo: failed, {error:#}");
            ExitCode::FAILURE
        }
        Err(_said_above) => {
            println!("demo: failed, see above");
            ExitCode::FAILURE
        }
    }
}
