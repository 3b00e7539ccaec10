use super::*;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let name = |text: &str| text.parse::<header::HeaderName>().expect("a name");
    pairs.iter().map(|(n, v)| (name(n), v.parse().expect("a value"))).collect()
}

#[test]
fn an_answer_is_the_range_or_it_is_none() {
    let range = ByteRange::at(100, 50);
    let part = |content_range: &str, length: &str| {
        check_part(&headers(&[("content-range", content_range), ("content-length", length)]), range).is_ok()
    };
    assert!(part("bytes 100-149/1000", "50"));
    assert!(part("bytes 100-149/*", "50"));
    for (content_range, length) in [
        ("bytes 100-149/1000", "49"),
        ("bytes 100-148/1000", "49"),
        ("bytes 0-49/1000", "50"),
        ("bytes 100-149", "50"),
        ("bytes */1000", "50"),
        ("bytes 100-18446744073709551615/1", "50"),
        ("bytes 100-149/1000", "x"),
    ] {
        assert!(!part(content_range, length), "{content_range} {length}");
    }
    assert!(check_part(&headers(&[("content-length", "50")]), range).is_err());
    let whole =
        |start, length: &str| check_whole(&headers(&[("content-length", length)]), ByteRange::at(start, 50)).is_ok();
    assert!(whole(0, "50"));
    assert!(!whole(0, "51"), "more than was asked for");
    assert!(!whole(100, "50"));
    assert!(check_whole(&HeaderMap::new(), ByteRange::at(0, 50)).is_err(), "no length, no trust");
}

#[test]
fn heads_need_size_version_and_time() {
    let good = [("content-length", "5"), ("etag", "\"abc\""), ("last-modified", "Mon, 06 May 2024 07:08:09 GMT")];
    let info_of = |skip: usize| {
        let pairs: Vec<_> = good.iter().enumerate().filter(|(n, _)| *n != skip).map(|(_, pair)| *pair).collect();
        info(&headers(&pairs))
    };
    let expected =
        ObjectInfo { size: 5, version: Version::of_etag("abc").expect("plain"), mtime_ms: 1_714_979_289_000 };
    assert_eq!(info_of(9), Ok(expected));
    for skip in 0..3 {
        assert_eq!(info_of(skip), Err(OriginError::Protocol(Protocol::Header)));
    }
}
