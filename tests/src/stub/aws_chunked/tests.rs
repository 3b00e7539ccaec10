//! The documentation's chunked uploads, in pieces of every size.

use super::*;
use crate::sigv4::Scope;

fn signer() -> Signer {
    let stamp = "20130524T000000Z";
    Signer::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", stamp, &Scope::s3(stamp, "us-east-1"))
}

/// Content and trailers.
type Decoded = (Vec<u8>, Vec<(String, String)>);

fn decode(mut decoder: Decoder, body: &[u8], piece: usize) -> Result<Decoded, S3Error> {
    let mut content = Vec::new();
    for part in body.chunks(piece) {
        decoder.push(Bytes::copy_from_slice(part), |bytes| content.extend_from_slice(&bytes))?;
    }
    decoder.finish().map(|trailers| (content, trailers))
}

fn signed_body(last: &str) -> Vec<u8> {
    let mut body =
        b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n".to_vec();
    body.extend([b'a'; 65536]);
    body.extend(b"\r\n400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n");
    body.extend([b'a'; 1024]);
    body.extend(format!("\r\n0;chunk-signature={last}\r\n\r\n").bytes());
    body
}

#[test]
fn signed_chunks_of_the_documentation() {
    let seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
    let last = "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9";
    let decoder = || Decoder::signed(signer(), seed.to_owned(), false);
    let body = signed_body(last);
    for piece in [1, 7, 100, 65536, 1 << 20] {
        assert_eq!(decode(decoder(), &body, piece), Ok((vec![b'a'; 66560], vec![])), "{piece}");
    }
    let mut changed = body.clone();
    changed[30_000] = b'b';
    assert_eq!(decode(decoder(), &changed, 4096), Err(S3Error::SignatureDoesNotMatch));
    assert_eq!(decode(decoder(), &body[..body.len() - 200], 4096), Err(S3Error::IncompleteBody));
    let cut = signed_body(&last.replace('b', "c"));
    assert_eq!(decode(decoder(), &cut, 4096), Err(S3Error::SignatureDoesNotMatch));
}

#[test]
fn signed_trailer_of_the_documentation() {
    let seed = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e";
    let body = |signature: &str| {
        let mut body =
            b"10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n".to_vec();
        body.extend([b'a'; 65536]);
        body.extend(b"\r\n400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n");
        body.extend([b'a'; 1024]);
        body.extend(b"\r\n0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n");
        body.extend(format!("x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:{signature}\r\n\r\n").bytes());
        body
    };
    let right = "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435";
    let decoder = || Decoder::signed(signer(), seed.to_owned(), true);
    let (content, trailers) = decode(decoder(), &body(right), 1000).unwrap();
    assert_eq!(content.len(), 66560);
    assert_eq!(trailers, [("x-amz-checksum-crc32c".to_owned(), "sOO8/Q==".to_owned())]);
    let wrong = right.replace('d', "e");
    assert_eq!(decode(decoder(), &body(&wrong), 1000), Err(S3Error::SignatureDoesNotMatch));
}

#[test]
fn unsigned_chunks_with_a_trailer() {
    let body = b"3\r\nabc\r\n2\r\nde\r\n0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n";
    for piece in 1..body.len() {
        let (content, trailers) = decode(Decoder::unsigned(), body, piece).unwrap();
        assert_eq!((content.as_slice(), trailers.len()), (&b"abcde"[..], 1));
    }
    assert_eq!(decode(Decoder::unsigned(), b"0\r\n\r\n", 1), Ok((vec![], vec![])));
}

#[test]
fn what_is_not_the_coding_is_refused() {
    let long = "f".repeat(5000);
    for body in ["", "x\r\n", "3\r\nabcd\r\n", "3\r\nab", "0\r\n\r\nmore", "fffffffffffffffff\r\n", &long] {
        assert_eq!(decode(Decoder::unsigned(), body.as_bytes(), 3), Err(S3Error::IncompleteBody), "{body:.20}");
    }
}
