//! The worked examples of the Amazon S3 API reference, and the encoding rule.

use super::*;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const STAMP: &str = "20130524T000000Z";
const HOST: (&str, &str) = ("host", "examplebucket.s3.amazonaws.com");

fn signer() -> Signer {
    Signer::new(SECRET, STAMP, &Scope::s3(STAMP, "us-east-1"))
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn signed(method: &str, path: &str, query: &[(&str, &str)], headers: &[(&str, &str)], payload: &str) -> String {
    let (query, headers) = (pairs(query), pairs(headers));
    signer().request(&Canonical { method, path: path.as_bytes(), query: &query, headers: &headers, payload })
}

#[test]
fn get_object_with_range() {
    let headers = [HOST, ("range", "bytes=0-9"), ("x-amz-content-sha256", EMPTY_SHA256), ("x-amz-date", STAMP)];
    assert_eq!(
        signed("GET", "/test.txt", &[], &headers, EMPTY_SHA256),
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    );
}

#[test]
fn put_object_with_an_odd_key() {
    let payload = sha256_hex(b"Welcome to Amazon S3.");
    let headers = [
        ("date", "Fri, 24 May 2013 00:00:00 GMT"),
        HOST,
        ("x-amz-content-sha256", &payload),
        ("x-amz-date", STAMP),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
    ];
    assert_eq!(
        signed("PUT", "/test$file.text", &[], &headers, &payload),
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    );
}

#[test]
fn sub_resource_and_list() {
    let headers = [HOST, ("x-amz-content-sha256", EMPTY_SHA256), ("x-amz-date", STAMP)];
    assert_eq!(
        signed("GET", "/", &[("lifecycle", "")], &headers, EMPTY_SHA256),
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    );
    assert_eq!(
        signed("GET", "/", &[("prefix", "J"), ("max-keys", "2")], &headers, EMPTY_SHA256),
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    );
}

#[test]
fn presigned_query() {
    let query = [
        ("X-Amz-Algorithm", ALGORITHM),
        ("X-Amz-Credential", "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"),
        ("X-Amz-Date", STAMP),
        ("X-Amz-Expires", "86400"),
        ("X-Amz-SignedHeaders", "host"),
    ];
    assert_eq!(
        signed("GET", "/test.txt", &query, &[HOST], "UNSIGNED-PAYLOAD"),
        "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    );
}

#[test]
fn signed_chunks() {
    let headers = [
        ("content-encoding", "aws-chunked"),
        ("content-length", "66824"),
        ("host", "s3.amazonaws.com"),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ("x-amz-date", STAMP),
        ("x-amz-decoded-content-length", "66560"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
    ];
    let seed = signed("PUT", "/examplebucket/chunkObject.txt", &[], &headers, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
    assert_eq!(seed, "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9");
    let first = signer().chunk(&seed, &sha256_hex(&[b'a'; 65536]));
    assert_eq!(first, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648");
    let second = signer().chunk(&first, &sha256_hex(&[b'a'; 1024]));
    assert_eq!(second, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497");
    let last = signer().chunk(&second, EMPTY_SHA256);
    assert_eq!(last, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9");
}

#[test]
fn signed_trailer() {
    let seed = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e";
    let first = signer().chunk(seed, &sha256_hex(&[b'a'; 65536]));
    assert_eq!(first, "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2");
    let second = signer().chunk(&first, &sha256_hex(&[b'a'; 1024]));
    let last = signer().chunk(&second, EMPTY_SHA256);
    assert_eq!(last, "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992");
    assert_eq!(
        signer().trailer(&last, "x-amz-checksum-crc32c:sOO8/Q==\n"),
        "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"
    );
}

#[test]
fn encoding_keeps_what_s3_keeps() {
    assert_eq!(encode("a b+c/%~é".as_bytes(), Slash::Keep), "a%20b%2Bc/%25~%C3%A9");
    assert_eq!(encode(b"a/b*", Slash::Encode), "a%2Fb%2A");
    assert_eq!(decode("a+b%2Bc"), b"a+b+c");
    assert_eq!(decode_form("a+b%2Bc"), b"a b+c");
}

#[test]
fn a_secret_never_shows() {
    let credentials = Credentials { access_key: "AK".into(), secret_key: "hidden".into() };
    assert!(!format!("{credentials:?}").contains("hidden"));
}
