//! S3 and what speaks its protocol: GET with If-Match, HEAD, ListObjectsV2; signed by object_store, sent by its client.
//!
//! Requests are our own, because object_store fails a whole listing on one odd key and rewrites keys on their way; its
//! signer, client and TLS are not ours to repeat. Keys and signatures are never logged.
//! One client serves all volumes of the agent; a backend is cheap and made anew when credentials change.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use http::{HeaderMap, Method, StatusCode};
use larder_proto::object::{DirPath, ObjectKey, Version};
use larder_proto::range::ByteRange;
use larder_proto::volume;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpClient, HttpResponse};

use super::{Cursor, ObjectInfo, Origin, OriginError, Page, Pieces, http as web};

mod address;
mod errors;
mod listing;

use address::Address;

/// 1,000 keys of 1,024 bytes, each percent-encoded, with their tags, are below 5 MiB.
const LISTING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The origin of a bucket's prefix.
pub(super) fn open(client: HttpClient, s3: &volume::S3) -> Result<Arc<dyn Origin>, OriginError> {
    let address = Address::new(s3)?;
    let credential = s3.credentials.as_ref().map(credential).transpose()?;
    Ok(Arc::new(S3 { client, address, region: s3.region.clone(), credential }))
}

/// Secrets often end in a newline that isn't part of them; anything else unprintable can't be a key.
fn credential(credentials: &volume::Credentials) -> Result<AwsCredential, OriginError> {
    let text = |secret: &volume::Secret| {
        let text = secret.expose().trim();
        let valid = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if valid { Ok(text.to_owned()) } else { Err(OriginError::BadCredentials) }
    };
    Ok(AwsCredential {
        key_id: text(&credentials.access_key_id)?,
        secret_key: text(&credentials.secret_access_key)?,
        token: credentials.session_token.as_ref().map(text).transpose()?,
    })
}

struct S3 {
    client: HttpClient,
    address: Address,
    region: Arc<str>,
    credential: Option<AwsCredential>,
}

impl S3 {
    async fn send(&self, method: Method, url: String, headers: HeaderMap) -> Result<HttpResponse, OriginError> {
        let mut request = web::request(method, &url, headers)?;
        if let Some(credential) = &self.credential {
            let signer = AwsAuthorizer::new(credential, "s3", &self.region);
            signer.try_authorize(&mut request, None).map_err(|_| OriginError::BadCredentials)?;
        }
        web::send(&self.client, request).await
    }

    /// What a refusal means; reads its document.
    async fn refusal(response: HttpResponse) -> OriginError {
        let status = response.status();
        errors::meaning(status, &web::refusal(response).await)
    }
}

#[async_trait]
impl Origin for S3 {
    async fn get(&self, key: &ObjectKey, version: &Version, range: ByteRange) -> Result<Pieces, OriginError> {
        let Some(headers) = web::range_headers(version, range)? else {
            return Ok(futures::stream::empty().boxed());
        };
        if !self.address.can_hold(key.as_str()) {
            return Err(OriginError::NotFound);
        }
        let response = self.send(Method::GET, self.address.object(key), headers).await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => web::pieces(response, version, range),
            _ => Err(Self::refusal(response).await),
        }
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, OriginError> {
        if !self.address.can_hold(key.as_str()) {
            return Ok(None);
        }
        let response = self.send(Method::HEAD, self.address.object(key), HeaderMap::new()).await?;
        match response.status() {
            StatusCode::OK => web::info(response.headers()).map(Some),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(errors::meaning(status, &[])),
        }
    }

    async fn list(&self, dir: &DirPath, from: Option<&Cursor>, limit: u16) -> Result<Page, OriginError> {
        if !self.address.can_hold(&dir.prefix()) {
            return Ok(Page::default());
        }
        let url = self.address.list(dir, from, limit);
        let response = self.send(Method::GET, url, HeaderMap::new()).await?;
        if response.status() != StatusCode::OK {
            // A listing names no object, so a 404 can only mean the bucket.
            return Err(match Self::refusal(response).await {
                OriginError::NotFound => OriginError::NoSuchBucket,
                other => other,
            });
        }
        let document = web::read(response, LISTING_BYTES_MAX).await?;
        let after = match from {
            Some(Cursor::After(after)) => Some(&**after),
            Some(Cursor::Token(_)) | None => None,
        };
        listing::parse(&document, &self.address.prefix(dir), after)
    }
}

#[cfg(test)]
mod tests;
