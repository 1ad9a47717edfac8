// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection to one address, as the target wants it.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::io::Stream;
use super::target::{Protocol, Target};
use crate::l7::limits;
use crate::l7::proxy_protocol::{self, Peers};

/// A new connection.
pub struct Connected {
    /// Bytes.
    pub stream: Stream,
    /// HTTP/2 has been agreed on, or is known.
    pub is_h2: bool,
}

/// Connects. With proxyProtocol the task is told on whose behalf; without a client, on ours.
pub async fn connect(address: SocketAddr, target: &Target, peers: Option<&Peers>) -> io::Result<Connected> {
    let mut stream = TcpStream::connect(address).await?;
    match (target.proxy_protocol, peers) {
        (None, _) => {}
        (Some(version), Some(peers)) => stream.write_all(&proxy_protocol::write(version, peers)).await?,
        (Some(version), None) => stream.write_all(proxy_protocol::local(version)).await?,
    }
    stream.set_nodelay(true)?;
    secure(stream, target).await
}

/// Runs an attempt, and another one beside it whenever none has ended for `patience`; the first that ends counts,
/// however it ends. `again` hears of every further one.
pub async fn staggered<T>(
    patience: Duration,
    attempt: impl AsyncFn() -> io::Result<T>,
    mut again: impl FnMut(),
) -> io::Result<T> {
    let mut first = pin!(attempt());
    if let Ok(ended) = timeout(patience, &mut first).await {
        return ended;
    }
    let beside = FuturesUnordered::new();
    let mut beside = pin!(beside);
    loop {
        if beside.len() + 1 < limits::CONNECTS_BESIDE_MAX {
            again();
            beside.push(attempt());
        }
        tokio::select! {
            ended = &mut first => return ended,
            Some(ended) = beside.next() => return ended,
            () = sleep(patience) => {}
        }
    }
}

/// Wraps a connection in what the target wants.
pub async fn secure(stream: TcpStream, target: &Target) -> io::Result<Connected> {
    if let Some(tls) = &target.tls {
        let (stream, is_h2) = tls.connect(stream).await?;
        let stream = Stream::Tls(Box::new(stream));
        return Ok(Connected { stream, is_h2 });
    }
    Ok(Connected {
        stream: Stream::Plain(stream),
        is_h2: target.protocol == Protocol::H2c,
    })
}

/// Our own lack of files or ports: another attempt would only add to it, and the task is not to blame.
pub fn is_local(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::EADDRNOTAVAIL)
    )
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(5);

    #[tokio::test]
    async fn an_attempt_that_is_not_answered_gets_company_and_the_first_answer_counts() {
        let (begun, counted) = (Cell::new(0), Cell::new(0));
        let start = Instant::now();
        let attempt = async || {
            let mine = begun.replace(begun.get() + 1);
            match mine {
                // Replicas on a dead node.
                0 | 1 => std::future::pending().await,
                _ => Ok(mine),
            }
        };
        let won = staggered(PATIENCE, attempt, || counted.set(counted.get() + 1)).await;
        assert_eq!((won.unwrap(), begun.get(), counted.get()), (2, 3, 2));
        assert!(start.elapsed() >= 2 * PATIENCE);
    }

    #[tokio::test]
    async fn attempts_have_a_limit_and_a_refusal_counts_at_once() {
        let begun = Cell::new(0);
        let silent = async || {
            begun.set(begun.get() + 1);
            std::future::pending::<io::Result<()>>().await
        };
        let long = 50 * PATIENCE;
        assert!(timeout(long, staggered(PATIENCE, silent, || {})).await.is_err());
        // A busy machine may have had no time for all of them.
        assert!((2..=limits::CONNECTS_BESIDE_MAX).contains(&begun.get()));
        let refused = async || Err::<(), _>(io::ErrorKind::ConnectionRefused.into());
        let ended = staggered(PATIENCE, refused, || panic!("one is enough")).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
