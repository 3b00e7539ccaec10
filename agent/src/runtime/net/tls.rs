//! The real net: TCP and mutual TLS 1.3.
//!
//! Certificates and trust can be replaced while connections live; new connections use the new ones. An agent that has
//! no certificate yet can reach the authority (to join) and nobody else, and refuses who comes. Incoming handshakes
//! run side by side, at most 64, each with a deadline, so that one slow peer holds up nobody. No session is resumed:
//! every connection proves its identity anew.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use larder_proto::identity::{ClientVerifier, Joiners, ServerVerifier, Trust, server_name};
use larder_proto::ids::ClusterId;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{BoxIo, Carries, ConnectError, Identity, Lane, Listener, Net, PlainListener, SILENCE};

mod accept;
mod wide;

use wide::Wide;

/// ALPN of the bytes lane.
const BYTES: &[u8] = b"larder-bytes/1";
/// ALPN of the control lane.
const CONTROL: &[u8] = b"h2";

/// TCP and TLS together. Who has a better place to go to waits less.
const CONNECT: Duration = Duration::from_secs(3);

/// Attempts to connect within [`SILENCE`]: TCP itself would repeat one only after a second.
const ATTEMPTS: u32 = 2;

/// Encrypted bytes that wait for the socket: few large writes, and no more memory per connection than a quarter MiB.
const WRITE_BYTES: usize = 256 * 1024;

/// What an agent shows and whom it trusts.
pub struct Credentials {
    /// The cluster that peers' certificates must name.
    pub cluster: ClusterId,
    /// Whose signatures are believed.
    pub trust: Trust,
    /// Our own certificate chain and its key; nothing before the agent has joined.
    pub own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

/// Incoming connections, since the start.
#[derive(Debug, Default)]
pub struct TlsCounts {
    /// Handshakes that succeeded.
    pub accepted: AtomicU64,
    /// Peers without a certificate of this cluster, or with one that is no longer or not yet valid.
    pub refused_identity: AtomicU64,
    /// Peers that spoke another protocol, or broke the handshake off.
    pub failed: AtomicU64,
    /// Handshakes that took longer than their deadline.
    pub timed_out: AtomicU64,
    /// Handshakes that were given up because too many others began.
    pub crowded_out: AtomicU64,
    /// Connections that came before we had a certificate.
    pub too_early: AtomicU64,
}

struct Configured {
    trust: Trust,
    own: Option<Arc<SingleCertAndKey>>,
    server: Option<Arc<ServerConfig>>,
}

/// TCP with mutual TLS.
pub struct TlsNet {
    current: Arc<ArcSwap<Configured>>,
    counts: Arc<TlsCounts>,
}

impl TlsNet {
    /// The net with these credentials; an error when the key doesn't fit the certificate.
    pub fn new(credentials: Credentials) -> Result<Self, rustls::Error> {
        let current = Arc::new(ArcSwap::from_pointee(configure(credentials)?));
        Ok(Self { current, counts: Arc::default() })
    }

    /// New connections use `credentials` from now on; after an error the old ones stay.
    pub fn replace(&self, credentials: Credentials) -> Result<(), rustls::Error> {
        self.current.store(Arc::new(configure(credentials)?));
        Ok(())
    }

    /// Incoming connections, since the start.
    pub fn counts(&self) -> &TlsCounts {
        &self.counts
    }

    async fn connect_now(
        &self,
        to: SocketAddr,
        expected: &Identity,
        lane: Lane,
        carries: Carries,
    ) -> Result<BoxIo, ConnectError> {
        let config = {
            let current = self.current.load();
            client_config(&current, expected, lane).map_err(|error| refusal(&error, expected))?
        };
        let tcp = dial(to, expected).await?;
        tcp.set_nodelay(true)?;
        if carries == Carries::Questions {
            SockRef::from(&tcp).set_tcp_user_timeout(Some(SILENCE))?;
        }
        let mut tls = match TlsConnector::from(config).connect(server_name(), Wide::new(tcp)).await {
            Ok(tls) => tls,
            Err(error) => {
                return Err(match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                    Some(why) => refusal(why, expected),
                    None => error.into(),
                });
            }
        };
        if tls.get_ref().1.alpn_protocol() != Some(alpn(lane)) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the other side speaks another protocol").into());
        }
        tls.get_mut().1.set_buffer_limit(Some(WRITE_BYTES));
        Ok(Box::new(tls))
    }
}

/// A TCP connection. A peer that is there answers at once, or another owner does better; there is one authority, which
/// is waited for.
async fn dial(to: SocketAddr, expected: &Identity) -> io::Result<TcpStream> {
    match expected {
        Identity::Authority(_) => TcpStream::connect(to).await,
        Identity::Node(..) => {
            for _ in 0..ATTEMPTS {
                if let Ok(answered) = timeout(SILENCE / ATTEMPTS, TcpStream::connect(to)).await {
                    return answered;
                }
            }
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

fn alpn(lane: Lane) -> &'static [u8] {
    match lane {
        Lane::Bytes => BYTES,
        Lane::Control => CONTROL,
    }
}

fn configure(credentials: Credentials) -> Result<Configured, rustls::Error> {
    let Credentials { cluster, trust, own } = credentials;
    let Some((chain, key)) = own else { return Ok(Configured { trust, own: None, server: None }) };
    let provider = Arc::new(default_provider());
    let own = Arc::new(SingleCertAndKey::from(CertifiedKey::from_der(chain, key, &provider)?));
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(ClientVerifier::new(trust.clone(), cluster, Joiners::Refused))
        .with_cert_resolver(own.clone());
    server.alpn_protocols = vec![BYTES.to_vec(), CONTROL.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(Configured { trust, own: Some(own), server: Some(Arc::new(server)) })
}

fn client_config(current: &Configured, expected: &Identity, lane: Lane) -> Result<Arc<ClientConfig>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(ServerVerifier::new(current.trust.clone(), expected.clone()));
    let mut config = match &current.own {
        Some(own) => builder.with_client_cert_resolver(own.clone()),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn(lane).to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// What a failed handshake means to who connects.
fn refusal(error: &rustls::Error, expected: &Identity) -> ConnectError {
    let why = match error {
        rustls::Error::InvalidCertificate(CertificateError::NotValidForName) => "it is somebody else",
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => "its certificate is of another cluster",
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its certificate has expired"
        }
        rustls::Error::InvalidCertificate(_) => "its certificate is not valid",
        rustls::Error::AlertReceived(_) => "it refuses our certificate, or doesn't speak our protocol",
        // Every other failure of TLS: the enum is foreign and grows.
        _ => "it doesn't speak TLS 1.3 as we do",
    };
    ConnectError::Identity { expected: expected.clone(), why }
}

#[async_trait]
impl Net for TlsNet {
    async fn connect(
        &self,
        to: SocketAddr,
        expected: &Identity,
        lane: Lane,
        carries: Carries,
    ) -> Result<BoxIo, ConnectError> {
        match timeout(CONNECT, self.connect_now(to, expected, lane, carries)).await {
            Ok(connected) => connected,
            Err(_) => {
                let deadline_ms = u64::try_from(CONNECT.as_millis()).unwrap_or(u64::MAX);
                Err(ConnectError::Deadline { deadline_ms })
            }
        }
    }

    async fn resolve(&self, host_port: &str) -> io::Result<Vec<SocketAddr>> {
        match timeout(CONNECT, tokio::net::lookup_host(host_port)).await {
            Ok(addresses) => Ok(addresses?.collect()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn listen(&self, at: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let listener = TcpListener::bind(at).await?;
        Ok(Box::new(accept::TlsListener::start(listener, self.current.clone(), self.counts.clone())?))
    }

    async fn listen_plain(&self, at: SocketAddr) -> io::Result<Box<dyn PlainListener>> {
        let listener = TcpListener::bind(at).await?;
        let address = listener.local_addr()?;
        Ok(Box::new(PlainTcp { listener, address }))
    }
}

struct PlainTcp {
    listener: TcpListener,
    address: SocketAddr,
}

#[async_trait]
impl PlainListener for PlainTcp {
    async fn accept(&mut self) -> io::Result<BoxIo> {
        let (tcp, _) = self.listener.accept().await?;
        tcp.set_nodelay(true)?;
        Ok(Box::new(tcp))
    }

    fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl TlsCounts {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
