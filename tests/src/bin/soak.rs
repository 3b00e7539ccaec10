//! `make soak`: nothing of an agent grows for ever. The last line is for machines.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use larder_tests::soak;

#[derive(Parser)]
#[command(about = "Mixed readers on three nodes; memory, descriptors and threads of the agents must stay flat")]
struct Args {
    /// How long
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
}

fn main() -> ExitCode {
    match soak::run(Duration::from_secs(Args::parse().minutes * 60)) {
        Ok(outcome) => {
            println!("{outcome}");
            if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            println!("soak: failed, {error:#}");
            ExitCode::FAILURE
        }
    }
}
