// SPDX-License-Identifier: MIT OR Apache-2.0
//! An upgraded connection: bytes both ways until one side ends or nothing moves for TIMEOUT_TUNNEL.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::upstream::io::Stream;

/// Copies until the end.
///
/// `read` came from the upstream with the head that agreed to the upgrade.
pub async fn run(client: OnUpgrade, upstream: Stream, read: Bytes, idle: Duration) {
    let client = match client.await {
        Ok(client) => client,
        Err(error) => {
            tracing::debug!(%error, "upgrade");
            return;
        }
    };
    let moved = Rc::new(Cell::new(0u64));
    let mut client = Noted {
        inner: TokioIo::new(client),
        moved: moved.clone(),
    };
    let mut upstream = Noted {
        inner: upstream,
        moved: moved.clone(),
    };
    if !read.is_empty() && client.write_all(&read).await.is_err() {
        return;
    }
    let mut copy = std::pin::pin!(tokio::io::copy_bidirectional(&mut client, &mut upstream));
    loop {
        let before = moved.get();
        match tokio::time::timeout(idle, &mut copy).await {
            Err(_) if moved.get() != before => {}
            _ => return,
        }
    }
}

/// Notes that something was read.
struct Noted<T> {
    inner: T,
    moved: Rc<Cell<u64>>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Noted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        if result.is_ready() {
            self.moved.set(self.moved.get() + 1);
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Noted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
