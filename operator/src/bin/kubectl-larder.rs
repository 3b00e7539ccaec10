//! `kubectl larder`: reads its command line, shows what `plugin.rs` finds.
//!
//! Exit status 0: shown. 1: not; one line says why.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use larder_crds::{Kind, NodeRequest};
use larder_operator::plugin::{Asked, Format, PluginError, ask, complete, map, node_names, report, rotate_ca, show};

#[derive(Parser)]
#[command(name = "kubectl-larder", bin_name = "kubectl larder", version, max_term_width = 100)]
#[command(about = "How Larder's clusters are, and what is wrong with them")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The kubeconfig's context
    #[arg(long, global = true)]
    context: Option<String>,
    /// The namespace; by default the context's
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// Only this CacheCluster
    #[arg(short, long, global = true)]
    cluster: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Everything, and what is wrong
    Status(Printed),
    /// The nodes
    Nodes(Printed),
    /// The volumes
    Volumes(Printed),
    /// The published map: nodes, and the owners of each run of slots
    Map(Printed),
    /// A node hands over what it has, and owns nothing until it is undrained
    Drain {
        /// The node, as `kubectl get nodes` has it
        node: String,
    },
    /// A node serves again
    Undrain {
        /// The node, as `kubectl get nodes` has it
        node: String,
    },
    /// A node won't come back: others get its slots at once. A new node under its name takes this back
    Remove {
        /// The node, by the name that `kubectl get nodes` had
        node: String,
    },
    /// The cluster gets another CA, and its agents new certificates, while they serve
    RotateCa,
    /// Prints a script: save it in the PATH as kubectl_complete-larder, executable, and kubectl's completion uses it
    Completion,
    /// What may follow these words
    #[command(name = "__complete", hide = true)]
    Complete {
        /// The words so far; the last is being written
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Writes a folder for whoever is to help: resources, map, Events, logs; no Secrets
    Report {
        /// The folder, which must not exist
        folder: PathBuf,
    },
}

#[derive(Args)]
struct Printed {
    /// json or yaml; by default tables
    #[arg(short, long)]
    output: Option<Output>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Json,
    Yaml,
}

impl From<Printed> for Format {
    fn from(printed: Printed) -> Self {
        match printed.output {
            None => Self::Table,
            Some(Output::Json) => Self::Json,
            Some(Output::Yaml) => Self::Yaml,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nothing was installed before");
    match run(Cli::parse()).await {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("kubectl larder: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<String, PluginError> {
    match &cli.command {
        Command::Completion => return Ok(complete::SCRIPT.to_owned()),
        Command::Complete { words } => {
            let words = words.clone();
            return Ok(offer(cli, &words).await);
        }
        _ => {}
    }
    let asked = Asked::new(cli.context, cli.namespace, cli.cluster).await?;
    match cli.command {
        Command::Status(printed) => {
            show(&asked, &[Kind::CacheCluster, Kind::CacheNode, Kind::CacheVolume], printed.into()).await
        }
        Command::Nodes(printed) => show(&asked, &[Kind::CacheNode], printed.into()).await,
        Command::Volumes(printed) => show(&asked, &[Kind::CacheVolume], printed.into()).await,
        Command::Map(printed) => map(&asked, printed.into()).await,
        Command::Drain { node } => ask(&asked, &node, NodeRequest::Drain).await,
        Command::Undrain { node } => ask(&asked, &node, NodeRequest::None).await,
        Command::RotateCa => rotate_ca(&asked).await,
        Command::Remove { node } => ask(&asked, &node, NodeRequest::Remove).await,
        Command::Completion | Command::Complete { .. } => Ok(String::new()),
        Command::Report { folder } => {
            let missing = report(&asked, &folder).await?;
            let missing: String = missing.iter().map(|line| format!("not in it: {line}\n")).collect();
            Ok(format!("{missing}{}\n", folder.display()))
        }
    }
}

/// Candidates; without the cluster's nodes where they can't be had.
async fn offer(cli: Cli, words: &[String]) -> String {
    let mut nodes = Vec::new();
    if complete::wants_node(words)
        && let Ok(asked) = Asked::new(cli.context, cli.namespace, cli.cluster).await
    {
        nodes = node_names(&asked).await.unwrap_or_default();
    }
    complete::candidates(&Cli::command(), words, &nodes)
}
