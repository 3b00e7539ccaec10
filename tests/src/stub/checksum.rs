//! S3's flexible checksums: which algorithm a request names, whether its value is right, and how it is said back.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;

use super::errors::S3Error;

/// The five algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    const ALL: [Algorithm; 5] =
        [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme, Algorithm::Sha1, Algorithm::Sha256];

    pub(super) fn header(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "x-amz-checksum-crc32",
            Algorithm::Crc32c => "x-amz-checksum-crc32c",
            Algorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Algorithm::Sha1 => "x-amz-checksum-sha1",
            Algorithm::Sha256 => "x-amz-checksum-sha256",
        }
    }
}

/// A checksum of a whole object, in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checksum {
    pub(super) algorithm: Algorithm,
    pub(super) value: String,
}

enum Hash {
    Crc(Box<crc_fast::Digest>, usize),
    Sha(digest::Context),
}

/// A checksum being computed.
pub(super) struct Running {
    algorithm: Algorithm,
    hash: Hash,
}

impl Running {
    /// For the algorithm that a header or the announced trailer names.
    ///
    /// Errors: `InvalidRequest` for a trailer S3 doesn't know.
    pub(super) fn asked_for(headers: &HeaderMap) -> Result<Option<Running>, S3Error> {
        let in_header = Algorithm::ALL.into_iter().find(|one| headers.contains_key(one.header()));
        let trailer = headers.get("x-amz-trailer").and_then(|value| value.to_str().ok());
        let algorithm = match (in_header, trailer) {
            (Some(algorithm), _) => algorithm,
            (None, None) => return Ok(None),
            (None, Some(name)) => {
                Algorithm::ALL.into_iter().find(|one| one.header().eq_ignore_ascii_case(name.trim())).ok_or(
                    S3Error::InvalidRequest { why: "The value specified in the x-amz-trailer header is not supported" },
                )?
            }
        };
        Ok(Some(Running::new(algorithm)))
    }

    fn new(algorithm: Algorithm) -> Running {
        let crc = |kind, bytes| Hash::Crc(Box::new(crc_fast::Digest::new(kind)), bytes);
        let hash = match algorithm {
            Algorithm::Crc32 => crc(crc_fast::CrcAlgorithm::Crc32IsoHdlc, 4),
            Algorithm::Crc32c => crc(crc_fast::CrcAlgorithm::Crc32Iscsi, 4),
            Algorithm::Crc64Nvme => crc(crc_fast::CrcAlgorithm::Crc64Nvme, 8),
            Algorithm::Sha1 => Hash::Sha(digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY)),
            Algorithm::Sha256 => Hash::Sha(digest::Context::new(&digest::SHA256)),
        };
        Running { algorithm, hash }
    }

    pub(super) fn update(&mut self, piece: &[u8]) {
        match &mut self.hash {
            Hash::Crc(crc, _) => crc.update(piece),
            Hash::Sha(sha) => sha.update(piece),
        }
    }

    /// Compares with the header or the trailer; `None` if a promised trailer never came.
    ///
    /// Errors: `BadDigest`.
    pub(super) fn check(self, headers: &HeaderMap, trailers: &[(String, String)]) -> Result<Option<Checksum>, S3Error> {
        let name = self.algorithm.header();
        let in_trailer = trailers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let in_header = headers.get(name).and_then(|value| value.to_str().ok());
        let Some(wanted) = in_header.or(in_trailer) else {
            return Ok(None);
        };
        let value = match self.hash {
            Hash::Crc(crc, bytes) => STANDARD.encode(&crc.finalize().to_be_bytes()[8 - bytes..]),
            Hash::Sha(sha) => STANDARD.encode(sha.finish()),
        };
        if value != wanted.trim() {
            return Err(S3Error::BadDigest);
        }
        Ok(Some(Checksum { algorithm: self.algorithm, value }))
    }
}

/// Bytes of a base64 header; `None` if it isn't base64.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn check_values() {
        // The check values of the CRC catalogue, and FIPS 180's, over "123456789".
        for (algorithm, wanted) in [
            (Algorithm::Crc32, "cbf43926"),
            (Algorithm::Crc32c, "e3069283"),
            (Algorithm::Crc64Nvme, "ae8b14860a799888"),
            (Algorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        ] {
            let wanted = STANDARD.encode(hex::decode(wanted).unwrap());
            let mut headers = HeaderMap::new();
            headers.insert(algorithm.header(), HeaderValue::from_str(&wanted).unwrap());
            let mut running = Running::asked_for(&headers).unwrap().unwrap();
            running.update(b"12345");
            running.update(b"6789");
            assert_eq!(running.check(&headers, &[]), Ok(Some(Checksum { algorithm, value: wanted })));
            let mut other = Running::asked_for(&headers).unwrap().unwrap();
            other.update(b"x");
            assert_eq!(other.check(&headers, &[]), Err(S3Error::BadDigest));
        }
    }

    #[test]
    fn trailers() {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-trailer", HeaderValue::from_static("x-amz-checksum-crc32"));
        let trailer = |value: &str| vec![("x-amz-checksum-crc32".to_owned(), value.to_owned())];
        let run = || Running::asked_for(&headers).unwrap().unwrap();
        assert!(run().check(&headers, &trailer("AAAAAA==")).unwrap().is_some());
        assert_eq!(run().check(&headers, &trailer("AAAAAB==")), Err(S3Error::BadDigest));
        headers.insert("x-amz-trailer", HeaderValue::from_static("x-other"));
        assert!(Running::asked_for(&headers).is_err());
    }
}
