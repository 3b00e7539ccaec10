//! The cluster's CA: one ECDSA P-256 key that signs certificates and maps. Ten years; the key's file is ours alone.
//!
//! A certificate carries one URI name (see proto's `Identity`), is good for client and server, lives 30 days and is
//! backdated 24 hours for clocks that lag.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder_proto::identity::{Identity, NoIdentity, Trust};
use larder_proto::map::{ClusterMap, MapKey, SignedMap};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::ledger::{read_bounded, write_durably};

const DAY: Duration = Duration::from_secs(24 * 3600);
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const LEAF_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
const BACKDATED: Duration = DAY;

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";

/// Why there is no CA, or no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Its files can't be read or written.
    #[error("the CA's files in {folder}: {error}")]
    Io {
        /// Where.
        folder: String,
        /// Why.
        error: io::Error,
    },
    /// Its files hold something else.
    #[error("the CA's key or certificate can't be used: {0}")]
    Certificate(#[from] rcgen::Error),
    /// Its certificate can't be trusted.
    #[error(transparent)]
    Trust(#[from] NoIdentity),
    /// Its key isn't ECDSA P-256.
    #[error("the CA's key is not an ECDSA P-256 key")]
    Key,
}

/// The CA.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    /// Certificates of CAs that are trusted besides, PEM.
    also: String,
    map_key: MapKey,
}

impl Ca {
    /// The CA in `folder`, made there if neither its key nor its certificate exists.
    pub fn load_or_create(folder: &Path) -> Result<Self, CaError> {
        let failed = |error| CaError::Io { folder: folder.display().to_string(), error };
        let certificate = read_bounded(&folder.join(CERTIFICATE)).map_err(failed)?;
        let key = read_bounded(&folder.join(KEY)).map_err(failed)?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => {
                let text = |bytes| String::from_utf8(bytes).map_err(|_| failed(io::ErrorKind::InvalidData.into()));
                Self::from_pem(text(certificate)?, &text(key)?)
            }
            (None, None) => {
                let (certificate, key) = generate()?;
                // The key first: a certificate without its key is refused, a key without a certificate too.
                write_durably(&folder.join(KEY), key.as_bytes()).map_err(failed)?;
                write_durably(&folder.join(CERTIFICATE), certificate.as_bytes()).map_err(failed)?;
                Self::from_pem(certificate, &key)
            }
            (Some(_), None) | (None, Some(_)) => Err(failed(io::ErrorKind::NotFound.into())),
        }
    }

    /// A new certificate and its key in PEM, for who keeps them himself.
    pub fn generate() -> Result<(String, String), CaError> {
        generate()
    }

    /// A new CA that is kept nowhere.
    pub fn ephemeral() -> Result<Self, CaError> {
        let (certificate, key) = generate()?;
        Self::from_pem(certificate, &key)
    }

    /// The CA of a certificate and its key, both PEM.
    pub fn from_pem(certificate: String, key: &str) -> Result<Self, CaError> {
        let key = KeyPair::from_pem(key)?;
        let map_key = MapKey::from_pkcs8(key.serialized_der()).ok_or(CaError::Key)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)?;
        Ok(Self { issuer, certificate, also: String::new(), map_key })
    }

    /// The CA's certificate in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// The same CA, which trusts these too (PEM): what they signed before is still good.
    #[must_use]
    pub fn trusting(mut self, also: &str) -> Self {
        also.clone_into(&mut self.also);
        self
    }

    /// Its own certificate, then those it trusts besides, in PEM.
    pub fn trust_pem(&self) -> String {
        format!("{}{}", self.certificate, self.also)
    }

    /// What trusts this CA and those it trusts.
    pub fn trust(&self) -> Result<Trust, CaError> {
        Ok(Trust::from_pem(self.trust_pem().as_bytes())?)
    }

    /// What trusts this CA alone.
    pub fn own_trust(&self) -> Result<Trust, CaError> {
        Ok(Trust::from_pem(self.certificate.as_bytes())?)
    }

    /// A certificate in PEM for the key of a request (DER). Nothing else is taken from the request.
    pub fn issue(&self, identity: &Identity, csr: &[u8]) -> Result<String, CaError> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))?;
        Ok(self.sign_leaf(identity, &request.public_key)?.pem())
    }

    /// A certificate and its new key.
    pub fn issue_own(&self, identity: &Identity) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), CaError> {
        let key = KeyPair::generate()?;
        let certificate = self.sign_leaf(identity, &key)?.der().clone();
        Ok((certificate, PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }

    fn sign_leaf(&self, identity: &Identity, key: &impl PublicKeyData) -> Result<rcgen::Certificate, CaError> {
        let mut params = params(LEAF_LIFE);
        let name = match identity {
            Identity::Node(_, name) => name.as_str(),
            Identity::Authority(_) => "authority",
        };
        // The common name is for people who look at it; X.509 ends it at 64 characters.
        params.distinguished_name.push(DnType::CommonName, &name[..name.len().min(64)]);
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.issuer)?)
    }

    /// A map with this CA's signature; nothing when it is too large.
    pub fn sign(&self, map: &ClusterMap) -> Option<SignedMap> {
        SignedMap::sign(map, &self.map_key)
    }
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ca(..)")
    }
}

fn generate() -> Result<(String, String), CaError> {
    let key = KeyPair::generate()?;
    let mut params = params(CA_LIFE);
    params.distinguished_name.push(DnType::CommonName, "larder cluster CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn params(life: Duration) -> CertificateParams {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = date_time_ymd(1970, 1, 1) + now.saturating_sub(BACKDATED);
    params.not_after = date_time_ymd(1970, 1, 1) + now + life;
    params
}

#[cfg(test)]
mod tests {
    use larder_proto::identity::{ClientVerifier, Joiners};
    use larder_proto::ids::{ClusterId, NodeName};
    use rustls::server::danger::ClientCertVerifier as _;
    use rustls_pki_types::UnixTime;
    use rustls_pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn a_ca_is_made_once_and_its_key_is_ours_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let made = Ca::load_or_create(folder.path()).expect("made");
        let loaded = Ca::load_or_create(folder.path()).expect("loaded");
        assert_eq!(made.certificate_pem(), loaded.certificate_pem());
        let mode = std::fs::metadata(folder.path().join(KEY)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_file(folder.path().join(KEY)).expect("removed");
        assert!(matches!(Ca::load_or_create(folder.path()), Err(CaError::Io { .. })), "a lost key is never replaced");
    }

    /// docs/FAULTS.md, row 11.
    #[test]
    fn a_new_certificate_is_good_for_clocks_that_are_hours_off_and_for_weeks() {
        let ca = Ca::ephemeral().expect("made");
        let key = KeyPair::generate().expect("entropy");
        let node = Identity::Node(ClusterId::of("a/a"), NodeName::parse("n1").expect("a name"));
        let csr = CertificateParams::default().serialize_request(&key).expect("valid");
        let pem = ca.issue(&node, csr.der()).expect("issued");
        let chain: Vec<CertificateDer<'_>> =
            <CertificateDer<'_> as PemObject>::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().expect("PEM");
        let trust = ca.trust().expect("a CA");
        let verifier = ClientVerifier::new(trust, ClusterId::of("a/a"), Joiners::Refused);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let hour = Duration::from_secs(3_600);
        let is_good = |at: Duration| {
            let at = UnixTime::since_unix_epoch(at);
            verifier.verify_client_cert(&chain[0], &chain[1..], at).is_ok()
        };
        assert!([now - 23 * hour, now - hour, now, now + hour, now + 29 * 24 * hour].into_iter().all(is_good));
        assert!(![now - 25 * hour, now + 31 * 24 * hour].into_iter().any(is_good));
    }

    #[test]
    fn only_the_key_is_taken_from_a_request() {
        let ca = Ca::ephemeral().expect("made");
        let key = KeyPair::generate().expect("entropy");
        let mut wishes = CertificateParams::default();
        wishes.subject_alt_names = vec![SanType::URI("spiffe://larder/x/authority".try_into().expect("ASCII"))];
        let csr = wishes.serialize_request(&key).expect("valid");
        let node = Identity::Node(ClusterId::of("a/a"), NodeName::parse("n1").expect("a name"));
        let pem = ca.issue(&node, csr.der()).expect("issued");
        let der = <CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(pem.as_bytes());
        assert_eq!(larder_proto::identity::identity_of(&der.expect("PEM")), Ok(node.clone()));
        assert!(ca.issue(&node, b"nonsense").is_err());
        let mut forged = csr.der().to_vec();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(ca.issue(&node, &forged).is_err(), "the requester must hold the key");
    }
}
