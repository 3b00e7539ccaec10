use larder_proto::error::ErrorKind;

use super::*;
use crate::origin::sim::{Fault, MemoryOrigin};
use crate::runtime::circuit::{FAILURES_TO_OPEN, OPEN_FOR};
use crate::runtime::clock::SimClock;
use crate::runtime::sim::SimRng;

const BROKEN: OriginError = OriginError::Unreachable(Unreachable::Broken);

fn origin() -> (MemoryOrigin, Arc<VolumeOrigin>) {
    let memory = MemoryOrigin::new();
    let origin = VolumeOrigin::with(Arc::new(SimClock::new()), Arc::new(SimRng::new(1)), Ok(Arc::new(memory.clone())));
    (memory, Arc::new(origin))
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).expect("plain")
}

fn within(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

fn pattern(len: u32) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

#[tokio::test(start_paused = true)]
async fn a_body_goes_on_where_it_broke() {
    let (memory, origin) = origin();
    let version = memory.put("k", pattern(1_000_000));
    memory.inject([Fault::BreaksAfter(300_000), Fault::BreaksAfter(100_000)]);
    let body = origin.get(&key("k"), &version, ByteRange::at(10, 900_000), within(30)).await.expect("begins");
    let bytes = body.collect(1_000_000).await.expect("whole");
    assert_eq!(&bytes[..], &pattern(1_000_000)[10..900_010]);
    assert_eq!(memory.injected(), 2);
    let asked: Vec<_> = memory.asked().into_keys().collect();
    let get = |from| crate::origin::sim::Asked::Get(key("k"), from, 900_010);
    assert_eq!(asked, [get(10), get(300_010), get(400_010)], "nothing twice");
    let snapshot = origin.snapshot();
    assert_eq!((snapshot.gets, snapshot.retries, snapshot.bytes), (3, 2, 900_000));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_asked_for_again() {
    let (memory, origin) = origin();
    let version = memory.put("k", pattern(500_000));
    memory.inject([Fault::StallsAfter(100_000)]);
    let began = Instant::now();
    let body = origin.get(&key("k"), &version, ByteRange::at(0, 500_000), within(30)).await.expect("begins");
    assert_eq!(body.collect(500_000).await.expect("whole").len(), 500_000);
    assert_eq!(memory.injected(), 1);
    assert!(began.elapsed() >= PROGRESS_WITHIN && began.elapsed() < PROGRESS_WITHIN * 2);
    assert_eq!(origin.snapshot().errors, [(ErrorKind::OriginUnreachable, 1)]);
}

#[tokio::test(start_paused = true)]
async fn three_tries_and_no_more() {
    let (memory, origin) = origin();
    let version = memory.put("k", pattern(10));
    memory.inject([Fault::Fails(OriginError::Throttled), Fault::Fails(BROKEN)]);
    let read = async || origin.get(&key("k"), &version, ByteRange::at(0, 10), within(30)).await;
    assert!(read().await.is_ok(), "the third try");
    memory.inject([Fault::Fails(BROKEN); 3]);
    assert_eq!(read().await.err(), Some(BROKEN));
    assert_eq!(memory.totals().0, 6);
    assert_eq!(memory.injected(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_will_not_pass_is_not_repeated() {
    let (memory, origin) = origin();
    let version = memory.put("k", pattern(10));
    for error in [OriginError::AccessDenied, OriginError::BadCredentials, OriginError::NoSuchBucket] {
        memory.inject([Fault::Fails(error)]);
        assert_eq!(origin.head(&key("k"), within(30)).await, Err(error));
        assert_eq!(origin.known(), OriginState::Fails(error.kind()));
    }
    assert_eq!(memory.totals().1, 3);
    assert!(origin.head(&key("k"), within(30)).await.expect("answers").is_some());
    assert_eq!(origin.known(), OriginState::Answers);
    memory.put("k", pattern(20));
    let changed = origin.get(&key("k"), &version, ByteRange::at(0, 10), within(30)).await;
    assert_eq!(changed.err(), Some(OriginError::Changed));
    memory.remove("k");
    let gone = origin.get(&key("k"), &version, ByteRange::at(0, 10), within(30)).await;
    assert_eq!(gone.err(), Some(OriginError::NotFound));
    assert_eq!(memory.totals().0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_stays_wrong_has_changed() {
    let (memory, origin) = origin();
    let version = memory.put("k", pattern(10));
    memory.inject([Fault::Fails(OriginError::Protocol(Protocol::Version)); 3]);
    let read = origin.get(&key("k"), &version, ByteRange::at(0, 10), within(30)).await;
    assert_eq!(read.err(), Some(OriginError::Changed));
    assert_eq!(memory.injected(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_silent_origin_fails_in_time_and_opens_the_circuit() {
    let (memory, origin) = origin();
    memory.put("k", pattern(10));
    memory.inject([Fault::Hangs; 3]);
    let began = Instant::now();
    let silent = Err(OriginError::Unreachable(Unreachable::Silent));
    assert_eq!(origin.head(&key("k"), within(60)).await, silent);
    assert!(began.elapsed() < Duration::from_secs(16), "{:?}", began.elapsed());
    assert_eq!(origin.state(), State::Open);
    let refused = Err(OriginError::Unreachable(Unreachable::CircuitOpen));
    assert_eq!(origin.head(&key("k"), within(60)).await, refused);
    assert_eq!(memory.totals().1, 3, "not asked");
    tokio::time::advance(OPEN_FOR).await;
    assert!(origin.head(&key("k"), within(60)).await.expect("the probe").is_some());
    assert_eq!(origin.state(), State::Closed);
    assert_eq!(origin.snapshot().circuit_opened, 1);
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_is_kept_and_says_nothing_about_the_origin() {
    let (memory, origin) = origin();
    memory.put("k", pattern(10));
    memory.set_latency(Duration::from_millis(500));
    for _ in 0..=FAILURES_TO_OPEN {
        let began = Instant::now();
        let deadline = began + Duration::from_millis(100);
        assert_eq!(origin.head(&key("k"), deadline).await, Err(OriginError::Deadline));
        assert_eq!(began.elapsed(), Duration::from_millis(100));
    }
    assert_eq!(origin.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_origin_in_trouble_is_not_asked_more_than_a_tenth_more() {
    let (memory, origin) = origin();
    memory.put("k", pattern(10));
    // Every failure is followed by an answer, so the circuit never opens: the worst for amplification.
    for _ in 0..1_000 {
        memory.inject([Fault::Fails(BROKEN)]);
        drop(origin.head(&key("k"), within(30)).await);
        assert!(origin.head(&key("k"), within(30)).await.is_ok());
    }
    let snapshot = origin.snapshot();
    assert_eq!((snapshot.heads, snapshot.circuit_opened), (2_000 + snapshot.retries, 0));
    assert!(snapshot.retries <= 200 + u64::from(super::super::budget::BURST), "{}", snapshot.retries);
    assert!(snapshot.retries_denied > 0 && memory.injected() > 0);
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_are_bounded_and_who_waits_has_a_deadline() {
    let (memory, origin) = origin();
    let version = memory.put("k", pattern(10));
    let mut held = Vec::new();
    for _ in 0..REQUESTS_IN_FLIGHT_MAX {
        held.push(origin.get(&key("k"), &version, ByteRange::at(0, 10), within(30)).await.expect("begins"));
    }
    assert_eq!(origin.head(&key("k"), within(1)).await, Err(OriginError::Deadline));
    held.pop();
    assert!(origin.head(&key("k"), within(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_cannot_be_made_says_why_until_it_is_mended() {
    let (clock, rng) = (Arc::new(SimClock::new()), Arc::new(SimRng::new(1)));
    let origin = VolumeOrigin::with(clock, rng, Err(OriginError::BadCredentials));
    assert_eq!(origin.head(&key("k"), within(1)).await, Err(OriginError::BadCredentials));
    origin.replace(Ok(Arc::new(MemoryOrigin::new())));
    assert_eq!(origin.head(&key("k"), within(1)).await, Ok(None));
}
