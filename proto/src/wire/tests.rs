//! The wire, byte for byte (computed apart; these may never change), round trips, and hostile input.

use std::collections::VecDeque;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::{HeaderValue, Request, request};
use proptest::prelude::*;

use super::*;
use crate::checksum::{Checksummed, block_crcs};
use crate::ids::VolumeId;
use crate::limits::{BLOCK_BYTES, KEY_BYTES_MAX};
use crate::object::{ChunkIndex, ChunkSize, Object, ObjectKey, Version};

const BLOCK: usize = BLOCK_BYTES as usize;
const HELLO: &[u8] = b"hello\x5e\x7f\xca\xc5";
const BATCH: &str = "1111111111111111111111111111111154aacd225ff1a2d249213d57a1f6c91c0000000001000000610100000031050000\
    00000000000000010011111111111111111111111111111111d616d7a54721bd68abe6c8e9bc64bc040200000003000000622f63010000007840\
    0d03000000000000000100";

fn object(key: &str, version: &str, size: u64, chunk_size: u32) -> Arc<Object> {
    let key = ObjectKey::parse(key).expect("a plain key");
    let version = Version::of_etag(version).expect("a plain version");
    let chunk_size = ChunkSize::new(chunk_size).expect("a chunk size");
    Object::new(VolumeId::from_bytes([0x11; 16]), key, version, size, chunk_size).expect("a small object")
}

fn chunk(key: &str, version: &str, index: u32, size: u64, chunk_size: u32) -> Chunk {
    object(key, version, size, chunk_size).chunk(ChunkIndex(index)).expect("the chunk exists")
}

fn parts(head: Request<()>) -> request::Parts {
    head.into_parts().0
}

fn sample() -> ChunkRequest {
    let chunk = chunk("dir/ä b%.bin", "v-1", 1, 300_000, 131_072);
    let range = ByteRange::new(65_536, 131_072).expect("ordered");
    ChunkRequest::new(RequestId(0xabc), Want::Fill, Epoch(7), chunk, range).expect("a whole block")
}

fn frames_of(bytes: &[u8], cut: usize) -> Vec<Bytes> {
    bytes.chunks(cut.max(1)).map(Bytes::copy_from_slice).collect()
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * 7 + i / 251) % 256).expect("a remainder of 256")).collect()
}

fn encode(chunk: &Chunk, range: ByteRange, data: &[u8], piece: usize) -> Vec<u8> {
    let mut encoder = BodyEncoder::new(chunk, range);
    let mut frames = VecDeque::new();
    let mut at = range.start();
    let bytes = &data[usize::try_from(range.start()).expect("small")..usize::try_from(range.end()).expect("small")];
    for piece in bytes.chunks(piece) {
        let block = chunk.first_block() + at / u64::from(BLOCK_BYTES);
        let crcs = block_crcs(chunk.object().id(), block, piece);
        let piece = Checksummed::new(chunk.object().id(), block, Bytes::copy_from_slice(piece), crcs);
        let piece = piece.expect("counts agree");
        at += piece.len() as u64;
        encoder.push(piece, &mut frames).expect("the next piece");
    }
    assert!(encoder.is_complete());
    frames.into_iter().flatten().collect()
}

/// All segments' bytes, verified; and how many segments there were.
fn decode(decoder: &mut BodyDecoder, frames: Vec<Bytes>) -> Result<(Vec<u8>, usize), BodyError> {
    let (mut out, mut segments) = (Vec::new(), 0);
    for mut frame in frames {
        while let Some(segment) = decoder.take(&mut frame)? {
            assert!(segment.len() <= 1 << 20);
            out.extend_from_slice(&segment.verify().expect("checksums agree").0);
            segments += 1;
        }
        assert!(frame.is_empty(), "a frame is used up");
    }
    Ok((out, segments))
}

#[test]
fn the_head_of_a_fill_is_pinned() {
    let head = parts(sample().to_head());
    assert_eq!(head.method, "GET");
    assert_eq!(head.uri, "/v1/chunk/11111111111111111111111111111111/9862b4e615e7f3a23bd645c51ffa3dcb/1");
    let headers: Vec<_> =
        head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("ASCII"))).collect();
    assert_eq!(
        headers,
        [
            ("host", "larder"),
            ("x-larder-request", "0000000000000abc"),
            ("x-larder-epoch", "7"),
            ("x-larder-key", "dir/%C3%A4%20b%25.bin"),
            ("x-larder-version", "v-1"),
            ("x-larder-size", "300000"),
            ("x-larder-chunk-size", "131072"),
            ("x-larder-range", "65536-131072"),
            ("x-larder-want", "fill"),
        ]
    );
    assert_eq!(target_of(&head), Ok(Target::Chunk));
    assert_eq!(ChunkRequest::parse(&head), Ok(sample()));
    assert_eq!(Want::Have.as_str(), "have");
    assert_eq!(Want::DoubtedHave.as_str(), "have-doubted");
    assert_eq!(sample().passed_on(Epoch(8)).want().as_str(), "fill-passed");
}

#[test]
fn the_head_of_a_put_is_pinned() {
    let put = PutRequest { request: RequestId(1), epoch: Epoch(9), chunk: chunk("a", "1", 0, 5, 65_536) };
    let head = parts(put.to_head());
    assert_eq!((head.method.as_str(), target_of(&head)), ("PUT", Ok(Target::Put)));
    assert_eq!(head.uri, "/v1/chunk/11111111111111111111111111111111/54aacd225ff1a2d249213d57a1f6c91c/0");
    assert_eq!(head.headers["x-larder-range"], "0-5");
    assert_eq!(head.headers["content-length"], "9");
    assert_eq!(PutRequest::parse(&head), Ok(put));
}

#[test]
fn bodies_are_pinned() {
    let small = chunk("a", "1", 0, 5, 65_536);
    let whole = ByteRange::at(0, 5);
    assert_eq!(encode(&small, whole, b"hello", BLOCK), HELLO);
    assert_eq!(
        (body_len(whole, Some(Want::Fill)), body_len(whole, Some(Want::Have)), body_len(whole, None)),
        (13, 9, 9)
    );

    let len = 2 * 1024 * 1024 + 512 * 1024 + 10;
    let big = chunk("big", "1", 0, len as u64, 4 << 20);
    let range = ByteRange::new(131_072, len as u64).expect("ordered");
    let body = encode(&big, range, &data(len), 3 * BLOCK);
    assert_eq!(body.len() as u64, body_len(range, None));
    assert_eq!(hex::encode(digest(&SHA256, &body)), "e033e1fa976f299ed422f7f2a90493f036404abb8c14d36cb8b9b21d980ee403");
}

#[test]
fn batches_are_pinned() {
    let chunks = vec![chunk("a", "1", 0, 5, 65_536), chunk("b/c", "x", 2, 200_000, 65_536)];
    let batch = BatchRequest::new(RequestId(1), Want::Have, Epoch(3), chunks).expect("two entries");
    let (head, body) = batch.encode().into_parts();
    assert_eq!((head.method.as_str(), head.uri.path(), target_of(&head)), ("POST", "/v1/chunks", Ok(Target::Batch)));
    assert_eq!(hex::encode(&body), BATCH);
    assert_eq!(BatchRequest::parse(&head, body.clone()), Ok(batch));
    for len in [0, 1, 40, body.len() - 1] {
        let refused = BatchRequest::parse(&head, body.slice(..len)).expect_err("cut short");
        assert_eq!(refused, WireError::Batch, "{len}");
    }
    let first = chunk("a", "1", 0, 5, 65_536);
    assert_eq!(hex::encode(EntryHead::of(&first).encode()), "000000000900000000000000");
    assert_eq!(hex::encode(EntryHead::Refused(ErrorKind::NotHere).encode()), "080000000000000000000000");
}

#[test]
fn the_answer_to_a_batch_is_told_entry_by_entry() {
    let chunks = vec![chunk("a", "1", 0, 5, 65_536), chunk("b", "1", 0, 7, 65_536), chunk("a", "1", 0, 5, 65_536)];
    let mut answer = Vec::new();
    for refused in [false, true, false] {
        if refused {
            answer.extend_from_slice(&EntryHead::Refused(ErrorKind::NotFound).encode());
        } else {
            answer.extend_from_slice(&EntryHead::of(&chunks[0]).encode());
            answer.extend_from_slice(HELLO);
        }
    }
    for cut in [1, 5, 12, 13, answer.len()] {
        let mut decoder = BatchDecoder::new(chunks.clone(), Bodies::Sent);
        let mut told = Vec::new();
        for mut frame in frames_of(&answer, cut) {
            while let Some(event) = decoder.take(&mut frame).expect("well formed") {
                told.push(match event {
                    BatchEvent::Segment(entry, segment) => {
                        assert_eq!(segment.verify().expect("checksums agree").0, "hello");
                        format!("bytes {entry}")
                    }
                    BatchEvent::Complete(entry) => format!("complete {entry}"),
                    BatchEvent::Refused(entry, kind) => format!("{kind} {entry}"),
                });
            }
        }
        assert_eq!(told, ["bytes 0", "complete 0", "NotFound 1", "bytes 2", "complete 2"], "frames of {cut}");
        assert!(decoder.is_complete());
        assert_eq!(decoder.take(&mut Bytes::from_static(b"x")).expect_err("nothing follows"), BodyError::TooLong);
    }
    let mut lying = BatchDecoder::new(chunks, Bodies::Sent);
    let mut frame = Bytes::from_static(&[0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    assert_eq!(lying.take(&mut frame).expect_err("a length that isn't the chunk's"), BodyError::OutOfOrder);
}

#[test]
fn a_batch_that_asks_what_is_kept_is_pinned() {
    let chunks = vec![chunk("a", "1", 0, 5, 65_536), chunk("b/c", "x", 2, 200_000, 65_536)];
    let batch = BatchRequest::ask(RequestId(1), Epoch(3), chunks.clone()).expect("two entries");
    let (head, body) = batch.encode().into_parts();
    assert_eq!(head.headers["x-larder-want"], "kept");
    assert_eq!(hex::encode(&body), BATCH, "the body is that of every batch");
    assert_eq!(BatchRequest::parse(&head, body), Ok(batch));
    let mut answer = Bytes::from([EntryHead::Kept.encode(), EntryHead::Refused(ErrorKind::NotHere).encode()].concat());
    assert_eq!(hex::encode(&answer), "000000000000000000000000080000000000000000000000");
    let mut decoder = BatchDecoder::new(chunks, Bodies::Asked);
    assert!(matches!(decoder.take(&mut answer), Ok(Some(BatchEvent::Complete(0)))));
    assert!(matches!(decoder.take(&mut answer), Ok(Some(BatchEvent::Refused(1, ErrorKind::NotHere)))));
    assert!(decoder.is_complete());
    let large = |index| chunk("large", "1", index, 1 << 30, 4 << 20);
    assert!(BatchRequest::ask(RequestId(1), Epoch(3), (0..200).map(large).collect()).is_some(), "no bytes: no bound");
    assert!(BatchRequest::ask(RequestId(1), Epoch(3), vec![]).is_none());
    assert!(BatchRequest::ask(RequestId(1), Epoch(3), (0..256).chain([0]).map(large).collect()).is_none());
}

#[test]
fn a_batch_whose_bytes_are_kept_is_answered_by_heads_alone() {
    let chunks = vec![chunk("a", "1", 0, 5, 65_536), chunk("b/c", "x", 2, 200_000, 65_536)];
    let batch = BatchRequest::keep(RequestId(1), Epoch(3), chunks.clone()).expect("two entries");
    let (head, body) = batch.encode().into_parts();
    assert_eq!(head.headers["x-larder-want"], "fill-kept");
    assert_eq!(hex::encode(&body), BATCH, "the body is that of every batch");
    assert_eq!(BatchRequest::parse(&head, body), Ok(batch));
    assert_eq!(hex::encode(EntryHead::Kept.encode()), "000000000000000000000000");
    let answer = [EntryHead::Kept.encode(), EntryHead::Refused(ErrorKind::Changed).encode()].concat();
    for cut in [1, 12, 24] {
        let mut decoder = BatchDecoder::new(chunks.clone(), Bodies::Kept);
        let mut told = Vec::new();
        for mut frame in frames_of(&answer, cut) {
            while let Some(event) = decoder.take(&mut frame).expect("well formed") {
                told.push(match event {
                    BatchEvent::Segment(_, _) => "bytes".to_owned(),
                    BatchEvent::Complete(entry) => format!("complete {entry}"),
                    BatchEvent::Refused(entry, kind) => format!("{kind} {entry}"),
                });
            }
        }
        assert_eq!(told, ["complete 0", "Changed 1"], "frames of {cut}");
        assert!(decoder.is_complete());
    }
    let mut unasked = BatchDecoder::new(chunks.clone(), Bodies::Kept);
    let mut frame = EntryHead::of(&chunks[0]).encode();
    assert_eq!(unasked.take(&mut frame).expect_err("bytes that nobody wants"), BodyError::OutOfOrder);
}

#[test]
fn a_segment_in_one_frame_is_a_slice_of_it() {
    let len = (1 << 20) + 5;
    let big = chunk("big", "1", 0, len, 4 << 20);
    let range = ByteRange::at(0, len);
    let body = Bytes::from(encode(&big, range, &data(usize::try_from(len).expect("small")), BLOCK));
    let mut decoder = BodyDecoder::new(&big, range, Opening::Bytes);
    let segment = decoder.take(&mut body.clone()).expect("well formed").expect("a whole segment");
    let (bytes, _) = segment.verify().expect("checksums agree");
    assert_eq!(bytes.as_ptr(), body.as_ptr(), "not copied");

    let mut decoder = BodyDecoder::new(&big, range, Opening::Bytes);
    assert!(decoder.take(&mut body.slice(..100)).expect("well formed").is_none());
    let segment = decoder.take(&mut body.slice(100..)).expect("well formed").expect("a whole segment");
    let (bytes, _) = segment.verify().expect("checksums agree");
    assert_eq!(bytes.as_ptr().align_offset(4096), 0, "copied once, to an aligned place");
}

#[test]
fn a_failed_fill_says_why_and_too_many_bytes_are_refused() {
    let small = chunk("a", "1", 0, 5, 65_536);
    let whole = ByteRange::at(0, 5);
    let mut decoder = BodyDecoder::new(&small, whole, Want::Fill.into());
    decoder.open(&mut Bytes::from_static(&[2, 0])).expect("half a status");
    assert!(!decoder.is_open());
    let refused = decoder.open(&mut Bytes::from_static(&[0, 0])).expect_err("a status");
    assert_eq!(refused, BodyError::Refused(ErrorKind::AccessDenied));

    let mut decoder = BodyDecoder::new(&small, whole, Opening::Bytes);
    let mut long = [HELLO, b"!"].concat();
    assert_eq!(decode(&mut decoder, vec![std::mem::take(&mut long).into()]), Err(BodyError::TooLong));
}

#[test]
fn an_encoder_takes_the_next_piece_only() {
    let two = chunk("two", "1", 0, 131_072, 131_072);
    let range = ByteRange::at(0, 131_072);
    let piece = |object: &Chunk, block: u64, len: usize| {
        let bytes = Bytes::from(vec![0; len]);
        let crcs = block_crcs(object.object().id(), block, &bytes);
        Checksummed::new(object.object().id(), block, bytes, crcs).expect("counts agree")
    };
    let mut frames = VecDeque::new();
    let mut encoder = BodyEncoder::new(&two, range);
    assert_eq!(encoder.push(piece(&two, 1, BLOCK), &mut frames), Err(BodyError::OutOfOrder), "not the first block");
    assert_eq!(encoder.push(piece(&two, 0, 100), &mut frames), Err(BodyError::OutOfOrder), "not a whole block");
    assert_eq!(encoder.push(piece(&two, 0, 3 * BLOCK), &mut frames), Err(BodyError::OutOfOrder), "too long");
    let other = chunk("other", "1", 0, 131_072, 131_072);
    assert_eq!(encoder.push(piece(&other, 0, BLOCK), &mut frames), Err(BodyError::OutOfOrder), "another object");
    assert_eq!(encoder.push(piece(&two, 0, 2 * BLOCK), &mut frames), Ok(()));
    assert!(encoder.is_complete());
}

#[test]
fn hostile_heads_are_refused() {
    let long = "x".repeat(3 * KEY_BYTES_MAX + 1);
    let refused = |name: &'static str, value: &str| {
        let mut head = parts(sample().to_head());
        head.headers.insert(name, HeaderValue::from_str(value).expect("a header"));
        ChunkRequest::parse(&head).expect_err(value)
    };
    for value in ["", "+7", "-1", " 7", "7 ", "0x7", "99999999999999999999", "7,8"] {
        assert_eq!(refused("x-larder-epoch", value), WireError::Header("x-larder-epoch"), "{value:?}");
    }
    for value in ["HAVE", "", "both"] {
        assert_eq!(refused("x-larder-want", value), WireError::Header("x-larder-want"));
    }
    for value in ["", "..", "a/../b", "a//b", "%00", "%ff", "/a", long.as_str()] {
        assert_eq!(refused("x-larder-key", value), WireError::Header("x-larder-key"), "{value:?}");
    }
    for value in ["", "\"quoted\"", "a b", &"v".repeat(257)] {
        assert_eq!(refused("x-larder-version", value), WireError::Header("x-larder-version"), "{value:?}");
    }
    assert_eq!(refused("x-larder-key", "other"), WireError::WrongObject);
    assert_eq!(refused("x-larder-version", "v-2"), WireError::WrongObject);
    assert_eq!(refused("x-larder-size", "18446744073709551615"), WireError::NoSuchChunk);
    assert_eq!(refused("x-larder-size", "131072"), WireError::NoSuchChunk, "the object ends before chunk 1");
    for value in ["0", "65537", "134217728", "4294967296"] {
        assert_eq!(refused("x-larder-chunk-size", value), WireError::Header("x-larder-chunk-size"));
    }
    for value in ["0-0", "65536-65536", "1-65536", "0-65535", "0-196608", "131072-196608", "9-3"] {
        assert_eq!(refused("x-larder-range", value), WireError::Range, "{value}");
    }
    assert_eq!(refused("x-larder-range", "0"), WireError::Header("x-larder-range"));
    for value in ["", "abc", "00000000000000000", "+000000000000abc"] {
        assert_eq!(refused("x-larder-request", value), WireError::Header("x-larder-request"));
    }
}

#[test]
fn missing_and_doubled_headers_are_refused() {
    let names: Vec<_> = parts(sample().to_head()).headers.keys().cloned().collect();
    for name in names.iter().filter(|name| name.as_str() != "host") {
        let mut head = parts(sample().to_head());
        let value = head.headers.remove(name).expect("it is there");
        assert!(ChunkRequest::parse(&head).is_err(), "without {name}");
        head.headers.append(name, value.clone());
        assert!(ChunkRequest::parse(&head).is_ok(), "with {name}");
        head.headers.append(name, value);
        assert!(ChunkRequest::parse(&head).is_err(), "with two {name}");
    }
}

#[test]
fn other_paths_and_methods_are_nothing() {
    let volume = "1".repeat(32);
    for (method, path) in [
        ("GET", "/".to_owned()),
        ("DELETE", format!("/v1/chunk/{volume}/{volume}/0")),
        ("GET", "/v1/chunks".to_owned()),
        ("POST", "/v1/map".to_owned()),
    ] {
        let head = parts(Request::builder().method(method).uri(&path).body(()).expect("a request"));
        assert_eq!(target_of(&head), Err(WireError::Target), "{method} {path}");
    }
    for path in [
        "/v1/chunk/".to_owned(),
        format!("/v1/chunk/{volume}/{volume}"),
        format!("/v1/chunk/{volume}/{volume}/0/1"),
        format!("/v1/chunk/{volume}/{volume}1/0"),
        format!("/v1/chunk/{volume}/{volume}/4294967296"),
        format!("/v1/chunk/{volume}/{volume}/+1"),
    ] {
        let mut head = parts(sample().to_head());
        head.uri = path.parse().expect("a path");
        assert_eq!(ChunkRequest::parse(&head), Err(WireError::Target), "{path}");
    }
}

#[test]
fn every_error_kind_finds_its_way_back() {
    for kind in ErrorKind::ALL {
        let mut headers = http::HeaderMap::new();
        headers.insert(ERROR, HeaderValue::from_static(kind.as_str()));
        assert_eq!(error_from_answer(&headers), kind);
        assert!(!status_of(kind).is_success());
        assert_ne!(status_of(kind), http::StatusCode::FORBIDDEN, "that one means: not in the map");
    }
    assert_eq!(status_of(ErrorKind::NotHere), 404);
    assert_eq!(status_of(ErrorKind::StaleEpoch), 409);
    assert_eq!(error_from_answer(&http::HeaderMap::new()), ErrorKind::Internal);
}

#[test]
fn batches_are_bounded() {
    let one = chunk("a", "1", 0, 4 << 20, 4 << 20);
    let batch = |chunks| BatchRequest::new(RequestId(1), Want::Have, Epoch(3), chunks);
    assert!(batch(vec![]).is_none());
    assert!(batch(vec![one.clone(); 2]).is_some(), "8 MiB");
    assert!(batch(vec![one.clone(); 3]).is_none(), "12 MiB");
    assert!(batch(vec![chunk("a", "1", 0, 64 << 20, 64 << 20)]).is_some(), "one is always asked for");
    let small = chunk("a", "1", 0, 1, 65_536);
    assert!(batch(vec![small.clone(); 256]).is_some());
    assert!(batch(vec![small; 257]).is_none());
}

fn any_request() -> impl Strategy<Value = ChunkRequest> {
    let names = ("[^\0/]{1,40}(/[^\0/]{1,40}){0,3}", "[!#-~]{1,64}");
    let numbers = (0u32..11, 1u64..20_000_000, any::<(u64, u64, u32)>(), any::<u64>(), any::<u64>(), 0..3u8);
    (names, numbers).prop_filter_map("a chunk", |((key, version), (log, size, picks, request, epoch, want))| {
        let key = ObjectKey::parse(&key).ok()?;
        let object = Object::new(
            VolumeId::from_bytes([3; 16]),
            key,
            Version::of_etag(&version).filter(|v| v.as_str() == version)?,
            size,
            ChunkSize::new(BLOCK_BYTES << log)?,
        )?;
        let chunk = object.chunk(ChunkIndex(picks.2 % object.chunks()))?;
        let len = u64::from(chunk.len());
        let range = ByteRange::at(picks.0 % len, 1 + picks.1 % len).clamp(len).widen_to_blocks(len);
        let want = [Want::Have, Want::Fill, Want::PassedFill][usize::from(want)];
        ChunkRequest::new(RequestId(request), want, Epoch(epoch), chunk, range)
    })
}

proptest! {
    #[test]
    fn requests_come_back(request in any_request()) {
        prop_assert_eq!(ChunkRequest::parse(&parts(request.to_head())), Ok(request));
    }

    #[test]
    fn bodies_come_back(
        request in any_request().prop_filter("small", |request| request.range().len() < 4_000_000),
        piece in 1usize..40,
        cut in prop_oneof![1000usize..5_000, 60_000..70_000usize, 1_000_000..2_200_000usize],
    ) {
        let (chunk, range) = (request.chunk(), request.range());
        let bytes = data(usize::try_from(chunk.len()).expect("small"));
        let mut body = encode(chunk, range, &bytes, piece * BLOCK);
        prop_assert_eq!(body.len() as u64, body_len(range, None));
        if request.want().is_fill() {
            body.splice(0..0, [0; 4]);
        }
        let mut decoder = BodyDecoder::new(chunk, range, request.want().into());
        let (decoded, segments) = decode(&mut decoder, frames_of(&body, cut)).expect("well formed");
        prop_assert!(decoder.is_complete());
        let start = usize::try_from(range.start()).expect("small");
        prop_assert_eq!(&decoded[..], &bytes[start..start + decoded.len()]);
        prop_assert_eq!(decoded.len() as u64, range.len());
        prop_assert_eq!(segments as u64, range.len().div_ceil(1 << 20));
    }

    #[test]
    fn no_batch_panics(body in proptest::collection::vec(any::<u8>(), 0..600), cut in 1usize..50) {
        let head = BatchRequest::new(RequestId(1), Want::Have, Epoch(3), vec![sample().chunk().clone()]);
        let head = head.expect("one entry").encode().into_parts().0;
        let _ = BatchRequest::parse(&head, body.clone().into());
        let mut decoder = BatchDecoder::new(vec![sample().chunk().clone(); 3], Bodies::Sent);
        for mut frame in frames_of(&body, cut) {
            while let Ok(Some(_)) = decoder.take(&mut frame) {}
        }
    }
}
