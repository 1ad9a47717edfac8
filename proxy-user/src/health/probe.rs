// SPDX-License-Identifier: MIT OR Apache-2.0
//! One question to one member. The caller bounds its time.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request,
    client::conn::{http1, http2},
    header,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpSocket, TcpStream};

use crate::{
    kernel::netns,
    model::health::{Probe, Target},
};

/// Bytes of a gRPC answer: the message has one number.
const ANSWER_BYTES_MAX: usize = 1_024;
/// `HealthCheckResponse.ServingStatus.SERVING` (grpc.health.v1).
const SERVING: u8 = 1;

/// Asks once; the reason if the answer is not good.
pub async fn probe(target: &Target) -> Result<(), String> {
    let stream = connect(target).await?;
    match &target.check.probe {
        Probe::Tcp => Ok(()),
        Probe::Http { path, host, expect } => http(stream, target, path, host, expect).await,
        Probe::Grpc { service } => grpc(stream, target, service).await,
    }
}

/// A socket belongs to the namespace that it was made in, whoever uses it later.
async fn connect(target: &Target) -> Result<TcpStream, String> {
    let netns = target.netns.clone();
    let made = tokio::task::spawn_blocking(move || netns::tcp_socket(netns.as_deref())).await;
    let socket = made
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let socket = TcpSocket::from_std_stream(socket);
    // Closed with RST: a check every second would leave a connection in TIME_WAIT each.
    socket.set_zero_linger().map_err(|error| error.to_string())?;
    let address = SocketAddr::from((target.address, target.port));
    let connected = socket.connect(address).await;
    connected.map_err(|error| format!("connect to {address}: {error}"))
}

async fn http(
    stream: TcpStream,
    target: &Target,
    path: &str,
    host: &str,
    expect: &[(u16, u16)],
) -> Result<(), String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let own_name = SocketAddr::new(target.address, target.port).to_string();
    let request = Request::get(path)
        .header(header::HOST, if host.is_empty() { &own_name } else { host })
        .header(header::USER_AGENT, "portico-health")
        .body(Full::<Bytes>::default())
        .map_err(|error| error.to_string())?;
    // Both on this task: dropped together.
    let status = tokio::select! {
        answer = sender.send_request(request) => answer.map_err(|error| error.to_string())?.status(),
        ended = connection => return Err(ended.err().map_or("connection closed".into(), |e| e.to_string())),
    };
    let good = |(first, last): &(u16, u16)| (*first..=*last).contains(&status.as_u16());
    if expect.iter().any(good) {
        Ok(())
    } else {
        Err(format!("status {}", status.as_u16()))
    }
}

async fn grpc(stream: TcpStream, target: &Target, service: &str) -> Result<(), String> {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let request = Request::post(format!(
        "http://{}/grpc.health.v1.Health/Check",
        SocketAddr::new(target.address, target.port)
    ))
    .header(header::CONTENT_TYPE, "application/grpc")
    .header(header::TE, "trailers")
    .header(header::USER_AGENT, "portico-health")
    .body(Full::new(grpc_request(service)))
    .map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = answer.status();
        if status != 200 {
            return Err(format!("status {}", status.as_u16()));
        }
        let in_head = answer.headers().get("grpc-status").cloned();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?;
        let in_trailers = body
            .trailers()
            .and_then(|trailers| trailers.get("grpc-status"))
            .cloned();
        let grpc_status = in_trailers.or(in_head);
        match grpc_status.as_ref().map(|value| value.as_bytes()) {
            Some(b"0") => serving(&body.to_bytes()),
            // 5 = NOT_FOUND: the server does not know the service that was asked for.
            Some(other) => Err(format!("grpc-status {}", String::from_utf8_lossy(other))),
            None => Err("no grpc-status".into()),
        }
    };
    tokio::select! {
        outcome = exchange => outcome,
        ended = connection => Err(ended.err().map_or("connection closed".into(), |e| e.to_string())),
    }
}

/// A length-prefixed `HealthCheckRequest` (gRPC over HTTP/2, "Length-Prefixed-Message"): field 1 is the service.
fn grpc_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

/// Whether a length-prefixed `HealthCheckResponse` says SERVING: field 1 is the status, and 0 (unknown) when absent.
fn serving(framed: &[u8]) -> Result<(), String> {
    let Some((&[compressed, a, b, c, d], message)) = framed.split_first_chunk::<5>() else {
        return Err("the answer has no message".into());
    };
    if compressed != 0 || message.len() != u32::from_be_bytes([a, b, c, d]) as usize {
        return Err("the answer is not one plain message".into());
    }
    match message {
        [0x08, SERVING, ..] => Ok(()),
        [0x08, status, ..] => Err(format!("serving status {status}")),
        _ => Err("serving status 0".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_messages_are_those_of_the_protocol() {
        assert_eq!(&grpc_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&grpc_request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = grpc_request(&"x".repeat(200));
        assert_eq!(&long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 2]), Err("serving status 2".into()));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Err("serving status 0".into()));
        for broken in [
            &[][..],
            &[0, 0, 0, 0],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 9, 8, 1],
        ] {
            assert!(serving(broken).is_err(), "{broken:?}");
        }
    }
}
