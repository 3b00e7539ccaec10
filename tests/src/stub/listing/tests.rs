//! Pages, rolling up, and tokens.

use super::*;

fn keys(list: &[&str]) -> BTreeMap<Vec<u8>, ()> {
    list.iter().map(|key| (key.as_bytes().to_vec(), ())).collect()
}

fn ask<'a>(prefix: &'a str, delimiter: &'a str, max: usize) -> Ask<'a> {
    Ask { prefix: prefix.as_bytes(), delimiter: delimiter.as_bytes(), from: From::Start, max }
}

fn text<V>(page: &Page<'_, V>) -> (Vec<String>, Vec<String>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (page.objects.iter().map(|(key, _)| text(key)).collect(), page.prefixes.iter().map(|prefix| text(prefix)).collect())
}

#[test]
fn rolls_up_at_the_delimiter() {
    let keys = keys(&["a", "a/b", "a/c/d", "a//b", "b", "dir/", "é/x", "../x"]);
    let (objects, prefixes) = text(&page(&keys, &ask("", "/", 1000)));
    assert_eq!(objects, ["a", "b"]);
    assert_eq!(prefixes, ["../", "a/", "dir/", "é/"]);
    let (objects, prefixes) = text(&page(&keys, &ask("a/", "/", 1000)));
    assert_eq!(objects, ["a/b"]);
    assert_eq!(prefixes, ["a//", "a/c/"]);
    let (objects, prefixes) = text(&page(&keys, &ask("dir/", "/", 1000)));
    assert_eq!((objects, prefixes), (vec!["dir/".to_owned()], vec![]));
}

#[test]
fn pages_join_into_the_whole_whatever_their_size() {
    let names: Vec<String> = (0..50).flat_map(|d| (0..d % 4).map(move |f| format!("d{d:02}/f{f}"))).collect();
    let mut list: Vec<&str> = names.iter().map(String::as_str).collect();
    list.extend(["a", "d05", "z\u{10ffff}", "z\u{10ffff}x/y", "z\u{10ffff}x/z", "zz"]);
    let keys = keys(&list);
    for delimiter in ["", "/", "/f", "d0"] {
        for prefix in ["", "d", "d05", "z", "nothing"] {
            let whole = text(&page(&keys, &ask(prefix, delimiter, 1000)));
            for max in [1, 2, 3, 7] {
                let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
                let mut ask = ask(prefix, delimiter, max);
                loop {
                    let page = page(&keys, &ask);
                    assert!(page.objects.len() + page.prefixes.len() <= max);
                    let (more_objects, more_prefixes) = text(&page);
                    objects.extend(more_objects);
                    prefixes.extend(more_prefixes);
                    let Some(next) = page.next else { break };
                    ask.from = From::parse(&next.token()).unwrap();
                }
                assert_eq!((objects, prefixes), whole, "{prefix:?} {delimiter:?} {max}");
            }
        }
    }
}

#[test]
fn a_full_last_page_is_not_truncated() {
    let keys = keys(&["a", "b"]);
    assert!(page(&keys, &ask("", "", 2)).next.is_none());
    assert!(page(&keys, &ask("", "", 1)).next.is_some());
    let none = page(&keys, &ask("", "", 0));
    assert!(none.next.is_none() && none.objects.is_empty());
}

#[test]
fn markers_of_version_1_pass_over_their_prefix() {
    assert_eq!(From::marker("", "", "/"), From::Start);
    assert_eq!(From::marker("a/", "", "/"), From::Prefix(b"a/".to_vec()));
    assert_eq!(From::marker("a/b", "", "/"), From::Key(b"a/b".to_vec()));
    assert_eq!(From::marker("a/", "a/", "/"), From::Key(b"a/".to_vec()));
    assert_eq!(From::marker("a/", "", ""), From::Key(b"a/".to_vec()));
}

#[test]
fn foreign_tokens_are_refused() {
    for token in ["", "x", "kzz", "s1", "é"] {
        assert_eq!(From::parse(token), None, "{token}");
    }
}
