//! Pools, idle connections, circuits, and what a server serves at most.

use futures::future::join_all;
use larder_proto::limits::{CONNECTIONS_MAX, CONNECTIONS_PER_PEER_MAX, SERVED_CONNECTIONS_PER_PEER_MAX};

use super::*;
use crate::runtime::net::{Carries, Lane};

#[tokio::test(start_paused = true)]
async fn eight_connections_to_a_peer_and_the_rest_wait() {
    let two = two().await;
    let small = chunk("small", 10);
    two.giver.then(&[Act::Hang; 6]);
    let asked = (0..40).map(|n| {
        let (alice, small) = (two.alice.clone(), small.clone());
        let want = if n % 2 == 0 { Want::Have } else { Want::Fill };
        async move {
            let mut body = alice.read(BOB, &asks(want, &small), soon()).await?;
            read_all(&mut body).await
        }
    });
    let all = tokio::spawn(join_all(asked.collect::<Vec<_>>()));
    until("six hang", || two.giver.under_way.load(Ordering::Relaxed) == 6).await;
    assert_eq!(
        two.alice.open_connections(),
        6,
        "two for Haves, four for Fills; copies and what is kept have the others"
    );
    two.giver.go_on.notify_waiters();
    for answer in all.await.expect("no panic") {
        assert_eq!(answer.expect("all bytes").len(), 10);
    }
    assert_eq!(two.giver.most.load(Ordering::Relaxed), 6);
    assert!(two.alice.open_connections() < CONNECTIONS_PER_PEER_MAX);
    assert_eq!(two.giver.asked.load(Ordering::Relaxed), 40);
}

#[tokio::test(start_paused = true)]
async fn a_have_never_waits_behind_fills() {
    let two = two().await;
    let small = chunk("small", 10);
    two.giver.then(&[Act::Hang; 4]);
    for _ in 0..4 {
        let (alice, small) = (two.alice.clone(), small.clone());
        tokio::spawn(async move { alice.read(BOB, &asks(Want::Fill, &small), soon()).await.map(drop) });
    }
    until("four hang", || two.giver.under_way.load(Ordering::Relaxed) == 4).await;
    let began = Instant::now();
    let mut body = two.alice.read(BOB, &asks(Want::Have, &small), soon()).await.expect("an answer");
    read_all(&mut body).await.expect("all bytes");
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_connection_waits_until_its_deadline() {
    let two = two().await;
    let small = chunk("small", 10);
    two.giver.then(&[Act::Hang; 2]);
    for _ in 0..2 {
        let (alice, small) = (two.alice.clone(), small.clone());
        tokio::spawn(async move { alice.read(BOB, &asks(Want::Have, &small), soon()).await.map(drop) });
    }
    until("two hang", || two.giver.under_way.load(Ordering::Relaxed) == 2).await;
    let deadline = Instant::now() + Duration::from_millis(300);
    let late = two.alice.read(BOB, &asks(Want::Have, &small), deadline).await.err().expect("none is free");
    assert!(matches!(late, PeerError::Deadline), "{late}");
    assert!(Instant::now() < deadline + Duration::from_millis(5));
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed() {
    let two = two().await;
    let small = chunk("small", 10);
    let mut body = two.alice.read(BOB, &asks(Want::Have, &small), soon()).await.expect("an answer");
    read_all(&mut body).await.expect("all bytes");
    drop(body);
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!((two.alice.open_connections(), two.bob.connections()), (1, 1));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!((two.alice.open_connections(), two.bob.connections()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stale_connection_is_replaced_once() {
    let two = two().await;
    let small = chunk("small", 10);
    let mut body = two.alice.read(BOB, &asks(Want::Have, &small), soon()).await.expect("an answer");
    read_all(&mut body).await.expect("all bytes");
    drop(body);
    // The stream breaks while the request is on its way: alice finds out when she has sent it.
    let alice = two.alice.clone();
    two.giver.then(&[Act::Hang]);
    let again = tokio::spawn(async move {
        let mut body = alice.read(BOB, &asks(Want::Have, &small), soon()).await?;
        read_all(&mut body).await
    });
    until("it hangs", || two.giver.under_way.load(Ordering::Relaxed) == 1).await;
    let alice_identity = Identity::Node(ClusterId::of("test"), node_name("alice"));
    two.net.part(&alice_identity, &two.bob_identity);
    two.net.heal();
    assert_eq!(again.await.expect("no panic").expect("all bytes").len(), 10);
    assert_eq!(two.alice.counts().retries.load(Ordering::Relaxed), 1, "the fault was hit");
    assert_eq!(two.alice.counts().failures.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn the_circuit_opens_and_closes() {
    let two = two().await;
    let small = chunk("small", 10);
    let request = asks(Want::Have, &small);
    two.net.kill(&two.bob_identity);
    for _ in 0..3 {
        let refused = two.alice.read(BOB, &request, soon()).await.err().expect("nobody is there");
        assert!(matches!(refused, PeerError::Connect(_)), "{refused}");
    }
    let open = two.alice.read(BOB, &request, soon()).await.err().expect("not asked");
    assert!(matches!(open, PeerError::CircuitOpen(BOB)), "{open}");
    assert_eq!((two.net.refused(), two.alice.counts().circuit_open.load(Ordering::Relaxed)), (3, 1));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let probe = two.alice.read(BOB, &request, soon()).await.err().expect("still nobody");
    assert!(matches!(probe, PeerError::Connect(_)), "half open: one may ask: {probe}");
    let open = two.alice.read(BOB, &request, soon()).await.err().expect("not asked");
    assert!(matches!(open, PeerError::CircuitOpen(BOB)), "{open}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_hangs_opens_its_circuit_also_when_its_askers_lose_patience() {
    let two = two().await;
    let small = chunk("small", 10);
    two.giver.then(&[Act::Hang; 3]);
    for _ in 0..3 {
        let request = asks(Want::Have, &small);
        let read = two.alice.read(BOB, &request, soon());
        assert!(tokio::time::timeout(Duration::from_millis(1100), read).await.is_err(), "it hangs");
    }
    let open = two.alice.read(BOB, &asks(Want::Have, &small), soon()).await.err().expect("not asked");
    assert!(matches!(open, PeerError::CircuitOpen(BOB)), "{open}");
    assert_eq!(two.giver.asked.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_late_is_a_deadline() {
    let two = two().await;
    two.giver.then(&[Act::Hang]);
    let began = Instant::now();
    let late = two.alice.read(BOB, &asks(Want::Have, &chunk("small", 10)), soon()).await.err().expect("late");
    assert!(matches!(late, PeerError::Deadline), "{late}");
    assert!(began.elapsed() < Duration::from_secs(3), "before the request's own deadline: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_peer_with_too_many_connections_is_told_busy() {
    let two = two().await;
    let (_, address) = two.alice_knows.locate(BOB).expect("known");
    let mut held = Vec::new();
    for _ in 0..SERVED_CONNECTIONS_PER_PEER_MAX {
        held.push(
            two.alice_runtime
                .net
                .connect(address[0], &two.bob_identity, Lane::Bytes, Carries::Questions)
                .await
                .expect("listening"),
        );
    }
    until("all are served", || two.bob.connections() == SERVED_CONNECTIONS_PER_PEER_MAX).await;
    let request = asks(Want::Have, &chunk("small", 10));
    let busy = two.alice.read(BOB, &request, soon()).await.err().expect("too many");
    assert!(matches!(busy, PeerError::Kind(ErrorKind::Busy)), "{busy}");
    assert_eq!(two.bob.counts().turned_away.load(Ordering::Relaxed), 1);
    held.pop();
    until("one place is free", || two.bob.connections() < SERVED_CONNECTIONS_PER_PEER_MAX).await;
    let mut body = two.alice.read(BOB, &request, soon()).await.expect("served again");
    read_all(&mut body).await.expect("all bytes");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_is_closed() {
    let two = two().await;
    let (_, address) = two.alice_knows.locate(BOB).expect("known");
    let _held = two
        .alice_runtime
        .net
        .connect(address[0], &two.bob_identity, Lane::Bytes, Carries::Questions)
        .await
        .expect("listening");
    until("it is served", || two.bob.connections() == 1).await;
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(two.bob.connections(), 0, "no head within its deadline");
}

#[tokio::test(start_paused = true)]
async fn two_hundred_and_fifty_six_connections_in_all() {
    let two = two().await;
    let small = chunk("small", 10);
    let mut servers = Vec::new();
    for number in 0..90u8 {
        let name = format!("peer-{number}");
        let identity = Identity::Node(ClusterId::of("test"), node_name(&name));
        let node = two.net.node(identity, IpAddr::V4(Ipv4Addr::new(10, 0, 1, number)));
        let runtime = Runtime::sim(u64::from(number), node, SimDisk::new(1, 1 << 20));
        let listener = runtime.net.listen("0.0.0.0:0".parse().expect("an address")).await.expect("free");
        two.alice_knows.add(100 + u32::from(number), &name, listener.local_addr());
        let giver = Arc::new(Giver::default());
        let client = Client::new(runtime.clone(), two.bob_knows.clone());
        let server = Server::new(runtime.clone(), client, giver.clone(), ControlRoutes::new());
        runtime.tasks.spawn(server.clone().serve(listener));
        servers.push((runtime, server, giver));
    }
    let mut most = 0;
    for (number, (_, _, giver)) in (100..).zip(&servers) {
        giver.then(&[Act::Hang; 3]);
        let asked = [Want::Have, Want::Have, Want::Fill].map(|want| {
            let (alice, small) = (two.alice.clone(), small.clone());
            async move {
                let mut body = alice.read(NodeId(number), &asks(want, &small), soon()).await?;
                read_all(&mut body).await
            }
        });
        let all = tokio::spawn(join_all(asked));
        until("three are under way", || giver.under_way.load(Ordering::Relaxed) == 3).await;
        most = most.max(two.alice.open_connections());
        giver.go_on.notify_waiters();
        assert!(all.await.expect("no panic").iter().all(Result::is_ok), "peer {number}");
    }
    assert_eq!(most, CONNECTIONS_MAX);
    // Those that were idle longest made room.
    until("the first are closed", || servers.iter().take(3).all(|(_, server, _)| server.connections() == 0)).await;
    assert!(servers.iter().skip(10).all(|(_, server, _)| server.connections() == 3));
}
