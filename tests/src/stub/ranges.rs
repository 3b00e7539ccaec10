//! `Range`, `Content-Range` and the conditions of RFC 9110, as S3 reads them: one range of bytes, ETags compared
//! strongly, a malformed `Range` ignored.

#[cfg(test)]
mod tests;

use std::ops::Range;

use http::{HeaderMap, HeaderName, header};
use jiff::Timestamp;

use super::errors::S3Error;

/// What a `Range` header asks of an object of `size` bytes: `None` = everything (no header, or not one S3 honours).
///
/// Errors: [`S3Error::InvalidRange`] when it begins at or past the end.
pub fn requested(header: Option<&str>, size: u64) -> Result<Option<Range<u64>>, S3Error> {
    let Some(spec) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else {
        return Ok(None);
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Ok(None);
    };
    let (first, last) = (first.trim(), last.trim());
    let parse = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let refused = S3Error::InvalidRange { size };
    if first.is_empty() {
        let Some(count) = parse(last) else {
            return Ok(None);
        };
        if count == 0 || size == 0 {
            return Err(refused);
        }
        return Ok(Some(size.saturating_sub(count)..size));
    }
    let Some(begin) = parse(first) else {
        return Ok(None);
    };
    let end = match last {
        "" => size,
        _ => match parse(last) {
            Some(last) if last >= begin => last.saturating_add(1).min(size),
            _ => return Ok(None),
        },
    };
    if begin >= size { Err(refused) } else { Ok(Some(begin..end)) }
}

/// The names under which the four conditions arrive: a read's own, or a copy's for its source.
pub struct ConditionNames {
    if_match: HeaderName,
    if_none_match: HeaderName,
    if_modified_since: HeaderName,
    if_unmodified_since: HeaderName,
}

impl ConditionNames {
    /// `If-Match` and so on.
    pub fn read() -> ConditionNames {
        ConditionNames {
            if_match: header::IF_MATCH,
            if_none_match: header::IF_NONE_MATCH,
            if_modified_since: header::IF_MODIFIED_SINCE,
            if_unmodified_since: header::IF_UNMODIFIED_SINCE,
        }
    }

    /// `x-amz-copy-source-if-match` and so on.
    pub fn copy_source() -> ConditionNames {
        ConditionNames {
            if_match: HeaderName::from_static("x-amz-copy-source-if-match"),
            if_none_match: HeaderName::from_static("x-amz-copy-source-if-none-match"),
            if_modified_since: HeaderName::from_static("x-amz-copy-source-if-modified-since"),
            if_unmodified_since: HeaderName::from_static("x-amz-copy-source-if-unmodified-since"),
        }
    }

    /// Checks a read of an object at `etag` (bare), last written at `modified`.
    ///
    /// Errors: `PreconditionFailed`, or `NotModified`. `If-Match` outranks `If-Unmodified-Since`, and `If-None-Match`
    /// outranks `If-Modified-Since` (RFC 9110, 13.2.2).
    pub fn check(&self, headers: &HeaderMap, etag: &str, modified: Timestamp) -> Result<(), S3Error> {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let not_modified = || S3Error::NotModified { etag: etag.to_owned() };
        if let Some(wanted) = text(&self.if_match) {
            if !names_etag(wanted, etag) {
                return Err(S3Error::PreconditionFailed);
            }
        } else if let Some(limit) = text(&self.if_unmodified_since).and_then(http_date)
            && modified.as_second() > limit.as_second()
        {
            return Err(S3Error::PreconditionFailed);
        }
        if let Some(unwanted) = text(&self.if_none_match) {
            if names_etag(unwanted, etag) {
                return Err(not_modified());
            }
        } else if let Some(since) = text(&self.if_modified_since).and_then(http_date)
            && modified.as_second() <= since.as_second()
        {
            return Err(not_modified());
        }
        Ok(())
    }
}

/// Checks a conditional write against what is there now (`None` = nothing).
///
/// Errors: `PreconditionFailed`; `NoSuchKey` for `If-Match` without an object, as S3 answers.
pub fn check_write(headers: &HeaderMap, key: &str, current: Option<&str>) -> Result<(), S3Error> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(wanted) = text(header::IF_MATCH) {
        match current {
            None => {
                return Err(S3Error::NoSuchKey { key: key.to_owned() });
            }
            Some(etag) if !names_etag(wanted, etag) => return Err(S3Error::PreconditionFailed),
            Some(_) => {}
        }
    }
    match (text(header::IF_NONE_MATCH), current) {
        (Some(unwanted), Some(etag)) if names_etag(unwanted, etag) => Err(S3Error::PreconditionFailed),
        _ => Ok(()),
    }
}

/// Whether a list of ETags (quoted or bare, or `*`) names `etag`.
fn names_etag(list: &str, etag: &str) -> bool {
    list.split(',').map(|one| one.trim().trim_matches('"')).any(|one| one == "*" || one == etag)
}

fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}
