// SPDX-License-Identifier: MIT OR Apache-2.0
//! The handshake.

use rustls::pki_types::UnixTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::settings::Tls;
use crate::l7::refusal::Refusal;
use crate::l7::worker::Worker;

/// A connection after its handshake.
pub struct Accepted {
    /// The stream.
    pub stream: TlsStream<TcpStream>,
    /// What was agreed on.
    pub handshake: Handshake,
}

/// What was agreed on in a handshake.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handshake {
    /// HTTP/2 by ALPN.
    pub is_h2: bool,
    /// The client has a certificate of one of CA_FILE's authorities.
    pub is_verified: bool,
}

impl Tls {
    /// Makes the handshake, within the time that a request head may take.
    pub async fn accept(&self, worker: &Worker, stream: TcpStream) -> Result<Accepted, Refusal> {
        let limit = worker.shared.settings.timeouts.http_request;
        let handshake = TlsAcceptor::from(self.config.clone()).accept(stream);
        let stream = match tokio::time::timeout(limit, handshake).await {
            Err(_) => return Err(Refusal::TlsTimeout),
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake");
                return Err(Refusal::TlsFailed);
            }
            Ok(Ok(stream)) => stream,
        };
        let session = stream.get_ref().1;
        worker.counters.tls_handshakes.up();
        let is_resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        if is_resumed {
            worker.counters.tls_resumed.up();
        }
        let chain = session.peer_certificates().unwrap_or_default();
        let is_verified = match is_resumed {
            // rustls has just looked at it, or the connection would not be here.
            false => !chain.is_empty(),
            true => self.is_good_client(chain, UnixTime::now()),
        };
        let handshake = Handshake {
            is_h2: session.alpn_protocol() == Some(b"h2"),
            is_verified,
        };
        Ok(Accepted { stream, handshake })
    }
}
