// SPDX-License-Identifier: MIT OR Apache-2.0
//! Logs of the verbs that stay: to stderr, filtered by `PORTICO_LOG` (default `info`), as JSON lines with
//! `PORTICO_LOG_FORMAT=json`.

use tracing_subscriber::EnvFilter;

/// Starts logging; a second call does nothing.
pub fn init() {
    let filter = EnvFilter::try_from_env("PORTICO_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let json = std::env::var("PORTICO_LOG_FORMAT").is_ok_and(|format| format == "json");
    // Fails only when somebody else has started logging, and then there is a log.
    let _ = if json {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
}
