//! Every bound on what comes from outside, in one place, each with its reason.
//!
//! A length from a wire or a file is compared with its limit before anything is allocated.

/// Placement buckets. Redis Cluster's number, so that its clients can use the map as it is.
pub const SLOTS: u16 = 16_384;

/// The unit of checksums and of reads between agents: small enough for random reads, large enough that a
/// catalog entry of a 4 MiB chunk is 256 bytes.
pub const BLOCK_BYTES: u32 = 64 * 1024;

/// A body between agents alternates this many bytes and their checksums.
pub const SEGMENT_BYTES: u32 = 1024 * 1024;

/// Chunks that share owners: 4 chunks of 4 MiB, so that one reader's prefetch spreads over the nodes.
pub const CHUNKS_PER_RUN: u32 = 4;

/// The largest `chunkSize`.
pub const CHUNK_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// S3's own limit of a key's length.
pub const KEY_BYTES_MAX: usize = 1024;

/// NAME_MAX of Linux: a longer component can't be a file name.
pub const COMPONENT_BYTES_MAX: usize = 255;

/// An ETag is 32 hex digits, `-` and a part count on S3; stores differ, none comes near this.
pub const VERSION_BYTES_MAX: usize = 256;

/// A node's name is a Kubernetes node name (DNS-1123 subdomain).
pub const NODE_NAME_BYTES_MAX: usize = 253;

/// The largest object S3 keeps is 5 TiB; a larger size from outside is refused.
pub const OBJECT_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024 * 1024;

/// Nodes of one cluster; what the map's size is computed for.
pub const NODES_MAX: usize = 8_192;

/// Owners of one slot.
pub const OWNERS_MAX: usize = 16;

/// A map's encoded size. 5,000 nodes are far below.
pub const MAP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Entries of one `POST /v1/chunks`.
pub const BATCH_ENTRIES_MAX: usize = 256;

/// Bytes of several chunks asked for at once; one chunk alone may be larger.
pub const BATCH_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Connections to one peer; a connection carries one request at a time.
pub const CONNECTIONS_PER_PEER_MAX: usize = 8;

/// Connections to all peers.
pub const CONNECTIONS_MAX: usize = 256;

/// Connections served at once. More than we open ourselves: thousands of readers may share a few owners.
pub const SERVED_CONNECTIONS_MAX: usize = 1_024;

/// Connections served for one peer: twice what it may open, because it may open a new one before we saw the old one close.
pub const SERVED_CONNECTIONS_PER_PEER_MAX: usize = 16;

/// A request head between agents: a key of 1,024 bytes percent-encoded is 3 KiB.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A control message (tonic). A listing is streamed in pages that stay below.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Names in one page of a listing, the origin's own page size.
pub const PAGE_NAMES_MAX: usize = 1_000;

/// Volumes of one cluster.
pub const VOLUMES_MAX: usize = 1_024;

/// Stores of one node (the schema's own maximum).
pub const STORES_MAX: usize = 16;

/// CA certificates that a cluster trusts at once: two while a CA is being rotated, and room for a mistake.
pub const TRUST_ANCHORS_MAX: usize = 8;

/// An ECDSA P-256 signature in ASN.1 is at most 72 bytes.
pub const SIGNATURE_BYTES_MAX: usize = 72;

/// A failure domain is a label's value (63 characters) or a node's name.
pub const DOMAIN_BYTES_MAX: usize = 253;

/// Addresses of one node: IPv4 and IPv6 of a few networks.
pub const ADDRESSES_MAX: usize = 8;

/// Epochs are believed below this: a forged or mad number must not end the counting.
pub const EPOCH_MAX: crate::ids::Epoch = crate::ids::Epoch(1 << 48);

/// Hand-overs of one map: at most two owners of every slot change before their warm-up is over.
pub const HANDOVERS_MAX: usize = 2 * SLOTS as usize;

/// A store's name in its pool (the schema's own maximum).
pub const STORE_NAME_BYTES_MAX: usize = 63;

/// A join token: 64 hex digits in local mode, a projected token (a JWT) in Kubernetes.
pub const TOKEN_BYTES_MAX: u64 = 16 * 1024;

/// A key and its chain in PEM.
pub const CHAIN_BYTES_MAX: u64 = 64 * 1024;

/// A certificate request in DER: a key and nothing else.
pub const CSR_BYTES_MAX: usize = 8 * 1024;

/// A directive: a map with its signature, or all volumes.
pub const DIRECTIVE_BYTES_MAX: usize = MAP_BYTES_MAX + 64 * 1024;

/// A report: every volume and store of a node, and every node that it can't reach.
pub const REPORT_BYTES_MAX: usize = 256 * 1024;

/// A pattern over keys: long enough for any path that people write, short enough to match in microseconds.
pub const GLOB_BYTES_MAX: usize = 256;

/// Patterns in one list of a volume (the schema's own maximum).
pub const GLOBS_MAX: usize = 64;
