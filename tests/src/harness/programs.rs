//! Where the programs are: beside the folder of the running test's executable, `target/<profile>`.

use std::path::{Path, PathBuf};

/// `larder`.
pub fn larder_program() -> PathBuf {
    program("larder")
}

/// `larder-agent`.
pub fn agent_program() -> PathBuf {
    program("larder-agent")
}

/// `target/<profile>`.
pub(super) fn profile_dir() -> PathBuf {
    let test = std::env::current_exe().expect("Linux tells a process its program");
    let dir = test.parent().filter(|dir| dir.ends_with("deps")).and_then(Path::parent);
    dir.unwrap_or_else(|| panic!("{} is not in target/<profile>/deps", test.display())).to_owned()
}

fn program(name: &str) -> PathBuf {
    let program = profile_dir().join(name);
    let missing = || panic!("{} is missing: run `cargo build --workspace --bins` first", program.display());
    if program.is_file() { program } else { missing() }
}
