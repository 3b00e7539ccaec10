//! The origin double under its own client: every fault is what it says, is counted, and ends; so do delay, caps,
//! counters, disk bodies, the control endpoint, and the client's upload and baseline read.

use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_tests::s3client::{ClientError, Expect, S3Client, direct_read, upload_dir};
use larder_tests::sigv4::Credentials;
use larder_tests::stub::{FaultAction, FaultHandle, FaultOp, FaultRule, Operation, StubS3, pattern};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const MIB: u64 = 1 << 20;

async fn started() -> (StubS3, S3Client) {
    let stub = StubS3::builder().bucket("b").start().await.unwrap();
    let client = stub.client();
    (stub, client)
}

fn once(stub: &StubS3, action: FaultAction) -> FaultHandle {
    stub.fault(FaultRule::new(action).op(FaultOp::Get).key("k*").times(1))
}

fn refusal(result: Result<Bytes, ClientError>) -> (u16, String) {
    match result {
        Err(ClientError::Refused { status, code, .. }) => (status.as_u16(), code),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_come_with_their_codes_and_end() {
    let (stub, client) = started().await;
    stub.put("k", "content");
    for (code, name) in [(503, "SlowDown"), (429, "SlowDown"), (500, "InternalError"), (403, "AccessDenied")] {
        let rule = once(&stub, FaultAction::Status { code });
        assert_eq!(refusal(client.get("k").await), (code, name.to_owned()));
        assert_eq!(client.get("k").await.unwrap(), "content");
        assert_eq!(rule.hits(), 1);
    }
    let put = stub.fault(FaultRule::new(FaultAction::Status { code: 503 }).op(FaultOp::Put));
    let refused = client.put("k2", Bytes::from(vec![0; 3_000_000])).await;
    assert!(matches!(refused, Err(ClientError::Refused { .. })), "{refused:?}");
    assert_eq!(put.hits(), 1);
    assert_eq!(stub.counters().faulted, 5);
    assert_eq!(stub.counters().key("b", "k").gets, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_break_off_where_the_rule_says() {
    let (stub, client) = started().await;
    stub.put_pattern("k", 1, 3 * MIB);
    for action in [FaultAction::Reset { after_bytes: 2 * MIB + 5 }, FaultAction::ShortBody { after_bytes: 100 }] {
        let rule = once(&stub, action);
        let broken = client.get("k").await;
        assert!(matches!(broken, Err(ClientError::Broken { .. })), "{broken:?}");
        assert_eq!(rule.hits(), 1);
    }
    assert_eq!(stub.counters().bytes_sent, 2 * MIB + 105);
    let rule = once(&stub, FaultAction::WrongLength { missing_bytes: 7 });
    assert_eq!(client.get("k").await.unwrap().len() as u64, 3 * MIB - 7);
    assert_eq!(rule.hits(), 1);
    let whole = client.get("k").await.unwrap();
    assert_eq!(pattern::check("k", 0, &whole), Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_a_reset() {
    let (stub, _) = started().await;
    stub.put_pattern("k", 1, MIB);
    once(&stub, FaultAction::Reset { after_bytes: 10 });
    let mut socket = tokio::net::TcpStream::connect(stub.address()).await.unwrap();
    socket.write_all(signed_get(&stub, "k").await.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    let end = timeout(Duration::from_secs(20), socket.read_to_end(&mut seen)).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(seen.starts_with(b"HTTP/1.1 200"));
}

/// A signed GET as text.
async fn signed_get(stub: &StubS3, key: &str) -> String {
    use larder_tests::sigv4::{ALGORITHM, Canonical, EMPTY_SHA256, Scope, Signer};
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let scope = Scope::s3(&stamp, "us-east-1");
    let path = format!("/{}/{key}", stub.bucket());
    let headers = [("host", "x"), ("x-amz-content-sha256", EMPTY_SHA256), ("x-amz-date", stamp.as_str())]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let canonical =
        Canonical { method: "GET", path: path.as_bytes(), query: &[], headers: &headers, payload: EMPTY_SHA256 };
    let signature = Signer::new(stub.secret_key(), &stamp, &scope).request(&canonical);
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "GET {path} HTTP/1.1\r\n{lines}authorization: {ALGORITHM} Credential={}/{scope},SignedHeaders={},\
         Signature={signature}\r\n\r\n",
        stub.access_key(),
        canonical.signed_headers()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_and_waits() {
    let (stub, client) = started().await;
    let etag = stub.put("k", vec![7; 100_000]);
    let rule = stub.fault(FaultRule::new(FaultAction::WrongEtag).op(FaultOp::Head).times(1));
    assert_ne!(client.head("k").await.unwrap().etag, etag);
    let head = client.head("k").await.unwrap();
    assert_eq!((head.etag, head.size, rule.hits()), (etag, 100_000, 1));

    let rule = once(&stub, FaultAction::ErrorBody);
    let body = client.get("k").await.unwrap();
    assert!(body.starts_with(b"<?xml") && rule.hits() == 1, "{body:?}");

    let rule = once(&stub, FaultAction::Drip { bytes_per_s: 200_000 });
    let begin = Instant::now();
    assert_eq!(client.get("k").await.unwrap().len(), 100_000);
    assert!(begin.elapsed() > Duration::from_millis(450) && rule.hits() == 1, "{:?}", begin.elapsed());

    let rule = once(&stub, FaultAction::Delay { ms: 300 });
    let begin = Instant::now();
    client.get("k").await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(300) && rule.hits() == 1);

    let rule = once(&stub, FaultAction::Hang);
    assert!(timeout(Duration::from_millis(300), client.get("k")).await.is_err());
    assert_eq!(rule.hits(), 1);
    assert_eq!(client.get("k").await.unwrap().len(), 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn latency_and_caps() {
    let stub = StubS3::builder().bucket("b").latency(Duration::from_millis(50)).start().await.unwrap();
    let client = stub.client();
    stub.put("k", vec![1; 400_000]);
    let timed = async || {
        let begin = Instant::now();
        client.get("k").await.unwrap();
        begin.elapsed()
    };
    assert!(timed().await >= Duration::from_millis(50));
    stub.set_latency(Duration::ZERO);
    stub.set_bandwidth(Some(1_000_000), None);
    let took = timed().await;
    assert!(took >= Duration::from_millis(380), "{took:?}");
    stub.set_bandwidth(None, Some(1_000_000));
    let fresh = stub.client();
    let begin = Instant::now();
    fresh.get("k").await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(380), "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_count_what_was_asked() {
    let (stub, client) = started().await;
    stub.put_pattern("k", 3, 10 * MIB);
    let read = direct_read(&client, "k", 10 * MIB, 4 * MIB, 8, &Expect::Pattern { version: 3 }).await.unwrap();
    assert_eq!(read.bytes, 10 * MIB);
    let counters = stub.counters();
    assert_eq!((counters.gets, counters.bytes_sent), (3, 10 * MIB));
    assert_eq!(counters.gets_per_chunk(4 * MIB), 1.0);
    assert_eq!((counters.byte_amplification(), counters.get_amplification()), (1.0, 1.0));
    client.get_range("k", 0..10).await.unwrap();
    let counters = stub.counters();
    assert_eq!(counters.gets_per_chunk(4 * MIB), 4.0 / 3.0);
    assert_eq!(counters.key("b", "k").ranges.len(), 4);
    stub.reset_counters();
    client.list("").await.unwrap();
    assert_eq!((stub.counters().gets, stub.counters().lists()), (0, 1));
    let wrong = direct_read(&client, "k", MIB, MIB, 1, &Expect::Pattern { version: 4 }).await;
    assert!(matches!(wrong, Err(ClientError::WrongBytes { .. })), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_of_hundreds_of_gibibytes() {
    let (stub, client) = started().await;
    let size = 300 << 30;
    stub.put_pattern("huge", 1, size);
    assert_eq!(client.head("huge").await.unwrap().size, size);
    let tail = client.get_range("huge", size - 100_000..size).await.unwrap();
    assert_eq!(pattern::check("huge", size - 100_000, &tail), Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_goes_up_and_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let bodies = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("x/y z")).unwrap();
    let mut large = vec![0; 3_500_000];
    pattern::fill("large", 1, 0, &mut large);
    for (name, body) in [("x/large", &large[..]), ("x/y z/é+%", b"small"), ("empty", b"")] {
        fs::write(dir.path().join(name), body).unwrap();
    }
    std::os::unix::fs::symlink("empty", dir.path().join("link")).unwrap();
    let stub = StubS3::builder().bucket("b").dir(bodies.path()).start().await.unwrap();
    let client = stub.client();
    let told = std::sync::atomic::AtomicU64::new(0);
    let progress = |bytes| {
        told.fetch_add(bytes, std::sync::atomic::Ordering::SeqCst);
    };
    let uploaded = upload_dir(&client, dir.path(), "up/", 4, progress).await.unwrap();
    assert_eq!((uploaded.files, uploaded.bytes, uploaded.left_out), (3, 3_500_005, 1));
    assert_eq!(told.into_inner(), 3_500_005);
    let listed = client.list("up/").await.unwrap();
    let names: Vec<_> = listed.iter().map(|entry| (entry.key.as_str(), entry.size)).collect();
    assert_eq!(names, [("up/empty", 0), ("up/x/large", 3_500_000), ("up/x/y z/é+%", 5)]);
    let sha256 = &uploaded.sha256["up/x/large"];
    assert_eq!(*sha256, larder_tests::sigv4::sha256_hex(&large));
    direct_read(&client, "up/x/large", 3_500_000, MIB, 3, &Expect::Sha256(sha256.clone())).await.unwrap();
    assert_eq!(fs::read_dir(bodies.path()).unwrap().count(), 3);
    client.delete("up/x/large").await.unwrap();
    assert_eq!(fs::read_dir(bodies.path()).unwrap().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_resuming_and_rotating_keys() {
    let (stub, client) = started().await;
    stub.put("k", "v");
    stub.stop();
    let gone = client.get("k").await;
    assert!(matches!(gone, Err(ClientError::Connect { .. } | ClientError::Broken { .. })), "{gone:?}");
    stub.resume().unwrap();
    assert_eq!(client.get("k").await.unwrap(), "v");
    stub.accept_only(vec![Credentials { access_key: "NEW".into(), secret_key: "new".into() }]);
    assert_eq!(refusal(client.get("k").await), (403, "InvalidAccessKeyId".to_owned()));
    assert_eq!(stub.counters().denied, 1);
}

/// One unsigned request over a fresh connection; the answer's body.
async fn control(stub: &StubS3, method: &str, name: &str, body: &str) -> String {
    let mut socket = tokio::net::TcpStream::connect(stub.address()).await.unwrap();
    let len = body.len();
    let head =
        format!("{method} /_stub/{name} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n");
    socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(Duration::from_secs(20), socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_endpoint() {
    let (stub, client) = started().await;
    let made = control(&stub, "POST", "pattern", r#"{"key":"p","version":2,"size":100}"#).await;
    assert!(made.contains("etag"), "{made}");
    let rule = r#"[{"op":"get","count":1,"action":{"status":{"code":503}}}]"#;
    assert_eq!(control(&stub, "POST", "faults", rule).await, "{}");
    assert_eq!(refusal(client.get("p").await).0, 503);
    assert_eq!(client.get("p").await.unwrap().len(), 100);
    assert!(control(&stub, "GET", "faults", "").await.contains(r#""hits":1"#));
    let counters: serde_json::Value = serde_json::from_str(&control(&stub, "GET", "counters", "").await).unwrap();
    assert_eq!(counters["requests"]["GetObject"], 2);
    assert_eq!(counters["getAmplification"], 2.0);
    control(&stub, "POST", "reset", "").await;
    assert_eq!(stub.counters().of(Operation::GetObject), 0);
    control(&stub, "POST", "latency", r#"{"ms":60}"#).await;
    let begin = Instant::now();
    client.get("p").await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(60));
    assert!(control(&stub, "POST", "latency", r#"{"s":60}"#).await.contains("error"));
    assert!(control(&stub, "GET", "nothing", "").await.contains("no such control"));
}
