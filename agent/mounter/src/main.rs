//! `larder-mounter [--run DIR] [--allowed-prefixes A,B] [--plugin SOCKET] [--kubelet DIR]`: for each cluster's folder
//! below the first DIR, mounts for its agent; for the CSI plugin, binds those mounts into pods.
//!
//! Runs as root on each node; talks to nobody but the agents and that plugin, over their sockets. It never touches its own mounts: what
//! is mounted where is read from /proc/self/mountinfo.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};

mod daemon;

use daemon::Settings;

const USAGE: &str =
    "usage: larder-mounter [--run DIR] [--allowed-prefixes PATH,PATH...] [--plugin SOCKET] [--kubelet DIR]";

fn main() -> ExitCode {
    let settings = match settings(std::env::args().skip(1)) {
        Ok(settings) => settings,
        Err(message) => {
            eprintln!("larder-mounter: {message}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = end_on_signals() {
        eprintln!("larder-mounter: signals: {error}");
        return ExitCode::FAILURE;
    }
    match daemon::run(settings) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("larder-mounter: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Process 1 of a container ends on no signal that it doesn't ask for. There is nothing to put in order: mounts are their
/// agents', and the next mounter finds them.
fn end_on_signals() -> io::Result<()> {
    let asked: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    // Before there are other threads: they inherit it.
    asked.thread_block()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        // It fails only for a set that isn't one.
        let _ = asked.wait();
        std::process::exit(0);
    })?;
    Ok(())
}

fn settings(mut arguments: impl Iterator<Item = String>) -> Result<Settings, String> {
    let mut settings = Settings {
        run: PathBuf::from("/run/larder"),
        allowed_prefixes: vec![PathBuf::from("/mnt"), PathBuf::from("/var/lib/larder")],
        plugin: None,
        kubelet: PathBuf::from("/var/lib/kubelet"),
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value; {USAGE}"));
        match argument.as_str() {
            "--run" => settings.run = value()?.into(),
            "--allowed-prefixes" => settings.allowed_prefixes = value()?.split(',').map(PathBuf::from).collect(),
            "--plugin" => settings.plugin = Some(value()?.into()),
            "--kubelet" => settings.kubelet = value()?.into(),
            _ => return Err(format!("{argument} is unknown; {USAGE}")),
        }
    }
    let others = [&settings.run, &settings.kubelet].into_iter().chain(&settings.plugin);
    let relative = settings.allowed_prefixes.iter().chain(others).find(|path| !path.is_absolute());
    match relative.cloned() {
        Some(path) => Err(format!("{} must be absolute", path.display())),
        None => Ok(settings),
    }
}
