//! Where a volume's objects are, and the identity of that place.
//!
//! Owns the shape of `origin`, its rules of immutability, and [`Origin::identity`], which volume ids are made of. Immutable: the
//! member, and bucket, account, container, prefix, endpoint and path. Mutable: region, addressing, credentials; they are no part of
//! the identity.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{DNS_SUBDOMAIN_PATTERN, PLAIN_TEXT_PATTERN, rule, rule_at};

/// The pattern of a region.
pub(crate) const REGION_PATTERN: &str = "^[A-Za-z0-9-]+$";

const BUCKET_RULE: &str = "self.matches('^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$')";
const ENDPOINT_RULE: &str = "self.matches('^https?://([a-z0-9.-]+|\\\\[[0-9a-f:.]+\\\\])(:[0-9]{1,5})?$')";
const ACCOUNT_RULE: &str = "self.matches('^[a-z0-9]{3,24}$')";
const CONTAINER_RULE: &str = "self.matches('^[a-z0-9](-?[a-z0-9])+$') && size(self) >= 3";
/// What Azure calls the blob endpoint; where the account isn't part of the host's name, it is the path.
const BLOB_ENDPOINT_RULE: &str =
    "self.matches('^https?://([a-z0-9.-]+|\\\\[[0-9a-f:.]+\\\\])(:[0-9]{1,5})?(/[a-z0-9]{3,24})?$')";
const ENDPOINT_IMMUTABLE_RULE: &str =
    "has(self.endpoint) == has(oldSelf.endpoint) && (!has(self.endpoint) || self.endpoint == oldSelf.endpoint)";
const PREFIX_RULE: &str = "!self.startsWith('/') && !self.contains('//') \
     && !('/' + self + '/').contains('/../') && !('/' + self + '/').contains('/./')";

/// Where the objects are: exactly one member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "(has(self.s3) ? 1 : 0) + (has(self.azure) ? 1 : 0) + (has(self.local) ? 1 : 0) == 1",
        "exactly one of s3, azure and local must be set",
    ),
    rule(
        "has(self.s3) == has(oldSelf.s3) && has(self.azure) == has(oldSelf.azure) && has(self.local) == has(oldSelf.local)",
        "the kind of origin is immutable: make a new CacheVolume",
    ),
]))]
pub struct Origin {
    /// A bucket of S3, or of anything that speaks S3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Origin>,

    /// A container of Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureOrigin>,

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

/// A container of Azure Blob Storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule_at(ENDPOINT_IMMUTABLE_RULE, "endpoint is immutable: make a new CacheVolume", ".endpoint"),
]))]
pub struct AzureOrigin {
    /// Name of the storage account. Immutable.
    #[schemars(
        length(min = 1, max = 24),
        extend("x-kubernetes-validations" = [
            rule(ACCOUNT_RULE, "account must be 3 to 24 lower-case letters and digits"),
            rule("self == oldSelf", "account is immutable: make a new CacheVolume"),
        ])
    )]
    pub account: String,

    /// Name of the container. Immutable.
    #[schemars(
        length(min = 1, max = 63),
        extend("x-kubernetes-validations" = [
            rule(CONTAINER_RULE, "container must be 3 to 63 lower-case letters, digits and single hyphens between them"),
            rule("self == oldSelf", "container is immutable: make a new CacheVolume"),
        ])
    )]
    pub container: String,

    /// The folder of the container that is the volume's root; a slash at its end makes no difference. Immutable.
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

    /// URL of the account's blob service (Azure's "blob endpoint"), as in `https://account.blob.core.chinacloudapi.cn`, or
    /// `http://127.0.0.1:10000/account` for Azurite. Immutable. Absent: the public cloud's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        extend("x-kubernetes-validations" = [
            rule(BLOB_ENDPOINT_RULE, "endpoint must be http(s)://host or http(s)://host:port, in lower case, with /account at its end where the host isn't the account's own"),
        ])
    )]
    pub endpoint: Option<String>,

    /// What requests are signed with.
    pub credentials: AzureCredentials,
}

/// What requests to Azure are signed with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureCredentials {
    /// A Secret in the volume's namespace with one key: accountKey, or sasToken (a shared access signature that may read and list).
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
    /// Azure Blob Storage.
    Azure(&'a AzureOrigin),
    /// A local directory.
    Local(&'a LocalOrigin),
}

impl Origin {
    /// The one member; `None` when there is none or more than one: the schema refuses that, a newer version may have more kinds.
    #[must_use]
    pub fn member(&self) -> Option<OriginMember<'_>> {
        let s3 = self.s3.as_ref().map(OriginMember::S3);
        let azure = self.azure.as_ref().map(OriginMember::Azure);
        let mut members = s3.into_iter().chain(azure).chain(self.local.as_ref().map(OriginMember::Local));
        members.next().filter(|_| members.next().is_none())
    }

    /// The place, as one string of its immutable fields; volume ids hash it, so it may never change for a given place.
    ///
    /// | member | string |
    /// |---|---|
    /// | s3 | `s3` NUL endpoint (empty = AWS) NUL bucket NUL key prefix (empty, or ending in one slash) |
    /// | azure | `azure` NUL endpoint (empty = the public cloud) NUL account NUL container NUL key prefix (as for s3) |
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
            OriginMember::Azure(azure) => {
                let endpoint = azure.endpoint.as_deref().unwrap_or_default();
                format!("azure\0{endpoint}\0{}\0{}\0{}", azure.account, azure.container, azure.key_prefix())
            }
            OriginMember::Local(local) => format!("local\0{}", local.directory()),
        })
    }

    /// The place for people: `s3://bucket/prefix`, `azure://account/container/prefix`, `file:///path`. `None` as [`Origin::member`].
    #[must_use]
    pub fn text(&self) -> Option<String> {
        Some(match self.member()? {
            OriginMember::S3(s3) => {
                let place = format!("s3://{}/{}", s3.bucket, s3.prefix);
                place.trim_end_matches('/').to_owned()
            }
            OriginMember::Azure(azure) => {
                let place = format!("azure://{}/{}/{}", azure.account, azure.container, azure.prefix);
                place.trim_end_matches('/').to_owned()
            }
            OriginMember::Local(local) => format!("file://{}", local.directory()),
        })
    }
}

impl S3Origin {
    /// What every key of the volume begins with: empty, or the prefix with exactly one slash at its end.
    #[must_use]
    pub fn key_prefix(&self) -> String {
        folder(&self.prefix)
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

impl AzureOrigin {
    /// What every key of the volume begins with: empty, or the prefix with exactly one slash at its end.
    #[must_use]
    pub fn key_prefix(&self) -> String {
        folder(&self.prefix)
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

fn folder(prefix: &str) -> String {
    match prefix.trim_end_matches('/') {
        "" => String::new(),
        folder => format!("{folder}/"),
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
        Origin { s3: Some(s3), ..Origin::default() }
    }

    fn azure(endpoint: Option<&str>, prefix: &str) -> Origin {
        let azure = AzureOrigin {
            account: "lake".to_owned(),
            container: "models".to_owned(),
            prefix: prefix.to_owned(),
            endpoint: endpoint.map(str::to_owned),
            credentials: AzureCredentials { secret_ref: SecretRef { name: "keys".to_owned() } },
        };
        Origin { azure: Some(azure), ..Origin::default() }
    }

    fn local(path: &str) -> Origin {
        Origin { local: Some(LocalOrigin { path: path.to_owned() }), ..Origin::default() }
    }

    /// These bytes are in volume ids, hence on disks: this test may never change.
    #[test]
    fn identities_are_pinned() {
        let azurite = "http://127.0.0.1:10000/lake";
        let pinned: [(Origin, &[u8]); 7] = [
            (s3(None, ""), b"s3\0\0models\0"),
            (s3(None, "team/a"), b"s3\0\0models\0team/a/"),
            (s3(Some("https://minio.example.com:9000"), "a/"), b"s3\0https://minio.example.com:9000\0models\0a/"),
            (azure(None, ""), b"azure\0\0lake\0models\0"),
            (azure(Some(azurite), "a/b/"), b"azure\0http://127.0.0.1:10000/lake\0lake\0models\0a/b/"),
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
        assert_eq!(azure(None, "a").identity(), azure(None, "a/").identity());
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
        let mut other = azure(None, "a");
        other.azure.as_mut().expect("azure").credentials.secret_ref.name = "others".to_owned();
        assert_eq!(other.identity(), azure(None, "a").identity());
    }

    #[test]
    fn texts_are_urls() {
        assert_eq!(s3(None, "a/b/").text().as_deref(), Some("s3://models/a/b"));
        assert_eq!(s3(None, "").text().as_deref(), Some("s3://models"));
        assert_eq!(azure(None, "a/b/").text().as_deref(), Some("azure://lake/models/a/b"));
        assert_eq!(azure(None, "").text().as_deref(), Some("azure://lake/models"));
        assert_eq!(local("/srv/").text().as_deref(), Some("file:///srv"));
    }

    #[test]
    fn none_and_two_members_are_no_origin() {
        assert_eq!(Origin::default().identity(), None);
        let both = Origin { local: local("/srv").local, ..s3(None, "") };
        assert_eq!(both.member(), None);
        let both = Origin { local: local("/srv").local, ..azure(None, "") };
        assert_eq!(both.member(), None);
    }

    #[test]
    fn addressing_follows_the_endpoint_unless_said() {
        let of = |origin: &Origin| origin.s3.as_ref().expect("s3").effective_addressing();
        assert_eq!(of(&s3(None, "")), Addressing::Virtual);
        assert_eq!(of(&s3(Some("http://127.0.0.1:9000"), "")), Addressing::Path);
    }
}
