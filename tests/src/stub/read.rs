//! GET and HEAD of an object.

use http::StatusCode;
use jiff::Timestamp;

use super::answer::{Answer, Payload};
use super::errors::S3Error;
use super::objects::Object;
use super::ranges::{ConditionNames, requested};
use super::request::Request;
use super::state::State;

/// Queries of a GET that replace a header of its answer.
const OVERRIDES: [(&str, &str); 6] = [
    ("response-content-type", "content-type"),
    ("response-content-language", "content-language"),
    ("response-expires", "expires"),
    ("response-cache-control", "cache-control"),
    ("response-content-disposition", "content-disposition"),
    ("response-content-encoding", "content-encoding"),
];

/// `Last-Modified` and its like.
pub(super) fn http_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// The object, or the range of it that was asked for, under the conditions that were named.
pub(super) fn object(state: &State, request: &Request) -> Result<Answer, S3Error> {
    let (bucket, key) = (request.bucket_name(), request.key_name());
    let object = state.objects.get(bucket, key)?;
    ConditionNames::read().check(&request.headers, &object.etag, object.modified)?;
    let range = requested(request.header("range"), object.size)?;
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let mut answer = Answer::empty(status)
        .with_etag(&object.etag)
        .with("last-modified", &http_date(object.modified))
        .with("accept-ranges", "bytes");
    for (name, value) in &object.headers {
        answer = answer.with(name, value);
    }
    for (query, header) in OVERRIDES {
        if let Some(value) = request.query.get(query) {
            answer = answer.with(header, value);
        }
    }
    if range.is_none() {
        answer = with_checksum(answer, &object, request);
    }
    let (begin, end) = match range {
        Some(range) => {
            let said = format!("bytes {}-{}/{}", range.start, range.end - 1, object.size);
            answer = answer.with("content-range", &said);
            (range.start, range.end)
        }
        None => (0, object.size),
    };
    let name = format!("{bucket}/{key}").into();
    Ok(Answer { payload: Payload::Object { content: object.content.clone(), begin, end, name }, ..answer })
}

fn with_checksum(answer: Answer, object: &Object, request: &Request) -> Answer {
    let asked = request.header("x-amz-checksum-mode").is_some_and(|mode| mode.eq_ignore_ascii_case("enabled"));
    match &object.checksum {
        Some(checksum) if asked => {
            answer.with(checksum.algorithm.header(), &checksum.value).with("x-amz-checksum-type", "FULL_OBJECT")
        }
        Some(_) | None => answer,
    }
}
