//! Tasks that end with the agent, and pools for calls that block.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns tasks that end at shutdown, and runs blocking calls off the async threads. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// Tasks on the current tokio runtime.
    pub fn new() -> Self {
        Self { stop: CancellationToken::new(), tracker: TaskTracker::new() }
    }

    /// Runs `task` until it ends or the agent shuts down.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            tokio::select! { biased;
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Cancelled when the agent shuts down.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Cancels every task and waits until all have ended.
    pub async fn shut_down(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}
