//! Names of things: clusters, nodes, volumes, objects, slots. Each is computed alike everywhere.
//!
//! Hashed fields are joined as u32 LE length + bytes, so that no two different lists of fields hash alike.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};

use crate::limits::{NODE_NAME_BYTES_MAX, SLOTS};
use crate::object::ChunkSize;

/// UUIDv5 namespace of cluster ids. A constant for ever: it decides which stores a cluster finds warm.
const CLUSTER_NAMESPACE: uuid::Uuid = uuid::Uuid::from_u128(0x6c61_7264_6572_4e53_8000_636c_7573_7465);

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The id with these bytes.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The id of a slice that is exactly 16 bytes long.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The 32 hex digits that `Display` prints.
            pub fn from_hex(text: &str) -> Option<Self> {
                let mut bytes = [0; 16];
                hex::decode_to_slice(text, &mut bytes).ok()?;
                Some(Self(bytes))
            }

            /// The raw bytes.
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

hex_id! {
    /// A volume as seen through one cluster. The same objects created again find a warm cache, another bucket a cold one.
    VolumeId
}
hex_id! {
    /// An object at a version: the first 16 bytes of SHA-256(volume id, key, version).
    ObjectId
}
hex_id! {
    /// A store: a random UUID written on its disk, independent of the node's name.
    StoreId
}

impl VolumeId {
    /// SHA-256 over cache id, namespace, name, the origin's identity and the chunk size (u32 LE), cut to 128 bits.
    pub fn of(cache_id: &str, namespace: &str, name: &str, origin_identity: &str, chunk_size: ChunkSize) -> Self {
        Self(hash_fields(&[
            cache_id.as_bytes(),
            namespace.as_bytes(),
            name.as_bytes(),
            origin_identity.as_bytes(),
            &chunk_size.bytes().to_le_bytes(),
        ]))
    }
}

impl ObjectId {
    /// The id of `key` at `version` in `volume`.
    pub fn of(volume: VolumeId, key: &str, version: &str) -> Self {
        Self(hash_fields(&[&volume.0, key.as_bytes(), version.as_bytes()]))
    }
}

fn hash_fields(fields: &[&[u8]]) -> [u8; 16] {
    let mut context = Context::new(&SHA256);
    for field in fields {
        let len = u32::try_from(field.len()).expect("hashed fields are bounded far below 4 GiB");
        context.update(&len.to_le_bytes());
        context.update(field);
    }
    let digest = context.finish();
    let mut id = [0; 16];
    id.copy_from_slice(&digest.as_ref()[..16]);
    id
}

/// A cluster: UUIDv5 of its cacheId, so that the same CacheCluster created again is the same cluster.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(uuid::Uuid);

impl ClusterId {
    /// The cluster of this cacheId.
    pub fn of(cache_id: &str) -> Self {
        Self(uuid::Uuid::new_v5(&CLUSTER_NAMESPACE, cache_id.as_bytes()))
    }

    /// The id of a slice that is exactly 16 bytes long.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        uuid::Uuid::from_slice(bytes).ok().map(Self)
    }

    /// The id from its textual form.
    pub fn parse(text: &str) -> Option<Self> {
        uuid::Uuid::try_parse(text).ok().map(Self)
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A node's number in the map; never reused within a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The map's version; only rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch that follows.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A placement bucket, below 16,384.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u16);

impl Slot {
    /// The slot with this number, if it is below 16,384.
    pub fn new(number: u16) -> Option<Self> {
        (number < SLOTS).then_some(Self(number))
    }

    /// The slot of a 64-bit hash: `hash mod 16384`.
    pub fn of_hash(hash: u64) -> Self {
        Self(u16::try_from(hash % u64::from(SLOTS)).expect("a remainder of 16,384 fits u16"))
    }

    /// All slots in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS).map(Self)
    }

    /// The slot's number, for indexing a table of 16,384.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A node's name: a Kubernetes node name (DNS-1123 subdomain), what its certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// The name, if it is 1 to 253 characters of `a-z`, `0-9`, `-` and `.` that begins and ends with a letter or digit.
    pub fn parse(text: &str) -> Option<Self> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let outer = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = text.as_bytes();
        let valid = bytes.len() <= NODE_NAME_BYTES_MAX
            && bytes.iter().all(|b| inner(*b))
            && outer(bytes.first())
            && outer(bytes.last());
        valid.then(|| Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_pinned() {
        let size = ChunkSize::new(4 << 20).expect("4 MiB");
        let volume = VolumeId::of("default/demo", "default", "data", "s3\0http://x\0b\0", size);
        let object = ObjectId::of(volume, "train/a.parquet", "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(volume.to_string(), VOLUME);
        assert_eq!(object.to_string(), OBJECT);
        assert_eq!(ClusterId::of("default/demo").to_string(), CLUSTER);
        assert_eq!(ObjectId::from_hex(OBJECT), Some(object));
        assert_ne!(ObjectId::of(volume, "ab", "c"), ObjectId::of(volume, "a", "bc"), "fields don't run together");
    }

    const VOLUME: &str = "d1abab3936a7a907737cc4ae2bdef846";
    const OBJECT: &str = "2eb2c3be6e1d059eb5019c8581652fc5";
    const CLUSTER: &str = "75f83916-399c-5d55-ab38-eab123e3805f";

    #[test]
    fn node_names_are_dns_names() {
        for good in ["n1", "ip-10-0-0-1.eu.internal", "a"] {
            assert!(NodeName::parse(good).is_some(), "{good}");
        }
        for bad in ["", "N1", "-a", "a-", "a/b", "a b", &"x".repeat(254)] {
            assert!(NodeName::parse(bad).is_none(), "{bad}");
        }
    }
}
