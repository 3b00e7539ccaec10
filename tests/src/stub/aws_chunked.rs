//! The `aws-chunked` coding: chunks of `SIZE[;chunk-signature=HEX]`, and trailers behind the last.
//!
//! ```text
//!  Head --size > 0--> Data --all bytes--> Tail --CRLF--> Head
//!   `--size = 0------> Trailers --empty line--> Done
//! ```
//!
//! Sans-IO: bytes are pushed in as they come, in any pieces.

#[cfg(test)]
mod tests;

use aws_lc_rs::digest;
use bytes::{Buf, Bytes, BytesMut};

use super::errors::S3Error;
use crate::sigv4::{EMPTY_SHA256, Signer};

/// Longest line of the coding: a size, a signature, a trailer.
const LINE_BYTES_MAX: usize = 4096;
/// Most trailers.
const TRAILERS_MAX: usize = 16;

/// Who signs the chunks.
struct Chain {
    signer: Signer,
    previous: String,
    trailer: bool,
}

enum State {
    Head,
    Data { left: u64, signature: String, hash: digest::Context },
    Tail,
    Trailers,
    Done,
}

/// Takes chunks apart.
pub(super) struct Decoder {
    state: State,
    chain: Option<Chain>,
    line: BytesMut,
    trailers: Vec<(String, String)>,
    trailer_signature: Option<String>,
}

impl Decoder {
    /// For chunks without signatures.
    pub(super) fn unsigned() -> Decoder {
        Decoder { state: State::Head, chain: None, line: BytesMut::new(), trailers: vec![], trailer_signature: None }
    }

    /// For signed chunks; `seed` is the request's own signature.
    pub(super) fn signed(signer: Signer, seed: String, trailer: bool) -> Decoder {
        Decoder { chain: Some(Chain { signer, previous: seed, trailer }), ..Decoder::unsigned() }
    }

    /// Takes the next bytes of the body; hands every piece of content to `out`.
    ///
    /// Errors: `IncompleteBody` for what isn't the coding, `SignatureDoesNotMatch`.
    pub(super) fn push(&mut self, mut input: Bytes, mut out: impl FnMut(Bytes)) -> Result<(), S3Error> {
        while !input.is_empty() {
            match &mut self.state {
                State::Data { left, hash, .. } => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    let piece = input.split_to(take);
                    if self.chain.is_some() {
                        hash.update(&piece);
                    }
                    *left -= take as u64;
                    let ended = *left == 0;
                    out(piece);
                    if ended {
                        self.end_chunk()?;
                    }
                }
                State::Head | State::Tail | State::Trailers => {
                    let Some(line) = self.take_line(&mut input)? else {
                        return Ok(());
                    };
                    self.line_read(&line)?;
                }
                State::Done if input.iter().all(|byte| matches!(byte, b'\r' | b'\n')) => {
                    return Ok(());
                }
                State::Done => return Err(S3Error::IncompleteBody),
            }
        }
        Ok(())
    }

    /// The trailers, lower-case names, once the body has ended.
    ///
    /// Errors: `IncompleteBody` if it hasn't, `SignatureDoesNotMatch` for the trailer.
    pub(super) fn finish(mut self) -> Result<Vec<(String, String)>, S3Error> {
        // Some clients leave out the empty line behind the last trailer.
        if matches!(self.state, State::Trailers) && self.line.is_empty() {
            self.end_trailers()?;
        }
        match self.state {
            State::Done => Ok(self.trailers),
            State::Head | State::Data { .. } | State::Tail | State::Trailers => Err(S3Error::IncompleteBody),
        }
    }

    fn take_line(&mut self, input: &mut Bytes) -> Result<Option<String>, S3Error> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let take = end.unwrap_or(input.len());
        if self.line.len() + take > LINE_BYTES_MAX {
            return Err(S3Error::IncompleteBody);
        }
        self.line.extend_from_slice(&input.split_to(take));
        if end.is_none() {
            return Ok(None);
        }
        input.advance(1);
        let line = self.line.split();
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        String::from_utf8(line.to_vec()).map(Some).map_err(|_| S3Error::IncompleteBody)
    }

    fn line_read(&mut self, line: &str) -> Result<(), S3Error> {
        match self.state {
            State::Head => self.begin_chunk(line),
            State::Tail if line.is_empty() => {
                self.state = State::Head;
                Ok(())
            }
            // A signed trailer ends with its signature; an empty line before that is nothing.
            State::Trailers if line.is_empty() && self.chain.as_ref().is_some_and(|chain| chain.trailer) => Ok(()),
            State::Trailers if line.is_empty() => self.end_trailers(),
            State::Trailers => self.trailer(line),
            State::Tail | State::Data { .. } | State::Done => Err(S3Error::IncompleteBody),
        }
    }

    fn begin_chunk(&mut self, line: &str) -> Result<(), S3Error> {
        let (size, extension) = line.split_once(';').unwrap_or((line, ""));
        let left = u64::from_str_radix(size.trim(), 16).map_err(|_| S3Error::IncompleteBody)?;
        let signature = extension.trim().strip_prefix("chunk-signature=").unwrap_or("").to_owned();
        if left > 0 {
            self.state = State::Data { left, signature, hash: digest::Context::new(&digest::SHA256) };
            return Ok(());
        }
        self.check_chunk(&signature, EMPTY_SHA256)?;
        self.state = State::Trailers;
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), S3Error> {
        if let State::Data { signature, hash, .. } = std::mem::replace(&mut self.state, State::Tail)
            && self.chain.is_some()
        {
            self.check_chunk(&signature, &hex::encode(hash.finish()))?;
        }
        Ok(())
    }

    fn check_chunk(&mut self, signature: &str, data_sha256: &str) -> Result<(), S3Error> {
        let Some(chain) = &mut self.chain else {
            return Ok(());
        };
        let wanted = chain.signer.chunk(&chain.previous, data_sha256);
        if wanted != signature {
            return Err(S3Error::SignatureDoesNotMatch);
        }
        chain.previous = wanted;
        Ok(())
    }

    fn trailer(&mut self, line: &str) -> Result<(), S3Error> {
        let (name, value) = line.split_once(':').ok_or(S3Error::IncompleteBody)?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
        if name == "x-amz-trailer-signature" {
            self.trailer_signature = Some(value);
        } else if self.trailers.len() < TRAILERS_MAX {
            self.trailers.push((name, value));
        } else {
            return Err(S3Error::IncompleteBody);
        }
        if self.trailer_signature.is_some() { self.end_trailers() } else { Ok(()) }
    }

    /// Refuses a trailer that should be signed and isn't.
    fn end_trailers(&mut self) -> Result<(), S3Error> {
        if let Some(chain) = &self.chain
            && chain.trailer
        {
            let text: String = self.trailers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
            let wanted = chain.signer.trailer(&chain.previous, &text);
            if self.trailer_signature.as_deref() != Some(wanted.as_str()) {
                return Err(S3Error::SignatureDoesNotMatch);
            }
        }
        self.state = State::Done;
        Ok(())
    }
}
