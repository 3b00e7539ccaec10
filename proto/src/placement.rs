//! Which slot a thing hashes to. Pure, and alike on every node: xxh3_64 with seed 0, modulo 16,384.

use xxhash_rust::xxh3::Xxh3;

use crate::ids::{Slot, VolumeId};
use crate::object::{DirPath, ObjectKey, Version};

/// The slot of run `run` (`index / 4`) of an object's chunks.
pub fn slot_of_chunk(volume: VolumeId, key: &ObjectKey, version: &Version, run: u32) -> Slot {
    slot_of(&[volume.as_bytes(), key.as_str().as_bytes(), version.as_str().as_bytes(), &run.to_le_bytes()])
}

/// The slot whose lead is a directory's home.
pub fn slot_of_directory(volume: VolumeId, path: &DirPath) -> Slot {
    slot_of(&[volume.as_bytes(), path.as_str().as_bytes()])
}

fn slot_of(fields: &[&[u8]]) -> Slot {
    let mut hasher = Xxh3::new();
    for field in fields {
        let len = u32::try_from(field.len()).expect("hashed fields are bounded far below 4 GiB");
        hasher.update(&len.to_le_bytes());
        hasher.update(field);
    }
    Slot::of_hash(hasher.digest())
}
