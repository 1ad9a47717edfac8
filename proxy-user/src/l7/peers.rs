// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other replicas of the proxy: where they are, and how to call their APIs.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::limits;
use super::resolver::Resolver;
use super::settings::{Settings, Token};

/// All replicas, this one included. *Limits*: each call takes at most [`limits::DISTRIBUTE_TIMEOUT`].
pub struct Peers {
    resolver: Resolver,
    /// Names to resolve, each with a port if it has one of its own.
    names: Vec<(String, Option<u16>)>,
    /// The port of the others' APIs, which is the port of ours.
    port: u16,
    token: Option<Token>,
}

impl Peers {
    /// The replicas that PORTICO_SIBLINGS names, or else those of our Swarm service.
    pub fn new(settings: &Settings, port: u16) -> Self {
        let names = match settings.siblings.as_slice() {
            [] => vec![(format!("tasks.{}", settings.service_name), None)],
            named => named.to_vec(),
        };
        Peers {
            resolver: Resolver::new(&settings.nameservers),
            names,
            port,
            token: settings.admin.tokens.first().cloned(),
        }
    }

    /// What is resolved, for messages.
    pub fn describe(&self) -> String {
        let names: Vec<&str> = self.names.iter().map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    }

    /// Where they are now; empty when no name has an address.
    pub async fn addresses(&self) -> Vec<SocketAddr> {
        let mut found = Vec::new();
        for (name, port) in &self.names {
            let port = port.unwrap_or(self.port);
            let addresses = self.resolver.lookup(name).await;
            found.extend(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)));
        }
        found
    }

    /// One call; the answer's status and body. The error has no secret in it.
    pub async fn call(
        &self,
        address: SocketAddr,
        method: &Method,
        target: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        let whole = self.exchange(address, method, target, body);
        match tokio::time::timeout(limits::DISTRIBUTE_TIMEOUT, whole).await {
            Ok(outcome) => outcome,
            Err(_) => Err("no answer in time".into()),
        }
    }

    async fn exchange(
        &self,
        address: SocketAddr,
        method: &Method,
        target: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| error.to_string())?;
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let driver = Driver(tokio::spawn(driver));
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, address.to_string())
            .header(header::CONNECTION, "close");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.reveal()));
        }
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        let response = (sender.send_request(request).await).map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), limits::PEER_ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        drop(driver);
        Ok((status, body.to_bytes()))
    }
}

/// Ends a connection when nobody waits for it any more.
struct Driver<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
