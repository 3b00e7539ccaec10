use super::*;

#[test]
fn secrets_lose_their_newline_and_must_be_text() {
    let credentials = |id: &str| volume::Credentials {
        access_key_id: volume::Secret::new(id),
        secret_access_key: volume::Secret::new("secret\n"),
        session_token: None,
    };
    let ours = credential(&credentials("AKIA\n")).expect("fine");
    assert_eq!((ours.key_id.as_str(), ours.secret_key.as_str()), ("AKIA", "secret"));
    for bad in ["", "\n", "a b", "a\u{7f}", "é"] {
        assert_eq!(credential(&credentials(bad)).err(), Some(OriginError::BadCredentials), "{bad:?}");
    }
}
