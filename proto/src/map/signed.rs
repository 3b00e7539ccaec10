//! A map with the authority's signature: the only form in which one crosses a wire or lies on a disk.
//!
//! | field | bytes |
//! |---|---|
//! | magic `LMAP`, format 2 | 4 + 1 |
//! | signature: length, ECDSA P-256 with SHA-256 in ASN.1 | 1 + n |
//! | the map (see `codec.rs`): length, zstd frame (see `packed.rs`) | the rest |
//!
//! Format 1, which older state folders hold, has the map as it is. What is signed is `larder map 1\0` and the map as it
//! is in both, however it travels (also as a delta, see `delta.rs`): the CA's key signs certificates too, and neither
//! may pass for the other.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, UnparsedPublicKey};
use bytes::Bytes;

use super::packed::{pack, unpack};
use super::{ClusterMap, Field, MapError};
use crate::ids::{ClusterId, Epoch};
use crate::limits::{MAP_BYTES_MAX, SIGNATURE_BYTES_MAX, TRUST_ANCHORS_MAX};

const MAGIC: &[u8; 5] = b"LMAP\x02";
const MAGIC_AS_IT_IS: &[u8; 5] = b"LMAP\x01";
const PURPOSE: &[u8] = b"larder map 1\0";

/// The authority's private key. Never printed.
pub struct MapKey(EcdsaKeyPair);

impl MapKey {
    /// The key of a PKCS#8 document (DER); nothing when it isn't an ECDSA P-256 key.
    pub fn from_pkcs8(der: &[u8]) -> Option<Self> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der).ok().map(Self)
    }
}

impl fmt::Debug for MapKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MapKey(..)")
    }
}

/// The public keys whose signature on a map is believed. Those beyond the eighth are passed over.
#[derive(Clone)]
pub struct TrustedKeys(Arc<[Vec<u8>]>);

impl TrustedKeys {
    /// Keys as SubjectPublicKeyInfo (DER). One that can't be parsed believes nothing.
    pub fn from_spkis(spkis: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self(spkis.into_iter().take(TRUST_ANCHORS_MAX).collect())
    }

    fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        self.0
            .iter()
            .any(|spki| UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, spki).verify(message, signature).is_ok())
    }
}

/// A map and its signature, as they came. Says nothing until it is verified.
#[derive(Clone, PartialEq, Eq)]
#[must_use = "an unverified map is believed by nobody"]
pub struct SignedMap {
    payload: Bytes,
    signature: Bytes,
    wire: Bytes,
}

impl SignedMap {
    /// Signs a map; nothing when the encoded map is above its limit (`MAP_BYTES_MAX`) or the key fails.
    pub fn sign(map: &ClusterMap, key: &MapKey) -> Option<Self> {
        let payload = map.encode();
        if payload.len() > MAP_BYTES_MAX {
            return None;
        }
        let signature = key.0.sign(&SystemRandom::new(), &message(&payload)).ok()?;
        Some(Self::with(payload.into(), Bytes::copy_from_slice(signature.as_ref())))
    }

    /// A map (as it is) with a signature that nobody has looked at.
    pub(super) fn with(payload: Bytes, signature: Bytes) -> Self {
        let wire = [MAGIC, &put_signature(&signature)[..], &pack(&payload)].concat();
        Self { payload, signature, wire: wire.into() }
    }

    /// The map, if one of `keys` signed it and it is consistent. Whose cluster it is, and how old, the caller compares.
    pub fn verify(&self, keys: &TrustedKeys) -> Result<ClusterMap, MapError> {
        check_signature(&self.payload, &self.signature, keys)?;
        ClusterMap::decode(&self.payload)
    }

    /// Whose it is and how old, by its own word: nobody has looked at the signature. Good for nothing but a floor.
    pub fn claims(&self) -> Result<(ClusterId, Epoch), MapError> {
        let map = ClusterMap::decode(&self.payload)?;
        Ok((map.cluster(), map.epoch()))
    }

    /// The bytes for a wire or a disk.
    pub fn encode(&self) -> Bytes {
        self.wire.clone()
    }

    /// What came from a wire or a disk; unpacks at most `MAP_BYTES_MAX`.
    pub fn decode(bytes: Bytes) -> Result<Self, MapError> {
        if bytes.len() > MAP_BYTES_MAX + MAGIC.len() + 1 + SIGNATURE_BYTES_MAX {
            return Err(MapError::TooLarge { field: Field::Bytes, value: bytes.len() as u64 });
        }
        let is_packed = bytes.starts_with(MAGIC);
        if !is_packed && !bytes.starts_with(MAGIC_AS_IT_IS) {
            return Err(MapError::Format);
        }
        let (signature, rest) = take_signature(&bytes, MAGIC.len())?;
        let payload = if is_packed { unpack(&rest)?.into() } else { rest };
        Ok(Self { payload, signature, wire: bytes })
    }

    pub(super) fn signature(&self) -> &Bytes {
        &self.signature
    }
}

/// A signature as it stands behind a magic: its length, then it.
pub(super) fn put_signature(signature: &[u8]) -> Vec<u8> {
    [&[u8::try_from(signature.len()).expect("at most 72 bytes")][..], signature].concat()
}

/// The signature at `head` and what follows it; both share the buffer.
pub(super) fn take_signature(bytes: &Bytes, head: usize) -> Result<(Bytes, Bytes), MapError> {
    let len = usize::from(*bytes.get(head).ok_or(MapError::Truncated { at: bytes.len() })?);
    if len > SIGNATURE_BYTES_MAX {
        return Err(MapError::TooLarge { field: Field::Signature, value: len as u64 });
    }
    let start = head + 1;
    if bytes.len() < start + len {
        return Err(MapError::Truncated { at: bytes.len() });
    }
    Ok((bytes.slice(start..start + len), bytes.slice(start + len..)))
}

/// Whether one of `keys` signed the map of these bytes.
pub(super) fn check_signature(payload: &[u8], signature: &[u8], keys: &TrustedKeys) -> Result<(), MapError> {
    if keys.signed(&message(payload), signature) { Ok(()) } else { Err(MapError::Forged) }
}

impl fmt::Debug for SignedMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignedMap({} bytes)", self.payload.len())
    }
}

fn message(payload: &[u8]) -> Vec<u8> {
    [PURPOSE, payload].concat()
}
