//! The nodes of a local cluster: each one's folder, configuration and agent.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use larder_crds::Watermarks;
use larder_proto::ids::{ClusterId, NodeName};
use serde::Serialize;

use super::commands::Refusal;
use super::folder::Folder;
use super::leftovers;
use super::plan::NodePlan;
use super::processes::{Agent, Ready};

/// Local nodes talk over loopback, each on its own ports.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What every agent of the cluster is told.
pub struct Common {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its cacheId.
    pub cache_id: String,
    /// Where the authority listens.
    pub authority: SocketAddr,
    /// When stores evict.
    pub watermarks: Watermarks,
    /// What is run on each node.
    pub program: Program,
}

/// The agent's program, and how much it logs.
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// The agent's word for it.
    pub log_level: &'static str,
}

/// The agent's configuration file.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    node: &'a str,
    cluster: String,
    cache_id: &'a str,
    authority: String,
    trust: PathBuf,
    token: PathBuf,
    state: PathBuf,
    address: IpAddr,
    domain: &'a str,
    stores: Vec<Store<'a>>,
    watermarks: &'a Watermarks,
    mounts: PathBuf,
    log_level: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Store<'a> {
    name: &'a str,
    path: &'a Path,
    capacity_bytes: u64,
}

/// The agents that run, by node.
pub struct Nodes {
    folder: Folder,
    common: Common,
    agents: BTreeMap<NodeName, Running>,
    /// Agents that ended by themselves and weren't started again, and how.
    ended: BTreeMap<NodeName, String>,
    /// Ends that nobody has been told of yet.
    untold: Vec<NodeName>,
}

struct Running {
    agent: Agent,
    ready: Ready,
    since: Instant,
}

impl Nodes {
    /// No agents yet.
    pub fn new(folder: Folder, common: Common) -> Self {
        Self { folder, common, agents: BTreeMap::new(), ended: BTreeMap::new(), untold: Vec::new() }
    }

    /// Starts those of `plans` that don't run, all at once, and waits until each serves. Returns how many were started.
    /// When one of them doesn't serve, all that were started are stopped again.
    pub async fn start(&mut self, plans: &[NodePlan], token: impl Fn(&NodeName) -> String) -> Result<usize, Refusal> {
        self.running();
        let mut starting = BTreeMap::new();
        let outcome = self.start_each(plans, token, &mut starting).await;
        if outcome.is_err() {
            futures::future::join_all(starting.into_values().map(Agent::stop)).await;
        }
        outcome
    }

    async fn start_each(
        &mut self,
        plans: &[NodePlan],
        token: impl Fn(&NodeName) -> String,
        starting: &mut BTreeMap<NodeName, Agent>,
    ) -> Result<usize, Refusal> {
        let since = Instant::now();
        let refuse = |name: &NodeName, e: &dyn std::fmt::Display| Refusal::new(format!("node {name}: {e}"));
        for plan in plans.iter().filter(|plan| !self.agents.contains_key(&plan.name)) {
            self.prepare(plan, &token(&plan.name)).map_err(|e| refuse(&plan.name, &e))?;
            let folder = self.folder.node(plan.name.as_str());
            let agent = Agent::start(&self.common.program.path, folder).map_err(|e| refuse(&plan.name, &e))?;
            starting.insert(plan.name.clone(), agent);
        }
        let mut served = BTreeMap::new();
        for (name, agent) in starting.iter_mut() {
            served.insert(name.clone(), agent.ready().await.map_err(|e| refuse(name, &e))?);
        }
        let started = starting.len();
        for ((name, agent), ready) in std::mem::take(starting).into_iter().zip(served.into_values()) {
            self.ended.remove(&name);
            self.agents.insert(name, Running { agent, ready, since });
        }
        Ok(started)
    }

    /// Writes what the agent reads.
    fn prepare(&self, plan: &NodePlan, token: &str) -> io::Result<()> {
        let folder = self.folder.node(plan.name.as_str());
        for dir in std::iter::once(folder.state()).chain(plan.stores.iter().map(|store| store.path.clone())) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        std::fs::create_dir_all(folder.mounts())?;
        let config = Config {
            node: plan.name.as_str(),
            cluster: self.common.cluster.to_string(),
            cache_id: &self.common.cache_id,
            authority: self.common.authority.to_string(),
            trust: self.folder.trust(),
            token: folder.token(),
            state: folder.state(),
            address: ADDRESS,
            domain: &plan.domain,
            stores: plan
                .stores
                .iter()
                .map(|store| Store { name: &store.name, path: &store.path, capacity_bytes: store.capacity_bytes })
                .collect(),
            watermarks: &self.common.watermarks,
            mounts: folder.mounts(),
            log_level: self.common.program.log_level,
        };
        let text = serde_yaml::to_string(&config).map_err(io::Error::other)?;
        write_private(&folder.config(), text.as_bytes())?;
        write_private(&folder.token(), token.as_bytes())
    }

    /// Names of the nodes whose agent runs.
    pub fn running(&mut self) -> Vec<NodeName> {
        let (ended, untold) = (&mut self.ended, &mut self.untold);
        self.agents.retain(|name, running| match running.agent.ended() {
            None => true,
            Some(how) => {
                ended.insert(name.clone(), how);
                untold.push(name.clone());
                false
            }
        });
        self.agents.keys().cloned().collect()
    }

    /// For how long a node's agent has been running; what was reported before came from another.
    pub fn running_ms(&self, name: &NodeName) -> Option<u64> {
        let running = self.agents.get(name)?;
        Some(u64::try_from(running.since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// How a node's agent ended, unless it runs again.
    pub fn how_it_ended(&self, name: &NodeName) -> Option<&str> {
        self.ended.get(name).map(String::as_str)
    }

    /// Nodes whose agents have ended since the last call.
    pub fn newly_ended(&mut self) -> Vec<NodeName> {
        self.running();
        std::mem::take(&mut self.untold)
    }

    /// The program that is run, and how much it logs.
    pub fn program(&self) -> &Program {
        &self.common.program
    }

    /// Stops the agents of these nodes, all at once, and takes away what mounts they leave.
    pub async fn stop_some(&mut self, names: &[NodeName]) -> io::Result<()> {
        let agents: Vec<Agent> =
            names.iter().filter_map(|name| self.agents.remove(name)).map(|running| running.agent).collect();
        futures::future::join_all(agents.into_iter().map(Agent::stop)).await;
        for name in names {
            self.ended.remove(name);
            leftovers::unmount_below(self.folder.node(name.as_str()).root())?;
        }
        Ok(())
    }

    /// The process and admin port of a node's agent.
    pub fn ready(&self, name: &NodeName) -> Option<Ready> {
        self.agents.get(name).map(|running| running.ready)
    }

    /// Stops every agent, all at once.
    pub async fn stop(&mut self) {
        let agents = std::mem::take(&mut self.agents);
        futures::future::join_all(agents.into_values().map(|running| running.agent.stop())).await;
    }
}

/// Writes a file for root alone.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}
