//! Which S3 operation a request is: method, whether it names a bucket and a key, and the sub-resource in its query.

use http::Method;
use serde::Serialize;

use super::faults::FaultOp;
use super::request::Request;

/// The operations of S3 that the double speaks, by their names in the API reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[allow(missing_docs, reason = "the names are S3's own")]
pub enum Operation {
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    GetBucketLocation,
    GetBucketVersioning,
    ListObjects,
    ListObjectsV2,
    ListMultipartUploads,
    DeleteObjects,
    GetObject,
    HeadObject,
    PutObject,
    CopyObject,
    DeleteObject,
    GetObjectTagging,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    /// Anything else: answered with `NotImplemented`.
    Unknown,
}

/// Queries that name a sub-resource this double doesn't have; without this list they would be taken for plain reads
/// and writes of the object.
const FOREIGN: [&str; 24] = [
    "accelerate",
    "acl",
    "analytics",
    "attributes",
    "cors",
    "encryption",
    "inventory",
    "legal-hold",
    "lifecycle",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "restore",
    "retention",
    "select",
    "torrent",
    "website",
];

impl Operation {
    /// What `request` asks for.
    pub(super) fn of(request: &Request) -> Operation {
        let has = |name: &str| request.query.has(name);
        if FOREIGN.iter().any(|name| has(name)) {
            return Operation::Unknown;
        }
        match (request.bucket.is_some(), request.key.is_some()) {
            (false, _) if request.method == Method::GET => Operation::ListBuckets,
            (false, _) => Operation::Unknown,
            (true, false) => Operation::of_bucket(&request.method, has, request.query.get("list-type") == Some("2")),
            (true, true) => {
                Operation::of_object(&request.method, has, request.headers.contains_key("x-amz-copy-source"))
            }
        }
    }

    fn of_bucket(method: &Method, has: impl Fn(&str) -> bool, second_version: bool) -> Operation {
        match *method {
            Method::GET if has("location") => Operation::GetBucketLocation,
            Method::GET if has("versioning") => Operation::GetBucketVersioning,
            Method::GET if has("uploads") => Operation::ListMultipartUploads,
            Method::GET if has("versions") || has("tagging") => Operation::Unknown,
            Method::GET if second_version => Operation::ListObjectsV2,
            Method::GET => Operation::ListObjects,
            Method::HEAD => Operation::HeadBucket,
            Method::PUT if has("versioning") || has("tagging") => Operation::Unknown,
            Method::PUT => Operation::CreateBucket,
            Method::DELETE => Operation::DeleteBucket,
            Method::POST if has("delete") => Operation::DeleteObjects,
            _ => Operation::Unknown,
        }
    }

    fn of_object(method: &Method, has: impl Fn(&str) -> bool, copy: bool) -> Operation {
        match *method {
            Method::GET if has("tagging") => Operation::GetObjectTagging,
            Method::GET if has("uploadId") => Operation::ListParts,
            Method::GET => Operation::GetObject,
            Method::HEAD => Operation::HeadObject,
            Method::PUT if has("tagging") => Operation::Unknown,
            Method::PUT if has("uploadId") && copy => Operation::UploadPartCopy,
            Method::PUT if has("uploadId") => Operation::UploadPart,
            Method::PUT if copy => Operation::CopyObject,
            Method::PUT => Operation::PutObject,
            Method::POST if has("uploads") => Operation::CreateMultipartUpload,
            Method::POST if has("uploadId") => Operation::CompleteMultipartUpload,
            Method::DELETE if has("uploadId") => Operation::AbortMultipartUpload,
            Method::DELETE if has("tagging") => Operation::Unknown,
            Method::DELETE => Operation::DeleteObject,
            _ => Operation::Unknown,
        }
    }

    /// The word a fault rule has for it.
    pub(super) fn kind(self) -> FaultOp {
        match self {
            Operation::GetObject => FaultOp::Get,
            Operation::HeadObject => FaultOp::Head,
            Operation::ListObjects | Operation::ListObjectsV2 => FaultOp::List,
            Operation::PutObject | Operation::CopyObject => FaultOp::Put,
            Operation::CreateMultipartUpload
            | Operation::UploadPart
            | Operation::UploadPartCopy
            | Operation::CompleteMultipartUpload
            | Operation::AbortMultipartUpload
            | Operation::ListParts
            | Operation::ListMultipartUploads => FaultOp::Multipart,
            Operation::DeleteObject | Operation::DeleteObjects => FaultOp::Delete,
            Operation::ListBuckets
            | Operation::CreateBucket
            | Operation::HeadBucket
            | Operation::DeleteBucket
            | Operation::GetBucketLocation
            | Operation::GetBucketVersioning => FaultOp::Bucket,
            Operation::GetObjectTagging | Operation::Unknown => FaultOp::Any,
        }
    }
}
