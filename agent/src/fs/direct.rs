//! Names asked at the origin itself: HEAD of the key and LIST of `key/` for a lookup, LIST for a listing.
//!
//! What every agent falls back to when no home can be asked. Each answer is as of the moment it was asked for.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use larder_proto::error::ErrorKind;
use larder_proto::ids::VolumeId;
use larder_proto::limits::PAGE_NAMES_MAX;
use larder_proto::object::{DirPath, EntryName};
use tokio::time::Instant;

use super::{Dated, Looked, Names, Part};
use crate::origin::{Cursor, Origins, Page};
use crate::runtime::Runtime;

/// Names without a home.
pub struct Direct {
    runtime: Runtime,
    origins: Origins,
}

impl Direct {
    /// Names of the volumes behind `origins`.
    pub fn new(runtime: Runtime, origins: Origins) -> Self {
        Self { runtime, origins }
    }
}

#[async_trait]
impl Names for Direct {
    async fn lookup(
        &self,
        volume: VolumeId,
        dir: &DirPath,
        name: &EntryName,
        _max_age: Duration,
        deadline: Instant,
    ) -> Result<Dated<Looked>, ErrorKind> {
        let origin = self.origins.get(volume).ok_or(ErrorKind::UnknownVolume)?;
        let as_of = self.runtime.clock.now();
        let (Ok(key), Ok(child)) = (dir.file(name), dir.child(name)) else {
            return Ok(Dated { value: Looked::Absent, as_of });
        };
        let (file, is_dir) =
            tokio::try_join!(origin.head(&key, deadline), origin.dir_exists(&child, deadline)).map_err(|e| e.kind())?;
        let value = match (file, is_dir) {
            (_, true) => Looked::Dir,
            (Some(info), false) => Looked::File(info),
            (None, false) => Looked::Absent,
        };
        Ok(Dated { value, as_of })
    }

    async fn list(
        &self,
        volume: VolumeId,
        dir: &DirPath,
        from: Option<&Arc<str>>,
        _max_age: Duration,
        deadline: Instant,
    ) -> Result<Dated<Part>, ErrorKind> {
        let origin = self.origins.get(volume).ok_or(ErrorKind::UnknownVolume)?;
        let as_of = self.runtime.clock.now();
        let from = from.map(|from| cursor(from));
        let limit = u16::try_from(PAGE_NAMES_MAX).expect("1,000");
        let page = origin.list(dir, from.as_ref(), limit, deadline).await.map_err(|error| error.kind())?;
        Ok(Dated { value: part(page), as_of })
    }
}

/// A page in the order of names; where a file and a directory have one name, the directory.
fn part(page: Page) -> Part {
    let next = page.next.as_ref().map(|next| match next {
        Cursor::Token(token) => format!("t{token}").into(),
        Cursor::After(key) => format!("a{key}").into(),
    });
    let mut entries: Vec<(EntryName, Looked)> = page.dirs.into_iter().map(|name| (name, Looked::Dir)).collect();
    entries.extend(page.files.into_iter().map(|(name, info)| (name, Looked::File(info))));
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    entries.dedup_by(|(later, _), (earlier, _)| later == earlier);
    Part { entries, next }
}

fn cursor(text: &str) -> Cursor {
    match text.strip_prefix('t') {
        Some(token) => Cursor::Token(token.into()),
        None => Cursor::After(text.strip_prefix('a').unwrap_or(text).into()),
    }
}
