//! Readers that go on while a scenario does something to their cluster, and see no error.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::patience::{MINUTE, SOON, wait_until, within};
use super::reading::read_uncached;
use crate::stub::pattern;

/// When a read began, and when it had its bytes.
pub type Span = (Instant, Instant);

/// Readers that read all their keys again and again until they are told to stop; any error or wrong byte panics.
#[derive(Debug)]
pub struct Readers {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    /// When each read began, and when it had its bytes.
    times: Arc<Mutex<Vec<Span>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Begins to read, a thread for each mount.
    pub fn start(mounts: Vec<PathBuf>, keys: &[String]) -> Readers {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let times = Arc::new(Mutex::new(Vec::new()));
        let reader = |mount: PathBuf| {
            let (stop, done, times, keys) = (stop.clone(), done.clone(), times.clone(), keys.to_vec());
            move || {
                for key in keys.iter().cycle().take_while(|_| !stop.load(Ordering::SeqCst)) {
                    let began = Instant::now();
                    let bytes = read_uncached(&mount.join(key)).unwrap_or_else(|e| panic!("{key}: {e}"));
                    pattern::check_version(key, 1, 0, &bytes).unwrap_or_else(|e| panic!("{e}"));
                    times.lock().push((began, Instant::now()));
                    done.fetch_add(1, Ordering::SeqCst);
                }
            }
        };
        let threads = mounts.into_iter().map(|mount| thread::spawn(reader(mount))).collect();
        Readers { stop, done, times, threads }
    }

    /// Files read so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// Waits for so many more.
    ///
    /// # Panics
    /// When a reader gave up, or they take longer than a minute.
    pub fn wait_for_more(&self, reads: u64) {
        let wanted = self.done() + reads;
        wait_until(MINUTE, &format!("{reads} more reads"), || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a reader gave up");
            self.done() >= wanted
        });
    }

    /// Stops them; when each read began, and when it had its bytes.
    ///
    /// # Panics
    /// With the first error or wrong byte that a reader saw.
    pub fn end(self) -> Vec<Span> {
        self.stop.store(true, Ordering::SeqCst);
        within(SOON, "readers end", move || {
            self.threads.into_iter().for_each(|thread| thread.join().expect("no reader saw an error"))
        });
        std::mem::take(&mut self.times.lock())
    }

    /// Stops them; the time from `moment` to the end of the first read that began after it, and the longest of those.
    ///
    /// # Panics
    /// As [`Readers::end`], or when no read began after the moment.
    pub fn stop(self, moment: Instant) -> (Duration, Duration) {
        let times = self.end();
        let after = || times.iter().filter(|(began, _)| *began >= moment);
        let first = after().map(|(_, ended)| *ended - moment).min().expect("reads went on");
        (first, after().map(|(began, ended)| *ended - *began).max().expect("reads went on"))
    }
}
