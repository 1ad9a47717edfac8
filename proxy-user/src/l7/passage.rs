// SPDX-License-Identifier: MIT OR Apache-2.0
//! Large bodies of answers pass from the service's socket to the client's without being copied, through a pipe
//! (splice(2)): the kernel moves references to its pages.
//!
//! hyper writes what a body gives it, and a piece that lies in a pipe has no bytes to give. So the body gives
//! [`stand_in`]: as many bytes of a place that is never read. hyper queues it as it queues any other bytes, and the
//! socket under hyper, which finds it again by its address, lets the pipe out instead. What the pipe holds and what
//! hyper has queued are the same bytes in the same order.
//!
//! Lifecycle of a pipe: a large body [`Passage::open`]s one, fills it when it is empty, and says [`Passage::close`] when
//! it has ended; the last byte that leaves it after that gives it back to the worker. A connection that breaks off
//! drops it with what is in it. Only HTTP/1.1 without TLS: everything else needs to see the bytes.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::limits;

/// Memory that nobody reads or writes, so that no page of it is ever there.
static NOWHERE: LazyLock<&'static [u8]> = LazyLock::new(|| Vec::leak(vec![0; limits::PIPE_BYTES]));

/// As many bytes as the pipe was filled with.
///
/// At most [`limits::PIPE_BYTES`].
pub fn stand_in(length: usize) -> Bytes {
    Bytes::from_static(&NOWHERE[..length])
}

/// Whether these bytes stand for what is in the pipe.
pub fn stands_in(bytes: &[u8]) -> bool {
    NOWHERE.as_ptr_range().contains(&bytes.as_ptr())
}

thread_local! {
    /// Empty pipes of this worker.
    static FREE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
    /// All that it has, free or not.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

impl Pipe {
    /// One that is free, or a new one; none at the limit, or when the process has no file descriptors left.
    fn take() -> Option<Pipe> {
        if let Some(pipe) = FREE.with_borrow_mut(Vec::pop) {
            return Some(pipe);
        }
        if COUNT.get() >= limits::PIPES_MAX {
            return None;
        }
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // A user who has many of them gets small ones, which work as well.
        let _ = fcntl_setpipe_size(&into, limits::PIPE_BYTES);
        COUNT.set(COUNT.get() + 1);
        Some(Pipe { out, into })
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // At the end of a thread nobody counts any more.
        let _ = COUNT.try_with(|count| count.set(count.get() - 1));
    }
}

/// The way of one client connection. Atomic only because hyper wants the socket to be `Send`; one thread uses it.
#[derive(Default)]
pub struct Passage {
    /// Bytes in the pipe.
    held: AtomicUsize,
    /// The body that filled it has ended.
    is_over: AtomicBool,
    pipe: Mutex<Option<Pipe>>,
    emptied: AtomicWaker,
}

impl Passage {
    fn pipe(&self) -> MutexGuard<'_, Option<Pipe>> {
        self.pipe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a body can pass here. Costs a pipe if so, until [`Passage::close`].
    pub fn open(&self) -> bool {
        let mut pipe = self.pipe();
        if pipe.is_none() {
            *pipe = Pipe::take();
        }
        self.is_over.store(false, Relaxed);
        pipe.is_some()
    }

    /// The body has ended: when the pipe is empty, the worker has it back.
    pub fn close(&self) {
        self.is_over.store(true, Relaxed);
        self.give_back();
    }

    fn give_back(&self) {
        if !self.holds()
            && self.is_over.load(Relaxed)
            && let Some(pipe) = self.pipe().take()
        {
            FREE.with_borrow_mut(|free| free.push(pipe));
        }
    }

    /// Whether something is in the pipe.
    pub fn holds(&self) -> bool {
        self.held.load(Relaxed) > 0
    }

    /// Ready when nothing is in the pipe.
    pub fn poll_empty(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.holds() {
            return Poll::Ready(());
        }
        self.emptied.register(cx.waker());
        Poll::Pending
    }

    /// Fills the empty pipe with what has arrived; ready with the number of bytes, 0 at the end of the connection.
    ///
    /// Only into an empty pipe: a full one and a socket without bytes say the same.
    pub fn poll_fill(&self, cx: &mut Context<'_>, from: &TcpStream, max: usize) -> Poll<io::Result<usize>> {
        let pipe = self.pipe();
        let Some(pipe) = pipe.as_ref() else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        loop {
            ready!(from.poll_read_ready(cx))?;
            let max = max.min(limits::PIPE_BYTES);
            let filled = from.try_io(Interest::READABLE, || {
                Ok(splice(from, None, &pipe.into, None, max, SpliceFlags::NONBLOCK)?)
            });
            match filled {
                Ok(length) => {
                    self.held.store(length, Relaxed);
                    return Poll::Ready(Ok(length));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Lets out up to `length` of the bytes that are in the pipe.
    pub fn poll_pour(&self, cx: &mut Context<'_>, to: &TcpStream, length: usize) -> Poll<io::Result<usize>> {
        let poured = {
            let pipe = self.pipe();
            let Some(pipe) = pipe.as_ref() else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            loop {
                ready!(to.poll_write_ready(cx))?;
                let poured = to.try_io(Interest::WRITABLE, || {
                    Ok(splice(&pipe.out, None, to, None, length, SpliceFlags::NONBLOCK)?)
                });
                match poured {
                    Ok(poured) => break poured,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        };
        let left = self.held.load(Relaxed).saturating_sub(poured);
        self.held.store(left, Relaxed);
        if left == 0 {
            self.emptied.wake();
            self.give_back();
        }
        Poll::Ready(Ok(poured))
    }
}
