//! The cluster's CA, in the Secret `<cluster>-ca`, and how another one takes its place.
//!
//! | key | there | what |
//! |---|---|---|
//! | `ca.pem`, `ca.key` | always | who signs certificates and maps |
//! | `next.pem`, `next.key` | while it is introduced | who will sign, once every agent trusts it |
//! | `former.pem` | while it is parted with | who signed before; trusted until every agent has a new certificate |
//!
//! A rotation begins when the CacheCluster's annotation `larder.dev/rotate-ca` says another word than the Secret's
//! `larder.dev/rotated`. [`step`] is pure. Each step is one write, over the very version that was read; whoever is killed
//! between two leaves what the next one goes on from. Nodes that are Down or Gone are not waited for: they join anew.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use larder_crds::CacheCluster;
use larder_proto::control::AnchorDigest;
use larder_proto::identity::Trust;
use larder_proto::map::NodeState;
use serde_json::{Value, json};

use super::super::authorities::Running;
use super::super::context::Context;
use super::super::names::{MANAGER, Names};
use super::super::report;
use super::ReconcileError;
use super::dereference::answer;
use super::plan::owner;
use crate::authority::{Ca, CaError, NodeStatus};

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";
const NEXT_CERTIFICATE: &str = "next.pem";
const NEXT_KEY: &str = "next.key";
const FORMER: &str = "former.pem";

/// On a CacheCluster: another word asks for another CA.
const ROTATE: &str = "larder.dev/rotate-ca";

/// On the Secret: the word that was done.
const ROTATED: &str = "larder.dev/rotated";

/// Reports come each second.
const SILENT_MS: u64 = 3_000;

/// A cluster's CA as its Secret has it.
pub struct Kept {
    secret: Secret,
}

impl Kept {
    fn text(&self, key: &'static str) -> Result<Option<String>, ReconcileError> {
        let Some(bytes) = self.secret.data.as_ref().and_then(|data| data.get(key)) else { return Ok(None) };
        String::from_utf8(bytes.0.clone()).map(Some).map_err(|_| ReconcileError::CaKey { key })
    }

    fn required(&self, key: &'static str) -> Result<String, ReconcileError> {
        self.text(key)?.ok_or(ReconcileError::CaKey { key })
    }

    /// Who signs now; it also trusts who signed before.
    pub fn ca(&self) -> Result<Ca, ReconcileError> {
        let ca = Ca::from_pem(self.required(CERTIFICATE)?, &self.required(KEY)?)?;
        Ok(ca.trusting(&self.text(FORMER)?.unwrap_or_default()))
    }

    /// Everybody whom agents are to trust.
    pub fn trust_pem(&self) -> Result<String, ReconcileError> {
        let more = [self.text(NEXT_CERTIFICATE)?, self.text(FORMER)?];
        Ok(self.required(CERTIFICATE)? + &more.map(Option::unwrap_or_default).concat())
    }

    fn next_digest(&self) -> Result<Option<AnchorDigest>, ReconcileError> {
        let Some(pem) = self.text(NEXT_CERTIFICATE)? else { return Ok(None) };
        let trust = Trust::from_pem(pem.as_bytes()).map_err(CaError::Trust)?;
        Ok(trust.digests().first().copied())
    }
}

/// The CA, if the cluster was begun.
pub async fn find(names: &Names, context: &Context) -> Result<Option<Kept>, ReconcileError> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &names.namespace);
    let found = answer("reading the CA's Secret", secrets.get_opt(&names.ca())).await?;
    Ok(found.map(|secret| Kept { secret }))
}

/// The CA, made at the first visit.
pub async fn find_or_make(cluster: &CacheCluster, names: &Names, context: &Context) -> Result<Kept, ReconcileError> {
    if let Some(found) = find(names, context).await? {
        return Ok(found);
    }
    let (certificate, key) = Ca::generate()?;
    let data = [(CERTIFICATE, certificate), (KEY, key)];
    // A word that was there before is no reason to rotate at once.
    let asked = cluster.annotations().get(ROTATE).map(|word| BTreeMap::from([(ROTATED.to_owned(), word.clone())]));
    let metadata = ObjectMeta {
        name: Some(names.ca()),
        namespace: Some(names.namespace.clone()),
        labels: Some(names.labels()),
        annotations: asked,
        owner_references: serde_json::from_value(Value::Array(vec![owner(cluster)])).ok(),
        ..ObjectMeta::default()
    };
    let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
    let secret = Secret { metadata, data: Some(data.into()), type_: Some("Opaque".into()), ..Secret::default() };
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &names.namespace);
    // Of two who make one, the first wins, and the second reads it at its next attempt.
    let secret = answer("making the CA's Secret", secrets.create(&params, &secret)).await?;
    tracing::info!(namespace = names.namespace, secret = names.ca(), "a new CA");
    Ok(Kept { secret })
}

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none.
    Rest,
    /// Agents have work to do.
    Wait,
    /// Another CA is made, for agents to trust.
    Introduce,
    /// It signs from now on.
    Sign,
    /// Its predecessor is trusted no more.
    Part,
}

/// What decides it.
#[derive(Clone, Copy, Debug)]
struct Facts {
    /// Another word than the one that was done.
    is_asked: bool,
    has_next: bool,
    has_former: bool,
    /// Every agent trusts the next one.
    all_trust_next: bool,
    /// Every agent has shown a certificate of the one that signs, and a map of its.
    all_renewed: bool,
}

fn step(facts: Facts) -> Step {
    match facts {
        Facts { has_former: true, all_renewed: true, .. } => Step::Part,
        Facts { has_next: true, has_former: false, all_trust_next: true, .. } => Step::Sign,
        Facts { has_former: true, .. } | Facts { has_next: true, .. } => Step::Wait,
        Facts { is_asked: true, .. } => Step::Introduce,
        Facts { is_asked: false, .. } => Step::Rest,
    }
}

/// Whether an agent says something now.
fn is_heard(node: &NodeStatus) -> bool {
    node.silent_ms.is_some_and(|silent| silent < SILENT_MS)
}

/// Goes on with a rotation, if one is asked for; whether there is one.
pub async fn rotate(
    cluster: &CacheCluster,
    kept: &Kept,
    running: &Running,
    context: &Context,
) -> Result<bool, ReconcileError> {
    let asked = cluster.annotations().get(ROTATE).cloned();
    let next = kept.next_digest()?;
    let nodes = running.authority.nodes();
    let counted: Vec<&NodeStatus> =
        nodes.iter().filter(|node| !matches!(node.state, NodeState::Down | NodeState::Gone)).collect();
    let epoch = running.authority.epoch();
    let facts = Facts {
        is_asked: asked.is_some() && asked.as_ref() != kept.secret.annotations().get(ROTATED),
        has_next: next.is_some(),
        has_former: kept.text(FORMER)?.is_some(),
        all_trust_next: counted
            .iter()
            .all(|node| is_heard(node) && next.is_none_or(|next| node.trusted.contains(&next))),
        all_renewed: running.authority.is_map_own()
            && counted.iter().all(|node| is_heard(node) && Some(node.epoch) >= epoch),
    };
    let base64 = |text: String| json!(ByteString(text.into_bytes()));
    let (data, annotations, said) = match step(facts) {
        Step::Rest => return Ok(false),
        Step::Wait => return Ok(true),
        Step::Introduce => {
            let (certificate, key) = Ca::generate()?;
            let data = json!({NEXT_CERTIFICATE: base64(certificate), NEXT_KEY: base64(key)});
            (data, json!({}), "a new CA is made: agents begin to trust it")
        }
        Step::Sign => {
            let (certificate, key) = (kept.required(NEXT_CERTIFICATE)?, kept.required(NEXT_KEY)?);
            let data = json!({
                CERTIFICATE: base64(certificate),
                KEY: base64(key),
                FORMER: base64(kept.required(CERTIFICATE)?),
                NEXT_CERTIFICATE: null,
                NEXT_KEY: null,
            });
            (data, json!({}), "every agent trusts the new CA: it signs from now on")
        }
        Step::Part => {
            let done = json!({ROTATED: asked.unwrap_or_default()});
            (json!({FORMER: null}), done, "every agent has a new certificate: the former CA is trusted no more")
        }
    };
    let patch = Patch::Merge(json!({
        "metadata": {"resourceVersion": kept.secret.resource_version(), "annotations": annotations},
        "data": data,
    }));
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let names = &running.names;
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &names.namespace);
    answer("changing the CA's Secret", secrets.patch(&names.ca(), &params, &patch)).await?;
    tracing::info!(cluster = names.cluster, "{said}");
    report::say(context, cluster, "RotatingCa", "RotateCa", said).await;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_step_after_the_other_and_never_two_at_once() {
        let facts = |is_asked, has_next, has_former, all_trust_next, all_renewed| {
            step(Facts { is_asked, has_next, has_former, all_trust_next, all_renewed })
        };
        assert_eq!(facts(false, false, false, true, true), Step::Rest);
        assert_eq!(facts(true, false, false, true, true), Step::Introduce);
        assert_eq!(facts(true, true, false, false, true), Step::Wait);
        assert_eq!(facts(true, true, false, true, false), Step::Sign);
        assert_eq!(facts(true, false, true, true, false), Step::Wait);
        assert_eq!(facts(true, false, true, true, true), Step::Part);
        assert_eq!(facts(false, false, true, true, true), Step::Part, "nobody wants it any more, and it is finished");
    }

    #[test]
    fn agents_trust_everybody_whose_signature_they_may_meet() {
        let kept = |pairs: &[(&str, &str)]| {
            let data = pairs.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())));
            Kept { secret: Secret { data: Some(data.collect()), ..Secret::default() } }
        };
        let trust = |pairs: &[(&str, &str)]| kept(pairs).trust_pem().expect("texts");
        assert_eq!(trust(&[("ca.pem", "A")]), "A");
        assert_eq!(trust(&[("ca.pem", "A"), ("next.pem", "B"), ("next.key", "k")]), "AB");
        assert_eq!(trust(&[("ca.pem", "B"), ("former.pem", "A")]), "BA");
        assert!(matches!(kept(&[]).trust_pem(), Err(ReconcileError::CaKey { key: "ca.pem" })));
    }
}
