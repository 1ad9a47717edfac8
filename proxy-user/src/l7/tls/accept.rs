// SPDX-License-Identifier: MIT OR Apache-2.0
//! The handshake.

use std::cell::Cell;

use rustls::pki_types::UnixTime;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::settings::Tls;
use crate::l7::limits;
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
                let cause = error.get_ref().and_then(|inner| inner.downcast_ref());
                match cause.and_then(why_refused) {
                    Some(reason) if is_time_to_tell() => tracing::warn!(reason, "client certificate refused"),
                    _ => tracing::debug!(%error, "TLS handshake"),
                }
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

/// Why a client's certificate is not taken; nothing if that is not what it is about.
pub(super) fn why_refused(error: &rustls::Error) -> Option<String> {
    let rustls::Error::InvalidCertificate(error) = error else {
        return None;
    };
    let text = format!("{error:?}");
    Some(match text.contains("UnsupportedCertVersion") {
        true => "it is of X.509 version 1; issue it with extensions, which makes it version 3".into(),
        false => text,
    })
}

/// Anybody can send certificates, and none may fill the log with them.
fn is_time_to_tell() -> bool {
    thread_local! {
        static TOLD: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    let is_time = TOLD
        .get()
        .is_none_or(|told| now - told >= limits::CERT_REFUSED_LOG_INTERVAL);
    if is_time {
        TOLD.set(Some(now));
    }
    is_time
}
