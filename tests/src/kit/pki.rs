//! Keys and certificates of a control plane: one CA, the API server's certificate, and one for each who calls it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// The files of one control plane.
pub(super) struct Pki {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// A new CA, the API server's certificate for this address, and the key that signs tokens.
    pub(super) fn create(folder: &Path, address: Ipv4Addr) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kit CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key)?;
        std::fs::write(folder.join("ca.crt"), certificate.pem())?;
        std::fs::write(folder.join("ca.key"), key.serialize_pem())?;
        let issuer = Issuer::new(params, key);
        let pki = Self { folder: folder.to_owned(), issuer };
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let mut sans = vec![SanType::IpAddress(address.into())];
        sans.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1))));
        for name in names {
            sans.push(SanType::DnsName(name.try_into().context("a DNS name")?));
        }
        pki.issue("apiserver", "kube-apiserver", None, sans)?;
        pki.token_key()?;
        Ok(pki)
    }

    /// A certificate and its key as `<name>.crt` and `<name>.key`.
    fn issue(&self, name: &str, user: &str, group: Option<&str>, sans: Vec<SanType>) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.subject_alt_names = sans;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        std::fs::write(self.folder.join(format!("{name}.crt")), certificate.pem())?;
        std::fs::write(self.folder.join(format!("{name}.key")), key.serialize_pem())?;
        Ok(())
    }

    /// Service account tokens are signed with ECDSA or RSA; both are a key and what verifies it.
    fn token_key(&self) -> Result<()> {
        let key = KeyPair::generate()?;
        std::fs::write(self.folder.join("tokens.key"), key.serialize_pem())?;
        std::fs::write(self.folder.join("tokens.pub"), key.public_key_pem())?;
        Ok(())
    }

    /// `<name>.kubeconfig` for a user of `server`, who may also serve at `addresses`.
    pub(super) fn kubeconfig(
        &self,
        name: &str,
        user: &str,
        group: Option<&str>,
        addresses: Vec<IpAddr>,
        server: &str,
    ) -> Result<PathBuf> {
        self.issue(name, user, group, addresses.into_iter().map(SanType::IpAddress).collect())?;
        let file = |suffix: &str| self.folder.join(format!("{name}.{suffix}")).display().to_string();
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "kit",
            "clusters": [{"name": "kit", "cluster": {
                "server": server,
                "certificate-authority": self.folder.join("ca.crt").display().to_string(),
            }}],
            "users": [{"name": "kit", "user": {"client-certificate": file("crt"), "client-key": file("key")}}],
            "contexts": [{"name": "kit", "context": {"cluster": "kit", "user": "kit"}}],
        });
        let path = self.folder.join(format!("{name}.kubeconfig"));
        std::fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
        Ok(path)
    }
}
