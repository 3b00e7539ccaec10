//! Idle connections, kept for the next request.
//!
//! There are never more than the requests that ran at once; one that the server has closed is thrown away when it is
//! found.

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::{Body, ClientError};

/// Idle connections kept; more are closed.
const IDLE_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Connections {
    authority: String,
    idle: Mutex<Vec<SendRequest<Body>>>,
}

impl Connections {
    pub(super) fn new(authority: String) -> Connections {
        Connections { authority, idle: Mutex::new(Vec::new()) }
    }

    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Sends on an idle connection or a new one. The connection comes back with the answer: [`Connections::give_back`]
    /// it once the body has been read.
    pub(super) async fn send(
        &self,
        mut request: Request<Body>,
        method: &Method,
        key: &str,
    ) -> Result<(Response<Incoming>, SendRequest<Body>), ClientError> {
        loop {
            let (mut connection, fresh) = match self.take() {
                Some(connection) => (connection, false),
                None => (self.connect(method, key).await?, true),
            };
            if let Err(source) = connection.ready().await {
                if fresh {
                    return Err(ClientError::Broken { method: method.clone(), key: key.to_owned(), source });
                }
                continue;
            }
            match connection.try_send_request(request).await {
                Ok(response) => return Ok((response, connection)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => request = unsent,
                    Some(_) | None => {
                        let (method, key, source) = (method.clone(), key.to_owned(), error.into_error());
                        return Err(ClientError::Broken { method, key, source });
                    }
                },
            }
        }
    }

    pub(super) fn give_back(&self, connection: SendRequest<Body>) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX && !connection.is_closed() {
            idle.push(connection);
        }
    }

    fn take(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock();
        while let Some(connection) = idle.pop() {
            if !connection.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    async fn connect(&self, method: &Method, key: &str) -> Result<SendRequest<Body>, ClientError> {
        let refused = |source| ClientError::Connect { authority: self.authority.clone(), source };
        let stream = TcpStream::connect(&self.authority).await.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        let broken = |source| ClientError::Broken { method: method.clone(), key: key.to_owned(), source };
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(async move {
            // A failure is reported to the request that it hits.
            let _ = connection.await;
        });
        Ok(sender)
    }
}
