//! Where the programs are: beside the folder of the running test's executable, `target/<profile>`.

use std::path::PathBuf;

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
