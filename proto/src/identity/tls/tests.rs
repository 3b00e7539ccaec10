use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::CertificateDer;

use super::*;
use crate::ids::NodeName;

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

fn ca() -> Ca {
    let key = KeyPair::generate().expect("entropy");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let certificate = params.self_signed(&key).expect("valid").der().clone();
    Ca { issuer: Issuer::new(params, key), certificate }
}

fn issue(ca: &Ca, uris: &[&str]) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("ASCII"))).collect();
    params.signed_by(&KeyPair::generate().expect("entropy"), &ca.issuer).expect("valid").der().clone()
}

fn node(cluster: &str, name: &str) -> Identity {
    Identity::Node(ClusterId::of(cluster), NodeName::parse(name).expect("a name"))
}

fn check_server(ca: &Ca, expected: Identity, certificate: &CertificateDer<'_>) -> Result<(), Error> {
    let trust = Trust::from_certificates(std::slice::from_ref(&ca.certificate)).expect("one CA");
    let verifier = ServerVerifier::new(trust, expected);
    verifier.verify_server_cert(certificate, &[], &server_name(), &[], UnixTime::now()).map(drop)
}

fn check_client(ca: &Ca, cluster: &str, certificate: &CertificateDer<'_>) -> Result<(), Error> {
    let trust = Trust::from_certificates(std::slice::from_ref(&ca.certificate)).expect("one CA");
    let verifier = ClientVerifier::new(trust, ClusterId::of(cluster), Joiners::Refused);
    assert!(verifier.client_auth_mandatory());
    verifier.verify_client_cert(certificate, &[], UnixTime::now()).map(drop)
}

#[test]
fn a_server_must_be_exactly_who_was_asked_for() {
    let ca = ca();
    let n1 = node("a/a", "n1");
    let certificate = issue(&ca, &[&n1.to_string()]);
    assert_eq!(identity_of(&certificate), Ok(n1.clone()));
    assert_eq!(check_server(&ca, n1.clone(), &certificate), Ok(()));
    let wrong = Err(Error::InvalidCertificate(CertificateError::NotValidForName));
    assert_eq!(check_server(&ca, node("a/a", "n2"), &certificate), wrong);
    assert_eq!(check_server(&ca, node("b/b", "n1"), &certificate), wrong);
    assert_eq!(check_server(&ca, Identity::Authority(ClusterId::of("a/a")), &certificate), wrong);
}

#[test]
fn another_ca_is_refused_even_with_the_right_name() {
    let (ours, theirs) = (ca(), ca());
    let n1 = node("a/a", "n1");
    let certificate = issue(&theirs, &[&n1.to_string()]);
    assert!(check_server(&ours, n1, &certificate).is_err());
    assert!(check_client(&ours, "a/a", &certificate).is_err());
}

#[test]
fn a_client_must_belong_to_the_cluster() {
    let ca = ca();
    let certificate = issue(&ca, &[&node("a/a", "n1").to_string()]);
    assert_eq!(check_client(&ca, "a/a", &certificate), Ok(()));
    let wrong = Err(Error::InvalidCertificate(CertificateError::NotValidForName));
    assert_eq!(check_client(&ca, "b/b", &certificate), wrong);
}

#[test]
fn one_uri_name_and_no_other_count() {
    let ca = ca();
    let (n1, n2) = (node("a/a", "n1"), node("a/a", "n2"));
    let two = issue(&ca, &[&n1.to_string(), &n2.to_string()]);
    assert_eq!(identity_of(&two), Err(NoIdentity::Names(2)));
    assert!(check_server(&ca, n1.clone(), &two).is_err());
    assert!(check_client(&ca, "a/a", &two).is_err());
    assert_eq!(identity_of(&issue(&ca, &[])), Err(NoIdentity::Names(0)));
    assert_eq!(identity_of(&issue(&ca, &["https://larder"])), Err(NoIdentity::Form));
    assert_eq!(identity_of(&CertificateDer::from(vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff])), Err(NoIdentity::Encoding));
}

#[test]
fn trust_needs_a_bounded_number_of_anchors() {
    assert_eq!(Trust::from_pem(b"nothing").err(), Some(NoIdentity::NoAnchor));
    let many = vec![ca().certificate; TRUST_ANCHORS_MAX + 1];
    assert_eq!(Trust::from_certificates(&many).err(), Some(NoIdentity::TooManyAnchors));
    assert_eq!(Trust::from_certificates(&[CertificateDer::from(vec![1, 2, 3])]).err(), Some(NoIdentity::Encoding));
}
