//! The volumes in the state folder, with their credentials: an agent that starts without the authority serves as before.

use std::path::Path;
use std::sync::Arc;

use larder_proto::control::{message, parse_volumes};
use larder_proto::limits::MESSAGE_BYTES_MAX;
use prost::Message as _;

use super::{ConversationError, Volumes};
use crate::runtime::Runtime;
use crate::runtime::tasks::Pool;

/// The file in the state folder; 0600, as everything there.
const FILE: &str = "volumes";

pub(super) async fn load(runtime: &Runtime, pool: &Pool, state: &Path) -> Option<Volumes> {
    let (disk, file) = (runtime.disk.clone(), state.join(FILE));
    let bytes = pool.run(move || disk.read_small(&file, MESSAGE_BYTES_MAX as u64)).await.ok()?.ok()?;
    let message = message::Volumes::decode(bytes.as_slice()).ok()?;
    parse_volumes(message).ok().map(by_id)
}

pub(super) async fn store(
    runtime: &Runtime,
    pool: &Pool,
    state: &Path,
    volumes: &message::Volumes,
) -> Result<(), ConversationError> {
    let (disk, file, bytes) = (runtime.disk.clone(), state.join(FILE), volumes.encode_to_vec());
    Ok(pool.run(move || disk.replace_small(&file, &bytes)).await??)
}

pub(super) fn by_id(volumes: Vec<larder_proto::volume::Volume>) -> Volumes {
    Arc::new(volumes.into_iter().map(|volume| (volume.id, Arc::new(volume))).collect())
}
