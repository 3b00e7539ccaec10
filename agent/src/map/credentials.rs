//! This node's key and certificate, kept together in one file that only we can read.
//!
//! The key is made here and never leaves the node. What is stored is used only while it names this node and cluster,
//! the trusted CA signed it, and it is still valid; otherwise the agent joins again with a new key.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use larder_proto::identity::{ClientVerifier, Identity, Joiners, Trust, identity_of};
use larder_proto::limits::CHAIN_BYTES_MAX;
use rcgen::{CertificateParams, KeyPair};
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::runtime::disk::Disk;

/// The file in the state folder.
const FILE: &str = "identity.pem";

/// Certificates of one chain: the node's own, and intermediates of a CA that has some.
const CHAIN_MAX: usize = 4;

/// Why a certificate isn't used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file can't be read or written.
    #[error("the stored certificate: {0}")]
    State(#[from] io::Error),
    /// Not a key and a chain of at most four certificates.
    #[error("it isn't a key and a certificate chain in PEM")]
    Encoding,
    /// It names somebody else.
    #[error("it doesn't name this node")]
    SomebodyElse,
    /// The trusted CA didn't sign it, or it has expired.
    #[error("it isn't valid: {0}")]
    Invalid(rustls::Error),
    /// No key could be made.
    #[error("can't make a key: {0}")]
    Key(#[from] rcgen::Error),
}

/// This node's key and certificate chain.
#[derive(Clone)]
pub struct NodeIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl NodeIdentity {
    /// What the state folder holds; nothing when there is no file, an error when it can't be used (join again).
    pub fn load(
        disk: &dyn Disk,
        state: &Path,
        own: &Identity,
        trust: &Trust,
        wall_ms: u64,
    ) -> Result<Option<Self>, IdentityError> {
        match disk.read_small(&state.join(FILE), CHAIN_BYTES_MAX) {
            Ok(pem) => Self::checked(&pem, own, trust, wall_ms).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A key and its chain in PEM, if they are this node's and valid now.
    fn checked(pem: &[u8], own: &Identity, trust: &Trust, wall_ms: u64) -> Result<Self, IdentityError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(CHAIN_MAX + 1).collect();
        let chain = chain.map_err(|_| IdentityError::Encoding)?;
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| IdentityError::Encoding)?;
        let identity = Self { chain, key: Arc::new(key) };
        identity.check(own, trust, wall_ms)?;
        Ok(identity)
    }

    /// Whether it is this node's, signed by `trust`, and valid at `wall_ms`.
    pub fn check(&self, own: &Identity, trust: &Trust, wall_ms: u64) -> Result<(), IdentityError> {
        let (leaf, rest) = self.chain.split_first().ok_or(IdentityError::Encoding)?;
        if rest.len() >= CHAIN_MAX {
            return Err(IdentityError::Encoding);
        }
        if identity_of(leaf).map_err(|_| IdentityError::Encoding)? != *own {
            return Err(IdentityError::SomebodyElse);
        }
        let verifier = ClientVerifier::new(trust.clone(), own.cluster(), Joiners::Refused);
        let now = UnixTime::since_unix_epoch(Duration::from_millis(wall_ms));
        verifier.verify_client_cert(leaf, rest, now).map(drop).map_err(IdentityError::Invalid)
    }

    /// Certificates, this node's own first.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    /// The private key, for TLS only.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

/// A key that waits for its certificate.
pub(super) struct Request {
    key: KeyPair,
    csr: Vec<u8>,
}

impl Request {
    /// A new key, and the request for a certificate of it.
    pub(super) fn new() -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let csr = CertificateParams::default().serialize_request(&key)?.der().to_vec();
        Ok(Self { key, csr })
    }

    /// The request in DER.
    pub(super) fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// The identity that the authority's answer makes, stored before it is used.
    pub(super) fn finish(
        self,
        chain: &str,
        disk: &dyn Disk,
        state: &Path,
        (own, trust, wall_ms): (&Identity, &Trust, u64),
    ) -> Result<NodeIdentity, IdentityError> {
        let pem = format!("{}{chain}", self.key.serialize_pem());
        let identity = NodeIdentity::checked(pem.as_bytes(), own, trust, wall_ms)?;
        disk.create_dir_all(state)?;
        disk.replace_small(&state.join(FILE), pem.as_bytes())?;
        Ok(identity)
    }
}
