//! A request line and headers, decoded: bucket, key, query. Path style only (`/bucket/key`), as clients do for an
//! endpoint that is an address.

use http::request::Parts;
use http::{HeaderMap, Method};

use super::errors::S3Error;
use crate::sigv4;

/// S3's limit on a key, in bytes.
pub(super) const KEY_BYTES_MAX: usize = 1024;

/// Decoded names and values of a query, in the order they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(pub(super) Vec<(String, String)>);

impl Query {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A number; `None` if absent.
    pub(super) fn number(&self, name: &'static str) -> Result<Option<u64>, S3Error> {
        self.get(name).map(|text| text.parse().map_err(|_| S3Error::InvalidArgument { name })).transpose()
    }

    fn parse(text: &str) -> Result<Query, S3Error> {
        let decode = |part: &str| String::from_utf8(sigv4::decode_form(part)).map_err(|_| S3Error::InvalidUri);
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        pairs.collect::<Result<_, _>>().map(Query)
    }
}

/// A request without its body.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    /// Decoded, with its leading slash: what was signed.
    pub(super) path: Vec<u8>,
    pub(super) bucket: Option<String>,
    pub(super) key: Option<String>,
    pub(super) query: Query,
    pub(super) headers: HeaderMap,
}

impl Request {
    /// Errors: `InvalidUri` for what isn't UTF-8 once decoded, `KeyTooLong`.
    pub(super) fn parse(parts: &Parts) -> Result<Request, S3Error> {
        let path = sigv4::decode(parts.uri.path());
        let (bucket, key) = split(parts.uri.path())?;
        if key.as_ref().is_some_and(|key| key.len() > KEY_BYTES_MAX) {
            return Err(S3Error::KeyTooLong);
        }
        let query = Query::parse(parts.uri.query().unwrap_or(""))?;
        Ok(Request { method: parts.method.clone(), path, bucket, key, query, headers: parts.headers.clone() })
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn bucket_name(&self) -> &str {
        self.bucket.as_deref().unwrap_or("")
    }

    pub(super) fn key_name(&self) -> &str {
        self.key.as_deref().unwrap_or("")
    }
}

/// Bucket and key of a raw path. The first slash behind the bucket ends it; all others belong to the key.
fn split(path: &str) -> Result<(Option<String>, Option<String>), S3Error> {
    let decode = |part: &str| String::from_utf8(sigv4::decode(part)).map_err(|_| S3Error::InvalidUri);
    let rest = path.strip_prefix('/').ok_or(S3Error::InvalidUri)?;
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let some = |part: &str| {
        if part.is_empty() { Ok(None) } else { decode(part).map(Some) }
    };
    Ok((some(bucket)?, some(key)?))
}

/// Bucket and key of `x-amz-copy-source`: `bucket/key` or `/bucket/key`, percent-encoded; a version is refused.
pub(super) fn copy_source(header: &str) -> Result<(String, String), S3Error> {
    let refused = S3Error::InvalidArgument { name: "x-amz-copy-source" };
    if header.contains("?versionId=") {
        return Err(S3Error::NotImplemented);
    }
    let path = format!("/{}", header.strip_prefix('/').unwrap_or(header));
    match split(&path)? {
        (Some(bucket), Some(key)) => Ok((bucket, key)),
        _ => Err(refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(uri: &str) -> Result<Request, S3Error> {
        Request::parse(&http::Request::get(uri).body(()).unwrap().into_parts().0)
    }

    #[test]
    fn odd_keys_arrive_whole() {
        for (uri, key) in [
            ("/b/a//b", "a//b"),
            ("/b//a", "/a"),
            ("/b/../x", "../x"),
            ("/b/dir/", "dir/"),
            ("/b/a%20b+c%2Bd%25", "a b+c+d%"),
            ("/b/%C3%A9", "é"),
            ("/b/a%2Fb", "a/b"),
            ("/b/%01", "\u{1}"),
        ] {
            let request = parse(uri).unwrap();
            assert_eq!((request.bucket_name(), request.key_name()), ("b", key));
        }
        let long = format!("/b/{}", "k".repeat(1024));
        assert_eq!(parse(&long).unwrap().key_name().len(), 1024);
        assert_eq!(parse(&format!("{long}k")).unwrap_err(), S3Error::KeyTooLong);
        assert_eq!(parse("/b/%ff").unwrap_err(), S3Error::InvalidUri);
    }

    #[test]
    fn a_bucket_has_no_key() {
        for uri in ["/b", "/b/", "/b?list-type=2&prefix=a%2Fb+c&x"] {
            let request = parse(uri).unwrap();
            assert_eq!((request.bucket_name(), request.key.as_deref()), ("b", None), "{uri}");
        }
        let request = parse("/b?list-type=2&prefix=a%2Fb+c&x").unwrap();
        assert_eq!(request.query.get("prefix"), Some("a/b c"));
        assert!(request.query.has("x") && !request.query.has("y"));
        assert_eq!(parse("/").unwrap().bucket, None);
    }

    #[test]
    fn copy_sources() {
        assert_eq!(copy_source("b/a%2Bc/d"), Ok(("b".into(), "a+c/d".into())));
        assert_eq!(copy_source("/b/k"), Ok(("b".into(), "k".into())));
        assert!(copy_source("b").is_err());
        assert_eq!(copy_source("b/k?versionId=1"), Err(S3Error::NotImplemented));
    }
}
