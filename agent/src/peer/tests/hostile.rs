//! A member that doesn't keep to the protocol.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::runtime::net::{Carries, Lane};

/// Sends these bytes as a member would, and reads what comes until the connection is closed.
async fn say(two: &Two, bytes: &[u8]) -> String {
    let (_, address) = two.alice_knows.locate(BOB).expect("known");
    let mut io = two
        .alice_runtime
        .net
        .connect(address[0], &two.bob_identity, Lane::Bytes, Carries::Questions)
        .await
        .expect("listening");
    // The other side may close before it has read everything.
    let _ = io.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(60), io.read_to_end(&mut answer)).await.expect("it is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(start_paused = true)]
async fn heads_that_are_not_ours_are_bad_requests() {
    let two = two().await;
    let zeros = "0".repeat(32);
    let heads = [
        "GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "DELETE /v1/chunks HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        format!("GET /v1/chunk/{zeros}/{zeros}/0 HTTP/1.1\r\nhost: x\r\n\r\n"),
        format!("GET /v1/chunk/../../etc/passwd/{zeros}/0 HTTP/1.1\r\nhost: x\r\nx-larder-epoch: 1\r\n\r\n"),
        "POST /v1/chunks HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc".to_owned(),
        "POST /v1/chunks HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".to_owned(),
    ];
    for (count, head) in (1..).zip(&heads) {
        let answer = say(&two, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head:?} got {answer:?}");
        assert!(answer.contains("x-larder-error: BadRequest"), "{answer:?}");
        assert_eq!(two.bob.counts().bad_requests.load(Ordering::Relaxed), count, "{head:?}");
    }
    assert_eq!(two.giver.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn heads_without_measure_are_cut_off() {
    let two = two().await;
    let long = format!("GET /v1/map HTTP/1.1\r\nhost: x\r\nx-larder-key: {}\r\n\r\n", "k".repeat(100_000));
    let many = format!("GET /v1/map HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(100));
    let garbage = "\x16\x03\x01 not http at all\r\n\r\n".to_owned();
    let slow = "GET /v1/map HT".to_owned();
    for head in [long, many, garbage, slow] {
        let answer = say(&two, head.as_bytes()).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer:?}");
    }
    until("their connections are closed", || two.bob.connections() == 0).await;
    assert_eq!(two.bob.counts().requests.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_put_that_lies_about_its_length_takes_nothing() {
    let two = two().await;
    let small = chunk("small", 10);
    let put = PutRequest { request: RequestId(1), epoch: Epoch(5), chunk: small };
    let head = |length: &str| {
        let parts = put.to_head().into_parts().0;
        let mut text = format!("PUT {} HTTP/1.1\r\n", parts.uri);
        for (name, value) in parts.headers.iter().filter(|(name, _)| name.as_str() != "content-length") {
            text.push_str(&format!("{name}: {}\r\n", value.to_str().expect("ASCII")));
        }
        format!("{text}{length}\r\n\r\n")
    };
    for length in ["content-length: 9", "content-length: 18446744073709551615", "transfer-encoding: chunked"] {
        let answer = say(&two, head(length).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{length}: {answer:?}");
    }
    let cut_short = format!("{}0123456789", head("content-length: 14"));
    let answer = say(&two, cut_short.as_bytes()).await;
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer:?}");
    assert!(two.giver.taken.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_reads_nothing_is_left() {
    let two = two().await;
    let (_, address) = two.alice_knows.locate(BOB).expect("known");
    let mut io = two
        .alice_runtime
        .net
        .connect(address[0], &two.bob_identity, Lane::Bytes, Carries::Questions)
        .await
        .expect("listening");
    let parts = asks(Want::Have, &chunk("big", 4 * MIB)).to_head().into_parts().0;
    let mut text = format!("GET {} HTTP/1.1\r\n", parts.uri);
    for (name, value) in &parts.headers {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().expect("ASCII")));
    }
    io.write_all(format!("{text}\r\n").as_bytes()).await.expect("open");
    until("it is asked", || two.giver.asked.load(Ordering::Relaxed) == 1).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(two.bob.connections(), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(two.bob.connections(), 0, "no byte was taken for 5 s");
}
