//! Agents as child processes: started, watched until they serve, stopped.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
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

/// How much of an agent's log is looked at for its last line.
const LAST_WORDS_BYTES_MAX: u64 = 64 * 1024;

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
        /// The last line it wrote.
        last_words: String,
    },
    /// It ended by itself, and what it wrote isn't an agent's.
    #[error("{} {how}{}: is it larder-agent? Its log is {}", program.display(), said(words.as_deref()), log.display())]
    NoAgent {
        /// The program.
        program: PathBuf,
        /// How it ended.
        how: String,
        /// The last line it wrote.
        words: Option<String>,
        /// Its log.
        log: PathBuf,
    },
    /// It neither served nor ended.
    #[error("not ready within {} s; see {}", START_DEADLINE.as_secs(), log.display())]
    Deadline {
        /// Its log.
        log: PathBuf,
    },
}

/// What agents begin their last line with, when they refuse to start.
const AGENT_SPEAKS: &str = "larder-agent: ";

fn said(words: Option<&str>) -> String {
    words.map(|words| format!(" ({words})")).unwrap_or_default()
}

/// One running agent.
pub struct Agent {
    child: Child,
    program: PathBuf,
    folder: NodeFolder,
    /// Where this agent's lines begin in the log: those before are an earlier one's.
    log_from: u64,
}

impl Agent {
    /// Starts `program` with the configuration in `folder`. It is told to stop when this process dies.
    pub fn start(program: &Path, folder: NodeFolder) -> Result<Self, StartError> {
        let spawn = || -> io::Result<(Child, u64)> {
            match std::fs::remove_file(folder.ready()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let log = File::options().create(true).append(true).mode(0o600).open(folder.log())?;
            let log_from = log.metadata()?.len();
            let mut command = Command::new(program);
            command.arg("serve").arg("--config").arg(folder.config());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
            // A Ctrl-C in the terminal is for `larder up`, which stops its agents in order.
            command.process_group(0);
            // SAFETY: prctl(PR_SET_PDEATHSIG) is async-signal-safe and touches only the new process.
            unsafe {
                command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?));
            }
            Ok((command.spawn()?, log_from))
        };
        let (child, log_from) = spawn().map_err(|source| StartError::Spawn { program: program.to_owned(), source })?;
        Ok(Self { child, program: program.to_owned(), folder, log_from })
    }

    /// Waits until the agent serves, or says why it doesn't.
    pub async fn ready(&mut self) -> Result<Ready, StartError> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Some(ready) = self.read_ready() {
                return Ok(ready);
            }
            if let Some(how) = self.ended() {
                return Err(self.why(how));
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

    fn why(&self, how: String) -> StartError {
        let words = last_words(&self.folder.log(), self.log_from);
        match words {
            Some(last_words) if last_words.starts_with(AGENT_SPEAKS) => StartError::Ended { last_words },
            words => StartError::NoAgent { program: self.program.clone(), how, words, log: self.folder.log() },
        }
    }

    /// How the process ended, if it has: `was killed by SIGKILL`, `ended with exit status 1`.
    pub fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(how_it_ended(status)),
            Err(error) => Some(format!("can't be watched any more ({error})")),
        }
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

fn how_it_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit status {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("was killed by {signal}"),
            Err(_) => format!("was killed by signal {number}"),
        },
        (None, None) => "ended".to_owned(),
    }
}

/// The last line that an agent wrote into its log from `from` on, for the terminal: the log says the rest.
fn last_words(log: &Path, from: u64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let end = file.metadata().ok()?.len();
    file.seek(io::SeekFrom::Start(from.max(end.saturating_sub(LAST_WORDS_BYTES_MAX)))).ok()?;
    let mut bytes = Vec::new();
    file.take(LAST_WORDS_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::folder::Folder;
    use super::*;

    #[tokio::test]
    async fn a_wrong_program_is_named_and_old_lines_are_not_quoted() {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Folder::new(folder.path().to_owned()).node("n1");
        std::fs::create_dir_all(node.state()).expect("made");
        std::fs::write(node.log(), "larder-agent: an old line\n").expect("written");
        let ended = |program: &str| Agent::start(Path::new(program), node.clone());
        let error = ended("/bin/true").expect("starts").ready().await.expect_err("it isn't an agent").to_string();
        assert!(error.contains("/bin/true ended with exit status 0: is it larder-agent?"), "{error}");
        assert!(!error.contains("an old line"), "{error}");
        let error = ended("/bin/ls").expect("starts").ready().await.expect_err("it isn't an agent").to_string();
        assert!(error.contains("/bin/ls ended with exit status 2 (Try"), "its own words: {error}");
    }
}
