//! Names between agents: tonic's messages for a directory's home and those who ask it.
//!
//! Only generated code; the two ends are in the agent, which checks every name, path and number that comes in.

/// Messages and services as generated from `names.proto`.
#[allow(missing_docs, clippy::all)]
pub mod message {
    tonic::include_proto!("larder.names.v1");
}
