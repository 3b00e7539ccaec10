use std::collections::BTreeMap;

use larder_proto::object::Version;
use proptest::prelude::*;

use super::*;
use crate::origin::{Cursor, ObjectInfo};

fn name(text: &str) -> EntryName {
    EntryName::parse(text).expect("plain")
}

fn info(size: u64) -> ObjectInfo {
    ObjectInfo { size, version: Version::of_etag("v").expect("plain"), mtime_ms: 0 }
}

/// The pages an origin would answer with, cut after so many keys each.
fn pages(keys: &BTreeMap<String, bool>, cuts: &[usize]) -> Vec<Page> {
    let mut pages = vec![Page::default()];
    let (mut left, mut cuts) = (cuts[0], cuts.iter().cycle().skip(1));
    for (key, is_dir) in keys {
        if left == 0 {
            pages.last_mut().expect("one").next = Some(Cursor::Token("t".into()));
            pages.push(Page::default());
            left = *cuts.next().expect("endless");
        }
        left -= 1;
        let page = pages.last_mut().expect("one");
        let text = key.trim_end_matches('/');
        if *is_dir { page.dirs.push(name(text)) } else { page.files.push((name(text), info(text.len() as u64))) }
    }
    pages
}

/// All parts of a listing, one after the other.
fn whole(mut part: impl FnMut(Option<&str>) -> Part) -> Vec<Named> {
    let (mut all, mut after): (Vec<Named>, Option<Arc<str>>) = (Vec::new(), None);
    loop {
        let next = part(after.as_deref());
        all.extend(next.entries);
        after = next.next;
        if after.is_none() {
            return all;
        }
    }
}

proptest! {
    /// Whatever the keys and however they are cut into pages: names are those of the model, a directory wins over a file,
    /// and nothing that was shown early is taken back or left out.
    #[test]
    fn a_listing_is_its_model(
        texts in proptest::collection::btree_set("[ab\\-.0é]{1,4}", 0..40),
        kinds in proptest::collection::vec(0u8..3, 40),
        cuts in proptest::collection::vec(1usize..5, 1..5),
    ) {
        let mut keys: BTreeMap<String, bool> = BTreeMap::new();
        let mut model: BTreeMap<EntryName, Looked> = BTreeMap::new();
        let mut clashes = 0;
        for (text, kind) in texts.iter().filter(|text| !matches!(text.as_str(), "." | "..")).zip(&kinds) {
            if *kind != 0 {
                keys.insert(format!("{text}/"), true);
            }
            if *kind != 1 {
                keys.insert(text.clone(), false);
            }
            clashes += u64::from(*kind == 2);
            let looked = if *kind == 0 { Looked::File(info(text.len() as u64)) } else { Looked::Dir };
            model.insert(name(text), looked);
        }
        let mut growing = Growing::new();
        let (mut early, mut after): (Vec<Named>, Option<Arc<str>>) = (Vec::new(), None);
        for page in pages(&keys, &cuts) {
            growing.push(page);
            while let Some(part) = growing.part(after.as_deref()) {
                early.extend(part.entries);
                after = part.next;
            }
            for (name, looked) in &model {
                if let Some(found) = growing.find(name) {
                    prop_assert_eq!(&found, looked, "{} while it grows", name.as_str());
                }
            }
        }
        let (listing, counted) = growing.finish(Instant::now());
        prop_assert_eq!(counted, clashes);
        let all = whole(|after| listing.part(after));
        let mut sorted = all.clone();
        sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
        prop_assert_eq!(sorted, model.clone().into_iter().collect::<Vec<_>>());
        early.extend(whole(|from| listing.part(from.or(after.as_deref()))));
        prop_assert_eq!(early, all, "begun early, ended late");
        for (name, looked) in &model {
            prop_assert_eq!(&listing.find(name), looked);
        }
        prop_assert_eq!(listing.find(&name("absent")), Looked::Absent);
    }
}

#[test]
fn a_file_is_shown_once_no_directory_can_follow() {
    let mut growing = Growing::new();
    let file = |text: &str| (name(text), info(1));
    growing.push(Page { files: vec![file("a"), file("a-"), file("a-b")], ..Page::default() });
    assert_eq!(growing.part(None), None, "a/ may follow");
    assert_eq!(growing.find(&name("a")), None);
    growing.push(Page { files: vec![file("b")], dirs: vec![name("a")], ..Page::default() });
    let part = growing.part(None).expect("certain");
    let names: Vec<_> = part.entries.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a-", "a-b", "a"], "b may still be a directory");
    assert_eq!(growing.clashes(), 1);
    let (listing, clashes) = growing.finish(Instant::now());
    assert_eq!((clashes, listing.find(&name("a"))), (1, Looked::Dir));
}

#[test]
fn an_origin_without_order_is_shown_whole() {
    let mut growing = Growing::new();
    growing.push(Page { files: vec![(name("z"), info(1))], ..Page::default() });
    growing.push(Page { files: vec![(name("a"), info(1)), (name("m"), info(1))], ..Page::default() });
    assert_eq!((growing.part(None), growing.find(&name("a"))), (None, None));
    growing.push(Page { dirs: vec![name("a"), name("b")], ..Page::default() });
    let (listing, clashes) = growing.finish(Instant::now());
    let names: Vec<_> = listing.part(None).entries.into_iter().map(|(name, _)| name.as_str().to_owned()).collect();
    assert_eq!((names, clashes), (["a", "b", "m", "z"].map(str::to_owned).to_vec(), 1));
}
