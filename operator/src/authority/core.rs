//! What the authority knows of its nodes, and the map that follows. Sans-IO: reports and time in, maps out.
//!
//! After a restart the nodes of the stored map are taken to serve for 30 s, until they can have reported again. An
//! epoch that an agent reports above ours (we lost some), or holds of a map that another CA signed, raises the next one
//! above it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use larder_proto::control::{NodeAddress, NodeReport, OriginState};
use larder_proto::ids::{ClusterId, Epoch, NodeId, NodeName, Slot, VolumeId};
use larder_proto::map::{ClusterMap, Handover, MapError, Node, NodeState};
use larder_proto::placement::{Facts, NodeFact, next_map};

use super::Shape;
use super::life::{Event, Life, Patience, Peers, REPORTERS_MIN, SHUNNED_MS, SILENCE_MS};
use super::status::{NodeStatus, VolumeStatus};

/// Silence isn't counted before this long after the start.
const GRACE_MS: u64 = 30_000;

/// After a start with a stored map, the next one waits for more than half of its nodes, or this long.
const HEAR_MS: u64 = 10_000;

/// A reported epoch is believed when it is no further ahead: a thousand maps a second for seven weeks.
const EPOCHS_AHEAD_MAX: u64 = 1 << 32;

/// A weight is one GiB of stores. It follows the stores only when they change by more than this part of it.
const WEIGHT_BYTES: u64 = 1 << 30;
const WEIGHT_SLACK: u32 = 20;

/// Hand-overs that end at different times end together, so often at most.
const ENDS_EVERY_MS: u64 = 5_000;

struct Known {
    node: Node,
    life: Life,
    joined_ms: u64,
    /// It took part in the stored map.
    is_resumed: bool,
    report: Option<(NodeReport, u64)>,
    /// Since when at least half of the others can't reach it.
    shunned_since_ms: Option<u64>,
}

pub(super) struct Core {
    cluster: ClusterId,
    shape: Shape,
    current: Option<Arc<ClusterMap>>,
    nodes: BTreeMap<NodeName, Known>,
    /// Ids that no node has any more, since the start: a report that was under way says nothing. Ids aren't used again.
    removed: BTreeSet<NodeId>,
    /// Who leads nothing, though it serves.
    followers: BTreeSet<NodeName>,
    /// What outweighs the nodes' own word.
    domains: BTreeMap<NodeName, Arc<str>>,
    epoch_floor: Epoch,
    /// Who has reported an epoch that can't be; told of once.
    disbelieved: BTreeSet<NodeName>,
    /// Why no map follows from what is known now; told of once.
    stuck: Option<MapError>,
    patience: Patience,
    /// Hand-overs of the current map: since which epoch, and since when.
    moves: BTreeMap<Handover, (Epoch, u64)>,
    /// When some of them ended last.
    ended_ms: u64,
    now_ms: u64,
}

impl Core {
    pub(super) fn new(cluster: ClusterId, shape: Shape, current: Option<Arc<ClusterMap>>, floor: Epoch) -> Self {
        let listed = current.iter().flat_map(|map| map.nodes());
        let nodes = listed.map(|node| (node.name.clone(), resumed(node))).collect();
        let epoch_floor = current.as_ref().map_or(floor, |map| map.epoch().max(floor));
        let mut core = Self {
            cluster,
            shape,
            current,
            nodes,
            removed: BTreeSet::new(),
            followers: BTreeSet::new(),
            domains: BTreeMap::new(),
            epoch_floor,
            disbelieved: BTreeSet::new(),
            stuck: None,
            patience: Patience::default(),
            moves: BTreeMap::new(),
            ended_ms: 0,
            now_ms: 0,
        };
        core.follow_moves();
        core
    }

    pub(super) fn reshape(&mut self, shape: Shape) {
        self.shape = shape;
    }

    pub(super) fn place(&mut self, domains: BTreeMap<NodeName, Arc<str>>) {
        for (name, known) in &mut self.nodes {
            if let Some(domain) = domains.get(name) {
                known.node.domain = domain.clone();
            }
        }
        self.domains = domains;
    }

    pub(super) fn remove(&mut self, name: &NodeName) {
        self.removed.extend(self.nodes.remove(name).map(|known| known.node.id));
    }

    pub(super) fn retire(&mut self, name: &NodeName) {
        self.tell(name, Event::Drain);
    }

    pub(super) fn dismiss(&mut self, name: &NodeName) {
        self.tell(name, Event::Leave);
    }

    pub(super) fn follow(&mut self, names: BTreeSet<NodeName>) {
        self.followers = names;
    }

    pub(super) fn keep(&mut self, name: &NodeName) {
        self.tell(name, Event::Stay);
    }

    fn tell(&mut self, name: &NodeName, event: Event) {
        if let Some(known) = self.nodes.get_mut(name) {
            known.life = known.life.step(event, self.now_ms, &self.patience);
        }
    }

    pub(super) fn wait(&mut self, patience: Patience) {
        self.patience = patience;
    }

    pub(super) fn published(&mut self, map: Arc<ClusterMap>) {
        self.current = Some(map);
        for known in self.nodes.values_mut().filter(|known| !known.owns_nothing(self.current.as_deref())) {
            known.life = known.life.step(Event::Filled, self.now_ms, &self.patience);
        }
        self.follow_moves();
    }

    /// Hand-overs that are new are counted from now.
    fn follow_moves(&mut self) {
        let Some(map) = &self.current else { return };
        let known = std::mem::take(&mut self.moves);
        let since = |entry: &Handover| known.get(entry).copied().unwrap_or((map.epoch(), self.now_ms));
        self.moves = map.handover().iter().map(|entry| (*entry, since(entry))).collect();
    }

    /// Hand-overs that are over: the former owner has offered all it had, or the time has passed. Together when all are,
    /// else every few seconds: each epoch goes to everybody.
    fn over(&self, now_ms: u64) -> BTreeSet<Handover> {
        let by_id: BTreeMap<NodeId, &Known> = self.nodes.values().map(|known| (known.node.id, known)).collect();
        let is_over = |from: NodeId, (epoch, since_ms): (Epoch, u64)| {
            let Some(known) = by_id.get(&from) else { return true };
            let settled = known.report.as_ref().is_some_and(|(report, _)| report.offers.settled >= epoch);
            // Who drains has its own time; it is asked until it is Gone.
            let drains = known.life.state() == NodeState::Draining;
            settled || (!drains && now_ms.saturating_sub(since_ms) >= self.patience.warmup_ms)
        };
        let over: BTreeSet<Handover> =
            self.moves.iter().filter(|(entry, since)| is_over(entry.from, **since)).map(|(entry, _)| *entry).collect();
        let is_time = over.len() == self.moves.len() || now_ms.saturating_sub(self.ended_ms) >= ENDS_EVERY_MS;
        if is_time { over } else { BTreeSet::new() }
    }

    /// Whether so many are silent, in several failure domains, that it is no death but a network that is cut.
    fn is_mass_silence(&self) -> bool {
        let counted = self.nodes.values().filter(|known| match known.life {
            Life::Serving { .. } | Life::Suspect { .. } | Life::Returning { .. } => known.node.weight > 0,
            Life::Joining | Life::Down | Life::Draining { .. } | Life::Gone => false,
        });
        let counted: Vec<&Known> = counted.collect();
        // Not who is Suspect though it reports.
        let is_silent =
            |life| matches!(life, Life::Suspect { last_ms } if self.now_ms.saturating_sub(last_ms) >= SILENCE_MS);
        let silent = counted.iter().filter(|known| is_silent(known.life));
        let domains: BTreeSet<&str> = silent.clone().map(|known| &*known.node.domain).collect();
        let silent = silent.count();
        silent >= 2 && silent * 3 > counted.len() && domains.len() > 1
    }

    /// Notes whom at least half of the nodes that report can't reach. Only fresh reports count.
    fn count_shunned(&mut self, now_ms: u64) {
        let reports = self.nodes.values().filter_map(|known| Some((known.node.id, known.fresh_report(now_ms)?)));
        let shunned = shunned(reports.map(|(id, report)| (id, &*report.unreachable)));
        for known in self.nodes.values_mut() {
            let is_shunned = shunned.contains(&known.node.id);
            known.shunned_since_ms = is_shunned.then(|| known.shunned_since_ms.unwrap_or(now_ms));
        }
    }

    /// Whether enough nodes of a stored map have reported since the start for the next one to follow from what they say:
    /// one of them may have a newer map than was stored. Nobody waits longer than [`HEAR_MS`].
    fn has_heard(&self, now_ms: u64) -> bool {
        let resumed = self.nodes.values().filter(|known| known.is_resumed).count();
        let silent = self.nodes.values().filter(|known| known.is_resumed && known.report.is_none()).count();
        now_ms >= HEAR_MS || silent * 2 < resumed.max(1)
    }

    /// The next epoch is above one that a node has seen. One so far ahead that no authority can have come there is a lie
    /// or damage, and would leave no epoch for the next map.
    fn believe(&mut self, epoch: Epoch, name: &NodeName) {
        let current = self.current.as_ref().map_or(Epoch(0), |map| map.epoch());
        if epoch.0 <= current.0.saturating_add(EPOCHS_AHEAD_MAX) {
            self.epoch_floor = self.epoch_floor.max(epoch);
        } else if self.disbelieved.insert(name.clone()) {
            tracing::error!(
                node = %name, epoch = epoch.0, current = current.0,
                "the node says that it has a map from far ahead, which nobody believes: stop its agent, remove its folder's map, start it again"
            );
        }
    }

    /// A node said something. Whether it said anything new that a map may follow from.
    pub(super) fn report(&mut self, id: NodeId, name: &NodeName, report: NodeReport, now_ms: u64) -> bool {
        if self.removed.contains(&id) {
            return false;
        }
        let floor = self.epoch_floor;
        for epoch in [report.epoch, report.former_epoch] {
            self.believe(epoch, name);
        }
        let known = self.nodes.entry(name.clone()).or_insert_with(|| Known::new(id, name));
        if known.node.id != id {
            // It was removed and has joined again: nothing of its former life counts.
            *known = Known::new(id, name);
        }
        let before = known.life;
        let was = known.said();
        let event = Event::Report { settled: report.offers.settled, peers: known.peers(now_ms) };
        known.life = before.step(event, now_ms, &self.patience);
        let weight = weight(&report);
        let joins = known.life.state() == NodeState::Serving && (before == Life::Joining || known.node.weight == 0);
        if joins || before == Life::Down {
            known.joined_ms = now_ms;
        }
        if known.node.weight.abs_diff(weight) > known.node.weight / WEIGHT_SLACK || weight == 0 {
            known.node.weight = weight;
        }
        known.node.addresses.clone_from(&report.addresses);
        known.node.ports = report.ports;
        known.node.domain = match (self.domains.get(name), &*report.domain) {
            (Some(placed), _) => placed.clone(),
            (None, "") => name.as_str().into(),
            (None, _) => report.domain.clone(),
        };
        known.report = Some((report, now_ms));
        self.epoch_floor != floor || known.said() != was
    }

    /// Where nodes say they are, of those whom the current map has somewhere else.
    pub(super) fn moved(&self) -> BTreeMap<NodeName, NodeAddress> {
        let Some(map) = &self.current else { return BTreeMap::new() };
        let reported = self.nodes.values().filter_map(|known| Some((&known.node, &known.report.as_ref()?.0)));
        let moved = reported.filter(|(node, _)| {
            let listed = map.node(node.id);
            listed.is_some_and(|listed| (&listed.addresses, listed.ports) != (&node.addresses, node.ports))
        });
        let address = |node: &Node, report: &NodeReport| NodeAddress {
            node: node.name.clone(),
            addresses: node.addresses.clone(),
            ports: node.ports,
            began_ms: report.began_ms,
        };
        moved.map(|(node, report)| (node.name.clone(), address(node, report))).collect()
    }

    /// The map that is to be published now, if any. `wanted` is the most replicas that a volume asks for.
    pub(super) fn plan(&mut self, wanted: u32, now_ms: u64) -> Option<ClusterMap> {
        self.now_ms = now_ms;
        if !self.has_heard(now_ms) {
            return None;
        }
        self.count_shunned(now_ms);
        let may_condemn = !self.is_mass_silence();
        let emptied = self.emptied();
        for known in self.nodes.values_mut() {
            let tick = Event::Tick { may_condemn, peers: known.peers(now_ms) };
            known.life = known.life.step(tick, now_ms, &self.patience);
            if let Some(epoch) = emptied.filter(|_| known.owns_nothing(self.current.as_deref())) {
                known.life = known.life.step(Event::Emptied(epoch), now_ms, &self.patience);
            }
        }
        let fact = |known: &Known| NodeFact {
            node: Node { state: self.part(known), ..known.node.clone() },
            joined_ms: known.joined_ms,
        };
        let facts = Facts {
            cluster: self.cluster,
            epoch_floor: self.epoch_floor,
            width: self.shape.replicas.max(wanted.min(self.shape.min_nodes)).max(1),
            min_nodes: self.shape.min_nodes,
            nodes: self.nodes.values().map(fact).collect(),
            over: self.over(now_ms),
        };
        let next = match next_map(self.current.as_deref(), &facts, now_ms) {
            Ok(next) => {
                self.stuck = None;
                next
            }
            Err(error) => {
                self.stay(error);
                None
            }
        };
        if next.is_some() && !facts.over.is_empty() {
            self.ended_ms = now_ms;
        }
        next
    }

    /// No map can say what is known: the old one stays until that changes.
    fn stay(&mut self, error: MapError) {
        if self.stuck.as_ref() != Some(&error) {
            tracing::error!(
                %error, nodes = self.nodes.len(), epoch_floor = self.epoch_floor.0,
                "no map can be made of what the nodes report: the old one stays, and nobody joins, leaves or is replaced; remove the node that the error names, or use fewer nodes"
            );
            self.stuck = Some(error);
        }
    }

    /// As the map has it. Returning is one that keeps its slots, and leads none while others can. The first map takes
    /// whoever serves.
    fn part(&self, known: &Known) -> NodeState {
        match known.life.state() {
            NodeState::Serving if self.current.is_some() && self.followers.contains(&known.node.name) => {
                NodeState::Returning
            }
            state => state,
        }
    }

    /// The current epoch, while a node drains.
    fn emptied(&self) -> Option<Epoch> {
        let drains = self.nodes.values().any(|known| matches!(known.life, Life::Draining { emptied: None, .. }));
        self.current.as_ref().filter(|_| drains).map(|map| map.epoch())
    }

    pub(super) fn statuses(&self, map: Option<&ClusterMap>, now_ms: u64) -> Vec<NodeStatus> {
        let shares = map.map(ClusterMap::shares).unwrap_or_default();
        let spared = |known: &Known| match known.life {
            Life::Suspect { last_ms } => now_ms.saturating_sub(last_ms) >= self.patience.loss_grace_ms,
            Life::Joining
            | Life::Serving { .. }
            | Life::Returning { .. }
            | Life::Down
            | Life::Draining { .. }
            | Life::Gone => false,
        };
        let mass = self.is_mass_silence();
        let status = |known: &Known| NodeStatus { is_spared: mass && spared(known), ..known.status(&shares, now_ms) };
        self.nodes.values().map(status).collect()
    }

    /// Mounts, origin and stores as the nodes say that report now; bytes read as all of them ever said.
    pub(super) fn volumes(&self, now_ms: u64) -> BTreeMap<VolumeId, VolumeStatus> {
        let mut volumes: BTreeMap<VolumeId, VolumeStatus> = BTreeMap::new();
        let reports = self.nodes.values().filter_map(|known| Some((known.node.id, known.report.as_ref()?)));
        for (node, volume, at_ms) in
            reports.flat_map(|(node, (report, at))| report.volumes.iter().map(move |volume| (node, volume, *at)))
        {
            let status = volumes.entry(volume.id).or_default();
            status.origin_bytes = status.origin_bytes.saturating_add(volume.origin_bytes);
            status.read_bytes = status.read_bytes.saturating_add(volume.read_bytes);
            if now_ms.saturating_sub(at_ms) >= SILENCE_MS {
                continue;
            }
            status.nodes += 1;
            status.mounted.extend(volume.mounted.then_some(node));
            status.origin = match (status.origin, volume.origin) {
                (OriginState::Fails(kind), _) | (_, OriginState::Fails(kind)) => OriginState::Fails(kind),
                (OriginState::Answers, _) | (_, OriginState::Answers) => OriginState::Answers,
                (OriginState::NotAsked, OriginState::NotAsked) => OriginState::NotAsked,
            };
            status.cached_bytes = status.cached_bytes.saturating_add(volume.cached_bytes);
            status.objects = status.objects.max(volume.objects);
        }
        volumes
    }
}

impl Known {
    fn new(id: NodeId, name: &NodeName) -> Self {
        let node = Node {
            id,
            name: name.clone(),
            addresses: Vec::new(),
            ports: Default::default(),
            domain: name.as_str().into(),
            weight: 0,
            state: NodeState::Joining,
        };
        Self { node, life: Life::Joining, joined_ms: 0, is_resumed: false, report: None, shunned_since_ms: None }
    }

    /// What maps follow from: as what it is known, how far its offers are, and whom it can't reach.
    fn said(&self) -> Option<(NodeState, Node, Epoch, Vec<NodeId>)> {
        let (report, _) = self.report.as_ref()?;
        Some((self.life.state(), self.node.clone(), report.offers.settled, report.unreachable.clone()))
    }

    /// Its last report, unless it is silent since.
    fn fresh_report(&self, now_ms: u64) -> Option<&NodeReport> {
        let (report, at_ms) = self.report.as_ref()?;
        (now_ms.saturating_sub(*at_ms) < SILENCE_MS).then_some(report)
    }

    fn peers(&self, now_ms: u64) -> Peers {
        match self.shunned_since_ms {
            Some(since_ms) if now_ms.saturating_sub(since_ms) >= SHUNNED_MS => Peers::ShunIt,
            Some(_) | None => Peers::ReachIt,
        }
    }

    /// Whether the map has it as one that leaves, and gives it nothing.
    fn owns_nothing(&self, map: Option<&ClusterMap>) -> bool {
        let listed = map.and_then(|map| Some((map, map.node(self.node.id)?)));
        listed.is_some_and(|(map, node)| {
            node.state == NodeState::Draining && Slot::all().all(|slot| !map.owners(slot).contains(&node.id))
        })
    }

    fn status(&self, shares: &BTreeMap<NodeId, larder_proto::map::Share>, now_ms: u64) -> NodeStatus {
        let report = self.report.as_ref().map(|(report, _)| report);
        NodeStatus {
            id: self.node.id,
            name: self.node.name.clone(),
            state: self.life.state(),
            addresses: self.node.addresses.clone(),
            ports: self.node.ports,
            admin_port: report.map_or(0, |report| report.admin_port),
            domain: self.node.domain.clone(),
            epoch: report.map_or(Epoch(0), |report| report.epoch),
            stores: report.map(|report| report.stores.clone()).unwrap_or_default(),
            unreachable: report.map(|report| report.unreachable.clone()).unwrap_or_default(),
            unmet: report.map(|report| report.unmet.clone()).unwrap_or_default(),
            passthrough: report.and_then(|report| report.passthrough),
            trusted: report.map(|report| report.trusted.clone()).unwrap_or_default(),
            offers: report.map(|report| report.offers).unwrap_or_default(),
            is_spared: false,
            share: shares.get(&self.node.id).copied().unwrap_or_default(),
            silent_ms: self.report.as_ref().map(|(_, at_ms)| now_ms.saturating_sub(*at_ms)),
        }
    }
}

/// A node of the stored map, when the authority starts.
fn resumed(node: &Node) -> Known {
    Known {
        node: node.clone(),
        life: Life::resumed(node.state, GRACE_MS),
        joined_ms: 0,
        is_resumed: matches!(node.state, NodeState::Serving | NodeState::Returning | NodeState::Draining),
        report: None,
        shunned_since_ms: None,
    }
}

/// Whom at least half of the others can't reach, of reporters and whom each can't reach. Who is shunned by most goes
/// first, and its own word doesn't count any more: where a network is cut in two, that is the smaller part. While all
/// are shunned alike nobody is: it is the network.
fn shunned<'a>(reports: impl Iterator<Item = (NodeId, &'a [NodeId])>) -> BTreeSet<NodeId> {
    let unreachable: BTreeMap<NodeId, BTreeSet<NodeId>> = reports
        .map(|(id, unreachable)| (id, unreachable.iter().copied().filter(|other| *other != id).collect()))
        .collect();
    let mut shunned_by: BTreeMap<NodeId, usize> = unreachable.keys().map(|id| (*id, 0)).collect();
    for id in unreachable.values().flatten() {
        *shunned_by.entry(*id).or_default() += 1;
    }
    let mut reporters = unreachable.len();
    let mut shunned = BTreeSet::new();
    loop {
        let most = shunned_by.iter().max_by_key(|(id, by)| (**by, **id)).map(|(id, by)| (*id, *by));
        let least = shunned_by.values().min().copied();
        let Some((id, by)) = most.filter(|(_, by)| Some(*by) > least) else { return shunned };
        let others = reporters - usize::from(unreachable.contains_key(&id));
        if others < REPORTERS_MIN || by * 2 < others {
            return shunned;
        }
        shunned_by.remove(&id);
        shunned.insert(id);
        if let Some(own) = unreachable.get(&id) {
            reporters -= 1;
            for other in own {
                shunned_by.entry(*other).and_modify(|by| *by -= 1);
            }
        }
    }
}

fn weight(report: &NodeReport) -> u32 {
    let bytes = report.stores.iter().map(|store| store.capacity_bytes).fold(0, u64::saturating_add);
    if report.stores.is_empty() { 0 } else { u32::try_from(bytes.div_ceil(WEIGHT_BYTES)).unwrap_or(u32::MAX).max(1) }
}

#[cfg(test)]
mod tests;
