//! TLS for agents: with a certificate of the cluster, or without one to join. Handshakes are bounded in number and time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use larder_proto::identity::{ClientVerifier, Identity, Joiners, identity_of};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier as _;
use rustls::version::TLS13;
use rustls_pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::Connected;

use super::{Ca, CaError, Shared, StartError};

/// Connections at once, handshakes included: one per agent of a large cluster. Who comes beyond waits in the backlog.
const CONNECTIONS_MAX: usize = 8_192;

const HANDSHAKE: Duration = Duration::from_secs(5);

/// Our own certificate lives 30 days.
const RENEW_EVERY: Duration = Duration::from_secs(24 * 3600);

/// How long to wait when the process is out of descriptors.
const BREATH: Duration = Duration::from_millis(100);

/// Agents as they come.
pub(super) struct Incoming {
    address: SocketAddr,
    accepted: mpsc::Receiver<io::Result<Peer>>,
}

impl Incoming {
    pub(super) async fn bind(
        at: SocketAddr,
        shared: Arc<Shared>,
        stop: CancellationToken,
        tracker: &TaskTracker,
    ) -> Result<Self, StartError> {
        let failed = |error| StartError::Listen { at, error };
        let listener = TcpListener::bind(at).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let config = Mutex::new((Instant::now(), configure(&shared.ca, &shared)?));
        let own = ClientVerifier::new(shared.ca.own_trust()?, shared.cluster, Joiners::Refused);
        let (sender, accepted) = mpsc::channel(64);
        tracker.spawn(async move {
            tokio::select! { biased;
                () = stop.cancelled() => {}
                () = accept(listener, shared, config, own, sender) => {}
            }
        });
        Ok(Self { address, accepted })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn into_stream(self) -> ReceiverStream<io::Result<Peer>> {
        ReceiverStream::new(self.accepted)
    }
}

fn configure(ca: &Ca, shared: &Shared) -> Result<Arc<ServerConfig>, CaError> {
    let (certificate, key) = ca.issue_own(&Identity::Authority(shared.cluster))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("aws-lc-rs has TLS 1.3")
        .with_client_cert_verifier(ClientVerifier::new(ca.trust()?, shared.cluster, Joiners::Welcome))
        .with_single_cert(vec![certificate], key)
        .expect("the certificate was just issued for this key");
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The configuration, with a certificate that is at most a day old.
fn fresh(shared: &Shared, config: &Mutex<(Instant, Arc<ServerConfig>)>) -> Arc<ServerConfig> {
    let mut config = config.lock().unwrap_or_else(PoisonError::into_inner);
    if config.0.elapsed() >= RENEW_EVERY {
        match configure(&shared.ca, shared) {
            Ok(renewed) => *config = (Instant::now(), renewed),
            Err(error) => tracing::error!(%error, "the authority's own certificate can't be renewed"),
        }
    }
    config.1.clone()
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    config: Mutex<(Instant, Arc<ServerConfig>)>,
    own: Arc<ClientVerifier>,
    sender: mpsc::Sender<io::Result<Peer>>,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                sleep(BREATH).await;
                continue;
            }
        };
        let (config, own, sender) = (fresh(&shared, &config), own.clone(), sender.clone());
        tokio::spawn(async move {
            if let Some(peer) = shake(tcp, config, &own, permit).await {
                // Nobody listens any more: the connection is dropped with everything else.
                let _ = sender.send(Ok(peer)).await;
            }
        });
    }
}

async fn shake(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    own: &ClientVerifier,
    permit: OwnedSemaphorePermit,
) -> Option<Peer> {
    tcp.set_nodelay(true).ok()?;
    let tls = match timeout(HANDSHAKE, TlsAcceptor::from(config).accept(tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            tracing::warn!(%error, "an agent's handshake failed");
            return None;
        }
        Err(_) => return None,
    };
    let chain = tls.get_ref().1.peer_certificates().and_then(|chain| chain.split_first());
    let identity = chain.and_then(|(leaf, _)| identity_of(leaf).ok());
    let is_current = chain.is_some_and(|(leaf, rest)| own.verify_client_cert(leaf, rest, UnixTime::now()).is_ok());
    Some(Peer { tls, caller: Caller { identity, is_current }, _permit: Arc::new(permit) })
}

/// Who calls, as its certificate says.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Nobody: it joins.
    pub(super) identity: Option<Identity>,
    /// Whether the CA that signs now signed it.
    pub(super) is_current: bool,
}

/// An agent's connection.
pub(super) struct Peer {
    tls: TlsStream<TcpStream>,
    caller: Caller,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Connected for Peer {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Peer {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
