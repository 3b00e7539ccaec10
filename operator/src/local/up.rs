//! `larder up`: reads, plans, starts, and stays until it is told to stop.
//!
//! Nothing is left half-done: whatever fails before the cluster runs stops what was started and removes what was
//! mounted. When this process dies, the kernel tells its agents to stop; what that leaves, the next `up` cleans.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::cluster::Cluster;
use super::commands::{self, Refusal};
use super::folder::Folder;
use super::nodes::Program;
use super::plan::{Counts, Wanted};
use super::socket::{self, Answer, AskError, Call, Request};
use super::{leftovers, lock};
use crate::manifest::{self, Desired, Mistake};

/// Nodes of a cluster that begins, unless the command line says otherwise.
const COUNTS: Counts = Counts { nodes: 3, clients: 0 };

/// What agents log, unless the command line says otherwise.
const AGENT_LOG: &str = "info";

/// How often the cluster is looked at for news.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long an `up` that holds the folder may take until it takes commands.
const TAKES_COMMANDS_WITHIN: Duration = Duration::from_secs(3);

/// Commands that wait; more are held back by the socket.
const CALLS_MAX: usize = 16;

/// How long the answer to `down` may take to be written into a local socket.
const LAST_ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What the command line says.
pub struct Options {
    /// The manifest.
    pub files: Vec<PathBuf>,
    /// How many nodes; absent: as many as run, or three and no clients.
    pub wanted: Wanted,
    /// The agent's program; beside this one when absent.
    pub agent: Option<PathBuf>,
    /// How much agents log; `info` when absent.
    pub agent_log: Option<&'static str>,
    /// The cluster's folder.
    pub dir: PathBuf,
}

/// `larder up`.
pub async fn run(options: Options) -> Result<(), Refusal> {
    let desired = read(&options.files)?;
    check_machine()?;
    make_private(&options.dir)?;
    let folder = commands::folder(&options.dir)?;
    match enter(&folder, &options).await? {
        // Held until the process has ended: who waits for the lock waits for that.
        Entered::Ours(lock) => std::mem::forget(lock),
        Entered::HandedOver => return Ok(()),
    }
    let cleaned = leftovers::clean(&folder).map_err(|e| Refusal::new(format!("can't clean up: {e}")))?;
    if !cleaned.is_nothing() {
        println!("{cleaned}");
    }
    let outcome = serve(&folder, desired, options).await;
    let cleaned = leftovers::clean(&folder).map_err(|e| Refusal::new(format!("can't clean up: {e}")));
    outcome.and(cleaned.map(drop))
}

/// Reads the files; all their mistakes come together.
pub fn read(files: &[PathBuf]) -> Result<Desired, Refusal> {
    let desired = manifest::read(files).and_then(manifest::resolve);
    desired.map_err(|mistakes| Refusal { lines: mistakes.iter().map(Mistake::to_string).collect() })
}

fn check_machine() -> Result<(), Refusal> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Refusal::new("mounting needs root: run larder up with sudo"));
    }
    if !Path::new("/dev/fuse").exists() {
        return Err(Refusal::new("there is no /dev/fuse: load the kernel's fuse module (modprobe fuse)"));
    }
    Ok(())
}

/// Makes the folder, for root alone: it holds keys.
fn make_private(dir: &Path) -> Result<(), Refusal> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    let refuse = |e: &dyn std::fmt::Display| Refusal::new(format!("--dir {}: {e}", dir.display()));
    made.map_err(|e| refuse(&e))?;
    let metadata = std::fs::metadata(dir).map_err(|e| refuse(&e))?;
    if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
        return Err(refuse(
            &"it will hold keys, but others than root can write to it: choose a folder of root's alone",
        ));
    }
    Ok(())
}

/// Whose the folder is.
enum Entered {
    Ours(lock::Lock),
    /// Another `up` runs there, and has applied the difference.
    HandedOver,
}

/// Takes the folder, or hands over to the `up` that has it. Who holds it and takes no commands may be a `down` that
/// looks for leftovers, or an `up` that begins or ends: both are waited for.
async fn enter(folder: &Folder, options: &Options) -> Result<Entered, Refusal> {
    let request = apply_request(options)?;
    let deadline = Instant::now() + TAKES_COMMANDS_WITHIN;
    loop {
        let pid = match lock::take(&folder.lock()) {
            Ok(lock) => return Ok(Entered::Ours(lock)),
            Err(lock::LockError::Held { pid, .. }) => pid,
            Err(error) => return Err(Refusal::new(error)),
        };
        match socket::ask(&folder.socket(), folder.root(), &request).await {
            Ok(Answer::Done(done)) => {
                let done = done.as_str().unwrap_or("applied").to_owned();
                println!("{done}; by the larder up that runs here{}", lock::shown(pid));
                return Ok(Entered::HandedOver);
            }
            Ok(Answer::Refused(lines)) => return Err(Refusal { lines }),
            Err(AskError::NotUp { .. }) if Instant::now() < deadline => sleep(LOOK_EVERY).await,
            Err(AskError::NotUp { dir }) => {
                return Err(Refusal::new(format!(
                    "another larder{} is starting or stopping in {}: wait until it is done, or end it",
                    lock::shown(pid),
                    dir.display()
                )));
            }
            Err(error) => return Err(Refusal::new(error)),
        }
    }
}

fn apply_request(options: &Options) -> Result<Request, Refusal> {
    let absolute =
        |file: &PathBuf| std::path::absolute(file).map_err(|e| Refusal::new(format!("{}: {e}", file.display())));
    Ok(Request::Apply {
        files: options.files.iter().map(absolute).collect::<Result<_, _>>()?,
        wanted: options.wanted,
        agent: options.agent.as_ref().map(absolute).transpose()?,
        agent_log: options.agent_log.map(str::to_owned),
    })
}

/// Ctrl-C, or what a service manager sends.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! { biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

async fn serve(folder: &Folder, desired: Desired, options: Options) -> Result<(), Refusal> {
    let mut signals = StopSignals::new().map_err(Refusal::new)?;
    let listener =
        UnixListener::bind(folder.socket()).map_err(|e| Refusal::new(format!("{}: {e}", folder.socket().display())))?;
    let (calls, mut called) = mpsc::channel(CALLS_MAX);
    tokio::spawn(socket::listen(listener, calls));
    let program = Program { path: agent_program(options.agent)?, log_level: options.agent_log.unwrap_or(AGENT_LOG) };
    let mut cluster = tokio::select! { biased;
        () = signals.next() => return Err(Refusal::new("stopped before the cluster was up")),
        started = Cluster::start(folder.clone(), desired, options.wanted.or(COUNTS), program) => started?,
    };
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let call = tokio::select! { biased;
            () = signals.next() => break,
            Some(call) = called.recv() => call,
            _ = look.tick() => {
                cluster.look().iter().for_each(|line| println!("{line}"));
                cluster.part().await.iter().for_each(|line| println!("{line}"));
                continue;
            }
        };
        if answer(&mut cluster, call).await == Next::Stop {
            break;
        }
    }
    println!("stopping");
    cluster.stop().await;
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Next {
    Go,
    Stop,
}

async fn answer(cluster: &mut Cluster, call: Call) -> Next {
    let answer = match call.request {
        Request::Objects => Answer::Done(Value::Array(cluster.objects())),
        Request::Map => Answer::Done(cluster.map_json()),
        Request::Apply { files, wanted, agent, agent_log } => {
            match apply(cluster, &files, wanted, agent, agent_log).await {
                Ok(text) => Answer::Done(Value::String(text)),
                Err(refusal) => Answer::Refused(refusal.lines),
            }
        }
        Request::Wish { node, wish } => match cluster.wish(&node, wish) {
            Ok(text) => Answer::Done(Value::String(text)),
            Err(refusal) => Answer::Refused(refusal.lines),
        },
        Request::Down => {
            cluster.stop().await;
            // The asker has gone away; the cluster stops all the same.
            let _ = call.answer.send(Answer::Done(Value::Null));
            // This process ends next, and the answer must not end with it.
            let _ = tokio::time::timeout(LAST_ANSWER_WITHIN, call.written).await;
            return Next::Stop;
        }
    };
    // The asker has gone away.
    let _ = call.answer.send(answer);
    Next::Go
}

async fn apply(
    cluster: &mut Cluster,
    files: &[PathBuf],
    wanted: Wanted,
    agent: Option<PathBuf>,
    agent_log: Option<String>,
) -> Result<String, Refusal> {
    let desired = read(files)?;
    let runs = cluster.program();
    let fixed = |option: &str, value: &str| {
        Refusal::new(format!(
            "{option}: the cluster runs with {value}, and local mode can't change that: larder down, then up"
        ))
    };
    if agent.is_some_and(|agent| agent != runs.path) {
        return Err(fixed("--agent", &runs.path.display().to_string()));
    }
    if agent_log.is_some_and(|level| level != runs.log_level) {
        return Err(fixed("--agent-log", runs.log_level));
    }
    cluster.apply(desired, wanted).await
}

/// The agent's program: as told, else the one beside this program.
fn agent_program(told: Option<PathBuf>) -> Result<PathBuf, Refusal> {
    let beside = || std::env::current_exe().map(|program| program.with_file_name("larder-agent"));
    let program = told.map_or_else(beside, std::path::absolute).map_err(Refusal::new)?;
    if program.is_file() {
        return Ok(program);
    }
    Err(Refusal::new(format!("no agent at {}: build it, or say where it is with --agent", program.display())))
}
