//! URLs of a container's prefix.
//!
//! Everything but unreserved characters is percent-encoded, and `/` in keys is kept. An endpoint may have a path (the
//! account, where it isn't part of the host's name): the container follows it.

use std::fmt::Write;

use larder_proto::object::{DirPath, ObjectKey};
use larder_proto::volume;
use percent_encoding::utf8_percent_encode;

use super::listing;
use crate::origin::http::{LAST, PATH, QUERY};
use crate::origin::{Cursor, OriginError, Protocol};

/// Azure's own limits of a blob's name.
const NAME_CHARACTERS_MAX: usize = 1_024;
const NAME_SEGMENTS_MAX: usize = 254;

pub(super) struct Address {
    /// The container's URL, without a slash at the end.
    base: String,
    /// What every key begins with: empty, or ending in one slash.
    key_prefix: String,
}

impl Address {
    pub(super) fn new(azure: &volume::Azure) -> Result<Self, OriginError> {
        let wrong = OriginError::Protocol(Protocol::Endpoint);
        let plain = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !plain(&azure.account) || !plain(&azure.container) {
            return Err(wrong);
        }
        let endpoint = match &azure.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://{}.blob.core.windows.net", azure.account),
        };
        let parsed = url::Url::parse(&endpoint).map_err(|_| wrong)?;
        let odd = parsed.query().is_some() || parsed.fragment().is_some() || !parsed.username().is_empty();
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none_or(str::is_empty) || odd {
            return Err(wrong);
        }
        let base = format!("{endpoint}/{}", azure.container);
        Ok(Self { base, key_prefix: azure.prefix.to_string() })
    }

    /// Whether a container can hold a key that is so long within the volume. Asking for a longer one is refused with a
    /// status that means other things too.
    pub(super) fn can_hold(&self, key: &str) -> bool {
        let name = || self.key_prefix.chars().chain(key.chars());
        name().count() <= NAME_CHARACTERS_MAX && name().filter(|c| *c == '/').count() < NAME_SEGMENTS_MAX
    }

    /// What the keys of a directory begin with in the container.
    pub(super) fn prefix(&self, dir: &DirPath) -> String {
        format!("{}{}", self.key_prefix, dir.prefix())
    }

    pub(super) fn object(&self, key: &ObjectKey) -> String {
        let (prefix, key) = (utf8_percent_encode(&self.key_prefix, PATH), utf8_percent_encode(key.as_str(), PATH));
        format!("{}/{prefix}{key}", self.base)
    }

    /// `startFrom` isn't known to every server: what comes back is filtered too.
    pub(super) fn list(&self, dir: &DirPath, from: Option<&Cursor>, limit: u16) -> String {
        let prefix = self.prefix(dir);
        let mut url =
            format!("{}?restype=container&comp=list&include=metadata&delimiter=%2F&maxresults={limit}", self.base);
        let mut add = |name: &str, value: &str| {
            write!(url, "&{name}={}", utf8_percent_encode(value, QUERY)).expect("a String takes any text");
        };
        if !prefix.is_empty() {
            add("prefix", &prefix);
        }
        match from {
            Some(Cursor::Token(token)) => add("marker", listing::marker(token)),
            Some(Cursor::After(after)) if after.ends_with('/') => add("startFrom", &format!("{prefix}{after}{LAST}")),
            Some(Cursor::After(after)) => add("startFrom", &format!("{prefix}{after}")),
            None => {}
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_proto::volume::{AzureCredentials, Secret};

    fn address(endpoint: Option<&str>) -> Result<Address, OriginError> {
        Address::new(&volume::Azure {
            account: "lake".into(),
            container: "models".into(),
            prefix: "my data/".into(),
            endpoint: endpoint.map(Into::into),
            credentials: AzureCredentials::AccountKey(Secret::new("a2V5")),
        })
    }

    #[test]
    fn keys_go_out_encoded_once() {
        let key = ObjectKey::parse("a b/100%~+#?\\*é'\"<>&=:@;,.txt").expect("plain");
        let encoded = "my%20data/a%20b/100%25~%2B%23%3F%5C%2A%C3%A9%27%22%3C%3E%26%3D%3A%40%3B%2C.txt";
        for (endpoint, base) in [
            (None, "https://lake.blob.core.windows.net/models"),
            (Some("https://lake.blob.core.chinacloudapi.cn/"), "https://lake.blob.core.chinacloudapi.cn/models"),
            (Some("http://127.0.0.1:10000/lake"), "http://127.0.0.1:10000/lake/models"),
        ] {
            let url = address(endpoint).expect("fine").object(&key);
            assert_eq!(url, format!("{base}/{encoded}"));
            assert_eq!(url::Url::parse(&url).expect("a URL").as_str(), url, "the URL parser leaves it as it is");
        }
    }

    #[test]
    fn lists_ask_for_the_page_after() {
        let address = address(Some("http://host/lake")).expect("fine");
        let dir = DirPath::parse("x").expect("plain");
        let list =
            |from: Option<Cursor>| address.list(&dir, from.as_ref(), 1000).split_off("http://host/lake/models?".len());
        let base = "restype=container&comp=list&include=metadata&delimiter=%2F&maxresults=1000&prefix=my%20data%2Fx%2F";
        assert_eq!(list(None), base);
        assert_eq!(list(Some(Cursor::Token("2!a+/=\n+stub".into()))), format!("{base}&marker=2%21a%2B%2F%3D"));
        assert_eq!(list(Some(Cursor::After("f".into()))), format!("{base}&startFrom=my%20data%2Fx%2Ff"));
        let after_dir = format!("{base}&startFrom=my%20data%2Fx%2Fd%2F%F4%8F%BF%BF");
        assert_eq!(list(Some(Cursor::After("d/".into()))), after_dir);
    }

    #[test]
    fn names_that_azure_cannot_hold_are_not_asked_for() {
        let address = address(None).expect("fine");
        assert!(address.can_hold(&"é".repeat(1_016)) && !address.can_hold(&"é".repeat(1_017)), "characters, not bytes");
        assert!(address.can_hold(&"a/".repeat(252)) && !address.can_hold(&"a/".repeat(253)));
    }

    #[test]
    fn endpoints_that_are_none_are_refused() {
        for endpoint in
            ["", "127.0.0.1:9000", "ftp://host", "http://", "http://user@host", "http://host/?x", "http://host/#x"]
        {
            assert!(address(Some(endpoint)).is_err(), "{endpoint:?}");
        }
    }
}
