//! Tasks that end with the agent, and pools for calls that block.
//!
//! A pool has its own threads and a bounded queue, so a disk that hangs fills its own pool and nothing else. In a
//! simulation a pool runs its jobs at once, on the caller.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns tasks that end at shutdown, and runs blocking calls off the async threads. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
    pools: Pools,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pools {
    Threads,
    Inline,
}

impl Tasks {
    /// Tasks on the current tokio runtime; pools have threads.
    pub fn new() -> Self {
        Self { stop: CancellationToken::new(), tracker: TaskTracker::new(), pools: Pools::Threads }
    }

    /// Tasks of a simulation: pools run their jobs on the caller.
    pub fn inline() -> Self {
        Self { pools: Pools::Inline, ..Self::new() }
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

    /// A pool of `threads` for blocking calls, with at most `queue_max` calls waiting. Its threads end when the last
    /// handle is dropped.
    pub fn pool(&self, name: &str, threads: usize, queue_max: usize) -> Pool {
        match self.pools {
            Pools::Inline => Pool { kind: Kind::Inline },
            Pools::Threads => Pool { kind: Kind::Threads(Arc::new(Workers::start(name, threads, queue_max))) },
        }
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

/// Why a blocking call gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The queue is full: what the pool serves is too slow. The call was not made.
    #[error("{queue_max} calls are waiting already")]
    Full {
        /// The bound of the queue.
        queue_max: usize,
    },
    /// The call panicked; the pool goes on.
    #[error("the call panicked")]
    Panicked,
}

/// Threads for calls that block. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Inline,
    Threads(Arc<Workers>),
}

impl Pool {
    /// Runs `call` on a thread of the pool. Once accepted it runs to its end even if the caller stops waiting: a
    /// deadline is the caller's, and what `call` owns lives as long as it runs.
    pub async fn run<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> Result<T, PoolError> {
        match &self.kind {
            Kind::Inline => Ok(call()),
            Kind::Threads(workers) => {
                let (reply, answer) = oneshot::channel();
                workers.push(Box::new(move || {
                    let _nobody_waits = reply.send(call());
                }))?;
                answer.await.map_err(|_| PoolError::Panicked)
            }
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The pool's handle side: when it is dropped the threads finish what is queued and end.
struct Workers {
    queue: Arc<Queue>,
    queue_max: usize,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    wake: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    closed: bool,
}

impl Workers {
    fn start(name: &str, threads: usize, queue_max: usize) -> Self {
        let queue = Arc::new(Queue::default());
        for number in 0..threads.max(1) {
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || queue.work())
                .expect("threads are started while the agent starts; without them it can't run");
        }
        Self { queue, queue_max }
    }

    fn push(&self, job: Job) -> Result<(), PoolError> {
        let mut jobs = self.queue.jobs.lock();
        if jobs.waiting.len() >= self.queue_max {
            return Err(PoolError::Full { queue_max: self.queue_max });
        }
        jobs.waiting.push_back(job);
        drop(jobs);
        self.queue.wake.notify_one();
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue.jobs.lock().closed = true;
        self.queue.wake.notify_all();
    }
}

impl Queue {
    fn work(&self) {
        while let Some(job) = self.next() {
            // The waiter learns of a panic because its reply channel is dropped.
            let _panicked = catch_unwind(AssertUnwindSafe(job));
        }
    }

    fn next(&self) -> Option<Job> {
        let mut jobs = self.jobs.lock();
        loop {
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            if jobs.closed {
                return None;
            }
            self.wake.wait(&mut jobs);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_full_pool_says_so_and_a_panic_leaves_it_working() {
        let pool = Tasks::new().pool("test", 1, 1);
        let (started, running) = mpsc::channel();
        let (release, gate) = mpsc::channel::<()>();
        let hold = {
            let pool = pool.clone();
            tokio::spawn(async move {
                pool.run(move || {
                    started.send(()).expect("the test listens");
                    gate.recv().expect("the test releases");
                })
                .await
            })
        };
        tokio::task::spawn_blocking(move || running.recv().expect("the job runs")).await.expect("joins");
        let queued = pool.run(|| 1);
        let mut queued = std::pin::pin!(queued);
        assert!(futures::poll!(queued.as_mut()).is_pending());
        assert_eq!(pool.run(|| 2).await, Err(PoolError::Full { queue_max: 1 }));
        release.send(()).expect("the job waits");
        assert_eq!(hold.await.expect("joins"), Ok(()));
        assert_eq!(queued.await, Ok(1));
        assert_eq!(pool.run(|| panic!("on purpose")).await, Err::<(), _>(PoolError::Panicked));
        assert_eq!(pool.run(|| 3).await, Ok(3));
    }
}
