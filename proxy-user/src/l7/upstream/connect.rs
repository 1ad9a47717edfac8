// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection to one address, as the target wants it.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::io::Stream;
use super::target::{Protocol, Target};
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
