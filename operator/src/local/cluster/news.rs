//! What the terminal of `larder up` is told as it happens: that the cluster is up, that an agent has died or is back, that
//! an origin fails or answers again. Each once.

use std::collections::BTreeMap;
use std::time::Duration;

use larder_crds::{ConditionStatus, Kind, VolumeConditionType};
use larder_proto::ids::NodeName;
use tokio::time::Instant;

use super::Cluster;
use crate::manifest::ObjectName;

/// How long "is up" waits for the mounts.
const UP_WITHIN: Duration = Duration::from_secs(30);

/// What has been told so far.
pub(super) struct Told {
    up_by: Instant,
    is_up: bool,
    /// Nodes that were said to have died, and not to be back.
    dead: Vec<NodeName>,
    /// Volumes whose origin was said to fail, and why.
    failing: BTreeMap<ObjectName, String>,
}

impl Told {
    pub(super) fn nothing() -> Self {
        Self { up_by: Instant::now() + UP_WITHIN, is_up: false, dead: Vec::new(), failing: BTreeMap::new() }
    }
}

impl Cluster {
    /// Looks at everything, so that conditions change when things do; returns the lines that the terminal is to show.
    pub fn look(&mut self) -> Vec<String> {
        self.objects();
        let mut lines = self.deaths();
        lines.extend(self.up());
        lines.extend(self.returns());
        if self.told.is_up {
            lines.extend(self.origins());
        }
        lines
    }

    /// Says that the cluster is up once every node serves its mounts, or when that takes too long.
    fn up(&mut self) -> Vec<String> {
        if self.told.is_up {
            return Vec::new();
        }
        let late = Instant::now() >= self.told.up_by;
        let missing = if self.is_short() { Vec::new() } else { self.missing() };
        if !missing.is_empty() && !late {
            return Vec::new();
        }
        self.told.is_up = true;
        let mut lines = vec![self.greeting()];
        for (node, what) in missing {
            let log = self.folder.node(node.as_str()).log();
            lines.push(format!("node {node}: {what} after {} s; its log: {}", UP_WITHIN.as_secs(), log.display()));
        }
        lines
    }

    /// Whether fewer nodes were asked for than the first map needs, and there is none.
    pub(super) fn is_short(&self) -> bool {
        self.storing() < self.min_nodes() && self.authority.map().is_none()
    }

    /// What isn't served yet, by node; nodes whose agent has ended don't count.
    fn missing(&mut self) -> Vec<(NodeName, String)> {
        let running = self.nodes.running();
        let names = self.plans.iter().map(|plan| &plan.name).filter(|name| running.contains(name));
        names.filter_map(|name| Some((name.clone(), self.missing_on(name)?))).collect()
    }

    fn missing_on(&self, name: &NodeName) -> Option<String> {
        let nodes = self.authority.nodes();
        let node = nodes.iter().find(|node| node.name == *name);
        let (Some(node), Some(_)) = (node.filter(|node| self.hears(node)), self.authority.map()) else {
            return Some("it has not joined".to_owned());
        };
        let mounts = self.authority.volumes();
        let without =
            self.desired.volumes.iter().find(|volume| {
                !mounts.get(&volume.volume.id).is_some_and(|reported| reported.mounted.contains(&node.id))
            });
        without.map(|volume| format!("volume {} is not mounted", volume.name))
    }

    fn deaths(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for name in self.nodes.newly_ended() {
            let how = self.nodes.how_it_ended(&name).unwrap_or("ended").to_owned();
            let log = self.folder.node(name.as_str()).log();
            lines.push(format!(
                "node {name} is down: its agent {how}; its log: {}; the same larder up starts it again",
                log.display()
            ));
            self.told.dead.push(name);
        }
        lines
    }

    fn returns(&mut self) -> Vec<String> {
        let dead = std::mem::take(&mut self.told.dead);
        let is_back = |name: &NodeName| self.nodes.how_it_ended(name).is_none() && self.missing_on(name).is_none();
        let (back, dead): (Vec<NodeName>, Vec<NodeName>) = dead.into_iter().partition(is_back);
        self.told.dead = dead;
        let pid = |name: &NodeName| self.nodes.ready(name).map(|ready| format!(" (pid {})", ready.pid));
        back.iter().map(|name| format!("node {name} is back{}", pid(name).unwrap_or_default())).collect()
    }

    fn origins(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let told = std::mem::take(&mut self.told.failing);
        for volume in &self.desired.volumes {
            let conditions = self.earlier(Kind::CacheVolume, &volume.name);
            let type_ = VolumeConditionType::OriginReachable.as_str();
            let Some(condition) = conditions.iter().find(|condition| condition.type_ == type_) else { continue };
            let before = told.get(&volume.name);
            let (status, reason) = (condition.status.clone(), condition.reason.clone());
            if status == ConditionStatus::True.as_str() {
                lines.extend(before.map(|_| format!("volume {}: the origin answers again", volume.name)));
                continue;
            }
            if status == ConditionStatus::False.as_str() && before != Some(&reason) {
                let place = volume.placed.object.spec.origin.text().unwrap_or_default();
                lines.push(format!("volume {}: {reason}: {} ({place})", volume.name, condition.message));
            }
            if before.is_some() || status == ConditionStatus::False.as_str() {
                self.told.failing.insert(volume.name.clone(), reason);
            }
        }
        lines
    }
}
