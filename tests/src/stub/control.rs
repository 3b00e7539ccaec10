//! The control endpoint, `/_stub/` on the same port, unsigned: read and reset the counters, turn latency, bandwidth and
//! faults, make pattern objects. No bucket can be called `_stub`.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET counters` | | all counters and ratios |
//! | `POST reset` | | counters back to zero |
//! | `POST latency` | `{"ms": 20}` | |
//! | `POST bandwidth` | `{"total": B/s, "perConnection": B/s}` (absent or null = no cap) | |
//! | `GET faults` | | rules with their hits |
//! | `POST faults` | a list of rules, which is added | |
//! | `DELETE faults` | | all rules gone |
//! | `POST pattern` | `{"bucket"?, "key", "version", "size"}` | `{"etag"}` |

use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use thiserror::Error;

use super::answer::{Answer, Payload};
use super::errors::S3Error;
use super::faults::FaultRule;
use super::put_pattern;
use super::state::State;

/// Paths of the control endpoint begin so.
pub(super) const PREFIX: &str = "/_stub/";
/// Longest body.
const BODY_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Error)]
enum ControlError {
    #[error("no such control: {method} {path}")]
    Unknown { method: Method, path: String },
    #[error("the body can't be read, or is longer than {BODY_BYTES_MAX} bytes")]
    Body,
    #[error("the body is not what this control takes: {0}")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Refused(#[from] S3Error),
}

impl ControlError {
    fn status(&self) -> StatusCode {
        match self {
            ControlError::Unknown { .. } => StatusCode::NOT_FOUND,
            ControlError::Body | ControlError::Json(_) => StatusCode::BAD_REQUEST,
            ControlError::Refused(error) => error.status(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Latency {
    ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Bandwidth {
    total: Option<u64>,
    per_connection: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pattern {
    bucket: Option<String>,
    key: String,
    version: u64,
    size: u64,
}

/// Answers a control request.
pub(super) async fn serve(state: &State, parts: &Parts, body: Incoming) -> Answer {
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map(|body| body.to_bytes());
    let outcome = body.map_err(|_| ControlError::Body).and_then(|body| control(state, parts, &body));
    outcome.unwrap_or_else(|error| {
        let payload = Payload::Text(json!({ "error": error.to_string() }).to_string());
        Answer { payload, ..Answer::empty(error.status()) }.with("content-type", "application/json")
    })
}

fn control(state: &State, parts: &Parts, body: &Bytes) -> Result<Answer, ControlError> {
    let name = parts.uri.path().strip_prefix(PREFIX).unwrap_or("");
    let done = || Answer::json("{}".to_owned());
    match (&parts.method, name) {
        (&Method::GET, "counters") => Ok(Answer::json(counters(state)?)),
        (&Method::POST, "reset") => {
            state.counters.reset();
            Ok(done())
        }
        (&Method::POST, "latency") => {
            state.set_latency(Duration::from_millis(parse::<Latency>(body)?.ms));
            Ok(done())
        }
        (&Method::POST, "bandwidth") => {
            let bandwidth: Bandwidth = parse(body)?;
            state.set_bandwidth(bandwidth.total, bandwidth.per_connection);
            Ok(done())
        }
        (&Method::GET, "faults") => Ok(Answer::json(serde_json::to_string(&state.faults.report())?)),
        (&Method::POST, "faults") => {
            for rule in parse::<Vec<FaultRule>>(body)? {
                state.faults.add(rule);
            }
            Ok(done())
        }
        (&Method::DELETE, "faults") => {
            state.faults.clear();
            Ok(done())
        }
        (&Method::POST, "pattern") => {
            let Pattern { bucket, key, version, size } = parse(body)?;
            let etag = put_pattern(state, bucket.as_deref().unwrap_or(&state.bucket), &key, version, size)?;
            Ok(Answer::json(json!({ "etag": etag }).to_string()))
        }
        (method, _) => Err(ControlError::Unknown { method: method.clone(), path: parts.uri.path().to_owned() }),
    }
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, ControlError> {
    Ok(serde_json::from_slice(body)?)
}

fn counters(state: &State) -> Result<String, ControlError> {
    let counters = state.counters.snapshot();
    let mut value = serde_json::to_value(&counters)?;
    value["byteAmplification"] = json!(counters.byte_amplification());
    value["getAmplification"] = json!(counters.get_amplification());
    value["getsPerChunk4MiB"] = json!(counters.gets_per_chunk(4 << 20));
    Ok(value.to_string())
}
