//! Commands that end: run with a deadline, their words kept.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub out: String,
    /// What it wrote to stderr.
    pub err: String,
}

impl Ran {
    /// Its stdout.
    ///
    /// # Panics
    /// If it failed.
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{}: {}{}", self.status, self.out, self.err);
        self.out
    }
}

/// Runs `command`.
///
/// # Panics
/// If it can't be started, or hasn't ended by the deadline; then it is killed.
pub fn run(command: &mut Command, deadline: Duration) -> Ran {
    // Files, not pipes: a command that says more than a pipe holds must not wait for us.
    let (out, err) = (tempfile::tempfile(), tempfile::tempfile());
    let (mut out, mut err) = (out.expect("a temporary file"), err.expect("a temporary file"));
    let copy = |file: &File| file.try_clone().expect("a descriptor can be copied");
    command.stdin(Stdio::null()).stdout(copy(&out)).stderr(copy(&err));
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let until = Instant::now() + deadline;
    let status = loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            break status;
        }
        if Instant::now() >= until {
            // It may have ended just now.
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} had not ended after {deadline:?}: {}{}", text(&mut out), text(&mut err));
        }
        thread::sleep(Duration::from_millis(5));
    };
    Ran { status, out: text(&mut out), err: text(&mut err) }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("a file of our own");
    String::from_utf8_lossy(&bytes).into_owned()
}
