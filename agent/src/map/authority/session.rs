//! One join, if it is needed, and one session.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use larder_proto::control::message::authority_client::AuthorityClient as Stub;
use larder_proto::control::message::directive::Directive as Content;
use larder_proto::control::{message, parse_volumes, parse_whereabouts};
use larder_proto::identity::Identity;
use larder_proto::limits::{DIRECTIVE_BYTES_MAX, TOKEN_BYTES_MAX};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::super::credentials::{NodeIdentity, Request};
use super::super::whereabouts::Told;
use super::{ConversationError, Inner, stored};
use crate::runtime::net::{Carries, Lane};
use crate::runtime::process;

/// The authority counts silence in these.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// For connecting, for a join and for the beginning of a session.
const DEADLINE: Duration = Duration::from_secs(5);

/// A dead connection is noticed by then.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Certificates live 30 days.
const RENEW_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Reports that the connection hasn't taken yet.
const REPORTS_WAITING_MAX: usize = 4;

/// Joins if there is no usable certificate, then talks until something fails or the certificate is to be renewed.
pub(super) async fn once(inner: &Arc<Inner>, identity: &mut Option<NodeIdentity>) -> Result<(), ConversationError> {
    if !usable(inner, identity.as_ref()) {
        *identity = Some(join(inner).await?);
    }
    let ended = talk(inner).await;
    if matches!(&ended, Err(ConversationError::Answer { code, .. }) if refuses_identity(*code)) {
        *identity = None;
    }
    if matches!(ended, Ok(Renew)) {
        // Only a new certificate replaces the one we have: it is good for weeks.
        *identity = Some(join(inner).await?);
    }
    ended.map(drop)
}

/// The session ended because the certificate is a day old.
struct Renew;

fn usable(inner: &Inner, identity: Option<&NodeIdentity>) -> bool {
    let now = inner.runtime.clock.wall_ms();
    identity.is_some_and(|identity| identity.check(&inner.own, &inner.trust.load(), now).is_ok())
}

fn refuses_identity(code: tonic::Code) -> bool {
    // The last: another CA signs now, and our certificate is of the one before.
    matches!(code, tonic::Code::Unauthenticated | tonic::Code::PermissionDenied | tonic::Code::FailedPrecondition)
}

async fn join(inner: &Arc<Inner>) -> Result<NodeIdentity, ConversationError> {
    let token = inner.options.token.clone();
    // The kubelet puts it there as a link, which it turns to the next one.
    let token = inner.pool.run(move || process::read_text(&token, TOKEN_BYTES_MAX)).await?;
    let token = token.map_err(ConversationError::Token)?;
    let request = Request::new()?;
    let asked = message::JoinRequest {
        node: inner.options.name.as_str().to_owned(),
        token: token.trim().to_owned(),
        csr: request.csr().to_vec().into(),
    };
    let mut stub = stub(inner);
    let answer = within_deadline(async { Ok(stub.join(asked).await?.into_inner()) }).await?;
    let (disk, options) = (inner.runtime.disk.clone(), inner.options.clone());
    let (own, wall_ms) = (inner.own.clone(), inner.runtime.clock.wall_ms());
    let trust = inner.trust.load_full();
    let finish = move || request.finish(&answer.chain, disk.as_ref(), &options.state, (&own, &trust, wall_ms));
    let identity = inner.pool.run(finish).await??;
    {
        let mut shown = inner.shown.lock();
        (inner.hooks.install)(Some(&identity), &inner.trust.load())?;
        *shown = Some(identity.clone());
    }
    inner.counters.joins.fetch_add(1, Ordering::Relaxed);
    tracing::info!(node = %inner.options.name, id = answer.node_id, "joined the cluster");
    Ok(identity)
}

async fn talk(inner: &Arc<Inner>) -> Result<Renew, ConversationError> {
    let (reports, outgoing) = mpsc::channel(REPORTS_WAITING_MAX);
    let mut stub = stub(inner);
    let session = async { Ok(stub.session(ReceiverStream::new(outgoing)).await?.into_inner()) };
    let mut directives = within_deadline(session).await?;
    inner.counters.sessions.fetch_add(1, Ordering::Relaxed);
    inner.connected.send_replace(true);
    tracing::info!("the session with the map authority is open");
    let mut tick = interval(REPORT_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let renew_at = inner.runtime.clock.now() + RENEW_EVERY;
    loop {
        tokio::select! { biased;
            directive = directives.message() => {
                obey(inner, directive?.ok_or(ConversationError::Ended)?).await?;
                tick.reset_immediately();
            }
            _ = tick.tick() => {
                let mut report = (inner.hooks.report)();
                report.epoch = inner.map.epoch();
                report.former_epoch = inner.map.former_epoch();
                report.trusted = inner.trust.load().digests().to_vec();
                reports.try_send(report.to_message()).map_err(|_| ConversationError::Stalled)?;
            }
            () = inner.hooks.news.notified() => tick.reset_immediately(),
            () = sleep_until(renew_at) => return Ok(Renew),
        }
    }
}

async fn obey(inner: &Inner, directive: message::Directive) -> Result<(), ConversationError> {
    match directive.directive.ok_or(ConversationError::EmptyDirective)? {
        Content::Map(bytes) => {
            inner.map.adopt_bytes(bytes).await?;
        }
        Content::MapDelta(bytes) => {
            // One that doesn't fit ends the session; the next one begins with a whole map.
            inner.map.adopt_delta_bytes(bytes).await?;
        }
        Content::Volumes(message) => {
            let volumes = stored::by_id(parse_volumes(message.clone())?);
            stored::store(&inner.runtime, &inner.pool, &inner.options.state, &message).await?;
            inner.volumes.send_replace(Some(volumes));
        }
        Content::Whereabouts(message) => inner.map.hear(Told::ByOthers, parse_whereabouts(message)?),
    }
    Ok(())
}

async fn within_deadline<T>(work: impl Future<Output = Result<T, ConversationError>>) -> Result<T, ConversationError> {
    let deadline_ms = u64::try_from(DEADLINE.as_millis()).unwrap_or(u64::MAX);
    timeout(DEADLINE, work).await.map_err(|_| ConversationError::Deadline { deadline_ms })?
}

/// A client on a connection of its own, made at the first call: each session proves the newest certificate.
fn stub(inner: &Arc<Inner>) -> Stub<Channel> {
    let (net, address) = (inner.runtime.net.clone(), inner.options.address.clone());
    let authority = Identity::Authority(inner.options.cluster);
    let connector = tower::service_fn(move |_: Uri| {
        let (net, address, authority) = (net.clone(), address.clone(), authority.clone());
        async move {
            let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for to in net.resolve(&address).await? {
                match net.connect(to, &authority, Lane::Control, Carries::Bodies).await {
                    Ok(io) => return Ok(TokioIo::new(io)),
                    Err(error) => failure = io::Error::new(io::ErrorKind::NotConnected, error),
                }
            }
            Err(failure)
        }
    });
    // Names no host: the connector decides where, certificates decide who.
    let channel = Endpoint::from_static("http://larder")
        .connect_timeout(DEADLINE)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector);
    Stub::new(channel).max_decoding_message_size(DIRECTIVE_BYTES_MAX)
}
