//! Logs: one JSON object per line on stderr.
//!
//! Our own crates log at the configured level, foreign ones from WARN. Spans carry the request id, which is the same
//! on every agent that a request touches. Secrets and the contents of objects are never logged.

use tracing_subscriber::filter::EnvFilter;

use crate::config::LogLevel;

/// Starts logging for the whole process; the first call wins.
pub fn start(level: LogLevel) {
    let level = level.as_str();
    let filter = EnvFilter::new(format!("warn,larder_agent={level},larder_proto={level}"));
    let lines = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(true)
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if lines.try_init().is_err() {
        tracing::debug!("logging was started before");
    }
}
