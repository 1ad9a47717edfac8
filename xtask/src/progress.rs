// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the user sees while something is going on: one line per step, with the time since the start.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::signals;

static START: OnceLock<Instant> = OnceLock::new();

/// Prints a step.
pub fn step(what: impl std::fmt::Display) {
    let elapsed = START.get_or_init(Instant::now).elapsed();
    eprintln!("[{:6.1}s] {what}", elapsed.as_secs_f64());
}

/// What a waiting loop found.
pub enum Poll<T> {
    /// It is as it should be.
    Ready(T),
    /// Not yet; what was found instead.
    Pending(String),
}

/// How often a state is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Looks at a state until it is as it should be. After the deadline the error says what was found last.
pub fn wait<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<Poll<T>>) -> Result<T> {
    let start = Instant::now();
    let mut announced = start;
    loop {
        signals::check()?;
        let found = match look()? {
            Poll::Ready(value) => return Ok(value),
            Poll::Pending(found) => found,
        };
        if start.elapsed() >= deadline {
            bail!("{what}: not after {} s; found: {found}", deadline.as_secs());
        }
        if announced.elapsed() >= Duration::from_secs(5) {
            announced = Instant::now();
            step(format!("  … {what}: {found}"));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_never_comes_is_shown_in_the_error() {
        let never = wait::<()>("tasks", Duration::ZERO, || Ok(Poll::Pending("1 of 3".to_owned())));
        let error = never.unwrap_err().to_string();
        assert!(error.contains("tasks") && error.contains("1 of 3"), "{error}");
    }
}
