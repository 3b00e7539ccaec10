//! Multipart uploads: begin, parts, complete under conditions, abort, and the lists of both.

use http::StatusCode;
use hyper::body::Incoming;
use jiff::Timestamp;
use md5::{Digest, Md5};

use super::answer::Answer;
use super::auth::Verified;
use super::content::Content;
use super::errors::S3Error;
use super::objects::{Multipart, Object, Part};
use super::ranges::{check_write, requested};
use super::request::Request;
use super::state::{Connection, State};
use super::upload::{self, Upload};
use super::write::{kept_headers, receive, source, xml_date};
use crate::xml::{Document, leaves};

/// S3's limits: 10,000 parts, all but the last of at least 5 MiB.
const PARTS_MAX: u32 = 10_000;
const PART_BYTES_MIN: u64 = 5 << 20;

/// CreateMultipartUpload.
pub(super) fn create(state: &State, request: &Request) -> Result<Answer, S3Error> {
    let (bucket, key) = (request.bucket_name(), request.key_name());
    let id = format!("upload{:016x}", state.next_id());
    let (begun, headers) = (Timestamp::now(), kept_headers(request)?);
    let upload = Multipart { key: key.to_owned(), begun, headers, parts: Default::default() };
    state.objects.write(bucket, |bucket| bucket.begin(id.clone(), upload))?;
    let mut document = Document::new("InitiateMultipartUploadResult");
    document.leaf("Bucket", bucket).leaf("Key", key).leaf("UploadId", id);
    Ok(Answer::document(document))
}

fn upload_id(request: &Request) -> &str {
    request.query.get("uploadId").unwrap_or("")
}

fn part_number(request: &Request) -> Result<u32, S3Error> {
    let number = request.query.get("partNumber").and_then(|text| text.parse().ok());
    number.filter(|number| (1..=PARTS_MAX).contains(number)).ok_or(S3Error::InvalidArgument { name: "partNumber" })
}

fn add_part(state: &State, request: &Request, number: u32, part: Part) -> Result<(), S3Error> {
    state.objects.write(request.bucket_name(), |bucket| {
        bucket.upload(upload_id(request), request.key_name())?.parts.insert(number, part);
        Ok(())
    })
}

/// UploadPart.
pub(super) async fn part(
    connection: &Connection,
    request: &Request,
    verified: Verified,
    body: Incoming,
) -> Result<Answer, S3Error> {
    let state = &connection.state;
    let number = part_number(request)?;
    state
        .objects
        .write(request.bucket_name(), |bucket| bucket.upload(upload_id(request), request.key_name()).map(|_| ()))?;
    let Upload { body, md5, checksum } = receive(connection, request, verified, body).await?;
    let size = body.len() as u64;
    let content = state.keep(body).await.map_err(|_| S3Error::InternalError)?;
    add_part(state, request, number, Part { content, size, etag: md5.clone(), modified: Timestamp::now() })?;
    let mut answer = Answer::empty(StatusCode::OK).with_etag(&md5);
    if let Some(checksum) = checksum {
        answer = answer.with(checksum.algorithm.header(), &checksum.value);
    }
    Ok(answer)
}

/// UploadPartCopy: a whole object or a range of it becomes a part.
pub(super) async fn part_copy(connection: &Connection, request: &Request) -> Result<Answer, S3Error> {
    let state = &connection.state;
    let number = part_number(request)?;
    let source = source(state, request)?;
    let range = requested(request.header("x-amz-copy-source-range"), source.size)?.unwrap_or(0..source.size);
    let size = range.end - range.start;
    if size > upload::BODY_BYTES_MAX {
        return Err(S3Error::EntityTooLarge);
    }
    let (body, md5) = tokio::task::spawn_blocking(move || {
        let mut body = bytes::BytesMut::new();
        let mut at = range.start;
        while at < range.end {
            let piece = source.content.read(at, (range.end - at).min(1 << 20))?;
            at += piece.len() as u64;
            body.extend_from_slice(&piece);
        }
        let md5 = hex::encode(Md5::digest(&body));
        Ok::<_, std::io::Error>((body.freeze(), md5))
    })
    .await
    .map_err(|_| S3Error::InternalError)?
    .map_err(|_| S3Error::InternalError)?;
    let content = state.keep(body).await.map_err(|_| S3Error::InternalError)?;
    let modified = Timestamp::now();
    add_part(state, request, number, Part { content, size, etag: md5.clone(), modified })?;
    let mut document = Document::new("CopyPartResult");
    document.leaf("LastModified", xml_date(modified)).leaf("ETag", format!("\"{md5}\""));
    Ok(Answer::document(document))
}

/// Parts that a CompleteMultipartUpload names: (number, bare ETag), in the document's order.
fn named_parts(body: &[u8]) -> Result<Vec<(u32, String)>, S3Error> {
    let (mut named, mut number, mut etag) = (Vec::new(), None, None);
    for (path, text) in leaves(body)? {
        match path.as_str() {
            "CompleteMultipartUpload/Part/PartNumber" => number = text.trim().parse().ok(),
            "CompleteMultipartUpload/Part/ETag" => etag = Some(text.trim().trim_matches('"').to_owned()),
            "/CompleteMultipartUpload/Part" => match (number.take(), etag.take()) {
                (Some(number), Some(etag)) => named.push((number, etag)),
                _ => return Err(S3Error::MalformedXml),
            },
            _ => {}
        }
    }
    if named.is_empty() {
        return Err(S3Error::MalformedXml);
    }
    if !named.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(S3Error::InvalidPartOrder);
    }
    Ok(named)
}

/// The object that the named parts make.
fn assemble(upload: &Multipart, named: &[(u32, String)]) -> Result<Object, S3Error> {
    let mut md5 = Md5::new();
    let mut parts = Vec::with_capacity(named.len());
    for (index, (number, etag)) in named.iter().enumerate() {
        let part = upload.parts.get(number).filter(|part| part.etag == *etag);
        let part = part.ok_or(S3Error::InvalidPart { number: *number })?;
        if part.size < PART_BYTES_MIN && index + 1 < named.len() {
            return Err(S3Error::EntityTooSmall);
        }
        md5.update(hex::decode(&part.etag).map_err(|_| S3Error::InternalError)?);
        parts.push((part.content.clone(), part.size));
    }
    let content = Content::join(&parts).ok_or(S3Error::InternalError)?;
    let size = parts.iter().map(|(_, size)| size).sum();
    let etag = format!("{}-{}", hex::encode(md5.finalize()), named.len());
    let (modified, headers) = (Timestamp::now(), upload.headers.clone());
    Ok(Object { content, size, etag, modified, headers, checksum: None })
}

/// CompleteMultipartUpload, under `If-Match` or `If-None-Match: *`.
pub(super) async fn complete(
    connection: &Connection,
    request: &Request,
    verified: Verified,
    body: Incoming,
) -> Result<Answer, S3Error> {
    let (bucket, key) = (request.bucket_name(), request.key_name());
    let named = named_parts(&upload::read(request, verified, body, &[]).await?.body)?;
    let etag = connection.state.objects.write(bucket, |bucket| {
        let object = assemble(bucket.upload(upload_id(request), key)?, &named)?;
        check_write(&request.headers, key, bucket.etag(key))?;
        let etag = object.etag.clone();
        bucket.insert(key, object);
        bucket.uploads.remove(upload_id(request));
        Ok(etag)
    })?;
    let mut document = Document::new("CompleteMultipartUploadResult");
    document.leaf("Location", format!("/{bucket}/{key}")).leaf("Bucket", bucket).leaf("Key", key);
    document.leaf("ETag", format!("\"{etag}\""));
    Ok(Answer::document(document))
}

/// AbortMultipartUpload.
pub(super) fn abort(state: &State, request: &Request) -> Result<Answer, S3Error> {
    state.objects.write(request.bucket_name(), |bucket| {
        bucket.upload(upload_id(request), request.key_name())?;
        bucket.uploads.remove(upload_id(request));
        Ok(())
    })?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

/// ListParts.
pub(super) fn list_parts(state: &State, request: &Request) -> Result<Answer, S3Error> {
    let (bucket, key) = (request.bucket_name(), request.key_name());
    let max = request.query.number("max-parts")?.unwrap_or(1000).min(1000);
    let marker = request.query.number("part-number-marker")?.unwrap_or(0);
    let parts = state.objects.write(bucket, |bucket| Ok(bucket.upload(upload_id(request), key)?.parts.clone()))?;
    let mut rest = parts.iter().filter(|(number, _)| u64::from(**number) > marker);
    let mut document = Document::new("ListPartsResult");
    document.leaf("Bucket", bucket).leaf("Key", key).leaf("UploadId", upload_id(request));
    document.leaf("PartNumberMarker", marker.to_string()).leaf("MaxParts", max.to_string());
    let mut last = marker;
    for (number, part) in rest.by_ref().take(usize::try_from(max).unwrap_or(1000)) {
        last = u64::from(*number);
        document.open("Part").leaf("PartNumber", number.to_string()).leaf("LastModified", xml_date(part.modified));
        document.leaf("ETag", format!("\"{}\"", part.etag)).leaf("Size", part.size.to_string()).close();
    }
    let truncated = rest.next().is_some();
    document.leaf("NextPartNumberMarker", last.to_string()).leaf("IsTruncated", truncated.to_string());
    Ok(Answer::document(document))
}

/// ListMultipartUploads: all of them in one page (there are at most 10,000).
pub(super) fn list_uploads(state: &State, request: &Request) -> Result<Answer, S3Error> {
    let bucket = request.bucket_name();
    let prefix = request.query.get("prefix").unwrap_or("");
    let uploads = state.objects.read(bucket, |bucket| {
        let uploads = bucket.uploads.iter().filter(|(_, upload)| upload.key.starts_with(prefix));
        let mut uploads: Vec<_> = uploads.map(|(id, u)| (u.key.clone(), id.clone(), u.begun)).collect();
        uploads.sort();
        uploads
    })?;
    let mut document = Document::new("ListMultipartUploadsResult");
    document.leaf("Bucket", bucket).leaf("Prefix", prefix).leaf("IsTruncated", "false");
    for (key, id, begun) in uploads {
        document.open("Upload").leaf("Key", key).leaf("UploadId", id).leaf("Initiated", xml_date(begun)).close();
    }
    Ok(Answer::document(document))
}
