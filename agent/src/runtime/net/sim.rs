//! The simulated net: streams in memory between the nodes of one process, with seeded delays.
//!
//! Certificates are replaced by what each node says it is. A connection is refused when nobody listens, or when either
//! node was killed or the two were parted; killing or parting also breaks the streams that are open. Delays are drawn
//! when a connection is made and when a stream speaks after a pause; a burst pays once. A cut is silent, and may be
//! one-way: words don't arrive until it is mended, and questions time out as the real net's do. Two runs with one seed on one
//! paused runtime see the same bytes at the same times.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{BoxIo, Carries, ConnectError, Identity, Lane, Listener, Net, PlainListener, SILENCE};
use crate::runtime::Rng;

mod faults;

use faults::{Burst, Faults};

/// Bytes under way in each direction of a stream; as a socket's buffer.
const STREAM_BYTES: usize = 256 * 1024;

/// Connections that wait for their listener; the next one is refused.
const BACKLOG: usize = 128;

/// How often who waits behind a cut looks whether it was mended.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The first port that is given to who asks for any.
const FIRST_PORT: u16 = 20_000;

/// The network between the nodes of one simulation. Cheap to clone.
#[derive(Clone)]
pub struct SimNet {
    rng: Arc<dyn Rng>,
    delay: (Duration, Duration),
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    listening: BTreeMap<SocketAddr, Listening>,
    links: BTreeMap<u64, Link>,
    killed: Vec<Identity>,
    parted: Vec<(Identity, Identity)>,
    slow: BTreeMap<Identity, Duration>,
    /// Bytes that a node may still say.
    stops: BTreeMap<Identity, usize>,
    stopped: u64,
    faults: Faults,
    ports: u16,
    refused: u64,
}

struct Listening {
    identity: Identity,
    sender: mpsc::Sender<(BoxIo, Identity, Lane)>,
}

/// One open stream.
struct Link {
    ends: (Identity, Identity),
    /// Gone when both ends are.
    broken: Weak<CancellationToken>,
}

impl State {
    fn can_meet(&self, a: &Identity, b: &Identity) -> bool {
        let parted = self.parted.iter().any(|(c, d)| (a, b) == (c, d) || (b, a) == (c, d));
        !parted && !self.killed.contains(a) && !self.killed.contains(b)
    }

    /// Breaks the links whose ends can't meet any more, and forgets those that were closed.
    fn break_links(&mut self) {
        let links = std::mem::take(&mut self.links);
        for (id, link) in links {
            let Some(broken) = link.broken.upgrade() else { continue };
            if self.can_meet(&link.ends.0, &link.ends.1) {
                self.links.insert(id, link);
            } else {
                broken.cancel();
            }
        }
    }
}

impl SimNet {
    /// A network whose delays lie between `least` and `most`.
    pub fn new(rng: Arc<dyn Rng>, least: Duration, most: Duration) -> Self {
        Self { rng, delay: (least, most.max(least)), state: Arc::default() }
    }

    /// The network as the node of this identity sees it; it listens at `address`.
    pub fn node(&self, identity: Identity, address: IpAddr) -> Arc<dyn Net> {
        Arc::new(SimNode { net: self.clone(), identity, address })
    }

    /// The node is gone: nobody reaches it, it reaches nobody, its streams break, its listeners end.
    pub fn kill(&self, identity: &Identity) {
        let mut state = self.state.lock();
        if !state.killed.contains(identity) {
            state.killed.push(identity.clone());
        }
        state.listening.retain(|_, listening| listening.identity != *identity);
        state.break_links();
    }

    /// The node is back; it must listen again.
    pub fn revive(&self, identity: &Identity) {
        let mut state = self.state.lock();
        state.killed.retain(|killed| killed != identity);
        state.stops.remove(identity);
    }

    /// Parts two nodes: their streams break and they can't reach each other.
    pub fn part(&self, a: &Identity, b: &Identity) {
        let mut state = self.state.lock();
        state.parted.push((a.clone(), b.clone()));
        state.break_links();
    }

    /// Every two nodes can reach each other again, and no word is lost.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.parted.clear();
        state.faults.heal();
    }

    /// What `from` says to `to` doesn't arrive, and nobody is told.
    pub fn cut(&self, from: &Identity, to: &Identity) {
        self.state.lock().faults.cut(from, to);
    }

    /// It arrives again; what waited comes now.
    pub fn mend(&self, from: &Identity, to: &Identity) {
        self.state.lock().faults.mend(from, to);
    }

    /// Of a thousand bursts that the node says, so many are lost at first: they come late, or break their connection.
    pub fn lose(&self, speaker: &Identity, per_mille: u64) {
        self.state.lock().faults.lose(speaker, per_mille);
    }

    /// How often a word met a cut or was lost.
    pub fn cut_short(&self) -> u64 {
        self.state.lock().faults.met
    }

    /// Whether a connection between the two is silent in one direction at least.
    fn is_silent(&self, a: &Identity, b: &Identity) -> bool {
        let state = self.state.lock();
        state.faults.is_cut(a, b) || state.faults.is_cut(b, a)
    }

    /// Whatever the node says comes this much later, as from a process that gets no processor; a long time is as good as
    /// a process that is stopped: connections to it are made, and nothing comes.
    pub fn slow(&self, identity: &Identity, by: Duration) {
        self.state.lock().slow.insert(identity.clone(), by);
    }

    /// Says so many bytes more, on all its streams together, and then nothing: a process that is stopped in the middle.
    pub fn stop_after(&self, identity: &Identity, bytes: usize) {
        self.state.lock().stops.insert(identity.clone(), bytes);
    }

    /// Writes that found their node stopped.
    pub fn stopped(&self) -> u64 {
        self.state.lock().stopped
    }

    /// How much of `wanted` bytes a node may say now; nothing once it is stopped.
    fn may_say(&self, identity: &Identity, wanted: usize) -> Option<usize> {
        let mut state = self.state.lock();
        match state.stops.get(identity).copied() {
            None => Some(wanted),
            Some(0) => {
                state.stopped += 1;
                None
            }
            Some(left) => Some(wanted.min(left)),
        }
    }

    fn has_said(&self, identity: &Identity, bytes: usize) {
        if let Some(left) = self.state.lock().stops.get_mut(identity) {
            *left = left.saturating_sub(bytes);
        }
    }

    /// Connections that were refused: each is an injected fault that was hit, or nobody who listened.
    pub fn refused(&self) -> u64 {
        self.state.lock().refused
    }

    fn draw(&self) -> Duration {
        draw(&*self.rng, self.delay)
    }
}

fn draw(rng: &dyn Rng, (least, most): (Duration, Duration)) -> Duration {
    let span = u64::try_from((most - least).as_nanos()).unwrap_or(u64::MAX);
    least + Duration::from_nanos(rng.next_u64().checked_rem(span).unwrap_or(0))
}

struct SimNode {
    net: SimNet,
    identity: Identity,
    address: IpAddr,
}

#[async_trait]
impl Net for SimNode {
    async fn connect(
        &self,
        to: SocketAddr,
        expected: &Identity,
        lane: Lane,
        carries: Carries,
    ) -> Result<BoxIo, ConnectError> {
        sleep(self.net.draw()).await;
        let began = Instant::now();
        while self.net.is_silent(&self.identity, expected) {
            if began.elapsed() >= SILENCE {
                self.net.state.lock().faults.met += 1;
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            sleep(LOOK_EVERY).await;
        }
        let mut state = self.net.state.lock();
        let found = state
            .listening
            .get(&to)
            .filter(|there| state.can_meet(&self.identity, &there.identity))
            .map(|there| (there.identity.clone(), there.sender.clone()));
        let Some((identity, sender)) = found else {
            state.refused += 1;
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
        };
        if identity != *expected {
            return Err(ConnectError::Identity { expected: expected.clone(), why: "it is somebody else" });
        }
        let broken = Arc::new(CancellationToken::new());
        let (ours, theirs) = duplex(STREAM_BYTES);
        let ends = (identity.clone(), self.identity.clone());
        let theirs = SimIo::new(theirs, self.net.clone(), ends.clone(), Carries::Bodies, broken.clone());
        if sender.try_send((Box::new(theirs), self.identity.clone(), lane)).is_err() {
            state.refused += 1;
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
        }
        state.break_links();
        let id = state.links.last_key_value().map_or(0, |(last, _)| last + 1);
        state.links.insert(id, Link { ends: (self.identity.clone(), identity), broken: Arc::downgrade(&broken) });
        Ok(Box::new(SimIo::new(ours, self.net.clone(), (ends.1, ends.0), carries, broken)))
    }

    async fn listen(&self, at: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let mut state = self.net.state.lock();
        if state.killed.contains(&self.identity) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let address = self.place(&mut state, at);
        // A listener that was dropped has left its place.
        if state.listening.get(&address).is_some_and(|there| !there.sender.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (sender, accepted) = mpsc::channel(BACKLOG);
        state.listening.insert(address, Listening { identity: self.identity.clone(), sender });
        Ok(Box::new(SimListener { accepted, address }))
    }

    async fn listen_plain(&self, at: SocketAddr) -> io::Result<Box<dyn PlainListener>> {
        let address = self.place(&mut self.net.state.lock(), at);
        Ok(Box::new(NobodyComes { address }))
    }
}

impl SimNode {
    fn place(&self, state: &mut State, at: SocketAddr) -> SocketAddr {
        if at.port() != 0 {
            return SocketAddr::new(self.address, at.port());
        }
        state.ports += 1;
        SocketAddr::new(self.address, FIRST_PORT + state.ports)
    }
}

struct SimListener {
    accepted: mpsc::Receiver<(BoxIo, Identity, Lane)>,
    address: SocketAddr,
}

#[async_trait]
impl Listener for SimListener {
    async fn accept(&mut self) -> io::Result<(BoxIo, Identity, Lane)> {
        self.accepted.recv().await.ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }

    fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// A plain port in a simulation: nothing can connect to it.
struct NobodyComes {
    address: SocketAddr,
}

#[async_trait]
impl PlainListener for NobodyComes {
    async fn accept(&mut self) -> io::Result<BoxIo> {
        std::future::pending().await
    }

    fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// One end of a stream.
struct SimIo {
    stream: DuplexStream,
    net: SimNet,
    speaker: Identity,
    hearer: Identity,
    carries: Carries,
    /// Held so that the net finds the stream while either end is there.
    broken: Arc<CancellationToken>,
    breaks: Pin<Box<WaitForCancellationFutureOwned>>,
    /// When the last byte was written: at a later time the next one pays a delay.
    spoke: Option<Instant>,
    travelling: Option<Pin<Box<Sleep>>>,
    /// Since when something that was said is not acknowledged.
    unheard: Option<Instant>,
    /// The connection breaks after the next words: they are heard, the answer isn't.
    is_last: bool,
    is_deaf: bool,
    looking: Option<Pin<Box<Sleep>>>,
}

impl SimIo {
    fn new(
        stream: DuplexStream,
        net: SimNet,
        (speaker, hearer): (Identity, Identity),
        carries: Carries,
        broken: Arc<CancellationToken>,
    ) -> Self {
        let breaks = Box::pin(CancellationToken::clone(&broken).cancelled_owned());
        Self {
            stream,
            net,
            speaker,
            hearer,
            carries,
            broken,
            breaks,
            spoke: None,
            travelling: None,
            unheard: None,
            is_last: false,
            is_deaf: false,
            looking: None,
        }
    }

    /// Wakes who waits, after a while.
    fn look_again(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let looking = self.looking.get_or_insert_with(|| Box::pin(sleep(LOOK_EVERY)));
        std::task::ready!(looking.as_mut().poll(cx));
        self.looking = None;
        Poll::Ready(())
    }

    /// Whether a cut keeps what is said from being acknowledged; a question fails once it has for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        loop {
            if !self.net.is_silent(&self.speaker, &self.hearer) {
                self.unheard = None;
                return Ok(false);
            }
            let Some(since) = self.unheard else { return Ok(true) };
            if self.carries == Carries::Questions && since.elapsed() >= SILENCE {
                self.broken.cancel();
                return Err(io::ErrorKind::TimedOut.into());
            }
            if self.look_again(cx).is_pending() {
                return Ok(true);
            }
        }
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.is_deaf {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        match self.breaks.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// Pays the delay of a burst that begins now.
    fn poll_travel(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.travelling.is_none() && self.spoke != Some(Instant::now()) {
            let (slow, burst) = {
                let mut state = self.net.state.lock();
                let slow = state.slow.get(&self.speaker).copied().unwrap_or_default();
                (slow, state.faults.burst(&self.speaker, &*self.net.rng))
            };
            let late = match burst {
                Burst::Late(late) => late,
                Burst::Last => {
                    self.is_last = true;
                    Duration::ZERO
                }
            };
            self.travelling = Some(Box::pin(sleep(self.net.draw() + slow + late)));
        }
        if let Some(travelling) = &mut self.travelling {
            std::task::ready!(travelling.as_mut().poll(cx));
            self.travelling = None;
        }
        self.spoke = Some(Instant::now());
        Poll::Ready(())
    }
}

impl AsyncRead for SimIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_broken(cx)?;
        self.poll_silence(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for SimIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_broken(cx)?;
        std::task::ready!(self.poll_travel(cx));
        if self.net.is_silent(&self.speaker, &self.hearer) {
            self.unheard.get_or_insert_with(Instant::now);
            self.net.state.lock().faults.met += 1;
            let waits = self.poll_silence(cx)? && self.net.state.lock().faults.is_cut(&self.speaker, &self.hearer);
            if waits {
                return Poll::Pending;
            }
        }
        let most = loop {
            match self.net.may_say(&self.speaker, bytes.len()) {
                Some(most) => break most,
                None => std::task::ready!(self.look_again(cx)),
            }
        };
        let written = Pin::new(&mut self.stream).poll_write(cx, &bytes[..most]);
        if let Poll::Ready(Ok(said)) = &written {
            self.net.has_said(&self.speaker, *said);
            if std::mem::take(&mut self.is_last) {
                self.is_deaf = true;
            }
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_broken(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use larder_proto::ids::{ClusterId, NodeName};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::runtime::sim::SimRng;

    fn identity(name: &str) -> Identity {
        Identity::Node(ClusterId::of("test"), NodeName::parse(name).expect("a name"))
    }

    fn net(seed: u64) -> (SimNet, Arc<dyn Net>, Arc<dyn Net>) {
        let net = SimNet::new(Arc::new(SimRng::new(seed)), Duration::from_millis(1), Duration::from_millis(3));
        let (a, b) = ("10.0.0.1".parse().expect("an address"), "10.0.0.2".parse().expect("an address"));
        (net.clone(), net.node(identity("a"), a), net.node(identity("b"), b))
    }

    fn any() -> SocketAddr {
        "0.0.0.0:0".parse().expect("an address")
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_travel_and_take_their_time() {
        let (_, a, b) = net(1);
        let mut listener = b.listen(any()).await.expect("free");
        let began = Instant::now();
        let mut out =
            a.connect(listener.local_addr(), &identity("b"), Lane::Bytes, Carries::Questions).await.expect("listening");
        let (mut incoming, from, lane) = listener.accept().await.expect("it comes");
        assert_eq!((from, lane), (identity("a"), Lane::Bytes));
        out.write_all(b"hello").await.expect("open");
        let mut said = [0; 5];
        incoming.read_exact(&mut said).await.expect("open");
        assert_eq!(&said, b"hello");
        let took = began.elapsed();
        assert!((Duration::from_millis(2)..Duration::from_millis(7)).contains(&took), "two delays: {took:?}");
        drop(out);
        assert_eq!(incoming.read(&mut said).await.expect("an end, not an error"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_there_is_refused_and_somebody_else_is_told_apart() {
        let (net, a, b) = net(1);
        let listener = b.listen(any()).await.expect("free");
        let at = listener.local_addr();
        let else_ = a.connect(at, &identity("c"), Lane::Bytes, Carries::Questions).await.err().expect("it is b");
        assert!(matches!(else_, ConnectError::Identity { .. }), "{else_}");
        assert_eq!(b.listen(at).await.err().expect("taken").kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(a.connect(at, &identity("b"), Lane::Bytes, Carries::Questions).await.is_err());
        assert_eq!(net.refused(), 1);
        b.listen(at).await.expect("free again");
    }

    #[tokio::test(start_paused = true)]
    async fn killing_and_parting_break_streams() {
        let (net, a, b) = net(1);
        let mut listener = b.listen(any()).await.expect("free");
        let at = listener.local_addr();
        let mut out = a.connect(at, &identity("b"), Lane::Bytes, Carries::Questions).await.expect("listening");
        let (mut incoming, ..) = listener.accept().await.expect("it comes");
        let waiting = tokio::spawn(async move { incoming.read(&mut [0; 1]).await.map_err(|error| error.kind()) });
        tokio::task::yield_now().await;
        net.part(&identity("a"), &identity("b"));
        assert_eq!(waiting.await.expect("no panic"), Err(io::ErrorKind::ConnectionReset), "who waits is woken");
        assert_eq!(out.write(b"x").await.expect_err("broken").kind(), io::ErrorKind::ConnectionReset);
        assert!(a.connect(at, &identity("b"), Lane::Bytes, Carries::Questions).await.is_err());
        net.heal();
        let mut again = a.connect(at, &identity("b"), Lane::Bytes, Carries::Questions).await.expect("healed");
        net.kill(&identity("b"));
        assert_eq!(again.read(&mut [0; 1]).await.expect_err("broken").kind(), io::ErrorKind::ConnectionReset);
        while listener.accept().await.is_ok() {}
        net.revive(&identity("b"));
        assert!(a.connect(at, &identity("b"), Lane::Bytes, Carries::Questions).await.is_err(), "it must listen again");
        drop(listener);
        let _listener = b.listen(at).await.expect("free");
        a.connect(at, &identity("b"), Lane::Bytes, Carries::Questions).await.expect("it is back");
        assert_eq!(net.refused(), 2);
    }
}
