//! Incoming handshakes, side by side and bounded.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use larder_proto::identity::identity_of;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;

use super::wide::Wide;
use super::{BYTES, BoxIo, CONTROL, Configured, Identity, Lane, Listener, TlsAcceptor, TlsCounts, WRITE_BYTES};
use crate::runtime::crowd::Crowd;

/// Handshakes under way; for who comes beyond them, the one that takes longest is given up.
const PENDING_MAX: usize = 256;

/// Peers whose identity was checked and who aren't served yet; further ones wait as if their handshake took longer.
const ACCEPTED_MAX: usize = 64;

/// A handshake is two round trips and a signature on each side.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long to wait when the process is out of descriptors.
const BREATH: Duration = Duration::from_millis(100);

type Accepted = (BoxIo, Identity, Lane);

/// Peers whose identity was checked, as they come.
pub(super) struct TlsListener {
    accepted: mpsc::Receiver<Accepted>,
    address: SocketAddr,
    accepting: AbortHandle,
}

impl TlsListener {
    pub(super) fn start(
        listener: TcpListener,
        current: Arc<ArcSwap<Configured>>,
        counts: Arc<TlsCounts>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, accepted) = mpsc::channel(ACCEPTED_MAX);
        let accepting = tokio::spawn(accept(listener, current, counts, sender)).abort_handle();
        Ok(Self { accepted, address, accepting })
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[async_trait]
impl Listener for TlsListener {
    async fn accept(&mut self) -> io::Result<Accepted> {
        self.accepted.recv().await.ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }

    fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(
    listener: TcpListener,
    current: Arc<ArcSwap<Configured>>,
    counts: Arc<TlsCounts>,
    sender: mpsc::Sender<Accepted>,
) {
    let mut pending = Crowd::new(PENDING_MAX);
    loop {
        let Ok((tcp, _)) = listener.accept().await else {
            sleep(BREATH).await;
            continue;
        };
        let (config, of_one, sender) = (current.load_full(), counts.clone(), sender.clone());
        let crowded = pending.admit(async move {
            if let Some(accepted) = shake(tcp, &config, &of_one).await {
                // Nobody listens any more: the connection is dropped with everything else.
                let _ = sender.send(accepted).await;
            }
        });
        if crowded {
            TlsCounts::count(&counts.crowded_out);
        }
    }
}

/// One handshake; a failure is counted here.
async fn shake(tcp: TcpStream, config: &Configured, counts: &TlsCounts) -> Option<Accepted> {
    let Some(server) = config.server.clone() else {
        TlsCounts::count(&counts.too_early);
        return None;
    };
    if tcp.set_nodelay(true).is_err() {
        TlsCounts::count(&counts.failed);
        return None;
    }
    match timeout(HANDSHAKE, TlsAcceptor::from(server).accept(Wide::new(tcp))).await {
        Err(_) => {
            TlsCounts::count(&counts.timed_out);
            None
        }
        Ok(Err(error)) => {
            let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            let identity =
                matches!(tls, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented));
            TlsCounts::count(if identity { &counts.refused_identity } else { &counts.failed });
            tracing::debug!(%error, "a handshake failed");
            None
        }
        Ok(Ok(tls)) => admit(tls, counts),
    }
}

fn admit(mut tls: TlsStream<Wide>, counts: &TlsCounts) -> Option<Accepted> {
    let session = tls.get_ref().1;
    let lane = match session.alpn_protocol() {
        Some(BYTES) => Lane::Bytes,
        Some(CONTROL) => Lane::Control,
        Some(_) | None => {
            TlsCounts::count(&counts.failed);
            return None;
        }
    };
    let identity = session.peer_certificates().and_then(|chain| identity_of(chain.first()?).ok());
    let Some(identity) = identity else {
        TlsCounts::count(&counts.refused_identity);
        return None;
    };
    tls.get_mut().1.set_buffer_limit(Some(WRITE_BYTES));
    TlsCounts::count(&counts.accepted);
    Some((Box::new(tls), identity, lane))
}
