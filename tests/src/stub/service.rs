//! One request from head to answer: parse, verify, count, delay, spoil, carry out.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use jiff::Timestamp;
use tracing::debug;

use super::answer::{Answer, error_document};
use super::auth::{Verified, verify};
use super::body::{Body, respond};
use super::errors::S3Error;
use super::faults::FaultAction;
use super::operation::Operation;
use super::request::Request;
use super::state::Connection;
use super::{bucket, control, multipart, read, write};
use crate::xml::Document;

/// Of an upload that is refused without being kept, at most this much is read so that its sender hears the refusal.
const DRAIN_BYTES_MAX: usize = 64 << 20;

/// Answers one request; every failure is an answer too.
pub(super) async fn serve(
    connection: Arc<Connection>,
    request: hyper::Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    if parts.uri.path().starts_with(control::PREFIX) {
        return Ok(respond(&connection, control::serve(&connection.state, &parts, body).await, None, None));
    }
    let id = connection.state.next_id();
    let request = match Request::parse(&parts) {
        Ok(request) => request,
        Err(error) => {
            return Ok(respond(&connection, Answer::error(&error, None, id), None, None));
        }
    };
    let operation = Operation::of(&request);
    let (outcome, fault) = perform(&connection, &request, operation, body).await;
    let answer = outcome.unwrap_or_else(|error| {
        debug!(%error, ?operation, key = request.key_name(), "refused");
        Answer::error(&error, Some(&request), id)
    });
    let answer = answer.with("x-amz-request-id", &format!("{id:016X}")).with("server", "stub-s3");
    let head = (request.method == Method::HEAD).then(|| answer.len());
    Ok(respond(&connection, answer, fault.as_ref(), head))
}

/// The outcome, and the fault that its body is still to suffer.
async fn perform(
    connection: &Arc<Connection>,
    request: &Request,
    operation: Operation,
    body: Incoming,
) -> (Result<Answer, S3Error>, Option<FaultAction>) {
    let state = &connection.state;
    let verified = verify(request, &state.credentials.read(), Timestamp::now());
    tokio::time::sleep(state.latency()).await;
    let verified = match verified {
        Ok(verified) => verified,
        Err(error) => {
            state.counters.denied();
            drain(body).await;
            return (Err(error), None);
        }
    };
    state.counters.request(operation, request.bucket_name(), request.key.as_deref());
    let fault = state.faults.pick(request.method.as_str(), operation, fault_key(request));
    if fault.is_some() {
        state.counters.faulted();
    }
    match &fault {
        Some(FaultAction::Status { code }) => {
            drain(body).await;
            return (Err(refusal(*code)), None);
        }
        Some(FaultAction::ErrorBody) => {
            drain(body).await;
            let document = error_document(&S3Error::InternalError, Some(request), state.next_id());
            return (Ok(Answer::document(document)), None);
        }
        Some(FaultAction::Hang) => std::future::pending().await,
        Some(FaultAction::Delay { ms }) => tokio::time::sleep(Duration::from_millis(*ms)).await,
        Some(
            FaultAction::Reset { .. }
            | FaultAction::ShortBody { .. }
            | FaultAction::WrongLength { .. }
            | FaultAction::WrongEtag
            | FaultAction::Drip { .. },
        )
        | None => {}
    }
    (carry_out(connection, request, operation, verified, body).await, fault)
}

/// What a rule's glob is compared with: the key, or the prefix of a listing.
fn fault_key(request: &Request) -> &str {
    request.key.as_deref().or(request.query.get("prefix")).unwrap_or("")
}

fn refusal(status: u16) -> S3Error {
    match status {
        403 => S3Error::AccessDenied,
        429 => S3Error::TooManyRequests,
        500 => S3Error::InternalError,
        503 => S3Error::SlowDown,
        status => S3Error::Injected { status },
    }
}

async fn drain(mut body: Incoming) {
    let mut seen = 0;
    while let Some(Ok(frame)) = body.frame().await {
        seen += frame.data_ref().map_or(0, |data| data.len());
        if seen > DRAIN_BYTES_MAX {
            return;
        }
    }
}

async fn carry_out(
    connection: &Arc<Connection>,
    request: &Request,
    operation: Operation,
    verified: Verified,
    body: Incoming,
) -> Result<Answer, S3Error> {
    let state = &connection.state;
    match operation {
        Operation::ListBuckets => Ok(bucket::list(state)),
        Operation::CreateBucket => {
            drain(body).await;
            bucket::create(state, request)
        }
        Operation::HeadBucket => bucket::head(state, request),
        Operation::DeleteBucket => bucket::delete(state, request),
        Operation::GetBucketLocation => bucket::about(state, request, "LocationConstraint"),
        Operation::GetBucketVersioning => bucket::about(state, request, "VersioningConfiguration"),
        Operation::ListObjects => bucket::list_objects(state, request),
        Operation::ListObjectsV2 => bucket::list_objects_v2(state, request),
        Operation::ListMultipartUploads => multipart::list_uploads(state, request),
        Operation::DeleteObjects => write::delete_batch(connection, request, verified, body).await,
        Operation::GetObject => read::object(state, request).inspect(|answer| count_range(connection, answer)),
        Operation::HeadObject => read::object(state, request),
        Operation::PutObject => write::put(connection, request, verified, body).await,
        Operation::CopyObject => write::copy(state, request),
        Operation::DeleteObject => write::delete(state, request),
        Operation::GetObjectTagging => {
            state.objects.get(request.bucket_name(), request.key_name())?;
            let mut document = Document::new("Tagging");
            document.open("TagSet");
            Ok(Answer::document(document))
        }
        Operation::CreateMultipartUpload => multipart::create(state, request),
        Operation::UploadPart => multipart::part(connection, request, verified, body).await,
        Operation::UploadPartCopy => multipart::part_copy(connection, request).await,
        Operation::CompleteMultipartUpload => multipart::complete(connection, request, verified, body).await,
        Operation::AbortMultipartUpload => multipart::abort(state, request),
        Operation::ListParts => multipart::list_parts(state, request),
        Operation::Unknown => {
            drain(body).await;
            Err(S3Error::NotImplemented)
        }
    }
}

fn count_range(connection: &Connection, answer: &Answer) {
    if let super::answer::Payload::Object { begin, end, name, .. } = &answer.payload
        && (answer.status == StatusCode::OK || answer.status == StatusCode::PARTIAL_CONTENT)
    {
        connection.state.counters.range(name, *begin, *end);
    }
}
