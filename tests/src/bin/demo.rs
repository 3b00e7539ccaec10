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
    match demo::run(&Args::parse().dir) {
        Ok(outcome) => {
            println!("{outcome}");
            if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            println!("demo: failed, {error:#}");
            ExitCode::FAILURE
        }
    }
}
