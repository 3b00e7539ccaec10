use super::*;

struct Rig {
    memory: MemoryOrigin,
    home: Home,
}

fn rig(bytes_max: usize) -> Rig {
    let (memory, runtime) = (MemoryOrigin::new(), runtime(1));
    let home = Home::new(runtime.clone(), origins(&runtime, &memory), &NameRoom::new(bytes_max));
    Rig { memory, home }
}

impl Rig {
    async fn look(&self, at: &str, text: &str, max_age: Duration) -> Result<Dated<Looked>, ErrorKind> {
        self.home.lookup(id(), &dir(at), &name(text), max_age, soon()).await
    }

    async fn kind(&self, at: &str, text: &str, max_age: Duration) -> &'static str {
        match self.look(at, text, max_age).await.expect("an answer").value {
            Looked::File(_) => "file",
            Looked::Dir => "dir",
            Looked::Absent => "absent",
        }
    }

    /// All names of a directory, with the number of parts they came in.
    async fn names(&self, at: &str, max_age: Duration) -> Result<(Vec<String>, usize), ErrorKind> {
        let (mut all, mut parts, mut after): (Vec<String>, usize, Option<Arc<str>>) = (Vec::new(), 0, None);
        loop {
            let part = self.home.list(id(), &dir(at), after.as_deref(), max_age, soon()).await?;
            all.extend(shown(&part.value));
            parts += 1;
            after = part.value.next;
            if after.is_none() {
                return Ok((all, parts));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lookup_is_a_head_and_a_list_of_one_and_is_remembered() {
    let rig = rig(1 << 20);
    rig.memory.put("d/f", "1");
    rig.memory.put("d/sub/x", "1");
    assert_eq!(rig.kind("d", "f", MINUTE).await, "file");
    assert_eq!(rig.memory.totals(), (0, 1, 1));
    let asked: Vec<_> = rig.memory.asked().into_keys().collect();
    assert_eq!(asked, [Asked::Head(ObjectKey::parse("d/f").expect("plain")), Asked::List("d/f".to_owned())]);
    for _ in 0..10 {
        assert_eq!(rig.kind("d", "f", MINUTE).await, "file");
    }
    assert_eq!(rig.kind("d", "sub", MINUTE).await, "dir");
    assert_eq!(rig.kind("d", "none", MINUTE).await, "absent");
    assert_eq!(rig.kind("d", "none", MINUTE).await, "absent");
    assert_eq!(rig.memory.totals(), (0, 3, 3), "absence is remembered as long as presence");
    tokio::time::advance(MINUTE + Duration::from_millis(1)).await;
    assert_eq!(rig.kind("d", "f", MINUTE).await, "file");
    assert_eq!(rig.memory.totals(), (0, 4, 3), "an expired file is rechecked by one HEAD");
    assert_eq!(rig.kind("d", "sub", MINUTE).await, "dir");
    assert_eq!(rig.memory.totals(), (0, 4, 4), "an expired directory by one LIST");
    rig.memory.put("d/none", "now");
    assert_eq!(rig.kind("d", "none", MINUTE).await, "file");
    assert_eq!(rig.kind("d", "f", Duration::ZERO).await, "file");
    assert_eq!(rig.memory.totals(), (0, 6, 5), "as of now is never from memory");
}

#[tokio::test(start_paused = true)]
async fn those_who_ask_together_ask_once() {
    let rig = rig(1 << 20);
    rig.memory.set_latency(Duration::from_millis(50));
    rig.memory.put("d/f", "1");
    let looks = futures::future::join_all((0..20).map(|_| rig.kind("d", "f", MINUTE))).await;
    assert_eq!(looks, ["file"; 20]);
    assert_eq!(rig.memory.totals(), (0, 1, 1));
    let lists = futures::future::join_all((0..50).map(|_| rig.names("d", MINUTE))).await;
    assert!(lists.iter().all(|listed| *listed == Ok((vec!["f".to_owned()], 1))));
    assert_eq!(rig.memory.totals(), (0, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_listing_answers_lookups_and_many_lookups_make_a_listing() {
    let rig = rig(1 << 20);
    for n in 0..100 {
        rig.memory.put(&format!("d/{n:03}"), "1");
    }
    for n in 0..31 {
        assert_eq!(rig.kind("d", &format!("{n:03}"), MINUTE).await, "file");
    }
    assert_eq!(rig.home.counts().listings, 0);
    assert_eq!(rig.kind("d", "031", MINUTE).await, "file");
    assert_eq!(rig.home.counts().listings, 1, "the 32nd within a second");
    let heads = rig.memory.totals().1;
    for n in 32..100 {
        assert_eq!(rig.kind("d", &format!("{n:03}"), MINUTE).await, "file");
    }
    assert_eq!(rig.kind("d", "absent", MINUTE).await, "absent");
    assert_eq!(rig.memory.totals().1, heads, "answered from the listing");
    tokio::time::advance(MINUTE * 2).await;
    assert_eq!(rig.kind("d", "050", MINUTE).await, "file");
    assert_eq!(rig.memory.totals().1, heads + 1, "an expired name of a listing: one HEAD");
    let lists = rig.memory.totals().2;
    assert_eq!(rig.names("d", MINUTE).await.expect("lists").0.len(), 100);
    assert_eq!(rig.memory.totals().2, lists + 1, "readdir lists anew");
}

#[tokio::test(start_paused = true)]
async fn a_listing_streams() {
    let rig = rig(64 << 20);
    for n in 0..10_000 {
        rig.memory.put(&format!("d/{n:05}"), "1");
    }
    rig.memory.set_latency(Duration::from_millis(20));
    let began = Instant::now();
    let first = rig.home.list(id(), &dir("d"), None, MINUTE, soon()).await.expect("a part");
    assert!(!first.value.entries.is_empty() && began.elapsed() <= Duration::from_millis(40), "{:?}", began.elapsed());
    let (names, parts) = rig.names("d", MINUTE).await.expect("lists");
    assert_eq!(names.len(), 10_000);
    assert!(parts >= 10 && names.is_sorted());
    assert_eq!(rig.memory.totals(), (0, 0, 10), "one LIST a page, whoever reads");
    assert_eq!(rig.home.counts().listings, 1);
}

#[tokio::test(start_paused = true)]
async fn with_the_origin_down_what_is_remembered_is_served() {
    let rig = rig(1 << 20);
    rig.memory.put("d/f", "1");
    assert_eq!(rig.kind("d", "f", MINUTE).await, "file");
    assert_eq!(rig.names("d", MINUTE).await.expect("lists").0, ["f"]);
    tokio::time::advance(MINUTE * 10).await;
    let down = OriginError::Unreachable(crate::origin::Unreachable::Connect);
    rig.memory.set_down(Some(down));
    let old = rig.look("d", "f", MINUTE).await.expect("the old answer");
    assert!(old.as_of.elapsed() >= MINUTE * 10, "as old as it is");
    assert_eq!(rig.names("d", MINUTE).await.expect("the old listing").0, ["f"]);
    assert_eq!(rig.home.counts().stale, 2);
    assert!(rig.memory.injected() >= 3);
    assert_eq!(rig.look("d", "other", Duration::ZERO).await, Err(ErrorKind::OriginUnreachable));
    assert_eq!(
        rig.look("d", "f", Duration::ZERO).await,
        Err(ErrorKind::OriginUnreachable),
        "OnOpen wants it as of now"
    );
    assert_eq!(rig.look("e", "f", MINUTE).await, Err(ErrorKind::OriginUnreachable), "nothing remembered");
    for (error, kind) in [
        (OriginError::AccessDenied, ErrorKind::AccessDenied),
        (OriginError::BadCredentials, ErrorKind::BadCredentials),
        (OriginError::NoSuchBucket, ErrorKind::NoSuchBucket),
    ] {
        rig.memory.set_down(Some(error));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(rig.look("d", "f", MINUTE).await, Err(kind), "never stale");
        assert_eq!(rig.names("d", MINUTE).await, Err(kind));
    }
    rig.memory.set_down(None);
    assert_eq!(rig.kind("d", "f", MINUTE).await, "file");
    assert_eq!(rig.home.counts().stale, 2);
}

#[tokio::test(start_paused = true)]
async fn a_directory_wins_over_a_file_of_its_name() {
    let rig = rig(1 << 20);
    rig.memory.put("a", "file");
    rig.memory.put("a/b", "1");
    assert_eq!(rig.kind("", "a", MINUTE).await, "dir");
    assert_eq!(rig.names("", MINUTE).await.expect("lists").0, ["a/"]);
    assert_eq!(rig.home.counts().clashes, 2);
}

#[tokio::test(start_paused = true)]
async fn a_directory_too_large_to_hold_is_paged() {
    // A quarter of this holds about 2,500 names.
    let rig = rig(1_600_000);
    let mut expected = Vec::new();
    for n in 0..5_500 {
        rig.memory.put(&format!("d/a-{n:05}"), "1");
        expected.push(format!("a-{n:05}"));
    }
    // A file whose directory lies pages behind it.
    rig.memory.put("d/a", "file");
    rig.memory.put("d/a/b", "1");
    expected.push("a/".to_owned());
    for _ in 0..2 {
        let (names, parts) = rig.names("d", MINUTE).await.expect("lists");
        assert_eq!(names, expected, "whole, in order, nothing twice");
        assert!(parts >= 5);
    }
    assert_eq!(rig.home.counts().listings, 1, "not tried again at once");
    assert!(rig.home.counts().bytes < 100_000, "not held: {} bytes", rig.home.counts().bytes);
    assert_eq!(rig.kind("d", "a-00007", MINUTE).await, "file");
    assert_eq!(rig.kind("d", "a", MINUTE).await, "dir");
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_bounded() {
    let rig = rig(100_000);
    for d in 0..100 {
        for n in 0..20 {
            rig.memory.put(&format!("{d}/{n}"), "1");
        }
        assert_eq!(rig.names(&d.to_string(), MINUTE).await.expect("lists").0.len(), 20);
        assert!(rig.home.counts().bytes <= 100_000);
    }
    let counts = rig.home.counts();
    assert!(counts.evicted > 50 && counts.dirs > 5, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_breaks_is_begun_again_by_the_next_reader() {
    let rig = rig(1 << 20);
    rig.memory.put("d/f", "1");
    rig.memory.inject([Fault::Fails(OriginError::Protocol(crate::origin::Protocol::ListingTooLarge))]);
    assert_eq!(rig.names("d", MINUTE).await, Err(ErrorKind::OriginProtocol));
    assert_eq!(rig.names("d", MINUTE).await.expect("lists").0, ["f"]);
    assert_eq!(rig.memory.injected(), 1);
}

#[tokio::test(start_paused = true)]
async fn odd_names_and_other_volumes_are_nothing() {
    let rig = rig(1 << 20);
    let deep = dir(&"0123456789/".repeat(90)[..980]);
    let long = name(&"x".repeat(200));
    let answer = rig.home.lookup(id(), &deep, &long, MINUTE, soon()).await.expect("an answer");
    assert_eq!(answer.value, Looked::Absent, "no key is that long");
    let other = VolumeId::from_bytes([1; 16]);
    assert_eq!(rig.home.lookup(other, &dir(""), &name("x"), MINUTE, soon()).await, Err(ErrorKind::UnknownVolume));
}
