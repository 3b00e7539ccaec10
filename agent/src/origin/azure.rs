//! Azure Blob Storage: Get Blob with If-Match, Get Blob Properties, List Blobs; signed by object_store, sent by its client.
//!
//! Requests are our own for the same reasons as S3's. A container is the bucket, an ETag the version (it changes with
//! metadata too: that costs a refill, never a wrong byte). Tools that know directories (WASB, blobfuse, accounts with a
//! hierarchical namespace) keep an empty one as a blob of its name with the metadata `hdi_isfolder=true`: such a *stub*
//! is a directory here, never a file. A token's signature stands in URLs, so no URL is ever logged.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use http::{HeaderMap, Method, StatusCode};
use larder_proto::object::{DirPath, ObjectKey, Version};
use larder_proto::range::ByteRange;
use larder_proto::volume;
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpClient, HttpResponse};
use percent_encoding::percent_decode_str;

use super::{Cursor, ObjectInfo, Origin, OriginError, Page, Pieces, http as web};

mod address;
mod errors;
mod listing;

use address::Address;

/// 1,000 names of 1,024 characters are below 4 MiB, their metadata (8 KiB each at most) below 8.
const LISTING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Pages without a name that are followed at once: Azure gives such pages where its partitions end.
const EMPTY_PAGES_MAX: usize = 8;

/// What says that a blob stands for a directory.
const STUB: &str = "hdi_isfolder";

/// The origin of a container's prefix.
pub(super) fn open(client: HttpClient, azure: &volume::Azure) -> Result<Arc<dyn Origin>, OriginError> {
    let address = Address::new(azure)?;
    let credential = credential(&azure.credentials)?;
    Ok(Arc::new(Azure { client, address, account: azure.account.clone(), credential }))
}

/// Secrets often end in a newline that isn't part of them; a key must be base64, a token must have a signature.
fn credential(credentials: &volume::AzureCredentials) -> Result<AzureCredential, OriginError> {
    match credentials {
        volume::AzureCredentials::AccountKey(key) => {
            let key = key.expose().trim();
            let valid = AzureAccessKey::try_new(key).ok().filter(|_| !key.is_empty());
            valid.map(AzureCredential::AccessKey).ok_or(OriginError::BadCredentials)
        }
        volume::AzureCredentials::SasToken(token) => {
            let pairs = token_pairs(token.expose()).ok_or(OriginError::BadCredentials)?;
            let signed = pairs.iter().any(|(name, value)| name == "sig" && !value.is_empty());
            if signed { Ok(AzureCredential::SASToken(pairs)) } else { Err(OriginError::BadCredentials) }
        }
    }
}

/// The decoded fields of a token, which is the query of a URL; they are encoded anew for each request.
fn token_pairs(token: &str) -> Option<Vec<(String, String)>> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned);
    let fields = token.trim().trim_start_matches('?').split('&').filter(|field| !field.is_empty());
    fields.map(|field| field.split_once('=').and_then(|(name, value)| Some((decode(name)?, decode(value)?)))).collect()
}

struct Azure {
    client: HttpClient,
    address: Address,
    account: Arc<str>,
    credential: AzureCredential,
}

impl Azure {
    async fn send(&self, method: Method, url: String, headers: HeaderMap) -> Result<HttpResponse, OriginError> {
        let mut request = web::request(method, &url, headers)?;
        let signer = AzureAuthorizer::new(&self.credential, &self.account);
        signer.try_authorize(&mut request).map_err(|_| OriginError::BadCredentials)?;
        web::send(&self.client, request).await
    }

    /// What a refusal means; reads its document if its headers don't say.
    async fn refusal(response: HttpResponse) -> OriginError {
        let status = response.status();
        match errors::code(response.headers()) {
            Some(code) => errors::meaning(status, Some(&code)),
            None => errors::meaning(status, web::error_code(&web::refusal(response).await).as_deref()),
        }
    }

    /// The headers of a blob; `None` when there is none.
    async fn properties(&self, key: &ObjectKey) -> Result<Option<HeaderMap>, OriginError> {
        if !self.address.can_hold(key.as_str()) {
            return Ok(None);
        }
        let response = self.send(Method::HEAD, self.address.object(key), HeaderMap::new()).await?;
        match response.status() {
            StatusCode::OK => Ok(Some(response.headers().clone())),
            status => match errors::meaning(status, errors::code(response.headers()).as_deref()) {
                OriginError::NotFound => Ok(None),
                error => Err(error),
            },
        }
    }

    async fn page(&self, dir: &DirPath, from: Option<&Cursor>, limit: u16) -> Result<Page, OriginError> {
        let response = self.send(Method::GET, self.address.list(dir, from, limit), HeaderMap::new()).await?;
        if response.status() != StatusCode::OK {
            // A listing names no blob, so a 404 can only mean the container.
            return Err(match Self::refusal(response).await {
                OriginError::NotFound => OriginError::NoSuchBucket,
                other => other,
            });
        }
        let document = web::read(response, LISTING_BYTES_MAX).await?;
        listing::parse(&document, &self.address.prefix(dir), from)
    }

    /// Whether a blob with the directory's own name says that it is one.
    async fn has_stub(&self, dir: &DirPath) -> Result<bool, OriginError> {
        let Ok(key) = ObjectKey::parse(dir.as_str()) else { return Ok(false) };
        Ok(self.properties(&key).await?.is_some_and(|headers| is_stub(&headers)))
    }
}

fn is_stub(headers: &HeaderMap) -> bool {
    web::text(headers, "x-ms-meta-hdi_isfolder").is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

#[async_trait]
impl Origin for Azure {
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
        let headers = self.properties(key).await?.filter(|headers| !is_stub(headers));
        headers.map(|headers| web::info(&headers)).transpose()
    }

    async fn list(&self, dir: &DirPath, from: Option<&Cursor>, limit: u16) -> Result<Page, OriginError> {
        if !self.address.can_hold(&dir.prefix()) {
            return Ok(Page::default());
        }
        let mut page = self.page(dir, from, limit).await?;
        for _ in 0..EMPTY_PAGES_MAX {
            if !page.is_empty() || page.next.is_none() {
                break;
            }
            page = self.page(dir, page.next.as_ref(), limit).await?;
        }
        if from.is_none() && page.is_empty() && page.next.is_none() && !dir.is_root() {
            page.marker = self.has_stub(dir).await?;
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests;
