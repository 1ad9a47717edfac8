// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small writes wait until everybody who is ready has had a turn.
//!
//! One look at the sockets finds many that are ready, and each becomes a task's turn. Whoever writes in the middle of
//! its turn wakes the other side for one request; while the next request is read, the other side has answered and
//! sleeps again. When all have read first and then all write, the other side is woken once for all of them, and the
//! kernel's code for sending stays in the processor's cache. With nobody else ready the turn comes again at once.

use std::task::{Context, Poll};

/// Lets one turn pass before a write.
#[derive(Debug, Default)]
pub struct Later {
    waits: bool,
}

impl Later {
    /// Whether somebody was told to come again.
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// Ready every second time that it is asked; in between it wakes the task behind all others that are ready.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.waits = !self.waits;
        if !self.waits {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::rc::Rc;

    #[tokio::test]
    async fn those_who_are_ready_read_before_anybody_writes() {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let local = tokio::task::LocalSet::new();
        for name in ["a", "b"] {
            let seen = seen.clone();
            local.spawn_local(async move {
                seen.borrow_mut().push((name, "reads"));
                let mut later = Later::default();
                poll_fn(|cx| later.poll(cx)).await;
                seen.borrow_mut().push((name, "writes"));
            });
        }
        local.await;
        assert_eq!(
            seen.take(),
            [("a", "reads"), ("b", "reads"), ("a", "writes"), ("b", "writes")]
        );
    }
}
