//! `larder-operator`: reads its command line and environment, runs the operator until SIGTERM or SIGINT.
//!
//! Exit status 0: stopped. 1: it couldn't begin, or another replica leads now; Kubernetes starts it again.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use larder_operator::kubernetes::{Settings, left, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Makes CacheClusters so.
#[derive(Parser)]
#[command(version, max_term_width = 100, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    instead: Option<Instead>,
    /// The image of the agents
    #[arg(long, env = "LARDER_AGENT_IMAGE", required = true)]
    agent_image: Option<String>,
    /// Where agents reach this replica: its pod's address
    #[arg(long, env = "POD_IP", required = true)]
    advertise: Option<IpAddr>,
    /// The address on which agents are listened to
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    listen: IpAddr,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, default_value = "0.0.0.0:8080")]
    probes: SocketAddr,
    /// The namespace of the Lease
    #[arg(long, env = "POD_NAMESPACE", required = true)]
    namespace: Option<String>,
    /// Images that a CacheCluster may ask for besides that; a star at the end stands for anything
    #[arg(long, value_delimiter = ',')]
    allowed_images: Vec<String>,
    /// Taints of nodes that an autoscaler is about to remove: they drain at once
    #[arg(long, value_delimiter = ',', default_value = "ToBeDeletedByClusterAutoscaler,karpenter.sh/disrupted")]
    drain_taints: Vec<String>,
    /// Paths below which stores may lie
    #[arg(long, value_delimiter = ',', default_value = "/mnt,/var/lib/larder")]
    allowed_prefixes: Vec<String>,
}

/// What it does instead of running.
#[derive(Subcommand)]
enum Instead {
    /// Lists CacheClusters and CacheVolumes; exit status 1 while there are any, since nobody else lets go of them
    Left,
}

#[tokio::main]
async fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nothing was installed before");
    let filter = tracing_subscriber::EnvFilter::try_from_env("LARDER_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    if let Some(Instead::Left) = arguments.instead {
        return say_what_is_left().await;
    }
    let stop = CancellationToken::new();
    if let Err(error) = stop_on_signals(&stop) {
        eprintln!("larder-operator: signals: {error}");
        return ExitCode::FAILURE;
    }
    let required = "the command line is refused without it";
    let advertise = arguments.advertise.expect(required);
    let settings = Settings {
        agent_image: arguments.agent_image.expect(required),
        allowed_images: arguments.allowed_images.into_iter().filter(|image| !image.is_empty()).collect(),
        drain_taints: arguments.drain_taints.into_iter().filter(|taint| !taint.is_empty()).collect(),
        advertise,
        listen: arguments.listen,
        allowed_prefixes: arguments.allowed_prefixes,
        namespace: arguments.namespace.expect(required),
        identity: format!("{advertise}/{}", uuid::Uuid::new_v4()),
    };
    match run(settings, arguments.probes, stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("larder-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn say_what_is_left() -> ExitCode {
    match left().await {
        Ok(left) if left.is_empty() => ExitCode::SUCCESS,
        Ok(left) => {
            println!("{} are left; delete them first, CacheVolumes before CacheClusters:", left.len());
            left.iter().for_each(|object| println!("{object}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("larder-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn stop_on_signals(stop: &CancellationToken) -> std::io::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let (mut signal, stop) = (signal(kind)?, stop.clone());
        tokio::spawn(async move {
            signal.recv().await;
            stop.cancel();
        });
    }
    Ok(())
}
