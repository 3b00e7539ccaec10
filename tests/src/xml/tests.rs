//! Escaping out, reading in.

use super::*;

#[test]
fn text_is_escaped() {
    let mut document = Document::bare("A");
    document.open("B").leaf("Key", "a<b>&\"c\"\u{1}\té").close().leaf("Empty", "");
    assert_eq!(
        document.finish(),
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <A><B><Key>a&lt;b&gt;&amp;&quot;c&quot;&#x1;\té</Key></B><Empty></Empty></A>"
    );
}

#[test]
fn what_is_written_is_read() {
    let mut document = Document::new("Delete");
    document.open("Object").leaf("Key", " a<b>&\"c\" é ").close().open("Object").leaf("Key", "d").close();
    let found = leaves(document.finish().as_bytes()).unwrap();
    let keys: Vec<_> =
        found.iter().filter(|(path, _)| path == "Delete/Object/Key").map(|(_, text)| text.as_str()).collect();
    assert_eq!(keys, [" a<b>&\"c\" é ", "d"]);
    assert_eq!(found.iter().filter(|(path, _)| path == "/Delete/Object").count(), 2);
}

#[test]
fn malformed_documents_are_refused() {
    let deep = "<a>".repeat(9) + &"</a>".repeat(9);
    for text in ["", "x", "<a>", "<a></b>", "<a>&nope;</a>", "<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;</a>", &deep] {
        assert_eq!(leaves(text.as_bytes()), Err(Malformed), "{text}");
    }
}
