//! One page of ListObjectsV2, read from XML that anybody may have written.
//!
//! Keys that can't be names are left out and counted; they never break the page. The document's size is bounded before it
//! comes here, and reading is a loop over events, so depth costs nothing. What isn't known is skipped.

use std::borrow::Cow;

use larder_proto::limits::OBJECT_BYTES_MAX;
use larder_proto::object::{EntryName, Version};
use percent_encoding::percent_decode;
use quick_xml::Reader;
use quick_xml::events::Event;

use crate::origin::http::{character, whole_seconds_ms};
use crate::origin::{Cursor, ObjectInfo, Odd, OriginError, Page, Protocol};

/// Tokens seen in the wild are below 1 KiB; ours goes back in a URL.
const TOKEN_BYTES_MAX: usize = 4 * 1024;

const WRONG: OriginError = OriginError::Protocol(Protocol::Listing);

/// The elements that are read, by their path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    IsTruncated,
    NextToken,
    EncodingType,
    Key,
    ETag,
    Size,
    LastModified,
    Prefix,
}

/// An element at depth 2 that has fields of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Contents,
    CommonPrefixes,
    Other,
}

/// The page as it is written.
#[derive(Default)]
struct Raw {
    truncated: bool,
    token: Option<String>,
    url_encoded: bool,
    objects: Vec<RawObject>,
    prefixes: Vec<String>,
}

#[derive(Default)]
struct RawObject {
    key: String,
    etag: String,
    size: String,
    modified: String,
}

/// The page of a document; `prefix` is what every key of the directory begins with, `after` what the page begins after
/// (servers repeat a directory that the page before ended in).
pub(super) fn parse(document: &[u8], prefix: &str, after: Option<&str>) -> Result<Page, OriginError> {
    let raw = read(document)?;
    let decode = |text: String| if raw.url_encoded { from_url(&text) } else { Some(text) };
    let mut page = Page::default();
    let mut last: Option<String> = None;
    for object in raw.objects {
        let Some(key) = decode(object.key) else {
            page.left_out.add(Odd::NotText);
            continue;
        };
        let tail = key.strip_prefix(prefix).ok_or(WRONG)?;
        last = last.max(Some(tail.to_owned()));
        if tail.is_empty() {
            page.marker = true;
            continue;
        }
        match (EntryName::parse(tail), info(&object.etag, &object.size, &object.modified)) {
            (Ok(name), Some(info)) => page.files.push((name, info)),
            (Err(odd), _) => page.left_out.add(odd.into()),
            (Ok(_), None) => page.left_out.add(Odd::NoVersion),
        }
    }
    for common in raw.prefixes {
        let Some(common) = decode(common) else {
            page.left_out.add(Odd::NotText);
            continue;
        };
        let tail = common.strip_prefix(prefix).ok_or(WRONG)?;
        if after.is_some_and(|after| tail <= after) {
            continue;
        }
        last = last.max(Some(tail.to_owned()));
        match EntryName::parse(tail.strip_suffix('/').ok_or(WRONG)?) {
            Ok(name) => page.dirs.push(name),
            Err(odd) => page.left_out.add(odd.into()),
        }
    }
    if raw.truncated {
        page.next = Some(match (raw.token, last) {
            (Some(token), _) if token.len() <= TOKEN_BYTES_MAX => Cursor::Token(token.into()),
            (None, Some(last)) => Cursor::After(last.into()),
            (Some(_), _) | (None, None) => return Err(WRONG),
        });
    }
    Ok(page)
}

fn read(document: &[u8]) -> Result<Raw, OriginError> {
    let mut reader = Reader::from_reader(document);
    let mut raw = Raw::default();
    let (mut depth, mut group, mut field) = (0_u32, Group::Other, None);
    let (mut rooted, mut text) = (false, String::new());
    loop {
        match reader.read_event().map_err(|_| WRONG)? {
            Event::Start(tag) => {
                depth = depth.checked_add(1).ok_or(WRONG)?;
                text.clear();
                let name = tag.local_name();
                match depth {
                    1 if rooted || name.as_ref() != b"ListBucketResult" => return Err(WRONG),
                    1 => rooted = true,
                    2 => group = begin(&mut raw, name.as_ref()),
                    _ => {}
                }
                field = known(depth, group, name.as_ref());
            }
            Event::End(_) => {
                if let Some(field) = field.take() {
                    store(&mut raw, field, std::mem::take(&mut text));
                }
                depth = depth.checked_sub(1).ok_or(WRONG)?;
            }
            Event::Text(piece) if field.is_some() => text.push_str(std::str::from_utf8(&piece).map_err(|_| WRONG)?),
            Event::CData(piece) if field.is_some() => text.push_str(std::str::from_utf8(&piece).map_err(|_| WRONG)?),
            Event::GeneralRef(reference) if field.is_some() => text.push(character(&reference).ok_or(WRONG)?),
            Event::Eof => break,
            _ => {}
        }
    }
    // A document that breaks off, or none at all, is no listing: half a page would hide files.
    if rooted && depth == 0 { Ok(raw) } else { Err(WRONG) }
}

fn begin(raw: &mut Raw, name: &[u8]) -> Group {
    match name {
        b"Contents" => {
            raw.objects.push(RawObject::default());
            Group::Contents
        }
        b"CommonPrefixes" => Group::CommonPrefixes,
        _ => Group::Other,
    }
}

fn known(depth: u32, group: Group, name: &[u8]) -> Option<Field> {
    match (depth, group, name) {
        (2, _, b"IsTruncated") => Some(Field::IsTruncated),
        (2, _, b"NextContinuationToken") => Some(Field::NextToken),
        (2, _, b"EncodingType") => Some(Field::EncodingType),
        (3, Group::Contents, b"Key") => Some(Field::Key),
        (3, Group::Contents, b"ETag") => Some(Field::ETag),
        (3, Group::Contents, b"Size") => Some(Field::Size),
        (3, Group::Contents, b"LastModified") => Some(Field::LastModified),
        (3, Group::CommonPrefixes, b"Prefix") => Some(Field::Prefix),
        _ => None,
    }
}

fn store(raw: &mut Raw, field: Field, text: String) {
    let object = raw.objects.last_mut();
    match (field, object) {
        (Field::IsTruncated, _) => raw.truncated = text.trim() == "true",
        (Field::NextToken, _) => raw.token = Some(text).filter(|token| !token.is_empty()),
        (Field::EncodingType, _) => raw.url_encoded = text.trim().eq_ignore_ascii_case("url"),
        (Field::Prefix, _) => raw.prefixes.push(text),
        (Field::Key, Some(object)) => object.key = text,
        (Field::ETag, Some(object)) => object.etag = text,
        (Field::Size, Some(object)) => object.size = text,
        (Field::LastModified, Some(object)) => object.modified = text,
        (Field::Key | Field::ETag | Field::Size | Field::LastModified, None) => {}
    }
}

fn from_url(text: &str) -> Option<String> {
    let spaces: Cow<'_, str> = if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    Some(percent_decode(spaces.as_bytes()).decode_utf8().ok()?.into_owned())
}

fn info(etag: &str, size: &str, modified: &str) -> Option<ObjectInfo> {
    let size = size.trim().parse().ok().filter(|size| *size <= OBJECT_BYTES_MAX)?;
    let modified: jiff::Timestamp = modified.trim().parse().ok()?;
    Some(ObjectInfo { size, version: Version::of_etag(etag.trim())?, mtime_ms: whole_seconds_ms(modified) })
}

#[cfg(test)]
mod tests;
