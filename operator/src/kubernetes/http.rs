//! `/healthz`, `/readyz` and `/metrics`. Nothing else, no secrets, read only.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Probes and scrapers are few.
const CONNECTIONS_MAX: usize = 64;

const HEADER: Duration = Duration::from_secs(10);

/// What is asked for.
pub struct Pages {
    /// Whether the watches have delivered everything once.
    pub(super) ready: AtomicBool,
    /// The metrics' text.
    pub(super) metrics: Box<dyn Fn() -> String + Send + Sync>,
}

impl Pages {
    fn answer(&self, request: &Request<Incoming>) -> (StatusCode, String) {
        if request.method() != Method::GET {
            return (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
        }
        match request.uri().path() {
            "/healthz" => (StatusCode::OK, "ok\n".into()),
            "/readyz" if self.ready.load(Ordering::Relaxed) => (StatusCode::OK, "ok\n".into()),
            "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "the API server's objects aren't known yet\n".into()),
            "/metrics" => (StatusCode::OK, (self.metrics)()),
            _ => (StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n".into()),
        }
    }
}

/// Listens at `at`; port 0 takes any free one.
pub async fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(at).await
}

/// Answers until it is stopped.
pub async fn serve(listener: TcpListener, pages: Arc<Pages>, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! { biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        // Full: who comes now is hung up on, and a probe asks again.
        let Ok(permit) = room.clone().try_acquire_owned() else { continue };
        let (pages, stop) = (pages.clone(), stop.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(move |request: Request<Incoming>| {
                let (status, text) = pages.answer(&request);
                let mut response = Response::new(Full::new(Bytes::from(text)));
                *response.status_mut() = status;
                async move { Ok::<_, Infallible>(response) }
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER);
            tokio::select! { biased;
                () = stop.cancelled() => {}
                // Who hangs up in the middle has his reasons.
                _ = server.serve_connection(TokioIo::new(stream), service) => {}
            }
        });
    }
}
