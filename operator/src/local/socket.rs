//! How the other commands talk to a running `larder up`: one JSON line each way over a Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::cluster::Wish;
use super::plan::Wanted;

/// A request is a command and a few paths.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;

/// Starting agents is the slowest thing a command waits for.
const ANSWER_DEADLINE: Duration = Duration::from_secs(180);

/// What a command asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Everything: the cluster, its nodes and volumes, as Kubernetes objects.
    Objects,
    /// The map, as JSON.
    Map,
    /// Make it so: these files and as many nodes.
    Apply {
        /// Absolute paths.
        files: Vec<PathBuf>,
        /// How many nodes.
        #[serde(flatten)]
        wanted: Wanted,
        /// The agent's program, if the command line names one.
        agent: Option<PathBuf>,
        /// How much agents log, if the command line says so.
        agent_log: Option<String>,
    },
    /// Let a node hand over what it has, or keep it.
    Wish {
        /// Its name.
        node: String,
        /// Which of the two.
        wish: Wish,
    },
    /// Stop.
    Down,
}

/// What it gets.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// Done; the value depends on the request.
    Done(serde_json::Value),
    /// Not done: one line per mistake.
    Refused(Vec<String>),
}

/// A request that waits for its answer.
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answer>,
    /// Ends when the answer has been written, or nobody waits for it.
    pub written: oneshot::Receiver<()>,
}

/// Why a command got no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no cluster is up in {}: start one with `larder up FILE --dir {}`", dir.display(), dir.display())]
    NotUp {
        /// The folder.
        dir: PathBuf,
    },
    /// It belongs to somebody else.
    #[error("only root may look into {}: run larder with sudo", dir.display())]
    NotAllowed {
        /// The folder.
        dir: PathBuf,
    },
    /// It listened, and broke off.
    #[error("`larder up` broke off: {0}")]
    Broken(#[from] std::io::Error),
    /// It answered something else.
    #[error("`larder up` answered what this version doesn't know: {0}")]
    Foreign(#[from] serde_json::Error),
    /// It did not answer.
    #[error("`larder up` did not answer within {} s", ANSWER_DEADLINE.as_secs())]
    Deadline,
}

/// Asks the `larder up` of `dir`.
pub async fn ask(socket: &Path, dir: &Path, request: &Request) -> Result<Answer, AskError> {
    let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => AskError::NotAllowed { dir: dir.to_owned() },
        _ => AskError::NotUp { dir: dir.to_owned() },
    })?;
    let (reader, mut writer) = stream.into_split();
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    let mut answer = String::new();
    let mut reader = BufReader::new(reader);
    match tokio::time::timeout(ANSWER_DEADLINE, reader.read_line(&mut answer)).await {
        Ok(read) => read?,
        Err(_) => return Err(AskError::Deadline),
    };
    Ok(serde_json::from_str(&answer)?)
}

/// Takes requests and hands them to `calls`, one at a time per connection, until the listener's task is dropped.
pub async fn listen(listener: UnixListener, calls: mpsc::Sender<Call>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, calls).await {
                        tracing::debug!(%error, "a command broke off");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't take a command");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, calls: mpsc::Sender<Call>) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(REQUEST_BYTES_MAX)).read_line(&mut line).await?;
    // Dropped with the connection.
    let (_written, written) = oneshot::channel();
    let answer = match serde_json::from_str(&line) {
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            // Both fail only when `larder up` is stopping.
            let _ = calls.send(Call { request, answer, written }).await;
            answered.await.unwrap_or_else(|_| Answer::Refused(vec!["larder up is stopping".into()]))
        }
        Err(error) => Answer::Refused(vec![format!("not a request: {error}")]),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
