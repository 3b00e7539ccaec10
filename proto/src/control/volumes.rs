//! Volumes as messages and back, credentials included.

use std::sync::Arc;
use std::time::Duration;

use super::message::{self, volume};
use super::{BadMessage, Field};
use crate::glob::Glob;
use crate::ids::VolumeId;
use crate::limits::GLOBS_MAX;
use crate::object::ChunkSize;
use crate::volume::{
    Attributes, Azure, AzureCredentials, Credentials, Freshness, Keeping, LocalCopies, Origin, S3, Secret, Volume,
};

pub(super) fn parse(from: message::Volume) -> Result<Volume, BadMessage> {
    let attributes = from.attributes.ok_or(BadMessage(Field::Attributes))?;
    Ok(Volume {
        id: VolumeId::from_slice(&from.id).ok_or(BadMessage(Field::Volume))?,
        namespace: from.namespace.into(),
        name: from.name.into(),
        chunk_size: ChunkSize::new(from.chunk_bytes).ok_or(BadMessage(Field::ChunkSize))?,
        origin: parse_origin(from.origin.ok_or(BadMessage(Field::Origin))?)?,
        replicas: (from.replicas != 0).then_some(from.replicas),
        read_ahead_bytes: from.read_ahead_bytes,
        read_deadline: Duration::from_millis(from.read_deadline_ms),
        freshness: parse_freshness(from.freshness.ok_or(BadMessage(Field::Freshness))?)?,
        attributes: Attributes {
            uid: attributes.uid,
            gid: attributes.gid,
            file_mode: mode(attributes.file_mode)?,
            dir_mode: mode(attributes.dir_mode)?,
        },
        local_copies: parse_local_copies(from.local_copies)?,
        keeping: parse_keeping(from.keeping.unwrap_or_default())?,
    })
}

fn parse_local_copies(from: i32) -> Result<LocalCopies, BadMessage> {
    Ok(match message::LocalCopies::try_from(from).map_err(|_| BadMessage(Field::LocalCopies))? {
        message::LocalCopies::Unspecified | message::LocalCopies::Auto => LocalCopies::Auto,
        message::LocalCopies::Never => LocalCopies::Never,
        message::LocalCopies::Always => LocalCopies::Always,
    })
}

fn parse_keeping(from: message::Keeping) -> Result<Keeping, BadMessage> {
    let globs = |texts: Vec<String>| {
        let globs = (texts.len() <= GLOBS_MAX).then(|| texts.iter().map(|text| Glob::parse(text)).collect());
        globs.flatten().ok_or(BadMessage(Field::Keeping))
    };
    Ok(Keeping {
        after_reads: from.after_reads,
        exclude: globs(from.exclude)?,
        max_object_bytes: from.max_object_bytes,
        ttl: (from.ttl_ms != 0).then(|| Duration::from_millis(from.ttl_ms)),
        quota_bytes: from.quota_bytes,
        pin: globs(from.pin)?,
    })
}

fn keeping_message(from: &Keeping) -> message::Keeping {
    let texts = |globs: &[Glob]| globs.iter().map(|glob| glob.as_str().to_owned()).collect();
    message::Keeping {
        after_reads: from.after_reads,
        exclude: texts(&from.exclude),
        max_object_bytes: from.max_object_bytes,
        ttl_ms: from.ttl.map_or(0, millis),
        quota_bytes: from.quota_bytes,
        pin: texts(&from.pin),
    }
}

fn mode(bits: u32) -> Result<u16, BadMessage> {
    u16::try_from(bits).ok().filter(|bits| *bits <= 0o7777).ok_or(BadMessage(Field::Attributes))
}

fn parse_origin(from: volume::Origin) -> Result<Origin, BadMessage> {
    Ok(match from {
        volume::Origin::S3(s3) if s3.bucket.is_empty() => return Err(BadMessage(Field::Origin)),
        volume::Origin::S3(s3) => Origin::S3(S3 {
            bucket: s3.bucket.into(),
            prefix: s3.prefix.into(),
            region: s3.region.into(),
            endpoint: text(s3.endpoint),
            path_style: s3.path_style,
            credentials: s3.credentials.map(|keys| Credentials {
                access_key_id: Secret::new(&keys.access_key_id),
                secret_access_key: Secret::new(&keys.secret_access_key),
                session_token: text(keys.session_token).map(|token| Secret::new(&token)),
            }),
        }),
        volume::Origin::Azure(azure) => Origin::Azure(parse_azure(azure).ok_or(BadMessage(Field::Origin))?),
        volume::Origin::Local(local) if !local.path.starts_with('/') => return Err(BadMessage(Field::Origin)),
        volume::Origin::Local(local) => Origin::Local { path: local.path.into() },
    })
}

fn parse_azure(from: message::Azure) -> Option<Azure> {
    let credentials = match from.credentials? {
        message::azure::Credentials::AccountKey(key) => AzureCredentials::AccountKey(Secret::new(&key)),
        message::azure::Credentials::SasToken(token) => AzureCredentials::SasToken(Secret::new(&token)),
    };
    let is_place = !from.account.is_empty() && !from.container.is_empty();
    is_place.then(|| Azure {
        account: from.account.into(),
        container: from.container.into(),
        prefix: from.prefix.into(),
        endpoint: text(from.endpoint),
        credentials,
    })
}

fn text(from: String) -> Option<Arc<str>> {
    (!from.is_empty()).then(|| from.into())
}

fn parse_freshness(from: volume::Freshness) -> Result<Freshness, BadMessage> {
    match from {
        volume::Freshness::WithinMs(ms) => Ok(Freshness::Within(Duration::from_millis(ms))),
        volume::Freshness::OnOpen(true) => Ok(Freshness::OnOpen),
        volume::Freshness::Forever(true) => Ok(Freshness::Forever),
        volume::Freshness::OnOpen(false) | volume::Freshness::Forever(false) => Err(BadMessage(Field::Freshness)),
    }
}

pub(super) fn message(from: &Volume) -> message::Volume {
    let Attributes { uid, gid, file_mode, dir_mode } = from.attributes;
    message::Volume {
        id: from.id.as_bytes().to_vec().into(),
        namespace: from.namespace.to_string(),
        name: from.name.to_string(),
        chunk_bytes: from.chunk_size.bytes(),
        origin: Some(origin_message(&from.origin)),
        replicas: from.replicas.unwrap_or(0),
        read_ahead_bytes: from.read_ahead_bytes,
        read_deadline_ms: millis(from.read_deadline),
        freshness: Some(match from.freshness {
            Freshness::Within(age) => volume::Freshness::WithinMs(millis(age)),
            Freshness::OnOpen => volume::Freshness::OnOpen(true),
            Freshness::Forever => volume::Freshness::Forever(true),
        }),
        attributes: Some(message::Attributes { uid, gid, file_mode: file_mode.into(), dir_mode: dir_mode.into() }),
        local_copies: match from.local_copies {
            LocalCopies::Auto => message::LocalCopies::Auto.into(),
            LocalCopies::Never => message::LocalCopies::Never.into(),
            LocalCopies::Always => message::LocalCopies::Always.into(),
        },
        keeping: Some(keeping_message(&from.keeping)),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn origin_message(from: &Origin) -> volume::Origin {
    match from {
        Origin::Local { path } => volume::Origin::Local(message::Local { path: path.to_string() }),
        Origin::Azure(azure) => volume::Origin::Azure(message::Azure {
            account: azure.account.to_string(),
            container: azure.container.to_string(),
            prefix: azure.prefix.to_string(),
            endpoint: azure.endpoint.as_deref().unwrap_or_default().to_owned(),
            credentials: Some(match &azure.credentials {
                AzureCredentials::AccountKey(key) => message::azure::Credentials::AccountKey(key.expose().to_owned()),
                AzureCredentials::SasToken(token) => message::azure::Credentials::SasToken(token.expose().to_owned()),
            }),
        }),
        Origin::S3(s3) => volume::Origin::S3(message::S3 {
            bucket: s3.bucket.to_string(),
            prefix: s3.prefix.to_string(),
            region: s3.region.to_string(),
            endpoint: s3.endpoint.as_deref().unwrap_or_default().to_owned(),
            path_style: s3.path_style,
            credentials: s3.credentials.as_ref().map(|keys| message::S3Credentials {
                access_key_id: keys.access_key_id.expose().to_owned(),
                secret_access_key: keys.secret_access_key.expose().to_owned(),
                session_token: keys.session_token.as_ref().map(|token| token.expose().to_owned()).unwrap_or_default(),
            }),
        }),
    }
}
