//! `larder-operator`: reads its command line and environment, runs the operator until SIGTERM or SIGINT.
//!
//! Exit status 0: stopped. 1: it couldn't begin, or another replica leads now; Kubernetes starts it again.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use clap::Parser;
use larder_operator::kubernetes::{Settings, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Makes CacheClusters so.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// The image of the agents
    #[arg(long, env = "LARDER_AGENT_IMAGE")]
    agent_image: String,
    /// Where agents reach this replica: its pod's address
    #[arg(long, env = "POD_IP")]
    advertise: IpAddr,
    /// The address on which agents are listened to
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    listen: IpAddr,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, default_value = "0.0.0.0:8080")]
    probes: SocketAddr,
    /// The namespace of the Lease
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// Paths below which stores may lie
    #[arg(long, value_delimiter = ',', default_value = "/mnt,/var/lib/larder")]
    allowed_prefixes: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nothing was installed before");
    let filter = tracing_subscriber::EnvFilter::try_from_env("LARDER_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let stop = CancellationToken::new();
    if let Err(error) = stop_on_signals(&stop) {
        eprintln!("larder-operator: signals: {error}");
        return ExitCode::FAILURE;
    }
    let settings = Settings {
        agent_image: arguments.agent_image,
        advertise: arguments.advertise,
        listen: arguments.listen,
        allowed_prefixes: arguments.allowed_prefixes,
        namespace: arguments.namespace,
        identity: format!("{}/{}", arguments.advertise, uuid::Uuid::new_v4()),
    };
    match run(settings, arguments.probes, stop).await {
        Ok(()) => ExitCode::SUCCESS,
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
