//! The agent's origin against Azurite, over real sockets: names, listings, versions, refusals. What is in a container was put
//! there, and tokens were signed, by Microsoft's own client. What Azurite never says comes from a server with canned answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use larder_agent::origin::{Cursor, Odd, OriginError, Origins, RealOrigins, Unreachable, VolumeOrigin};
use larder_agent::runtime::Runtime;
use larder_agent::runtime::net::Identity;
use larder_agent::runtime::net::sim::SimNet;
use larder_agent::runtime::sim::SimRng;
use larder_proto::error::ErrorKind;
use larder_proto::ids::{ClusterId, VolumeId};
use larder_proto::object::{ChunkSize, DirPath, EntryName, ObjectKey, Version};
use larder_proto::range::ByteRange;
use larder_proto::volume::{
    Attributes, Azure, AzureCredentials, Freshness, Keeping, LocalCopies, Origin, Secret, Volume,
};
use larder_tests::azurite::Azurite;
use larder_tests::stub::pattern;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

const MIB: u64 = 1 << 20;

type Volumes = Arc<BTreeMap<VolumeId, Arc<Volume>>>;

/// A container and a volume over it.
struct Fixture {
    azurite: &'static Azurite,
    container: &'static str,
    volumes: watch::Sender<Volumes>,
    origins: Origins,
}

fn id() -> VolumeId {
    VolumeId::from_bytes([1; 16])
}

fn account_key(key: &str) -> AzureCredentials {
    AzureCredentials::AccountKey(Secret::new(key))
}

fn token(token: &str) -> AzureCredentials {
    AzureCredentials::SasToken(Secret::new(token))
}

fn volumes(azure: Azure) -> Volumes {
    let volume = Volume {
        id: id(),
        namespace: "default".into(),
        name: "data".into(),
        chunk_size: ChunkSize::new(4 << 20).expect("4 MiB"),
        origin: Origin::Azure(azure),
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

fn origins(azure: Azure) -> (watch::Sender<Volumes>, Origins) {
    let (volumes, seen) = watch::channel(volumes(azure));
    let net = SimNet::new(Arc::new(SimRng::new(1)), Duration::ZERO, Duration::ZERO);
    let nobody = Identity::Authority(ClusterId::of("test"));
    let runtime = Runtime::real(net.node(nobody, IpAddr::V4(Ipv4Addr::LOCALHOST)));
    let open = RealOrigins::new(&runtime).expect("connections");
    (volumes, Origins::new(runtime, seen, Arc::new(open)))
}

impl Fixture {
    /// A container of this name, which no other test has.
    fn new(container: &'static str, prefix: &str) -> Self {
        let azurite = Azurite::shared();
        azurite.create(container);
        let (volumes, origins) = origins(place(azurite, container, prefix));
        Self { azurite, container, volumes, origins }
    }

    fn put(&self, key: &str, data: &str) -> String {
        self.azurite.put(self.container, key, data.as_bytes())
    }

    fn change(&self, change: impl FnOnce(&mut Azure)) {
        let mut azure = place(self.azurite, self.container, "");
        change(&mut azure);
        self.volumes.send_replace(volumes(azure));
    }

    fn origin(&self) -> Arc<VolumeOrigin> {
        self.origins.get(id()).expect("the volume")
    }

    async fn read(&self, at: &str, version: &str, range: ByteRange) -> Result<Vec<u8>, OriginError> {
        let version = Version::of_etag(version).expect("a version");
        let body = self.origin().get(&key(at), &version, range, soon()).await?;
        Ok(body.collect(64 << 20).await?.to_vec())
    }

    async fn head(&self, at: &str) -> Result<Option<u64>, OriginError> {
        Ok(self.origin().head(&key(at), soon()).await?.map(|info| info.size))
    }

    async fn root(&self) -> Result<usize, OriginError> {
        Ok(self.origin().list(&DirPath::root(), None, 1000, soon()).await?.files.len())
    }
}

fn place(azurite: &Azurite, container: &str, prefix: &str) -> Azure {
    Azure {
        account: azurite.account().into(),
        container: container.into(),
        prefix: prefix.into(),
        endpoint: Some(azurite.endpoint().into()),
        credentials: account_key(azurite.key()),
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

/// Every name below a directory, page by page, with what was left out and the number of pages.
async fn names(origin: &VolumeOrigin, at: &str, limit: u16) -> (Vec<String>, u64, usize) {
    let (mut all, mut left_out, mut pages, mut from): (Vec<String>, u64, usize, Option<Cursor>) =
        (Vec::new(), 0, 0, None);
    loop {
        let page = origin.list(&dir(at), from.as_ref(), limit, soon()).await.expect("lists");
        all.extend(page.files.iter().map(|(name, _)| name.as_str().to_owned()));
        all.extend(page.dirs.iter().map(|name| format!("{}/", name.as_str())));
        left_out += page.left_out.total();
        pages += 1;
        match page.next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    all.sort();
    (all, left_out, pages)
}

/// No backslash: Azure takes it for a slash. No control characters but the tab: Azurite can't list them.
const STRANGE: [&str; 16] = [
    "plain",
    "a b",
    "a+b",
    "100%",
    "a%20b",
    "~",
    "#",
    "?x=1&y",
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
async fn strange_names_are_read_under_their_own_name_with_key_and_token() {
    for (container, prefix) in [("strange", ""), ("strange-below", "some folder/é+%/")] {
        let fixture = Fixture::new(container, prefix);
        for name in STRANGE {
            fixture.put(&format!("{prefix}{name}"), &format!("<{name}>"));
        }
        let rights = fixture.azurite.token(container, "rl", 3600);
        for credentials in [account_key(fixture.azurite.key()), token(&rights), token(&format!("?{rights}\n"))] {
            fixture.change(|azure| {
                azure.prefix = prefix.into();
                azure.credentials = credentials;
            });
            let origin = fixture.origin();
            let mut expected: Vec<String> = STRANGE[..15].iter().map(|name| (*name).to_owned()).collect();
            expected.push("deep/".to_owned());
            expected.sort();
            for limit in [3, 1000] {
                let (found, left_out, _) = names(&origin, "", limit).await;
                assert_eq!((found, left_out), (expected.clone(), 0), "{limit} a page");
            }
            let listed = origin.list(&dir(""), None, 1000, soon()).await.expect("lists");
            for (name, info) in listed.files {
                let head = origin.head(&key(name.as_str()), soon()).await.expect("answers");
                assert_eq!(head.as_ref(), Some(&info), "HEAD and LIST agree about {name:?}");
                let range = ByteRange::at(0, info.size);
                let bytes = fixture.read(name.as_str(), info.version.as_str(), range).await.expect("reads");
                assert_eq!(bytes, format!("<{}>", name.as_str()).into_bytes(), "{name:?}");
            }
            assert_eq!(names(&origin, "deep/er", 1000).await.0, ["still"]);
            let too_long = "x234567/".repeat(128)[..1023].to_owned();
            assert_eq!(fixture.head(&too_long).await, Ok(None), "with its prefix it may be longer than names are");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_keys_and_markers_hide_nothing() {
    let fixture = Fixture::new("odd", "");
    let long = "x".repeat(256);
    for key in ["a//b", "/lead", "d/ok", "d/", "e/", "ok", "a/b", &long, &format!("{long}/in"), "s/in", "s-1", "t-1"] {
        fixture.put(key, "1");
    }
    for key in ["s", "t", "d/stub"] {
        fixture.azurite.put_stub(fixture.container, key);
    }
    let origin = fixture.origin();
    for limit in [1, 2, 1000] {
        let (found, left_out, _) = names(&origin, "", limit).await;
        assert_eq!(found, ["a/", "d/", "e/", "ok", "s-1", "s/", "t-1", "t/"], "{limit} a page");
        assert_eq!(left_out, 3, "/, and two long ones");
    }
    for (at, expected) in
        [("a", vec!["b"]), ("d", vec!["ok", "stub/"]), ("e", vec![]), ("s", vec!["in"]), ("t", vec![])]
    {
        assert_eq!(names(&origin, at, 1000).await.0, expected, "{at}");
    }
    assert_eq!(names(&origin, "a", 1000).await.1, 1, "a//b");
    for (at, exists) in [("e", true), ("a", true), ("d", true), ("s", true), ("t", true), ("ok", false), ("no", false)]
    {
        assert_eq!(origin.dir_exists(&dir(at), soon()).await, Ok(exists), "{at}");
    }
    for (at, size) in [("ok", Some(1)), ("s", None), ("t", None), ("no", None), ("a", None)] {
        assert_eq!(fixture.head(at).await, Ok(size), "{at}");
    }
    let counted: BTreeMap<Odd, u64> = origin.snapshot().left_out.into_iter().collect();
    assert!(counted[&Odd::EmptyComponent] >= 2 && counted[&Odd::TooLong] >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_listings_come_in_pages_and_go_on_after_a_name() {
    let fixture = Fixture::new("many", "p/");
    let keys: Vec<String> = (0..1_234).map(|n| format!("p/many/{n:04}")).collect();
    fixture.azurite.put_many(fixture.container, &keys, b"1");
    let origin = fixture.origin();
    let (found, left_out, pages) = names(&origin, "many", 1000).await;
    assert_eq!(left_out, 0);
    assert!(found.iter().zip(&keys).all(|(name, key)| key.ends_with(name)) && found.len() == keys.len());
    assert!(pages >= 2, "{pages}");
    let after = Cursor::after_file(&EntryName::parse("1229").expect("plain"));
    let (mut from, mut rest) = (Some(after), Vec::new());
    while let Some(cursor) = from.take() {
        let page = origin.list(&dir("many"), Some(&cursor), 1000, soon()).await.expect("lists");
        rest.extend(page.files.into_iter().map(|(name, _)| name.as_str().to_owned()));
        from = page.next;
    }
    assert_eq!(rest, ["1230", "1231", "1232", "1233"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_of_one_version_or_an_error() {
    let fixture = Fixture::new("versions", "");
    let size = 3 * MIB + 77;
    let mut bytes = vec![0; usize::try_from(size).expect("small")];
    pattern::fill("k", 1, 0, &mut bytes);
    let old = fixture.azurite.put(fixture.container, "k", &bytes);
    for range in [ByteRange::at(0, size), ByteRange::at(100_001, 2 * MIB + 5), ByteRange::at(size - 1, 1)] {
        let read = fixture.read("k", &old, range).await.expect("reads");
        assert_eq!(read.len() as u64, range.len());
        pattern::check_version("k", 1, range.start(), &read).expect("right");
    }
    assert_eq!(fixture.head("k").await, Ok(Some(size)));

    let empty = fixture.put("empty", "");
    assert_eq!(fixture.head("empty").await, Ok(Some(0)));
    assert_eq!(fixture.read("empty", &empty, ByteRange::at(0, 0)).await, Ok(vec![]));

    let new = fixture.put("k", "content");
    assert_ne!(old, new);
    assert_eq!(fixture.read("k", &old, ByteRange::at(0, 7)).await, Err(OriginError::Changed));
    assert_eq!(fixture.read("k", &new, ByteRange::at(0, 7)).await.expect("reads"), b"content");
    fixture.azurite.delete(fixture.container, "k");
    // Azurite looks at the condition before it looks for the blob; a reader gets ESTALE for both.
    let gone = fixture.read("k", &new, ByteRange::at(0, 7)).await;
    assert!(matches!(gone, Err(OriginError::NotFound | OriginError::Changed)), "{gone:?}");
    assert_eq!(fixture.head("k").await, Ok(None));
    assert_eq!(fixture.origin().snapshot().retries, 0, "none of these is worth a second try");
}

/// Azurite says `AuthorizationFailure` of a wrong signature, Azure itself `AuthenticationFailed`.
fn is_refused<T>(result: Result<T, OriginError>) -> bool {
    matches!(result, Err(OriginError::AccessDenied | OriginError::BadCredentials))
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_names_and_new_credentials_are_taken_up() {
    let fixture = Fixture::new("refusals", "");
    let version = fixture.put("k", "content");
    let range = ByteRange::at(0, 7);
    fixture.azurite.create("another");
    let sas =
        |container: &str, permissions: &str, seconds| token(&fixture.azurite.token(container, permissions, seconds));
    for (wrong, why) in [
        (account_key("d3Jvbmc="), "a wrong key"),
        (sas("refusals", "rl", -60), "an expired token"),
        (sas("another", "rl", 3600), "another container's token"),
        (token("sv=2023-11-03&sr=c&sp=rl&se=2099-01-01T00:00:00Z&sig=d3Jvbmc="), "a token that nobody signed"),
    ] {
        fixture.change(|azure| azure.credentials = wrong);
        assert!(is_refused(fixture.read("k", &version, range).await), "{why}");
        assert!(is_refused(fixture.head("k").await), "{why}");
        assert!(is_refused(fixture.root().await), "{why}");
    }
    for (none, why) in [(account_key("no base64"), "no key"), (account_key(""), "empty"), (token("sp=rl"), "unsigned")]
    {
        fixture.change(|azure| azure.credentials = none);
        assert_eq!(fixture.read("k", &version, range).await, Err(OriginError::BadCredentials), "{why}");
    }
    fixture.change(|azure| azure.credentials = sas("refusals", "r", 3600));
    assert_eq!(fixture.read("k", &version, range).await.expect("may read"), b"content");
    assert_eq!(fixture.root().await, Err(OriginError::AccessDenied), "but may not list");
    fixture.change(|azure| azure.container = "not-there".into());
    assert_eq!(fixture.read("k", &version, range).await, Err(OriginError::NoSuchBucket));
    assert_eq!(fixture.head("k").await, Err(OriginError::NoSuchBucket));
    assert_eq!(fixture.root().await, Err(OriginError::NoSuchBucket));
    fixture.change(|azure| azure.endpoint = Some("http://127.0.0.1:1/larder".into()));
    assert_eq!(fixture.head("k").await, Err(OriginError::Unreachable(Unreachable::Connect)));
    // The same volume with a new token: no restart, and the circuit that opened meanwhile closes with the first answer.
    fixture.change(|azure| azure.credentials = sas("refusals", "rl", 3600));
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match fixture.read("k", &version, range).await {
            Ok(bytes) => break assert_eq!(bytes, b"content"),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(fixture.root().await, Ok(1));
}

/// A server that gives these answers, one to each connection; the heads of the requests it had.
async fn canned(answers: Vec<String>) -> (Arc<VolumeOrigin>, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}/lake", listener.local_addr().expect("its address"));
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    tokio::spawn(async move {
        for answer in answers {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(connection.read_u8().await.expect("a request"));
            }
            seen.lock().push(String::from_utf8(head).expect("text"));
            connection.write_all(answer.as_bytes()).await.expect("is read");
        }
    });
    let place = Azure {
        account: "lake".into(),
        container: "models".into(),
        prefix: "p/".into(),
        endpoint: Some(endpoint.into()),
        credentials: account_key("a2V5"),
    };
    let (_, origins) = origins(place);
    (origins.get(id()).expect("the volume"), heads)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length =
        if headers.contains("Content-Length") { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("HTTP/1.1 {status}\r\n{headers}{length}Connection: close\r\n\r\n{body}")
}

fn part(range: &str, etag: &str, body: &str) -> String {
    answer("206 Partial Content", &format!("Content-Range: bytes {range}/9\r\nETag: \"{etag}\"\r\n"), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_answers_are_asked_for_again_and_no_byte_is_wrong() {
    let busy = "<?xml version=\"1.0\"?><Error><Code>ServerBusy</Code></Error>";
    for (what, wrong, kind) in [
        ("busy", answer("503 Busy", "x-ms-error-code: ServerBusy\r\n", ""), ErrorKind::Throttled),
        ("busy, in its document", answer("500 Busy", "", busy), ErrorKind::Throttled),
        ("failed", answer("500 Failed", "x-ms-error-code: InternalError\r\n", ""), ErrorKind::OriginUnreachable),
        ("another version", part("0-6", "0x2", "CONTENT"), ErrorKind::OriginProtocol),
        ("another range", part("2-8", "0x1", "NTENT!!"), ErrorKind::OriginProtocol),
        ("an error as a success", answer("200 OK", "ETag: \"0x1\"\r\n", busy), ErrorKind::OriginProtocol),
        ("no answer", String::new(), ErrorKind::OriginUnreachable),
    ] {
        let (origin, heads) = canned(vec![wrong, part("0-6", "0x1", "content")]).await;
        let version = Version::of_etag("0x1").expect("a version");
        let body = origin
            .get(&key("k"), &version, ByteRange::at(0, 7), soon())
            .await
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(body.collect(9).await.expect(what), "content", "{what}");
        let snapshot = origin.snapshot();
        assert_eq!((snapshot.gets, snapshot.retries, snapshot.errors), (2, 1, vec![(kind, 1)]), "{what}");
        for head in heads.lock().iter() {
            assert!(head.starts_with("GET /lake/models/p/k HTTP/1.1\r\n"), "{head}");
            for header in
                ["range: bytes=0-6", "if-match: \"0x1\"", "x-ms-version: 20", "authorization: SharedKey lake:"]
            {
                assert!(head.to_ascii_lowercase().contains(&header.to_ascii_lowercase()), "{header} in {head}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_goes_on_where_it_broke() {
    let broken = part("0-6", "0x1", "con").replace("Content-Length: 3", "Content-Length: 7");
    let (origin, heads) = canned(vec![broken, part("3-6", "0x1", "tent")]).await;
    let version = Version::of_etag("0x1").expect("a version");
    let body = origin.get(&key("k"), &version, ByteRange::at(0, 7), soon()).await.expect("begins");
    assert_eq!(body.collect(9).await.expect("ends"), "content");
    assert!(heads.lock()[1].to_ascii_lowercase().contains("range: bytes=3-6"));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_listing_is_none_and_a_page_without_names_is_not_the_end() {
    let page = |blobs: &str, marker: &str| {
        let body = format!(
            "<?xml version=\"1.0\"?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"
        );
        answer("200 OK", "Content-Type: application/xml\r\n", &body)
    };
    let blob = "<BlobPrefix><Name>p/d/x/</Name></BlobPrefix>";
    let half = page(blob, "").replace("</Blobs>", "").replace("</EnumerationResults>", "");
    let (origin, heads) = canned(vec![half, page("", "2!one"), page("", "2!two"), page(blob, "")]).await;
    assert_eq!(origin.dir_exists(&dir("d"), soon()).await, Ok(true));
    let heads = heads.lock();
    assert_eq!(heads.len(), 4);
    assert!(heads[3].contains("marker=2%21two") && !heads[1].contains("marker="), "{heads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_head_has_its_code_and_an_empty_directory_its_stub() {
    let refused = answer("403 Forbidden", "x-ms-error-code: AuthenticationFailed\r\n", "");
    let (origin, _) = canned(vec![refused]).await;
    assert_eq!(origin.head(&key("k"), soon()).await, Err(OriginError::BadCredentials));
    let nothing = answer("200 OK", "", "<EnumerationResults><Blobs /><NextMarker /></EnumerationResults>");
    let stub = answer("200 OK", "x-ms-meta-hdi_isfolder: true\r\nContent-Length: 0\r\n", "");
    let (origin, heads) = canned(vec![nothing.clone(), stub, nothing, answer("404 Not Found", "", "")]).await;
    assert_eq!(origin.dir_exists(&dir("d"), soon()).await, Ok(true));
    assert_eq!(origin.dir_exists(&dir("d"), soon()).await, Ok(false));
    assert!(heads.lock()[1].starts_with("HEAD /lake/models/p/d HTTP/1.1"));
}
