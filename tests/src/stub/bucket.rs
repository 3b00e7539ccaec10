//! Operations on buckets: the list of them, creating, deleting, and both versions of ListObjects.

use std::sync::Arc;

use http::StatusCode;

use super::answer::Answer;
use super::errors::S3Error;
use super::listing::{Ask, From, PAGE_ENTRIES, page};
use super::objects::Object;
use super::request::Request;
use super::state::State;
use super::write::xml_date;
use crate::sigv4::{Slash, encode};
use crate::xml::Document;

/// ListBuckets.
pub(super) fn list(state: &State) -> Answer {
    let mut document = Document::new("ListAllMyBucketsResult");
    document.open("Owner").leaf("ID", "larder").leaf("DisplayName", "larder").close().open("Buckets");
    for (name, bucket) in state.objects.buckets().iter() {
        document.open("Bucket").leaf("Name", name).leaf("CreationDate", xml_date(bucket.created)).close();
    }
    Answer::document(document)
}

/// CreateBucket.
pub(super) fn create(state: &State, request: &Request) -> Result<Answer, S3Error> {
    state.objects.create_bucket(request.bucket_name())?;
    Ok(Answer::empty(StatusCode::OK).with("location", &format!("/{}", request.bucket_name())))
}

/// DeleteBucket.
pub(super) fn delete(state: &State, request: &Request) -> Result<Answer, S3Error> {
    state.objects.delete_bucket(request.bucket_name())?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

/// HeadBucket.
pub(super) fn head(state: &State, request: &Request) -> Result<Answer, S3Error> {
    state.objects.read(request.bucket_name(), |_| ())?;
    Ok(Answer::empty(StatusCode::OK).with("x-amz-bucket-region", "us-east-1"))
}

/// An empty document about an existing bucket: its location is the default one, its versioning is off.
pub(super) fn about(state: &State, request: &Request, root: &'static str) -> Result<Answer, S3Error> {
    state.objects.read(request.bucket_name(), |_| ())?;
    Ok(Answer::document(Document::new(root)))
}

/// How names are written in the answer.
#[derive(Clone, Copy)]
enum Encoding {
    Plain,
    Url,
}

impl Encoding {
    fn of(request: &Request) -> Result<Encoding, S3Error> {
        match request.query.get("encoding-type") {
            None => Ok(Encoding::Plain),
            Some("url") => Ok(Encoding::Url),
            Some(_) => Err(S3Error::InvalidArgument { name: "encoding-type" }),
        }
    }

    /// S3 writes a space as `+` and leaves slashes alone.
    fn write(self, name: &str) -> String {
        match self {
            Encoding::Plain => name.to_owned(),
            Encoding::Url => encode(name.as_bytes(), Slash::Keep).replace("%20", "+"),
        }
    }
}

/// A page, copied out from under the lock.
struct Found {
    objects: Vec<(String, Arc<Object>)>,
    prefixes: Vec<String>,
    next: Option<From>,
}

fn find(state: &State, request: &Request, from: From, max: usize) -> Result<Found, S3Error> {
    let text = |name| request.query.get(name).unwrap_or("").as_bytes();
    let ask = Ask { prefix: text("prefix"), delimiter: text("delimiter"), from, max };
    let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    state.objects.read(request.bucket_name(), |bucket| {
        let page = page(&bucket.objects, &ask);
        Found {
            objects: page.objects.iter().map(|(key, object)| (name(key), Arc::clone(object))).collect(),
            prefixes: page.prefixes.iter().map(|prefix| name(prefix)).collect(),
            next: page.next,
        }
    })
}

fn max_keys(request: &Request) -> Result<usize, S3Error> {
    let asked = request.query.number("max-keys")?.unwrap_or(u64::MAX);
    Ok(usize::try_from(asked).unwrap_or(PAGE_ENTRIES).min(PAGE_ENTRIES))
}

/// ListObjectsV2.
pub(super) fn list_objects_v2(state: &State, request: &Request) -> Result<Answer, S3Error> {
    let query = &request.query;
    let (max, encoding) = (max_keys(request)?, Encoding::of(request)?);
    let start_after = query.get("start-after").unwrap_or("");
    let from = match query.get("continuation-token") {
        Some(token) => From::parse(token).ok_or(S3Error::InvalidArgument { name: "continuation-token" })?,
        None if start_after.is_empty() => From::Start,
        None => From::Key(start_after.as_bytes().to_vec()),
    };
    let found = find(state, request, from, max)?;
    let mut document = begin(request, encoding, max, found.next.is_some());
    document.leaf("KeyCount", (found.objects.len() + found.prefixes.len()).to_string());
    if let Some(token) = query.get("continuation-token") {
        document.leaf("ContinuationToken", token);
    }
    if let Some(next) = &found.next {
        document.leaf("NextContinuationToken", next.token());
    }
    if !start_after.is_empty() {
        document.leaf("StartAfter", encoding.write(start_after));
    }
    entries(&mut document, &found, encoding, query.get("fetch-owner") == Some("true"));
    Ok(Answer::document(document))
}

/// ListObjects, the first version.
pub(super) fn list_objects(state: &State, request: &Request) -> Result<Answer, S3Error> {
    let text = |name| request.query.get(name).unwrap_or("");
    let (max, encoding) = (max_keys(request)?, Encoding::of(request)?);
    let from = From::marker(text("marker"), text("prefix"), text("delimiter"));
    let found = find(state, request, from, max)?;
    let mut document = begin(request, encoding, max, found.next.is_some());
    document.leaf("Marker", encoding.write(text("marker")));
    // S3 says the next marker only where the last key would not do.
    if let (Some(From::Key(last) | From::Prefix(last)), false) = (&found.next, text("delimiter").is_empty()) {
        document.leaf("NextMarker", encoding.write(&String::from_utf8_lossy(last)));
    }
    entries(&mut document, &found, encoding, true);
    Ok(Answer::document(document))
}

fn begin(request: &Request, encoding: Encoding, max: usize, truncated: bool) -> Document {
    let mut document = Document::new("ListBucketResult");
    document.leaf("Name", request.bucket_name());
    document.leaf("Prefix", encoding.write(request.query.get("prefix").unwrap_or("")));
    if let Some(delimiter) = request.query.get("delimiter").filter(|delimiter| !delimiter.is_empty()) {
        document.leaf("Delimiter", encoding.write(delimiter));
    }
    if let Encoding::Url = encoding {
        document.leaf("EncodingType", "url");
    }
    document.leaf("MaxKeys", max.to_string()).leaf("IsTruncated", truncated.to_string());
    document
}

fn entries(document: &mut Document, found: &Found, encoding: Encoding, owner: bool) {
    for (key, object) in &found.objects {
        document.open("Contents").leaf("Key", encoding.write(key));
        document.leaf("LastModified", xml_date(object.modified)).leaf("ETag", format!("\"{}\"", object.etag));
        document.leaf("Size", object.size.to_string()).leaf("StorageClass", "STANDARD");
        if owner {
            document.open("Owner").leaf("ID", "larder").leaf("DisplayName", "larder").close();
        }
        document.close();
    }
    for prefix in &found.prefixes {
        document.open("CommonPrefixes").leaf("Prefix", encoding.write(prefix)).close();
    }
}
