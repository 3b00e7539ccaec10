//! What is asked and what is answered.

use larder_proto::wire::{BatchEvent, BatchRequest};

use super::*;

#[tokio::test(start_paused = true)]
async fn bytes_come_as_they_are() {
    let two = two().await;
    let big = chunk("big", 3 * MIB + 70_000);
    for want in [Want::Have, Want::Fill] {
        let mut body = two.alice.read(BOB, &asks(want, &big), soon()).await.expect("an answer");
        assert_eq!(read_all(&mut body).await.expect("all bytes"), bytes_of(big_range(&big)), "{want:?}");
    }
    let part = ByteRange::new(65_536, 2 * MIB + 65_536).expect("ordered");
    let request = ChunkRequest::new(RequestId(1), Want::Have, Epoch(5), big, part).expect("whole blocks");
    let mut body = two.alice.read(BOB, &request, soon()).await.expect("an answer");
    assert_eq!(read_all(&mut body).await.expect("all bytes"), bytes_of(part));
    assert_eq!(two.alice.open_connections(), 2, "one for Haves, used twice, and one for Fills");
    assert_eq!(two.bob.counts().requests.load(Ordering::Relaxed), 3);
}

fn big_range(chunk: &Chunk) -> ByteRange {
    ByteRange::at(0, u64::from(chunk.len()))
}

#[tokio::test(start_paused = true)]
async fn every_refusal_says_why_and_keeps_the_connection() {
    let two = two().await;
    let small = chunk("small", 10);
    for kind in ErrorKind::ALL {
        two.giver.then(&[Act::Refuse(kind)]);
        let refused = two.alice.read(BOB, &asks(Want::Have, &small), soon()).await.err().expect("a refusal");
        assert!(matches!(refused, PeerError::Kind(said) if said == kind), "{kind}: {refused}");
    }
    assert_eq!(two.alice.open_connections(), 1, "no connection was lost over them");
    assert_eq!(two.alice.counts().failures.load(Ordering::Relaxed), 0, "a peer that answers is well");
}

#[tokio::test(start_paused = true)]
async fn a_fill_that_fails_says_why() {
    let two = two().await;
    let small = chunk("small", 10);
    two.giver.then(&[Act::FailFill(ErrorKind::OriginUnreachable)]);
    let began = Instant::now();
    let mut body = two.alice.read(BOB, &asks(Want::Fill, &small), soon()).await.expect("the head comes at once");
    let refused = body.first().await.expect_err("the status");
    assert!(matches!(refused, PeerError::Kind(ErrorKind::OriginUnreachable)), "{refused}");
    assert_eq!(two.alice.open_connections(), 0, "it isn't used again");
    assert_eq!(two.alice.counts().failures.load(Ordering::Relaxed), 0, "the origin fails, not the peer");
    until("bob has closed it too", || two.bob.connections() == 0).await;
    assert!(began.elapsed() < Duration::from_millis(100), "at once: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_broken() {
    let two = two().await;
    let big = chunk("big", 4 * MIB);
    two.giver.then(&[Act::BreakOff]);
    let mut body = two.alice.read(BOB, &asks(Want::Fill, &big), soon()).await.expect("an answer");
    body.first().await.expect("the fill is fine so far");
    let broken = read_all(&mut body).await.expect_err("it breaks off");
    assert!(matches!(broken, PeerError::Broken), "{broken}");
    assert_eq!(two.alice.counts().failures.load(Ordering::Relaxed), 1);
    let mut body = two.alice.read(BOB, &asks(Want::Fill, &big), soon()).await.expect("driven again");
    assert_eq!(read_all(&mut body).await.expect("all bytes").len() as u64, 4 * MIB);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_killed_breaks_what_is_under_way() {
    let two = two().await;
    let big = chunk("big", 4 * MIB);
    let mut body = two.alice.read(BOB, &asks(Want::Have, &big), soon()).await.expect("an answer");
    two.net.kill(&two.bob_identity);
    let mut last = Ok(());
    while let Some(segment) = body.next().await {
        if let Err(error) = segment {
            last = Err(error);
            break;
        }
    }
    assert!(matches!(last, Err(PeerError::Broken)), "{last:?}");
    let refused = two.alice.read(BOB, &asks(Want::Have, &big), soon()).await.err().expect("nobody is there");
    assert!(matches!(refused, PeerError::Connect(_)) && refused.is_unreachable(), "{refused}");
    assert_eq!(two.net.refused(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_handed_over() {
    let two = two().await;
    let big = chunk("big", 3 * MIB + 5);
    let whole = big_range(&big);
    let put = |epoch| PutRequest { request: RequestId(1), epoch: Epoch(epoch), chunk: big.clone() };
    two.alice.put(BOB, &put(5), pieces(&big, whole).into(), soon()).await.expect("taken");
    assert_eq!(*two.giver.taken.lock(), [(node_name("alice"), 3 * MIB + 5)]);

    two.giver.then(&[Act::Refuse(ErrorKind::NoSpace)]);
    let refused = two.alice.put(BOB, &put(5), pieces(&big, whole).into(), soon()).await.expect_err("no space");
    assert!(matches!(refused, PeerError::Kind(ErrorKind::NoSpace)), "{refused}");

    let stale = two.alice.put(BOB, &put(4), pieces(&big, whole).into(), soon()).await.expect_err("an old epoch");
    assert!(matches!(stale, PeerError::Kind(ErrorKind::StaleEpoch)), "{stale}");
    let short = two.alice.put(BOB, &put(5), Vec::new(), soon()).await.expect_err("nothing to hand over");
    assert!(matches!(short, PeerError::Broken), "{short}");
    assert_eq!(two.alice.open_connections(), 1, "refused ones kept the connection");
    assert_eq!(two.giver.taken.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn reading_never_waits_for_a_map_and_newer_epochs_are_heard() {
    let two = two().await;
    let small = chunk("small", 10);
    two.alice_knows.epoch.store(9, Ordering::Relaxed);
    let newer = ChunkRequest::whole(RequestId(1), Want::Have, Epoch(9), small.clone());
    let mut body = two.alice.read(BOB, &newer, soon()).await.expect("an older map answers");
    read_all(&mut body).await.expect("all bytes");
    assert_eq!(*two.bob_knows.newer.lock(), [(node_name("alice"), Epoch(9))]);
    assert!(two.alice_knows.newer.lock().is_empty(), "bob's epoch is older");

    two.bob_knows.epoch.store(12, Ordering::Relaxed);
    let mut body = two.alice.read(BOB, &newer, soon()).await.expect("a newer map answers too");
    read_all(&mut body).await.expect("all bytes");
    assert_eq!(*two.alice_knows.newer.lock(), [(node_name("bob"), Epoch(12))]);
    assert_eq!(two.alice.signed_map(BOB).await.expect("the map"), "a signed map");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_answered_in_order() {
    let two = two().await;
    let chunks: Vec<_> = (0..40).map(|n| chunk(&format!("small-{n}"), 100 + n)).collect();
    two.giver.then(&[Act::Give, Act::Refuse(ErrorKind::NotFound), Act::FailFill(ErrorKind::Changed)]);
    let request = BatchRequest::new(RequestId(1), Want::Fill, Epoch(5), chunks.clone()).expect("small");
    let mut batch = two.alice.read_batch(BOB, &request, soon()).await.expect("an answer");
    let (mut position, mut refused) = (0, Vec::new());
    while let Some(event) = batch.next().await {
        match event.expect("well formed") {
            BatchEvent::Segment(entry, segment) => {
                assert_eq!(entry, position);
                assert_eq!(segment.verify().expect("checksums agree").0, bytes_of(big_range(&chunks[entry])));
            }
            BatchEvent::Complete(entry) => {
                assert_eq!(entry, position);
                position += 1;
            }
            BatchEvent::Refused(entry, kind) => {
                assert_eq!(entry, position);
                refused.push(kind);
                position += 1;
            }
        }
    }
    assert_eq!((position, refused), (40, vec![ErrorKind::NotFound, ErrorKind::Changed]));
    assert!(two.giver.asked.load(Ordering::Relaxed) == 40);
    drop(batch);
    assert_eq!(two.alice.open_connections(), 1, "the connection is kept");
}

#[tokio::test(start_paused = true)]
async fn who_is_not_in_the_map_is_refused() {
    let two = two().await;
    let small = chunk("small", 10);
    two.bob_knows.nodes.lock().clear();
    let refused = two.alice.read(BOB, &asks(Want::Have, &small), soon()).await.err().expect("a refusal");
    assert!(matches!(refused, PeerError::Refused(BOB)) && refused.is_unreachable(), "{refused}");
    assert_eq!(two.bob.counts().not_members.load(Ordering::Relaxed), 1);
    assert_eq!(two.giver.asked.load(Ordering::Relaxed), 0, "the handler never hears of it");
    let unknown = two.alice.read(NodeId(77), &asks(Want::Have, &small), soon()).await.err().expect("no such node");
    assert!(matches!(unknown, PeerError::UnknownNode(NodeId(77))), "{unknown}");
}

#[tokio::test(start_paused = true)]
async fn one_seed_one_run() {
    let mut ends = Vec::new();
    for _ in 0..2 {
        let start = Instant::now();
        let two = two().await;
        let big = chunk("big", 4 * MIB);
        for want in [Want::Have, Want::Fill, Want::Have] {
            let mut body = two.alice.read(BOB, &asks(want, &big), soon()).await.expect("an answer");
            read_all(&mut body).await.expect("all bytes");
        }
        ends.push(start.elapsed());
        two.alice_runtime.tasks.shut_down().await;
    }
    assert_eq!(ends[0], ends[1], "virtual time, to the nanosecond");
    assert!(ends[0] > Duration::from_micros(300), "delays were paid: {ends:?}");
}

/// However many answers are known at once, the last one comes when the first does.
#[tokio::test(start_paused = true)]
async fn a_batch_that_is_answered_at_once_ends_at_once() {
    let two = two().await;
    let chunks: Vec<Chunk> = (0..256).map(|number| chunk(&format!("c{number}"), 100)).collect();
    let asked = BatchRequest::ask(RequestId(1), Epoch(5), chunks.clone()).expect("256 entries");
    let kept = BatchRequest::keep(RequestId(1), Epoch(5), chunks).expect("256 entries");
    for batch in [&asked, &kept, &asked] {
        let began = Instant::now();
        let mut answer = two.alice.read_batch(BOB, batch, soon()).await.expect("an answer");
        let mut refused = 0;
        while let Some(event) = answer.next().await {
            assert!(matches!(event, Ok(BatchEvent::Refused(at, ErrorKind::NotHere)) if at == refused), "{event:?}");
            refused += 1;
        }
        assert_eq!(refused, 256);
        assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    }
}
