// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small HTTP client for what is not on the request path: other replicas and the swarm listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::limits;
use super::settings::Token;

/// A call: everything but where it goes to.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// GET, …
    pub method: &'a Method,
    /// Path and query.
    pub target: &'a str,
    /// Sent whole.
    pub body: &'a Bytes,
    /// Says who we are.
    pub token: Option<&'a Token>,
    /// Over TLS, and with whom.
    pub tls: Option<&'a Arc<ClientConfig>>,
    /// How long connecting, sending and receiving may take together.
    pub timeout: Duration,
}

/// Calls, and returns the status and the whole body. The error has no secret in it.
pub async fn call(address: SocketAddr, call: Call<'_>) -> Result<(StatusCode, Bytes), String> {
    match tokio::time::timeout(call.timeout, exchange(address, call)).await {
        Ok(outcome) => outcome,
        Err(_) => Err("no answer in time".into()),
    }
}

async fn exchange(address: SocketAddr, call: Call<'_>) -> Result<(StatusCode, Bytes), String> {
    let stream = (TcpStream::connect(address).await).map_err(|error| error.to_string())?;
    let Some(config) = call.tls else {
        return ask(stream, address, call).await;
    };
    let name = ServerName::from(address.ip());
    let stream = TlsConnector::from(config.clone()).connect(name, stream).await;
    ask(stream.map_err(|error| format!("TLS: {error}"))?, address, call).await
}

async fn ask<T>(stream: T, address: SocketAddr, call: Call<'_>) -> Result<(StatusCode, Bytes), String>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let driver = Driver(tokio::spawn(driver));
    let mut request = Request::builder()
        .method(call.method)
        .uri(call.target)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close");
    if let Some(token) = call.token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.reveal()));
    }
    let request = (request.body(Full::new(call.body.clone()))).map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(text)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), limits::PEER_ANSWER_BYTES_MAX)
        .collect()
        .await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    drop(driver);
    Ok((status, body))
}

/// Ends a connection when nobody waits for it any more.
struct Driver<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
