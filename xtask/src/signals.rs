// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ctrl-C: what runs is told to stop, and what was made is still removed.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn remember(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From here on SIGINT, SIGTERM and SIGHUP do not end this process; [`check`] reports them.
pub fn install() {
    let handler: extern "C" fn(libc::c_int) = remember;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// An error once the user wants an end.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Runs `clean` to its end although the user wants one; a Ctrl-C from before is remembered for afterwards.
pub fn uninterrupted<T>(clean: impl FnOnce() -> T) -> T {
    let before = INTERRUPTED.swap(false, Ordering::Relaxed);
    let result = clean();
    if before {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    result
}
