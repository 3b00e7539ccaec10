use super::*;
use proptest::prelude::*;

fn blob_with(name: &str, rest: &str) -> String {
    format!(
        "<Blob><Name>{name}</Name><Properties><Creation-Time>Mon, 06 May 2024 07:08:08 GMT</Creation-Time>\
         <Last-Modified>Mon, 06 May 2024 07:08:09 GMT</Last-Modified><Etag>0x8DC6D9A</Etag>\
         <Content-Length>42</Content-Length><Content-Type>text/plain</Content-Type><Content-Encoding />\
         <BlobType>BlockBlob</BlobType></Properties>{rest}<OrMetadata /></Blob>"
    )
}

fn blob(name: &str) -> String {
    blob_with(name, "<Metadata />")
}

fn stub(name: &str) -> String {
    blob_with(name, "<Metadata><owner>me</owner><Hdi_isFolder>true</Hdi_isFolder></Metadata>")
}

fn directory(name: &str) -> String {
    format!("<BlobPrefix><Name>{name}</Name></BlobPrefix>")
}

fn listing(blobs: &str, marker: &str) -> String {
    format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ServiceEndpoint=\"https://lake.blob.core.windows.net/\" \
         ContainerName=\"models\"><Prefix>p/</Prefix><MaxResults>9</MaxResults><Delimiter>/</Delimiter><Blobs>{blobs}</Blobs>\
         <NextMarker>{marker}</NextMarker></EnumerationResults>"
    )
}

fn page(blobs: &str) -> Result<Page, OriginError> {
    parse(listing(blobs, "").as_bytes(), "p/", None)
}

fn files(page: &Page) -> Vec<&str> {
    page.files.iter().map(|(name, _)| name.as_str()).collect()
}

fn dirs(page: &Page) -> Vec<&str> {
    page.dirs.iter().map(EntryName::as_str).collect()
}

#[test]
fn files_directories_and_markers() {
    let blobs = [blob("p/"), blob("p/a+b%25&amp;&#xE9;"), directory("p/d /"), blob("p/z")].concat();
    let page = page(&blobs).expect("a listing");
    assert_eq!((files(&page), dirs(&page)), (vec!["a+b%25&é", "z"], vec!["d "]), "names are as they are");
    assert!(page.marker);
    let info = &page.files[0].1;
    assert_eq!((info.size, info.version.as_str(), info.mtime_ms), (42, "0x8DC6D9A", 1_714_979_289_000));
    assert_eq!(page.next, None);
    let without_marker = listing(&blobs, "").replace("<NextMarker></NextMarker>", "<NextMarker />");
    assert_eq!(parse(without_marker.as_bytes(), "p/", None).map(|page| page.next), Ok(None));
}

#[test]
fn names_that_xml_cannot_hold_come_encoded() {
    let encoded = |name: &str| blob(name).replace("<Name>", "<Name Encoded=\"true\">");
    let blobs = [
        encoded("p%2Fa%0Bb%25"),
        encoded("p/%00"),
        encoded("p/%FF"),
        directory("p/d%0B/").replace("<Name>", "<Name Encoded=\"true\">"),
    ];
    let page = page(&blobs.concat()).expect("a listing");
    assert_eq!((files(&page), dirs(&page)), (vec!["a\u{b}b%"], vec!["d\u{b}"]));
    assert_eq!(page.left_out.of(Odd::NotText), 2, "NUL, and what isn't UTF-8");
}

#[test]
fn odd_keys_are_counted_and_break_nothing() {
    let blobs = [
        blob("p/.."),
        blob(&format!("p/{}", "x".repeat(256))),
        blob("p/ok"),
        "<Blob><Name>p/noetag</Name><Properties><Content-Length>1</Content-Length></Properties></Blob>".to_owned(),
        directory("p//"),
        directory("p/./"),
    ];
    let page = page(&blobs.concat()).expect("a listing");
    assert_eq!((files(&page), dirs(&page)), (vec!["ok"], vec![]));
    let counts = Odd::ALL.map(|odd| (odd, page.left_out.of(odd)));
    assert_eq!(
        counts,
        [(Odd::EmptyComponent, 1), (Odd::DotComponent, 2), (Odd::TooLong, 1), (Odd::NotText, 0), (Odd::NoVersion, 1)]
    );
}

#[test]
fn stubs_are_directories_once_and_in_their_place() {
    let blobs = [stub("p/d"), blob("p/d-1"), directory("p/d/"), stub("p/e"), blob("p/z")].concat();
    let page = page(&blobs).expect("a listing");
    assert_eq!((files(&page), dirs(&page)), (vec!["d-1", "z"], vec!["d", "e"]));
    let resource = blob("p/h").replace("<BlobType>", "<ResourceType>directory</ResourceType><BlobType>");
    assert_eq!(dirs(&super::parse(listing(&resource, "").as_bytes(), "p/", None).expect("a listing")), ["h"]);
    let no_stub = blob_with("p/f", "<Metadata><hdi_isfolder>false</hdi_isfolder></Metadata>");
    assert_eq!(files(&super::parse(listing(&no_stub, "").as_bytes(), "p/", None).expect("a listing")), ["f"]);
}

/// `d-1` lies between the stub `d` and its place, `d/`.
#[test]
fn a_stub_waits_for_its_place_on_a_later_page() {
    let first = listing(&[stub("p/a"), blob("p/b"), stub("p/d")].concat(), "m1");
    let first = parse(first.as_bytes(), "p/", None).expect("a listing");
    assert_eq!((files(&first), dirs(&first)), (vec!["b"], vec!["a"]));
    assert_eq!(first.next, Some(Cursor::Token("m1\n+d".into())));
    assert_eq!(marker("m1\n+d"), "m1");
    let second = listing(&blob("p/d-1"), "m2");
    let second = parse(second.as_bytes(), "p/", first.next.as_ref()).expect("a listing");
    assert_eq!((files(&second), dirs(&second)), (vec!["d-1"], vec![]));
    assert_eq!(second.next, Some(Cursor::Token("m2\n+d".into())));
    for (rest, has_more) in [(directory("p/d/"), true), (blob("p/x"), true), (String::new(), false)] {
        let third = listing(&rest, if has_more { "m3" } else { "" });
        let third = parse(third.as_bytes(), "p/", second.next.as_ref()).expect("a listing");
        assert_eq!(dirs(&third), ["d"]);
        assert_eq!(third.next, has_more.then(|| Cursor::Token("m3".into())));
    }
}

#[test]
fn a_server_that_does_not_know_where_to_start_is_filtered() {
    let blobs = [blob("p/a"), stub("p/c"), blob("p/d"), directory("p/d/"), blob("p/d0"), directory("p/e/")].concat();
    let after = |key: &str| {
        let cursor = Cursor::After(key.into());
        let page = parse(listing(&blobs, "").as_bytes(), "p/", Some(&cursor)).expect("a listing");
        let own = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
        (own(files(&page)), own(dirs(&page)))
    };
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(after("a"), (own(&["d", "d0"]), own(&["c", "d", "e"])));
    assert_eq!(after("c/"), (own(&["d", "d0"]), own(&["d", "e"])));
    assert_eq!(after("d"), (own(&["d0"]), own(&["d", "e"])));
    assert_eq!(after("d/"), (own(&["d0"]), own(&["e"])));
}

#[test]
fn the_place_to_begin_after_outlasts_pages_before_it() {
    let first = listing(&[blob("p/a"), stub("p/a b\n")].concat(), "m1");
    let first = parse(first.as_bytes(), "p/", Some(&Cursor::After("é/".into()))).expect("a listing");
    assert!(first.is_empty());
    assert_eq!(first.next, Some(Cursor::Token("m1\n+a%20b%0A\n>%C3%A9%2F".into())));
    let second = listing(&[blob("p/c"), directory("p/é/")].concat(), "m2");
    let second = parse(second.as_bytes(), "p/", first.next.as_ref()).expect("a listing");
    assert!(second.is_empty(), "a name with a newline is before it too");
    let third = listing(&blob("p/ü"), "m3");
    let third = parse(third.as_bytes(), "p/", second.next.as_ref()).expect("a listing");
    assert_eq!((files(&third), third.next.clone()), (vec!["ü"], Some(Cursor::Token("m3".into()))));
}

#[test]
fn what_is_no_listing_is_refused() {
    let whole = listing(&blob("p/a"), "");
    let deep = format!("<EnumerationResults>{}", "<a>".repeat(1_000_000));
    let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaa\">]><EnumerationResults><Blobs><Blob><Name>&a;</Name></Blob></Blobs></EnumerationResults>";
    for document in [
        "",
        "EnumerationResults",
        "<html>EnumerationResults</html>",
        "<Error><Code>InternalError</Code></Error>",
        &whole[..whole.len() - 30],
        &deep,
        bomb,
        "<EnumerationResults><Blobs></EnumerationResults>",
        &format!("{whole}{whole}"),
        &listing(&blob("another/prefix"), ""),
        &listing(&directory("p/no-slash"), ""),
        &listing("", &"m".repeat(MARKER_BYTES_MAX + 1)),
        &listing("", "a\nb"),
    ] {
        assert_eq!(parse(document.as_bytes(), "p/", None), Err(WRONG), "{document:.80}");
    }
}

#[test]
fn sizes_and_times_that_are_none_leave_the_blob_out() {
    for (from, to) in [
        (">42<", ">-1<"),
        (">42<", ">99999999999999999999<"),
        (">42<", ">5497558138881<"),
        ("Mon, 06 May 2024 07:08:09 GMT", "yesterday"),
        ("0x8DC6D9A", ""),
    ] {
        let page = page(&blob("p/a").replace(from, to)).expect("a listing");
        assert_eq!((page.files.len(), page.left_out.of(Odd::NoVersion)), (0, 1), "{to}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        drop(parse(&bytes, "p/", None));
    }

    #[test]
    fn no_damage_makes_it_panic(place in 0usize..900, byte in any::<u8>(), cut in 0usize..900) {
        let mut document = listing(&[stub("p/a"), directory("p/b/")].concat(), "m").into_bytes();
        let place = place % document.len();
        document[place] = byte;
        document.truncate(cut.max(1));
        drop(parse(&document, "p/", None));
    }
}
