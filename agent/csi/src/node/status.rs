//! The one table from what went wrong to the code and words that the kubelet shows in the pod's Events.

use larder_mounter::{BAD_TARGET, ClientError, NOT_SERVED};
use tonic::{Code, Status};

use super::wanted::Refusal;

/// A refusal of ours.
pub fn of_refusal(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::Missing { .. }
        | Refusal::Malformed { .. }
        | Refusal::Block
        | Refusal::MountOptions
        | Refusal::UnknownAttribute { .. }
        | Refusal::Prefix => Code::InvalidArgument,
        Refusal::OtherNamespace { .. } => Code::PermissionDenied,
    };
    Status::new(code, refusal.to_string())
}

/// What the mounter said, or that it can't be asked. `volume` is `namespace/name`.
pub fn of_mounter(error: &ClientError, node: &str, volume: &str) -> Status {
    match error {
        ClientError::Refused { errno, .. } if *errno == NOT_SERVED => Status::unavailable(format!(
            "node {node} has no agent that has CacheVolume {volume} mounted: its CacheCluster's pools may not select the \
             node, or its agent isn't ready yet"
        )),
        ClientError::Refused { errno, why } if *errno == BAD_TARGET => Status::invalid_argument(why.clone()),
        ClientError::Refused { why, .. } => Status::internal(why.clone()),
        ClientError::Io(error) => Status::unavailable(format!("node {node}: the mounter can't be reached: {error}")),
        ClientError::Ended => Status::unavailable(format!("node {node}: the mounter hung up")),
        ClientError::Malformed(malformed) => Status::internal(format!("node {node}: the mounter: {malformed}")),
        ClientError::NoConnection => Status::internal(format!("node {node}: {error}")),
    }
}
