//! Both lanes over real TCP and TLS: who gets in, and who is refused and counted.

use larder_proto::identity::Trust;
use larder_proto::ids::ClusterId;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::runtime::net::tls::{Credentials, TlsCounts, TlsNet};
use crate::runtime::net::{Carries, ConnectError, Lane, Net};

const LOCALHOST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Validity {
    Now,
    Expired,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().expect("entropy");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let certificate = params.self_signed(&key).expect("valid").der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn trust(&self) -> Trust {
        Trust::from_certificates(std::slice::from_ref(&self.certificate)).expect("a CA")
    }

    fn issue(&self, identity: &Identity, validity: Validity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("entropy");
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into().expect("ASCII"))];
        if validity == Validity::Expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 2, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).expect("valid").der().clone();
        (vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }

    fn credentials(&self, cluster: &str, name: &str, validity: Validity) -> Credentials {
        let identity = node(cluster, name);
        Credentials { cluster: identity.cluster(), trust: self.trust(), own: Some(self.issue(&identity, validity)) }
    }

    fn net(&self, cluster: &str, name: &str) -> Arc<TlsNet> {
        Arc::new(TlsNet::new(self.credentials(cluster, name, Validity::Now)).expect("the key fits"))
    }
}

fn node(cluster: &str, name: &str) -> Identity {
    Identity::Node(ClusterId::of(cluster), node_name(name))
}

/// bob, listening.
struct Bob {
    net: Arc<TlsNet>,
    server: Arc<Server>,
    known: Arc<Known>,
    address: SocketAddr,
    runtime: Runtime,
}

impl Bob {
    async fn start(ca: &Ca) -> Self {
        let net = ca.net("test", "bob");
        let runtime = Runtime::real(net.clone());
        let known = Known::of("test");
        known.add(1, "alice", LOCALHOST);
        let client = Client::new(runtime.clone(), known.clone());
        let server = Server::new(runtime.clone(), client, Arc::new(Giver::default()), control::routes());
        let listener = net.listen(LOCALHOST).await.expect("a free port");
        let address = listener.local_addr();
        runtime.tasks.spawn(server.clone().serve(listener));
        Self { net, server, known, address, runtime }
    }

    fn counts(&self) -> &TlsCounts {
        self.net.counts()
    }

    /// A client that uses `net` and knows bob.
    fn client_of(&self, net: Arc<dyn Net>) -> Client {
        let known = Known::of("test");
        known.add(2, "bob", self.address);
        Client::new(Runtime::real(net), known)
    }

    /// Waits until one more peer was refused for its identity.
    async fn refuses(&self, before: u64) {
        until("a refusal is counted", || self.counts().refused_identity.load(Ordering::Relaxed) == before + 1).await;
        assert_eq!(self.server.counts().requests.load(Ordering::Relaxed), 0);
    }
}

async fn read(client: &Client) -> Result<Vec<u8>, PeerError> {
    let request = asks(Want::Have, &chunk("big", 3 * MIB + 5));
    let mut body = client.read(BOB, &request, soon()).await?;
    read_all(&mut body).await
}

fn install_provider() {
    // The second test that comes finds it installed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

#[tokio::test]
async fn the_right_identities_use_both_lanes() {
    install_provider();
    let ca = Ca::new();
    let bob = Bob::start(&ca).await;
    let alice = bob.client_of(ca.net("test", "alice"));
    assert_eq!(read(&alice).await.expect("all bytes"), bytes_of(ByteRange::at(0, 3 * MIB + 5)));
    let said = control::call(&alice, BOB, "larder.test.WhoAmI").await.expect("an answer");
    assert_eq!(said, ("0".to_owned(), "alice".to_owned()));
    let big = chunk("big", 3 * MIB);
    let put = PutRequest { request: RequestId(1), epoch: Epoch(5), chunk: big.clone() };
    let whole = ByteRange::at(0, 3 * MIB);
    alice.put(BOB, &put, pieces(&big, whole).into(), soon()).await.expect("taken");
    assert_eq!(bob.counts().accepted.load(Ordering::Relaxed), 3, "bytes, control, copies");
    bob.runtime.tasks.shut_down().await;
}

#[tokio::test]
async fn a_certificate_of_another_cluster_is_refused() {
    install_provider();
    let (ca, other) = (Ca::new(), Ca::new());
    let bob = Bob::start(&ca).await;

    // Signed by another CA: either side refuses it.
    let stranger = bob.client_of(other.net("test", "alice"));
    let refused = read(&stranger).await.expect_err("bob isn't of that cluster");
    assert!(matches!(refused, PeerError::Connect(ConnectError::Identity { .. })), "{refused}");
    let mut pretender = other.credentials("test", "alice", Validity::Now);
    pretender.trust = ca.trust();
    let pretender = bob.client_of(Arc::new(TlsNet::new(pretender).expect("the key fits")));
    let before = bob.counts().refused_identity.load(Ordering::Relaxed);
    assert!(read(&pretender).await.is_err());
    bob.refuses(before).await;

    // Signed by the same CA for another cluster.
    let neighbour = bob.client_of(ca.net("another", "alice"));
    assert!(read(&neighbour).await.is_err());
    bob.refuses(before + 1).await;
}

#[tokio::test]
async fn another_node_than_expected_is_refused() {
    install_provider();
    let ca = Ca::new();
    let bob = Bob::start(&ca).await;
    let known = Known::of("test");
    known.add(2, "carol", bob.address);
    let alice = Client::new(Runtime::real(ca.net("test", "alice")), known);
    let refused = read(&alice).await.expect_err("bob isn't carol");
    let PeerError::Connect(ConnectError::Identity { expected, why }) = refused else { panic!("{refused}") };
    assert_eq!((expected, why), (node("test", "carol"), "it is somebody else"));
}

#[tokio::test]
async fn expired_certificates_are_refused() {
    install_provider();
    let ca = Ca::new();
    let bob = Bob::start(&ca).await;
    let late = TlsNet::new(ca.credentials("test", "alice", Validity::Expired)).expect("the key fits");
    assert!(read(&bob.client_of(Arc::new(late))).await.is_err());
    bob.refuses(0).await;

    bob.net.replace(ca.credentials("test", "bob", Validity::Expired)).expect("the key fits");
    let refused = read(&bob.client_of(ca.net("test", "alice"))).await.expect_err("bob's has expired");
    let PeerError::Connect(ConnectError::Identity { why, .. }) = refused else { panic!("{refused}") };
    assert_eq!(why, "its certificate has expired");

    bob.net.replace(ca.credentials("test", "bob", Validity::Now)).expect("the key fits");
    assert!(read(&bob.client_of(ca.net("test", "alice"))).await.is_ok(), "a renewed one is used at once");
}

#[tokio::test]
async fn without_a_certificate_one_reaches_the_authority_only() {
    install_provider();
    let ca = Ca::new();
    let bob = Bob::start(&ca).await;
    let credentials = || Credentials { cluster: ClusterId::of("test"), trust: ca.trust(), own: None };
    let newcomer = Arc::new(TlsNet::new(credentials()).expect("nothing to fit"));
    assert!(read(&bob.client_of(newcomer.clone())).await.is_err());
    bob.refuses(0).await;

    // The authority takes it: a TLS server with the authority's name that doesn't insist on a certificate.
    let authority = Identity::Authority(ClusterId::of("test"));
    let (chain, key) = ca.issue(&authority, Validity::Now);
    let mut config = rustls::ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the key fits");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let tcp = std::net::TcpListener::bind(LOCALHOST).expect("a free port");
    let address = tcp.local_addr().expect("bound");
    tcp.set_nonblocking(true).expect("a socket");
    let tcp = tokio::net::TcpListener::from_std(tcp).expect("a socket");
    let shaken = tokio::spawn(async move {
        let (tcp, _) = tcp.accept().await.expect("somebody comes");
        listener.accept(tcp).await.expect("a handshake")
    });
    newcomer
        .connect(address, &authority, Lane::Control, Carries::Questions)
        .await
        .expect("the authority is who it says");
    drop(shaken.await.expect("no panic"));

    // Nobody gets in before it has its own certificate.
    let early = newcomer.listen(LOCALHOST).await.expect("a free port");
    let known = Known::of("test");
    known.add(2, "newcomer", early.local_addr());
    let alice = Client::new(Runtime::real(ca.net("test", "alice")), known);
    assert!(read(&alice).await.is_err());
    until("it is counted", || newcomer.counts().too_early.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test]
async fn leaving_the_map_revokes_at_once() {
    install_provider();
    let ca = Ca::new();
    let bob = Bob::start(&ca).await;
    let alice = bob.client_of(ca.net("test", "alice"));
    read(&alice).await.expect("a member");
    bob.known.nodes.lock().clear();
    let refused = read(&alice).await.expect_err("no longer a member, on the same connection");
    assert!(matches!(refused, PeerError::Refused(BOB)), "{refused}");
    assert_eq!(bob.server.counts().not_members.load(Ordering::Relaxed), 1);
    assert_eq!(bob.counts().accepted.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn one_slow_peer_holds_up_nobody() {
    install_provider();
    let ca = Ca::new();
    let bob = Bob::start(&ca).await;
    let mut slow = Vec::new();
    for _ in 0..10 {
        slow.push(tokio::net::TcpStream::connect(bob.address).await.expect("listening"));
    }
    let began = Instant::now();
    read(&bob.client_of(ca.net("test", "alice"))).await.expect("served beside them");
    assert!(began.elapsed() < Duration::from_secs(4), "before the slow ones were given up: {:?}", began.elapsed());
    until("they are given up", || bob.counts().timed_out.load(Ordering::Relaxed) == 10).await;
    for mut tcp in slow {
        assert_eq!(tcp.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed");
    }
}

#[tokio::test]
async fn plain_text_and_other_protocols_are_refused() {
    install_provider();
    let ca = Ca::new();
    let bob = Bob::start(&ca).await;
    let mut plain = tokio::net::TcpStream::connect(bob.address).await.expect("listening");
    tokio::io::AsyncWriteExt::write_all(&mut plain, b"GET /v1/map HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("open");
    until("it is counted", || bob.counts().failed.load(Ordering::Relaxed) == 1).await;

    let (chain, key) = ca.issue(&node("test", "alice"), Validity::Now);
    let verifier = larder_proto::identity::ServerVerifier::new(ca.trust(), node("test", "bob"));
    let mut config = rustls::ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key)
        .expect("the key fits");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = tokio::net::TcpStream::connect(bob.address).await.expect("listening");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = larder_proto::identity::server_name();
    assert!(connector.connect(name, tcp).await.is_err(), "no common protocol");
    until("it is counted", || bob.counts().failed.load(Ordering::Relaxed) == 2).await;
}
