//! Certificates checked: the chain to the cluster's CA, then the one URI name. Used by rustls on both sides.
//!
//! Names of hosts are never compared (agents move between addresses); the server name sent is a constant. Leaving the
//! map revokes a node: its identity is compared with the receiver's map by whoever accepts the connection, not here.

use std::sync::Arc;

use ::aws_lc_rs::digest::{SHA256, digest as aws_lc_rs_digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::control::AnchorDigest;
use crate::identity::Identity;
use crate::ids::ClusterId;
use crate::limits::TRUST_ANCHORS_MAX;
use crate::map::TrustedKeys;

/// Why a certificate names nobody, or a file of CA certificates can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentity {
    /// It can't be parsed.
    #[error("the certificate can't be parsed")]
    Encoding,
    /// It has no URI name, or several.
    #[error("the certificate has {0} URI names instead of one")]
    Names(usize),
    /// Its URI name has not the form of an identity.
    #[error("the certificate's URI name is no Larder identity")]
    Form,
    /// A PEM file holds no certificate.
    #[error("there is no CA certificate")]
    NoAnchor,
    /// A PEM file holds too many certificates.
    #[error("there are more than {TRUST_ANCHORS_MAX} CA certificates")]
    TooManyAnchors,
}

/// The CA certificates of one cluster: whose chains and whose maps are believed. At most 8 (rotation needs two).
#[derive(Clone)]
pub struct Trust {
    roots: Arc<RootCertStore>,
    keys: TrustedKeys,
    digests: Arc<[AnchorDigest]>,
}

impl Trust {
    /// The CA certificates of a PEM file; what else the file holds is passed over.
    pub fn from_pem(pem: &[u8]) -> Result<Self, NoIdentity> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(TRUST_ANCHORS_MAX + 1).collect();
        Self::from_certificates(&certificates.map_err(|_| NoIdentity::Encoding)?)
    }

    /// These CA certificates.
    pub fn from_certificates(certificates: &[CertificateDer<'static>]) -> Result<Self, NoIdentity> {
        if certificates.is_empty() {
            return Err(NoIdentity::NoAnchor);
        }
        if certificates.len() > TRUST_ANCHORS_MAX {
            return Err(NoIdentity::TooManyAnchors);
        }
        let mut roots = RootCertStore::empty();
        let mut keys = Vec::new();
        let digests = certificates.iter().map(digest).collect();
        for certificate in certificates {
            roots.add(certificate.clone()).map_err(|_| NoIdentity::Encoding)?;
            let parsed = ParsedCertificate::try_from(certificate).map_err(|_| NoIdentity::Encoding)?;
            keys.push(parsed.subject_public_key_info().to_vec());
        }
        Ok(Self { roots: Arc::new(roots), keys: TrustedKeys::from_spkis(keys), digests })
    }

    /// The CAs' keys, which sign maps.
    pub fn keys(&self) -> &TrustedKeys {
        &self.keys
    }

    /// What names the CA certificates, in their order.
    pub fn digests(&self) -> &[AnchorDigest] {
        &self.digests
    }
}

fn digest(certificate: &CertificateDer<'_>) -> AnchorDigest {
    let whole = aws_lc_rs_digest(&SHA256, certificate);
    whole.as_ref().first_chunk().copied().expect("SHA-256 has 32 bytes")
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("anchors", &self.roots.len()).finish()
    }
}

/// The identity a certificate names. Says nothing about who signed it: for certificates that a handshake has verified.
pub fn identity_of(certificate: &CertificateDer<'_>) -> Result<Identity, NoIdentity> {
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|_| NoIdentity::Encoding)?;
    let mut names = parsed.valid_uri_names();
    match (names.next(), names.next()) {
        (Some(uri), None) => Identity::parse(uri).ok_or(NoIdentity::Form),
        (None, _) => Err(NoIdentity::Names(0)),
        (Some(_), Some(_)) => Err(NoIdentity::Names(2 + names.count())),
    }
}

/// The server name that every client sends; it is a constant, because names of hosts prove nothing here.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("larder").expect("a valid DNS name")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn refused(why: NoIdentity) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

/// Accepts a server only if the cluster's CA signed it and it is exactly `expected` (else `NotValidForName`).
#[derive(Debug)]
pub struct ServerVerifier {
    trust: Trust,
    expected: Identity,
    provider: Arc<CryptoProvider>,
}

impl ServerVerifier {
    /// For one connection, or several to the same identity.
    pub fn new(trust: Trust, expected: Identity) -> Arc<Self> {
        Arc::new(Self { trust, expected, provider: provider() })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.trust.roots, intermediates, now, algorithms)?;
        if identity_of(end_entity).map_err(refused)? != self.expected {
            return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a server takes clients that have no certificate yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joiners {
    /// The authority: an agent that joins has nothing but its token.
    Welcome,
    /// Everybody else.
    Refused,
}

/// Accepts clients that the cluster's CA signed and that name an identity of `cluster`. Who it is, the caller reads
/// from the connection's certificate with [`identity_of`].
#[derive(Debug)]
pub struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    cluster: ClusterId,
}

impl ClientVerifier {
    /// For one listener.
    pub fn new(trust: Trust, cluster: ClusterId, joiners: Joiners) -> Arc<Self> {
        let builder = WebPkiClientVerifier::builder_with_provider(trust.roots, provider()).clear_root_hint_subjects();
        let builder = match joiners {
            Joiners::Welcome => builder.allow_unauthenticated(),
            Joiners::Refused => builder,
        };
        let inner = builder.build().expect("a Trust holds at least one anchor, and no revocation list is given");
        Arc::new(Self { inner, cluster })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        if identity_of(end_entity).map_err(refused)?.cluster() != self.cluster {
            return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
