//! Waiting: for a condition until a deadline, or for work on a thread of its own that may hang.

use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// For what takes milliseconds on an idle machine: CI machines are not idle.
pub const SOON: Duration = Duration::from_secs(20);

/// For what takes seconds on an idle machine.
pub const MINUTE: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `condition` gives something.
///
/// # Panics
/// With `what`, when it hasn't by the deadline.
pub fn wait_for<T>(deadline: Duration, what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_looking_every(LOOK_EVERY, deadline, what, condition)
}

/// The same where a look costs more than a moment.
///
/// # Panics
/// As [`wait_for`].
pub fn wait_looking_every<T>(
    pause: Duration,
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let until = Instant::now() + deadline;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < until, "waited {deadline:?} in vain: {what}");
        thread::sleep(pause);
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// With `what`, when it doesn't by the deadline.
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(deadline, what, || condition().then_some(()));
}

/// Runs `work` on a thread of its own, so that a mount that hangs fails the test and not the machine that runs it.
///
/// # Panics
/// With `what`, when it isn't done by the deadline (the thread stays behind); with the work's own panic.
pub fn within<T: Send + 'static>(deadline: Duration, what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = channel();
    let worker = thread::Builder::new().name(format!("within {what}")).spawn(move || {
        let value = work();
        // The waiting side may have given up.
        let _ = done.send(value);
    });
    let worker = worker.expect("a test may start threads");
    match result.recv_timeout(deadline) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("not done within {deadline:?}: {what}"),
        Err(RecvTimeoutError::Disconnected) => match worker.join() {
            Err(panic) => resume_unwind(panic),
            Ok(()) => unreachable!("a worker that ends has sent its value"),
        },
    }
}
