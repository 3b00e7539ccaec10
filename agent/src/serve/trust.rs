//! The file of CA certificates, which changes while a CA is rotated: what it holds is trusted from then on.
//!
//! Looked at every few seconds; the kubelet turns a link to the next version. A file that can't be used changes nothing.

use std::path::PathBuf;
use std::time::Duration;

use larder_proto::identity::Trust;

use super::refuse::TRUST_BYTES_MAX;
use crate::map::AuthorityClient;
use crate::runtime::{Runtime, process};

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Trusts what the file says, for ever.
pub(super) async fn follow(runtime: Runtime, file: PathBuf, authority: AuthorityClient) {
    let pool = runtime.tasks.pool("trust", 1, 1);
    let mut known: Option<String> = None;
    loop {
        let path = file.clone();
        match pool.run(move || process::read_text(&path, TRUST_BYTES_MAX)).await {
            Ok(Ok(text)) if known.as_ref() != Some(&text) => {
                // What the agent began with is trusted already.
                match Trust::from_pem(text.as_bytes()) {
                    Ok(trust) => match authority.trust(trust) {
                        Ok(()) => {
                            tracing::info!(file = %file.display(), first = known.is_none(), "CA certificates are trusted")
                        }
                        Err(error) => tracing::error!(%error, "the CA certificates can't be used; the former stay"),
                    },
                    Err(error) => tracing::error!(%error, "the file of CA certificates can't be used; the former stay"),
                }
                known = Some(text);
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, file = %file.display(), "the CA certificates can't be read"),
            Err(_) => return,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
