//! URLs of a bucket's prefix.
//!
//! Everything but S3's unreserved characters is percent-encoded, and `/` in keys is kept: the one form that the signer,
//! the client and the server all read alike (an encoded key never holds a dot segment, which URL parsers would remove:
//! an [`ObjectKey`] has none, and neither has a volume's prefix).

use std::fmt::Write;

use larder_proto::limits::KEY_BYTES_MAX;
use larder_proto::object::{DirPath, ObjectKey};
use larder_proto::volume;
use percent_encoding::utf8_percent_encode;

use crate::origin::http::{LAST, PATH, QUERY};
use crate::origin::{Cursor, OriginError, Protocol};

pub(super) struct Address {
    /// Scheme, host and, with path style, the bucket; without a slash at the end.
    base: String,
    /// What every key begins with: empty, or ending in one slash.
    key_prefix: String,
}

impl Address {
    pub(super) fn new(s3: &volume::S3) -> Result<Self, OriginError> {
        let wrong = OriginError::Protocol(Protocol::Endpoint);
        let endpoint = match &s3.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://s3.{}.amazonaws.com", s3.region),
        };
        let (scheme, host) = endpoint.split_once("://").ok_or(wrong)?;
        if !matches!(scheme, "http" | "https") || s3.bucket.is_empty() || s3.bucket.contains('/') {
            return Err(wrong);
        }
        let bucket = utf8_percent_encode(&s3.bucket, QUERY);
        let base = if s3.path_style { format!("{endpoint}/{bucket}") } else { format!("{scheme}://{bucket}.{host}") };
        let parsed = url::Url::parse(&base).map_err(|_| wrong)?;
        if parsed.host_str().is_none_or(str::is_empty) || parsed.query().is_some() || !parsed.username().is_empty() {
            return Err(wrong);
        }
        Ok(Self { base, key_prefix: s3.prefix.to_string() })
    }

    /// Whether a bucket can hold a key that is so long within the volume. Asking for a longer one is refused with a
    /// status that means other things too.
    pub(super) fn can_hold(&self, key: &str) -> bool {
        self.key_prefix.len() + key.len() <= KEY_BYTES_MAX
    }

    /// What the keys of a directory begin with in the bucket.
    pub(super) fn prefix(&self, dir: &DirPath) -> String {
        format!("{}{}", self.key_prefix, dir.prefix())
    }

    pub(super) fn object(&self, key: &ObjectKey) -> String {
        let (prefix, key) = (utf8_percent_encode(&self.key_prefix, PATH), utf8_percent_encode(key.as_str(), PATH));
        format!("{}/{prefix}{key}", self.base)
    }

    pub(super) fn list(&self, dir: &DirPath, from: Option<&Cursor>, limit: u16) -> String {
        let prefix = self.prefix(dir);
        let mut url = format!("{}/?list-type=2&delimiter=%2F&encoding-type=url&max-keys={limit}", self.base);
        let mut add = |name: &str, value: &str| {
            write!(url, "&{name}={}", utf8_percent_encode(value, QUERY)).expect("a String takes any text");
        };
        add("prefix", &prefix);
        match from {
            Some(Cursor::Token(token)) => add("continuation-token", token),
            Some(Cursor::After(after)) if after.ends_with('/') => add("start-after", &format!("{prefix}{after}{LAST}")),
            Some(Cursor::After(after)) => add("start-after", &format!("{prefix}{after}")),
            None => {}
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_proto::volume::S3;

    fn address(endpoint: Option<&str>, path_style: bool) -> Result<Address, OriginError> {
        Address::new(&S3 {
            bucket: "bucket".into(),
            prefix: "my data/".into(),
            region: "eu-west-1".into(),
            endpoint: endpoint.map(Into::into),
            path_style,
            credentials: None,
        })
    }

    #[test]
    fn keys_go_out_encoded_once() {
        let key = ObjectKey::parse("a b/100%~+#?\\*é'\"<>&=:@;,.txt").expect("plain");
        let path = address(Some("http://127.0.0.1:9000/"), true).expect("fine").object(&key);
        let encoded = "my%20data/a%20b/100%25~%2B%23%3F%5C%2A%C3%A9%27%22%3C%3E%26%3D%3A%40%3B%2C.txt";
        assert_eq!(path, format!("http://127.0.0.1:9000/bucket/{encoded}"));
        let parsed = url::Url::parse(&path).expect("a URL");
        assert_eq!(parsed.path(), format!("/bucket/{encoded}"), "the URL parser leaves it as it is");
        let virtual_host = address(None, false).expect("fine").object(&key);
        assert_eq!(virtual_host, format!("https://bucket.s3.eu-west-1.amazonaws.com/{encoded}"));
    }

    #[test]
    fn lists_ask_for_the_page_after() {
        let address = address(Some("http://host"), true).expect("fine");
        let dir = DirPath::parse("x").expect("plain");
        let list =
            |from: Option<Cursor>| address.list(&dir, from.as_ref(), 1000).split_off("http://host/bucket/?".len());
        let base = "list-type=2&delimiter=%2F&encoding-type=url&max-keys=1000&prefix=my%20data%2Fx%2F";
        assert_eq!(list(None), base);
        assert_eq!(list(Some(Cursor::Token("a+/=".into()))), format!("{base}&continuation-token=a%2B%2F%3D"));
        assert_eq!(list(Some(Cursor::After("f".into()))), format!("{base}&start-after=my%20data%2Fx%2Ff"));
        assert_eq!(
            list(Some(Cursor::After("d/".into()))),
            format!("{base}&start-after=my%20data%2Fx%2Fd%2F%F4%8F%BF%BF")
        );
    }

    #[test]
    fn endpoints_that_are_none_are_refused() {
        for endpoint in ["", "127.0.0.1:9000", "ftp://host", "http://", "http://user@host", "http://host/?x"] {
            assert!(address(Some(endpoint), true).is_err(), "{endpoint:?}");
        }
    }
}
