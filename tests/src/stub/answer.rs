//! An answer before it becomes HTTP: status, headers, and where its bytes are. Errors become S3's error document here.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::content::Content;
use super::errors::S3Error;
use super::request::Request;
use crate::xml::Document;

/// The body of an answer.
pub(super) enum Payload {
    Empty,
    Text(String),
    /// Bytes `begin..end` of an object; `name` is its `bucket/key`.
    Object {
        content: Content,
        begin: u64,
        end: u64,
        name: Arc<str>,
    },
}

/// An answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
}

impl Answer {
    pub(super) fn empty(status: StatusCode) -> Answer {
        Answer { status, headers: HeaderMap::new(), payload: Payload::Empty }
    }

    pub(super) fn document(document: Document) -> Answer {
        let payload = Payload::Text(document.finish());
        Answer { payload, ..Answer::empty(StatusCode::OK) }.with("content-type", "application/xml")
    }

    pub(super) fn json(text: String) -> Answer {
        Answer { payload: Payload::Text(text), ..Answer::empty(StatusCode::OK) }
            .with("content-type", "application/json")
    }

    /// Sets a header; one whose name or value HTTP can't carry is left out.
    pub(super) fn with(mut self, name: &str, value: &str) -> Answer {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) {
            self.headers.insert(name, value);
        }
        self
    }

    pub(super) fn with_etag(self, etag: &str) -> Answer {
        self.with("etag", &format!("\"{etag}\""))
    }

    /// Bytes that the body will have.
    pub(super) fn len(&self) -> u64 {
        match &self.payload {
            Payload::Empty => 0,
            Payload::Text(text) => text.len() as u64,
            Payload::Object { begin, end, .. } => end - begin,
        }
    }

    /// The body as a content with its bounds; `None` if it is empty.
    pub(super) fn content(self) -> Option<(Content, u64, u64, Option<Arc<str>>)> {
        match self.payload {
            Payload::Empty => None,
            Payload::Text(text) => {
                let len = text.len() as u64;
                Some((Content::Memory(Arc::from([Bytes::from(text)])), 0, len, None))
            }
            Payload::Object { content, begin, end, name } => Some((content, begin, end, Some(name))),
        }
    }

    /// S3's words for `error`.
    pub(super) fn error(error: &S3Error, request: Option<&Request>, id: u64) -> Answer {
        let answer = Answer::empty(error.status());
        if let S3Error::NotModified { etag } = error {
            return answer.with_etag(etag);
        }
        let answer = match error {
            S3Error::InvalidRange { size } => answer.with("content-range", &format!("bytes */{size}")),
            _ => answer,
        };
        if request.is_some_and(|request| request.method == Method::HEAD) {
            return answer;
        }
        let payload = Payload::Text(error_document(error, request, id).finish());
        Answer { payload, ..answer }.with(header::CONTENT_TYPE.as_str(), "application/xml")
    }
}

/// The error document, also used by the fault that sends it with status 200.
pub(super) fn error_document(error: &S3Error, request: Option<&Request>, id: u64) -> Document {
    let mut document = Document::bare("Error");
    let message = match error {
        S3Error::InvalidRequest { why } => why,
        _ => error.message(),
    };
    document.leaf("Code", error.code()).leaf("Message", message);
    match error {
        S3Error::NoSuchBucket { bucket } => {
            document.leaf("BucketName", bucket);
        }
        S3Error::NoSuchKey { key } => {
            document.leaf("Key", key);
        }
        S3Error::InvalidRange { size } => {
            document.leaf("ActualObjectSize", size.to_string());
        }
        S3Error::InvalidArgument { name } => {
            document.leaf("ArgumentName", name);
        }
        S3Error::InvalidPart { number } => {
            document.leaf("PartNumber", number.to_string());
        }
        _ => {}
    }
    if let Some(request) = request {
        document.leaf("Resource", String::from_utf8_lossy(&request.path));
    }
    document.leaf("RequestId", format!("{id:016X}"));
    document
}
