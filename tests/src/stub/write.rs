//! PUT, copy and delete of objects.

use std::sync::Arc;

use http::StatusCode;
use hyper::body::Incoming;
use jiff::Timestamp;

use super::answer::Answer;
use super::auth::Verified;
use super::errors::S3Error;
use super::objects::Object;
use super::ranges::{ConditionNames, check_write};
use super::request::{Request, copy_source};
use super::state::{Connection, State};
use super::upload::{self, Upload};
use crate::xml::{Document, leaves};

/// Keys of one batch delete, at most (S3's limit).
const BATCH_MAX: usize = 1000;
/// S3's limit on user metadata, names and values together.
const METADATA_BYTES_MAX: usize = 2048;
/// Headers of a PUT that a GET says back.
const KEPT: [&str; 6] =
    ["content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires"];

/// Times as S3 writes them in XML.
pub(super) fn xml_date(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// The headers of a PUT that belong to the object.
pub(super) fn kept_headers(request: &Request) -> Result<Vec<(String, String)>, S3Error> {
    let mut kept = Vec::new();
    let mut metadata_bytes = 0;
    for (name, value) in &request.headers {
        let name = name.as_str();
        let mut value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let metadata = name.strip_prefix("x-amz-meta-");
        if metadata.is_none() && !KEPT.contains(&name) {
            continue;
        }
        metadata_bytes += metadata.map_or(0, |name| name.len() + value.len());
        if name == "content-encoding" {
            value = value.split(',').map(str::trim).filter(|one| *one != "aws-chunked").collect::<Vec<_>>().join(",");
        }
        if !value.is_empty() {
            kept.push((name.to_owned(), value));
        }
    }
    if metadata_bytes > METADATA_BYTES_MAX {
        return Err(S3Error::InvalidRequest { why: "Your metadata headers exceed the maximum allowed metadata size" });
    }
    if !kept.iter().any(|(name, _)| name == "content-type") {
        kept.push(("content-type".to_owned(), "binary/octet-stream".to_owned()));
    }
    Ok(kept)
}

/// Reads the body and counts it.
pub(super) async fn receive(
    connection: &Connection,
    request: &Request,
    verified: Verified,
    body: Incoming,
) -> Result<Upload, S3Error> {
    let upload = upload::read(request, verified, body, &[&connection.state.up, &connection.up]).await?;
    connection.state.counters.received(upload.body.len() as u64);
    Ok(upload)
}

/// PutObject.
pub(super) async fn put(
    connection: &Connection,
    request: &Request,
    verified: Verified,
    body: Incoming,
) -> Result<Answer, S3Error> {
    let state = &connection.state;
    let (bucket, key) = (request.bucket_name(), request.key_name());
    let headers = kept_headers(request)?;
    // Refused before the body is read where that is already certain; decided for good under the lock below.
    state.objects.read(bucket, |bucket| check_write(&request.headers, key, bucket.etag(key)))??;
    let Upload { body, md5, checksum } = receive(connection, request, verified, body).await?;
    let size = body.len() as u64;
    let content = state.keep(body).await.map_err(|_| S3Error::InternalError)?;
    let object = Object { content, size, etag: md5.clone(), modified: Timestamp::now(), headers, checksum };
    let mut answer = Answer::empty(StatusCode::OK).with_etag(&md5);
    if let Some(checksum) = &object.checksum {
        answer = answer.with(checksum.algorithm.header(), &checksum.value).with("x-amz-checksum-type", "FULL_OBJECT");
    }
    state.objects.write(bucket, |bucket| {
        check_write(&request.headers, key, bucket.etag(key))?;
        bucket.insert(key, object);
        Ok(())
    })?;
    Ok(answer)
}

/// The object that a copy is made of, its conditions checked.
pub(super) fn source(state: &State, request: &Request) -> Result<Arc<Object>, S3Error> {
    let header = request.header("x-amz-copy-source").unwrap_or("");
    let (bucket, key) = copy_source(header)?;
    let source = state.objects.get(&bucket, &key)?;
    match ConditionNames::copy_source().check(&request.headers, &source.etag, source.modified) {
        // A copy has no cached answer to fall back on: S3 refuses where a read would be "not modified".
        Err(S3Error::NotModified { .. }) => Err(S3Error::PreconditionFailed),
        other => other.map(|()| source),
    }
}

/// CopyObject: the bytes are shared, not copied.
pub(super) fn copy(state: &State, request: &Request) -> Result<Answer, S3Error> {
    let (bucket, key) = (request.bucket_name(), request.key_name());
    let source = source(state, request)?;
    let replace = request.header("x-amz-metadata-directive").is_some_and(|word| word.eq_ignore_ascii_case("replace"));
    let itself = copy_source(request.header("x-amz-copy-source").unwrap_or(""))? == (bucket.to_owned(), key.to_owned());
    if itself && !replace {
        return Err(S3Error::InvalidRequest {
            why: "This copy request is illegal because it is trying to copy an object to itself without changing it",
        });
    }
    let headers = if replace { kept_headers(request)? } else { source.headers.clone() };
    let object = Object { headers, modified: Timestamp::now(), ..Object::clone(&source) };
    let mut document = Document::new("CopyObjectResult");
    document.leaf("LastModified", xml_date(object.modified)).leaf("ETag", format!("\"{}\"", object.etag));
    state.objects.write(bucket, |bucket| {
        check_write(&request.headers, key, bucket.etag(key))?;
        bucket.insert(key, object);
        Ok(())
    })?;
    Ok(Answer::document(document))
}

/// DeleteObject: an object that isn't there is deleted all the same.
pub(super) fn delete(state: &State, request: &Request) -> Result<Answer, S3Error> {
    let key = request.key_name();
    state.objects.write(request.bucket_name(), |bucket| {
        if request.headers.contains_key("if-match") {
            check_write(&request.headers, key, bucket.etag(key))?;
        }
        bucket.objects.remove(key.as_bytes());
        Ok(())
    })?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

/// DeleteObjects: up to 1,000 keys in one document.
pub(super) async fn delete_batch(
    connection: &Connection,
    request: &Request,
    verified: Verified,
    body: Incoming,
) -> Result<Answer, S3Error> {
    let upload = upload::read(request, verified, body, &[]).await?;
    let found = leaves(&upload.body)?;
    let keys: Vec<&str> =
        found.iter().filter(|(path, _)| path == "Delete/Object/Key").map(|(_, key)| key.as_str()).collect();
    if keys.is_empty() || keys.len() > BATCH_MAX {
        return Err(S3Error::MalformedXml);
    }
    let quiet = found.iter().any(|(path, text)| path == "Delete/Quiet" && text == "true");
    connection.state.objects.write(request.bucket_name(), |bucket| {
        for key in &keys {
            bucket.objects.remove(key.as_bytes());
        }
        Ok(())
    })?;
    let mut document = Document::new("DeleteResult");
    for key in keys.iter().filter(|_| !quiet) {
        document.open("Deleted").leaf("Key", key).close();
    }
    Ok(Answer::document(document))
}
