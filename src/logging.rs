//! Where the log goes: stderr or a file, never stdout.

use std::path::Path;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::exit::{Failure, Outcome};

/// Starts logging for the whole process. Called once, by long-running commands.
pub(crate) fn start(level: &str, file: Option<&Path>) -> Outcome {
    let filter = EnvFilter::try_new(level)
        .map_err(|error| Failure::usage(format!("log level \"{level}\": {error}")))?;
    let builder = fmt().with_env_filter(filter).with_target(true);
    match file {
        None => builder.with_writer(std::io::stderr).init(),
        Some(path) => {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(
                |error| Failure::usage(format!("open log file {}: {error}", path.display())),
            )?;
            builder.with_ansi(false).with_writer(std::sync::Mutex::new(file)).init();
        }
    }
    Ok(())
}
