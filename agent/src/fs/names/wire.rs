//! Names over tonic: what a home answers, and what an asker believes.
//!
//! Everything that comes in is parsed or refused: paths, names, versions, sizes, the number of entries. An answer's age
//! counts from before it was asked for, so that a slow network makes it older, never younger.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_proto::error::ErrorKind;
use larder_proto::ids::VolumeId;
use larder_proto::limits::{KEY_BYTES_MAX, MESSAGE_BYTES_MAX, OBJECT_BYTES_MAX, PAGE_NAMES_MAX};
use larder_proto::names::message;
use larder_proto::names::message::entry::What;
use larder_proto::names::message::names_client::NamesClient;
use larder_proto::names::message::names_server::{Names, NamesServer};
use larder_proto::object::{DirPath, EntryName, Version};
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::home::Home;
use crate::fs::{Dated, Looked, Part};
use crate::origin::ObjectInfo;
use crate::runtime::Runtime;

/// The longest an asker can make a home work for it.
const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// Answers peers that ask for names.
pub(super) struct Service {
    pub(super) runtime: Runtime,
    pub(super) home: Home,
}

impl Service {
    pub(super) fn server(self) -> NamesServer<Self> {
        NamesServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn deadline(&self, deadline_ms: u64) -> Instant {
        self.runtime.clock.now() + Duration::from_millis(deadline_ms).min(DEADLINE_MAX)
    }

    fn age_ms(&self, as_of: Instant) -> u64 {
        millis(self.runtime.clock.now().saturating_duration_since(as_of))
    }
}

#[tonic::async_trait]
impl Names for Service {
    async fn lookup(&self, request: Request<message::LookupRequest>) -> Result<Response<message::LookupReply>, Status> {
        let asked = request.into_inner();
        let (volume, dir) = place(&asked.volume, &asked.dir)?;
        let name = EntryName::parse(&asked.name).map_err(|_| Status::invalid_argument("name"))?;
        let (max_age, deadline) = (age(asked.max_age_ms), self.deadline(asked.deadline_ms));
        let reply = match self.home.lookup(volume, &dir, &name, max_age, deadline).await {
            Ok(Dated { value, as_of }) => {
                message::LookupReply { kind: 0, age_ms: self.age_ms(as_of), entry: entry(&name, &value) }
            }
            Err(kind) => message::LookupReply { kind: kind.code(), ..Default::default() },
        };
        Ok(Response::new(reply))
    }

    async fn list(&self, request: Request<message::ListRequest>) -> Result<Response<message::ListReply>, Status> {
        let asked = request.into_inner();
        let (volume, dir) = place(&asked.volume, &asked.dir)?;
        if asked.after.len() > KEY_BYTES_MAX {
            return Err(Status::invalid_argument("after"));
        }
        let after = Some(asked.after.as_str()).filter(|after| !after.is_empty());
        let (max_age, deadline) = (age(asked.max_age_ms), self.deadline(asked.deadline_ms));
        let reply = match self.home.list(volume, &dir, after, max_age, deadline).await {
            Ok(Dated { value, as_of }) => message::ListReply {
                kind: 0,
                age_ms: self.age_ms(as_of),
                entries: value.entries.iter().filter_map(|(name, looked)| entry(name, looked)).collect(),
                next: value.next.as_deref().unwrap_or_default().to_owned(),
            },
            Err(kind) => message::ListReply { kind: kind.code(), ..Default::default() },
        };
        Ok(Response::new(reply))
    }
}

fn place(volume: &[u8], dir: &str) -> Result<(VolumeId, DirPath), Status> {
    let volume = VolumeId::from_slice(volume).ok_or_else(|| Status::invalid_argument("volume"))?;
    let dir = DirPath::parse(dir).map_err(|_| Status::invalid_argument("dir"))?;
    Ok((volume, dir))
}

/// Why a peer's answer can't be used.
#[derive(Debug)]
pub(super) enum AskError {
    /// It didn't answer in time, or answered nonsense: ask somebody else.
    Peer,
    /// It can't be connected, or the connection broke off.
    Unreached,
    /// It answered with this.
    Kind(ErrorKind),
}

/// Asks a peer what a name is.
pub(super) async fn lookup(
    runtime: &Runtime,
    channel: Channel,
    (volume, dir, name): (VolumeId, &DirPath, &EntryName),
    max_age: Duration,
    deadline: Instant,
) -> Result<Dated<Looked>, AskError> {
    let asked = runtime.clock.now();
    let request = message::LookupRequest {
        volume: Bytes::copy_from_slice(volume.as_bytes()),
        dir: dir.as_str().to_owned(),
        name: name.as_str().to_owned(),
        max_age_ms: millis(max_age),
        deadline_ms: millis(deadline.saturating_duration_since(asked)),
    };
    let mut client = NamesClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let reply = timeout_at(deadline, client.lookup(request)).await.map_err(|_| AskError::Peer)?;
    let reply = reply.map_err(|status| failure(&status))?.into_inner();
    if let Some(kind) = ErrorKind::from_code(reply.kind) {
        return Err(AskError::Kind(kind));
    }
    let value = match reply.entry {
        None => Looked::Absent,
        Some(entry) => match parse(entry) {
            Some((found, looked)) if found == *name => looked,
            Some(_) | None => return Err(AskError::Peer),
        },
    };
    Ok(Dated { value, as_of: before(asked, reply.age_ms)? })
}

/// Asks a peer for the names after a position.
pub(super) async fn list(
    runtime: &Runtime,
    channel: Channel,
    (volume, dir, after): (VolumeId, &DirPath, Option<&str>),
    max_age: Duration,
    deadline: Instant,
) -> Result<Dated<Part>, AskError> {
    let asked = runtime.clock.now();
    let request = message::ListRequest {
        volume: Bytes::copy_from_slice(volume.as_bytes()),
        dir: dir.as_str().to_owned(),
        after: after.unwrap_or_default().to_owned(),
        max_age_ms: millis(max_age),
        deadline_ms: millis(deadline.saturating_duration_since(asked)),
    };
    let mut client = NamesClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let reply = timeout_at(deadline, client.list(request)).await.map_err(|_| AskError::Peer)?;
    let reply = reply.map_err(|status| failure(&status))?.into_inner();
    if let Some(kind) = ErrorKind::from_code(reply.kind) {
        return Err(AskError::Kind(kind));
    }
    if reply.entries.len() > PAGE_NAMES_MAX || reply.next.len() > KEY_BYTES_MAX {
        return Err(AskError::Peer);
    }
    // Without progress a reader would ask for ever.
    if !reply.next.is_empty() && (reply.entries.is_empty() || after == Some(reply.next.as_str())) {
        return Err(AskError::Peer);
    }
    let entries: Option<Vec<_>> = reply.entries.into_iter().map(parse).collect();
    let next = Some(reply.next).filter(|next| !next.is_empty()).map(Arc::from);
    let value = Part { entries: entries.ok_or(AskError::Peer)?, next };
    Ok(Dated { value, as_of: before(asked, reply.age_ms)? })
}

/// What a failed call means; what the peer answers itself has no source.
fn failure(status: &Status) -> AskError {
    if std::error::Error::source(status).is_some() { AskError::Unreached } else { AskError::Peer }
}

fn entry(name: &EntryName, looked: &Looked) -> Option<message::Entry> {
    let what = match looked {
        Looked::File(info) => What::File(message::File {
            size: info.size,
            version: info.version.as_str().to_owned(),
            mtime_ms: info.mtime_ms,
        }),
        Looked::Dir => What::Directory(message::Directory {}),
        Looked::Absent => return None,
    };
    Some(message::Entry { name: name.as_str().to_owned(), what: Some(what) })
}

fn parse(entry: message::Entry) -> Option<(EntryName, Looked)> {
    let name = EntryName::parse(&entry.name).ok()?;
    let looked = match entry.what? {
        What::File(file) => {
            let version = Version::of_etag(&file.version)?;
            let size = Some(file.size).filter(|size| *size <= OBJECT_BYTES_MAX)?;
            Looked::File(ObjectInfo { size, version, mtime_ms: file.mtime_ms })
        }
        What::Directory(message::Directory {}) => Looked::Dir,
    };
    Some((name, looked))
}

/// The moment that lies so far before `asked`; one that the clock doesn't reach back to is no answer.
fn before(asked: Instant, age_ms: u64) -> Result<Instant, AskError> {
    asked.checked_sub(Duration::from_millis(age_ms)).ok_or(AskError::Peer)
}

fn age(max_age_ms: u64) -> Duration {
    if max_age_ms == u64::MAX { Duration::MAX } else { Duration::from_millis(max_age_ms) }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_go_there_and_back_and_nonsense_does_not() {
        let name = EntryName::parse("a").expect("plain");
        let info = ObjectInfo { size: 7, version: Version::of_etag("v").expect("plain"), mtime_ms: 9 };
        for looked in [Looked::Dir, Looked::File(info)] {
            let there = entry(&name, &looked).expect("something");
            assert_eq!(parse(there), Some((name.clone(), looked)));
        }
        assert_eq!(entry(&name, &Looked::Absent), None);
        let file =
            |size, version: &str| Some(What::File(message::File { size, version: version.to_owned(), mtime_ms: 0 }));
        for (name, what) in [
            ("", Some(What::Directory(message::Directory {}))),
            ("..", Some(What::Directory(message::Directory {}))),
            ("a/b", Some(What::Directory(message::Directory {}))),
            ("a", None),
            ("a", file(1, "")),
            ("a", file(OBJECT_BYTES_MAX + 1, "v")),
        ] {
            assert_eq!(parse(message::Entry { name: name.to_owned(), what }), None, "{name}");
        }
    }

    #[test]
    fn ages_survive_the_wire() {
        assert_eq!(age(millis(Duration::MAX)), Duration::MAX);
        assert_eq!(age(millis(Duration::from_secs(60))), Duration::from_secs(60));
    }
}
