// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ctrl-C: what runs is told to stop, and what was made is still removed.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{cmd, progress::step};

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

/// A part of the tests that must end: after its time everything that this process has started is killed, and
/// [`check`] ends what still waits. What was made is removed as after a Ctrl-C.
pub struct Deadline {
    limit: Duration,
    /// Closed when the part has ended.
    ended: Option<mpsc::Sender<()>>,
    watch: Option<thread::JoinHandle<bool>>,
}

/// Cleaning up may start programs as well; they are left alone for this long.
const AGAIN: Duration = Duration::from_secs(120);

impl Deadline {
    /// Starts the clock.
    pub fn start(limit: Duration) -> Deadline {
        let (ended, ending) = mpsc::channel::<()>();
        let watch = thread::spawn(move || {
            let mut patience = limit;
            let mut passed = false;
            while ending.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
                step(format!(
                    "not done after {} s: killing what it started",
                    limit.as_secs()
                ));
                passed = true;
                patience = AGAIN;
                INTERRUPTED.store(true, Ordering::Relaxed);
                cmd::kill_children();
            }
            passed
        });
        Deadline {
            limit,
            ended: Some(ended),
            watch: Some(watch),
        }
    }

    /// Stops the clock; an error if it has run out.
    pub fn end(mut self) -> Result<()> {
        drop(self.ended.take());
        let passed = self
            .watch
            .take()
            .is_some_and(|watch| watch.join().unwrap_or(true));
        if passed {
            INTERRUPTED.store(false, Ordering::Relaxed);
            bail!("not done after {} s", self.limit.as_secs());
        }
        Ok(())
    }
}
