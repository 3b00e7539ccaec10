//! The agent's origin against the S3 double, over real sockets: keys, listings, refusals, and every fault an origin has.
//! A fault that wasn't hit proves nothing, so each test asserts its count.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use larder_agent::origin::{Cursor, Odd, OriginError, Origins, RealOrigins, State, Unreachable, VolumeOrigin};
use larder_agent::runtime::Runtime;
use larder_agent::runtime::net::Identity;
use larder_agent::runtime::net::sim::SimNet;
use larder_agent::runtime::sim::SimRng;
use larder_proto::error::ErrorKind;
use larder_proto::ids::{ClusterId, VolumeId};
use larder_proto::object::{ChunkSize, DirPath, EntryName, ObjectKey, Version};
use larder_proto::range::ByteRange;
use larder_proto::volume::{Attributes, Credentials, Freshness, Keeping, LocalCopies, Origin, S3, Secret, Volume};
use larder_tests::sigv4;
use larder_tests::stub::{FaultAction, FaultOp, FaultRule, Operation, StubS3, pattern};
use tokio::sync::watch;
use tokio::time::Instant;

const MIB: u64 = 1 << 20;

type Volumes = Arc<BTreeMap<VolumeId, Arc<Volume>>>;

/// A double and a volume over it.
struct Fixture {
    stub: StubS3,
    volumes: watch::Sender<Volumes>,
    origins: Origins,
}

fn id() -> VolumeId {
    VolumeId::from_bytes([1; 16])
}

fn place(stub: &StubS3, prefix: &str) -> S3 {
    S3 {
        bucket: stub.bucket().into(),
        prefix: prefix.into(),
        region: "us-east-1".into(),
        endpoint: Some(stub.endpoint().as_str().into()),
        path_style: true,
        credentials: Some(keys(stub.access_key(), stub.secret_key())),
    }
}

fn keys(id: &str, secret: &str) -> Credentials {
    Credentials { access_key_id: Secret::new(id), secret_access_key: Secret::new(secret), session_token: None }
}

fn volumes(s3: S3) -> Volumes {
    let volume = Volume {
        id: id(),
        namespace: "default".into(),
        name: "data".into(),
        chunk_size: ChunkSize::new(4 << 20).expect("4 MiB"),
        origin: Origin::S3(s3),
        replicas: None,
        read_ahead_bytes: MIB,
        read_deadline: Duration::from_secs(30),
        freshness: Freshness::OnOpen,
        attributes: Attributes { uid: 0, gid: 0, file_mode: 0o444, dir_mode: 0o555 },
        local_copies: LocalCopies::Auto,
        keeping: Keeping::default(),
    };
    Arc::new(BTreeMap::from([(id(), Arc::new(volume))]))
}

impl Fixture {
    async fn new(prefix: &str) -> Self {
        let stub = StubS3::builder().bucket("bucket").start().await.expect("starts");
        let (volumes, seen) = watch::channel(volumes(place(&stub, prefix)));
        let net = SimNet::new(Arc::new(SimRng::new(1)), Duration::ZERO, Duration::ZERO);
        let nobody = Identity::Authority(ClusterId::of("test"));
        let runtime = Runtime::real(net.node(nobody, IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let open = RealOrigins::new(&runtime).expect("connections");
        let origins = Origins::new(runtime, seen, Arc::new(open));
        Self { stub, volumes, origins }
    }

    fn change(&self, change: impl FnOnce(&mut S3)) {
        let mut s3 = place(&self.stub, "");
        change(&mut s3);
        self.volumes.send_replace(volumes(s3));
    }

    fn origin(&self) -> Arc<VolumeOrigin> {
        self.origins.get(id()).expect("the volume")
    }

    async fn read(&self, at: &str, version: &str, range: ByteRange) -> Result<Vec<u8>, OriginError> {
        let version = Version::of_etag(version).expect("a version");
        let body = self.origin().get(&key(at), &version, range, soon()).await?;
        Ok(body.collect(64 << 20).await?.to_vec())
    }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).expect("a key")
}

fn dir(text: &str) -> DirPath {
    DirPath::parse(text).expect("a path")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// Every name below a directory, page by page, with what was left out.
async fn names(origin: &VolumeOrigin, at: &str, limit: u16) -> (Vec<String>, u64) {
    let (mut all, mut left_out, mut from): (Vec<String>, u64, Option<Cursor>) = (Vec::new(), 0, None);
    loop {
        let page = origin.list(&dir(at), from.as_ref(), limit, soon()).await.expect("lists");
        all.extend(page.files.iter().map(|(name, _)| name.as_str().to_owned()));
        all.extend(page.dirs.iter().map(|name| format!("{}/", name.as_str())));
        left_out += page.left_out.total();
        match page.next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    all.sort();
    (all, left_out)
}

const STRANGE: [&str; 17] = [
    "plain",
    "a b",
    "a+b",
    "100%",
    "a%20b",
    "~",
    "#",
    "?x=1&y",
    "back\\slash",
    "*",
    "é中😀",
    "'\"",
    "<&>",
    "tab\there",
    "=:@;,$!",
    "{[^`|]}",
    "deep/er/still",
];

#[tokio::test(flavor = "multi_thread")]
async fn strange_keys_are_read_under_their_own_name() {
    for prefix in ["", "some folder/é+%/"] {
        let fixture = Fixture::new(prefix).await;
        for name in STRANGE {
            fixture.stub.put(&format!("{prefix}{name}"), format!("<{name}>"));
        }
        let longest = format!("{}end", "0123456789/".repeat(90));
        fixture.stub.put(&format!("{prefix}{longest}"), "long");
        let origin = fixture.origin();
        for name in STRANGE {
            let info = origin.head(&key(name), soon()).await.expect("answers").expect("is there");
            let range = ByteRange::at(0, info.size);
            let bytes = fixture.read(name, info.version.as_str(), range).await.expect("reads");
            assert_eq!(bytes, format!("<{name}>").into_bytes(), "{name}");
        }
        assert!(origin.head(&key(&longest), soon()).await.expect("answers").is_some());
        let too_long = key(&"x234567/".repeat(128)[..1023]);
        assert_eq!(origin.head(&too_long, soon()).await, Ok(None), "with its prefix it may be longer than keys are");
        let mut expected: Vec<String> = STRANGE[..16].iter().map(|name| (*name).to_owned()).collect();
        expected.extend(["deep/".to_owned(), "0123456789/".to_owned()]);
        expected.sort();
        for limit in [1, 2, 1000] {
            assert_eq!(names(&origin, "", limit).await, (expected.clone(), 0), "{limit} a page");
        }
        let listed = origin.list(&dir(""), None, 1000, soon()).await.expect("lists");
        for (name, info) in listed.files {
            let head = origin.head(&key(name.as_str()), soon()).await.expect("answers");
            assert_eq!(head, Some(info), "HEAD and LIST agree about {name:?}");
        }
        assert_eq!(names(&origin, "deep/er", 1000).await.0, ["still"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_keys_are_counted_and_hide_nothing() {
    let fixture = Fixture::new("").await;
    let long = "x".repeat(256);
    for key in
        ["a//b", "/lead", "../x", "./y", "d/..", "d/.", "d/ok", "d/", "e/", "ok", "a/b", &long, &format!("{long}/in")]
    {
        fixture.stub.put(key, "1");
    }
    let origin = fixture.origin();
    for limit in [1, 1000] {
        let (found, left_out) = names(&origin, "", limit).await;
        assert_eq!(found, ["a/", "d/", "e/", "ok"]);
        assert_eq!(left_out, 5, "/, .., ., and two long ones");
    }
    assert_eq!(names(&origin, "a", 1000).await, (vec!["b".to_owned()], 1));
    assert_eq!(names(&origin, "d", 1000).await, (vec!["ok".to_owned()], 2));
    assert_eq!(names(&origin, "e", 1000).await, (vec![], 0), "an empty directory");
    for (at, exists) in [("e", true), ("a", true), ("d", true), ("ok", false), ("nothing", false)] {
        assert_eq!(origin.dir_exists(&dir(at), soon()).await, Ok(exists), "{at}");
    }
    let counted: BTreeMap<Odd, u64> = origin.snapshot().left_out.into_iter().collect();
    assert!(counted[&Odd::EmptyComponent] >= 2 && counted[&Odd::DotComponent] >= 4 && counted[&Odd::TooLong] >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_goes_on_after_a_name() {
    let fixture = Fixture::new("p/").await;
    for key in ["p/a", "p/a-", "p/a/1", "p/a/2", "p/a0", "p/b"] {
        fixture.stub.put(key, "1");
    }
    let origin = fixture.origin();
    let name = EntryName::parse("a").expect("plain");
    let after = async |cursor: Cursor| {
        let page = origin.list(&dir(""), Some(&cursor), 1000, soon()).await.expect("lists");
        let files: Vec<_> = page.files.iter().map(|(name, _)| name.as_str().to_owned()).collect();
        (files, page.dirs.len())
    };
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(after(Cursor::after_file(&name)).await, (owned(&["a-", "a0", "b"]), 1));
    assert_eq!(after(Cursor::after_dir(&name)).await, (owned(&["a0", "b"]), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_survived_and_no_byte_is_wrong() {
    let size = 3 * MIB + 77;
    let range = ByteRange::at(100_001, 2 * MIB + 500_000);
    for action in [
        FaultAction::Status { code: 503 },
        FaultAction::Status { code: 429 },
        FaultAction::Status { code: 500 },
        FaultAction::Reset { after_bytes: 0 },
        FaultAction::Reset { after_bytes: MIB + 3 },
        FaultAction::ShortBody { after_bytes: MIB + 5 },
        FaultAction::WrongLength { missing_bytes: 7 },
        FaultAction::WrongEtag,
        FaultAction::ErrorBody,
        FaultAction::Drip { bytes_per_s: 1_000 },
        FaultAction::Delay { ms: 200 },
    ] {
        let fixture = Fixture::new("").await;
        let version = fixture.stub.put_pattern("k", 1, size);
        let passes = matches!(action, FaultAction::Delay { .. });
        let fault = fixture.stub.fault(FaultRule::new(action.clone()).op(FaultOp::Get).times(1));
        let bytes = fixture.read("k", &version, range).await.unwrap_or_else(|error| panic!("{action:?}: {error}"));
        assert_eq!(bytes.len() as u64, range.len(), "{action:?}");
        pattern::check_version("k", 1, range.start(), &bytes).unwrap_or_else(|wrong| panic!("{action:?}: {wrong:?}"));
        assert_eq!(fault.hits(), 1, "{action:?}");
        let snapshot = fixture.origin().snapshot();
        assert_eq!(snapshot.retries, u64::from(!passes), "{action:?}");
        assert_eq!(snapshot.bytes, range.len(), "{action:?}: nothing twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_comes_is_asked_for_again() {
    let fixture = Fixture::new("").await;
    let version = fixture.stub.put("k", "content");
    let fault = fixture.stub.fault(FaultRule::new(FaultAction::Hang).op(FaultOp::Get).times(1));
    assert_eq!(fixture.read("k", &version, ByteRange::at(0, 7)).await.expect("reads"), b"content");
    let snapshot = fixture.origin().snapshot();
    assert_eq!((fault.hits(), snapshot.retries, snapshot.errors), (1, 1, vec![(ErrorKind::OriginUnreachable, 1)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_lists_survive_too() {
    let fixture = Fixture::new("").await;
    fixture.stub.put("d/k", "1");
    let origin = fixture.origin();
    for code in [503, 429, 500] {
        for op in [FaultOp::Head, FaultOp::List] {
            let fault = fixture.stub.fault(FaultRule::new(FaultAction::Status { code }).op(op).times(1));
            assert!(origin.head(&key("d/k"), soon()).await.expect("answers").is_some());
            assert_eq!(names(&origin, "d", 10).await.0, ["k"]);
            assert_eq!(fault.hits(), 1);
        }
    }
    let broken = fixture.stub.fault(FaultRule::new(FaultAction::ErrorBody).op(FaultOp::List).times(1));
    assert_eq!(names(&origin, "d", 10).await.0, ["k"], "200 with an error inside is no listing");
    assert_eq!(broken.hits(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_stays_broken_is_told_and_not_flooded() {
    let fixture = Fixture::new("").await;
    let version = fixture.stub.put("k", "content");
    let range = ByteRange::at(0, 7);
    let wrong = fixture.stub.fault(FaultRule::new(FaultAction::WrongEtag).op(FaultOp::Get));
    assert_eq!(fixture.read("k", &version, range).await, Err(OriginError::Changed), "an origin that ignores If-Match");
    assert_eq!(wrong.hits(), 3);
    fixture.stub.clear_faults();
    let down = fixture.stub.fault(FaultRule::new(FaultAction::Status { code: 503 }));
    for _ in 0..200 {
        let kind = fixture.read("k", &version, range).await.expect_err("down").kind();
        assert!(matches!(kind, ErrorKind::Throttled | ErrorKind::OriginUnreachable), "{kind}");
    }
    let snapshot = fixture.origin().snapshot();
    assert_eq!(snapshot.state, State::Open);
    assert!(down.hits() <= 20, "{} requests reached an origin in trouble", down.hits());
    assert!(snapshot.errors.iter().any(|(kind, n)| *kind == ErrorKind::Throttled && *n >= 3));
    fixture.stub.clear_faults();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fixture.read("k", &version, range).await.is_err() {
        assert!(Instant::now() < deadline, "the circuit closes once the origin is back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_or_deleted_object_is_never_mixed() {
    let fixture = Fixture::new("").await;
    let old = fixture.stub.put_pattern("k", 1, 4 * MIB);
    let origin = fixture.origin();
    let version = Version::of_etag(&old).expect("a version");
    // The body breaks after the first MiB, and the object is replaced before it can go on.
    let fault = fixture.stub.fault(FaultRule::new(FaultAction::Reset { after_bytes: MIB }).op(FaultOp::Get).times(1));
    let mut body = origin.get(&key("k"), &version, ByteRange::at(0, 4 * MIB), soon()).await.expect("begins");
    let new = fixture.stub.put_pattern("k", 2, 4 * MIB);
    let (mut at, mut end) = (0, None);
    while let Some(piece) = body.next().await {
        match piece {
            Ok(piece) => {
                pattern::check_version("k", 1, at, &piece).expect("only the old version");
                at += piece.len() as u64;
            }
            Err(error) => {
                end = Some(error);
                break;
            }
        }
    }
    assert_eq!((end, fault.hits()), (Some(OriginError::Changed), 1));
    assert!(at <= MIB);
    assert_eq!(fixture.read("k", &old, ByteRange::at(0, 10)).await, Err(OriginError::Changed));
    assert_eq!(fixture.read("k", &new, ByteRange::at(0, 10)).await.expect("reads").len(), 10);
    fixture.stub.delete("k");
    assert_eq!(fixture.read("k", &new, ByteRange::at(0, 10)).await, Err(OriginError::NotFound));
    assert_eq!(fixture.stub.counters().key("bucket", "k").gets, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_names_and_new_credentials_are_taken_up() {
    let fixture = Fixture::new("").await;
    let version = fixture.stub.put("k", "content");
    let range = ByteRange::at(0, 7);
    let (id, secret) = (fixture.stub.access_key().to_owned(), fixture.stub.secret_key().to_owned());
    fixture.change(|s3| s3.credentials = Some(keys("AKIDOESNOTEXIST", &secret)));
    assert_eq!(fixture.read("k", &version, range).await, Err(OriginError::BadCredentials), "unknown key");
    fixture.change(|s3| s3.credentials = Some(keys(&id, "wrong")));
    assert_eq!(fixture.read("k", &version, range).await, Err(OriginError::BadCredentials), "wrong secret");
    fixture.change(|s3| s3.credentials = None);
    assert_eq!(fixture.read("k", &version, range).await, Err(OriginError::AccessDenied), "unsigned");
    fixture.change(|s3| s3.credentials = Some(keys("", "")));
    assert_eq!(fixture.read("k", &version, range).await, Err(OriginError::BadCredentials), "empty");
    fixture.change(|s3| s3.bucket = "nosuchbucket".into());
    assert_eq!(fixture.read("k", &version, range).await, Err(OriginError::NoSuchBucket));
    let listed = fixture.origin().list(&DirPath::root(), None, 10, soon()).await;
    assert_eq!(listed, Err(OriginError::NoSuchBucket));
    fixture.change(|s3| s3.endpoint = Some("http://127.0.0.1:1".into()));
    let refused = Err(OriginError::Unreachable(Unreachable::Connect));
    assert_eq!(fixture.read("k", &version, range).await, refused);
    // The same volume with new keys: no restart, and the circuit that opened meanwhile closes with the first answer.
    fixture.stub.accept_only(vec![sigv4::Credentials { access_key: "AKIANEW".into(), secret_key: "rotated".into() }]);
    fixture.change(|s3| s3.credentials = Some(keys("AKIANEW\n", "rotated\n")));
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match fixture.read("k", &version, range).await {
            Ok(bytes) => break assert_eq!(bytes, b"content"),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(fixture.stub.counters().denied >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_ranges_come_at_once() {
    let fixture = Fixture::new("").await;
    fixture.stub.set_latency(Duration::from_millis(200));
    let version = fixture.stub.put_pattern("k", 1, 64 * MIB);
    let began = Instant::now();
    let reads = (0..64).map(|n| {
        let range = ByteRange::at(n * MIB, MIB);
        let (fixture, version) = (&fixture, &version);
        async move {
            let bytes = fixture.read("k", version, range).await.expect("reads");
            pattern::check_version("k", 1, range.start(), &bytes).expect("right");
        }
    });
    futures::future::join_all(reads).await;
    assert!(began.elapsed() < Duration::from_secs(5), "64 together, not one after the other: {:?}", began.elapsed());
    let counters = fixture.stub.counters();
    assert_eq!((counters.of(Operation::GetObject), fixture.origin().snapshot().retries), (64, 0));
    assert!(counters.byte_amplification() <= 1.0);
}
