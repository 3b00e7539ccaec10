//! The control lane: who calls what.

use std::convert::Infallible;

use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::{Service, ServiceExt as _};

use super::*;

/// Answers with the caller's name.
#[derive(Clone)]
struct WhoAmI;

impl NamedService for WhoAmI {
    const NAME: &'static str = "larder.test.WhoAmI";
}

impl Service<Request<Body>> for WhoAmI {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let name = request.extensions().get::<NodeName>().map_or("nobody", NodeName::as_str);
        std::future::ready(Ok(Response::new(Body::new(Full::new(Bytes::copy_from_slice(name.as_bytes()))))))
    }
}

pub(super) fn routes() -> ControlRoutes {
    ControlRoutes::new().with(WhoAmI)
}

/// Calls a method: the gRPC status (0 when the service answered) and the body.
pub(super) async fn call(client: &Client, node: NodeId, service: &str) -> Option<(String, String)> {
    let channel = client.control(node).ok()?;
    let request = Request::builder().method("POST").uri(format!("/{service}/Say")).body(Body::empty()).ok()?;
    let response = channel.oneshot(request).await.ok()?;
    let status = response.headers().get("grpc-status").map_or("0", |value| value.to_str().unwrap_or("?")).to_owned();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

#[tokio::test(start_paused = true)]
async fn members_call_services_by_name() {
    let two = two_with(routes()).await;
    let said = call(&two.alice, BOB, WhoAmI::NAME).await.expect("an answer");
    assert_eq!(said, ("0".to_owned(), "alice".to_owned()));
    let (status, _) = call(&two.alice, BOB, "larder.test.Nothing").await.expect("an answer");
    assert_eq!(status, "12", "unimplemented");
    two.bob_knows.nodes.lock().clear();
    let (status, _) = call(&two.alice, BOB, WhoAmI::NAME).await.expect("an answer");
    assert_eq!(status, "7", "permission denied");
    assert_eq!(two.bob.counts().not_members.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_channel_finds_a_peer_that_comes_back() {
    let two = two_with(routes()).await;
    assert!(call(&two.alice, BOB, WhoAmI::NAME).await.is_some());
    let alice_identity = Identity::Node(ClusterId::of("test"), node_name("alice"));
    two.net.part(&alice_identity, &two.bob_identity);
    assert!(call(&two.alice, BOB, WhoAmI::NAME).await.is_none(), "nobody to be reached");
    two.net.heal();
    let deadline = soon();
    while call(&two.alice, BOB, WhoAmI::NAME).await.is_none() {
        assert!(Instant::now() < deadline, "the channel connects again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
