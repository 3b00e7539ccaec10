//! Two services on one socket: which one is meant stands in the request's path.

use std::convert::Infallible;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

use crate::identity::Identity;
use crate::node::Node;
use crate::proto::csi::identity_server::IdentityServer;
use crate::proto::csi::node_server::NodeServer;

/// Bytes of one request: the kubelet's are a few KiB.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// What is served on the plugin's socket.
#[derive(Clone)]
pub struct Plugin {
    identity: IdentityServer<Identity>,
    node: NodeServer<Node>,
}

impl Plugin {
    /// Both services.
    pub fn new(identity: Identity, node: Node) -> Self {
        Self {
            identity: IdentityServer::new(identity).max_decoding_message_size(REQUEST_BYTES_MAX),
            node: NodeServer::new(node).max_decoding_message_size(REQUEST_BYTES_MAX),
        }
    }
}

impl Service<http::Request<Body>> for Plugin {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
        match service.as_str() {
            <IdentityServer<Identity> as NamedService>::NAME => self.identity.call(request),
            <NodeServer<Node> as NamedService>::NAME => self.node.call(request),
            _ => Box::pin(async move { Ok(Status::unimplemented(format!("{service} isn't served here")).into_http()) }),
        }
    }
}
