//! Where a volume's objects are, and the identity of that place.
//!
//! Owns the shape of `origin`, its rules of immutability, and [`Origin::identity`], which volume ids are made of. Immutable: the
//! member, and bucket, prefix, endpoint and path. Mutable: region, addressing, credentials; they are no part of the identity.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{DNS_SUBDOMAIN_PATTERN, PLAIN_TEXT_PATTERN, rule, rule_at};

/// The pattern of a region.
pub(crate) const REGION_PATTERN: &str = "^[A-Za-z0-9-]+$";

const BUCKET_RULE: &str = "self.matches('^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$')";
const ENDPOINT_RULE: &str = "self.matches('^https?://([a-z0-9.-]+|\\\\[[0-9a-f:.]+\\\\])(:[0-9]{1,5})?$')";
const ENDPOINT_IMMUTABLE_RULE: &str =
    "has(self.endpoint) == has(oldSelf.endpoint) && (!has(self.endpoint) || self.endpoint == oldSelf.endpoint)";
const PREFIX_RULE: &str = "!self.startsWith('/') && !self.contains('//') \
     && !('/' + self + '/').contains('/../') && !('/' + self + '/').contains('/./')";

/// Where the objects are: exactly one member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("has(self.s3) != has(self.local)", "exactly one of s3 and local must be set"),
    rule(
        "has(self.s3) == has(oldSelf.s3) && has(self.local) == has(oldSelf.local)",
        "the kind of origin is immutable: make a new CacheVolume",
    ),
]))]
pub struct Origin {
    /// A bucket of S3, or of anything that speaks S3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Origin>,

    /// A directory of this machine. Only with `larder up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalOrigin>,
}

/// A bucket of S3, or of anything that speaks S3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule_at(ENDPOINT_IMMUTABLE_RULE, "endpoint is immutable: make a new CacheVolume", ".endpoint"),
]))]
pub struct S3Origin {
    /// Name of the bucket. Immutable.
    #[schemars(
        length(min = 1, max = 63),
        extend("x-kubernetes-validations" = [
            rule(BUCKET_RULE, "bucket must be 3 to 63 lower-case letters, digits, dots and hyphens, and begin and end with a letter or digit"),
            rule("self == oldSelf", "bucket is immutable: make a new CacheVolume"),
        ])
    )]
    pub bucket: String,

    /// The folder of the bucket that is the volume's root; a slash at its end makes no difference. Immutable.
    #[serde(default)]
    #[schemars(
        length(max = 512),
        regex(pattern = PLAIN_TEXT_PATTERN),
        extend("x-kubernetes-validations" = [
            rule(PREFIX_RULE, "prefix must not begin with /, nor contain an empty, . or .. part"),
            rule("self == oldSelf", "prefix is immutable: make a new CacheVolume"),
        ])
    )]
    pub prefix: String,

    /// Region that requests are signed for. Most servers other than AWS ignore it.
    #[serde(default = "default_region")]
    #[schemars(length(min = 1, max = 64), regex(pattern = REGION_PATTERN))]
    pub region: String,

    /// URL of the server, as in `https://minio.example.com:9000`. Immutable. Absent: AWS in the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        extend("x-kubernetes-validations" = [
            rule(ENDPOINT_RULE, "endpoint must be http(s)://host or http(s)://host:port, in lower case and without a path"),
        ])
    )]
    pub endpoint: Option<String>,

    /// Whether the bucket is part of the host name (Virtual) or of the path (Path). Absent: Path if there is an endpoint, else
    /// Virtual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addressing: Option<Addressing>,

    /// What requests are signed with.
    pub credentials: S3Credentials,
}

/// Where a bucket's name goes in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Addressing {
    /// `https://bucket.host/key`.
    Virtual,
    /// `https://host/bucket/key`.
    Path,
    /// A value that a newer version knows; refused by the schema.
    #[serde(other, skip_serializing)]
    #[schemars(skip)]
    Unknown,
}

/// What requests to S3 are signed with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Credentials {
    /// A Secret in the volume's namespace with the keys accessKeyId and secretAccessKey, and sessionToken if there is one.
    pub secret_ref: SecretRef,
}

/// A Secret of the same namespace by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_SUBDOMAIN_PATTERN))]
    pub name: String,
}

/// A directory of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalOrigin {
    /// The directory that is the volume's root. Immutable.
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = PLAIN_TEXT_PATTERN),
        extend("x-kubernetes-validations" = [
            rule("self.startsWith('/') && !(self + '/').contains('/../')", "path must be absolute and must not contain .."),
            rule("self == oldSelf", "path is immutable: make a new CacheVolume"),
        ])
    )]
    pub path: String,
}

/// The one member of an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginMember<'a> {
    /// S3.
    S3(&'a S3Origin),
    /// A local directory.
    Local(&'a LocalOrigin),
}

impl Origin {
    /// The one member; `None` when there is none or more than one: the schema refuses that, a newer version may have more kinds.
    #[must_use]
    pub fn member(&self) -> Option<OriginMember<'_>> {
        match (&self.s3, &self.local) {
            (Some(s3), None) => Some(OriginMember::S3(s3)),
            (None, Some(local)) => Some(OriginMember::Local(local)),
            (None, None) | (Some(_), Some(_)) => None,
        }
    }

    /// The place, as one string of its immutable fields; volume ids hash it, so it may never change for a given place.
    ///
    /// | member | string |
    /// |---|---|
    /// | s3 | `s3` NUL endpoint (empty = AWS) NUL bucket NUL key prefix (empty, or ending in one slash) |
    /// | local | `local` NUL path without slashes at its end (`/` for the root) |
    ///
    /// NUL separates, because the schema keeps control characters out of all of them; the last field ends the string. `None` as
    /// [`Origin::member`].
    #[must_use]
    pub fn identity(&self) -> Option<String> {
        Some(match self.member()? {
            OriginMember::S3(s3) => {
                let endpoint = s3.endpoint.as_deref().unwrap_or_default();
                format!("s3\0{endpoint}\0{}\0{}", s3.bucket, s3.key_prefix())
            }
            OriginMember::Local(local) => format!("local\0{}", local.directory()),
        })
    }

    /// The place for people: `s3://bucket/prefix`, `file:///path`. `None` as [`Origin::member`].
    #[must_use]
    pub fn text(&self) -> Option<String> {
        Some(match self.member()? {
            OriginMember::S3(s3) => {
                let folder = s3.prefix.trim_end_matches('/');
                let slash = if folder.is_empty() { "" } else { "/" };
                format!("s3://{}{slash}{folder}", s3.bucket)
            }
            OriginMember::Local(local) => format!("file://{}", local.directory()),
        })
    }
}

impl S3Origin {
    /// What every key of the volume begins with: empty, or the prefix with exactly one slash at its end.
    #[must_use]
    pub fn key_prefix(&self) -> String {
        match self.prefix.trim_end_matches('/') {
            "" => String::new(),
            folder => format!("{folder}/"),
        }
    }

    /// The effective addressing: Path where there is an endpoint, else Virtual, unless the spec says otherwise.
    #[must_use]
    pub fn effective_addressing(&self) -> Addressing {
        match (self.addressing, &self.endpoint) {
            (Some(addressing), _) => addressing,
            (None, Some(_)) => Addressing::Path,
            (None, None) => Addressing::Virtual,
        }
    }
}

impl LocalOrigin {
    /// The directory without slashes at its end.
    #[must_use]
    pub fn directory(&self) -> &str {
        match self.path.trim_end_matches('/') {
            "" => "/",
            path => path,
        }
    }
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(endpoint: Option<&str>, prefix: &str) -> Origin {
        let s3 = S3Origin {
            bucket: "models".to_owned(),
            prefix: prefix.to_owned(),
            region: default_region(),
            endpoint: endpoint.map(str::to_owned),
            addressing: None,
            credentials: S3Credentials { secret_ref: SecretRef { name: "keys".to_owned() } },
        };
        Origin { s3: Some(s3), local: None }
    }

    fn local(path: &str) -> Origin {
        Origin { s3: None, local: Some(LocalOrigin { path: path.to_owned() }) }
    }

    /// These bytes are in volume ids, hence on disks: this test may never change.
    #[test]
    fn identities_are_pinned() {
        let pinned: [(Origin, &[u8]); 5] = [
            (s3(None, ""), b"s3\0\0models\0"),
            (s3(None, "team/a"), b"s3\0\0models\0team/a/"),
            (s3(Some("https://minio.example.com:9000"), "a/"), b"s3\0https://minio.example.com:9000\0models\0a/"),
            (local("/srv/data"), b"local\0/srv/data"),
            (local("/"), b"local\0/"),
        ];
        for (origin, bytes) in pinned {
            assert_eq!(origin.identity().expect("one member").as_bytes(), bytes);
        }
    }

    #[test]
    fn a_slash_at_the_end_makes_no_difference() {
        assert_eq!(s3(None, "a").identity(), s3(None, "a/").identity());
        assert_eq!(local("/srv").identity(), local("/srv/").identity());
    }

    #[test]
    fn mutable_fields_are_no_part_of_the_identity() {
        let mut other = s3(None, "a");
        let member = other.s3.as_mut().expect("s3");
        member.region = "eu-west-1".to_owned();
        member.addressing = Some(Addressing::Path);
        member.credentials.secret_ref.name = "others".to_owned();
        assert_eq!(other.identity(), s3(None, "a").identity());
    }

    #[test]
    fn texts_are_urls() {
        assert_eq!(s3(None, "a/b/").text().as_deref(), Some("s3://models/a/b"));
        assert_eq!(s3(None, "").text().as_deref(), Some("s3://models"));
        assert_eq!(local("/srv/").text().as_deref(), Some("file:///srv"));
    }

    #[test]
    fn none_and_two_members_are_no_origin() {
        assert_eq!(Origin::default().identity(), None);
        let both = Origin { local: local("/srv").local, ..s3(None, "") };
        assert_eq!(both.member(), None);
    }

    #[test]
    fn addressing_follows_the_endpoint_unless_said() {
        let of = |origin: &Origin| origin.s3.as_ref().expect("s3").effective_addressing();
        assert_eq!(of(&s3(None, "")), Addressing::Virtual);
        assert_eq!(of(&s3(Some("http://127.0.0.1:9000"), "")), Addressing::Path);
    }
}
