//! One page of List Blobs, read from XML that anybody may have written.
//!
//! Keys that can't be names are left out and counted; they never break the page. The document's size is bounded before it
//! comes here, and reading is a loop over events, so depth costs nothing. What isn't known is skipped.
//!
//! A stub (a blob that says it is a directory) has the key `d` but the place of `d/`, which may lie on a later page: until
//! then it waits in the token. So does the place to begin after, where a server doesn't know `startFrom`. A token is
//! Azure's marker and a line for each of them: `+stub`, `>place`, percent-encoded.

use std::collections::BTreeSet;

use larder_proto::limits::OBJECT_BYTES_MAX;
use larder_proto::object::{EntryName, Version};
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::origin::http::{QUERY, character, http_date_ms};
use crate::origin::{Cursor, ObjectInfo, Odd, OriginError, Page, Protocol};

/// A marker holds a name in base64 and a little more; ours goes back in a URL.
const MARKER_BYTES_MAX: usize = 8 * 1024;

/// The names of the deepest element that is read have this many parts.
const DEPTH_MAX: usize = 5;

const WRONG: OriginError = OriginError::Protocol(Protocol::Listing);

/// Elements that are read, and those that they lie in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Results,
    NextMarker,
    Blobs,
    Blob,
    BlobPrefix,
    Name,
    Properties,
    Etag,
    Length,
    Modified,
    Resource,
    Metadata,
    Stub,
    Other,
}

/// The page as it is written.
#[derive(Default)]
struct Raw {
    marker: String,
    blobs: Vec<RawBlob>,
    prefixes: Vec<RawName>,
}

#[derive(Default)]
struct RawBlob {
    name: RawName,
    etag: String,
    length: String,
    modified: String,
    is_stub: bool,
}

/// A name; percent-encoded where XML can't hold it.
#[derive(Default)]
struct RawName {
    text: String,
    is_encoded: bool,
}

impl RawName {
    fn decode(&self) -> Option<String> {
        if !self.is_encoded {
            return Some(self.text.clone());
        }
        Some(percent_decode_str(&self.text).decode_utf8().ok()?.into_owned())
    }
}

/// Azure's own part of a token.
pub(super) fn marker(token: &str) -> &str {
    token.split('\n').next().unwrap_or_default()
}

/// The stubs that wait in a token, and the place that was to be begun after.
fn waiting(token: &str) -> (BTreeSet<String>, Option<String>) {
    let (mut stubs, mut after) = (BTreeSet::new(), None);
    for line in token.split('\n').skip(1) {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        if let Some(stub) = line.strip_prefix('+') {
            stubs.insert(decode(stub));
        } else if let Some(place) = line.strip_prefix('>') {
            after = Some(decode(place));
        }
    }
    (stubs, after)
}

/// The page of a document; `prefix` is what every key of the directory begins with, `from` where the page was to begin:
/// servers that don't know `startFrom` begin at the beginning.
pub(super) fn parse(document: &[u8], prefix: &str, from: Option<&Cursor>) -> Result<Page, OriginError> {
    let raw = read(document)?;
    let (stubs, after) = match from {
        Some(Cursor::Token(token)) => waiting(token),
        Some(Cursor::After(after)) => (BTreeSet::new(), Some((**after).to_owned())),
        None => (BTreeSet::new(), None),
    };
    let mut names = Names { prefix, after, stubs, ..Names::default() };
    for blob in &raw.blobs {
        names.blob(blob)?;
    }
    for prefix in &raw.prefixes {
        names.directory(prefix)?;
    }
    names.page(&raw.marker)
}

/// What a page's keys are, relative to the directory.
#[derive(Default)]
struct Names<'a> {
    prefix: &'a str,
    /// Where the page was to begin: after this key, and after all that is in it if it is a directory's.
    after: Option<String>,
    page: Page,
    /// Each ends in a slash.
    dirs: BTreeSet<String>,
    stubs: BTreeSet<String>,
    /// The last key of all.
    last: String,
}

impl Names<'_> {
    fn blob(&mut self, blob: &RawBlob) -> Result<(), OriginError> {
        let Some(tail) = self.tail(&blob.name)? else { return Ok(()) };
        if tail.is_empty() {
            self.page.marker = true;
        } else if blob.is_stub {
            self.stubs.insert(tail);
        } else if !self.is_before(&tail) {
            match (EntryName::parse(&tail), info(blob)) {
                (Ok(name), Some(info)) => self.page.files.push((name, info)),
                (Err(odd), _) => self.page.left_out.add(odd.into()),
                (Ok(_), None) => self.page.left_out.add(Odd::NoVersion),
            }
        }
        Ok(())
    }

    fn directory(&mut self, name: &RawName) -> Result<(), OriginError> {
        let Some(tail) = self.tail(name)? else { return Ok(()) };
        if !tail.ends_with('/') {
            return Err(WRONG);
        }
        self.dirs.insert(tail);
        Ok(())
    }

    fn page(mut self, marker: &str) -> Result<Page, OriginError> {
        if marker.len() > MARKER_BYTES_MAX || marker.contains('\n') {
            return Err(WRONG);
        }
        let mut token = marker.to_owned();
        for stub in std::mem::take(&mut self.stubs) {
            let place = format!("{stub}/");
            if !marker.is_empty() && self.last < place {
                token = format!("{token}\n+{}", utf8_percent_encode(&stub, QUERY));
            } else {
                self.dirs.insert(place);
            }
        }
        for dir in std::mem::take(&mut self.dirs) {
            if self.is_before(&dir) {
                continue;
            }
            match EntryName::parse(dir.strip_suffix('/').unwrap_or(&dir)) {
                Ok(name) => self.page.dirs.push(name),
                Err(odd) => self.page.left_out.add(odd.into()),
            }
        }
        // Once a page has passed the place, all later ones have.
        if let Some(after) = self.after.filter(|after| self.last <= *after) {
            token = format!("{token}\n>{}", utf8_percent_encode(&after, QUERY));
        }
        self.page.next = (!marker.is_empty()).then(|| Cursor::Token(token.into()));
        Ok(self.page)
    }

    /// The key below the directory; `None` when it is no text.
    fn tail(&mut self, name: &RawName) -> Result<Option<String>, OriginError> {
        let Some(key) = name.decode() else {
            self.page.left_out.add(Odd::NotText);
            return Ok(None);
        };
        let tail = key.strip_prefix(self.prefix).ok_or(WRONG)?.to_owned();
        if self.last < tail {
            self.last.clone_from(&tail);
        }
        Ok(Some(tail))
    }

    /// Whether the page was to begin after it.
    fn is_before(&self, tail: &str) -> bool {
        let after = self.after.as_deref();
        after.is_some_and(|after| tail <= after || (after.ends_with('/') && tail.starts_with(after)))
    }
}

fn read(document: &[u8]) -> Result<Raw, OriginError> {
    // Azure begins its documents with a byte order mark.
    let mut reader = Reader::from_reader(document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document));
    let (mut raw, mut text) = (Raw::default(), String::new());
    let (mut path, mut below) = (Vec::with_capacity(DEPTH_MAX), 0_u32);
    let mut rooted = false;
    loop {
        match reader.read_event().map_err(|_| WRONG)? {
            Event::Start(_) if path.len() == DEPTH_MAX => below = below.checked_add(1).ok_or(WRONG)?,
            Event::Start(element) => {
                text.clear();
                let tag = tag(element.local_name().as_ref());
                if path.is_empty() && (rooted || tag != Tag::Results) {
                    return Err(WRONG);
                }
                rooted = true;
                path.push(tag);
                begin(&mut raw, &path, &element);
            }
            Event::End(_) if below > 0 => below -= 1,
            Event::End(_) => {
                store(&mut raw, &path, std::mem::take(&mut text));
                path.pop().ok_or(WRONG)?;
            }
            Event::Text(piece) if below == 0 => text.push_str(std::str::from_utf8(&piece).map_err(|_| WRONG)?),
            Event::CData(piece) if below == 0 => text.push_str(std::str::from_utf8(&piece).map_err(|_| WRONG)?),
            Event::GeneralRef(reference) if below == 0 => text.push(character(&reference).ok_or(WRONG)?),
            Event::Eof => break,
            _ => {}
        }
    }
    // A document that breaks off, or none at all, is no listing: half a page would hide files.
    if rooted && path.is_empty() { Ok(raw) } else { Err(WRONG) }
}

fn tag(name: &[u8]) -> Tag {
    match name {
        b"EnumerationResults" => Tag::Results,
        b"NextMarker" => Tag::NextMarker,
        b"Blobs" => Tag::Blobs,
        b"Blob" => Tag::Blob,
        b"BlobPrefix" => Tag::BlobPrefix,
        b"Name" => Tag::Name,
        b"Properties" => Tag::Properties,
        b"Etag" => Tag::Etag,
        b"Content-Length" => Tag::Length,
        b"Last-Modified" => Tag::Modified,
        b"ResourceType" => Tag::Resource,
        b"Metadata" => Tag::Metadata,
        name if name.eq_ignore_ascii_case(super::STUB.as_bytes()) => Tag::Stub,
        _ => Tag::Other,
    }
}

fn begin(raw: &mut Raw, path: &[Tag], element: &BytesStart<'_>) {
    let encoded = || {
        let attribute = element.try_get_attribute("Encoded").ok().flatten();
        attribute.is_some_and(|attribute| attribute.value.eq_ignore_ascii_case(b"true"))
    };
    match path {
        [Tag::Results, Tag::Blobs, Tag::Blob] => raw.blobs.push(RawBlob::default()),
        [Tag::Results, Tag::Blobs, Tag::BlobPrefix] => raw.prefixes.push(RawName::default()),
        [Tag::Results, Tag::Blobs, Tag::Blob, Tag::Name] => {
            if let Some(blob) = raw.blobs.last_mut() {
                blob.name.is_encoded = encoded();
            }
        }
        [Tag::Results, Tag::Blobs, Tag::BlobPrefix, Tag::Name] => {
            if let Some(name) = raw.prefixes.last_mut() {
                name.is_encoded = encoded();
            }
        }
        _ => {}
    }
}

fn store(raw: &mut Raw, path: &[Tag], text: String) {
    match path {
        [Tag::Results, Tag::NextMarker] => raw.marker = text.trim().to_owned(),
        [Tag::Results, Tag::Blobs, Tag::BlobPrefix, Tag::Name] => {
            if let Some(name) = raw.prefixes.last_mut() {
                name.text = text;
            }
        }
        [Tag::Results, Tag::Blobs, Tag::Blob, of_blob @ ..] => {
            if let Some(blob) = raw.blobs.last_mut() {
                store_blob(blob, of_blob, text);
            }
        }
        _ => {}
    }
}

fn store_blob(blob: &mut RawBlob, path: &[Tag], text: String) {
    match path {
        [Tag::Name] => blob.name.text = text,
        [Tag::Properties, Tag::Etag] => blob.etag = text,
        [Tag::Properties, Tag::Length] => blob.length = text,
        [Tag::Properties, Tag::Modified] => blob.modified = text,
        [Tag::Properties, Tag::Resource] => blob.is_stub |= text.trim().eq_ignore_ascii_case("directory"),
        [Tag::Metadata, Tag::Stub] => blob.is_stub |= text.trim().eq_ignore_ascii_case("true"),
        _ => {}
    }
}

fn info(blob: &RawBlob) -> Option<ObjectInfo> {
    let size = blob.length.trim().parse().ok().filter(|size| *size <= OBJECT_BYTES_MAX)?;
    let version = Version::of_etag(blob.etag.trim())?;
    Some(ObjectInfo { size, version, mtime_ms: http_date_ms(blob.modified.trim())? })
}

#[cfg(test)]
mod tests;
