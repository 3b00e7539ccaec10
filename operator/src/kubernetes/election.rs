//! Who leads: one Lease, held by one replica at a time.
//!
//! Renewed every 3 s, lost 15 s after the last renewal that the API server confirmed; a holder that can't renew gives up
//! 5 s before anybody else may take it, by its own clock. A change of the record that others see counts from when they
//! see it, so clocks need not agree. Each write carries the record's version: of two who try, one wins. What a leader
//! writes after it lost is refused by versions, not by the Lease (see `ledger.rs`).

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Others wait this long after the last change before they take it.
const DURATION: Duration = Duration::from_secs(15);

/// A holder that hasn't renewed for this long has lost.
const RENEW_WITHIN: Duration = Duration::from_secs(10);

const EVERY: Duration = Duration::from_secs(3);

/// For one request.
const REQUEST: Duration = Duration::from_secs(3);

/// The Lease's name, in the operator's namespace.
pub const LEASE: &str = "larder-operator";

/// One replica's part in the election.
pub struct Election {
    leases: Api<Lease>,
    identity: String,
    /// The record as last seen, and since when it has been so.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Election {
    /// `identity` is this replica's alone.
    pub fn new(client: Client, namespace: &str, identity: String) -> Self {
        Self { leases: Api::namespaced(client, namespace), identity, seen: None }
    }

    /// Waits until this replica leads; false when it was stopped before.
    pub async fn win(&mut self, stop: &CancellationToken) -> bool {
        loop {
            if self.attempt().await {
                tracing::info!(identity = self.identity, "this replica leads");
                return true;
            }
            tokio::select! { biased;
                () = stop.cancelled() => return false,
                () = sleep(EVERY) => {}
            }
        }
    }

    /// Renews until it is stopped or lost. When it returns, this replica must stop what it does, then [`release`](Self::release).
    pub async fn keep(&mut self, stop: &CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! { biased;
                () = stop.cancelled() => return,
                () = sleep(EVERY) => {}
            }
            let began = Instant::now();
            if self.attempt().await {
                renewed = began;
            } else if renewed.elapsed() >= RENEW_WITHIN || self.is_anothers() {
                tracing::warn!(identity = self.identity, "the lease is lost");
                return;
            }
        }
    }

    fn is_anothers(&self) -> bool {
        let holder = self.seen.as_ref().and_then(|(seen, _)| seen.holder_identity.as_ref());
        holder.is_some_and(|holder| *holder != self.identity && !holder.is_empty())
    }

    /// Takes or renews it, if it may be.
    async fn attempt(&mut self) -> bool {
        match timeout(REQUEST, self.write()).await {
            Ok(Ok(written)) => written,
            Ok(Err(kube::Error::Api(answer))) if answer.code == 409 => false,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the lease can't be read or written");
                false
            }
            Err(_) => {
                tracing::warn!("the lease can't be read or written: no answer");
                false
            }
        }
    }

    async fn write(&mut self) -> kube::Result<bool> {
        let Some(found) = self.leases.get_opt(LEASE).await? else {
            let metadata = ObjectMeta { name: Some(LEASE.into()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.record(None)) };
            self.leases.create(&PostParams::default(), &lease).await?;
            return Ok(true);
        };
        let spec = found.spec.clone().unwrap_or_default();
        let free = spec.holder_identity.as_deref().is_none_or(|holder| holder.is_empty() || holder == self.identity);
        let same = self.seen.as_ref().filter(|(seen, _)| *seen == spec);
        let expired = same.is_some_and(|(_, since)| since.elapsed() >= DURATION);
        if same.is_none() {
            self.seen = Some((spec.clone(), Instant::now()));
        }
        if !free && !expired {
            return Ok(false);
        }
        let lease = Lease { spec: Some(self.record(Some(&spec))), ..found };
        let written = self.leases.replace(LEASE, &PostParams::default(), &lease).await?;
        self.seen = Some((written.spec.unwrap_or_default(), Instant::now()));
        Ok(true)
    }

    fn record(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(jiff::Timestamp::now());
        let ours = before.filter(|before| before.holder_identity.as_deref() == Some(self.identity.as_str()));
        let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: ours.and_then(|ours| ours.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if ours.is_some() { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }

    /// Lets the next one lead at once, if this replica still holds it.
    pub async fn release(&mut self) {
        let released = timeout(REQUEST, async {
            let Some(mut found) = self.leases.get_opt(LEASE).await? else { return Ok(()) };
            let spec = found.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            self.leases.replace(LEASE, &PostParams::default(), &found).await.map(drop)
        });
        if !matches!(released.await, Ok(Ok(()))) {
            tracing::warn!("the lease wasn't released; the next leader waits until it has run out");
        }
    }
}
