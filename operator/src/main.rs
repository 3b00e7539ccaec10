//! `larder`: a cluster on this machine, from the same YAML that `kubectl apply` takes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use larder_operator::local::cluster::Wish;
use larder_operator::local::plan::Wanted;
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
        /// How many nodes, named n1, n2, ...; by default 3, or as many as run already
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
        nodes: Option<u32>,
        /// How many more nodes without stores, named c1, c2, ...: they mount and read, and nothing is placed on them
        #[arg(long, value_parser = clap::value_parser!(u32).range(0..=64))]
        clients: Option<u32>,
        /// The agent's program; by default the larder-agent beside this one
        #[arg(long)]
        agent: Option<PathBuf>,
        /// How much agents log into DIR/<node>/agent.log; by default info
        #[arg(long)]
        agent_log: Option<AgentLog>,
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
    /// Moves what a node has to the others; it keeps its mounts, and owns nothing any more
    Drain {
        /// The node, as `larder get cn` names it
        node: String,
        #[command(flatten)]
        dir: Dir,
    },
    /// Takes a drain back: the node owns its part of the cache again
    Undrain {
        /// The node
        node: String,
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
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let outcome = match cli.command {
        Command::Up { files, nodes, clients, agent, agent_log, dir } => {
            let (wanted, agent_log) = (Wanted { nodes, clients }, agent_log.map(AgentLog::as_str));
            up::run(up::Options { files, wanted, agent, agent_log, dir: dir.dir }).await
        }
        Command::Get { kind, name, output, dir } => {
            let format = output.map_or(commands::Format::Table, Into::into);
            commands::get(&dir.dir, &kind, name.as_deref(), format).await
        }
        Command::Status { dir } => commands::status(&dir.dir).await,
        Command::Map { dir } => commands::map(&dir.dir).await,
        Command::Drain { node, dir } => commands::wish(&dir.dir, &node, Wish::Drain).await,
        Command::Undrain { node, dir } => commands::wish(&dir.dir, &node, Wish::Undrain).await,
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

/// Prints what was asked for (help, the version), or one line about a command line that can't be understood.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // Nobody reads it: then nobody misses it.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    eprintln!("larder: {}", in_one_line(error));
    ExitCode::FAILURE
}

/// What clap says above its usage, in one line.
fn in_one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "say what to do: up, get, status, map, drain, undrain or down (see larder --help)".into();
    }
    let text = error.render().to_string();
    let said = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let said: Vec<&str> = said.filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect();
    let said = said.join(" ").replace(" tip:", "; tip:");
    format!("{} (see larder --help)", said.strip_prefix("error: ").unwrap_or(&said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_that_is_wrong_gets_one_line() {
        for (words, wanted) in [
            (&["larder"][..], "up, get, status"),
            (&["larder", "up"][..], "<FILES>"),
            (&["larder", "upp"][..], "'upp'"),
            (&["larder", "up", "f", "--node", "3"][..], "--nodes"),
            (&["larder", "up", "f", "--nodes", "99"][..], "1..=64"),
            (&["larder", "get", "cc", "-o", "xml"][..], "wide, json, yaml"),
        ] {
            let error = Cli::try_parse_from(words).err().unwrap_or_else(|| panic!("{words:?} is understood"));
            let line = in_one_line(&error);
            assert!(line.contains(wanted) && line.lines().count() == 1, "{words:?}: {line:?}");
        }
    }
}
