//! Reads the body of a request: takes the transfer coding off, checks what protects it (SHA-256, chunk signatures,
//! Content-MD5, the flexible checksums), and says its MD5.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use md5::{Digest, Md5};

use super::auth::{Payload, Verified};
use super::aws_chunked::Decoder;
use super::checksum::{Checksum, Running};
use super::errors::S3Error;
use super::pacer::Pacer;
use super::request::Request;

/// S3's limit on one PUT: 5 GiB.
pub(super) const BODY_BYTES_MAX: u64 = 5 << 30;
/// What is allocated on the word of a header; a larger body grows as it comes.
const TRUSTED_BYTES: u64 = 64 << 20;

/// A body that was what its sender meant.
pub(super) struct Upload {
    pub(super) body: Bytes,
    /// Lower-case hex.
    pub(super) md5: String,
    pub(super) checksum: Option<Checksum>,
}

/// Collects what arrives, hashing on the way.
struct Sink {
    body: BytesMut,
    md5: Md5,
    sha256: Option<aws_lc_rs::digest::Context>,
    checksum: Option<Running>,
    too_large: bool,
}

impl Sink {
    fn take(&mut self, piece: &[u8]) {
        if (self.body.len() + piece.len()) as u64 > BODY_BYTES_MAX {
            self.too_large = true;
            return;
        }
        self.md5.update(piece);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(piece);
        }
        if let Some(checksum) = &mut self.checksum {
            checksum.update(piece);
        }
        self.body.extend_from_slice(piece);
    }
}

/// Reads all of `body` through `pacers`.
///
/// Errors: `EntityTooLarge`, `IncompleteBody`, `BadDigest`, `InvalidDigest`, `ContentSha256Mismatch`,
/// `SignatureDoesNotMatch`, `MissingContentLength`.
pub(super) async fn read(
    request: &Request,
    verified: Verified,
    mut body: Incoming,
    pacers: &[&Pacer],
) -> Result<Upload, S3Error> {
    let declared = declared_length(request, &verified.payload)?;
    let (mut decoder, sha256) = match verified.payload {
        Payload::Unsigned => (None, None),
        Payload::Sha256(hash) => (None, Some(hash)),
        Payload::UnsignedTrailer => (Some(Decoder::unsigned()), None),
        Payload::SignedChunks { signer, seed, trailer } => (Some(Decoder::signed(*signer, seed, trailer)), None),
    };
    let mut sink = Sink {
        body: BytesMut::with_capacity(usize::try_from(declared.unwrap_or(0).min(TRUSTED_BYTES)).unwrap_or(0)),
        md5: Md5::new(),
        sha256: sha256.as_ref().map(|_| aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256)),
        checksum: Running::asked_for(&request.headers)?,
        too_large: false,
    };
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| S3Error::IncompleteBody)?.into_data() else {
            continue;
        };
        for pacer in pacers {
            pacer.pass(data.len() as u64).await;
        }
        match &mut decoder {
            Some(decoder) => decoder.push(data, |piece| sink.take(&piece))?,
            None => sink.take(&data),
        }
        if sink.too_large {
            return Err(S3Error::EntityTooLarge);
        }
    }
    let trailers = decoder.map(Decoder::finish).transpose()?.unwrap_or_default();
    finish(request, sink, sha256, declared, &trailers)
}

/// The length of the content, where a header says it.
fn declared_length(request: &Request, payload: &Payload) -> Result<Option<u64>, S3Error> {
    let chunked = match payload {
        Payload::UnsignedTrailer | Payload::SignedChunks { .. } => true,
        Payload::Unsigned | Payload::Sha256(_) => false,
    };
    let name = if chunked { "x-amz-decoded-content-length" } else { "content-length" };
    let declared = match request.header(name) {
        Some(text) => Some(text.parse::<u64>().map_err(|_| S3Error::InvalidArgument { name: "Content-Length" })?),
        None if request.header("transfer-encoding").is_some() && !chunked => None,
        None => return Err(S3Error::MissingContentLength),
    };
    if declared.is_some_and(|len| len > BODY_BYTES_MAX) { Err(S3Error::EntityTooLarge) } else { Ok(declared) }
}

fn finish(
    request: &Request,
    sink: Sink,
    sha256: Option<String>,
    declared: Option<u64>,
    trailers: &[(String, String)],
) -> Result<Upload, S3Error> {
    if declared.is_some_and(|len| len != sink.body.len() as u64) {
        return Err(S3Error::IncompleteBody);
    }
    if let (Some(wanted), Some(context)) = (sha256, sink.sha256)
        && hex::encode(context.finish()) != wanted
    {
        return Err(S3Error::ContentSha256Mismatch);
    }
    let md5 = sink.md5.finalize();
    if let Some(wanted) = request.header("content-md5") {
        let wanted =
            super::checksum::from_base64(wanted).filter(|hash| hash.len() == 16).ok_or(S3Error::InvalidDigest)?;
        if wanted != md5[..] {
            return Err(S3Error::BadDigest);
        }
    }
    let checksum = sink.checksum.map(|running| running.check(&request.headers, trailers)).transpose()?.flatten();
    Ok(Upload { body: sink.body.freeze(), md5: hex::encode(md5), checksum })
}
