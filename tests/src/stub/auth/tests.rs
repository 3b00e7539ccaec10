//! The documentation's requests are accepted; each thing that may be wrong with them is refused by its name.

use super::*;

const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
    SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
    Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
const PRESIGNED: &str = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
    &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
    &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
    &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";

fn known() -> Vec<Credentials> {
    let secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned();
    vec![Credentials { access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(), secret_key }]
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

fn request(uri: &str, headers: &[(&str, &str)]) -> Request {
    let mut builder = http::Request::get(uri).header("host", "examplebucket.s3.amazonaws.com");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    Request::parse(&builder.body(()).unwrap().into_parts().0).unwrap()
}

fn ranged(authorization: &str) -> Request {
    request(
        "/test.txt",
        &[
            ("authorization", authorization),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", crate::sigv4::EMPTY_SHA256),
            ("x-amz-date", "20130524T000000Z"),
        ],
    )
}

fn outcome(request: &Request, now: &str) -> Result<(), S3Error> {
    verify(request, &known(), at(now)).map(|_| ())
}

#[test]
fn header_form() {
    assert_eq!(outcome(&ranged(AUTHORIZATION), "2013-05-24T00:00:00Z"), Ok(()));
    assert_eq!(outcome(&ranged(AUTHORIZATION), "2013-05-24T00:14:00Z"), Ok(()));
    assert_eq!(outcome(&ranged(AUTHORIZATION), "2013-05-24T00:16:00Z"), Err(S3Error::RequestTimeTooSkewed));
    let refused = |from: &str, to: &str| outcome(&ranged(&AUTHORIZATION.replace(from, to)), "2013-05-24T00:00:00Z");
    assert_eq!(refused("=f0e8", "=00e8"), Err(S3Error::SignatureDoesNotMatch));
    assert_eq!(refused("AKIA", "AKIB"), Err(S3Error::InvalidAccessKeyId));
    assert_eq!(refused("us-east-1", "us-east-2"), Err(S3Error::SignatureDoesNotMatch));
    assert_eq!(refused("20130524/", "20130523/"), Err(S3Error::SignatureDoesNotMatch));
    assert_eq!(refused(";x-amz-date", ""), Err(S3Error::AccessDenied));
    assert_eq!(refused("host;", ""), Err(S3Error::AccessDenied));
    assert_eq!(refused("AWS4-HMAC-SHA256", "AWS"), Err(S3Error::AuthorizationHeaderMalformed));
    assert_eq!(outcome(&request("/test.txt", &[]), "2013-05-24T00:00:00Z"), Err(S3Error::AccessDenied));
}

#[test]
fn a_changed_request_is_refused() {
    let mut changed = ranged(AUTHORIZATION);
    changed.headers.insert("range", "bytes=0-10".parse().unwrap());
    assert_eq!(outcome(&changed, "2013-05-24T00:00:00Z"), Err(S3Error::SignatureDoesNotMatch));
}

#[test]
fn presigned_form() {
    let presigned = request(PRESIGNED, &[]);
    assert_eq!(outcome(&presigned, "2013-05-24T23:59:59Z"), Ok(()));
    assert_eq!(outcome(&presigned, "2013-05-25T00:00:01Z"), Err(S3Error::ExpiredRequest));
    assert_eq!(outcome(&presigned, "2013-05-23T23:00:00Z"), Err(S3Error::RequestTimeTooSkewed));
    let longer = request(&PRESIGNED.replace("86400", "86401"), &[]);
    assert_eq!(outcome(&longer, "2013-05-24T00:00:00Z"), Err(S3Error::SignatureDoesNotMatch));
}
