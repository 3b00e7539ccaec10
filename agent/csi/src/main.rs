//! `larder-csi --node NAME [--kubelet DIR] [--mounter SOCKET]`: serves the kubelet until SIGTERM or SIGINT.
//!
//! Exit status 0: stopped. 1: it can't listen, or the kubelet doesn't take it; Kubernetes starts it again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use larder_csi::proto::registration::registration_server::RegistrationServer;
use larder_csi::{DRIVER, Identity, Node, Plugin, REGISTRATION, Registrar, Socket, Verdict};
use larder_mounter::PluginClient;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

/// The kubelet's requests at once; more wait in their connection.
const REQUESTS_MAX: usize = 32;

/// The CSI node plugin.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// The Kubernetes node
    #[arg(long)]
    node: String,
    /// The kubelet's folder, which must be at the same path here
    #[arg(long, default_value = "/var/lib/kubelet")]
    kubelet: PathBuf,
    /// The mounter's socket for this plugin
    #[arg(long, default_value = "/run/larder-node/mounter.sock")]
    mounter: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LARDER_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("larder-csi: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    stop_on_signals(&stop)?;
    let endpoint = arguments.kubelet.join("plugins").join(DRIVER).join("csi.sock");
    let (_endpoint, asked) = Socket::listen(&endpoint)?;
    let hands = Arc::new(PluginClient::new(&arguments.mounter));
    let plugin = Plugin::new(Identity, Node::new(&arguments.node, hands));
    let serving = Server::builder().concurrency_limit_per_connection(REQUESTS_MAX).serve_with_incoming_shutdown(
        plugin,
        asked,
        stop.clone().cancelled_owned(),
    );
    // The kubelet looks here and calls the endpoint at once, so that comes first.
    let register_at = arguments.kubelet.join("plugins_registry").join(REGISTRATION);
    let (_registry, found) = Socket::listen(&register_at)?;
    let (verdicts, heard) = mpsc::channel(1);
    let registrar = RegistrationServer::new(Registrar::new(endpoint.display().to_string(), verdicts));
    let registering = Server::builder().serve_with_incoming_shutdown(registrar, found, stop.clone().cancelled_owned());
    tracing::info!(node = arguments.node, endpoint = %endpoint.display(), "serving");
    tokio::select! { biased;
        served = serving => served?,
        served = registering => served?,
        why = refused(heard) => anyhow::bail!("the kubelet doesn't take the plugin: {why}"),
    }
    Ok(())
}

/// Waits until the kubelet refuses us.
async fn refused(mut heard: mpsc::Receiver<Verdict>) -> String {
    loop {
        match heard.recv().await {
            Some(Verdict::Taken) => tracing::info!("the kubelet has taken the plugin"),
            Some(Verdict::Refused { why }) => return why,
            // The registrar lives as long as it is served.
            None => std::future::pending().await,
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
