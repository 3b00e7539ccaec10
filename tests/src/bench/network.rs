//! What the loopback network gives: one TCP stream, one TLS stream, and a ping-pong of 64 KiB over TLS.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::process::thread_cpu;

const MESSAGE_BYTES: usize = 1 << 20;
const PING_BYTES: usize = 64 * 1024;

/// What a stream gave.
pub(super) struct Stream {
    pub bytes_per_s: f64,
    /// Of both ends.
    pub cpu: Duration,
}

/// `bytes` through one loopback TCP stream in messages of 1 MiB.
pub(super) fn tcp(bytes: u64) -> Result<Stream> {
    let (listener, sender) = listen(move |mut socket| send(&mut socket, bytes))?;
    receive(&mut TcpStream::connect(listener)?, sender, bytes)
}

/// The same through one TLS stream (TLS 1.3, aws-lc-rs).
pub(super) fn tls(bytes: u64) -> Result<Stream> {
    let keys = Keys::new()?;
    let server = keys.server()?;
    let (listener, sender) = listen(move |socket| {
        let mut stream = StreamOwned::new(ServerConnection::new(server)?, socket);
        send(&mut stream, bytes)
    })?;
    receive(&mut keys.connect(TcpStream::connect(listener)?)?, sender, bytes)
}

/// Median of the time in which one byte goes and 64 KiB come back over TLS.
pub(super) fn tls_ping(pings: usize) -> Result<Duration> {
    let keys = Keys::new()?;
    let server = keys.server()?;
    let (listener, answering) = listen(move |socket| {
        socket.set_nodelay(true)?;
        let mut stream = StreamOwned::new(ServerConnection::new(server)?, socket);
        let (mut asked, answer) = ([0; 1], vec![7; PING_BYTES]);
        while stream.read(&mut asked).unwrap_or(0) == 1 {
            stream.write_all(&answer)?;
            stream.flush()?;
        }
        Ok(Duration::ZERO)
    })?;
    let socket = TcpStream::connect(listener)?;
    socket.set_nodelay(true)?;
    let mut stream = keys.connect(socket)?;
    let mut answer = vec![0; PING_BYTES];
    let mut took = Vec::with_capacity(pings);
    for _ in 0..pings {
        let begun = Instant::now();
        stream.write_all(&[1])?;
        stream.flush()?;
        stream.read_exact(&mut answer)?;
        took.push(begun.elapsed());
    }
    drop(stream);
    answering.join().expect("returns errors")?;
    took.sort();
    Ok(took[took.len() / 2])
}

type Serving = JoinHandle<Result<Duration>>;

fn listen(
    serve: impl FnOnce(TcpStream) -> Result<Duration> + Send + 'static,
) -> Result<(std::net::SocketAddr, Serving)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    Ok((address, std::thread::spawn(move || serve(listener.accept()?.0))))
}

fn send(stream: &mut impl Write, bytes: u64) -> Result<Duration> {
    let (message, before) = (vec![7; MESSAGE_BYTES], thread_cpu()?);
    for _ in 0..bytes / MESSAGE_BYTES as u64 {
        stream.write_all(&message)?;
    }
    stream.flush()?;
    Ok(thread_cpu()? - before)
}

fn receive(stream: &mut impl Read, sender: Serving, bytes: u64) -> Result<Stream> {
    let (mut message, before, begun) = (vec![0; MESSAGE_BYTES], thread_cpu()?, Instant::now());
    for _ in 0..bytes / MESSAGE_BYTES as u64 {
        stream.read_exact(&mut message)?;
    }
    let (elapsed, own) = (begun.elapsed(), thread_cpu()? - before);
    let other = sender.join().expect("returns errors")?;
    Ok(Stream { bytes_per_s: bytes as f64 / elapsed.as_secs_f64(), cpu: own + other })
}

struct Keys {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Keys {
    fn new() -> Result<Keys> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der());
        Ok(Keys { certificate: made.cert.der().clone(), key: key.ok().context("rcgen writes PKCS 8")? })
    }

    fn server(&self) -> Result<Arc<ServerConfig>> {
        let config = ServerConfig::builder().with_no_client_auth();
        Ok(Arc::new(config.with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?))
    }

    fn connect(&self, socket: TcpStream) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("localhost")?;
        Ok(StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, socket))
    }
}
