// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time for the request path, where it is asked for often and matters little.
//!
//! A request notes half a dozen times when something happened, and sets a timer that almost never rings. [`recent`] is
//! the kernel's last tick, which costs no look at a clock (and no system call on machines whose clock needs one). An
//! [`Alarm`] stays where it is when its deadline moves away, and looks again when it rings.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// The time of the kernel's last tick: up to 10 ms ago, and never ahead.
pub fn recent() -> Instant {
    thread_local! {
        static BASE: (Instant, Duration) = (Instant::now(), read(libc::CLOCK_MONOTONIC));
    }
    BASE.with(|(instant, same)| {
        let tick = read(libc::CLOCK_MONOTONIC_COARSE);
        match tick.checked_sub(*same) {
            Some(since) => *instant + since,
            None => *instant,
        }
    })
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call only writes the struct that it is given.
    unsafe { libc::clock_gettime(clock, &mut time) };
    // Both clocks exist since Linux 2.6.32 and have run since the machine started.
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Rings when a deadline has passed that moves away most of the time.
#[derive(Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready when `deadline` has passed; until then it wakes whoever asked last, perhaps too early.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = (self.0).get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_is_a_little_behind_and_never_ahead() {
        for _ in 0..1000 {
            let (recent, now) = (recent(), Instant::now());
            assert!(recent <= now && now - recent < Duration::from_millis(500));
        }
    }

    #[tokio::test]
    async fn an_alarm_rings_at_the_last_deadline_and_not_before() {
        let (mut alarm, began) = (Alarm::default(), Instant::now());
        let after = |ms| began + Duration::from_millis(ms);
        let mut ring = async |ms| std::future::poll_fn(|cx| alarm.poll(cx, after(ms))).await;
        ring(10).await;
        assert!(Instant::now() >= after(10));
        // Further away, then nearer.
        assert!(
            tokio::time::timeout(Duration::from_millis(5), ring(60_000))
                .await
                .is_err()
        );
        ring(40).await;
        assert!(Instant::now() >= after(40) && Instant::now() < after(30_000));
        assert!(
            tokio::time::timeout(Duration::from_millis(20), ring(90_000))
                .await
                .is_err()
        );
    }
}
