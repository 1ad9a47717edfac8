// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values of single flags and variables.

use std::time::Duration;

/// A number of seconds, at least one.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.trim().trim_end_matches('s').parse::<u64>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("`{text}` is not a number of seconds")),
    }
}

/// The original takes every text; only a form of true turns something on.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "t" | "yes" | "on" => Ok(true),
        "false" | "0" | "f" | "no" | "off" | "" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}
