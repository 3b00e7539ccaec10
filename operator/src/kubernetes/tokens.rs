//! Who may join: the API server is asked whose token it is, and the pod that it names is looked at.
//!
//! A token is good for a node only if it was made for this cluster's join port, for the agents' account, and is bound to
//! a live pod of one of our DaemonSets on that node. A second join for a node replaces the first only with a newer pod.
//! Every doubt, an API server that doesn't answer included, is a refusal: the agent tries again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::PostParams;
use kube::{Api, Client};
use larder_proto::ids::NodeName;
use tokio::time::timeout;

use super::names::{CLUSTER_LABEL, Names};
use crate::authority::TokenVerifier;

const REQUEST: Duration = Duration::from_secs(3);

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Why a token is refused; for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a token of this API server, expired, or for another audience.
    #[error("the API server doesn't know the token")]
    Unknown,
    /// For another purpose.
    #[error("the token is for other audiences")]
    Audience,
    /// Another account's.
    #[error("it is a token of {user}")]
    Account {
        /// Whose.
        user: String,
    },
    /// Not bound to a pod.
    #[error("the token names no pod")]
    Unbound,
    /// The pod isn't there, or ends.
    #[error("the token's pod is gone")]
    PodGone,
    /// Somebody else's pod.
    #[error("pod {pod} is none of the cluster's agents")]
    Foreign {
        /// Its name.
        pod: String,
    },
    /// It runs elsewhere.
    #[error("pod {pod} runs on another node")]
    OtherNode {
        /// Its name.
        pod: String,
    },
    /// A newer pod of the node has joined.
    #[error("a newer pod than {pod} has joined for the node")]
    Older {
        /// Its name.
        pod: String,
    },
    /// The API server can't be asked.
    #[error("the API server can't be asked: {why}")]
    NoAnswer {
        /// Why.
        why: String,
    },
}

/// Asks the API server.
pub struct TokenReviews {
    client: Client,
    names: Names,
    /// The CacheCluster's uid.
    cluster_uid: String,
    /// The pod that joined for each node.
    joined: Mutex<BTreeMap<NodeName, (Option<Time>, String)>>,
}

impl TokenReviews {
    /// For one CacheCluster.
    pub fn new(client: Client, names: Names, cluster_uid: String) -> Self {
        Self { client, names, cluster_uid, joined: Mutex::default() }
    }

    async fn check(&self, node: &NodeName, token: &str) -> Result<(), Refusal> {
        let spec = TokenReviewSpec { token: token.trim().into(), audiences: Some(vec![self.names.audience()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let review = answer(reviews.create(&PostParams::default(), &review)).await?;
        let bound = bound_pod(&review.status.unwrap_or_default(), &self.names)?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.names.namespace);
        let pod = answer(pods.get_opt(&bound.name)).await?.ok_or(Refusal::PodGone)?;
        check_pod(&pod, &bound, node, &self.names)?;
        self.check_owner(&pod, &bound).await?;
        self.check_newer(node, &pod, &bound)
    }

    /// The pod's DaemonSet must be one that we made for this very CacheCluster.
    async fn check_owner(&self, pod: &Pod, bound: &BoundPod) -> Result<(), Refusal> {
        let foreign = || Refusal::Foreign { pod: bound.name.clone() };
        let owners = pod.metadata.owner_references.iter().flatten();
        let owner = owners.filter(|owner| owner.controller == Some(true)).find(|owner| owner.kind == "DaemonSet");
        let owner = owner.ok_or_else(foreign)?;
        let sets: Api<k8s_openapi::api::apps::v1::DaemonSet> =
            Api::namespaced(self.client.clone(), &self.names.namespace);
        let set = answer(sets.get_opt(&owner.name)).await?.ok_or_else(foreign)?;
        let is_ours = set.metadata.uid.as_deref() == Some(owner.uid.as_str())
            && set.metadata.owner_references.iter().flatten().any(|owner| owner.uid == self.cluster_uid);
        if is_ours { Ok(()) } else { Err(foreign()) }
    }

    fn check_newer(&self, node: &NodeName, pod: &Pod, bound: &BoundPod) -> Result<(), Refusal> {
        let created = pod.metadata.creation_timestamp.clone();
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((earlier, uid)) = joined.get(node)
            && *uid != bound.uid
            && created.as_ref().map(|time| time.0) < earlier.as_ref().map(|time| time.0)
        {
            return Err(Refusal::Older { pod: bound.name.clone() });
        }
        joined.insert(node.clone(), (created, bound.uid.clone()));
        Ok(())
    }
}

#[async_trait]
impl TokenVerifier for TokenReviews {
    async fn verify(&self, node: &NodeName, token: &str) -> bool {
        match self.check(node, token).await {
            Ok(()) => true,
            Err(refusal) => {
                tracing::warn!(%node, cluster = self.names.cluster, why = %refusal, "a join is refused");
                false
            }
        }
    }
}

/// The pod that a token is bound to.
#[derive(Debug, PartialEq, Eq)]
struct BoundPod {
    name: String,
    uid: String,
}

/// What the API server says of a token.
fn bound_pod(status: &TokenReviewStatus, names: &Names) -> Result<BoundPod, Refusal> {
    if status.authenticated != Some(true) {
        return Err(Refusal::Unknown);
    }
    // An API server that doesn't know audiences answers without them; such a token could be for anything.
    if !status.audiences.iter().flatten().any(|audience| *audience == names.audience()) {
        return Err(Refusal::Audience);
    }
    let user = status.user.clone().unwrap_or_default();
    if user.username.as_deref() != Some(names.user().as_str()) {
        return Err(Refusal::Account { user: user.username.unwrap_or_default() });
    }
    let extra = |key: &str| user.extra.as_ref().and_then(|extra| extra.get(key)?.first().cloned());
    match (extra(POD_NAME), extra(POD_UID)) {
        (Some(name), Some(uid)) => Ok(BoundPod { name, uid }),
        _ => Err(Refusal::Unbound),
    }
}

fn check_pod(pod: &Pod, bound: &BoundPod, node: &NodeName, names: &Names) -> Result<(), Refusal> {
    if pod.metadata.uid.as_deref() != Some(bound.uid.as_str()) || pod.metadata.deletion_timestamp.is_some() {
        return Err(Refusal::PodGone);
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Failed" | "Succeeded")) {
        return Err(Refusal::PodGone);
    }
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(CLUSTER_LABEL));
    if label != Some(&names.cluster) {
        return Err(Refusal::Foreign { pod: bound.name.clone() });
    }
    let runs_on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    if runs_on == Some(node.as_str()) { Ok(()) } else { Err(Refusal::OtherNode { pod: bound.name.clone() }) }
}

async fn answer<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Refusal> {
    match timeout(REQUEST, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Refusal::NoAnswer { why: error.to_string() }),
        Err(_) => Err(Refusal::NoAnswer { why: format!("nothing within {} s", REQUEST.as_secs()) }),
    }
}

#[cfg(test)]
mod tests;
