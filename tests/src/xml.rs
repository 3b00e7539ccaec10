//! XML as S3 writes and reads it: flat documents, every text escaped, characters that XML 1.0 forbids written as numeric
//! references (which is why S3 offers `encoding-type=url`).

#[cfg(test)]
mod tests;

use quick_xml::Reader;
use quick_xml::events::Event;

use thiserror::Error;

/// The name space of S3's answers.
pub const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";
/// Deepest element of a request body that is read; S3's have three levels.
const DEPTH: usize = 8;

/// Not a well-formed document, or too deep, or with a document type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed XML")]
pub struct Malformed;

/// A document under construction.
pub struct Document {
    text: String,
    open: Vec<&'static str>,
}

impl Document {
    /// Begins with `<root xmlns=..>`.
    pub fn new(root: &'static str) -> Document {
        let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root} xmlns=\"{NAMESPACE}\">");
        Document { text, open: vec![root] }
    }

    /// Begins with `<root>`, as error documents do.
    pub fn bare(root: &'static str) -> Document {
        Document { text: format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root}>"), open: vec![root] }
    }

    /// Opens an element.
    pub fn open(&mut self, name: &'static str) -> &mut Document {
        self.text.push_str(&format!("<{name}>"));
        self.open.push(name);
        self
    }

    /// Closes the element opened last.
    pub fn close(&mut self) -> &mut Document {
        if let Some(name) = self.open.pop() {
            self.text.push_str(&format!("</{name}>"));
        }
        self
    }

    /// `<name>escaped text</name>`.
    pub fn leaf(&mut self, name: &'static str, text: impl AsRef<str>) -> &mut Document {
        self.text.push_str(&format!("<{name}>"));
        escape(text.as_ref(), &mut self.text);
        self.text.push_str(&format!("</{name}>"));
        self
    }

    /// Closes everything.
    pub fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self.close();
        }
        self.text
    }
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' => out.push(c),
            c if c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push_str(&format!("&#x{:x};", u32::from(c))),
            c => out.push(c),
        }
    }
}

/// Every element that holds text, as (names from the root down joined by `/`, text), in document order; an element
/// that closes reports `path` with a leading `/` and no text, so that lists can be told apart.
///
/// Errors: [`Malformed`] for anything that isn't a well-formed document of at most eight levels.
pub fn leaves(body: &[u8]) -> Result<Vec<(String, String)>, Malformed> {
    let malformed = |_| Malformed;
    let mut reader = Reader::from_reader(body);
    let (mut path, mut text, mut found) = (Vec::<String>::new(), String::new(), Vec::new());
    loop {
        match reader.read_event().map_err(|_| Malformed)? {
            Event::Start(tag) => {
                path.push(name_of(tag.local_name().as_ref())?);
                text.clear();
                if path.len() > DEPTH {
                    return Err(Malformed);
                }
            }
            Event::Empty(tag) => {
                path.push(name_of(tag.local_name().as_ref())?);
                found.push((path.join("/"), String::new()));
                found.push((format!("/{}", path.join("/")), String::new()));
                path.pop();
            }
            Event::Text(part) => text.push_str(std::str::from_utf8(&part).map_err(|_| Malformed)?),
            Event::CData(part) => text.push_str(std::str::from_utf8(&part).map_err(|_| Malformed)?),
            Event::GeneralRef(reference) => {
                let quoted = format!("&{};", std::str::from_utf8(&reference).map_err(|_| Malformed)?);
                text.push_str(&quick_xml::escape::unescape(&quoted).map_err(malformed)?);
            }
            Event::End(_) => {
                found.push((path.join("/"), std::mem::take(&mut text)));
                found.push((format!("/{}", path.join("/")), String::new()));
                path.pop();
            }
            Event::Eof if path.is_empty() && !found.is_empty() => return Ok(found),
            Event::Eof => return Err(Malformed),
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
            Event::DocType(_) => return Err(Malformed),
        }
    }
}

fn name_of(bytes: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed)
}
