//! `make bench`: Larder beside what the same machine does without it.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use larder_tests::bench::{self, Options};

#[derive(Parser)]
#[command(about = "Measures each figure of docs/PERFORMANCE.md against its limit, in turns, in one run")]
struct Args {
    /// Figures to measure, such as P1 or P4.seq-1m.tcp; all of them otherwise
    only: Vec<String>,
    /// Rounds of each figure
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Where the figures go as JSON
    #[arg(long, default_value = "target/bench/results.json")]
    json: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(nix::unistd::geteuid().is_root(), "mounting needs root: run it with sudo");
    let report = bench::run(&Options { only: args.only, rounds: args.rounds as usize })?;
    report.write(&args.json)?;
    println!("{report}; {}", args.json.display());
    Ok(())
}
