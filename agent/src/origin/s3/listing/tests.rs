use super::*;
use proptest::prelude::*;

fn object(key: &str) -> String {
    format!(
        "<Contents><Key>{key}</Key><LastModified>2024-05-06T07:08:09.123Z</LastModified><ETag>&quot;e1-2&quot;</ETag>\
         <Size>42</Size><StorageClass>STANDARD</StorageClass><Owner><ID>x</ID><Size>9</Size></Owner></Contents>"
    )
}

fn listing(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
         <Name>b</Name><Prefix>p/</Prefix><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated>{body}</ListBucketResult>"
    )
}

fn page(body: &str) -> Result<Page, OriginError> {
    parse(listing(body).as_bytes(), "p/", None)
}

#[test]
fn files_directories_and_markers() {
    let body = format!(
        "<EncodingType>url</EncodingType>{}{}<CommonPrefixes><Prefix>p/d%20+%2B/</Prefix></CommonPrefixes>{}",
        object("p/"),
        object("p/a+b%25%26%C3%A9"),
        object("p/z"),
    );
    let page = page(&body).expect("a listing");
    let names: Vec<_> = page.files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a b%&é", "z"], "before and behind a common prefix");
    assert_eq!(page.dirs.iter().map(EntryName::as_str).collect::<Vec<_>>(), ["d  +"]);
    assert!(page.marker);
    let info = &page.files[0].1;
    assert_eq!((info.size, info.version.as_str(), info.mtime_ms), (42, "e1-2", 1_714_979_289_000));
    assert_eq!(page.next, None);
}

#[test]
fn keys_are_as_they_are_without_encoding() {
    let page = page(&object("p/a+b%25&amp;&#x41;&lt;<![CDATA[<c>]]>")).expect("a listing");
    assert_eq!(page.files[0].0.as_str(), "a+b%25&A<<c>");
}

#[test]
fn odd_keys_are_counted_and_break_nothing() {
    let long = "x".repeat(256);
    let body = format!(
        "<EncodingType>url</EncodingType>{}{}{}{}{}{}\
         <CommonPrefixes><Prefix>p//</Prefix></CommonPrefixes><CommonPrefixes><Prefix>p/../</Prefix></CommonPrefixes>",
        object("p/.."),
        object("p/a%00b"),
        object("p/%FF"),
        object(&format!("p/{long}")),
        object("p/ok"),
        "<Contents><Key>p/noetag</Key><Size>1</Size></Contents>",
    );
    let page = page(&body).expect("a listing");
    assert_eq!(page.files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["ok"]);
    assert!(page.dirs.is_empty());
    let counts = Odd::ALL.map(|odd| (odd, page.left_out.of(odd)));
    assert_eq!(
        counts,
        [(Odd::EmptyComponent, 1), (Odd::DotComponent, 2), (Odd::TooLong, 1), (Odd::NotText, 2), (Odd::NoVersion, 1)]
    );
}

#[test]
fn a_page_goes_on_by_token_or_by_its_last_key() {
    let truncated = |rest: &str| {
        let body = format!("{}<CommonPrefixes><Prefix>p/m/</Prefix></CommonPrefixes>{rest}", object("p/b"));
        listing(&body).replace("<IsTruncated>false", "<IsTruncated>true")
    };
    let next = |document: String| parse(document.as_bytes(), "p/", None).map(|page| page.next);
    let token = truncated("<NextContinuationToken>t/1=</NextContinuationToken>");
    assert_eq!(next(token), Ok(Some(Cursor::Token("t/1=".into()))));
    assert_eq!(next(truncated("")), Ok(Some(Cursor::After("m/".into()))));
    let empty = listing("").replace("<IsTruncated>false", "<IsTruncated>true");
    assert_eq!(next(empty), Err(WRONG), "it would go on for ever");
    let long = format!("<NextContinuationToken>{}</NextContinuationToken>", "t".repeat(TOKEN_BYTES_MAX + 1));
    assert_eq!(next(truncated(&long)), Err(WRONG));
}

#[test]
fn a_directory_the_page_before_ended_in_is_not_repeated() {
    let body =
        "<CommonPrefixes><Prefix>p/d/</Prefix></CommonPrefixes><CommonPrefixes><Prefix>p/e/</Prefix></CommonPrefixes>";
    let page = parse(listing(body).as_bytes(), "p/", Some("d/")).expect("a listing");
    assert_eq!(page.dirs.iter().map(EntryName::as_str).collect::<Vec<_>>(), ["e"]);
}

#[test]
fn what_is_no_listing_is_refused() {
    let whole = listing(&object("p/a"));
    let deep = format!("<ListBucketResult>{}", "<a>".repeat(1_000_000));
    let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;&a;\">]><ListBucketResult><Contents><Key>&b;</Key></Contents></ListBucketResult>";
    for document in [
        "",
        "ListBucketResult",
        "<html>ListBucketResult</html>",
        "<Error><Code>InternalError</Code></Error>",
        &whole[..whole.len() - 30],
        &deep,
        bomb,
        "<ListBucketResult><Contents></ListBucketResult>",
        &listing(&object("another/prefix")),
        &listing("<CommonPrefixes><Prefix>p/no-slash</Prefix></CommonPrefixes>"),
    ] {
        assert_eq!(parse(document.as_bytes(), "p/", None), Err(WRONG), "{document:.80}");
    }
}

#[test]
fn sizes_and_times_that_are_none_leave_the_object_out() {
    for (from, to) in [
        (">42<", ">-1<"),
        (">42<", ">99999999999999999999<"),
        (">42<", ">5497558138881<"),
        ("2024-05-06", "yesterday"),
        ("e1-2", ""),
    ] {
        let page = page(&object("p/a").replace(from, to)).expect("a listing");
        assert_eq!((page.files.len(), page.left_out.of(Odd::NoVersion)), (0, 1), "{to}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        drop(parse(&bytes, "p/", None));
    }

    #[test]
    fn no_damage_makes_it_panic(place in 0usize..600, byte in any::<u8>(), cut in 0usize..700) {
        let mut document = listing(&format!("<EncodingType>url</EncodingType>{}", object("p/a%20b"))).into_bytes();
        let place = place % document.len();
        document[place] = byte;
        document.truncate(cut.max(1));
        drop(parse(&document, "p/", None));
    }
}
