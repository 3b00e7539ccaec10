//! Where the programs are: beside the folder of the running test's executable, `target/<profile>`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// `larder`.
pub fn larder_program() -> PathBuf {
    program("larder")
}

/// `larder-agent`.
pub fn agent_program() -> PathBuf {
    program("larder-agent")
}

/// `target/<profile>`: a program lies in it, a test's executable in its `deps`.
pub(super) fn profile_dir() -> PathBuf {
    let program = std::env::current_exe().expect("Linux tells a process its program");
    let dir = program.parent().expect("a program lies in a folder");
    dir.parent().filter(|_| dir.ends_with("deps")).unwrap_or(dir).to_owned()
}

/// One of our programs by name.
///
/// # Panics
/// When it isn't built.
pub fn program(name: &str) -> PathBuf {
    let program = profile_dir().join(name);
    let missing = || panic!("{} is missing: run `cargo build --workspace --bins` first", program.display());
    if program.is_file() { program } else { missing() }
}

/// A copy of a program in `folder` that every user may run: the build's folder may be ours alone.
///
/// Another process writes it: were it this one, a child that another thread forks meanwhile would hold the file open for
/// writing until its own exec, and the kernel would refuse to run it (`ETXTBSY`).
///
/// # Panics
/// When it isn't built, or can't be copied.
pub fn shared_program(folder: &Path, name: &str) -> PathBuf {
    let copy = folder.join(name);
    if !copy.exists() {
        let copied = Command::new("install").args(["-m", "755"]).arg(program(name)).arg(&copy).status();
        assert!(copied.expect("coreutils are here").success(), "{} was not made", copy.display());
    }
    copy
}
