//! Ranges and conditions against S3's documented behaviour.

use http::HeaderValue;

use super::*;

#[test]
fn ranges_are_cut_to_the_object() {
    let ask = |text| requested(Some(text), 10);
    assert_eq!(requested(None, 10), Ok(None));
    assert_eq!(ask("bytes=0-0"), Ok(Some(0..1)));
    assert_eq!(ask("bytes=2-5"), Ok(Some(2..6)));
    assert_eq!(ask("bytes=5-"), Ok(Some(5..10)));
    assert_eq!(ask("bytes=5-999"), Ok(Some(5..10)));
    assert_eq!(ask("bytes=0-18446744073709551615"), Ok(Some(0..10)));
    assert_eq!(ask("bytes=-3"), Ok(Some(7..10)));
    assert_eq!(ask("bytes=-30"), Ok(Some(0..10)));
}

#[test]
fn malformed_ranges_are_ignored() {
    for text in ["bytes=5-2", "bytes=x-2", "items=0-1", "bytes=1", "bytes=0-1,4-5", "bytes=-", "bytes=+1-2", ""] {
        assert_eq!(requested(Some(text), 10), Ok(None), "{text}");
    }
}

#[test]
fn ranges_past_the_end_are_refused() {
    for (text, size) in [("bytes=10-", 10), ("bytes=10-12", 10), ("bytes=-0", 10), ("bytes=0-0", 0), ("bytes=-1", 0)] {
        assert_eq!(requested(Some(text), size), Err(S3Error::InvalidRange { size }), "{text}");
    }
}

fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
    list.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

#[test]
fn conditions_of_reads() {
    let modified: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
    let check = |list: &[_]| ConditionNames::read().check(&headers(list), "abc", modified);
    let not_modified = Err(S3Error::NotModified { etag: "abc".into() });
    let failed = Err(S3Error::PreconditionFailed);
    assert_eq!(check(&[]), Ok(()));
    assert_eq!(check(&[("if-match", "\"abc\"")]), Ok(()));
    assert_eq!(check(&[("if-match", "abc")]), Ok(()));
    assert_eq!(check(&[("if-match", "\"x\", \"abc\"")]), Ok(()));
    assert_eq!(check(&[("if-match", "\"x\"")]), failed);
    assert_eq!(check(&[("if-none-match", "\"abc\"")]), not_modified);
    assert_eq!(check(&[("if-none-match", "*")]), not_modified);
    assert_eq!(check(&[("if-none-match", "\"x\"")]), Ok(()));
    assert_eq!(check(&[("if-modified-since", "Fri, 02 Jan 2026 03:04:05 GMT")]), not_modified);
    assert_eq!(check(&[("if-modified-since", "Fri, 02 Jan 2026 03:04:04 GMT")]), Ok(()));
    assert_eq!(check(&[("if-unmodified-since", "Fri, 02 Jan 2026 03:04:04 GMT")]), failed);
    assert_eq!(check(&[("if-unmodified-since", "Fri, 02 Jan 2026 03:04:05 GMT")]), Ok(()));
    let outranked = [("if-match", "abc"), ("if-unmodified-since", "Fri, 02 Jan 2026 03:04:04 GMT")];
    assert_eq!(check(&outranked), Ok(()));
}

#[test]
fn conditions_of_writes() {
    let check = |list: &[_], current| check_write(&headers(list), "k", current);
    assert_eq!(check(&[("if-none-match", "*")], None), Ok(()));
    assert_eq!(check(&[("if-none-match", "*")], Some("abc")), Err(S3Error::PreconditionFailed));
    assert_eq!(check(&[("if-match", "\"abc\"")], Some("abc")), Ok(()));
    assert_eq!(check(&[("if-match", "\"old\"")], Some("abc")), Err(S3Error::PreconditionFailed));
    assert_eq!(check(&[("if-match", "\"abc\"")], None), Err(S3Error::NoSuchKey { key: "k".into() }));
}
