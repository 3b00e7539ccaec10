use larder_proto::volume::{AzureCredentials, Secret};

use super::*;

fn of_key(key: &str) -> Result<AzureCredential, OriginError> {
    credential(&AzureCredentials::AccountKey(Secret::new(key)))
}

fn of_token(token: &str) -> Result<AzureCredential, OriginError> {
    credential(&AzureCredentials::SasToken(Secret::new(token)))
}

#[test]
fn keys_lose_their_newline_and_must_be_base64() {
    let key = AzureAccessKey::try_new("a2V5").expect("base64");
    assert_eq!(of_key("a2V5\n"), Ok(AzureCredential::AccessKey(key)));
    for bad in ["", "\n", "no base64!", "a2V5=", "é"] {
        assert_eq!(of_key(bad), Err(OriginError::BadCredentials), "{bad:?}");
    }
}

/// As the portal shows it, as a URL has it, and with an encoded `&` in a field.
#[test]
fn tokens_are_taken_as_people_have_them() {
    let pairs = |pairs: &[(&str, &str)]| {
        Ok(AzureCredential::SASToken(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()))
    };
    let expected = pairs(&[("sv", "2023-11-03"), ("se", "2030-01-01T00:00:00Z"), ("sig", "a+b/c=")]);
    assert_eq!(of_token("sv=2023-11-03&se=2030-01-01T00%3A00%3A00Z&sig=a%2Bb%2Fc%3D"), expected);
    assert_eq!(of_token("?sv=2023-11-03&se=2030-01-01T00:00:00Z&sig=a+b/c=\n"), expected);
    assert_eq!(of_token("rscd=a%26b&sig=x"), pairs(&[("rscd", "a&b"), ("sig", "x")]));
    for bad in ["", "?", "sig", "sig=", "sv=2023-11-03", "sig=%FF", "https://host/c?x"] {
        assert_eq!(of_token(bad), Err(OriginError::BadCredentials), "{bad:?}");
    }
}
