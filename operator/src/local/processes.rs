//! Agents as child processes: started, watched until they serve, stopped.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::folder::NodeFolder;

/// How long an agent may take to unmount and close its stores before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// How long an agent may take from its start to its first answer: opening large stores is most of it.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// What an agent writes when it serves.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// The process that serves.
    pub pid: u32,
    /// Its admin port.
    pub admin_port: u16,
}

/// Why an agent doesn't run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program or one of its files could not be started or written.
    #[error("can't start {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended by itself; its last words say why.
    #[error("{last_words}")]
    Ended {
        /// The last line of its log.
        last_words: String,
    },
    /// It neither served nor ended.
    #[error("not ready within {} s; see {}", START_DEADLINE.as_secs(), log.display())]
    Deadline {
        /// Its log.
        log: PathBuf,
    },
}

/// One running agent.
pub struct Agent {
    child: Child,
    folder: NodeFolder,
}

impl Agent {
    /// Starts `program` with the configuration in `folder`. It is told to stop when this process dies.
    pub fn start(program: &Path, folder: NodeFolder) -> Result<Self, StartError> {
        let spawn = || -> io::Result<Child> {
            match std::fs::remove_file(folder.ready()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let log = File::options().create(true).append(true).mode(0o600).open(folder.log())?;
            let mut command = Command::new(program);
            command.arg("serve").arg("--config").arg(folder.config());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
            // A Ctrl-C in the terminal is for `larder up`, which stops its agents in order.
            command.process_group(0);
            // SAFETY: prctl(PR_SET_PDEATHSIG) is async-signal-safe and touches only the new process.
            unsafe {
                command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?));
            }
            command.spawn()
        };
        let child = spawn().map_err(|source| StartError::Spawn { program: program.to_owned(), source })?;
        Ok(Self { child, folder })
    }

    /// Waits until the agent serves, or says why it doesn't.
    pub async fn ready(&mut self) -> Result<Ready, StartError> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Some(ready) = self.read_ready() {
                return Ok(ready);
            }
            if self.has_ended() {
                return Err(StartError::Ended { last_words: last_words(&self.folder.log()) });
            }
            if Instant::now() > deadline {
                return Err(StartError::Deadline { log: self.folder.log() });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn read_ready(&self) -> Option<Ready> {
        let text = std::fs::read(self.folder.ready()).ok()?;
        let ready: Ready = serde_json::from_slice(&text).ok()?;
        (Some(ready.pid) == self.child.id()).then_some(ready)
    }

    /// Whether the process is gone.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks the agent to unmount and close; kills it when it doesn't within 20 s.
    pub async fn stop(mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // ESRCH: it has just ended.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if tokio::time::timeout(STOP_DEADLINE, self.child.wait()).await.is_err() {
            tracing::warn!(folder = %self.folder.root().display(), "the agent did not stop; killing it");
            // Already dead is as good.
            let _ = self.child.kill().await;
        }
    }
}

/// The last line an agent wrote, for the terminal: its log says the rest.
fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    line.map_or_else(|| format!("ended without a word; see {}", log.display()), str::to_owned)
}
