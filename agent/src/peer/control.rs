//! tonic over the control lane: channels to peers, and the routes that answer them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};

use super::client::FILL_HEAD;
use super::pool::Destination;
use crate::runtime::net::{Carries, Lane, Net};

/// TCP and TLS together, as on the bytes lane.
const CONNECT: Duration = FILL_HEAD;

/// A peer that is asked and silent is pinged so often: it may be waiting for an origin.
const PING_EVERY: Duration = Duration::from_millis(500);

/// How long an answer to a ping may take. Beyond it the process hangs; one that gets no processor takes its time.
const PONG_WITHIN: Duration = Duration::from_millis(1500);

/// A channel to wherever `destination` says when it connects.
pub(super) fn channel(
    net: Arc<dyn Net>,
    destination: impl Fn() -> Option<Destination> + Clone + Send + Sync + 'static,
) -> Channel {
    let connector = tower::service_fn(move |_: Uri| {
        let (net, to) = (net.clone(), destination());
        async move {
            let to = to.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
            let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for address in to.addresses {
                match net.connect(address, &to.identity, Lane::Control, Carries::Questions).await {
                    Ok(io) => return Ok(TokioIo::new(io)),
                    Err(error) => failure = io::Error::new(io::ErrorKind::NotConnected, error),
                }
            }
            Err(failure)
        }
    });
    // Names no host: the connector decides where, certificates decide who.
    Endpoint::from_static("http://larder")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN)
        .connect_with_connector_lazy(connector)
}

type Route = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The tonic services that peers may call. The caller's name is in the request's extensions as a
/// [`NodeName`](larder_proto::ids::NodeName).
#[derive(Clone, Default)]
pub struct ControlRoutes {
    services: BTreeMap<&'static str, Route>,
}

impl ControlRoutes {
    /// No services.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a generated tonic server.
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.services.insert(S::NAME, Route::new(service));
        self
    }

    /// Answers one call, with `Unimplemented` where no service has that name.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let service = request.uri().path().split('/').nth(1).and_then(|name| self.services.get(name));
        match service {
            None => tonic::Status::unimplemented("no such service").into_http(),
            Some(service) => match service.clone().oneshot(request.map(Body::new)).await {
                Ok(response) => response,
                Err(impossible) => match impossible {},
            },
        }
    }
}
