//! A running local cluster: its authority, its agents, and what they say as Kubernetes objects.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use larder_crds::{CacheCluster, CacheNode, CacheNodeSpec, Condition, Kind, ObjectMeta, Problem, Time};
use larder_proto::ids::{ClusterId, Epoch, NodeName};
use larder_proto::volume::Volume;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::commands::Refusal;
use super::folder::Folder;
use super::nodes::{Common, Nodes, Program, write_private};
use super::plan::{self, Counts, NodePlan, Wanted};
use crate::authority::{Authority, AuthorityOptions, Ca, FolderLedger, ForeignMap, NodeStatus, NodeTokens, Shape};
use crate::manifest::{Desired, DesiredVolume, Mistake, ObjectName, Placed};
use crate::status::{self, NodeView, View};

mod leaving;
mod news;

pub use leaving::Wish;
use news::Told;

/// A node that has not reported for this long is silent; reports come each second.
const SILENT_MS: u64 = 3_000;

/// What runs.
pub struct Cluster {
    folder: Folder,
    desired: Desired,
    plans: Vec<NodePlan>,
    authority: Authority,
    tokens: Arc<NodeTokens>,
    volumes: watch::Sender<Vec<Volume>>,
    nodes: Nodes,
    created: Time,
    generations: BTreeMap<String, i64>,
    /// The conditions written last, by kind and name: they keep their transition times.
    conditions: BTreeMap<String, Vec<Condition>>,
    /// The cluster's problems written last, likewise.
    problems: Vec<Problem>,
    told: Told,
    /// Since when nodes that aren't wanted any more are Gone.
    gone_since: BTreeMap<NodeName, Instant>,
}

impl Cluster {
    /// Starts the authority, then an agent per node, and waits until each answers. What was started is stopped again
    /// when one of them doesn't. Mounts follow: [`look`](Self::look) says when they are there.
    pub async fn start(folder: Folder, desired: Desired, counts: Counts, program: Program) -> Result<Self, Refusal> {
        let plans = plan_nodes(&desired, counts, &folder)?;
        let tokens = Arc::new(NodeTokens::new());
        let (volumes, told) = watch::channel(told_volumes(&desired));
        let authority = start_authority(&folder, &desired, tokens.clone(), told).await?;
        let spec = &desired.cluster.object;
        let common = Common {
            cluster: ClusterId::of(&spec.cache_id()),
            cache_id: spec.cache_id(),
            authority: authority.address(),
            watermarks: spec.spec.watermarks.clone(),
            program,
        };
        let mut cluster = Self {
            nodes: Nodes::new(folder.clone(), common),
            folder,
            desired,
            plans,
            authority,
            tokens,
            volumes,
            created: now(),
            generations: BTreeMap::new(),
            conditions: BTreeMap::new(),
            problems: Vec::new(),
            told: Told::nothing(),
            gone_since: BTreeMap::new(),
        };
        let started = match cluster.forget_unwanted() {
            Ok(_) => cluster.start_nodes().await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = started {
            cluster.stop().await;
            return Err(refusal);
        }
        Ok(cluster)
    }

    async fn start_nodes(&mut self) -> Result<usize, Refusal> {
        let tokens = &self.tokens;
        let new_token = |name: &NodeName| {
            let token = NodeTokens::random();
            tokens.set(name.clone(), token.clone());
            token
        };
        self.nodes.start(&self.plans, new_token).await
    }

    /// Makes it so: new, changed and removed volumes, more or fewer nodes, and agents that have ended start again.
    pub async fn apply(&mut self, desired: Desired, wanted: Wanted) -> Result<String, Refusal> {
        let counts = wanted.or(self.counts());
        self.check_update(&desired, counts.nodes)?;
        let plans = plan_nodes(&desired, counts, &self.folder)?;
        let (before, after) = (self.plans.len(), plans.len());
        for (key, changed) in self.changes(&desired) {
            if changed {
                *self.generations.entry(key).or_insert(1) += 1;
            }
        }
        let volumes = (self.desired.volumes.len(), desired.volumes.len());
        self.volumes.send_replace(told_volumes(&desired));
        let known = self.plans.clone();
        (self.desired, self.plans) = (desired, plans);
        let started = match self.start_nodes().await {
            Ok(started) => started,
            Err(refusal) => {
                self.plans = known;
                return Err(refusal);
            }
        };
        let known: Vec<NodeName> = known.into_iter().map(|plan| plan.name).collect();
        let leaving: Vec<String> = self.let_go(&known).iter().map(NodeName::to_string).collect();
        let leaving = match leaving.as_slice() {
            [] => String::new(),
            some => format!("; what {} have is handed over, then they end", some.join(", ")),
        };
        Ok(format!(
            "applied: {before} -> {after} nodes ({started} agents started), {} -> {} volumes{leaving}",
            volumes.0, volumes.1
        ))
    }

    /// Whether each object that stays has another spec now.
    fn changes(&self, desired: &Desired) -> Vec<(String, bool)> {
        let mut changes =
            vec![(key(Kind::CacheCluster, &desired.name), self.desired.cluster.value != desired.cluster.value)];
        for new in &desired.volumes {
            if let Some(old) = self.desired.volumes.iter().find(|old| old.name == new.name) {
                changes.push((key(Kind::CacheVolume, &new.name), old.placed.object.spec != new.placed.object.spec));
            }
        }
        changes
    }

    /// What can't change while the cluster runs: what the API server would refuse, and what this version can't do.
    fn check_update(&self, desired: &Desired, count: u32) -> Result<(), Refusal> {
        let old = &self.desired;
        if old.name != desired.name {
            let message = format!("CacheCluster {} runs in this --dir: use another for {}", old.name, desired.name);
            return Err(refuse(&desired.cluster, "metadata.name", message));
        }
        let immutable = larder_crds::check(Kind::CacheCluster, &desired.cluster.value, Some(&old.cluster.value));
        let mut mistakes: Vec<Mistake> = mistakes(&desired.cluster, immutable);
        if desired.cluster.object.spec != old.cluster.object.spec && mistakes.is_empty() {
            let message = "local mode can't change a running cluster's spec: larder down, then up";
            mistakes.push(desired.cluster.mistake("spec", message));
        }
        for new in &desired.volumes {
            if let Some(old) = old.volumes.iter().find(|old| old.name == new.name) {
                let immutable = larder_crds::check(Kind::CacheVolume, &new.placed.value, Some(&old.placed.value));
                mistakes.extend(self::mistakes(&new.placed, immutable));
            }
        }
        if !mistakes.is_empty() {
            return Err(Refusal { lines: mistakes.iter().map(Mistake::to_string).collect() });
        }
        let (wanted, running) = (usize::try_from(count).unwrap_or(usize::MAX), self.storing());
        if wanted < running { leaving::check_count(wanted, running, self.min_nodes()) } else { Ok(()) }
    }

    /// How many nodes have stores.
    fn storing(&self) -> usize {
        self.plans.iter().filter(|plan| !plan.stores.is_empty()).count()
    }

    fn counts(&self) -> Counts {
        let (all, storing) = (self.plans.len(), self.storing());
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Counts { nodes: number(storing), clients: number(all - storing) }
    }

    /// Stops the agents, then the authority.
    pub async fn stop(&mut self) {
        self.nodes.stop().await;
        self.authority.stop().await;
    }

    /// What runs on the nodes.
    pub fn program(&self) -> &Program {
        self.nodes.program()
    }

    /// What to tell the user when everything serves.
    fn greeting(&self) -> String {
        let mut lines = vec![format!("CacheCluster {} is up: {} nodes", self.desired.name, self.plans.len())];
        for plan in &self.plans {
            let name = plan.name.as_str();
            let admin = self.nodes.ready(&plan.name).map_or(0, |ready| ready.admin_port);
            let mounts = self.folder.node(name).mounts();
            lines.push(format!(
                "  {name} (zone {}): mounts in {}, http://127.0.0.1:{admin}/metrics",
                plan.domain,
                mounts.display()
            ));
        }
        if self.is_short() {
            lines.push(format!(
                "  nothing is mounted until minNodes, {}, have joined: larder up with more --nodes",
                self.min_nodes()
            ));
        }
        lines.push(format!("look around: larder status --dir {}; stop: Ctrl-C", self.folder.root().display()));
        lines.join("\n")
    }

    /// The map, readable; null until there is one.
    pub fn map_json(&self) -> Value {
        self.authority.map().map_or(Value::Null, |map| super::map_json::render(&map))
    }

    /// Everything, as Kubernetes objects with their status of now.
    pub fn objects(&mut self) -> Vec<Value> {
        let map = self.authority.map();
        let running = self.nodes.running();
        let reported = self.authority.nodes();
        let volumes = self.authority.volumes();
        let node = |plan: &NodePlan| {
            let reported = reported.iter().find(|node| node.name == plan.name).cloned();
            let is_live = reported.as_ref().is_some_and(|node| self.hears(node)) && running.contains(&plan.name);
            let ended = self.nodes.how_it_ended(&plan.name);
            let ended = ended.map(|how| format!("{how}; the same larder up starts it again"));
            NodeView { name: plan.name.clone(), reported, is_live, ended }
        };
        let nodes: Vec<NodeView> = self.plans.iter().map(node).collect();
        let unwanted = self.unwanted();
        let leaves = reported.iter().filter(|node| unwanted.contains(&node.name));
        let leaving: Vec<NodeView> = leaves
            .map(|node| NodeView { name: node.name.clone(), reported: Some(node.clone()), is_live: true, ended: None })
            .collect();
        let now = now();
        let view = View { map: map.as_deref(), nodes: &nodes, volumes: &volumes, problems: &self.problems, now: &now };
        let mut objects = vec![self.cluster_object(view)];
        objects.extend(nodes.iter().chain(&leaving).map(|node| self.node_object(node)));
        let volumes: Vec<Value> = self.desired.volumes.iter().map(|volume| self.volume_object(volume, view)).collect();
        objects.extend(volumes);
        for object in &objects {
            self.remember(object);
        }
        objects
    }

    /// Whether a node reports now. An agent that began after the last report hasn't been heard.
    fn hears(&self, node: &NodeStatus) -> bool {
        let since_ms = self.nodes.running_ms(&node.name).unwrap_or(0).min(SILENT_MS);
        node.silent_ms.is_some_and(|silent| silent < since_ms)
    }

    fn remember(&mut self, object: &Value) {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let key = format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
        let part = |pointer: &str| object.pointer(pointer).cloned().unwrap_or_default();
        self.conditions.insert(key, serde_json::from_value(part("/status/conditions")).unwrap_or_default());
        if text("/kind") == Kind::CacheCluster.name() {
            self.problems = serde_json::from_value(part("/status/problems")).unwrap_or_default();
        }
    }

    fn earlier(&self, kind: Kind, name: &ObjectName) -> &[Condition] {
        self.conditions.get(&key(kind, name)).map_or(&[], Vec::as_slice)
    }

    fn metadata(&self, kind: Kind, name: &ObjectName, written: &ObjectMeta) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.name.clone()),
            namespace: Some(name.namespace.clone()),
            generation: Some(self.generations.get(&key(kind, name)).copied().unwrap_or(1)),
            creation_timestamp: Some(self.created.clone()),
            ..written.clone()
        }
    }

    fn cluster_object(&self, view: View<'_>) -> Value {
        let name = &self.desired.name;
        let mut object: CacheCluster = self.desired.cluster.object.clone();
        object.metadata = self.metadata(Kind::CacheCluster, name, &object.metadata);
        object.status = Some(status::cluster(&object, self.earlier(Kind::CacheCluster, name), view));
        json(&object)
    }

    fn volume_object(&self, volume: &DesiredVolume, view: View<'_>) -> Value {
        let mut object = volume.placed.object.clone();
        object.metadata = self.metadata(Kind::CacheVolume, &volume.name, &object.metadata);
        let earlier = self.earlier(Kind::CacheVolume, &volume.name);
        object.status = Some(status::volume(&object, volume.volume.id, earlier, view));
        json(&object)
    }

    fn node_object(&self, node: &NodeView) -> Value {
        let cluster = &self.desired.name;
        let name = ObjectName { namespace: cluster.namespace.clone(), name: format!("{}.{}", cluster.name, node.name) };
        let spec = CacheNodeSpec {
            cluster_name: cluster.name.clone(),
            node_name: node.name.as_str().to_owned(),
            request: larder_crds::NodeRequest::default(),
        };
        let mut object = CacheNode::new(&name.name, spec);
        object.metadata = self.metadata(Kind::CacheNode, &name, &object.metadata);
        object.status = Some(status::node(node));
        json(&object)
    }
}

/// Goes on from the folder's CA and last map.
async fn start_authority(
    folder: &Folder,
    desired: &Desired,
    tokens: Arc<NodeTokens>,
    volumes: watch::Receiver<Vec<Volume>>,
) -> Result<Authority, Refusal> {
    let cluster = &desired.cluster.object;
    let at_least_one = |number: i32| u32::try_from(number).unwrap_or(1).max(1);
    let options = AuthorityOptions {
        cluster: ClusterId::of(&cluster.cache_id()),
        ca: Ca::load_or_create(&folder.authority()).map_err(Refusal::new)?,
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        tokens,
        shape: Shape { min_nodes: at_least_one(cluster.spec.min_nodes), replicas: at_least_one(cluster.spec.replicas) },
        ledger: Arc::new(FolderLedger::open(folder.authority()).map_err(Refusal::new)?),
        foreign_map: ForeignMap::Refuse,
        epoch_floor: Epoch(0),
    };
    let authority = Authority::start(options, volumes).await.map_err(Refusal::new)?;
    authority.wait(crate::manifest::patience(&cluster.spec));
    let trust = folder.trust();
    write_private(&trust, authority.trust_pem().as_bytes())
        .map_err(|e| Refusal::new(format!("{}: {e}", trust.display())))?;
    Ok(authority)
}

fn told_volumes(desired: &Desired) -> Vec<Volume> {
    desired.volumes.iter().map(|volume| volume.volume.clone()).collect()
}

fn plan_nodes(desired: &Desired, counts: Counts, folder: &Folder) -> Result<Vec<NodePlan>, Refusal> {
    let disk =
        plan::disk_bytes(folder.root()).map_err(|e| Refusal::new(format!("{}: {e}", folder.root().display())))?;
    plan::plan(&desired.cluster.object, counts, folder, disk).map_err(|e| refuse(&desired.cluster, &e.field, e.message))
}

fn refuse<T>(placed: &Placed<T>, field: &str, message: impl Into<String>) -> Refusal {
    Refusal::new(placed.mistake(field, message))
}

fn mistakes<T>(placed: &Placed<T>, checked: Result<Value, Vec<larder_crds::Violation>>) -> Vec<Mistake> {
    let violations = checked.err().unwrap_or_default();
    violations.into_iter().map(|violation| placed.mistake(&violation.path, violation.message)).collect()
}

fn key(kind: Kind, name: &ObjectName) -> String {
    format!("{} {name}", kind.name())
}

fn now() -> Time {
    Time(jiff::Timestamp::now())
}

fn json(object: &impl Serialize) -> Value {
    serde_json::to_value(object).expect("Kubernetes objects are JSON")
}
