//! The admin port: health, metrics and debugging, in plain HTTP/1.1.
//!
//! Owns which path answers on which address: `/healthz`, `/readyz` and `/metrics` on the node's address, `/debug/*`
//! only on 127.0.0.1 (the same port number). GET only, a bounded number of connections, a deadline for each head. It
//! holds no state: what it says comes from [`Sources`]. Only `/debug/flights` names objects.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::runtime::Runtime;
use crate::runtime::crowd::Crowd;
use crate::runtime::net::PlainListener;

/// Connections per listener; for a further one, the one that is there longest is closed. A scraper and a few people
/// need far fewer.
const CONNECTIONS_MAX: usize = 32;

/// A client that sends no head in this time is dropped.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// A connection is closed after this time, so that idle ones can't hold all places.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);

/// What the answers are made of.
pub trait Sources: Send + Sync + 'static {
    /// Ready, or what is missing.
    fn ready(&self) -> Result<(), &'static str>;

    /// All metrics as OpenMetrics text.
    fn metrics(&self) -> String;

    /// The document of one `/debug/` page.
    fn debug(&self, page: DebugPage) -> serde_json::Value;
}

/// The debug pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugPage {
    /// The map this agent believes.
    Map,
    /// This node's stores.
    Stores,
    /// Chunks on their way.
    Flights,
}

/// Who may be told what: debug pages are for this machine only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    Network,
    Machine,
}

/// The admin port, taken and not served yet.
pub struct Bound {
    port: u16,
    network: Option<Box<dyn PlainListener>>,
    machine: Box<dyn PlainListener>,
}

/// Takes the admin port on `address`, and the same port number of 127.0.0.1.
pub async fn bind(runtime: &Runtime, address: SocketAddr) -> io::Result<Bound> {
    let listener = runtime.net.listen_plain(address).await?;
    let port = listener.local_addr().port();
    let machine = IpAddr::V4(Ipv4Addr::LOCALHOST);
    if address.ip() == machine {
        return Ok(Bound { port, network: None, machine: listener });
    }
    let machine = runtime.net.listen_plain(SocketAddr::new(machine, port)).await?;
    Ok(Bound { port, network: Some(listener), machine })
}

impl Bound {
    /// The port taken.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Answers until shutdown.
    pub fn serve(self, runtime: &Runtime, sources: Arc<dyn Sources>) {
        if let Some(network) = self.network {
            runtime.tasks.spawn(accept(network, sources.clone(), Audience::Network));
        }
        runtime.tasks.spawn(accept(self.machine, sources, Audience::Machine));
    }
}

async fn accept(mut listener: Box<dyn PlainListener>, sources: Arc<dyn Sources>, audience: Audience) {
    let mut crowd = Crowd::new(CONNECTIONS_MAX);
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "the admin port can't accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let sources = sources.clone();
        crowd.admit(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(sources.as_ref(), audience, request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_LIFE, connection).await {
                tracing::debug!(%error, "an admin connection ended early");
            }
        });
    }
}

fn answer(sources: &dyn Sources, audience: Audience, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if method != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
    }
    let debug = match path {
        "/healthz" => return text(StatusCode::OK, "ok\n"),
        "/readyz" => {
            return match sources.ready() {
                Ok(()) => text(StatusCode::OK, "ok\n"),
                Err(missing) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}\n")),
            };
        }
        "/metrics" => {
            return respond(
                StatusCode::OK,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                sources.metrics(),
            );
        }
        "/debug/map" => DebugPage::Map,
        "/debug/stores" => DebugPage::Stores,
        "/debug/flights" => DebugPage::Flights,
        _ => return text(StatusCode::NOT_FOUND, "not found\n"),
    };
    match audience {
        Audience::Machine => respond(StatusCode::OK, "application/json", format!("{:#}\n", sources.debug(debug))),
        Audience::Network => text(StatusCode::NOT_FOUND, "debug pages are on 127.0.0.1 only\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body)
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Result<(), &'static str>);

    impl Sources for Fixed {
        fn ready(&self) -> Result<(), &'static str> {
            self.0
        }

        fn metrics(&self) -> String {
            "# EOF\n".into()
        }

        fn debug(&self, page: DebugPage) -> serde_json::Value {
            serde_json::json!({ "page": format!("{page:?}") })
        }
    }

    fn status(ready: Result<(), &'static str>, audience: Audience, method: Method, path: &str) -> u16 {
        answer(&Fixed(ready), audience, &method, path).status().as_u16()
    }

    #[test]
    fn readiness_says_what_is_missing() {
        assert_eq!(status(Ok(()), Audience::Network, Method::GET, "/readyz"), 200);
        assert_eq!(status(Err("no map yet"), Audience::Network, Method::GET, "/readyz"), 503);
        assert_eq!(status(Err("no map yet"), Audience::Network, Method::GET, "/healthz"), 200);
    }

    #[test]
    fn debug_pages_stay_on_this_machine() {
        for page in ["/debug/map", "/debug/stores", "/debug/flights"] {
            assert_eq!(status(Ok(()), Audience::Machine, Method::GET, page), 200, "{page}");
            assert_eq!(status(Ok(()), Audience::Network, Method::GET, page), 404, "{page}");
        }
    }

    #[test]
    fn only_get_is_answered() {
        assert_eq!(status(Ok(()), Audience::Machine, Method::POST, "/metrics"), 405);
        assert_eq!(status(Ok(()), Audience::Machine, Method::GET, "/nothing"), 404);
    }
}
