//! `larder`: a cluster on this machine, from the same YAML that `kubectl apply` takes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use larder_operator::local::{commands, up};

#[derive(Parser)]
#[command(name = "larder", version, about = "Keeps object storage within arm's reach", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts the cluster of these files on this machine, or applies the difference to the one that runs in DIR
    Up {
        /// YAML files: one CacheCluster, its CacheVolumes and Secrets
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// How many nodes, named n1, n2, ...
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
        nodes: u32,
        /// The agent's program; by default the larder-agent beside this one
        #[arg(long)]
        agent: Option<PathBuf>,
        /// How much agents log into DIR/<node>/agent.log
        #[arg(long, default_value = "info")]
        agent_log: AgentLog,
        #[command(flatten)]
        dir: Dir,
    },
    /// Prints resources as kubectl would
    Get {
        /// cc (CacheCluster), cv (CacheVolume) or cn (CacheNode)
        kind: String,
        /// Only this one
        name: Option<String>,
        /// wide, json or yaml
        #[arg(short, long)]
        output: Option<Output>,
        #[command(flatten)]
        dir: Dir,
    },
    /// Says how the cluster is, in one page
    Status {
        #[command(flatten)]
        dir: Dir,
    },
    /// Prints the cluster map as JSON: nodes, and the owners of each run of slots
    Map {
        #[command(flatten)]
        dir: Dir,
    },
    /// Unmounts and stops the cluster; its cache stays on the disk
    Down {
        #[command(flatten)]
        dir: Dir,
    },
}

#[derive(Args)]
struct Dir {
    /// The cluster's folder
    #[arg(long, default_value = "/var/lib/larder/local")]
    dir: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum AgentLog {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl AgentLog {
    /// The word in the agent's configuration.
    fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Wide,
    Json,
    Yaml,
}

impl From<Output> for commands::Format {
    fn from(output: Output) -> Self {
        match output {
            Output::Wide => Self::Wide,
            Output::Json => Self::Json,
            Output::Yaml => Self::Yaml,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nothing was installed before");
    let filter = tracing_subscriber::EnvFilter::try_from_env("LARDER_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let outcome = match Cli::parse().command {
        Command::Up { files, nodes, agent, agent_log, dir } => {
            up::run(up::Options { files, nodes, agent, agent_log: agent_log.as_str(), dir: dir.dir }).await
        }
        Command::Get { kind, name, output, dir } => {
            let format = output.map_or(commands::Format::Table, Into::into);
            commands::get(&dir.dir, &kind, name.as_deref(), format).await
        }
        Command::Status { dir } => commands::status(&dir.dir).await,
        Command::Map { dir } => commands::map(&dir.dir).await,
        Command::Down { dir } => commands::down(&dir.dir).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            for line in refusal.lines {
                eprintln!("larder: {line}");
            }
            ExitCode::FAILURE
        }
    }
}
